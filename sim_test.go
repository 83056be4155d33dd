package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
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
)

// The tests of this file run on the simulated kernel, in a synctest bubble: time
// passes at once, calls can be counted and made to fail, and everything must
// come to rest, or the bubble says that it is deadlocked.

// machine is a simulated kernel with the process that a test is about, and
// another one that has no faults and is not counted.
type machine struct {
	*simq.Kernel
	self, peer *simq.Process

	mu    sync.Mutex
	fault func(n int, c simq.Call) error // asked at the process's n-th call, from 1; guarded by mu
	calls map[simq.Op]int                // of the process; guarded by mu
	total int                            // of the process; guarded by mu
}

// tooManyCalls is what no test of the sweeps needs: something is spinning.
const tooManyCalls = 50_000

// onMachine runs a test in a bubble.
func onMachine(t *testing.T, test func(*testing.T, *machine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := simq.New()
		m := &machine{Kernel: k, self: k.Process(500, 500), peer: k.Process(0, 0), calls: make(map[simq.Op]int)}
		k.SetHooks(simq.Hooks{Fault: m.called})
		test(t, m)
	})
}

func (m *machine) called(c simq.Call) error {
	if c.PID != m.self.PID() {
		return nil
	}
	m.mu.Lock()
	m.calls[c.Op]++
	m.total++
	n, fault := m.total, m.fault
	m.mu.Unlock()
	if fault == nil {
		return nil
	}
	if n > tooManyCalls {
		panic(fmt.Sprintf("a busy loop, at %+v", c))
	}
	return fault(n, c)
}

// faults sets what happens at the process's calls, which are counted anew.
func (m *machine) faults(fault func(n int, c simq.Call) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault, m.total = fault, 0
	clear(m.calls)
}

// during returns how many calls the process makes while f runs.
func (m *machine) during(f func()) int {
	m.faults(nil)
	f()
	return m.count()
}

// count returns how many calls the process has made.
func (m *machine) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

