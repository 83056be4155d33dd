package wait

import (
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, nil)) }

// handle is what the package serves, in small: a queue of a simulated kernel, and
// messages that were handed back.
type handle struct {
	t       testing.TB
	kernel  *simq.Kernel
	process *simq.Process // the one that waits
	peer    *simq.Process // another one, which is not counted
	id      int
	lot     *Lot
	spinner Spinner
	closed  atomic.Bool
	runs    sync.WaitGroup // goroutines that start has begun

	taken        atomic.Int64 // messages, which get their numbers from it
	stats, looks atomic.Int64 // calls of Config.Stat and Config.Types

	mu    sync.Mutex
	slot  []message             // in the order of their numbers; guarded by mu
	fault func(simq.Call) error // of the process's calls; guarded by mu
}

// message is what a receive takes.
type message struct {
	typ, n int
	number int64 // in the order in which they were taken
}

var errClosed = errors.New("the handle is closed")

// newHandle returns a handle that never spins, with a Config that is changed. At the
// end of the test it is closed, and must be at rest.
func newHandle(t testing.TB, change ...func(*Config)) *handle {
	t.Helper()
	k := simq.New()
	h := &handle{t: t, kernel: k, process: k.Process(0, 0), peer: k.Process(0, 0)}
	k.SetHooks(simq.Hooks{Fault: h.called})
	var err error
	if h.id, err = h.process.Get(sysv.KeyPrivate, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{
		PollMin:   time.Millisecond,
		PollMax:   15 * time.Millisecond,
		MaxParked: 128,
		NewThread: h.process.NewThread,
		NewAlarm:  h.process.NewAlarm,
		Stat: func() (sysv.Stat, error) {
			h.stats.Add(1)
			return h.process.Stat(h.id)
		},
		Types: func(most int) map[int64]bool {
			h.looks.Add(1)
			return h.types(most)
		},
	}
	for _, change := range change {
		change(&c)
	}
	h.lot = NewLot(c)
	t.Cleanup(func() {
		h.close()
		h.runs.Wait()
		h.wantRest()
	})
	return h
}

// Ways to wait, as a Config has them. Where the poller looks once an hour, what
// happens within the process must not wait for that.
func parks(*Config)   {}
func polls(c *Config) { c.MaxParked = 0 }
func pollsHourly(c *Config) {
	c.Polling, c.PollMin, c.PollMax = true, time.Hour, time.Hour
}

func remote(c *Config) { c.Remote, c.MaxParked = true, 1 }

var ways = map[string]func(*Config){"parked": parks, "polled": pollsHourly}

// inBubble runs a test for each way to wait, in a synctest bubble.
func inBubble(t *testing.T, test func(t *testing.T, h *handle)) {
	t.Helper()
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { test(t, newHandle(t, way)) })
		})
	}
}

func (h *handle) called(c simq.Call) error {
	if c.PID != h.process.PID() {
		return nil
	}
	h.mu.Lock()
	fault := h.fault
	h.mu.Unlock()
	if fault == nil {
		return nil
	}
	return fault(c)
}

func (h *handle) setFault(fault func(simq.Call) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fault = fault
}

// put lets the other process send messages with the numbers.
func (h *handle) put(typ int, numbers ...int) {
	h.t.Helper()
	for _, n := range numbers {
		msg := sysv.Buffer(1)
		sysv.PutType(msg, typ)
		msg[sysv.HeaderSize] = byte(n)
		if err := h.peer.Send(h.id, msg); err != nil {
			h.t.Fatal(err)
		}
	}
}

// handBack puts a message into the slot, and wakes a wait that it may be for.
func (h *handle) handBack(m message) {
	h.mu.Lock()
	at, _ := slices.BinarySearchFunc(h.slot, m, func(held, m message) int { return int(held.number - m.number) })
	h.slot = slices.Insert(h.slot, at, m)
	h.mu.Unlock()
	h.lot.Wake(int64(m.typ))
}

