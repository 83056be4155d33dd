package chanmq

import (
	"context"
	"errors"
	"time"

	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/wait"
)

// Close ends the Go side of the queue, for all views of the handle; the queue
// itself stays, unless [WithRemoveOnClose] was given. It ends every Receiver
// and Sender and waits for them, makes the direct calls that wait return
// [ErrClosed], collects what Receivers had taken and the program has not read,
// in every C and in the handle's slot, and sends it back to the queue without
// waiting; it goes to the tail, behind what is there. What the kernel does
// not take back, and what Senders had accepted and not sent, comes back in
// [*UndeliveredError]; with a journal ([WithJournal]), what the kernel does not take back
// because the queue is full stays there, for the next handle. What was delivered and is
// not acknowledged yet stays the program's: Ack and Nack work after Close. A second
// Close waits for the first and returns nil.
//
// Close must not be called from a WithDecodeError function, nor from a codec, which
// it waits for. [Queue.Shutdown] ends a handle with less haste.
func (q *Queue[T]) Close() error { return q.core().close(canceledContext) }

// Shutdown ends the handle as [Queue.Close] does, but lets what is under way come to
// its end, as far as that happens before ctx ends:
//
//   - Receivers and Consumers stop taking messages, and deliver those that they have
//     taken: the program goes on reading every C until it is closed and empty.
//   - Then the program acknowledges what was delivered, those of [Queue.Take] too.
//   - Then Senders send what they have accepted, and end: no more is accepted, so
//     whoever sends to C selects on Done as well.
//   - What Receivers had handed back to the handle is sent back to the queue,
//     waiting for room.
//
// No new Receivers and Senders can be started meanwhile; direct calls work until
// all of that is done, and return [ErrClosed] then. If ctx ends first, the rest is
// dealt with as Close does, Err of what was cut short is ErrClosed, and the error
// matches ctx.Err() if anything was not delivered, or not acknowledged: it is an
// [*UndeliveredError] with what neither the program nor the queue has got, or an
// [*OpError] if the queue, or the journal, has got everything back.
//
// It must not be called from C's reader, which it waits for. After Close it returns
// nil at once.
func (q *Queue[T]) Shutdown(ctx context.Context) error {
	core := q.core()
	pumps := core.pumps.refuse()
	clean := true
	for _, receivers := range []bool{true, false} {
		for _, p := range pumps {
			if p.receives() == receivers {
				p.drain() // all of them, before waiting for one
			}
		}
		for _, p := range pumps {
			if p.receives() == receivers && !core.awaitDrained(ctx, p) {
				clean = false
			}
		}
		if receivers && !core.awaitAcknowledged(ctx) {
			clean = false
		}
	}
	err := core.close(ctx)
	if err == nil && !clean {
		err = core.opError("shutdown", ctxError(ctx), 0)
	}
	return err
}

// Pauses of awaitCondition, doubling from one to the other.
const (
	drainedMin = 100 * time.Microsecond
	drainedMax = 10 * time.Millisecond
)

// awaitDrained waits until p has ended and holds nothing. It reports false if ctx
// ends before.
func (q *queue) awaitDrained(ctx context.Context, p pumper) bool {
	select {
	case <-p.Done():
	case <-ctx.Done():
		return p.drained()
	case <-q.closing:
		return true // Close, by somebody else, deals with it
	}
	return q.awaitCondition(ctx, p.drained) // nobody says when a value is read from C's buffer
}

// awaitAcknowledged waits until the program has acknowledged, or given back, what was
// delivered. It reports false if ctx ends before.
func (q *queue) awaitAcknowledged(ctx context.Context) bool {
	return q.awaitCondition(ctx, func() bool { return q.unacked.Load() == 0 })
}

// awaitCondition looks from time to time, until ctx ends or the handle is closed.
func (q *queue) awaitCondition(ctx context.Context, holds func() bool) bool {
	for pause := drainedMin; !holds(); pause = min(2*pause, drainedMax) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return holds()
		case <-q.closing:
			timer.Stop()
			return true
		}
	}
	return true
}

