package chanmq_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
)

// TestWaitingCostsNothing counts the system calls of an hour in which no message
// comes.
func TestWaitingCostsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		opts []chanmq.Option
		max  int // calls in an hour
	}{
		"parking":              {nil, 0},
		"polling every second": {[]chanmq.Option{chanmq.WithPolling(time.Second, time.Second)}, 3600},
		"polling":              {[]chanmq.Option{chanmq.WithMaxParked(0)}, int(time.Hour / pollMax)},
	} {
		for _, receivers := range []int{1, 20} {
			t.Run(fmt.Sprint(name, ", ", receivers), func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t, c.opts...)
					for n := range receivers {
						q.Receiver(t.Context(), chanmq.OfType(int64(n+1)))
					}
					time.Sleep(time.Minute) // until they have settled
					calls := m.during(func() { time.Sleep(time.Hour) })
					atBothEnds := min(c.max, 1)
					if calls > c.max+atBothEnds {
						t.Errorf("%d calls in an hour, at most %d are due", calls, c.max)
					}
					if c.max > 0 && calls < c.max/2 {
						t.Errorf("%d calls in an hour: who looks for messages?", calls)
					}
				})
			})
		}
	}
}

// TestManyReceiversCostNoMoreThanOne: one goroutine polls for all Receivers that do
// not park.
func TestManyReceiversCostNoMoreThanOne(t *testing.T) {
	receivers := 10_000
	if raceEnabled {
		receivers = 5_000 // the race detector has room for 8,128 goroutines
	}
	for name, selector := range map[string]func(n int) chanmq.Selector{
		"of one type":   func(int) chanmq.Selector { return chanmq.OfType(1) },
		"of types each": func(n int) chanmq.Selector { return chanmq.OfType(int64(n + 1)) },
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t)
				all := make(chan int64)
				for n := range receivers {
					r := q.Receiver(t.Context(), selector(n))
					go func() {
						for m := range r.C() {
							all <- m.Type
						}
					}()
				}
				time.Sleep(time.Minute)
				calls := m.during(func() { time.Sleep(time.Minute) })
				const polls = int(time.Minute/pollMax) + 1 // at both ends of the minute
				if calls > polls {
					t.Errorf("%d calls in a minute, at most %d are due", calls, polls)
				}
				t.Logf("%d receivers, %d asleep: %d calls in a minute", receivers, m.Asleep(), calls)

				// And the last one is served, in one poll's time.
				typ := receivers
				if name == "of one type" {
					typ = 1
				}
				start := time.Now()
				m.puts(t, q.ID(), typ, 0)
				if got := <-all; got != int64(typ) {
					t.Errorf("received type %d, want %d", got, typ)
				}
				if took := time.Since(start); took > pollMax {
					t.Errorf("the message came after %v", took)
				}
				if err := q.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}
