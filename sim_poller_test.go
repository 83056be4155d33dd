//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// inPoller reports whether the calling goroutine is a poller's own.
func inPoller() bool {
	stack := make([]byte, 1<<14)
	return strings.Contains(string(stack[:runtime.Stack(stack, false)]), "wait.(*poller).run(")
}

// TestFreedPlaceIsTaken: when a call that slept in the kernel has ended, one that
// is polled takes its place at the next look, though nothing comes.
func TestFreedPlaceIsTaken(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, m *machine, id, typ int, r *chanmq.Receiver[[]byte]){
		"Close": func(_ *testing.T, _ *machine, _, _ int, r *chanmq.Receiver[[]byte]) { _ = r.Close() },
		"a message": func(t *testing.T, m *machine, id, typ int, _ *chanmq.Receiver[[]byte]) {
			m.puts(t, id, typ, 0) // which nobody reads: the Receiver does not wait again
		},
	} {
		for _, places := range []int{1, 2} {
			for _, polled := range []int{1, 3} {
				t.Run(fmt.Sprintf("%d of %d, %s", places, places+polled, name), func(t *testing.T) {
					onMachine(t, func(t *testing.T, m *machine) {
						_, counted := limitParking(t, m.self, places)
						q := m.private(t, chanmq.WithMaxParked(places), counted)
						want := func(when string, parked, polled int) {
							t.Helper()
							synctest.Wait()
							if m.Asleep() != parked || chanmq.Polled(q) != polled {
								t.Errorf("%s %d calls sleep in the kernel and %d are polled, want %d and %d",
									when, m.Asleep(), chanmq.Polled(q), parked, polled)
							}
						}
						var all []*chanmq.Receiver[[]byte]
						for n := range places + polled {
							all = append(all, q.Receiver(t.Context(), chanmq.OfType(int64(n+1))))
							synctest.Wait() // the first of them park
						}
						time.Sleep(time.Minute)
						want("at first", places, polled)
						for n := range places {
							end(t, m, q.ID(), n+1, all[n])
						}
						want("when they have ended", 0, polled)
						taken := min(places, polled)
						time.Sleep(time.Duration(taken) * pollMax) // each look lets one go
						want("after the next looks", taken, polled-taken)
					})
				})
			}
		}
	}
}

// TestPolledWaitsGetWhatIsHandedBack: of those who wait for it, one, and at once,
// for the next look may be an hour away.
func TestPolledWaitsGetWhatIsHandedBack(t *testing.T) {
	const calls, messages = 50, 7
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPolling(time.Hour, time.Hour))
		for n := range messages {
			m.puts(t, q.ID(), 1, n)
		}
		holder := q.Receiver(t.Context(), chanmq.OfType(1), chanmq.WithBuffer(messages))
		ctx, cancel := context.WithCancel(t.Context())
		got, ended := make(chan int, 2*calls), make(chan error, 2*calls)
		synctest.Wait() // it holds them
		for range calls {
			// The messages are for half of them.
			for _, s := range []chanmq.Selector{chanmq.UpTo(5), chanmq.OfType(2)} {
				go func() {
					m, err := q.Receive(ctx, s)
					if err == nil {
						got <- numberIn(m.Value)
					}
					ended <- err
				}()
			}
		}
		synctest.Wait()
		_ = holder.Close()
		synctest.Wait() // the clock stands still
		if n := chanmq.Polled(q); n != 2*calls-messages {
			t.Errorf("%d calls wait on, want %d", n, 2*calls-messages)
		}
		cancel()
		errs := 0
		for range 2 * calls {
			if err := <-ended; err != nil {
				errs++
				if !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
		}
		if errs != 2*calls-messages {
			t.Errorf("%d calls ended without a message, want %d", errs, 2*calls-messages)
		}
		close(got)
		var seen [messages]bool
		for n := range got {
			if seen[n] {
				t.Errorf("message %d came twice", n)
			}
			seen[n] = true
		}
		wantMessages(t, q)
	})
}

