// Package chanmq gives Go channels over System V message queues, for programs that
// exchange messages with others on the same machine, in any language, through
// msgsnd(2) and msgrcv(2).
//
// A [Queue] is a handle for one kernel queue: [Open] and [Create] open it by key,
// [Private] creates one without a key. Its direct calls, [Queue.Send] and
// [Queue.Receive], take a context and wait. A [Receiver] and a [Sender] are
// goroutines between the queue and a Go channel, for range and select; a [Consumer] is
// a Receiver whose messages are acknowledged:
//
//	q, err := chanmq.Create(key, 0o600)
//	...
//	orders := q.Receiver(ctx, chanmq.OfType(1))
//	alarms := q.Receiver(ctx, chanmq.OfType(2))
//	for {
//		select {
//		case m, ok := <-orders.C():
//			if !ok {
//				return orders.Err() // ctx has ended, or the queue was removed
//			}
//			...
//		case m, ok := <-alarms.C():
//			if !ok {
//				return alarms.Err()
//			}
//			...
//		}
//	}
//
// Receivers take messages from the kernel ahead of the program, and the handle keeps
// what the program has not read. So a program ends with [Queue.Shutdown], which gives
// everything time to be read or sent back, or with [Queue.Close], which does not wait.
//
// Messages are bytes with a type, a number greater than 0 that receivers select
// by. [As] returns a view of a queue with values of another type, through one of
// the codecs of package codec: text, JSON, structs as C lays them out.
//
// # What is promised
//
//  1. A message that the kernel handed over is in exactly one place: the caller's
//     hands, C's buffer, the handle's hand-back slot, or back in the kernel queue.
//     It is never dropped. It is never delivered twice, unless the program gave it
//     back ([Delivery.Nack]), or, with a journal, a process died that had it.
//
//  2. Receive returns a message that it took even if its ctx ended meanwhile. On
//     a ctx that has ended already it takes nothing.
//
//  3. When its ctx ends, a Receiver stops taking, hands back the message that it
//     holds, and closes C; values in C's buffer can still be read. [Receiver.Close]
//     hands those back as well. The next receives on the handle that select what
//     was handed back get it first, in the order in which it was taken: so order
//     survives a cancel and a new subscription, even if the program does not wait
//     for the Receiver's end in between. What several Receivers with the same
//     selector hand back is in the kernel's order; where selectors differ and
//     overlap, it is in the order in which their goroutines got the messages. A
//     goroutine that reads C while another one closes the Receiver may get a
//     message that is newer than one that is handed back.
//
//     The slot is the handle's: it has no bound, no other handle or process sees
//     what is in it, and it stays full while nobody receives from this handle. A
//     program that cancels Receivers either receives what they hand back, or ends
//     the handle with Shutdown or Close, which send it back to the kernel.
//
//  4. [Queue.Close] ends every Receiver and Sender, waits for them, and sends what
//     is unread, in every C and in the slot, back to the kernel queue without
//     waiting; it goes to the tail. What the kernel does not take, and what Senders
//     had accepted and not sent, comes back in [*UndeliveredError]. Nothing is
//     silent. [Queue.Shutdown] does the same, but first waits, until its ctx ends,
//     for the program to read, for Senders to send, and for room in the queue.
//
//  5. C is closed exactly once, after Err can be read. There is no channel of
//     errors that must be read. Close may be called from the goroutine that
//     reads C, and from several at once.
//
//  6. The only receiver of a type sees its messages in the order in which the
//     kernel queued them.
//
//  7. Receivers, of all processes, compete for messages. A type that nobody
//     receives fills the queue for everyone who sends.
//
//  8. Without a journal, the end of a process without Queue.Close or Queue.Shutdown (a
//     return from main, log.Fatal, os.Exit, a panic, SIGKILL) loses what its handles
//     hold: of each Receiver at most C's buffer and one message; what is in the slot,
//     where the message of a Receiver that was cancelled is; deliveries that were not
//     acknowledged; and what Senders had accepted and not sent. C's buffer is 0 unless
//     [WithBuffer] says otherwise, because the kernel queue is the buffer. Direct calls
//     and [Queue.Messages] take nothing ahead. With [WithPacking], what a receive had no room
//     for of the pack that it took is in the slot, and is lost as well.
//
//     With a journal ([WithJournal]) the end of a process loses nothing that was taken
//     from the kernel, whatever ends it. What was not acknowledged is delivered again, to
//     the next process or to one that is there already, before newer messages:
//     at least once. Exactly once takes the program's help: it keeps the ids of the
//     messages that it has dealt with beside its own data, as examples/once does. What
//     Senders had accepted and not sent is lost still: [Sender.Flush], or Send, tells when
//     the kernel has it.
//
//  9. A message larger than the receive buffer makes the buffer grow; none is
//     truncated. One that does not decode ends the Receiver with a [*DecodeError]
//     that holds it, or goes to the function of [WithDecodeError].
//
//  10. The removal of a queue ends every call, Receiver and Sender that waits for
//     the kernel with [ErrRemoved], at once: this is how close(ch) looks from
//     another process. Those that poll find out when they look next. A Receiver
//     that holds a message which nobody reads finds out within about a second, and
//     hands it back. A Sender that has nothing to send finds out at its next
//     message, which is then in Unsent. [WithReopen] looks for the queue again
//     instead.
//
// # On a cluster
//
// Package natsmq opens queues that are on servers elsewhere. All of the above holds for them,
// but for this:
//
//   - Deliveries of [Queue.Take] and of Consumers stay in the queue until Ack, as if there
//     were a journal: what a process has that ends is delivered again, to any other one.
//     [Queue.Close] and [Queue.Shutdown] leave them in their place. What other receives have
//     taken is the process's, and lost with it.
//   - The error of a send can be [ErrUncertain]: then the message may have been sent. A
//     message that Shutdown sends back can come twice for the same reason.
//   - A call is a trip to the servers, and one that waits is asleep there. It neither polls
//     nor has a thread, so [WithSpin], [WithPolling] and [WithMaxParked] have no effect.
//   - Receives with the same selector do not wait in line.
//   - [WithJournal], [WithPacking] and [WithLarge] are refused.
//
// # What it costs
//
// A call that finds its message, or room, makes one system call. One that has to
// wait polls for some 20 microseconds, if that has lately been worth it, and then
// blocks in the kernel, on a thread of its own, using no processor time; the end
// of its ctx wakes it by a signal (SIGURG, which the Go runtime uses itself). At
// most 128 calls per handle block this way ([WithMaxParked]), and receives with the
// same selector share one of these threads; one goroutine polls for the rest.
//
// On systems other than Linux the package compiles, and every call returns an
// error matching errors.ErrUnsupported.
package chanmq

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"sync"

	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/wait"
)