// then sets what happens at the process's calls from now on.
func (m *machine) then(fault func(n int, c simq.Call) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

func (m *machine) option() chanmq.Option { return inject.Kernel(m.self).(chanmq.Option) }

// private opens a queue, which the test closes at its end. Spinning would only
// make calls that cannot be told apart.
func (m *machine) private(t *testing.T, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Private(0o600, append([]chanmq.Option{m.option(), chanmq.WithSpin(0)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() }) // what it returns the test has looked at
	return q
}

func text(n int) []byte { return []byte(strconv.Itoa(n)) }

func numberIn(text []byte) int {
	n, err := strconv.Atoi(string(text))
	if err != nil {
		panic(err)
	}
	return n
}

// put lets the other process send.
func (m *machine) put(id, typ int, text []byte) error {
	msg := append(sysv.Buffer(0), text...)
	sysv.PutType(msg, typ)
	return m.peer.Send(id, msg)
}

// take lets the other process receive; false if there is nothing.
func (m *machine) take(id int) ([]byte, bool) {
	buf := sysv.Buffer(8192)
	n, err := m.peer.Receive(id, buf, 0, 0)
	return buf[sysv.HeaderSize:][:n], err == nil
}

// Where a message can be. A message is in one place.
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
	ctx    context.Context
	cancel context.CancelFunc
	q      *chanmq.Queue[[]byte]
	id     int                      // of the queue at first
	closed atomic.Bool              // the handle is closed before the scenario ends
	ended  []*chanmq.Sender[[]byte] // then: those whose Unsent is still to be asked for
	others sync.WaitGroup           // what else the scenario does; finish waits for it

	used int // how many numbers were given out; guarded by ledger.mu
}

// puts lets the other process send the next numbers, in texts of size bytes.
func (w *work) puts(typ, count, size int) {
	for range count {
		n := w.next()
		if err := w.put(w.id, typ, fmt.Appendf(nil, "%0*d", size, n)); err != nil {
			w.at(n, "refused")
		}
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

// unsent asks a Sender that has ended for what it did not send. If the handle is
// closed early, that tells too, but not of what C's buffer took behind it.
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
		w.at(numberIn(text), "in the queue")
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

// takesSlowly makes the queue small, and lets the other process take a message
// every second for a while.
func (w *work) takesSlowly() {
	if err := w.peer.Set(w.id, sysv.Attr{UID: 500, GID: 500, Mode: 0o600, MaxBytes: 3}); err != nil {
		w.Error(err)
	}
	w.others.Go(func() {
		for range 8 {
			time.Sleep(time.Second)
			if text, ok := w.take(w.id); ok {
				w.at(numberIn(text), "taken")
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
}

// runWith runs a scenario once, with something that happens at its calls. It
// returns how many calls there were.
func runWith(t *testing.T, opts []chanmq.Option, scenario func(*work), mayVanish bool, fault func(w *work, n int, c simq.Call) error) (calls int) {
	t.Helper()
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, opts...)
		w := &work{T: t, machine: m, q: q, id: q.ID()}
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
// over and over again. The long forms of fault_test.go raise it.
var sweepCalls = func() int { return 80 }

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

// TestEveryCallFails lets every system call fail in turn, with every error. No
// message is lost or comes twice, and everything ends.
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

// TestEverythingEndsAtEveryCall lets the program or somebody else end things
// just before a system call, which is where luck would hide a race.
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

// receiving starts a Receive, and returns when it waits.
func receiving(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := q.Receive(ctx, s)
		ended <- err
	}()
	synctest.Wait()
	return ended
}

// wantMessages receives numbers in this order, without waiting, and nothing more.
func wantMessages(t *testing.T, q *chanmq.Queue[[]byte], numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		m, ok, err := q.TryReceive(chanmq.Any())
		if !ok || err != nil || numberIn(m.Value) != n {
			t.Errorf("received %q, %v, %v, want %d", m.Value, ok, err, n)
			return
		}
	}
	if m, ok, err := q.TryReceive(chanmq.Any()); ok || err != nil {
		t.Errorf("received %q, %v, want nothing more", m.Value, err)
	}
}

func (m *machine) puts(t *testing.T, id, typ int, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		if err := m.put(id, typ, text(n)); err != nil {
			t.Error(err)
		}
	}
}

// TestCancelAndMessageAtOnce lets a message and the end of ctx come at the same
// time, in both orders. Either the call has the message, or the queue.
func TestCancelAndMessageAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		first string
		want  error
	}{
		"message first": {"message", nil},
		"cancel first":  {"cancel", context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := receiving(ctx, q, chanmq.Any())
				if c.first == "message" {
					m.puts(t, q.ID(), 1, 0)
					cancel()
				} else {
					cancel()
					synctest.Wait()
					m.puts(t, q.ID(), 1, 0)
				}
				if err := <-ended; !errors.Is(err, c.want) {
					t.Errorf("Receive: %v", err)
				}
				if c.want != nil {
					wantMessages(t, q, 0)
				} else {
					wantMessages(t, q)
				}
			})
		})
	}
}