// TestWhatComesBeforeTheWait: what happens between a call's own try and its joining
// those that the poller serves, which may look only an hour later, is not missed.
func TestWhatComesBeforeTheWait(t *testing.T) {
	const interval = time.Hour
	for name, c := range map[string]struct {
		happens func(t *testing.T, m *machine, q *chanmq.Queue[[]byte], holder *chanmq.Receiver[[]byte])
		within  time.Duration
		want    error
	}{
		"a message comes, and is looked at": {
			func(t *testing.T, m *machine, q *chanmq.Queue[[]byte], _ *chanmq.Receiver[[]byte]) {
				m.puts(t, q.ID(), 1, 1)
				time.Sleep(5 * interval)
			}, interval, nil,
		},
		"a message is handed back": {
			func(_ *testing.T, _ *machine, _ *chanmq.Queue[[]byte], holder *chanmq.Receiver[[]byte]) {
				_ = holder.Close()
			}, 0, nil,
		},
		"the handle is closed": {
			func(_ *testing.T, _ *machine, q *chanmq.Queue[[]byte], _ *chanmq.Receiver[[]byte]) {
				go q.Close() // waits for the poller
			}, 0, chanmq.ErrClosed,
		},
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithPolling(interval, interval))
				m.puts(t, q.ID(), 1, 0)
				holder := q.Receiver(t.Context(), chanmq.OfType(1))
				for typ := range int64(2) {
					go func() { _, _ = q.Receive(t.Context(), chanmq.OfType(typ+2)) }() // so that the poller runs
				}
				synctest.Wait()
				var once sync.Once
				var start time.Time
				m.faults(func(_ int, call simq.Call) error {
					var missed error
					if call.Op == simq.Receive && call.Type == -1 {
						once.Do(func() { // the call's own try
							c.happens(t, m, q, holder)
							synctest.Wait()
							start, missed = time.Now(), sysv.ENOMSG
						})
					}
					return missed
				})
				ctx, cancel := context.WithTimeout(t.Context(), 100*interval)
				defer cancel()
				if _, err := q.Receive(ctx, chanmq.UpTo(1)); !errors.Is(err, c.want) {
					t.Errorf("Receive: %v, want %v", err, c.want)
				}
				if took := time.Since(start); took > c.within {
					t.Errorf("it took %v, want %v", took, c.within)
				}
			})
		})
	}
}

// TestCancelWhileThePollerTries: a call whose ctx ends while the poller tries for it
// has what the try has done, or ends with it, and does nothing afterwards.
func TestCancelWhileThePollerTries(t *testing.T) {
	const interval = 10 * time.Millisecond
	for name, c := range map[string]struct {
		op    simq.Op
		call  func(ctx context.Context, q *chanmq.Queue[[]byte]) error
		allow func(t *testing.T, m *machine, id int) // makes a try succeed
		left  map[bool][]int                         // in the queue, behind a try that succeeds or does not
	}{
		"Receive": {
			simq.Receive,
			func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
				_, err := q.Receive(ctx, chanmq.OfType(1))
				return err
			},
			func(t *testing.T, m *machine, id int) { m.puts(t, id, 1, 1) },
			map[bool][]int{true: nil, false: {1}},
		},
		"Send": {
			simq.Send,
			func(ctx context.Context, q *chanmq.Queue[[]byte]) error { return q.Send(ctx, 1, text(1)) },
			func(_ *testing.T, m *machine, id int) { m.take(id) },
			map[bool][]int{true: {1}, false: nil},
		},
	} {
		for _, succeeds := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, done %v", name, succeeds), func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t, chanmq.WithPolling(interval, interval))
					if c.op == simq.Send {
						if err := q.Set(chanmq.Attr{MaxBytes: 1}); err != nil {
							t.Fatal(err)
						}
						m.puts(t, q.ID(), 9, 0) // it is full
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					var once sync.Once
					m.faults(func(_ int, call simq.Call) error {
						if call.Op == c.op && inPoller() {
							once.Do(func() {
								cancel()
								synctest.Wait() // the call wants to end
								if succeeds {
									c.allow(t, m, q.ID())
								}
							})
						}
						return nil
					})
					ended := make(chan error, 1)
					go func() { ended <- c.call(ctx, q) }()
					time.Sleep(interval + interval/2) // there was one look
					select {
					case err := <-ended:
						want := context.Canceled
						if succeeds {
							want = nil
						}
						if !errors.Is(err, want) {
							t.Errorf("it ended with: %v, want %v", err, want)
						}
					default:
						t.Error("it has not ended with the try")
					}
					if !succeeds {
						c.allow(t, m, q.ID())
					}
					time.Sleep(time.Minute)
					wantMessages(t, q, c.left[succeeds]...)
				})
			})
		}
	}
}

