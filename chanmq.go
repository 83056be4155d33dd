// Package chanmq gives Go channels over System V kernel message queues, for
// programs that talk to others on the same machine, in any language, through
// msgsnd and msgrcv.
//
// A [Queue] is a handle for one kernel queue: open it by key with [Open] or
// [Create], make one without a key with [Private]. Its direct calls, [Queue.Send]
// and [Queue.Receive], take a context and wait. A [Receiver] and a [Sender] are
// goroutines between the queue and a Go channel, for range and select:
//
//	q, err := chanmq.Create(key, 0o600)
//	...
//	orders := q.Receiver(ctx, chanmq.OfType(1))
//	alarms := q.Receiver(ctx, chanmq.OfType(2))
//	for {
//		select {
//		case m := <-orders.C():
//			...
//		case m := <-alarms.C():
//			...
//		}
//	}
//
// Messages are bytes with a type, a number greater than 0 that receivers select
// by. [As] makes a view of a queue with values of another type, through one of
// the codecs of package codec: text, JSON, structs as C lays them out.
//
// # What is promised
//
//  1. A message that the kernel handed over is in exactly one place: your hands,
//     C's buffer, the handle's hand-back slot, or back in the kernel queue. It is
//     never dropped, and it never comes twice.
//  2. Receive returns a message that it took even if its ctx ended meanwhile. On
//     a ctx that has ended already it takes nothing.
//  3. When its ctx ends, a Receiver stops taking, hands back the message that it
//     holds, and closes C; what is in C's buffer can still be read. Close also
//     hands back what is in C's buffer. What was handed back is what the next
//     receives on the handle get first, in the order in which it was taken: so
//     order survives a cancel and a new subscription, also when the program does
//     not wait for the Receiver's end in between.
//  4. Closing a queue ends and joins everything, and sends what is left back to
//     the kernel without waiting. What the kernel does not take, and what Senders
//     had accepted and not sent, comes back in [*UndeliveredError].
//  5. C is closed exactly once, after Err can be read. There is no channel of
//     errors that must be read. Close may be called from the goroutine that
//     reads C, and from several at once.
//  6. One receiver of a type sees its messages in the order in which the kernel
//     queued them.
//  7. Receivers, of all processes, compete for messages. A type that nobody
//     reads fills the queue for everyone who sends.
//  8. When a process is killed, at most what it had taken is lost: for each
//     Receiver, C's buffer and one message. The buffer is 0 unless [WithBuffer]
//     says otherwise, because the kernel queue is the buffer. Direct calls and
//     [Queue.Messages] take nothing ahead.
//  9. A message larger than the buffer makes the buffer grow; none is cut short.
//     One that does not decode ends the Receiver with a [*DecodeError] that holds
//     it, or goes to the function of [WithDecodeError].
//  10. The removal of a queue ends every Receiver and every call that waits with
//     [ErrRemoved], at once: it is close(ch) from another process. A Sender that
//     has nothing to send finds out at its next message, which is then in Unsent.
//     [WithReopen] looks for the queue again instead.
//
// # What it costs
//
// A call that finds its message, or room, makes one system call. One that has to
// wait polls for some 20 microseconds, if that has lately been worth it, and then
// sleeps in the kernel, on a thread of its own, using no processor time; the end
// of its ctx wakes it by a signal (SIGURG, which the Go runtime uses itself). At
// most 128 calls of a handle sleep so ([WithMaxParked]); one goroutine polls for
// the rest.
//
// On systems other than Linux the package compiles, and every call returns an
// error that is errors.ErrUnsupported.
package chanmq

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"

	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysv"
)

// A Message is what stands in a queue: a type, which receivers select by, and a
// value. In C it is struct msgbuf.
type Message[T any] struct {
	Type  int64 // mtype: > 0, and no more than a C long holds
	Value T
}

// Codec turns values into the text of messages and back. Package codec has
// those that most programs need; an implementation of one's own must be safe
// for use by several goroutines.
type Codec[T any] = codec.Codec[T]

// A Queue is a handle for a kernel message queue, with values of type T: raw
// bytes when it was just opened, other types through [As]. It may be used by any
// number of goroutines. All views of one handle share its state: what one
// hands back, the others receive, and Close closes them all.
type Queue[T any] struct {
	core  *queue
	codec Codec[T]

	// What direct calls need, used again: *receiveCall[T] and *send.
	receives, sends sync.Pool
}