// TestReceiverTakesNoMoreThanItHasRoomFor: C's buffer and one message, however
// messages come: at once, one by one, or whenever the Receiver looks for one
// behind another.
func TestReceiverTakesNoMoreThanItHasRoomFor(t *testing.T) {
	const messages = 150
	for _, buffer := range []int{0, 1, 5, 63, 64, 100} {
		for way, come := range map[string]func(t *testing.T, m *machine, id int){
			"at once": func(t *testing.T, m *machine, id int) {
				for n := range messages {
					m.puts(t, id, 1, n)
				}
			},
			"one by one": func(t *testing.T, m *machine, id int) {
				for n := range messages {
					m.puts(t, id, 1, n)
					synctest.Wait()
				}
			},
			"when it looks": func(t *testing.T, m *machine, id int) {
				sent := 0
				m.faults(func(_ int, c simq.Call) error {
					if c.Op == simq.Receive && sent < messages {
						m.puts(t, id, 1, sent)
						sent++
					}
					return nil
				})
				synctest.Wait()
				m.faults(nil)
				for ; sent < messages; sent++ {
					m.puts(t, id, 1, sent)
				}
			},
		} {
			t.Run(fmt.Sprintf("buffer %d, messages %s", buffer, way), func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t)
					r := q.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(buffer))
					synctest.Wait()
					come(t, m, q.ID())
					for read := 0; read < messages; read++ {
						synctest.Wait()
						stat, err := q.Stat()
						if err != nil {
							t.Fatal(err)
						}
						want := min(read+buffer+1, messages)
						if taken := messages - stat.Messages; taken != want {
							t.Fatalf("when %d messages have been read, %d are taken, want %d", read, taken, want)
						}
						if m := <-r.C(); numberIn(m.Value) != read {
							t.Fatalf("message %d came as number %d", numberIn(m.Value), read)
						}
					}
				})
			})
		}
	}
}

// TestMessageBeatsInterrupt lets the message come when the signal is on its way:
// what the kernel has given to a thread is returned, whatever else it is told.
func TestMessageBeatsInterrupt(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := receiving(ctx, q, chanmq.Any())
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Interrupt {
				m.puts(t, q.ID(), 1, 7)
			}
			return nil
		})
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Receive: %v", err)
		}
		wantMessages(t, q)
	})
}

// TestInterruptsAreLost loses the first of the signals that end a call, as those
// are that come before the thread is in it.
func TestInterruptsAreLost(t *testing.T) {
	for _, lost := range []int{1, 2, 10, 100} {
		for name, end := range map[string]func(context.CancelFunc, *chanmq.Queue[[]byte]){
			"cancel": func(cancel context.CancelFunc, _ *chanmq.Queue[[]byte]) { cancel() },
			"Close":  func(_ context.CancelFunc, q *chanmq.Queue[[]byte]) { _ = q.Close() },
		} {
			t.Run(fmt.Sprint(name, ", ", lost), func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					ended := receiving(ctx, q, chanmq.Any())
					interrupts := 0
					m.faults(func(_ int, c simq.Call) error {
						if c.Op != simq.Interrupt {
							return nil
						}
						if interrupts++; interrupts <= lost {
							return errors.New("lost")
						}
						return nil
					})
					start := time.Now()
					end(cancel, q)
					if err := <-ended; err == nil {
						t.Error("Receive returned no error")
					}
					if interrupts != lost+1 {
						t.Errorf("%d interrupts, want %d", interrupts, lost+1)
					}
					// They are 10 ms apart at most.
					if took := time.Since(start); took > time.Duration(lost)*10*time.Millisecond {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
}

// TestThreadsThatCannotBeInterrupted are not parked: calls poll until they can.
func TestThreadsThatCannotBeInterrupted(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t)
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Enter {
				return sysv.EPERM
			}
			return nil
		})
		ended := receiving(t.Context(), q, chanmq.Any())
		if m.Asleep() != 0 {
			t.Fatal("it is asleep all the same")
		}
		start := time.Now()
		m.puts(t, q.ID(), 1, 0)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > pollMax {
			t.Errorf("the message came after %v", took)
		}
		m.faults(nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended = receiving(ctx, q, chanmq.Any())
		if m.Asleep() != 1 {
			t.Errorf("%d calls are asleep behind the fault, want 1", m.Asleep())
		}
		cancel()
		<-ended
	})
}

// TestHandBackWakesTheOneWhoWaits gives what a Receiver held to a call that is
// parked already, at once.
func TestHandBackWakesTheOneWhoWaits(t *testing.T) {
	for way, opts := range ways {
		t.Run(way, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, opts...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				m.puts(t, q.ID(), 2, 0)
				r := q.Receiver(ctx, chanmq.Any())
				synctest.Wait() // it holds the message
				ended := receiving(t.Context(), q, chanmq.Except(1))
				start := time.Now()
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > 0 {
					t.Errorf("it took %v of a clock that need not move", took)
				}
				<-r.Done()
			})
		})
	}
}