// A Queue is a handle for a kernel message queue, with values of type T: raw
// bytes when it was just opened, other types through [As]. It is safe for concurrent
// use. All views of one handle share its state: what one hands back, the others
// receive, and Close closes them all. The zero Queue is a closed handle.
type Queue[T any] struct {
	shared *queue // nil: the zero Queue
	codec  decoder[T]

	// What direct calls need, used again: *receiveCall[T] and *send.
	receives, sends sync.Pool
}

func (q *Queue[T]) core() *queue {
	if q.shared == nil {
		return unopened()
	}
	return q.shared
}

// As returns a view of the queue with another type of value. It shares
// everything with q: there is one handle, and closing either closes both.
func As[T any](q *Queue[[]byte], c Codec[T]) *Queue[T] {
	return &Queue[T]{shared: q.shared, codec: newDecoder(c)}
}

// ID returns the queue's msqid, by which other processes can attach to it. It
// changes when [WithReopen] finds the queue re-created. It works after Close.
func (q *Queue[T]) ID() int { return q.core().msqid() }

// Key returns the queue's key, 0 for a private queue, and for one that was
// attached to without permission to read. It works after Close.
func (q *Queue[T]) Key() Key { return q.core().key }

// Send puts a message into the queue, and waits while the queue is full. When
// it returns nil, the kernel has the message. When it returns an error, the
// message was not sent: [ErrTooLarge], [ErrInvalidType], the codec's error,
// [ErrRemoved], or, once ctx has ended, an error that matches ctx.Err() and
// says how full the queue is. A ctx that has ended already sends nothing. After
// Close it fails with [ErrClosed]. All errors are [*OpError].
//
// On a cluster there is one error that does not say that the message was not sent:
// one that matches [ErrUncertain]. If ctx has ended, it matches ctx.Err() as well.
func (q *Queue[T]) Send(ctx context.Context, typ int64, v T) error {
	o := q.getSend()
	defer q.putSend(o)
	err := q.encode(o, typ, v)
	if err == nil {
		err = o.run(ctx)
	}
	err = q.core().callError(ctx, "send", err, o.size())
	o.sent(ctx, typ, err)
	return err
}