// find returns the index of the first message in the slot that msgtyp selects, or -1.
func (h *handle) find(msgtyp int) int {
	return slices.IndexFunc(h.slot, func(m message) bool {
		return msgtyp == 0 || m.typ == msgtyp || msgtyp < 0 && m.typ <= -msgtyp
	})
}

func (h *handle) types(most int) map[int64]bool {
	types := make(map[int64]bool)
	buf := sysv.Buffer(100)
	for position := 0; position <= most; position++ {
		if _, err := h.process.Receive(h.id, buf, position, sysv.Copy); err != nil {
			return types
		}
		types[int64(sysv.Type(buf))] = true
	}
	return nil
}

func (h *handle) close() {
	h.closed.Store(true)
	h.lot.Close()
}

// wantRest checks that nothing is left of any wait.
func (h *handle) wantRest() {
	h.t.Helper()
	h.wantLines(0)
	if n := h.lot.Polled(); n != 0 {
		h.t.Errorf("%d waits are polled or in line, want none", n)
	}
	if n := h.parked(); n != 0 {
		h.t.Errorf("%d waits are parked, want none", n)
	}
	if spaces := int64(h.lot.config.MaxParked); h.lot.spaces.TryAcquire(spaces) {
		h.lot.spaces.Release(spaces)
	} else {
		h.t.Error("a space to park was not released")
	}
	if h.lot.Polling() != nil {
		h.t.Error("the poller's goroutine has not ended")
	}
}

// wantLines checks how many lines there are.
func (h *handle) wantLines(n int) {
	h.t.Helper()
	h.lot.lines.mu.Lock()
	defer h.lot.lines.mu.Unlock()
	if got := len(h.lot.lines.byKey); got != n {
		h.t.Errorf("there are %d lines, want %d", got, n)
	}
}

// parked returns how many waits are in the index of those that are parked.
func (h *handle) parked() int {
	h.lot.mu.Lock()
	defer h.lot.mu.Unlock()
	return h.lot.parked.len()
}

// polled returns how many waits the poller has in its index.
func (h *handle) polled() int {
	h.lot.poller.mu.Lock()
	defer h.lot.poller.mu.Unlock()
	return h.lot.poller.waiting.len()
}

// operation is what all operations of a test have in common. It checks that they are
// used as Operation demands: by one goroutine at a time, and not between Suspend and
// Resume, which are paired.
type operation struct {
	h      *handle
	waiter Waiter
	buf    []byte

	using     atomic.Bool
	suspended bool // not guarded: the race detector shows an access out of order

	tries, asked atomic.Int64 // calls of Try and Pending

	// What happens at the steps of a wait; nil: nothing.
	onTry     func() // in Try, when the slot was found empty
	onTried   func() // in Try, when the kernel has said that it must wait
	onTook    func() // when a message was taken, before it has its number
	onSuspend func()
	onPending func() // when it is decided what Pending returns
}

// use begins a use of the operation, and returns what ends it.
func (o *operation) use() (end func()) {
	if o.using.Swap(true) {
		o.h.t.Error("two goroutines use an operation at the same time")
	}
	if o.suspended {
		o.h.t.Error("an operation is tried, or done, while it is suspended")
	}
	return func() { o.using.Store(false) }
}

func (o *operation) Suspend() {
	o.use()()
	o.suspended = true
	at(o.onSuspend)
}

func (o *operation) Resume() {
	if !o.suspended {
		o.h.t.Error("Resume without Suspend")
	}
	o.suspended = false
}

func (o *operation) pending(is bool) bool {
	o.asked.Add(1)
	at(o.onPending)
	return is
}

func at(step func()) {
	if step != nil {
		step()
	}
}

// receive is an operation that takes a message.
type receive struct {
	operation
	msgtyp int
	msg    message // when it is done
}

func (h *handle) receive(msgtyp int) *receive {
	o := &receive{operation: operation{h: h, buf: sysv.Buffer(100)}, msgtyp: msgtyp}
	o.waiter.Init(h.lot, o, &h.spinner)
	return o
}

