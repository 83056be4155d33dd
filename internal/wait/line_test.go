package wait

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq/internal/testkit"
)

// ordered makes a receive an ordered one, as those of pumps are, until run's end.
func ordered(o *receive) *receive {
	o.waiter.Order()
	return o
}

// TestTurnsAreFair: messages go to the waits in the order in which these came.
func TestTurnsAreFair(t *testing.T) {
	const waits = 6
	for name, isOrdered := range map[string]func(n int) bool{
		"direct":  func(int) bool { return false },
		"ordered": func(int) bool { return true },
		"mixed":   func(n int) bool { return n%2 == 0 },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *handle) {
				var all []*receive
				var ended []<-chan error
				for n := range waits {
					o := h.receive(1)
					if isOrdered(n) {
						ordered(o)
					}
					all, ended = append(all, o), append(ended, o.waiting(t.Context()))
				}
				for n, o := range all {
					h.put(1, n)
					time.Sleep(2 * time.Hour) // for the poller
					wantEnded(t, fmt.Sprint("wait ", n), ended[n], nil)
					if o.msg.n != n {
						t.Errorf("wait %d has message %d", n, o.msg.n)
					}
				}
			})
		})
	}
}

// TestOneWaitSleepsForEachKey, however many there are: the others are in line.
func TestOneWaitSleepsForEachKey(t *testing.T) {
	const each = 50
	inBubble(t, func(t *testing.T, h *handle) {
		keys := []int{0, 1, 2, -2}
		for _, msgtyp := range keys {
			for n := range each {
				o := h.receive(msgtyp)
				if n%2 == 0 {
					ordered(o)
				}
				o.start(t.Context())
			}
		}
		synctest.Wait()
		h.wantLines(len(keys))
		parked, polled := len(keys), 0
		if h.lot.config.Polling {
			parked, polled = 0, len(keys)
		}
		if n := h.kernel.Asleep(); n != parked {
			t.Errorf("%d waits sleep in the kernel, want %d", n, parked)
		}
		if n := h.polled(); n != polled {
			t.Errorf("the poller has %d waits, want %d", n, polled)
		}
		if n := h.lot.Polled() - polled; n != len(keys)*(each-1) {
			t.Errorf("%d waits are in line, want %d", n, len(keys)*(each-1))
		}
	})
}

// TestSendsDoNotLineUp: each of them waits for itself.
func TestSendsDoNotLineUp(t *testing.T) {
	inBubble(t, func(t *testing.T, h *handle) {
		h.setSize(2)
		h.put(9, 1, 2)
		for range 5 {
			h.send(1).start(t.Context())
		}
		synctest.Wait()
		h.wantLines(0)
		if n := h.kernel.Asleep() + h.polled(); n != 5 {
			t.Errorf("%d sends wait for room, want 5", n)
		}
	})
}

// TestCtxEndsInLine: a wait whose ctx ends leaves the line at once, from wherever it
// stands, and the others stay in order.
func TestCtxEndsInLine(t *testing.T) {
	const waits = 4
	for first := range waits {
		for count := 1; first+count <= waits; count++ {
			t.Run(fmt.Sprintf("%d from %d", count, first), func(t *testing.T) {
				inBubble(t, func(t *testing.T, h *handle) {
					ctx, cancel := context.WithCancel(t.Context())
					var ended []<-chan error
					for n := range waits {
						o := h.receive(1)
						if n%2 == 0 {
							ordered(o)
						}
						if first <= n && n < first+count {
							ended = append(ended, o.waiting(ctx))
						} else {
							ended = append(ended, o.waiting(t.Context()))
						}
					}
					start := time.Now()
					cancel()
					for n := range count {
						wantEnded(t, "a wait whose ctx ended", ended[first+n], ErrCanceled)
					}
					if took := time.Since(start); took > 0 {
						t.Errorf("it took %v", took)
					}
					for n := range waits {
						if n < first || first+count <= n {
							wantWaiting(t, "another one", ended[n])
							h.put(1, n)
							time.Sleep(2 * time.Hour)
							wantEnded(t, "the next one in line", ended[n], nil)
						}
					}
				})
			})
		}
	}
}