// encode puts a message into o. A value that is a larger text already is not copied.
func (q *Queue[T]) encode(o *send, typ int64, v T) error {
	if q.codec.bytes && o.q.options.large != nil {
		if text := any(v).([]byte); len(text) > o.q.largeLimit() {
			return o.encodeLarge(typ, text)
		}
	}
	return o.encode(typ, func(dst []byte) ([]byte, error) { return q.codec.Append(dst, v) })
}

// SendAll puts messages of one type into the queue, in order, and waits while the queue is
// full. It returns how many it has sent: the kernel has the first sent of the values. With
// [WithPacking] as many as fit travel in one message; without, each in its own, as by Send.
//
// It returns an error if it has not sent all, that of the first value which it has not sent:
// those of Send. So a program can go on behind the values that were sent. Of no values it
// returns 0 and nil. If the error matches [ErrUncertain], the first of the others may have
// been sent as well.
func (q *Queue[T]) SendAll(ctx context.Context, typ int64, values []T) (sent int, err error) {
	if !q.core().options.packing {
		for _, v := range values {
			if err := q.Send(ctx, typ, v); err != nil {
				return sent, err
			}
			sent++
		}
		return sent, nil
	}
	o := q.getSend()
	defer q.putSend(o)
	defer func(own []byte) { o.msg = own }(o.msg) // it is the packer's meanwhile
	sent, err = q.sendPacked(ctx, o, typ, values)
	if err != nil {
		err = q.core().callError(ctx, "send", err, o.size())
		o.sent(ctx, typ, err)
	}
	return sent, err
}

// sendPacked is SendAll with packing.
func (q *Queue[T]) sendPacked(ctx context.Context, o *send, typ int64, values []T) (sent int, err error) {
	if len(values) == 0 {
		return 0, nil
	}
	if q.core().closed.Load() {
		return 0, ErrClosed
	}
	if err := validateType(typ); err != nil {
		return 0, err
	}
	p := packers.Get().(*packer)
	defer packers.Put(p)
	p.begin(typ)
	var encodeErr error // of the first value that is not in p
	for sent < len(values) {
		o.begin()
		for encodeErr == nil && sent+len(p.ends) < len(values) && (len(p.ends) == 0 || p.size() < o.packLimit()) {
			v := values[sent+len(p.ends)]
			encodeErr = p.add(func(dst []byte) ([]byte, error) { return q.codec.Append(dst, v) })
		}
		if len(p.ends) == 0 {
			return sent, encodeErr
		}
		n, err := o.runPack(ctx, p)
		if err != nil {
			return sent, err
		}
		o.sent(ctx, typ, nil)
		sent += n
		p.drop(n)
	}
	return sent, nil
}