// queue is what the views of a handle share.
type queue struct {
	kernel  sysv.Kernel
	options options
	key     Key
	get     func() (int, error) // finds the queue; called under lookup, and by open
	lookup  chan struct{}       // room for 1: held by who calls get
	id      atomic.Int64        // the msqid; changes when the queue is found again

	slot handback
	room room

	receiveSpin, sendSpin spinner // of the direct calls

	removed atomic.Bool   // Remove was called on this handle
	closed  atomic.Bool   // set by close, before closing is closed
	closing chan struct{} // closed when Close begins
	ended   chan struct{} // closed when Close has done everything

	pumps pumps
}

func (q *queue) msqid() int { return int(q.id.Load()) }

// As returns a view of the queue with another type of value. It shares
// everything with q: there is one handle, and closing either closes both.
func As[T any](q *Queue[[]byte], c Codec[T]) *Queue[T] {
	view := &Queue[T]{core: q.core, codec: c}
	view.receives.New = func() any { return newReceiveCall(view) }
	view.sends.New = func() any {
		o := new(send)
		o.init(view.core, &view.core.sendSpin)
		return o
	}
	return view
}

// ID returns the queue's msqid, by which other processes can attach to it. It
// changes when [WithReopen] finds the queue made anew. It works after Close.
func (q *Queue[T]) ID() int { return q.core.msqid() }

// Key returns the queue's key, 0 for a private queue, and for one that was
// attached to without permission to read. It works after Close.
func (q *Queue[T]) Key() Key { return q.core.key }

// Send puts a message into the queue, and waits while the queue is full. When
// it returns nil, the kernel has the message. When it returns an error, the
// message was not sent: [ErrTooLarge], [ErrInvalidType], the codec's error,
// [ErrRemoved], or, once ctx has ended, an error that is ctx.Err() and that
// says how full the queue is. A ctx that has ended already sends nothing. After
// Close it fails with [ErrClosed].
func (q *Queue[T]) Send(ctx context.Context, typ int64, v T) error {
	o := q.sends.Get().(*send)
	defer q.putSend(o)
	err := o.encode(typ, func(dst []byte) ([]byte, error) { return q.codec.Append(dst, v) })
	if err == nil {
		err = o.run(ctx)
	}
	return q.core.opError("send", err, o.size())
}

// TrySend puts a message into the queue if there is room, and never waits, like
// a select with a default case. It reports false, and no error, when the queue
// is full. Errors are those of Send.
func (q *Queue[T]) TrySend(typ int64, v T) (sent bool, err error) {
	o := q.sends.Get().(*send)
	defer q.putSend(o)
	err = o.encode(typ, func(dst []byte) ([]byte, error) { return q.codec.Append(dst, v) })
	if err == nil {
		err = o.once()
	}
	if err == errWait {
		// Full; but a message that no room would do for must not be tried for ever.
		if err = o.hopeless(); err == nil {
			return false, nil
		}
	}
	return err == nil, q.core.opError("send", err, o.size())
}

// Receive takes a message that s selects, and waits for one. A message that it
// took it returns, even if ctx ended meanwhile; on a ctx that has ended already
// it takes nothing and returns an error that is ctx.Err(). What Receivers of the
// handle have handed back comes first. The other errors are [ErrRemoved],
// [ErrInvalidType] for a bad selector, and [*DecodeError], which holds the
// message. After Close it fails with [ErrClosed].
//
// Receive reads nothing ahead: messages stay in the kernel until it is called.
// To wait for several selectors at once, or beside other channels, use
// [Queue.Receiver]. [Queue.ReceiveInto] saves the allocations.
func (q *Queue[T]) Receive(ctx context.Context, s Selector) (Message[T], error) {
	c := q.receives.Get().(*receiveCall[T])
	defer q.putReceive(c)
	if err := c.receive(ctx, s); err != nil {
		return Message[T]{}, err
	}
	return c.decode()
}

// ReceiveInto is Receive into a Message of the caller's. It uses the storage of
// m.Value again where the codec can: receiving []byte in a loop allocates
// nothing once m.Value is large enough. After an error, m.Value is not to be
// relied on.
func (q *Queue[T]) ReceiveInto(ctx context.Context, s Selector, m *Message[T]) error {
	c := q.receives.Get().(*receiveCall[T])
	defer q.putReceive(c)
	if err := c.receive(ctx, s); err != nil {
		return err
	}
	m.Type = c.op.msg.typ()
	return decodeRaw(q.codec, &c.op.msg, &m.Value)
}

// TryReceive takes a message that s selects if there is one, and never waits,
// like a select with a default case. ok is false when there is none. Errors are
// those of Receive; with a [*DecodeError] ok is true, since the message was taken.
func (q *Queue[T]) TryReceive(s Selector) (m Message[T], ok bool, err error) {
	c := q.receives.Get().(*receiveCall[T])
	defer q.putReceive(c)
	if err := c.prepare(s); err != nil {
		return Message[T]{}, false, err
	}
	switch err := c.op.once(); err {
	case nil:
		m, err := c.decode()
		return m, true, err
	case errWait:
		return Message[T]{}, false, nil
	default:
		return Message[T]{}, false, q.core.opError("receive", err, 0)
	}
}

