package wait

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/chanmq/chanmq/internal/sysv"
)

// This file is the third stage of waiting: a thread that sleeps in the kernel,
// and how to end that early.
//
// A wait ends early when its ctx ends, when the handle is closed, and when a
// message that it selects is handed back. Whoever causes that first makes it
// visible (cancels, sets closed, puts the message into the slot) and then calls
// interrupt; the wait first makes visible that it is about to block and then
// looks for a cause. One of the two sees the other. models/interrupt.pml is this
// protocol as a model that Spin checks.

// processMaxParked bounds the threads that all handles together park, far
// below the 10,000 at which the Go runtime ends the program.
const processMaxParked = 2048

// processParking is shared by all handles of the process.
var processParking = semaphore.NewWeighted(processMaxParked)

// A Lot is where the waits of a handle park: it can wake them all.
type Lot struct {
	config Config
	spaces *semaphore.Weighted // MaxParked
	poller poller
	lines  lines
	inLine atomic.Int64 // waits that wait for their turn

	// uninterruptible is set while threads cannot be interrupted, as far as
	// the last wait that tried to park knows.
	uninterruptible atomic.Bool

	mu     sync.Mutex
	parked waiters // inside park; guarded by mu
}

// NewLot returns an empty parking lot.
func NewLot(c Config) *Lot {
	l := &Lot{
		config: c,
		spaces: semaphore.NewWeighted(int64(c.MaxParked)),
	}
	l.poller.init(l)
	return l
}

// acquire takes a space to park, if there is one.
func (l *Lot) acquire() bool {
	if l.config.Polling || !l.spaces.TryAcquire(1) {
		return false
	}
	if !processParking.TryAcquire(1) {
		l.spaces.Release(1)
		return false
	}
	return true
}

// release gives the space back.
func (l *Lot) release() {
	processParking.Release(1)
	l.spaces.Release(1)
}

// canPark reports whether a wait that polls may go and park instead.
func (l *Lot) canPark() bool {
	if l.uninterruptible.Load() || !l.acquire() {
		return false
	}
	l.release()
	return true
}

// Wake ends a wait for a message of the type, which was handed back.
func (l *Lot) Wake(typ int64) {
	l.wake(func(ws *waiters) []*Waiter { return ws.pendingFor(typ) })
}

// WakeAll ends all waits that are pending: the handle is closed.
func (l *Lot) WakeAll() { l.wake((*waiters).all) }

// wake ends those of the waits that are pending. The caller has made them so.
func (l *Lot) wake(choose func(*waiters) []*Waiter) {
	l.mu.Lock()
	parked := choose(&l.parked)
	l.mu.Unlock()
	for _, w := range parked {
		w.parking.interrupt()
	}
	l.poller.wake(choose)
}

// Close ends all waits and joins the poller. Every operation is pending by now,
// and stays so: the handle is closed.
func (l *Lot) Close() {
	l.WakeAll()
	l.poller.join()
}

// parking is a Waiter's part in parking.
type parking struct {
	thread sysv.Thread

	// The end of ctx calls interrupt, from watch to release.
	unwatch   func() bool
	unwatched chan struct{} // a value when that call has returned

	mu     sync.Mutex
	inside bool          // the thread may be blocking; guarded by mu
	left   chan struct{} // of whoever interrupts it: closed, and forgotten, when it no longer is; guarded by mu
}

func (p *parking) init(t sysv.Thread) {
	p.thread = t
	p.unwatched = make(chan struct{}, 1)
}

// park does the operation in a blocking system call, if there is a space for its thread.
func (w *Waiter) park(ctx context.Context) error {
	if !w.lot.acquire() {
		return errCannotPark
	}
	defer w.lot.release()
	return w.block(ctx)
}

// block does the operation in a blocking call.
func (w *Waiter) block(ctx context.Context) error {
	l, p := w.lot, &w.parking
	p.watch(ctx)
	entered := p.thread.Enter()
	if l.uninterruptible.Load() == entered {
		l.uninterruptible.Store(!entered)
	}
	if !entered {
		return errCannotPark
	}
	defer p.thread.Leave()
	w.Stage = Parked

	key := w.op.Key()
	l.mu.Lock()
	l.parked.add(key, w)
	l.mu.Unlock()
	p.enter()

	err := error(sysv.EINTR)
	if ctx.Err() == nil && !w.op.Pending() {
		err = w.op.Block(p.thread)
	}

	p.leave()
	l.mu.Lock()
	l.parked.remove(key, w)
	l.mu.Unlock()
	if err == sysv.EINTR {
		return errRetry
	}
	return err
}

// enter makes visible that the thread may block from now on.
func (p *parking) enter() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inside = true
}

// leave says that it no longer does. No signal is sent once the lock was had, so
// the thread may go on to other work.
func (p *parking) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.inside = false
	if p.left != nil {
		close(p.left)
		p.left = nil
	}
}

// Pauses of interrupt between signals, doubling from one to the other.
const (
	interruptMin = 50 * time.Microsecond
	interruptMax = 10 * time.Millisecond
)

// interrupt ends the blocking call that the thread is in, if it is in one, and
// returns when it has ended. A signal that arrives before the thread is inside the
// call is lost, so it is sent again until then.
func (p *parking) interrupt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.inside {
		return
	}
	if left := p.left; left != nil { // somebody else is at it
		p.mu.Unlock()
		<-left
		p.mu.Lock()
		return
	}
	left := make(chan struct{})
	p.left = left
	timer := time.NewTimer(interruptMin)
	defer timer.Stop()
	for pause := interruptMin; p.left == left; pause = min(2*pause, interruptMax) {
		p.thread.Interrupt()
		p.mu.Unlock()
		select {
		case <-left:
		case <-timer.C:
			timer.Reset(pause)
		}
		p.mu.Lock()
	}
}

// watch makes the end of ctx call interrupt, until release.
func (p *parking) watch(ctx context.Context) {
	if p.unwatch != nil || ctx.Done() == nil {
		return
	}
	p.unwatch = context.AfterFunc(ctx, func() {
		p.interrupt()
		p.unwatched <- struct{}{}
	})
}

// release undoes watch.
func (p *parking) release() {
	if p.unwatch == nil {
		return
	}
	if !p.unwatch() {
		<-p.unwatched
	}
	p.unwatch = nil
}