// TestLinesArePruned: a line is there as long as a wait of its own knows it.
func TestLinesArePruned(t *testing.T) {
	inBubble(t, func(t *testing.T, h *handle) {
		pump := ordered(h.receive(1))
		h.wantLines(1) // between its waits, too
		first, second := h.receive(1).waiting(t.Context()), h.receive(1).waiting(t.Context())
		other := h.receive(0)
		ctx, cancel := context.WithCancel(t.Context())
		ended := other.waiting(ctx)
		h.wantLines(2)
		cancel()
		wantEnded(t, "another one", ended, ErrCanceled)
		h.wantLines(1)
		pump.waiter.Release()
		h.wantLines(1)
		h.put(1, 1)
		time.Sleep(2 * time.Hour)
		wantEnded(t, "the first one", first, nil)
		h.wantLines(1)
		h.put(1, 2)
		time.Sleep(2 * time.Hour)
		wantEnded(t, "the second one", second, nil)
		h.wantLines(0)
		for range 3 { // a Waiter is used again
			pump.waiter.Order()
			h.wantLines(1)
			pump.waiter.Release()
			h.wantLines(0)
		}
		// It is no ordered one now: it lines up to sleep.
		h.receive(1).waiting(t.Context())
		pump.waiting(t.Context())
		if n := h.lot.inLine.Load(); n != 1 {
			t.Errorf("%d waits are in line, want 1", n)
		}
	})
}

// TestTryMoreLeavesOthersTheirTurn.
func TestTryMoreLeavesOthersTheirTurn(t *testing.T) {
	inBubble(t, func(t *testing.T, h *handle) {
		pump := ordered(h.receive(1))
		defer pump.waiter.Release()
		if err := pump.waiter.TryMore(); err != ErrWait {
			t.Errorf("TryMore of nothing: %v", err)
		}
		h.put(1, 1)
		if err := pump.waiter.TryMore(); err != nil || pump.msg.n != 1 {
			t.Errorf("TryMore: %v, message %d, want 1", err, pump.msg.n)
		}
		// One that comes while it tries waits for its turn, and has it then.
		next := ordered(h.receive(1))
		var ended <-chan error
		pump.onTry = func() {
			pump.onTry = nil
			ended = next.waiting(t.Context())
			h.put(1, 2)
			wantWaiting(t, "the next one", ended)
		}
		if err := pump.waiter.TryMore(); err != nil || pump.msg.n != 2 {
			t.Errorf("TryMore: %v, message %d, want 2", err, pump.msg.n)
		}
		synctest.Wait() // the next one sleeps
		tries := pump.tries.Load()
		if err := pump.waiter.TryMore(); err != ErrWait || pump.tries.Load() != tries {
			t.Errorf("TryMore while another one has the turn: %v after %d tries", err, pump.tries.Load()-tries)
		}
		h.put(1, 3)
		time.Sleep(2 * time.Hour)
		wantEnded(t, "the next one", ended, nil)
	})
}

// TestCloseEndsThousandsInLine.
func TestCloseEndsThousandsInLine(t *testing.T) {
	const waits = 3000
	inBubble(t, func(t *testing.T, h *handle) {
		var all []<-chan error
		for n := range waits {
			o := h.receive(n % 3)
			if n%2 == 0 {
				ordered(o)
			}
			all = append(all, o.start(t.Context()))
		}
		synctest.Wait()
		start := time.Now()
		h.close()
		for range all {
			synctest.Wait()
		}
		for _, ended := range all {
			wantEnded(t, "a wait", ended, errClosed)
		}
		if took := time.Since(start); took > time.Second { // signals are repeated after a time
			t.Errorf("it took %v", took)
		}
	})
}

