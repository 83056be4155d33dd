//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
)

// TestCloseMatrix walks what Close promises: whatever state the Receiver is in,
// and however it is closed, every message is either read or received from the
// handle afterwards, once and in order.
func TestCloseMatrix(t *testing.T) {
	const sent = 12
	read := func(r *chanmq.Receiver[[]byte], n int) (numbers []int) {
		for range n {
			numbers = append(numbers, numberOf((<-r.C()).Value))
		}
		return numbers
	}
	ways := []struct {
		name string
		do   func(q *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], cancel func()) []int // returns what it read
	}{
		{"unread", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			r.Close()
			return nil
		}},
		{"after some", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			got := read(r, 5)
			r.Close()
			return got
		}},
		{"double", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			got := read(r, 3)
			r.Close()
			r.Close()
			return got
		}},
		{"concurrent", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			got := read(r, 3)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() { r.Close() })
			}
			wg.Wait()
			return got
		}},
		{"concurrent with the queue's", func(q *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			got := read(r, 3)
			var wg sync.WaitGroup
			wg.Go(func() { r.Close() })
			wg.Go(func() { q.Close() })
			wg.Wait()
			return got
		}},
		{"after ctx", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], cancel func()) []int {
			got := read(r, 2)
			cancel()
			<-r.Done()
			r.Close()
			return got
		}},
		{"after ctx, not closed, C read to its end", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], cancel func()) (got []int) {
			cancel()
			for m := range r.C() {
				got = append(got, numberOf(m.Value))
			}
			return got
		}},
		{"after Drain", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) (got []int) {
			drained := make(chan error)
			go func() { drained <- r.Drain(context.Background()) }()
			for m := range r.C() {
				got = append(got, numberOf(m.Value))
			}
			<-drained
			r.Close()
			return got
		}},
		{"during Drain", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			r.Drain(ctx) // nobody reads: it may not finish
			r.Close()
			return nil
		}},
		{"from the consumer's goroutine", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) (got []int) {
			for m := range r.C() {
				got = append(got, numberOf(m.Value))
				if len(got) == 4 {
					r.Close()
				}
			}
			return got
		}},
		{"while the consumer reads", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) (got []int) {
			closed := make(chan struct{})
			go func() { r.Close(); close(closed) }()
			for m := range r.C() {
				got = append(got, numberOf(m.Value))
			}
			<-closed
			return got
		}},
	}
	for _, buffer := range []int{0, 1, 4, sent, 2 * sent} {
		for _, way := range ways {
			t.Run(fmt.Sprintf("buffer %d/%s", buffer, way.name), func(t *testing.T) {
				q := newQueue(t)
				sendNumbers(t, q, 1, 0, sent)
				ctx, cancel := context.WithCancel(ctxWithin(t))
				defer cancel()
				r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer))
				untilTaken(t, q, max(0, sent-buffer-1))
				read := way.do(q, r, cancel)
				// While a consumer reads, the closer takes its turns between:
				// what it read is in order, with gaps that the rest fills.
				seen := make([]bool, sent)
				last := -1
				for _, n := range read {
					if n <= last {
						t.Errorf("read %d after %d", n, last)
					}
					seen[n], last = true, n
				}
				handle := q
				if way.name == "concurrent with the queue's" {
					handle = attach(t, q.ID())
				}
				last = -1
				for {
					m, ok, err := handle.TryReceive(chanmq.Any())
					if err != nil {
						t.Fatal(err)
					}
					if !ok {
						break
					}
					n := numberOf(m.Value)
					if seen[n] {
						t.Errorf("%d came twice", n)
					}
					if n <= last && handle == q {
						t.Errorf("received %d after %d", n, last)
					}
					seen[n], last = true, n
				}
				for n, seen := range seen {
					if !seen {
						t.Errorf("%d was lost", n)
					}
				}
			})
		}
	}
}

