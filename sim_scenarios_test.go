package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

// These tests run scenarios of sends and receives again and again, and disturb
// another system call each time. Whatever happens, every message must be in
// exactly one place afterwards, and everything must end.

// ledger is where each message was found. A message is in one place.
type ledger struct {
	mu     sync.Mutex
	places map[int][]string // guarded by mu
}

func (l *ledger) at(n int, place string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.places == nil {
		l.places = make(map[int][]string)
	}
	l.places[n] = append(l.places[n], place)
}

func (l *ledger) has(n int, place string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.places[n], place)
}

// check demands each of 0 to count-1 once.
func (l *ledger) check(t *testing.T, count int, mayVanish bool) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	for n := range count {
		if at := l.places[n]; len(at) > 1 || len(at) == 0 && !mayVanish {
			t.Errorf("message %d of %d is at %q", n, count, at)
		}
	}
	for n := range l.places {
		if n < 0 || n >= count {
			t.Errorf("message %d was never sent", n)
		}
	}
}

// work is one run of a scenario.
type work struct {
	*testing.T
	*machine
	ledger
	ctx     context.Context
	cancel  context.CancelFunc
	q       *chanmq.Queue[[]byte]
	id      int                      // of the queue at first
	packing bool                     // the handle has WithPacking
	closed  atomic.Bool              // the handle is closed before the scenario ends
	ended   []*chanmq.Sender[[]byte] // then: those whose Unsent is still to be asked for
	others  sync.WaitGroup           // what else the scenario does; finish waits for it

	used int // how many numbers were given out; guarded by ledger.mu
}

// puts lets the other process send the next numbers, in texts of size bytes. With packing
// they are in packs of up to three.
func (w *work) puts(typ, count, size int) {
	most := 1
	if w.packing {
		most = 3
	}
	for count > 0 {
		var numbers []int
		var texts [][]byte
		for range min(count, most) {
			n := w.next()
			numbers, texts = append(numbers, n), append(texts, fmt.Appendf(nil, "%0*d", size, n))
		}
		text := texts[0]
		if len(texts) > 1 {
			text = packOf(texts...)
		}
		if err := w.put(w.id, typ, text); err != nil {
			for _, n := range numbers {
				w.at(n, "refused")
			}
		}
		count -= len(texts)
	}
}

// next returns the next number to send.
func (w *work) next() int {
	w.ledger.mu.Lock()
	defer w.ledger.mu.Unlock()
	w.used++
	return w.used - 1
}

func (w *work) got(m chanmq.Message[[]byte], err error) error {
	if err == nil {
		w.at(numberIn(m.Value), "received")
	}
	return err
}

// read reads up to n values.
func (w *work) read(r *chanmq.Receiver[[]byte], n int) {
	for range n {
		m, ok := <-r.C()
		if !ok {
			return
		}
		w.at(numberIn(m.Value), "read from C")
	}
}

// deliveries reads up to n of them.
func (w *work) deliveries(c *chanmq.Consumer[[]byte], n int) (held []chanmq.Delivery[[]byte]) {
	for range n {
		d, ok := <-c.C()
		if !ok {
			break
		}
		held = append(held, d)
	}
	return held
}

// settle acknowledges deliveries, or gives them back.
func (w *work) settle(held []chanmq.Delivery[[]byte], acks ...bool) {
	for i, d := range held {
		if acks[i] {
			w.at(numberIn(d.Value), "acknowledged")
			if err := d.Ack(); err != nil {
				w.Error(err)
			}
			continue
		}
		var left *chanmq.UndeliveredError
		if err := d.Nack(); errors.As(err, &left) {
			w.at(numberIn(d.Value), "undelivered")
		} else if err != nil {
			w.Error(err)
		}
	}
}

// unsent asks a Sender that has ended for what it did not send. If the handle is
// closed early, its Close reports that too, except what C's buffer took afterwards.
func (w *work) unsent(s *chanmq.Sender[[]byte]) {
	if w.closed.Load() {
		w.ended = append(w.ended, s)
		return
	}
	for _, m := range s.Unsent() {
		w.at(numberIn(m.Value), "unsent")
	}
}

// close closes the handle.
func (w *work) close() {
	var left *chanmq.UndeliveredError
	if err := w.q.Close(); errors.As(err, &left) {
		for _, m := range left.Messages {
			w.at(numberIn(m.Value), "undelivered")
		}
	}
}

// finish closes the handle, and finds what is in no other place.
func (w *work) finish() {
	w.others.Wait()
	w.close()
	for _, s := range w.ended {
		for _, m := range s.Unsent() {
			if n := numberIn(m.Value); !w.has(n, "undelivered") {
				w.at(n, "unsent")
			}
		}
	}
	for {
		text, ok := w.take(w.id)
		if !ok {
			return
		}
		for _, value := range valuesOf(text) {
			w.at(numberIn(value), "in the queue")
		}
	}
}