// canceledContext makes close wait for nothing.
var canceledContext = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// close ends the handle. What was handed back waits for room in the queue until ctx
// ends.
func (q *queue) close(ctx context.Context) error {
	pumps := q.pumps.refuse()
	if ctx.Err() == nil && !q.options.remove {
		q.sendSlot(ctx)
	}
	if q.closed.Swap(true) {
		<-q.ended
		return nil
	}
	defer close(q.ended)
	defer q.kernel.Release()
	if w := inject.Handles.Load(); w != nil {
		w.Closed(q)
	}
	close(q.closing)
	q.joinSearch()
	q.endAdoption()
	q.endCollection()
	q.endWatch()
	q.lot.Close()

	left := UndeliveredError{Key: q.key, ID: q.msqid()}
	for _, p := range pumps {
		p.stop(handleClosed) // all of them, before waiting for one
	}
	for _, p := range pumps {
		p.collect(&left)
	}
	q.sendBack(&left)
	err := left.or()
	if j := q.at.Load().journal; j != nil {
		err = errors.Join(err, j.Close())
	}
	if q.options.remove {
		if rmErr := q.kernel.Remove(q.msqid()); rmErr != nil && !isRemoved(rmErr) {
			err = errors.Join(err, q.opError("remove", rmErr, 0))
		}
	}
	q.closeLarge(q.at.Load())
	return err
}

// sendSlot sends what is in the slot to the kernel queue, waiting for room until
// ctx ends. What cannot be sent stays in the slot.
func (q *queue) sendSlot(ctx context.Context) {
	var o send
	o.init(q, new(wait.Spinner))
	o.returns = true
	defer o.waiter.Release()
	q.sendingBack.RLock()
	defer q.sendingBack.RUnlock()
	for {
		back := returning{q: q, held: q.slot.takeAlike()}
		if len(back.held) == 0 {
			return
		}
		back.leave()
		for len(back.held) > 0 {
			back.next(o.packLimit())
			n, err := o.runReturning(ctx, &back)
			if err != nil {
				for _, m := range back.held {
					_ = q.putIntoSlot(m) // it is open
				}
				return
			}
			_ = back.sent(n) // Journal.Close, or the next process, deals with errors
		}
	}
}

// errRemoving is why nothing is sent back to a queue that goes with its handle.
var errRemoving = cause([]error{ErrRemoved}, "the queue is removed with the handle (WithRemoveOnClose)")

// sendBack empties the slot into the kernel queue, and leaves there what is there still. What
// does not fit stays in the journal.
// Where there is none, or nobody will receive from the queue again, it goes to the front
// of left, which holds what Senders left over.
func (q *queue) sendBack(left *UndeliveredError) {
	q.sendingBack.Lock() // by now, nobody waits for room
	held := q.slot.close()
	q.sendingBack.Unlock()
	back := returning{q: q, held: held}
	back.leave()
	err := errRemoving
	if !q.options.remove {
		_, err = back.all() // Journal.Close, or the next process, deals with errors of the journal
	}
	if held = back.held; len(held) == 0 {
		return
	}
	// All the rest stays, or a later message would get before an earlier one.
	kept := held[0].saved != nil && err != errRemoving && !isRemoved(err)
	if !kept {
		var messages []Message[[]byte]
		for i := range held {
			messages = append(messages, held[i].messages()...)
		}
		left.Messages = append(messages, left.Messages...)
		left.Err = err
		if err != errRemoving {
			left.Err = q.notTakenBack(err, len(messages[0].Value))
		}
	}
	for i := range held {
		if !kept {
			_ = held[i].ack()
		}
		held[i].release()
	}
}

// runReturning is returning.once, but waits until ctx ends.
func (o *send) runReturning(ctx context.Context, r *returning) (n int, err error) {
	if r.alone() {
		if o.msg, o.file, err = r.q.wire(&r.held[0]); err != nil {
			return 0, err
		}
		return 1, o.run(ctx)
	}
	return o.runPack(ctx, &r.packer)
}
