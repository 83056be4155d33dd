//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

// parking counts the threads that are inside a blocking call of a handle, at every
// moment. Who reads /proc, one thread after the other, may see a thread that has
// left since and the one that took its place, as if both slept.
type parking struct {
	mu        sync.Mutex
	now, most int // guarded by mu
}

// limitParking counts the threads of the handle that is opened with the option, on
// kernel k, and checks that never more than n sleep in the kernel.
func limitParking(t testing.TB, k sysv.Kernel, n int) (*parking, chanmq.Option) {
	t.Helper()
	p := new(parking)
	t.Cleanup(func() { // after the handle's Close
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.most > n {
			t.Errorf("%d threads slept in the kernel at the same time, %d may", p.most, n)
		}
	})
	return p, inject.Kernel(parkingKernel{k, p}).(chanmq.Option)
}

// enter counts a call that begins, and returns what counts its end.
func (p *parking) enter() (leave func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now++
	p.most = max(p.most, p.now)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.now--
	}
}

// until waits until n threads are inside, and the kernel says that they sleep.
func (p *parking) until(t testing.TB, n int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d threads in blocking calls", n), func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.now == n
	})
	testkit.Eventually(t, fmt.Sprintf("%d threads asleep", n), func() bool { return len(testkit.ThreadsInCalls()) == n })
}

// parkingKernel is a kernel whose threads are counted.
type parkingKernel struct {
	sysv.Kernel
	parking *parking
}

func (k parkingKernel) NewThread() sysv.Thread {
	return parkingThread{k.Kernel.NewThread(), k.parking}
}

type parkingThread struct {
	sysv.Thread
	parking *parking
}

func (t parkingThread) Send(id int, msg []byte) error {
	defer t.parking.enter()()
	return t.Thread.Send(id, msg)
}

func (t parkingThread) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	defer t.parking.enter()()
	return t.Thread.Receive(id, buf, msgtyp, flags)
}

// untilPolled waits until the handle's poller serves n calls.
func untilPolled(t testing.TB, q *chanmq.Queue[[]byte], n int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d calls that the poller serves", n), func() bool { return chanmq.Polled(q) == n })
}

// untilRest waits until the handle's poller has no goroutine.
func untilRest(t testing.TB, q *chanmq.Queue[[]byte]) {
	t.Helper()
	testkit.Eventually(t, "no goroutine that polls", func() bool { return chanmq.Polling(q) == nil })
}

// inPoller reports whether the calling goroutine is a poller's own.
func inPoller() bool {
	stack := make([]byte, 1<<14)
	return strings.Contains(string(stack[:runtime.Stack(stack, false)]), "wait.(*poller).run(")
}

var pollingOptions = map[string]chanmq.Option{
	"WithPolling":      chanmq.WithPolling(time.Millisecond, 5*time.Millisecond),
	"WithMaxParked(0)": chanmq.WithMaxParked(0),
}