type scenario struct {
	name string
	run  func(*work)
}

// scenarios are what the sweeps disturb. All of them end by themselves within
// minutes of the bubble's time.
var scenarios = []scenario{
	{"receive", func(w *work) {
		w.puts(1, 2, 0)
		w.puts(2, 3, 0)
		w.puts(1, 2, 0)
		_ = w.got(w.q.Receive(w.ctx, chanmq.Any()))
		_ = w.got(w.q.Receive(w.ctx, chanmq.OfType(2)))
		if m, ok, err := w.q.TryReceive(chanmq.UpTo(2)); ok {
			_ = w.got(m, err)
		}
		var m chanmq.Message[[]byte]
		_ = w.got(m, w.q.ReceiveInto(w.ctx, chanmq.Except(9), &m))
		for m, err := range w.q.Messages(w.ctx, chanmq.OfType(2)) {
			_ = w.got(m, err)
			break
		}
	}},
	{"receive that waits", func(w *work) {
		w.others.Go(func() {
			for range 3 {
				time.Sleep(time.Second)
				w.puts(1, 1, 0)
			}
		})
		for range 3 {
			_ = w.got(w.q.Receive(w.ctx, chanmq.Any()))
		}
		ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
		defer cancel()
		_ = w.got(w.q.Receive(ctx, chanmq.Any()))
	}},
	{"packs for those who wait", func(w *work) {
		ctx, cancel := context.WithTimeout(w.ctx, 500*time.Millisecond)
		defer cancel()
		w.others.Go(func() {
			for range 3 {
				time.Sleep(100 * time.Millisecond)
				w.puts(1, 3, 0)
			}
		})
		var wg sync.WaitGroup
		for _, s := range []chanmq.Selector{chanmq.OfType(1), chanmq.Any()} {
			wg.Go(func() { w.read(w.q.Receiver(ctx, s), 10) })
			wg.Go(func() {
				for w.got(w.q.Receive(ctx, s)) == nil {
				}
			})
		}
		wg.Wait()
	}},
	{"receive that grows its buffer", func(w *work) {
		for _, size := range []int{100, 300, 3000} {
			w.puts(1, 1, size)
		}
		for range 3 {
			_ = w.got(w.q.Receive(w.ctx, chanmq.Any()))
		}
		w.others.Go(func() {
			time.Sleep(time.Second)
			w.puts(1, 1, 7000)
		})
		for range 2 {
			_ = w.got(w.q.Receive(w.ctx, chanmq.Any()))
		}
	}},
	{"send", func(w *work) {
		w.takesSlowly()
		for range 8 {
			n := w.next()
			if err := w.q.Send(w.ctx, 1, text(n)); err != nil {
				w.at(n, "refused")
			}
		}
		for range 6 {
			n := w.next()
			if sent, _ := w.q.TrySend(1, text(n)); !sent {
				w.at(n, "refused")
			}
		}
		w.others.Wait()
	}},
	{"batches", func(w *work) {
		w.takesSlowly()
		w.puts(1, 4, 0)
		into := make([]chanmq.Message[[]byte], 3)
		receive := func() {
			ctx, cancel := context.WithTimeout(w.ctx, time.Minute)
			defer cancel()
			n, _ := w.q.ReceiveBatch(ctx, chanmq.Any(), into)
			for _, m := range into[:n] {
				_ = w.got(m, nil)
			}
		}
		receive()
		receive()
		for _, count := range []int{1, 10, 5} {
			var values [][]byte
			var numbers []int
			for range count {
				n := w.next()
				values, numbers = append(values, text(n)), append(numbers, n)
			}
			sent, _ := w.q.SendAll(w.ctx, 1, values)
			for _, n := range numbers[sent:] {
				w.at(n, "refused")
			}
		}
		w.others.Wait()
	}},
	{"Receiver", func(w *work) {
		w.puts(1, 8, 0)
		r := w.q.Receiver(w.ctx, chanmq.Any(), chanmq.WithBuffer(2))
		w.read(r, 3)
		_ = r.Close()
		_ = w.got(w.q.Receive(w.ctx, chanmq.Any()))
		ctx, cancel := context.WithCancel(w.ctx)
		r = w.q.Receiver(ctx, chanmq.Any())
		w.read(r, 1)
		synctest.Wait()
		cancel()
		r = w.q.Receiver(w.ctx, chanmq.OfType(1), chanmq.WithBuffer(1))
		synctest.Wait()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_ = r.Drain(w.ctx)
		}()
		synctest.Wait()
		w.read(r, 2)
		<-drained
		w.puts(1, 3, 0)
		w.read(w.q.Receiver(w.ctx, chanmq.Any(), chanmq.WithBuffer(1)), 1)
		synctest.Wait() // the rest is for Close of the queue
	}},
	{"Consumer", func(w *work) {
		w.puts(1, 10, 0)
		c := w.q.Consumer(w.ctx, chanmq.Any(), chanmq.WithInFlight(3))
		held := w.deliveries(c, 3)
		w.settle(held, true, false, true)
		w.settle(w.deliveries(c, 2), false, true)
		_ = c.Close()
		held = nil
		for range 2 {
			if d, err := w.q.Take(w.ctx, chanmq.OfType(1)); err == nil {
				held = append(held, d)
			}
		}
		ctx, cancel := context.WithCancel(w.ctx)
		c = w.q.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(2), chanmq.WithBuffer(0))
		w.settle(w.deliveries(c, 1), true)
		synctest.Wait()
		cancel()
		w.settle(held, false, false)
		c = w.q.Consumer(w.ctx, chanmq.OfType(1))
		synctest.Wait()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_ = c.Drain(w.ctx)
		}()
		synctest.Wait()
		w.settle(w.deliveries(c, 1), true)
		<-drained
		w.puts(1, 3, 0)
		held = w.deliveries(w.q.Consumer(w.ctx, chanmq.Any(), chanmq.WithInFlight(3)), 1)
		synctest.Wait()
		w.close() // has the rest
		w.settle(held, false)
	}},
	{"Consumers that wait", func(w *work) {
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		w.others.Go(func() {
			for n := range 6 {
				time.Sleep(time.Second / 2)
				w.puts(1+n%2, 1, 0)
			}
		})
		var wg sync.WaitGroup
		for _, s := range []chanmq.Selector{chanmq.OfType(1), chanmq.OfType(2), chanmq.Any()} {
			wg.Go(func() {
				c := w.q.Consumer(ctx, s)
				for n := 0; ; n++ {
					held := w.deliveries(c, 1)
					if held == nil {
						return
					}
					time.Sleep(time.Second / 4) // it waits for this
					w.settle(held, n%3 > 0)
				}
			})
		}
		wg.Wait()
		time.Sleep(time.Minute)
	}},
	{"Receivers that wait", func(w *work) {
		ctx, cancel := context.WithTimeout(w.ctx, 5*time.Second)
		defer cancel()
		w.others.Go(func() {
			for n := range 4 {
				time.Sleep(time.Second)
				w.puts(1+n%2, 1, 0)
			}
		})
		var wg sync.WaitGroup
		for _, s := range []chanmq.Selector{chanmq.OfType(1), chanmq.OfType(2), chanmq.Any()} {
			wg.Go(func() { w.read(w.q.Receiver(ctx, s), 10) })
		}
		wg.Wait()
		time.Sleep(time.Minute)
	}},
	{"Sender", func(w *work) {
		w.takesSlowly()
		s := w.q.Sender(w.ctx, chanmq.WithBuffer(2))
		w.offer(s, 6)
		_ = s.Flush(w.ctx)
		w.offer(s, 4)
		_ = s.Close()
		w.unsent(s)
		s = w.q.Sender(w.ctx)
		w.offer(s, 2)
		close(s.C())
		<-s.Done()
		w.unsent(s)
		s = w.q.Sender(w.ctx, chanmq.WithBuffer(3))
		w.offer(s, 3)
		w.others.Wait() // the rest is for Close of the queue
		if w.closed.Load() {
			w.unsent(s)
		}
	}},
}

