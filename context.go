package chanmq

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/chanmq/chanmq/internal/sysv"
)

// This file is the one place where chanmq waits. Receives and sends, direct
// calls and pumps come here with an operation that the kernel would not do at
// once, and wait in three stages:
//
//   - poll: the operation with IPC_NOWAIT, through a raw system call;
//   - spin: the same for some 20 microseconds, giving way to other goroutines,
//     as long as spinning has lately been worth it: spin.go;
//   - park: a blocking system call, whose thread is sent a signal when the wait
//     has to end early; or, where that cannot be had, the shared poller of
//     poller.go.
//
// A wait ends early when its ctx ends, when the handle is closed, and when a
// message that it selects is handed back. Whoever causes that first makes it
// visible (cancels, sets closed, puts the message into the slot) and then calls
// interrupt; the wait first makes visible that it is about to block and then
// looks for a cause. One of the two sees the other. docs/interrupt.pml is this
// protocol as a model that spin checks.

// An operation is a message operation that may have to wait. One goroutine at a
// time uses it: the caller, or the poller between claim and answer.
type operation interface {
	// try does it with IPC_NOWAIT. errWait: it would have to wait.
	try() error
	// block does it with a system call that blocks. EINTR: it was interrupted.
	block(sysv.Thread) error
	// pending reports whether try would not answer errWait, as far as this
	// process knows: the handle is closed, or the slot holds a message for it.
	pending() bool
	// hopeless is called once before a long wait. It returns an error if no
	// waiting can make the operation succeed.
	hopeless() error
	// key tells operations apart that one failed try does not answer for.
	key() operationKey
}

// operationKey is equal for operations that wait for the same thing.
type operationKey struct {
	send bool
	sel  Selector
}

var (
	// errWait is what try answers when the operation would have to wait.
	errWait = errors.New("chanmq: would wait")
	// errRetry is what a stage answers when its wait ended with nothing done.
	errRetry = errors.New("chanmq: wait ended early")
	// errCannotPark is what park answers where it must not block.
	errCannotPark = errors.New("chanmq: cannot park")
)

const (
	defaultSpin      = 20 * time.Microsecond
	defaultPollMin   = time.Millisecond
	defaultMaxParked = 128

	// defaultPollMax is not 15 ms because the runtime sleeps for whole
	// milliseconds, rounded down: it would sleep for 14 of 15, and once more for
	// the rest.
	defaultPollMax = 15*time.Millisecond + 60*time.Microsecond

	// processMaxParked bounds the threads that all handles together park, far
	// below the 10,000 at which the Go runtime ends the program.
	processMaxParked = 2048
)

// processParking is shared by all handles of the process.
var processParking = semaphore.NewWeighted(processMaxParked)

// room is where the waits of a handle are: it can wake them all.
type room struct {
	q       *queue
	parking *semaphore.Weighted // WithMaxParked
	poller  poller

	// uninterruptible is set while threads cannot be interrupted, as far as
	// the last wait that tried to park knows.
	uninterruptible atomic.Bool

	mu     sync.Mutex
	parked map[*wait]struct{} // waits that are inside park; guarded by mu
}

func (r *room) init(q *queue) {
	r.q = q
	r.parking = semaphore.NewWeighted(int64(q.options.maxParked))
	r.parked = make(map[*wait]struct{})
	r.poller.init(q)
}

// enter takes a place to park, if there is one.
func (r *room) enter() bool {
	if r.q.options.polling || !r.parking.TryAcquire(1) {
		return false
	}
	if !processParking.TryAcquire(1) {
		r.parking.Release(1)
		return false
	}
	return true
}

// leave gives the place back.
func (r *room) leave() {
	processParking.Release(1)
	r.parking.Release(1)
}

// canPark reports whether a wait that polls may go and park instead.
func (r *room) canPark() bool {
	if r.uninterruptible.Load() || !r.enter() {
		return false
	}
	r.leave()
	return true
}

// wake ends the waits that are pending. The caller has made them so.
func (r *room) wake() {
	r.mu.Lock()
	var pending []*wait
	for w := range r.parked {
		if w.op.pending() {
			pending = append(pending, w)
		}
	}
	r.mu.Unlock()
	for _, w := range pending {
		w.interrupt()
	}
	r.poller.wake()
}

// wait is the waiting of one operation after another. It belongs to one
// goroutine, that of a pump or of a direct call; interrupt is for the others.
type wait struct {
	room   *room
	op     operation
	spin   *spinner
	waited bool          // the last run had to wait
	owing  bool          // a goroutine that was just made ready may not have had its turn
	turned time.Time     // when the others last had theirs
	slept  time.Duration // the last time that it slept
	thread sysv.Thread

	// For park: the end of ctx calls interrupt, from watch to unwatch.
	unwatch   func() bool
	unwatched chan struct{} // a value when that call has returned

	// For the poller: its answer, and what it needs to find the wait.
	answer chan error
	polled // owned by the poller

	interrupting sync.Mutex // held by the one who interrupts

	mu     sync.Mutex
	inside bool          // the thread may be blocking; guarded by mu
	left   chan struct{} // closed, and forgotten, when it no longer is; guarded by mu
}