// TestOneLookServesAll: every call that there is a message for has it after one
// look, of several of a kind those that came first.
func TestOneLookServesAll(t *testing.T) {
	const kinds, each, messages, interval = 10, 3, 2, 10 * time.Millisecond
	for name, typesOf := range map[string][]int{
		"one of ten":                   {102}, // the poller looks which types there are
		"two of ten":                   {102, 107},
		"one of ten, of several types": {50},
		"all of ten":                   {50, 101, 102, 103, 104, 105, 106, 107, 108, 109},
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithPolling(interval, interval))
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				calls := make(map[chanmq.Selector][]<-chan error)
				typeFor := make(map[chanmq.Selector]int)
				for kind := range kinds {
					s, typ := chanmq.OfType(int64(100+kind)), 100+kind
					if kind == 0 {
						s, typ = chanmq.UpTo(100), 50
					}
					typeFor[s] = typ
					for range each {
						calls[s] = append(calls[s], receiving(ctx, q, s))
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				for _, typ := range typesOf {
					m.puts(t, q.ID(), typ, make([]int, messages)...)
				}
				time.Sleep(interval)
				synctest.Wait()
				for s, all := range calls {
					for n, ended := range all {
						want := n < messages && slices.Contains(typesOf, typeFor[s])
						select {
						case err := <-ended:
							if !want || err != nil {
								t.Errorf("%v, call %d ended: %v", s, n+1, err)
							}
						default:
							if want {
								t.Errorf("%v, call %d has no message", s, n+1)
							}
						}
					}
				}
				wantMessages(t, q)
			})
		})
	}
}

// TestRoomIsSeen: a call that sends, among many that receive what does not come,
// goes on at the next look when there is room.
func TestRoomIsSeen(t *testing.T) {
	const receivers, interval = 20, 10 * time.Millisecond
	for name, messages := range map[string]int{
		"in a queue that is empty then":    1,
		"behind messages of somebody else": 3,
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithPolling(interval, interval))
				if err := q.Set(chanmq.Attr{MaxBytes: messages}); err != nil {
					t.Fatal(err)
				}
				m.puts(t, q.ID(), receivers+1, make([]int, messages)...)
				for n := range receivers {
					q.Receiver(t.Context(), chanmq.OfType(int64(n+1)))
				}
				sent := make(chan error, 1)
				go func() { sent <- q.Send(t.Context(), receivers+2, text(1)) }()
				time.Sleep(time.Minute)
				synctest.Wait()
				m.take(q.ID())
				wantWithin(t, interval, sent)
			})
		})
	}
}

// TestPausesGrow: the pauses between looks double from the shortest to the longest
// while nothing comes, and are short again behind a message.
func TestPausesGrow(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPolling(time.Millisecond, 6*time.Millisecond))
		start := time.Now()
		var looks []int // when, in milliseconds
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Receive && inPoller() {
				looks = append(looks, int(time.Since(start)/time.Millisecond))
			}
			return nil
		})
		for range 2 { // calls: the poller goes on when one of them has ended
			q.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(1))
		}
		time.Sleep(20 * time.Millisecond)
		m.puts(t, q.ID(), 1, 0)
		time.Sleep(20 * time.Millisecond)
		synctest.Wait()
		looks = slices.Compact(looks) // one at 25 finds it, and tries for the other call as well
		if want := []int{1, 3, 7, 13, 19, 25, 26, 28, 32, 38}; !slices.Equal(looks, want) {
			t.Errorf("looks after %v ms, want %v", looks, want)
		}
	})
}