func (o *receive) Try() error {
	defer o.use()()
	o.tries.Add(1)
	h := o.h
	if h.closed.Load() {
		return errClosed
	}
	if o.takeSlot() {
		return nil
	}
	at(o.onTry)
	_, err := h.process.Receive(h.id, o.buf, o.msgtyp, 0)
	if err == sysv.ENOMSG {
		at(o.onTried)
		return ErrWait
	}
	return o.took(err)
}

func (o *receive) TryHere() error {
	defer o.use()()
	switch {
	case o.h.closed.Load():
		return errClosed
	case o.takeSlot():
		return nil
	}
	return ErrWait
}

func (o *receive) takeSlot() bool {
	o.h.mu.Lock()
	defer o.h.mu.Unlock()
	i := o.h.find(o.msgtyp)
	if i < 0 {
		return false
	}
	o.msg = o.h.slot[i]
	o.h.slot = slices.Delete(o.h.slot, i, i+1)
	return true
}

func (o *receive) Block(thread sysv.Thread) error {
	defer o.use()()
	_, err := thread.Receive(o.h.id, o.buf, o.msgtyp, 0)
	return o.took(err)
}

func (o *receive) took(err error) error {
	if err != nil {
		return err
	}
	at(o.onTook)
	o.msg = message{typ: sysv.Type(o.buf), n: int(o.buf[sysv.HeaderSize])}
	o.msg.number = o.h.taken.Add(1)
	return nil
}

func (o *receive) Pending() bool {
	if o.h.closed.Load() {
		return o.pending(true)
	}
	o.h.mu.Lock()
	has := o.h.find(o.msgtyp) >= 0
	o.h.mu.Unlock()
	return o.pending(has)
}

func (o *receive) CheckFits() error { return nil }

func (o *receive) Key() Key {
	if o.msgtyp > 0 {
		return Key{Exact: true, Type: int64(o.msgtyp)}
	}
	return Key{Type: int64(o.msgtyp)}
}

// send is an operation that sends a message of type 1.
type send struct {
	operation
	fits error // what CheckFits returns
}

func (h *handle) send(size int) *send {
	o := &send{operation: operation{h: h, buf: sysv.Buffer(size)}}
	sysv.PutType(o.buf, 1)
	o.waiter.Init(h.lot, o, &h.spinner)
	return o
}

func (o *send) Try() error {
	defer o.use()()
	o.tries.Add(1)
	if o.h.closed.Load() {
		return errClosed
	}
	at(o.onTry)
	err := o.h.process.Send(o.h.id, o.buf)
	if err == sysv.EAGAIN {
		at(o.onTried)
		return ErrWait
	}
	return err
}

func (o *send) TryHere() error {
	defer o.use()()
	if o.h.closed.Load() {
		return errClosed
	}
	return ErrWait
}

func (o *send) Block(thread sysv.Thread) error {
	defer o.use()()
	return thread.Send(o.h.id, o.buf)
}

func (o *send) Pending() bool    { return o.pending(o.h.closed.Load()) }
func (o *send) CheckFits() error { return o.fits }
func (o *send) Key() Key         { return Key{Send: true, Size: len(o.buf) - sysv.HeaderSize} }

// run is one wait of the operation, with all that a direct call does. It checks that
// nothing is left of it.
func (o *operation) run(ctx context.Context) error {
	defer o.waiter.Release()
	return o.once(ctx)
}

func (o *operation) once(ctx context.Context) error {
	err := o.waiter.Run(ctx)
	if o.suspended {
		o.h.t.Error("the wait has ended, and its operation is suspended")
	}
	if len(o.waiter.polled.answer) != 0 {
		o.h.t.Error("the poller has answered once more")
	}
	return err
}