// TestMaxParked: no more threads than allowed sleep in the kernel, those that may
// do, and who gets no thread gets its messages all the same.
func TestMaxParked(t *testing.T) {
	const receivers = 12
	limits := map[string]struct {
		opt    chanmq.Option
		parked int
	}{
		"WithPolling":       {pollingOptions["WithPolling"], 0},
		"WithMaxParked(0)":  {chanmq.WithMaxParked(0), 0},
		"WithMaxParked(1)":  {chanmq.WithMaxParked(1), 1},
		"WithMaxParked(5)":  {chanmq.WithMaxParked(5), 5},
		"WithMaxParked(12)": {chanmq.WithMaxParked(12), 12},
	}
	for name, limit := range limits {
		t.Run(name, func(t *testing.T) {
			parking, counted := limitParking(t, sysv.Host(), limit.parked)
			q := newQueue(t, limit.opt, counted)
			var all [receivers]*chanmq.Receiver[[]byte]
			for i := range all {
				all[i] = q.Receiver(ctxWithin(t), chanmq.OfType(int64(i+1)))
			}
			for round := range 10 {
				if round%2 == 0 { // else the messages meet calls that are on their way
					untilPolled(t, q, receivers-limit.parked)
					parking.until(t, limit.parked)
				}
				for _, i := range rand.Perm(receivers) {
					if err := q.Send(ctxWithin(t), int64(i+1), number(round)); err != nil {
						t.Fatal(err)
					}
				}
				for i, r := range all {
					if m, ok := <-r.C(); !ok || m.Type != int64(i+1) || numberOf(m.Value) != round {
						t.Fatalf("receiver of type %d: %v, %v (%v), want %d", i+1, m, ok, r.Err(), round)
					}
				}
			}
		})
	}
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

// TestPolledWaitsEnd ends many calls that are polled, at once.
func TestPolledWaitsEnd(t *testing.T) {
	const calls, types = 200, 20
	for name, opt := range pollingOptions {
		for way, c := range map[string]struct {
			end  func(q *chanmq.Queue[[]byte], cancel context.CancelFunc) error
			want error
		}{
			"cancel": {func(_ *chanmq.Queue[[]byte], cancel context.CancelFunc) error { cancel(); return nil }, context.Canceled},
			"Close":  {func(q *chanmq.Queue[[]byte], _ context.CancelFunc) error { return q.Close() }, chanmq.ErrClosed},
			"Remove": {func(q *chanmq.Queue[[]byte], _ context.CancelFunc) error { return q.Remove() }, chanmq.ErrRemoved},
		} {
			t.Run(name+", "+way, func(t *testing.T) {
				q := newQueue(t, opt)
				ctx, cancel := context.WithCancel(ctxWithin(t))
				defer cancel()
				ended := make(chan error, calls)
				full := make([]byte, 1000)
				for ok := true; ok; {
					var err error
					if ok, err = q.TrySend(types+1, full); err != nil {
						t.Fatal(err)
					}
				}
				for n := range calls {
					go func() {
						if n%types == 0 {
							ended <- q.Send(ctx, 1, full)
							return
						}
						_, err := q.Receive(ctx, chanmq.OfType(int64(n%types)))
						ended <- err
					}()
				}
				untilPolled(t, q, calls)
				if err := c.end(q, cancel); err != nil {
					t.Fatal(err)
				}
				for range calls {
					if err := <-ended; !errors.Is(err, c.want) {
						t.Errorf("a call ended with: %v, want %v", err, c.want)
					}
				}
				untilRest(t, q)
			})
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

// TestPollerEndsAndBegins: a call that comes while the goroutine ends is served as well.
func TestPollerEndsAndBegins(t *testing.T) {
	const callers, rounds = 3, 60
	for name, opt := range pollingOptions {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t, opt)
			moment := func() time.Duration { return rand.N(time.Millisecond) }
			var all sync.WaitGroup
			for typ := range int64(callers) {
				all.Go(func() {
					for range rounds {
						ctx, cancel := context.WithTimeout(ctxWithin(t), moment())
						if _, err := q.Receive(ctx, chanmq.OfType(typ+1)); !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("Receive of nothing: %v", err)
						}
						cancel()
						sent := make(chan error, 1)
						time.AfterFunc(moment(), func() { sent <- q.Send(ctxWithin(t), typ+1, nil) })
						if _, err := q.Receive(ctxWithin(t), chanmq.OfType(typ+1)); err != nil {
							t.Errorf("Receive: %v", err)
						}
						if err := <-sent; err != nil {
							t.Errorf("Send: %v", err)
						}
					}
				})
			}
			all.Wait()
			untilRest(t, q)
		})
	}
}