// TestCloseWhileReading has the consumer and Close take turns at C, and counts.
func TestCloseWhileReading(t *testing.T) {
	type record struct{ N int }
	q := newQueue(t)
	records := chanmq.As(q, codec.JSON[record]())
	const rounds, total = 200, 60
	for round := range rounds {
		for n := range total {
			// The texts differ in what the codec does not see.
			text := fmt.Sprintf(`{"N":%d,"round":%d}`, n, round)
			if err := q.Send(ctxWithin(t), 1, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		r := records.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(total))
		untilTaken(t, q, 0)
		closed := make(chan struct{})
		go func() { r.Close(); close(closed) }()
		count := make([]int, total)
		for m := range r.C() {
			count[m.Value.N]++
		}
		<-closed
		last := -1
		for {
			m, ok, err := records.TryReceive(chanmq.Any())
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if m.Value.N <= last {
				t.Fatalf("%d after %d", m.Value.N, last)
			}
			last = m.Value.N
			count[m.Value.N]++
		}
		for n, times := range count {
			if times != 1 {
				t.Fatalf("round %d: message %d came %d times", round, n, times)
			}
		}
	}
}

// TestHandBackReachesWhoWaitsAlready shows that a message is not stuck in the
// slot while a receive that wants it sleeps in the kernel.
func TestHandBackReachesWhoWaitsAlready(t *testing.T) {
	for _, opts := range [][]chanmq.Option{nil, {chanmq.WithPolling(time.Minute, time.Hour)}} {
		q := newQueue(t, opts...)
		sendNumbers(t, q, 1, 0, 1)
		holder := q.Receiver(ctxWithin(t), chanmq.OfType(1))
		untilTaken(t, q, 0)
		waiter := q.Receiver(ctxWithin(t), chanmq.Any())
		got := make(chan error, 1)
		go func() {
			_, err := q.Receive(ctxWithin(t), chanmq.OfType(2))
			got <- err
		}()
		if opts == nil {
			testkit.Eventually(t, "two parked receives", func() bool { return len(testkit.ThreadsInCalls()) == 2 })
		}
		holder.Close()
		if m := <-waiter.C(); numberOf(m.Value) != 0 {
			t.Errorf("got %v", m)
		}
		select {
		case err := <-got:
			t.Errorf("a receive of another type ended: %v", err)
		default:
		}
		q.Close()
		if err := <-got; !errors.Is(err, chanmq.ErrClosed) {
			t.Errorf("Receive: %v", err)
		}
	}
}

// TestOrderSurvivesCancelAndResubscribe changes at random how it receives, and
// never misses a number.
func TestOrderSurvivesCancelAndResubscribe(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			q := newQueue(t)
			const total = 3000
			sendInBackground(t, q, total, func(n int) int64 { return int64(1 + n%3) })
			next := 0
			want := func(m chanmq.Message[[]byte]) {
				t.Helper()
				if got := numberOf(m.Value); got != next {
					t.Fatalf("got %d, want %d", got, next)
				}
				next++
			}
			for next < total {
				some := min(random.IntN(8), total-next)
				ctx, cancel := context.WithCancel(ctxWithin(t))
				switch way := random.IntN(6); way {
				case 0: // direct
					for range some {
						m, err := q.Receive(ctx, chanmq.Any())
						if err != nil {
							t.Fatal(err)
						}
						want(m)
					}
				case 1: // an iterator that is left
					for m, err := range q.Messages(ctx, chanmq.Any()) {
						if err != nil {
							t.Fatal(err)
						}
						want(m)
						if some--; some <= 0 {
							break
						}
					}
				case 2: // a Receiver that is cancelled, and nobody waits for its end
					r := q.Receiver(ctx, chanmq.Except(4))
					for range some {
						want(<-r.C())
					}
					cancel()
				case 3: // cancelled, and its buffer read out
					r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(random.IntN(5)))
					for range some {
						want(<-r.C())
					}
					cancel()
					for m := range r.C() {
						want(m)
					}
				case 4: // closed with an unread buffer
					r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(random.IntN(5)))
					for range some {
						want(<-r.C())
					}
					r.Close()
				case 5: // drained
					r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(random.IntN(5)))
					for range some {
						want(<-r.C())
					}
					go r.Drain(context.Background())
					for m := range r.C() {
						want(m)
					}
				}
				cancel()
			}
			wantNone(t, q)
		})
	}
}

// TestAnyViewTakesOver shows that what one typed view leaves another receives,
// in the form that it had in the kernel.
func TestAnyViewTakesOver(t *testing.T) {
	type order struct{ ID int }
	q := newQueue(t)
	orders := chanmq.As(q, codec.JSON[order]())
	texts := []string{`{"ID":1,"more":"kept"}`, `{"ID": 2}`, `{"ID":3}`}
	for _, text := range texts {
		if err := q.Send(ctxWithin(t), 1, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	r := orders.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(1))
	untilTaken(t, q, 1)
	r.Close()
	for _, want := range texts {
		m, err := q.Receive(ctxWithin(t), chanmq.Any())
		if err != nil || string(m.Value) != want {
			t.Errorf("got %s, %v; want %s", m.Value, err, want)
		}
	}
}