// TestEndsOfAReceiver is the matrix of what a Receiver holds and how it ends, one
// way alone and two at once. What was not read comes next, in order.
func TestEndsOfAReceiver(t *testing.T) {
	type receiver struct {
		q      *chanmq.Queue[[]byte]
		r      *chanmq.Receiver[[]byte]
		cancel context.CancelFunc
	}
	ends := map[string]func(receiver){
		"cancel": func(r receiver) { r.cancel() },
		"Close":  func(r receiver) { _ = r.r.Close() },
		"Drain":  func(r receiver) { _ = r.r.Drain(context.Background()) },
	}
	const count = 6
	for _, buffer := range []int{0, 1, 3, 10} {
		for _, read := range []int{0, 1, 2, count} {
			for first, one := range ends {
				for second, other := range ends {
					for way, opts := range ways {
						name := fmt.Sprintf("buffer %d, %d read, %s and %s, %s", buffer, read, first, second, way)
						t.Run(name, func(t *testing.T) {
							onMachine(t, func(t *testing.T, m *machine) {
								q := m.private(t, opts...)
								for n := range count {
									m.puts(t, q.ID(), 1, n)
								}
								ctx, cancel := context.WithCancel(t.Context())
								r := receiver{q, q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer)), cancel}
								next := 0
								get := func() bool {
									message, ok := <-r.r.C()
									if ok {
										if n := numberIn(message.Value); n != next {
											t.Errorf("C: %d, want %d", n, next)
										}
										next++
									}
									return ok
								}
								for range read {
									get()
								}
								synctest.Wait()
								go one(r)
								go other(r)
								synctest.Wait()
								for get() {
								}
								<-r.r.Done()
								synctest.Wait()
								var rest []int
								for n := next; n < count; n++ {
									rest = append(rest, n)
								}
								wantMessages(t, q, rest...)
								if m.Asleep() != 0 {
									t.Errorf("%d calls are still asleep", m.Asleep())
								}
								cancel()
							})
						})
					}
				}
			}
		}
	}
}

// TestEndsOfAHandle closes or removes a queue on which everything waits.
func TestEndsOfAHandle(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*machine, *chanmq.Queue[[]byte])
		want error
	}{
		"Close":  {func(_ *machine, q *chanmq.Queue[[]byte]) { _ = q.Close() }, chanmq.ErrClosed},
		"Remove": {func(_ *machine, q *chanmq.Queue[[]byte]) { _ = q.Remove() }, chanmq.ErrRemoved},
		"ipcrm":  {func(m *machine, q *chanmq.Queue[[]byte]) { _ = m.peer.Remove(q.ID()) }, chanmq.ErrRemoved},
	} {
		for way, opts := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t, opts...)
					if err := q.Set(chanmq.Attr{MaxBytes: 1}); err != nil {
						t.Fatal(err)
					}
					m.puts(t, q.ID(), 9, 0) // it is full
					var errs []func() error
					for range 3 {
						received := receiving(t.Context(), q, chanmq.OfType(1))
						sent := make(chan error, 1)
						go func() { sent <- q.Send(t.Context(), 1, text(1)) }()
						r, s := q.Receiver(t.Context(), chanmq.OfType(2)), q.Sender(t.Context())
						s.C() <- chanmq.Message[[]byte]{Type: 1, Value: text(2)}
						errs = append(errs,
							func() error { return <-received },
							func() error { return <-sent },
							func() error { <-r.Done(); return r.Err() },
							func() error { <-s.Done(); _ = s.Unsent(); return s.Err() })
					}
					synctest.Wait()
					start := time.Now()
					c.end(m, q)
					for _, err := range errs {
						if err := err(); !errors.Is(err, c.want) {
							t.Errorf("%v, want %v", err, c.want)
						}
					}
					// Removal is seen by the next poll, the rest at once.
					if took := time.Since(start); took > pollMax {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
}

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