// packers are those of SendAll, to be used again.
var packers = sync.Pool{New: func() any { return new(packer) }}

// TrySend puts a message into the queue if there is room, and never waits, like
// a select with a default case. It reports false, and no error, when the queue
// is full. Errors are those of Send; on a cluster also [ErrUnavailable].
func (q *Queue[T]) TrySend(typ int64, v T) (sent bool, err error) {
	o := q.getSend()
	defer q.putSend(o)
	err = q.encode(o, typ, v)
	if err == nil {
		err = o.once()
	}
	if err == wait.ErrWait {
		// Full; but a message that can never fit must not be retried forever.
		if err = o.CheckFits(); err == nil {
			return false, nil
		}
	}
	err = q.core().opError("send", err, o.size())
	o.sent(context.Background(), typ, err)
	return err == nil, err
}

// Receive takes a message that s selects, and waits for one. A message that it
// took it returns, even if ctx ended meanwhile; on a ctx that has ended already
// it takes nothing. Once ctx has ended, the error is an [*OpError] that matches
// ctx.Err(). What Receivers of the handle have handed back comes first. The other
// errors are [ErrRemoved], [ErrInvalidType] for a bad selector, and
// [*DecodeError], which holds the message. After Close it fails with [ErrClosed].
//
// Receive reads nothing ahead: messages stay in the kernel until it is called.
// To wait for several selectors at once, or beside other channels, use
// [Queue.Receiver]. [Queue.ReceiveInto] saves the allocations.
//
// If the codec panics, the message is handed back to the handle.
func (q *Queue[T]) Receive(ctx context.Context, s Selector) (Message[T], error) {
	c := q.getReceive()
	defer q.putReceive(c)
	if err := c.receive(ctx, s); err != nil {
		return Message[T]{}, err
	}
	return c.received(ctx)
}

// ReceiveInto is Receive into a Message of the caller's. It uses the storage of
// m.Value again where the codec can: receiving []byte in a loop allocates
// nothing once m.Value is large enough. After an error, m.Value is undefined.
func (q *Queue[T]) ReceiveInto(ctx context.Context, s Selector, m *Message[T]) error {
	c := q.getReceive()
	defer q.putReceive(c)
	if err := c.receive(ctx, s); err != nil {
		return err
	}
	m.Type = c.op.msg.typ()
	err := c.decodeInto(ctx, &m.Value, 0)
	_ = c.op.msg.ack()
	return err
}

// TryReceive takes a message that s selects if there is one, and never waits,
// like a select with a default case. ok is false when there is none. Errors are
// those of Receive; with a [*DecodeError] ok is true, since the message was taken.
//
// ok is also false while a Receiver of the handle whose ctx has ended decodes a
// message that s may select: nothing newer may be taken before that.
func (q *Queue[T]) TryReceive(s Selector) (m Message[T], ok bool, err error) {
	c := q.getReceive()
	defer q.putReceive(c)
	if ok, err := c.try(s); !ok {
		return Message[T]{}, false, err
	}
	m, err = c.received(context.Background())
	return m, true, err
}

// try takes a message, without waiting for one.
func (c *receiveCall[T]) try(s Selector) (ok bool, err error) {
	err = c.prepare(s)
	if err == nil && !c.q.core().holders.awaitBriefly(s) {
		return false, nil
	}
	if err == nil {
		err = c.op.once()
	}
	switch err {
	case nil:
		return true, nil
	case wait.ErrWait:
		return false, nil
	default:
		return false, c.failed(context.Background(), err)
	}
}

// Take is [Queue.Receive] for a message that has to be acknowledged. What it took and the
// program has not acknowledged when the process ends is delivered again, if the handle has
// a journal, or its queue is on a cluster. Errors are those of Receive. A message that does not decode is not delivered
// again: it is in the [*DecodeError].
//
// Nothing limits how many deliveries of Take are not acknowledged; [Queue.Consumer] limits
// it.
func (q *Queue[T]) Take(ctx context.Context, s Selector) (Delivery[T], error) {
	c := q.getReceive()
	defer q.putReceive(c)
	c.op.leaser = q.core().leaser
	if err := c.receive(ctx, s); err != nil {
		return Delivery[T]{}, err
	}
	return c.delivery(ctx)
}

