//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/inject"
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

func (k parkingKernel) Handle() sysv.Kernel { return k }

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
