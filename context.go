package chanmq

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/wait"
)

// This file is where a ctx meets an operation: how a call is made again when its
// queue was removed under WithReopen, and what its error is when its ctx has ended.

// canceled is what an operation returns that was not done because its ctx ended.
// No errors.Is finds it: a codec's error, or the cause of a ctx, may be anything.
type canceled struct {
	away error  // why the queue's key could not be looked up; nil: it need not be
	full string // what is in the queue that a send has waited for; "": it did not wait
}

func (*canceled) Error() string { return "canceled" }

func isCanceled(err error) bool {
	_, ok := err.(*canceled)
	return ok
}

// ctxError returns the error of a call whose ctx has ended: it matches ctx.Err()
// and the ctx's cause. Every such error of the package comes from here, and is the
// Err of an OpError.
func ctxError(ctx context.Context) error {
	err := ctx.Err()
	if why := context.Cause(ctx); why != nil && why != err {
		return cause([]error{why, err}, "%v: %v", err, why)
	}
	return err
}

func (c *canceled) because(ctx context.Context) error {
	err := ctxError(ctx)
	switch {
	case c.away != nil:
		return cause([]error{err, ErrRemoved}, "%v, while waiting for the queue to be re-created: %v", err, c.away)
	case c.full != "":
		return cause([]error{err}, "waiting for room in the queue, which holds %s: %v", c.full, err)
	}
	return err
}

// callError returns the error of a call with ctx.
func (q *queue) callError(ctx context.Context, op string, err error, size int) error {
	if c, ok := err.(*canceled); ok {
		err = c.because(ctx)
	} else if ctx.Err() != nil && errors.Is(err, ErrUncertain) {
		why := ctxError(ctx)
		err = cause([]error{why, err}, "%v: %v", why, err)
	}
	return q.opError(op, err, size)
}

// run does the receive, waiting as long as it has to, or until ctx ends.
func (o *receive) run(ctx context.Context) error {
	if ctx.Err() != nil {
		return &canceled{}
	}
	defer o.wake()
	err := o.q.run(ctx, &o.waiter, o)
	if c := o.q.counters; c != nil {
		c.receiveWaits.ended(o.waiter.Stage, isCanceled(err))
	}
	return err
}

// run does the send, waiting as long as it has to, or until ctx ends.
func (o *send) run(ctx context.Context) (err error) {
	defer func() { o.settle(err) }()
	if ctx.Err() != nil {
		return &canceled{}
	}
	err = o.q.run(ctx, &o.waiter, o)
	o.waited(err)
	if c, ok := err.(*canceled); ok && c.away == nil && !o.q.remote { // where it would take a trip
		c.full = o.q.subject().fullness()
	}
	return err
}

// waited counts a wait that has ended.
func (o *send) waited(err error) {
	if c := o.q.counters; c != nil {
		c.sendWaits.ended(o.waiter.Stage, isCanceled(err))
	}
}

// packPatience is how long a pack waits for room before it is made smaller. Others may send
// smaller messages meanwhile, which the kernel lets pass.
const packPatience = 10 * time.Millisecond

// runPack sends the first values that p has in one message, as many as may be in one, or as
// fit the queue if that is nearly full, and waits as long as it has to, or until ctx ends. It
// returns how many values that were.
func (o *send) runPack(ctx context.Context, p *packer) (sent int, err error) {
	o.pack = pack{p, p.small(max(1, p.fits(o.packLimit())), o.q.largeLimit())}
	defer func() { o.pack = pack{} }()
	for {
		n := o.pack.values
		o.msg, o.values = p.message(n), n
		if n == 1 {
			if err = o.putLarge(p.typ, p.first()); err == nil {
				err = o.run(ctx)
			}
		} else {
			err = o.runPatiently(ctx)
		}
		c, wasCanceled := err.(*canceled)
		switch {
		case err == nil:
			if n > 1 { // run has counted a single one
				o.waited(nil)
			}
			p.more()
			return n, nil
		case n == 1:
			return 0, err
		case err == errSmaller:
			// CheckFits has said how much.
		case wasCanceled && ctx.Err() == nil:
			if c.away == nil { // it was patience
				o.pack.values = n / 2
				p.most = n / 2
			}
		case wasCanceled:
			o.waited(err)
			if c.away == nil {
				c.full = o.q.subject().fullness()
			}
			return 0, err
		case err == sysv.EINVAL, errors.Is(err, ErrTooLarge):
			o.pack.values = n / 2
			o.limit = 0 // a limit was lowered
		default:
			o.waited(err)
			return 0, err
		}
	}
}

// runPatiently is run, for no longer than packPatience at a time.
func (o *send) runPatiently(ctx context.Context) error {
	if ctx.Err() != nil {
		return &canceled{}
	}
	o.waiter.Stage = wait.AtOnce
	if err := o.Try(); err != wait.ErrWait && !o.q.reopens(err) {
		return err
	}
	short, cancel := context.WithTimeout(ctx, packPatience)
	defer cancel()
	defer o.waiter.Release() // the next wait has another ctx
	return o.q.run(short, &o.waiter, o)
}

