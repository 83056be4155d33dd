//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

// countStacks returns the number of goroutines that are inside a method of the
// poller.
func countStacks(method string) int {
	stacks := make([]byte, 1<<20)
	for {
		n := runtime.Stack(stacks, true)
		if n < len(stacks) {
			return strings.Count(string(stacks[:n]), "chanmq.(*poller)."+method+"(")
		}
		stacks = make([]byte, 2*len(stacks))
	}
}

// untilPolled waits until n calls wait for a poller to serve them.
func untilPolled(t testing.TB, n int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d calls that a poller serves", n), func() bool { return countStacks("wait") == n })
}

// untilParked waits until n threads sleep in the kernel.
func untilParked(t testing.TB, n int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d threads asleep", n), func() bool { return len(testkit.ThreadsInCalls()) == n })
}

// watchThreads checks that never more than n threads sleep in the kernel, until
// stop is called.
func watchThreads(t testing.TB, n int) (stop func()) {
	t.Helper()
	var stopped atomic.Bool
	var most int
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !stopped.Load() {
			most = max(most, len(testkit.ThreadsInCalls()))
			time.Sleep(100 * time.Microsecond)
		}
	}()
	stop = sync.OnceFunc(func() {
		stopped.Store(true)
		<-done
		if most > n {
			t.Errorf("%d threads slept in the kernel at the same time, %d may", most, n)
		}
	})
	t.Cleanup(stop)
	return stop
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
			q := newQueue(t, limit.opt)
			watchThreads(t, limit.parked)
			var all [receivers]*chanmq.Receiver[[]byte]
			for i := range all {
				all[i] = q.Receiver(ctxWithin(t), chanmq.OfType(int64(i+1)))
			}
			for round := range 10 {
				if round < 2 {
					untilParked(t, limit.parked)
					untilPolled(t, receivers-limit.parked)
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
// is polled takes its place, though nothing comes.
func TestFreedPlaceIsTaken(t *testing.T) {
	for _, polled := range []int{1, 3} {
		t.Run(fmt.Sprint(polled, " polled"), func(t *testing.T) {
			q := newQueue(t, chanmq.WithMaxParked(1))
			watchThreads(t, 1)
			first := q.Receiver(ctxWithin(t), chanmq.OfType(1))
			untilParked(t, 1)
			for i := range polled {
				q.Receiver(ctxWithin(t), chanmq.OfType(int64(i+2)))
			}
			untilPolled(t, polled)
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			untilParked(t, 1)
			untilPolled(t, polled-1)
		})
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
				untilPolled(t, calls)
				if err := c.end(q, cancel); err != nil {
					t.Fatal(err)
				}
				for range calls {
					if err := <-ended; !errors.Is(err, c.want) {
						t.Errorf("a call ended with: %v, want %v", err, c.want)
					}
				}
			})
		}
	}
}

// TestPolledWaitsGetWhatIsHandedBack: of those who wait for it, one, and at once,
// for the next look may be an hour away.
func TestPolledWaitsGetWhatIsHandedBack(t *testing.T) {
	const calls, messages = 50, 7
	q := newQueue(t, chanmq.WithPolling(time.Hour, time.Hour))
	sendNumbers(t, q, 1, 0, messages)
	holder := q.Receiver(ctxWithin(t), chanmq.OfType(1), chanmq.WithBuffer(messages))
	untilPolled(t, 1)
	ctx, cancel := context.WithCancel(ctxWithin(t))
	got, ended := make(chan int, calls), make(chan error, 2*calls)
	for range calls {
		// The messages are for half of them.
		for _, s := range []chanmq.Selector{chanmq.UpTo(5), chanmq.OfType(2)} {
			go func() {
				m, err := q.Receive(ctx, s)
				if err == nil {
					got <- numberOf(m.Value)
				}
				ended <- err
			}()
		}
	}
	untilPolled(t, 1+2*calls)
	if err := holder.Close(); err != nil {
		t.Fatal(err)
	}
	var seen [messages]bool
	for range messages {
		n := <-got
		if seen[n] {
			t.Errorf("message %d came twice", n)
		}
		seen[n] = true
	}
	untilPolled(t, 2*calls-messages)
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
	wantNone(t, q)
}

// TestPollerRests: its goroutine is there only while it has calls to serve.
func TestPollerRests(t *testing.T) {
	for name, opt := range pollingOptions {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t, opt)
			untilRest := func() {
				t.Helper()
				testkit.Eventually(t, "no goroutine that polls", func() bool { return countStacks("run") == 0 })
			}
			if countStacks("run") != 0 {
				t.Error("a goroutine polls for nobody")
			}
			for range 20 {
				r := q.Receiver(ctxWithin(t), chanmq.OfType(1))
				untilPolled(t, 1)
				if n := countStacks("run"); n != 1 {
					t.Errorf("%d goroutines poll", n)
				}
				if err := r.Close(); err != nil {
					t.Fatal(err)
				}
				untilRest()
			}
			// Calls come and go while it ends and begins.
			var callers sync.WaitGroup
			for range 8 {
				callers.Go(func() {
					for range 300 {
						ctx, cancel := context.WithTimeout(ctxWithin(t), rand.N(time.Millisecond))
						if _, err := q.Receive(ctx, chanmq.OfType(1+rand.Int64N(2))); !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("Receive: %v", err)
						}
						cancel()
					}
				})
			}
			callers.Wait()
			untilRest()
			received := make(chan error, 1)
			go func() {
				_, err := q.Receive(ctxWithin(t), chanmq.OfType(1))
				received <- err
			}()
			untilPolled(t, 1)
			if err := q.Send(ctxWithin(t), 1, nil); err != nil {
				t.Fatal(err)
			}
			if err := <-received; err != nil {
				t.Fatal(err)
			}
			untilRest()
		})
	}
}

