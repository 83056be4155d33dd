package chanmq

import (
	"context"

	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/wait"
)

// Forward moves the messages of from that s selects to the queue to, byte for
// byte with their types, until ctx ends or something fails. It takes one message,
// sends it, waiting while to is full, and then takes the next; it returns the
// reason why it ended, never nil.
//
// A message is in from, in to, or in Forward's hands. One that was taken and
// cannot be sent is handed back to from: the next receive on that handle gets it,
// before newer messages. That is so when ctx ends while to is full, when to was
// removed or grants no permission to send, and when the message is larger than to
// takes ([ErrTooLarge]). Such a message would come first again, so a program that
// wants to go on receives it before it calls Forward again. Where the process is
// killed, the one message in Forward's hands is lost, or, if from has a journal, comes
// again: then it may be in to already.
//
// With [WithPacking] on both handles, the values that came in one message are sent in as few
// messages as to takes, and all of the above holds for each value: those that could not be
// sent are handed back. Where the process is killed, all of those may be lost, or come again.
// Forward does not wait for more, nor puts together what came in several messages. With the
// option on from alone each value is a message.
//
// Messages arrive in to in the order in which they were taken: that of the kernel,
// for each type that nobody else receives. Others receive what Forward does not
// get, and what they hand back to from Forward takes first. After the end of ctx, a
// receive on from waits until Forward has handed back what it holds, as it does for
// a [Receiver], so that a program may cancel ctx and receive again at once.
//
// The error is an [*OpError] of the operation "forward" that names the queue that
// failed: from when receiving, to when sending. After the end of ctx it matches
// ctx.Err(); a message that was sent by then stays sent, and on a ctx that has
// ended already nothing is taken. Under [WithReopen] a removed queue is waited for,
// on either side. Closing one of the handles ends Forward with [ErrClosed], and
// waits for its end; [Queue.Shutdown] first lets it send the message that it holds.
// With a closed handle, or the zero Queue, it fails with ErrClosed at once.
//
// Forward refuses to forward a queue to itself. It does not notice longer circles,
// such as two calls in opposite directions.
func Forward(ctx context.Context, to, from *Queue[[]byte], s Selector) error {
	f := &forwarding{ctx: ctx, from: from.core(), to: to.core(), done: make(chan struct{})}
	f.running, f.cancel = context.WithCancelCause(ctx)
	f.taking, f.stopTaking = context.WithCancelCause(f.running)
	defer f.cancel(nil)
	defer close(f.done)
	for _, end := range []*forwardEnd{{f, f.from}, {f, f.to}} {
		if !end.q.pumps.add(end) {
			return f.failed(ctx, end.q, "receive", ErrClosed, 0)
		}
		defer end.q.pumps.remove(end)
	}
	err := s.validate()
	if err == nil && f.from.same(f.to) {
		err = errForwardToItself
	}
	if err != nil {
		return f.failed(ctx, f.from, "receive", err, 0)
	}
	return f.run(s)
}

var errForwardToItself = cause(nil, "the queue would be forwarded to itself, and its messages would go round for ever")

// forwarding is a Forward under way.
type forwarding struct {
	ctx      context.Context // the program's
	from, to *queue

	// running ends when nothing more is to be sent, taking with it, and when
	// nothing more is to be taken. If a handle ends them, that is the cause.
	running, taking    context.Context
	cancel, stopTaking context.CancelCauseFunc

	done chan struct{} // closed when all is done, and what was held is handed back
}