// TestPollerRests: its goroutine is there only while it has calls to serve.
func TestPollerRests(t *testing.T) {
	for name, opt := range pollingOptions {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, opt)
				if chanmq.Polling(q) != nil {
					t.Error("a goroutine polls for nobody")
				}
				for range 3 {
					first := q.Receiver(t.Context(), chanmq.OfType(1))
					synctest.Wait()
					ended := chanmq.Polling(q)
					if ended == nil {
						t.Fatal("no goroutine polls")
					}
					second := q.Receiver(t.Context(), chanmq.OfType(2))
					synctest.Wait()
					_ = first.Close()
					time.Sleep(time.Minute)
					if chanmq.Polling(q) != ended {
						t.Error("it is another goroutine, though there was always a call to serve")
					}
					_ = second.Close()
					synctest.Wait() // at once
					select {
					case <-ended:
					default:
						t.Error("it has not ended")
					}
					if chanmq.Polling(q) != nil {
						t.Error("a goroutine polls for nobody")
					}
				}
			})
		})
	}
}

// TestCloseEndsThePoller: when it has returned, there is no goroutine any more.
func TestCloseEndsThePoller(t *testing.T) {
	for name, opt := range pollingOptions {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				for range 20 {
					q := m.private(t, opt)
					received := receiving(t.Context(), q, chanmq.Any())
					ended := chanmq.Polling(q)
					if err := q.Close(); err != nil {
						t.Error(err)
					}
					select {
					case <-ended:
					default:
						t.Error("Close has returned, and the goroutine is still there")
					}
					if err := <-received; !errors.Is(err, chanmq.ErrClosed) {
						t.Errorf("Receive: %v", err)
					}
				}
			})
		})
	}
}

// onGate runs a test on a simulated machine, where a call of type 1 and others of
// types from 101 on are polled at an interval, and messages of type 9, of somebody
// else, may stand in the queue.
func onGate(t *testing.T, others int, interval time.Duration, test func(t *testing.T, m *machine, id int, received <-chan error)) {
	t.Helper()
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPolling(interval, interval))
		ctx, cancel := context.WithCancel(t.Context())
		received := receiving(ctx, q, chanmq.OfType(1))
		var rest []<-chan error
		for n := range others {
			rest = append(rest, receiving(ctx, q, chanmq.OfType(int64(101+n))))
		}
		test(t, m, q.ID(), received)
		cancel()
		for n, ended := range rest {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("the call of type %d ended with: %v", 101+n, err)
			}
		}
	})
}

// wantWithin demands that a call has ended after a time, which on the simulated
// machine is exact.
func wantWithin(t *testing.T, limit time.Duration, ended <-chan error) {
	t.Helper()
	time.Sleep(limit)
	synctest.Wait()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	default:
		t.Errorf("the call still waits after %v", limit)
	}
}

// fewAndMany are numbers of other calls: few, which the poller tries when something
// has changed, and so many that it looks at the messages first.
var fewAndMany = []int{1, 40}

// TestMessageBehindStrangers: the poller leaves calls untried while the queue looks
// as it did. A message that makes it look no different is found as well.
func TestMessageBehindStrangers(t *testing.T) {
	for _, others := range fewAndMany {
		for _, interval := range []time.Duration{10 * time.Millisecond, 700 * time.Millisecond, 2500 * time.Millisecond, 7300 * time.Millisecond} {
			t.Run(fmt.Sprintf("beside %d calls, every %v", others, interval), func(t *testing.T) {
				// The stranger's message comes when, and is replaced later.
				for when := time.Duration(0); when < 3*time.Second; when += 370 * time.Millisecond {
					for _, later := range []time.Duration{time.Millisecond, 15 * time.Millisecond, 90 * time.Millisecond, 400 * time.Millisecond, 1100 * time.Millisecond, 4 * time.Second} {
						onGate(t, others, interval, func(t *testing.T, m *machine, id int, received <-chan error) {
							time.Sleep(when)
							m.puts(t, id, 9, 1, 2)
							m.take(id)
							time.Sleep(later)
							m.take(id)
							m.puts(t, id, 1, 3)
							// The second of the counts and 50 ms between looks in it.
							wantWithin(t, interval+60*time.Millisecond, received)
						})
						if t.Failed() {
							t.Fatalf("a message of another type came after %v, and in its place the one that is waited for %v later", when, later)
						}
					}
				}
			})
		}
	}
}