// TestPollerServesSendsAndReceives moves messages through a queue that is full
// most of the time, by calls that are all polled, some of which are cancelled.
func TestPollerServesSendsAndReceives(t *testing.T) {
	const senders, types, each = 6, 3, 150
	for name, opt := range pollingOptions {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t, opt)
			stop := watchThreads(t, 0)
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
			stop()
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
	const receivers, parked = 2000, 128
	for name, opt := range map[string]chanmq.Option{
		"WithMaxParked": chanmq.WithMaxParked(parked),
		"WithPolling":   pollingOptions["WithPolling"],
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t, opt)
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
			if name == "WithPolling" {
				untilPolled(t, receivers)
			} else {
				untilPolled(t, receivers-parked)
				untilParked(t, parked)
			}
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
	for range 2 {
		busy.Go(func() {
			for other.Send(ctx, 1, nil) == nil {
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
	for { // what the flood left
		if _, ok, err := q.TryReceive(chanmq.Any()); err != nil || !ok {
			break
		}
	}
}

// onGate runs a test on a simulated machine, where calls of types 1 and 2 are
// polled at an interval, and messages of type 9, of somebody else, may stand in
// the queue.
func onGate(t *testing.T, interval time.Duration, test func(t *testing.T, m *machine, id int, received <-chan error)) {
	t.Helper()
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPolling(interval, interval))
		ctx, cancel := context.WithCancel(t.Context())
		received := receiving(ctx, q, chanmq.OfType(1))
		other := receiving(ctx, q, chanmq.OfType(2))
		test(t, m, q.ID(), received)
		cancel()
		if err := <-other; !errors.Is(err, context.Canceled) {
			t.Errorf("the call of type 2 ended with: %v", err)
		}
	})
}

// wantWithin demands that the call of type 1 gets its message in a time that on
// the simulated machine is exact.
func wantWithin(t *testing.T, limit time.Duration, received <-chan error) {
	t.Helper()
	select {
	case err := <-received:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(limit):
		t.Errorf("the message has not come after %v", limit)
	}
}

// TestMessageBehindStrangers: the poller leaves calls untried while the queue looks
// as it did. A message that makes it look no different is found as well.
func TestMessageBehindStrangers(t *testing.T) {
	for _, interval := range []time.Duration{10 * time.Millisecond, 700 * time.Millisecond, 2500 * time.Millisecond, 7300 * time.Millisecond} {
		t.Run(fmt.Sprint("every ", interval), func(t *testing.T) {
			// The stranger's message comes when, and is replaced later.
			for when := time.Duration(0); when < 3*time.Second; when += 370 * time.Millisecond {
				for _, later := range []time.Duration{time.Millisecond, 15 * time.Millisecond, 90 * time.Millisecond, 400 * time.Millisecond, 1100 * time.Millisecond, 4 * time.Second} {
					onGate(t, interval, func(t *testing.T, m *machine, id int, received <-chan error) {
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
		for _, strangers := range []int{0, 1, 5} {
			for _, size := range []int{0, 1, 3000} {
				t.Run(fmt.Sprintf("%s, behind %d of %d bytes", name, strangers, size), func(t *testing.T) {
					const interval = 10 * time.Millisecond
					onGate(t, interval, func(t *testing.T, m *machine, id int, received <-chan error) {
						m.faults(func(_ int, c simq.Call) error { return refused(c) })
						for range strangers {
							if err := m.put(id, 9, make([]byte, size)); err != nil {
								t.Fatal(err)
							}
						}
						time.Sleep(time.Minute)
						m.puts(t, id, 1, 1)
						wantWithin(t, interval, received)
					})
				})
			}
		}
	}
}

// TestStrangersCostLittle: messages that nobody here waits for are looked at once,
// and not for every call.
func TestStrangersCostLittle(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithMaxParked(0))
		const receivers = 500
		for n := range receivers {
			q.Receiver(t.Context(), chanmq.OfType(int64(n+1)))
		}
		for range 50 {
			m.puts(t, q.ID(), receivers+1, 0)
		}
		time.Sleep(time.Minute)
		calls := m.during(func() { time.Sleep(time.Minute) })
		if polls := 60 * 100; calls > polls || calls < polls/2 {
			t.Errorf("%d calls in a minute, one every 10 ms is due", calls)
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
			for busy.Load() < enough && countStacks("wait") < 1+calls {
				runtime.Gosched() // until those that had theirs wait again
			}
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

// inPoller reports whether the calling goroutine is a poller's own.
func inPoller() bool {
	stack := make([]byte, 1<<14)
	return strings.Contains(string(stack[:runtime.Stack(stack, false)]), "chanmq.(*poller).run(")
}