// start begins a wait in a goroutine, and returns the channel of its result.
func (o *operation) start(ctx context.Context) <-chan error {
	ended := make(chan error, 1)
	o.h.runs.Go(func() { ended <- o.run(ctx) })
	return ended
}

// waiting is start, in a bubble, and returns when it waits.
func (o *operation) waiting(ctx context.Context) <-chan error {
	ended := o.start(ctx)
	synctest.Wait()
	return ended
}

// wantEnded checks that a wait has ended by now, in a bubble.
func wantEnded(t *testing.T, what string, ended <-chan error, want error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-ended:
		if err != want {
			t.Errorf("%s ended with: %v, want %v", what, err, want)
		}
	default:
		t.Errorf("%s still waits", what)
	}
}

// wantWaiting checks that a wait has not ended, in a bubble.
func wantWaiting(t *testing.T, what string, ended <-chan error) {
	t.Helper()
	synctest.Wait()
	select {
	case err := <-ended:
		t.Errorf("%s ended with: %v", what, err)
	default:
	}
}

// TestRunWithACtxThatHasEnded does nothing.
func TestRunWithACtxThatHasEnded(t *testing.T) {
	inBubble(t, func(t *testing.T, h *handle) {
		h.put(1, 1)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		o := h.receive(1)
		if err := o.run(ctx); err != ErrCanceled || o.tries.Load() != 0 {
			t.Errorf("Run: %v after %d tries, want %v after none", err, o.tries.Load(), ErrCanceled)
		}
	})
}

// TestRunReturnsTheOperationsResult, whatever becomes of ctx meanwhile, and at
// whatever stage it comes.
func TestRunReturnsTheOperationsResult(t *testing.T) {
	inBubble(t, func(t *testing.T, h *handle) {
		ctx, cancel := context.WithCancel(t.Context())
		o := h.receive(1)
		o.onTry = func() { cancel(); h.put(1, 1) }
		if err := o.run(ctx); err != nil {
			t.Errorf("a receive whose ctx ended while it took a message: %v", err)
		}
		o = h.receive(1)
		ended := o.waiting(t.Context())
		if err := h.peer.Remove(h.id); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		want := sysv.EIDRM
		if h.lot.config.Polling {
			want = sysv.EINVAL
		}
		wantEnded(t, "a receive from a queue that is removed", ended, want)
	})
}

// TestWaiterIsUsedAgain: one wait leaves nothing behind for the next one, nor a
// goroutine, whichever way it ended.
func TestWaiterIsUsedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, h *handle) {
		o := h.receive(1)
		for n := range 5 {
			ctx, cancel := context.WithCancel(t.Context())
			ended := o.waiting(ctx)
			cancel()
			wantEnded(t, "a receive", ended, ErrCanceled)
			ctx, cancel = context.WithCancel(t.Context())
			ended = o.waiting(ctx)
			h.handBack(message{1, n, int64(n)})
			wantEnded(t, "a receive", ended, nil)
			cancel()
			if tries := o.tries.Swap(0); tries > 2+3 {
				t.Errorf("%d tries: an end of one wait has ended the next one", tries)
			}
		}
	})
}

// TestCheckFitsPreventsAWait that could not end.
func TestCheckFitsPreventsAWait(t *testing.T) {
	inBubble(t, func(t *testing.T, h *handle) {
		h.setSize(10)
		o := h.send(11)
		o.fits = errors.New("too large")
		if err := o.run(t.Context()); err != o.fits {
			t.Errorf("Run: %v, want %v", err, o.fits)
		}
		if o.tries.Load() != 1 {
			t.Errorf("%d tries, want 1", o.tries.Load())
		}
	})
}

// setSize sets how many bytes the queue may hold.
func (h *handle) setSize(bytes uint64) {
	h.t.Helper()
	stat, err := h.peer.Stat(h.id)
	if err != nil {
		h.t.Fatal(err)
	}
	stat.MaxBytes = bytes
	if err := h.peer.Set(h.id, stat.Attr); err != nil {
		h.t.Fatal(err)
	}
}