func (o *receive) once() error {
	defer o.wake()
	return o.q.once(o)
}

func (o *send) once() (err error) {
	defer func() { o.settle(err) }()
	return o.q.once(o)
}

// run is Waiter.Run, and looks for a queue that was removed under WithReopen.
func (q *queue) run(ctx context.Context, w *wait.Waiter, op wait.Operation) error {
	away := false
	for {
		id := q.msqid()
		err := w.Run(ctx)
		switch {
		case err == wait.ErrCanceled && away:
			return q.canceledAway()
		case err == wait.ErrCanceled:
			return &canceled{}
		case !q.reopens(err):
			return err
		}
		away = true
		if err := q.reopen(ctx, op, id); err != nil {
			return err
		}
		away = q.msqid() == id
	}
}

// once is a single try, and one more where the queue can be found again.
func (q *queue) once(op wait.Operation) error {
	id := q.msqid()
	err := op.Try()
	if !q.reopens(err) {
		return err
	}
	if !q.lookUp(id) {
		return err
	}
	return op.Try()
}

// reopens reports whether an error asks for the queue to be looked up again.
func (q *queue) reopens(err error) bool {
	return err == sysv.EIDRM && q.options.reopen && !q.removed.Load()
}

// Pauses of a search, doubling from one to the other.
const (
	reopenMin = 10 * time.Millisecond
	reopenMax = time.Second
)

// reopen waits until the queue with the id lost was found again, or op is pending
// for another reason.
func (q *queue) reopen(ctx context.Context, op wait.Operation, lost int) error {
	for q.msqid() == lost && !op.Pending() {
		s := q.join(lost)
		if s == nil {
			return ErrClosed
		}
		select {
		case <-s.done:
		case <-ctx.Done():
			return q.canceledAway()
		case <-q.closing:
			return ErrClosed
		}
	}
	return nil
}

// join returns the search under way, a new one if there is none, and nil if the
// handle is closed.
func (q *queue) join(lost int) *search {
	q.finding.Lock()
	defer q.finding.Unlock()
	if q.closed.Load() {
		return nil
	}
	if q.away.search == nil {
		s := &search{make(chan struct{})}
		q.away.search = s
		go func() {
			defer close(s.done)
			q.search(lost)
		}()
	}
	return q.away.search
}

// search looks the key up once, and pauses if that fails.
func (q *queue) search(lost int) {
	defer func() {
		q.finding.Lock()
		defer q.finding.Unlock()
		q.away.search = nil
	}()
	if q.lookUp(lost) {
		return
	}
	timer := time.NewTimer(q.nextPause())
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-q.closing:
	}
}

// nextPause returns how long to pause behind a look-up that failed. Half of it is at
// random, so that programs which lost a queue together do not come back together.
func (q *queue) nextPause() time.Duration {
	q.finding.Lock()
	defer q.finding.Unlock()
	p := min(max(2*q.away.pause, reopenMin), reopenMax)
	q.away.pause = p
	return p/2 + rand.N(p/2)
}

// lookUp looks the key up if the queue is still the one that was lost, and reports
// whether there is another one now.
func (q *queue) lookUp(lost int) bool {
	q.finding.Lock()
	defer q.finding.Unlock()
	if q.msqid() != lost {
		return true
	}
	id, err := q.find()
	q.away.why = err
	if err != nil || id == lost {
		return false
	}
	if err := q.attach(id); err != nil {
		q.away.why = err
		return false
	}
	q.away.pause = 0
	return true
}

// canceledAway is what an operation returns whose ctx ended while the queue was
// away.
func (q *queue) canceledAway() error {
	q.finding.Lock()
	defer q.finding.Unlock()
	return &canceled{away: q.away.why}
}

// findFirst finds the queue when the handle is opened. Under WithWait it waits for it.
func (q *queue) findFirst() (id int, err error) {
	for {
		q.finding.Lock()
		if id, err = q.find(); err == nil {
			q.away.pause = 0
		}
		q.finding.Unlock()
		ctx := q.options.wait
		if ctx != nil && isRemoved(err) { // before WithOwner looked at it
			err = explainOpen(q.kernel, q.key, sysv.ENOENT)
		}
		if ctx == nil || !errors.Is(err, fs.ErrNotExist) {
			return id, err
		}
		timer := time.NewTimer(q.nextPause())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			why := ctxError(ctx)
			return -1, cause([]error{why, err}, "%v, while waiting for the queue to be created: %v", why, err)
		}
	}
}

// joinSearch waits for the search under way. The handle is closed, so that it ends,
// and no other begins, nor any other call of get.
func (q *queue) joinSearch() {
	q.finding.Lock()
	s := q.away.search
	q.finding.Unlock()
	if s != nil {
		<-s.done
	}
}