func (w *wait) init(r *room, op operation, spin *spinner) {
	w.room, w.op, w.spin = r, op, spin
	w.thread = r.q.kernel.NewThread()
	w.unwatched = make(chan struct{}, 1)
	w.answer = make(chan error, 1)
}

// run does the operation, waiting as long as it has to. It does nothing if ctx
// has ended already, and returns the operation's own result if it was done,
// whatever has become of ctx meanwhile.
func (w *wait) run(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctxError(ctx)
	}
	err := w.op.try()
	w.waited = err == errWait
	if !w.waited {
		return err
	}
	if err = w.spinFor(ctx); err != errWait {
		return err
	}
	start := time.Now()
	w.lastTurn(start)
	err = w.sleep(ctx)
	w.slept = time.Since(start)
	w.spin.slept(w.slept, w.room.q.options.spin)
	return err
}

// sleep waits without using the processor.
func (w *wait) sleep(ctx context.Context) error {
	if err := w.op.hopeless(); err != nil {
		return err
	}
	for {
		err := w.park(ctx)
		if err == errCannotPark {
			err = w.room.poller.wait(ctx, w)
		}
		if err != errRetry {
			return err
		}
		// Somebody interrupted it, for a reason of theirs or of ours.
		if ctx.Err() != nil {
			return ctxError(ctx)
		}
		if err = w.op.try(); err != errWait {
			return err
		}
	}
}

// turnInterval is how long a goroutine may go from one park to the next before it
// gives way. After forcePreemptNS, 10 ms, the runtime's monitor counts it as one
// that hogs its processor, and takes that away during every system call, which
// costs three times as much as the call (runtime/proc.go, retake).
const turnInterval = 9 * time.Millisecond

// lastTurn lets others run before a sleep, where that is needed. A thread that
// blocks takes its processor along until the monitor notices, up to 10 ms later.
// It is left out where nobody waits for it, since it also wakes an idle thread to
// look for work, unless there is no processor for that.
func (w *wait) lastTurn(now time.Time) {
	switch {
	case w.owing:
		// Giving way has no effect one time in 61, when the scheduler takes
		// this goroutine first, so that others cannot starve it. Whoever was
		// given a message must not have to wait for the next one.
		w.owing = false
		w.giveWay(now)
	case runtime.GOMAXPROCS(0) == 1, now.Add(w.slept).Sub(w.turned) > turnInterval:
		// That is, when this sleep will most likely end too late for a turn.
		w.giveWay(now)
	}
}

// giveWay lets other goroutines of this processor run, above all the one that
// was just given a message.
func (w *wait) giveWay(now time.Time) {
	w.turned = now
	runtime.Gosched()
}

// park does the operation in a blocking system call.
func (w *wait) park(ctx context.Context) error {
	r := w.room
	if !r.enter() {
		return errCannotPark
	}
	defer r.leave()
	w.watch(ctx)
	entered := w.thread.Enter()
	if r.uninterruptible.Load() == entered {
		r.uninterruptible.Store(!entered)
	}
	if !entered {
		return errCannotPark
	}
	defer w.thread.Leave()

	r.mu.Lock()
	r.parked[w] = struct{}{}
	r.mu.Unlock()
	w.mu.Lock()
	w.inside = true
	w.mu.Unlock()

	err := error(sysv.EINTR)
	if ctx.Err() == nil && !w.op.pending() {
		err = w.op.block(w.thread)
	}

	// No signal is sent once the lock was had: Leave may let the thread go.
	w.mu.Lock()
	w.inside = false
	if w.left != nil {
		close(w.left)
		w.left = nil
	}
	w.mu.Unlock()
	r.mu.Lock()
	delete(r.parked, w)
	r.mu.Unlock()
	if err == sysv.EINTR {
		return errRetry
	}
	return err
}

// Pauses of interrupt between signals, doubling from one to the other.
const (
	interruptMin = 50 * time.Microsecond
	interruptMax = 10 * time.Millisecond
)

// interrupt ends the blocking call that w is in, if it is in one, and returns
// when it has ended. A signal that arrives before the thread is inside the call
// is lost, so it is sent again until then.
func (w *wait) interrupt() {
	w.interrupting.Lock()
	defer w.interrupting.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.inside {
		return
	}
	left := make(chan struct{})
	w.left = left
	timer := time.NewTimer(interruptMin)
	defer timer.Stop()
	for pause := interruptMin; w.left == left; pause = min(2*pause, interruptMax) {
		w.thread.Interrupt()
		w.mu.Unlock()
		select {
		case <-left:
		case <-timer.C:
			timer.Reset(pause)
		}
		w.mu.Lock()
	}
}

// watch makes the end of ctx call interrupt, until release. All runs of the
// wait up to then have the same ctx.
func (w *wait) watch(ctx context.Context) {
	if w.unwatch != nil || ctx.Done() == nil {
		return
	}
	w.unwatch = context.AfterFunc(ctx, func() {
		w.interrupt()
		w.unwatched <- struct{}{}
	})
}

// release undoes watch; nobody else uses the wait afterwards.
func (w *wait) release() {
	if w.unwatch == nil {
		return
	}
	if !w.unwatch() {
		<-w.unwatched
	}
	w.unwatch = nil
}
