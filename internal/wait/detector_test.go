package wait

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// TestChangeDetector: which waits are worth a try, and what it asks the kernel to know
// that. Each step is one check.
func TestChangeDetector(t *testing.T) {
	type step struct {
		after time.Duration // since the step before
		added bool          // a wait was added meanwhile
		stat  sysv.Stat
		err   error // of IPC_STAT
		types []int // of the messages in the queue; nil: it may not look

		want  []int // the msgtyp of the waits that are tried; 0 is the send's
		stats int   // looks at the state of the queue
		looks int   // looks at the messages
	}
	// Of the queue at a time, in seconds since the test's beginning.
	stat := func(messages uint64, sent, received int64) sysv.Stat {
		return sysv.Stat{Messages: messages, SendTime: sent, ReceiveTime: received}
	}
	const second, ms = time.Second, time.Millisecond
	many := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, -20}
	for _, test := range []struct {
		name  string
		waits []int // their msgtyp, 0 for a send
		steps []step
	}{
		{"one wait is tried without a look", []int{1}, []step{
			{want: []int{1}},
			{want: []int{1}},
		}},
		{"one send is tried without a look", []int{0}, []step{{want: []int{0}}}},
		{"nothing in the queue", []int{1, 2}, []step{
			{stat: stat(0, 0, 0), stats: 1},
			{added: true, stat: stat(0, 0, 0), stats: 1},
		}},
		{"nothing in the queue, and a send", []int{1, 2, 0}, []step{
			{after: 9 * second, stat: stat(0, 0, 0), types: []int{}, want: []int{0}, stats: 1, looks: 1},
			{after: second, stat: stat(0, 0, 0), stats: 1},
			{after: second, stat: stat(0, 0, 11), types: []int{}, want: []int{0}, stats: 1, looks: 1},
		}},
		{"a message for one of them", many, []step{
			{after: 9 * second, stat: stat(1, 0, 0), types: []int{3}, want: []int{-20, 3}, stats: 1, looks: 1},
			{after: second, stat: stat(1, 0, 0), stats: 1},
			{after: second, added: true, stat: stat(1, 0, 0), types: []int{3}, want: []int{-20, 3}, stats: 1, looks: 1},
			{after: second, stat: stat(2, 11, 0), types: []int{3, 7}, want: []int{-20, 3, 7}, stats: 1, looks: 1},
		}},
		{"a message for nobody", many[:10], []step{
			{after: 9 * second, stat: stat(1, 0, 0), types: []int{99}, stats: 1, looks: 1},
			{after: second, stat: stat(1, 0, 0), stats: 1},
		}},
		{"it may not look at the messages", many, []step{
			{after: 9 * second, stat: stat(1, 0, 0), want: many, stats: 1, looks: 1},
		}},
		{"more messages than are worth a look", many, []step{
			{after: 9 * second, stat: stat(3, 0, 0), types: []int{3}, want: many, stats: 1},
			{after: second, stat: stat(2, 0, 0), types: []int{3}, want: []int{-20, 3}, stats: 1, looks: 1},
		}},
		{"it may not look at the queue", many, []step{
			{err: sysv.EACCES, want: many, stats: 1},
			{err: sysv.EACCES, want: many, stats: 1},
		}},
		{"the second of the last change, and the next one", many, []step{
			{after: 9 * second, stat: stat(1, 9, 0), types: []int{99}, want: []int{-20}, stats: 1, looks: 1},
			{after: 49 * ms, stat: stat(1, 9, 0), stats: 1},
			{after: ms, stat: stat(1, 9, 0), types: []int{3}, want: []int{-20, 3}, stats: 1, looks: 1},
			{after: second, stat: stat(1, 9, 0), types: []int{3}, want: []int{-20, 3}, stats: 1, looks: 1},
			{after: second, stat: stat(1, 9, 0), types: []int{3}, want: []int{-20, 3}, stats: 1, looks: 1},
			{after: second, stat: stat(1, 9, 0), stats: 1},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var now step
			stats, looks := 0, 0
			h := newHandle(t, func(c *Config) {
				c.Stat = func() (sysv.Stat, error) { stats++; return now.stat, now.err }
				c.Types = func(most int) map[int64]bool {
					if looks++; most < int(now.stat.Messages) {
						t.Errorf("it looks at %d messages of %d", most, now.stat.Messages)
					}
					if now.types == nil {
						return nil
					}
					types := make(map[int64]bool)
					for _, typ := range now.types {
						types[int64(typ)] = true
					}
					return types
				}
			})
			p := &h.lot.poller
			msgtyps := make(map[*Waiter]int)
			for _, msgtyp := range test.waits {
				var w *Waiter
				if msgtyp == 0 {
					w = &h.send(1).waiter
				} else {
					w = &h.receive(msgtyp).waiter
				}
				msgtyps[w] = msgtyp
				p.waiting.add(w.op.Key(), w)
			}
			defer func() { p.waiting = waiters{} }() // they have never run
			p.added = false
			var d changeDetector
			clock := time.Unix(0, 0)
			for i, s := range test.steps {
				now, stats, looks = s, 0, 0
				clock = clock.Add(s.after)
				p.added = s.added
				var got []int
				for _, w := range d.check(p, clock) {
					got = append(got, msgtyps[w])
				}
				slices.Sort(got)
				want := slices.Sorted(slices.Values(s.want))
				if !slices.Equal(got, want) {
					t.Errorf("step %d: %v are tried, want %v", i, got, want)
				}
				if fmt.Sprint(stats, looks) != fmt.Sprint(s.stats, s.looks) {
					t.Errorf("step %d: %d looks at the queue and %d at the messages, want %d and %d", i, stats, looks, s.stats, s.looks)
				}
				if p.added {
					t.Errorf("step %d: a wait that was added is not forgotten", i)
				}
			}
		})
	}
}