// takesSlowly limits the queue to a few messages, and has the other process take one
// every second for a while.
func (w *work) takesSlowly() {
	size := uint64(3)
	if w.packing {
		size = 50 // a pack has half of it at most
	}
	if err := w.peer.Set(w.id, sysv.Attr{UID: 500, GID: 500, Mode: 0o600, MaxBytes: size}); err != nil {
		w.Error(err)
	}
	w.others.Go(func() {
		for range 8 {
			time.Sleep(time.Second)
			if text, ok := w.take(w.id); ok {
				for _, value := range valuesOf(text) {
					w.at(numberIn(value), "taken")
				}
			}
		}
	})
}

// offer sends the next numbers to C, or keeps them.
func (w *work) offer(s *chanmq.Sender[[]byte], count int) {
	for range count {
		n := w.next()
		select {
		case s.C() <- chanmq.Message[[]byte]{Type: 1, Value: text(n)}:
		case <-s.Done():
			w.at(n, "kept")
		}
	}
}

// pollMax is how long a message may wait for a poll, without WithPolling: the
// package's default.
const pollMax = 15 * time.Millisecond

// ways are the ways to wait.
var ways = map[string][]chanmq.Option{
	"parking":  nil,
	"polling":  {chanmq.WithPolling(time.Millisecond, 10*time.Millisecond)},
	"spinning": {chanmq.WithSpin(time.Microsecond)},
	"one park": {chanmq.WithMaxParked(1)},
	"packing":  {chanmq.WithPacking()},
}