// TestManyReceiversCostNoMoreThanOne: beyond those that park, one goroutine
// looks for all of them.
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

// TestReopenPauses looks at how a handle looks for its queue while it is away:
// pauses that double from 10 ms to 1 s, at random between a half and the whole.
func TestReopenPauses(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		const key = 42
		if _, err := m.peer.Get(key, sysv.Create|0o666); err != nil {
			t.Fatal(err)
		}
		q, err := chanmq.Open(key, m.option(), chanmq.WithReopen())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		ended := receiving(t.Context(), q, chanmq.Any())
		if err := m.peer.Remove(q.ID()); err != nil {
			t.Fatal(err)
		}
		var looks []time.Time
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Get {
				looks = append(looks, time.Now())
			}
			return nil
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		pause := 10 * time.Millisecond
		same := 0
		for i := 1; i < len(looks); i++ {
			gap := looks[i].Sub(looks[i-1])
			if gap < pause/2 || gap > pause {
				t.Errorf("pause %d was %v, want %v to %v", i, gap, pause/2, pause)
			}
			if i > 1 && gap == looks[i-1].Sub(looks[i-2]) {
				same++
			}
			pause = min(2*pause, time.Second)
		}
		if n := len(looks); n < 3600 || n > 7300 {
			t.Errorf("%d looks in an hour, want one in 0.5 to 1 s", n)
		}
		if same > len(looks)/10 {
			t.Errorf("%d of %d pauses are like the one before: they are not random", same, len(looks))
		}
		if calls := m.count(); calls > 3*len(looks) {
			t.Errorf("%d calls for %d looks", calls, len(looks))
		}
		t.Logf("an hour: %d looks, %d calls", len(looks), m.count())

		m.faults(nil)
		id, err := m.peer.Get(key, sysv.Create|0o666)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		m.puts(t, id, 1, 0)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("the new queue was found after %v", took)
		}
	})
}

// TestReopenOfMany bounds what the waits of one handle cost together.
func TestReopenOfMany(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		const key, waits = 42, 100
		if _, err := m.peer.Get(key, sysv.Create|0o666); err != nil {
			t.Fatal(err)
		}
		q, err := chanmq.Open(key, m.option(), chanmq.WithReopen())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		var all []<-chan error
		for range waits {
			all = append(all, receiving(t.Context(), q, chanmq.Any()))
		}
		if err := m.peer.Remove(q.ID()); err != nil {
			t.Fatal(err)
		}
		calls := m.during(func() { time.Sleep(time.Hour) })
		if most := 3 * 7300 * waits; calls > most {
			t.Errorf("%d calls in an hour, at most %d are due", calls, most)
		}
		t.Logf("%d calls in an hour, of %d waits", calls, waits)
		id, err := m.peer.Get(key, sysv.Create|0o666)
		if err != nil {
			t.Fatal(err)
		}
		for n := range waits {
			m.puts(t, id, 1, n)
		}
		for _, ended := range all {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestLimitIsRaisedBehindTheRefusal raises msgmax between a send that was too
// large and the look at why: EINVAL is what a removed queue says too.
func TestLimitIsRaisedBehindTheRefusal(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t)
		m.SetLimits(sysv.Limits{MaxMessage: 10})
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Limits {
				m.SetLimits(sysv.Limits{MaxMessage: 8192})
			}
			return nil
		})
		if err := q.Send(t.Context(), 1, make([]byte, 11)); !errors.Is(err, chanmq.ErrTooLarge) || errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("Send: %v, want ErrTooLarge", err)
		}
		if err := q.Send(t.Context(), 1, make([]byte, 11)); err != nil {
			t.Error(err)
		}
	})
}