// Messages returns an iterator over the messages that s selects, each taken
// when the loop asks for it; nothing is read ahead, and leaving the loop leaves
// the rest in the queue. It waits for messages until ctx ends. An error other
// than a [*DecodeError] is yielded once and ends the iteration; one that is, is
// yielded in its message's place. The errors are those of Receive, among them
// ctx.Err() at the end of ctx. The iterator can be ranged over again.
func (q *Queue[T]) Messages(ctx context.Context, s Selector) iter.Seq2[Message[T], error] {
	return func(yield func(Message[T], error) bool) {
		for {
			m, err := q.Receive(ctx, s)
			if !yield(m, err) {
				return
			}
			var undecoded *DecodeError
			if err != nil && !errors.As(err, &undecoded) {
				return
			}
		}
	}
}

// Browse returns an iterator over the messages that stand in the kernel queue,
// oldest first, without taking them (MSG_COPY). It ends where the queue ends,
// and does not wait. It is no snapshot: messages that others take meanwhile
// shift the rest, so that some may be missed. What Receivers have handed back
// is not part of it.
//
// A message that does not decode is yielded as a [*DecodeError], others follow;
// any other error ends the iteration. The kernel needs to be built with
// CONFIG_CHECKPOINT_RESTORE, as those of distributions are; without it the error
// is errors.ErrUnsupported. After Close it yields [ErrClosed].
func (q *Queue[T]) Browse() iter.Seq2[Message[T], error] {
	return func(yield func(Message[T], error) bool) {
		var seen raw
		seen.grow()
		for position := 0; ; {
			if q.core.closed.Load() {
				yield(Message[T]{}, q.core.opError("browse", ErrClosed, 0))
				return
			}
			n, err := q.core.kernel.Receive(q.core.msqid(), seen.buf, position, sysv.Copy)
			switch err {
			case nil:
				seen.n = n
				var m Message[T]
				m.Type = seen.typ()
				err := decodeRaw(q.codec, &seen, &m.Value)
				if !yield(m, err) {
					return
				}
				position++
			case sysv.E2BIG:
				seen.grow()
			case sysv.ENOMSG:
				return
			case sysv.EINVAL:
				// msgmax may have been lowered since the message was sent.
				if limits, limitsErr := q.core.kernel.Limits(); limitsErr == nil && len(seen.buf)-sysv.HeaderSize > limits.MaxMessage {
					if _, statErr := q.core.stat(); statErr == nil {
						err = cause([]error{ErrTooLarge, err}, "the kernel copies no message that is larger than msgmax, and msgmax is %d now (sysctl kernel.msgmax); a receive can take it", limits.MaxMessage)
					}
				}
				yield(Message[T]{}, q.core.opError("browse", err, 0))
				return
			case sysv.ENOSYS:
				err = cause([]error{errors.ErrUnsupported, err}, "this kernel was built without CONFIG_CHECKPOINT_RESTORE, which MSG_COPY needs")
				yield(Message[T]{}, q.core.opError("browse", err, 0))
				return
			default:
				yield(Message[T]{}, q.core.opError("browse", err, 0))
				return
			}
		}
	}
}

// receiveCall is what a direct receive needs.
type receiveCall[T any] struct {
	q     *Queue[T]
	op    receive
	value T // what the codec decodes into, so that the caller's need not escape
}

func newReceiveCall[T any](q *Queue[T]) *receiveCall[T] {
	c := &receiveCall[T]{q: q}
	c.op.init(q.core, &q.core.receiveSpin)
	return c
}

func (q *Queue[T]) putReceive(c *receiveCall[T]) {
	c.op.release()
	q.receives.Put(c)
}

func (q *Queue[T]) putSend(o *send) {
	o.release()
	q.sends.Put(o)
}

// prepare checks s, and lets what older Receivers still hold come first.
func (c *receiveCall[T]) prepare(s Selector) error {
	if err := s.validate(); err != nil {
		return c.q.core.opError("receive", err, 0)
	}
	c.q.core.pumps.settle(s)
	c.op.selects(s)
	return nil
}

func (c *receiveCall[T]) receive(ctx context.Context, s Selector) error {
	if err := c.prepare(s); err != nil {
		return err
	}
	err := c.op.run(ctx)
	if err != nil && err != ctx.Err() {
		return c.q.core.opError("receive", err, 0)
	}
	return err
}