// TestHandBackReachesTheLine: a message that is handed back is taken at once, also if
// the one whose turn it is ends at the same moment.
func TestHandBackReachesTheLine(t *testing.T) {
	const rounds, waits = 100, 4
	for way, end := range map[string]func(h *handle, cancel context.CancelFunc, m message){
		"handed back, then canceled": func(h *handle, cancel context.CancelFunc, m message) { h.handBack(m); cancel() },
		"canceled, then handed back": func(h *handle, cancel context.CancelFunc, m message) { cancel(); h.handBack(m) },
		"at once":                    func(h *handle, cancel context.CancelFunc, m message) { go cancel(); h.handBack(m) },
	} {
		t.Run(way, func(t *testing.T) {
			inBubble(t, func(t *testing.T, h *handle) {
				for round := range rounds {
					rest, endRest := context.WithCancel(t.Context())
					first, endFirst := context.WithCancel(rest)
					all := make([]*receive, waits)
					ended := make([]<-chan error, waits)
					for n := range all {
						all[n] = h.receive(1)
						if n%2 == round%2 {
							ordered(all[n])
						}
						ctx := rest
						if n < 2 {
							ctx = first // and the one behind it
						}
						ended[n] = all[n].waiting(ctx)
					}
					end(h, endFirst, message{1, round, h.taken.Add(1)})
					time.Sleep(time.Second) // signals are repeated after a time
					synctest.Wait()
					endRest()
					took := 0
					for n := range all {
						if err := <-ended[n]; err == nil {
							took++
						}
					}
					if took != 1 {
						t.Fatalf("round %d: %d of the waits took the message", round, took)
					}
				}
			})
		})
	}
}

// TestNumbersHaveTheKernelsOrder: messages that ordered waits take are numbered in the
// order in which the kernel gave them out, whatever else takes some.
func TestNumbersHaveTheKernelsOrder(t *testing.T) {
	const pumps, messages = 4, 250
	for name, way := range map[string]func(*Config){"parked": parks, "polled": polls} {
		t.Run(name, func(t *testing.T) {
			h := newHandle(t, way)
			h.setSize(20)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var mu sync.Mutex
			var taken []message // by ordered waits
			count := 0
			took := func(m message, isOrdered bool) {
				mu.Lock()
				defer mu.Unlock()
				count++
				if isOrdered {
					taken = append(taken, m)
				}
			}
			for range pumps {
				o := ordered(h.receive(1))
				o.onTook = runtime.Gosched // others may take one meanwhile
				h.runs.Go(func() {
					defer o.waiter.Release()
					for o.once(ctx) == nil {
						took(o.msg, true)
						for o.waiter.TryMore() == nil {
							took(o.msg, true)
						}
					}
				})
			}
			h.runs.Go(func() {
				for o := h.receive(1); o.run(ctx) == nil; {
					took(o.msg, false)
				}
			})
			for n := range messages {
				h.sendWithin(t, 1, n)
			}
			testkit.Eventually(t, "all messages are taken", func() bool {
				mu.Lock()
				defer mu.Unlock()
				return count == messages
			})
			slices.SortFunc(taken, func(a, b message) int { return cmp.Compare(a.number, b.number) })
			if !slices.IsSortedFunc(taken, func(a, b message) int { return cmp.Compare(a.n, b.n) }) {
				t.Errorf("the messages in the order of their numbers: %v", taken)
			}
			if len(taken) == 0 {
				t.Error("no ordered wait took any")
			}
		})
	}
}

// sendWithin lets the other process send a message, when there is room.
func (h *handle) sendWithin(t *testing.T, typ, n int) {
	t.Helper()
	testkit.Eventually(t, "room in the queue", func() bool {
		stat, err := h.peer.Stat(h.id)
		if err != nil || stat.Messages >= stat.MaxBytes {
			return false
		}
		h.put(typ, n)
		return true
	})
}

// Calls that sleep one after another share a line, and allocate none; those that sleep
// at the same time, for different things, do not.
func TestALineIsUsedAgain(t *testing.T) {
	var ls lines
	one, other := Key{Type: 1}, Key{Type: 2}
	first := ls.get(one)
	second := ls.get(other)
	if first == second {
		t.Error("two keys share a line")
	}
	ls.put(one, first)
	ls.put(other, second)
	if got := testing.AllocsPerRun(100, func() { ls.put(one, ls.get(one)) }); got != 0 {
		t.Errorf("%v allocations for a line, want 0", got)
	}
	if len(ls.byKey) != 0 {
		t.Errorf("lines that nobody knows: %v", ls.byKey)
	}
}