// run moves messages. It returns when there is a reason to end.
func (f *forwarding) run(s Selector) error {
	var in receive
	in.init(f.from, new(wait.Spinner), journal.LengthHint{})
	in.selects(s)
	in.holder = &holder{sel: s, ctx: f.ctx}
	defer in.release()
	var out send
	out.init(f.to, new(wait.Spinner))
	defer out.waiter.Release()
	var p packer
	if f.from.options.packing && f.to.options.packing {
		in.more = forwardBatch - 1
	}

	if !f.from.holders.await(f.taking, f.from.closing, s) && !f.from.closed.Load() {
		return f.failed(f.taking, f.from, "receive", &canceled{}, 0)
	}
	f.from.holders.register(in.holder)
	defer f.from.holders.unregister(in.holder)
	in.waiter.Order()
	defer in.waiter.Release()
	for {
		in.begin()
		if err := in.run(f.taking); err != nil {
			err = f.failed(f.taking, f.from, "receive", err, 0)
			in.reportFailed(f.ctx, err)
			return err
		}
		in.received(f.ctx, in.msg, 0, nil)
		if in.packed() {
			if err := f.sendBatch(&in, &out, &p); err != nil {
				return err
			}
			continue
		}
		out.begin()
		var err error
		if out.msg, out.file, err = f.to.wire(in.msg); err == nil {
			err = out.run(f.running)
		}
		if err != nil {
			err = f.failed(f.running, f.to, "send", err, out.size())
			out.sent(f.ctx, in.msg.typ(), err)
			in.handBack()
			return err
		}
		out.sent(f.ctx, in.msg.typ(), nil)
		_ = in.msg.ack() // at worst it is forwarded again
	}
}

// forwardBatch is how many values of a pack are in Forward's hands at most. Each has a buffer
// of its own; the rest of the pack waits in the slot.
const forwardBatch = 1024

// sendBatch sends the values that were taken together, of one type, in as few messages as may
// be. What it cannot send it hands back.
func (f *forwarding) sendBatch(in *receive, out *send, p *packer) error {
	p.begin(in.msg.typ())
	for i := in.next - 1; i < in.end; i++ {
		m := in.msg
		if i >= in.next {
			m = in.ahead[i]
		}
		_ = p.add(func(dst []byte) ([]byte, error) { return append(dst, m.text()...), nil }) // it cannot fail
	}
	own := out.msg
	defer func() { out.msg = own }() // it is the packer's meanwhile
	for len(p.ends) > 0 {
		out.begin()
		n, err := out.runPack(f.running, p)
		if err != nil {
			err = f.failed(f.running, f.to, "send", err, out.size())
			out.sent(f.ctx, p.typ, err)
			in.handBack()
			in.handBackAhead()
			return err
		}
		out.sent(f.ctx, p.typ, nil)
		p.drop(n)
		for range n {
			_ = in.msg.ack() // at worst it is forwarded again
			if in.advance() {
				in.received(f.ctx, in.msg, 0, nil)
			}
		}
	}
	return nil
}

// failed returns what Forward returns for the error of an operation on q, which ran
// with ctx.
func (f *forwarding) failed(ctx context.Context, q *queue, op string, err error, size int) error {
	wasCanceled := isCanceled(err)
	if end, ok := context.Cause(ctx).(*forwardEnd); ok && wasCanceled {
		q, err = end.q, ErrClosed
	}
	opErr := q.callError(f.ctx, op, err, size).(*OpError)
	opErr.Op = "forward" // what the errno means, op has told
	return opErr
}

// forwardEnd is a Forward as one of its two handles sees it, a pumper: to from it is
// a receiver, to to it is a sender. It is also the cause of the end of a ctx that the
// handle has ended.
type forwardEnd struct {
	*forwarding
	q *queue
}

func (e *forwardEnd) Error() string { return ErrClosed.Error() }

func (e *forwardEnd) receives() bool            { return e.q == e.from }
func (e *forwardEnd) Done() <-chan struct{}     { return e.done }
func (e *forwardEnd) drain()                    { e.stopTaking(e) }
func (e *forwardEnd) stop(stopReason)           { e.cancel(e) }
func (e *forwardEnd) collect(*UndeliveredError) { <-e.done }

func (e *forwardEnd) drained() bool {
	select {
	case <-e.done:
		return true
	default:
		return false
	}
}

// same reports whether both are handles for one queue, or would be under WithReopen.
func (q *queue) same(other *queue) bool {
	return sysv.SameMachine(q.kernel, other.kernel) &&
		(q.msqid() == other.msqid() || q.key != sysv.KeyPrivate && q.key == other.key)
}