// TryTake is [Queue.Take] that takes a message if there is one, and never waits. ok is
// false when there is none, as of [Queue.TryReceive]. With a *DecodeError ok is true.
func (q *Queue[T]) TryTake(s Selector) (d Delivery[T], ok bool, err error) {
	c := q.getReceive()
	defer q.putReceive(c)
	c.op.leaser, c.op.asks = q.core().leaser, true
	if ok, err := c.try(s); !ok {
		return Delivery[T]{}, false, err
	}
	d, err = c.delivery(context.Background())
	return d, true, err
}

// delivery returns the message that was taken as a Delivery.
func (c *receiveCall[T]) delivery(ctx context.Context) (Delivery[T], error) {
	attempt := c.op.msg.deliver() // before the codec, which may end the process
	m, err := c.decode(ctx, attempt)
	if err != nil {
		_ = c.op.msg.ack() // it is in the error
		return Delivery[T]{}, err
	}
	d := taken.Get().(*delivery)
	d.core, d.credits = c.q.core(), nil
	d.deliver(ctx)
	c.op.give(&d.raw)
	return newDelivery(d, m, attempt), nil
}

// Messages returns an iterator over the messages that s selects, each taken
// when the loop asks for it; nothing is read ahead, and leaving the loop leaves
// the rest in the queue. It waits for messages until ctx ends. An error other
// than a [*DecodeError] is yielded once and ends the iteration; one that is, is
// yielded in its message's place. The errors are those of Receive, among them
// one that matches ctx.Err() at the end of ctx. The iterator can be ranged over
// again.
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

// ReceiveBatch is [Queue.Receive] into a slice: it waits for a message that s selects, and
// then takes with it those that are there at once, up to len(into). It returns how many
// there are in into, from its beginning. It takes nothing if into is empty. It uses the
// storage of the values in into again, as [Queue.ReceiveInto] does.
//
// An error is that of Receive. Where messages were taken before it, n > 0 is returned with the
// error of one that does not decode, a [*DecodeError] which holds that; any other error is
// left to the next call. If the codec panics, all messages are handed back to the handle.
func (q *Queue[T]) ReceiveBatch(ctx context.Context, s Selector, into []Message[T]) (n int, err error) {
	if len(into) == 0 {
		return 0, nil
	}
	c := q.getReceive()
	defer q.putReceive(c)
	c.op.more = len(into) - 1
	defer func() { c.op.more = 0 }()
	if err := c.receive(ctx, s); err != nil {
		return 0, err
	}
	return c.receivedBatch(ctx, into)
}

// Browse returns an iterator over the messages that are in the kernel queue,
// oldest first, without taking them (MSG_COPY). It ends where the queue ends,
// and does not wait. It is no snapshot: messages that others take meanwhile
// shift the rest, so that some may be missed. What Receivers have handed back
// is not part of it.
//
// A message that does not decode is yielded as a [*DecodeError], others follow;
// any other error ends the iteration. The kernel needs to be built with
// CONFIG_CHECKPOINT_RESTORE, as those of distributions are; without it the error
// matches errors.ErrUnsupported. After Close it yields [ErrClosed].
func (q *Queue[T]) Browse() iter.Seq2[Message[T], error] {
	return func(yield func(Message[T], error) bool) {
		core := q.core()
		var seen, value raw
		for position := 0; ; position++ {
			if core.closed.Load() {
				yield(Message[T]{}, core.opError("browse", ErrClosed, 0))
				return
			}
			ok, err := core.peek(position, &seen)
			if err != nil {
				yield(Message[T]{}, core.opError("browse", err, 0))
				return
			}
			if !ok {
				return
			}
			if core.options.packing {
				seen.open(seen.n)
			}
			core.look(&seen)
			for shown := &seen; ; {
				if seen.values > 0 {
					shown = &value
					_ = seen.next(nil, shown) // which needs no journal
				}
				m := Message[T]{Type: seen.typ()}
				err := q.decode(shown, &m.Value)
				seen.file.Release()
				seen.file = nil
				if !yield(m, err) {
					return
				}
				if seen.values == 0 {
					break
				}
			}
		}
	}
}