// runWith runs a scenario once, with something that happens at its calls. It
// returns how many calls there were.
func runWith(t *testing.T, opts []chanmq.Option, scenario func(*work), mayVanish bool, fault func(w *work, n int, c simq.Call) error) (calls int) {
	t.Helper()
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, opts...)
		w := &work{T: t, machine: m, q: q, id: q.ID(), packing: chanmq.Packs(q)}
		w.ctx, w.cancel = context.WithTimeout(context.Background(), 3*time.Minute)
		defer w.cancel()
		m.faults(func(n int, c simq.Call) error { return fault(w, n, c) })
		scenario(w)
		w.finish()
		synctest.Wait()
		calls = m.count()
		w.check(t, w.used, mayVanish)
	})
	return calls
}

// sweepCalls bounds the sweeps: a way to wait that polls for long does the same
// over and over again. The long form raises it: long_test.go. An emulated processor is ten
// times slower, and the machine is a simulated one: what differs is seen at the first calls.
var sweepCalls = func() int {
	if sysvtest.Emulated() {
		return 20
	}
	return 80
}

// sweep runs every scenario in every way to wait, and again and again with a
// disturbance at the first call, at the second, and so on.
func sweep(t *testing.T, mayVanish bool, disturb func(*work, simq.Call) error) {
	t.Helper()
	for _, scenario := range scenarios {
		for way, opts := range ways {
			t.Run(scenario.name+", "+way, func(t *testing.T) {
				runs := 0
				for at := 1; ; at++ {
					runs++
					calls := runWith(t, opts, scenario.run, mayVanish, func(w *work, n int, c simq.Call) error {
						if n != at {
							return nil
						}
						return disturb(w, c)
					})
					if t.Failed() {
						t.Fatalf("the disturbance was at call %d", at)
					}
					if at > calls || at > sweepCalls() {
						break
					}
				}
				t.Logf("%d runs", runs)
			})
		}
	}
}

// TestEveryCallFails has every system call fail in turn, with every error. No message
// is lost or delivered twice, and everything ends.
func TestEveryCallFails(t *testing.T) {
	for _, errno := range []syscall.Errno{sysv.EINTR, sysv.ENOMEM, sysv.EACCES, sysv.EIDRM, sysv.EINVAL, sysv.ENOSYS} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			sweep(t, false, func(*work, simq.Call) error { return errno })
		})
	}
}

// TestEveryCallFailsFromThenOn is the same for a kernel that does not recover
// before the handle is closed.
func TestEveryCallFailsFromThenOn(t *testing.T) {
	for _, errno := range []syscall.Errno{sysv.ENOMEM, sysv.EACCES, sysv.EIDRM, sysv.EINVAL} {
		t.Run(errno.Error(), func(t *testing.T) {
			t.Parallel()
			sweep(t, false, func(w *work, _ simq.Call) error {
				w.then(func(_ int, c simq.Call) error {
					if c.Op == simq.Interrupt {
						return nil // a signal that never arrives ends no wait
					}
					return errno
				})
				return errno
			})
		})
	}
}

// TestEverythingEndsAtEveryCall has the program or another process end things just
// before each system call in turn, where chance would hide a race.
func TestEverythingEndsAtEveryCall(t *testing.T) {
	for name, c := range map[string]struct {
		mayVanish bool // what stands in the queue
		end       func(*work)
	}{
		"cancel":  {false, func(w *work) { w.cancel() }},
		"Close":   {false, func(w *work) { w.closed.Store(true); w.others.Go(w.close) }},
		"removal": {true, func(w *work) { _ = w.peer.Remove(w.id) }}, // again: it is gone
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sweep(t, c.mayVanish, func(w *work, _ simq.Call) error { c.end(w); return nil })
		})
	}
}

// TestStormOfInterrupts interrupts blocking calls for nothing, seven times of
// eight, as the signals of a profiler or of many children do.
func TestStormOfInterrupts(t *testing.T) {
	for _, scenario := range scenarios {
		for way, opts := range ways {
			t.Run(scenario.name+", "+way, func(t *testing.T) {
				var blocking atomic.Int32
				runWith(t, opts, scenario.run, false, func(_ *work, _ int, c simq.Call) error {
					if !c.Blocking {
						return nil
					}
					if blocking.Add(1)%8 != 0 {
						return sysv.EINTR
					}
					return nil
				})
			})
		}
	}
}