// TestPollerServesSendsAndReceives moves messages through a queue that is full
// most of the time, by calls that are all polled, some of which are cancelled.
func TestPollerServesSendsAndReceives(t *testing.T) {
	const senders, types, each = 6, 3, 150
	for name, opt := range pollingOptions {
		t.Run(name, func(t *testing.T) {
			_, counted := limitParking(t, sysv.Host(), 0)
			q := newQueue(t, opt, counted)
			var sending, receiving sync.WaitGroup
			for sender := range senders {
				sending.Go(func() {
					text := make([]byte, 3000) // of which five fit
					for n := 0; n < each; {
						ctx, cancel := context.WithTimeout(ctxWithin(t), 10*time.Millisecond+rand.N(200*time.Millisecond))
						copy(text, number(sender*each+n))
						err := q.Send(ctx, int64(1+sender%types), text)
						cancel()
						switch {
						case err == nil:
							n++
						case !errors.Is(err, context.DeadlineExceeded) || t.Context().Err() != nil:
							t.Errorf("Send: %v", err)
							return
						}
					}
				})
			}
			var came [senders * each]atomic.Int32
			for typ := range types {
				for range 2 {
					receiving.Go(func() {
						for m, err := range q.Messages(ctxWithin(t), chanmq.OfType(int64(typ+1))) {
							if err != nil {
								if !errors.Is(err, chanmq.ErrClosed) {
									t.Errorf("Receive: %v", err)
								}
								return
							}
							came[numberOf(m.Value[:4])].Add(1)
						}
					})
				}
			}
			sending.Wait()
			untilTaken(t, q, 0)
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			receiving.Wait()
			for n := range came {
				if times := came[n].Load(); times != 1 {
					t.Errorf("message %d came %d times", n, times)
				}
			}
		})
	}
}

// TestManyReceiversOfOneQueue: each gets its message, most of them without a
// thread.
func TestManyReceiversOfOneQueue(t *testing.T) {
	const receivers = 2000
	for name, c := range map[string]struct {
		opt    chanmq.Option
		parked int
	}{
		"WithMaxParked": {chanmq.WithMaxParked(128), 128},
		"WithPolling":   {pollingOptions["WithPolling"], 0},
	} {
		t.Run(name, func(t *testing.T) {
			parking, counted := limitParking(t, sysv.Host(), c.parked)
			q := newQueue(t, c.opt, counted)
			ctx := ctxWithin(t)
			came := make(chan int64, receivers)
			for n := range receivers {
				go func() {
					m, err := q.Receive(ctx, chanmq.OfType(int64(n+1)))
					if err != nil {
						t.Errorf("receiver %d: %v", n, err)
					}
					came <- m.Type
				}()
			}
			untilPolled(t, q, receivers-c.parked)
			parking.until(t, c.parked)
			for _, n := range rand.Perm(receivers) {
				if err := q.Send(ctx, int64(n+1), nil); err != nil {
					t.Fatal(err)
				}
			}
			var seen [receivers]bool
			for range receivers {
				if typ := <-came; typ > 0 && !seen[typ-1] {
					seen[typ-1] = true
				} else {
					t.Errorf("type %d came again", typ)
				}
			}
			wantNone(t, q)
		})
	}
}

// TestBusyTypeKeepsNobodyWaiting: while messages of one type come as fast as many
// calls take them, those of another type come as well.
func TestBusyTypeKeepsNobodyWaiting(t *testing.T) {
	q := newQueue(t, pollingOptions["WithPolling"])
	ctx, cancel := context.WithCancel(ctxWithin(t))
	defer cancel()
	var flood atomic.Int64
	var busy sync.WaitGroup
	for range 16 {
		busy.Go(func() {
			for m, err := range q.Messages(ctx, chanmq.OfType(1)) {
				if err != nil || m.Type != 1 {
					return
				}
				flood.Add(1)
			}
		})
	}
	other := attach(t, q.ID())
	text := make([]byte, 100) // of which 163 fit: the queue is never long
	for range 2 {
		busy.Go(func() {
			for other.Send(ctx, 1, text) == nil {
			}
		})
	}
	for n := range 50 {
		received := make(chan error, 1)
		go func() {
			m, err := q.Receive(ctx, chanmq.OfType(2))
			if err == nil && numberOf(m.Value) != n {
				err = fmt.Errorf("received %d, want %d", numberOf(m.Value), n)
			}
			received <- err
		}()
		before := flood.Load()
		testkit.Eventually(t, "messages of the busy type", func() bool { return flood.Load() > before+100 })
		if err := other.Send(ctx, 2, number(n)); err != nil {
			t.Fatal(err)
		}
		if err := <-received; err != nil {
			t.Fatalf("message %d, while %d of the other type came: %v", n, flood.Load(), err)
		}
	}
	cancel()
	busy.Wait()
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