// receiveCall is what a direct receive needs.
type receiveCall[T any] struct {
	q     *Queue[T]
	op    receive
	value T      // what the codec decodes into, so that the caller's need not escape
	batch []*raw // of ReceiveBatch: what is not the caller's yet; their buffers are used again
}

func (q *Queue[T]) getReceive() *receiveCall[T] {
	if c, ok := q.receives.Get().(*receiveCall[T]); ok {
		return c
	}
	c := &receiveCall[T]{q: q}
	c.op.init(q.core(), &q.core().receiveSpin, q.codec.hint)
	return c
}

func (q *Queue[T]) putReceive(c *receiveCall[T]) {
	c.op.waiter.Release()
	c.op.release() // the pool may forget c
	c.op.leaser, c.op.asks = nil, false
	q.receives.Put(c)
}

func (q *Queue[T]) getSend() *send {
	if o, ok := q.sends.Get().(*send); ok {
		return o
	}
	o := new(send)
	o.init(q.core(), &q.core().sendSpin)
	return o
}

func (q *Queue[T]) putSend(o *send) {
	o.waiter.Release()
	q.sends.Put(o)
}

// prepare checks s.
func (c *receiveCall[T]) prepare(s Selector) error {
	c.op.begin()
	c.op.selects(s)
	return s.validate()
}

// receive takes a message, after those that older Receivers still hold.
func (c *receiveCall[T]) receive(ctx context.Context, s Selector) error {
	core := c.q.core()
	err := c.prepare(s)
	if err == nil {
		if ctx.Err() == nil && !core.holders.await(ctx, core.closing, s) && !core.closed.Load() {
			err = &canceled{}
		} else {
			err = c.op.run(ctx)
		}
	}
	if err != nil {
		return c.failed(ctx, err)
	}
	return nil
}

// failed returns the error of a receive that took nothing, and reports it.
func (c *receiveCall[T]) failed(ctx context.Context, err error) error {
	err = c.q.core().callError(ctx, "receive", err, 0)
	c.op.reportFailed(ctx, err)
	return err
}

// received decodes the message, which is the caller's then.
func (c *receiveCall[T]) received(ctx context.Context) (Message[T], error) {
	m, err := c.decode(ctx, 0)
	_ = c.op.msg.ack() // at worst it comes again, as promised
	return m, err
}

func (c *receiveCall[T]) decode(ctx context.Context, attempt int) (Message[T], error) {
	var zero T
	c.value = zero
	typ := c.op.msg.typ()
	err := c.decodeInto(ctx, &c.value, attempt)
	m := Message[T]{typ, c.value}
	c.value = zero // the pool must not keep the caller's data alive
	return m, err
}

// receivedBatch decodes the message that was received, and those behind it that are there.
// It keeps all of them until they are the caller's.
func (c *receiveCall[T]) receivedBatch(ctx context.Context, into []Message[T]) (n int, err error) {
	returned, taken := false, 0
	defer func() {
		c.op.handBackAhead() // after an error
		for i := range taken {
			if m := &c.batch[i]; returned {
				_ = (*m).ack() // at worst it comes again, as promised
				(*m).release()
			} else {
				_ = c.op.q.handBack(**m) // nobody is left to report to
				*m = new(raw)
			}
		}
	}()
	for n < len(into) && err == nil {
		if n > 0 && !c.op.advance() {
			c.op.more = len(into) - n - 1
			if !c.op.q.holders.awaitBriefly(c.op.sel) || c.op.once() != nil {
				break
			}
		}
		if n == len(c.batch) {
			c.batch = append(c.batch, nil)
		}
		m := &c.batch[n]
		c.op.give(m)
		taken++
		into[n].Type = (*m).typ()
		err = c.q.decodeTaken(&c.op, *m, &into[n].Value)
		c.op.received(ctx, *m, 0, err)
		if err == nil {
			n++
		}
	}
	returned = true
	return n, err
}

