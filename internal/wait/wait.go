// Package wait is the one place where chanmq waits. Sends and receives, direct
// calls and pumps come here with an [Operation] that the kernel would not do at
// once, and wait in three stages:
//
//   - poll: the operation with IPC_NOWAIT, through a raw system call;
//   - spin: the same for some 20 microseconds, yielding to other goroutines, as
//     long as spinning has lately been worth it (spin.go);
//   - park: a blocking system call, whose thread is sent a signal when the wait
//     has to end early (park.go); or, where that cannot be had, the poller that
//     all waits of a handle share (poller.go).
//
// Receives that wait for the same thing line up, so that one of them waits and the
// others wait for their turn (line.go).
//
// Where the kernel is remote, a try is a trip, and a wait costs no thread: there all waits
// park at once, as many as there are (Waiter.runRemote).
//
// The package knows nothing of messages, codecs or channels. What it needs of a
// queue is in [Config].
package wait

import (
	"context"
	"errors"
	"runtime"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// An Operation is a send or a receive that may have to wait. One goroutine at a
// time uses it: its Waiter's, or the poller between claim and answer.
type Operation interface {
	// Try does it with IPC_NOWAIT. ErrWait: it would have to wait.
	Try() error
	// TryHere does it with what this process has, without a trip to a remote kernel.
	// ErrWait: only the kernel can tell.
	TryHere() error
	// Block does it with a system call that blocks. EINTR: it was interrupted.
	Block(sysv.Thread) error
	// Pending reports whether Try would return something other than ErrWait,
	// as far as this process knows: the handle is closed, or a message was
	// handed back. It may be called by any goroutine.
	Pending() bool
	// CheckFits is called once before a long wait, unless the kernel is remote: a Thread
	// of that finds out by itself. It returns an error if no waiting can make the
	// operation succeed, or if it is not to wait.
	CheckFits() error
	// Key returns what the operation waits for.
	Key() Key
	// Suspend and Resume enclose a time in which the operation waits and is not
	// tried: in line behind another one, or between looks of the poller.
	Suspend()
	Resume()
}

// Key is what an operation waits for. Receives with equal keys take the same
// messages.
type Key struct {
	Send  bool
	Size  int   // of a send: its bytes
	Exact bool  // of a receive: it takes messages of type Type alone
	Mode  uint8 // tells receives apart that are not exact; no meaning here
	Type  int64
	// Leased tells receives apart that leave their messages in the queue: what is here
	// for them is not here for the others, so they must not wait behind those.
	Leased bool
}

// Config is what waiting needs of a handle, and of its queue.
type Config struct {
	// Remote means that the kernel is: the five fields behind it have no effect.
	Remote bool

	Spin             time.Duration // how long to spin; 0: not at all
	Polling          bool          // never park
	PollMin, PollMax time.Duration // pauses of the poller
	MaxParked        int           // how many waits may park at once

	NewThread func() sysv.Thread
	NewAlarm  func() sysv.Alarm
	// Stat returns the state of the queue.
	Stat func() (sysv.Stat, error)
	// Types returns the types of the messages in the queue. It returns nil
	// where there are more than most of them, or where the kernel does not
	// let one look.
	Types func(most int) map[int64]bool
}

var (
	// ErrWait is what Try returns when the operation would have to wait.
	ErrWait = errors.New("chanmq: would wait")
	// ErrCanceled is what Run returns when its ctx has ended and the operation
	// was not done.
	ErrCanceled = errors.New("chanmq: canceled")

	// errRetry is what a stage returns when its wait ended with nothing done.
	errRetry = errors.New("chanmq: wait ended early")
	// errCannotPark is what park returns where it must not block.
	errCannotPark = errors.New("chanmq: cannot park")
)

// A Waiter waits for one operation after another. It belongs to one goroutine,
// that of a pump or of a direct call; interrupt alone is for the others.
type Waiter struct {
	lot     *Lot
	op      Operation
	spinner *Spinner
	key     Key   // of the line
	line    *line // of an ordered Waiter; of others while they have the turn
	ordered bool

	next, previous *Waiter // in waiters

	// Stage is how far the last Run went. Who uses the operation's Try without Run may
	// set it.
	Stage Stage
	// Waited reports whether the last Run had to wait.
	Waited bool
	// NeedYield says that a goroutine was just made ready, which may not have
	// had the processor yet.
	NeedYield bool

	lastYield time.Time     // when other goroutines last had the processor
	slept     time.Duration // the last time that it slept

	parking parking
	polled  polled
}

// Stage is how far a wait goes before it ends.
type Stage uint8

const (
	AtOnce Stage = iota // no further than the first try
	Spun
	InLine // behind another one
	Parked
	Polled // by the poller

	Stages // how many there are
)

// Init prepares w for waits of op in the lot.
func (w *Waiter) Init(lot *Lot, op Operation, spinner *Spinner) {
	w.lot, w.op, w.spinner = lot, op, spinner
	w.parking.init(lot.config.NewThread())
	w.polled.init()
}

// Order makes w line up before each try, so that messages are numbered in the
// order in which the kernel gave them out. The operation's key stays the same up
// to Release. Other Waiters line up only to sleep.
func (w *Waiter) Order() {
	w.ordered = true
	w.key = w.op.Key()
	w.line = w.lot.lines.get(w.key)
}

// Run does the operation, waiting as long as it has to. It does nothing, and
// returns ErrCanceled, if ctx has ended already; it returns the operation's own
// result if it was done, whatever has become of ctx meanwhile.
//
// All runs up to Release have the same ctx.
func (w *Waiter) Run(ctx context.Context) error {
	if ctx.Err() != nil {
		return ErrCanceled
	}
	w.Waited, w.Stage = false, AtOnce
	if w.ordered {
		if err := w.lineUp(ctx); err != nil {
			return err
		}
		defer w.line.turn.Release(1)
	}
	if w.lot.config.Remote {
		return w.runRemote(ctx)
	}
	if err := w.op.Try(); err != ErrWait {
		return err
	}
	w.Waited = true
	if err := w.spin(ctx); err != ErrWait {
		return err
	}
	start := time.Now()
	w.yieldBeforePark(start)
	err := w.sleep(ctx)
	w.slept = time.Since(start)
	w.spinner.slept(w.slept, w.lot.config.Spin)
	return err
}

// sleep waits without using the processor.
func (w *Waiter) sleep(ctx context.Context) error {
	if err := w.op.CheckFits(); err != nil {
		return err
	}
	if key := w.op.Key(); !w.ordered && !key.Send {
		w.line = w.lot.lines.get(key)
		defer w.lot.lines.put(key, w.line)
		if err := w.lineUp(ctx); err != nil {
			return err
		}
		defer w.line.turn.Release(1)
		// The one before may have left something.
		if err := w.op.Try(); err != ErrWait {
			return err
		}
	}
	for {
		err := w.park(ctx)
		if err == errCannotPark {
			w.Stage = Polled
			err = w.lot.poller.wait(ctx, w)
		}
		if err != errRetry {
			return err
		}
		// Somebody interrupted it, for a reason of theirs or of ours.
		if ctx.Err() != nil {
			return ErrCanceled
		}
		if err = w.op.Try(); err != ErrWait {
			return err
		}
	}
}

// runRemote does the operation where each call of the kernel is a trip. Every one is made in
// the Thread, where the end of ctx can interrupt it. Those that are not ordered do not line
// up: they would wait for each other's trips.
func (w *Waiter) runRemote(ctx context.Context) error {
	for {
		if err := w.op.TryHere(); err != ErrWait {
			return err
		}
		w.Waited = true
		if err := w.block(ctx); err != errRetry {
			return err
		}
		if ctx.Err() != nil {
			return ErrCanceled
		}
	}
}

// Release ends what Order, and what Run with its ctx, have arranged. A Wake that began
// before may still interrupt the Waiter, which has no effect, or makes its next wait
// try once more.
func (w *Waiter) Release() {
	w.parking.release()
	if w.ordered {
		w.lot.lines.put(w.key, w.line)
		w.ordered = false
	}
}

// yieldInterval is how long a goroutine may go from one park to the next before it
// yields. After forcePreemptNS, 10 ms, sysmon counts it as one that hogs its P,
// and retakes that during every system call, which costs three times as much as
// the call (runtime/proc.go, retake).
const yieldInterval = 9 * time.Millisecond

// yieldBeforePark lets others run before a sleep, where that is needed. A thread
// that blocks keeps its P until sysmon retakes it, up to 10 ms later. It is left
// out where nobody waits for the P, since it also wakes an idle thread to look for
// work, unless there is no P for that.
func (w *Waiter) yieldBeforePark(now time.Time) {
	switch {
	case w.NeedYield:
		// A yield has no effect one time in 61, when the scheduler takes this
		// goroutine first, so that others cannot starve it. Whoever was given
		// a message must not have to wait for the next one.
		w.NeedYield = false
		w.yield(now)
	case runtime.GOMAXPROCS(0) == 1, now.Add(w.slept).Sub(w.lastYield) > yieldInterval:
		// That is, when this sleep will most likely end too late for a yield.
		w.yield(now)
	}
}

// yield lets other goroutines of this P run, above all the one that was just
// given a message.
func (w *Waiter) yield(now time.Time) {
	w.lastYield = now
	runtime.Gosched()
}