func (c *receiveCall[T]) decode() (Message[T], error) {
	var zero T
	c.value = zero
	err := decodeRaw(c.q.codec, &c.op.msg, &c.value)
	m := Message[T]{c.op.msg.typ(), c.value}
	c.value = zero // the pool must not keep the caller's data alive
	return m, err
}

// decodeRaw decodes m into v. Its error holds the message.
func decodeRaw[T any](c Codec[T], m *raw, v *T) error {
	if err := c.Decode(m.text(), v); err != nil {
		return &DecodeError{Message: m.message(), Err: err}
	}
	return nil
}

// run is wait.run, and looks for a queue that was removed under WithReopen.
func (q *queue) run(ctx context.Context, w *wait) error {
	var again reopening
	for {
		id := q.msqid()
		err := w.run(ctx)
		if again.last != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			return again.ended(ctx)
		}
		if !q.reopens(err) {
			return err
		}
		if err := q.reopen(ctx, &again, id); err != nil {
			return err
		}
	}
}

// once is a single try, and one more where the queue can be found again.
func (q *queue) once(op operation) error {
	err := op.try()
	if !q.reopens(err) {
		return err
	}
	q.lookup <- struct{}{}
	id, findErr := q.find()
	if findErr == nil {
		q.id.Store(int64(id))
	}
	<-q.lookup
	if findErr != nil {
		return err
	}
	return op.try()
}

// reopens reports whether an error asks for the queue to be looked up again.
func (q *queue) reopens(err error) bool {
	return err == sysv.EIDRM && q.options.reopen && !q.removed.Load()
}

func (o *receive) run(ctx context.Context) error { return o.q.run(ctx, &o.wait) }
func (o *receive) once() error                   { return o.q.once(o) }
func (o *send) once() error                      { return o.q.once(o) }

// run says of a ctx that ended while the queue was full how full it was.
func (o *send) run(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctxError(ctx)
	}
	err := o.q.run(ctx, &o.wait)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) && !errors.Is(err, ErrRemoved) {
		return cause([]error{err}, "waiting for room in the queue, which holds %s: %v", o.q.fullness(), err)
	}
	return err
}

// Close ends the Go side of the queue, for all views of the handle; the queue
// itself stays, unless [WithRemoveOnClose] was given. It ends every Receiver
// and Sender and waits for them, makes the direct calls that wait return
// [ErrClosed], collects what Receivers had taken and the program has not read,
// in every C and in the handle's slot, and sends it back to the queue without
// waiting; it goes to the tail, behind what stands there. What the kernel does
// not take back, and what Senders had accepted and not sent, comes back in
// [*UndeliveredError]. A second Close waits for the first and returns nil.
//
// Close must not be called from a WithDecodeError function, which it waits for.
func (q *Queue[T]) Close() error { return q.core.close() }

func (q *queue) close() error {
	if q.closed.Swap(true) {
		<-q.ended
		return nil
	}
	defer close(q.ended)
	close(q.closing)
	q.room.wake()
	q.room.poller.join()

	var left UndeliveredError
	pumps := q.pumps.refuse()
	for _, p := range pumps {
		p.stop(ErrClosed) // all of them, before waiting for one
	}
	for _, p := range pumps {
		p.collect(&left)
	}
	q.sendBack(&left)
	err := left.or()
	if q.options.remove {
		if rmErr := q.kernel.Remove(q.msqid()); rmErr != nil && !isRemoved(rmErr) {
			err = errors.Join(err, q.opError("remove", rmErr, 0))
		}
	}
	return err
}

// sendBack empties the slot into the kernel queue. What does not fit goes to the
// front of left, which holds what Senders left over.
func (q *queue) sendBack(left *UndeliveredError) {
	held := q.slot.empty()
	var err error
	if q.options.remove {
		err = fmt.Errorf("the queue is removed with the handle")
	}
	for len(held) > 0 && err == nil {
		m := &held[0]
		if err = q.kernel.Send(q.msqid(), m.buf[:sysv.HeaderSize+m.n]); err == nil {
			held = held[1:]
		}
	}
	if len(held) == 0 {
		return
	}
	// All the rest stays, or a later message would get before an earlier one.
	messages := make([]Message[[]byte], 0, len(held)+len(left.Messages))
	for i := range held {
		messages = append(messages, held[i].message())
	}
	left.Messages = append(messages, left.Messages...)
	switch {
	case err == sysv.EAGAIN:
		left.Err = cause([]error{err}, "the queue is full: it holds %s", q.fullness())
	case isRemoved(err):
		left.Err = ErrRemoved
	default:
		left.Err = q.explain("receive", err, held[0].n)
	}
}