// TestGateThatCannotLook: what the kernel does not let one look at is tried.
func TestGateThatCannotLook(t *testing.T) {
	for name, refused := range map[string]func(simq.Call) error{
		"nothing refused": func(simq.Call) error { return nil },
		"no MSG_COPY": func(c simq.Call) error {
			if c.Op == simq.Receive && c.Flags != 0 {
				return syscall.ENOSYS
			}
			return nil
		},
		"no IPC_STAT": func(c simq.Call) error {
			if c.Op == simq.Stat {
				return syscall.EACCES
			}
			return nil
		},
	} {
		for _, others := range fewAndMany {
			for _, strangers := range []int{0, 1, 5} {
				for _, size := range []int{0, 1, 3000} {
					t.Run(fmt.Sprintf("%s, beside %d calls, behind %d of %d bytes", name, others, strangers, size), func(t *testing.T) {
						const interval = 10 * time.Millisecond
						onGate(t, others, interval, func(t *testing.T, m *machine, id int, received <-chan error) {
							m.faults(func(_ int, c simq.Call) error { return refused(c) })
							for range strangers {
								if err := m.put(id, 9, make([]byte, size)); err != nil {
									t.Fatal(err)
								}
							}
							time.Sleep(5 * time.Second) // until the counts have settled
							synctest.Wait()
							m.puts(t, id, 1, 1)
							wantWithin(t, interval, received)
						})
					})
				}
			}
		}
	}
}

// TestStrangersCostLittle: messages that nobody here waits for are looked at a few
// times, until the clock's second has passed, and not for every call.
func TestStrangersCostLittle(t *testing.T) {
	const receivers, strangers = 500, 50
	const polls = int(time.Minute/pollMax) + 1 // at both ends of the minute
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithMaxParked(0))
		for n := range receivers {
			q.Receiver(t.Context(), chanmq.OfType(int64(n+1)))
		}
		time.Sleep(time.Minute)
		minute := func() int { return m.during(func() { time.Sleep(time.Minute) }) }
		calls := minute()
		for range strangers {
			m.puts(t, q.ID(), receivers+1, 0)
		}
		first, settled := minute(), minute()
		t.Logf("%d, %d and %d calls in a minute", calls, first, settled)
		const looks = int(3 * time.Second / (50 * time.Millisecond))
		if most := polls + looks*(strangers+1); first > most {
			t.Errorf("%d calls in the minute that begins with %d messages of somebody else, at most %d are due", first, strangers, most)
		}
		for when, calls := range map[string]int{"before the messages": calls, "behind that": settled} {
			if calls > polls || calls < polls/2 {
				t.Errorf("%d calls in the minute %s, one every %v is due", calls, when, pollMax)
			}
		}
	})
}

// TestBusyTypeIsInterrupted lets a message for the calls of type 1 come whenever
// the poller tries one of them, and never otherwise, so that there is always
// something for it to do for them. Calls of type 2 have their turn all the same.
func TestBusyTypeIsInterrupted(t *testing.T) {
	const calls, enough = 3, 100
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPolling(time.Millisecond, time.Millisecond))
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var busy atomic.Int64 // messages of type 1 since there is one of type 2
		rare := receiving(ctx, q, chanmq.OfType(2))
		m.faults(func(_ int, c simq.Call) error {
			switch {
			case c.Op != simq.Receive || c.Type != 1 || c.Flags != 0:
				return nil
			case !inPoller():
				return sysv.ENOMSG // another program was faster
			}
			synctest.Wait() // those that had theirs wait again
			if busy.Add(1) == 1 {
				m.puts(t, q.ID(), 2, 0)
			}
			if busy.Load() < enough {
				m.puts(t, q.ID(), 1, 0)
			}
			return nil
		})
		var callers sync.WaitGroup
		for range calls {
			callers.Go(func() {
				for range q.Messages(ctx, chanmq.OfType(1)) {
				}
			})
		}
		synctest.Wait()
		m.puts(t, q.ID(), 1, 0) // the one that the poller sees
		if err := <-rare; err != nil {
			t.Error(err)
		}
		if n := busy.Load(); n > 2*calls {
			t.Errorf("the poller tried the calls of type 1 %d times, and then that of type 2", n)
		}
		m.faults(nil)
		cancel()
		callers.Wait()
	})
}