// decodeInto decodes the message that was received. If the codec, or the observer, panics,
// or ends the goroutine, it hands the message back. attempt is for the observer.
func (c *receiveCall[T]) decodeInto(ctx context.Context, v *T, attempt int) (err error) {
	returned := false
	defer func() {
		if !returned {
			c.op.handBack()
		}
	}()
	err = c.q.decodeTaken(&c.op, c.op.msg, v)
	c.op.received(ctx, c.op.msg, attempt, err)
	returned = true
	return err
}

// decodeTaken is decode for a message that o has taken.
func (q *Queue[T]) decodeTaken(o *receive, m *raw, v *T) error {
	if q.codec.bytes && o.packed() {
		o.storage.provide(any(v).(*[]byte), m.n)
	}
	return q.decode(m, v)
}

// decode decodes m into v. Its error holds the message.
func (q *Queue[T]) decode(m *raw, v *T) error {
	var err error
	switch {
	case m.file != nil:
		return q.decodeLarge(m, v)
	case m.damaged:
		err = m.damage()
	default:
		err = q.codec.decode(m.text(), v)
	}
	if err != nil {
		return q.decodeError(m.message(), err)
	}
	return nil
}

// decodeLarge decodes a text that is in a file. The error holds the reference if there is no
// such file, and else the text.
func (q *Queue[T]) decodeLarge(m *raw, v *T) error {
	var dst []byte
	if q.codec.bytes {
		dst = *any(v).(*[]byte)
	}
	text, err := m.file.Read(dst)
	if err != nil {
		return q.decodeError(m.message(), err)
	}
	if q.codec.bytes {
		*any(v).(*[]byte) = text
		return nil
	}
	// It is nobody else's, so the codec may do with it what it likes.
	if err := q.codec.Decode(text, v); err != nil {
		return q.decodeError(Message[[]byte]{m.typ(), text}, err)
	}
	return nil
}

func (q *Queue[T]) decodeError(m Message[[]byte], err error) error {
	core := q.core()
	return &DecodeError{Message: m, Err: err, Key: core.key, ID: core.msqid()}
}

// decoder is a codec that cannot write to the text of a message.
type decoder[T any] struct {
	Codec[T]
	readOnly bool
	bytes    bool               // values are the texts
	hint     journal.LengthHint // what it knows of the length
}

func newDecoder[T any](c Codec[T]) decoder[T] {
	d := decoder[T]{Codec: c}
	_, d.readOnly = c.(codec.ReadOnlyDecoder)
	d.bytes = reflect.TypeOf(c) == reflect.TypeOf(codec.Bytes())
	switch c := c.(type) {
	case codec.FixedSizer:
		d.hint = journal.FixedLength(c.FixedSize())
	case codec.Ender:
		d.hint = journal.NeverEndsIn(c.NeverEndsIn())
	}
	return d
}

// texts are the copies that codecs decode from which are not known to leave the
// text as it is: it may be handed back, or be in a DecodeError.
var texts = sync.Pool{New: func() any { return new([]byte) }}

func (d decoder[T]) decode(text []byte, v *T) error {
	if d.readOnly {
		return d.Decode(text, v)
	}
	own := texts.Get().(*[]byte)
	*own = append((*own)[:0], text...)
	err := d.Decode(*own, v)
	texts.Put(own) // not deferred: a codec that panics may still use it
	return err
}
