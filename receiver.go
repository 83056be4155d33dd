package chanmq

import (
	"context"
	"errors"
	"reflect"
	"runtime"
	"sync"
	"sync/atomic"
)

// A Receiver moves the messages that a [Selector] selects from the queue into
// the channel C, for programs that range over it or select over several of
// them. It is a pump: a goroutine of its own that takes a message and offers it
// on C, ahead of the program by one message and C's buffer.
//
// It ends when its ctx ends, when Close or Drain is called, when the queue is
// removed, when a message does not decode, and when the handle is closed. Then
// C is closed, and Err says why. What was taken and not read is never dropped:
// see [Receiver.Close].
type Receiver[T any] struct {
	q        *Queue[T]
	sel      Selector
	c        chan Message[T] // sent to and closed by the pump alone
	undecode func(*DecodeError)

	// ctx is the program's. holding ends with it, and when the Receiver is
	// stopped; taking ends with holding, and when it is drained.
	ctx, holding, taking context.Context
	letGo                context.CancelCauseFunc // ends holding
	stopTaking           context.CancelCauseFunc // ends taking

	// Of the pump, until done is closed; then guarded by mu.
	op     receive
	stream stream
	held   []Message[T] // taken, decoded, and not sent to c yet
	ring   []raw        // the raw forms of the last cap(c)+1 values, held ones included; see slot
	sent   uint64       // how many values were sent to c

	done chan struct{} // closed when the pump has ended
	err  atomic.Value  // receiverEnd: why it ended; set before c is closed

	mu sync.Mutex // held by who collects
}

// receiverEnd makes errors of different types fit an atomic.Value.
type receiverEnd struct{ err error }

// errStopped is the cause of an end that the program asked for.
var errStopped = cause(nil, "the Receiver or Sender was stopped")

// Receiver starts a Receiver for the messages that s selects. It always returns
// one; where it cannot work (the handle is closed, the selector or an option is
// bad), its C is closed at once and Err says why.
//
// Several Receivers of one queue, and other processes, compete for messages:
// each message goes to one of them. Their number is not limited; see
// [WithMaxParked] for what they cost.
func (q *Queue[T]) Receiver(ctx context.Context, s Selector, opts ...ReceiverOption) *Receiver[T] {
	o, err := newReceiverOptions(opts)
	if err == nil {
		err = s.validate()
	}
	r := &Receiver[T]{
		q:        q,
		sel:      s,
		c:        make(chan Message[T], o.buffer),
		undecode: o.decodeError,
		ctx:      ctx,
		ring:     make([]raw, o.buffer+1),
		done:     make(chan struct{}),
	}
	r.holding, r.letGo = context.WithCancelCause(ctx)
	r.taking, r.stopTaking = context.WithCancelCause(r.holding)
	if err == nil && !q.core.pumps.add(r) {
		err = ErrClosed
	}
	if err != nil {
		r.end(q.core.opError("receive", err, 0))
		return r
	}
	r.op.init(q.core, new(spinner))
	r.op.selects(s)
	go r.pump()
	return r
}

// C returns the channel of messages. It is always the same. It is closed, once,
// when the Receiver has ended, after Err can be read; values that stand in its
// buffer then can still be read, unless Close has moved them to the handle.
func (r *Receiver[T]) C() <-chan Message[T] { return r.c }

// Done returns a channel that is closed when the Receiver has ended: its
// goroutine is gone, and what it held is handed back.
func (r *Receiver[T]) Done() <-chan struct{} { return r.done }

// Err returns why C was closed: ctx.Err() and the ctx's cause, [ErrRemoved],
// [ErrClosed] if the handle was closed, or a [*DecodeError], which holds the
// message. It returns nil as long as C is open, and after Close and Drain.
func (r *Receiver[T]) Err() error {
	end, _ := r.err.Load().(receiverEnd)
	return end.err
}

// Drain makes the Receiver stop taking messages, deliver the one that it holds,
// and close C. It returns when that is done; values in C's buffer are the
// program's to read. While nobody reads C it waits for ctx, returns ctx.Err(),
// and the Receiver goes on draining; so call it from another goroutine than C's
// reader, or with a ctx that ends. After the Receiver's end, and after Close, it
// returns nil at once.
func (r *Receiver[T]) Drain(ctx context.Context) error {
	r.stopTaking(errStopped)
	select {
	case <-r.done:
		return nil
	default:
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return ctxError(ctx)
	}
}

// Close makes the Receiver stop, waits for its end, and hands back to the handle
// what it had taken and the program has not read, the values in C's buffer too.
// The next receives on the handle get them, in the order taken, before newer
// messages. C is closed and empty afterwards. Close may be called from any
// goroutine, C's reader too, and any number of times; it always returns nil. It
// must not be called from a WithDecodeError function, which it waits for.
func (r *Receiver[T]) Close() error {
	r.stop(errStopped)
	r.collect(nil)
	return nil
}

func (r *Receiver[T]) stop(err error) { r.letGo(err) }

// pump is the way of a message from the kernel to the channel.
func (r *Receiver[T]) pump() {
	core := r.q.core
	core.pumps.settle(r.sel)
	sub := core.pumps.subscribe(r.ctx, r.sel)
	var err error
	for err == nil {
		var undecoded *DecodeError
		undecoded, err = r.take()
		if !r.deliver() {
			err = ctxError(r.holding)
			r.letGoOfHeld()
		}
		switch {
		case undecoded == nil:
		case r.undecode == nil:
			err = undecoded
		default:
			// The message is undecode's, which may receive from this handle:
			// this Receiver holds nothing meanwhile.
			core.pumps.unsubscribe(r.ctx, sub)
			r.undecode(undecoded)
			core.pumps.settle(r.sel)
			sub = core.pumps.subscribe(r.ctx, r.sel)
		}
	}
	r.op.release()
	core.pumps.unsubscribe(r.ctx, sub)
	r.end(r.reason(err))
	if r.spent() {
		core.pumps.remove(r)
	}
}

// maxBatch is how many messages a pump takes before it delivers the first, if
// that many come at once and C has room for them. Each delivery to a program that
// waits wakes a thread, which costs more than taking a message.
const maxBatch = 64

// take waits for a message and holds it, and with it those that follow at once.
// It ends early at a message that does not decode.
func (r *Receiver[T]) take() (undecoded *DecodeError, err error) {
	if err := r.op.run(r.taking); err != nil {
		return nil, err
	}
	// With what is in C these make at most cap(c)+1.
	room := min(maxBatch, 1+cap(r.c)-len(r.c))
	for {
		if undecoded := r.hold(); undecoded != nil {
			return undecoded, nil
		}
		if len(r.held) == room || r.taking.Err() != nil || !r.another() {
			return nil, nil // run will find the reason again
		}
	}
}

// another takes one more message if there is one. If messages have lately come
// one behind the other, it tries for about the time that a program needs to send
// one: a pump is faster than that, and would deliver each by itself.
func (r *Receiver[T]) another() bool {
	tries := 0
	if !r.op.waited || len(r.held) > 1 {
		tries = 1 // there were some
	}
	if r.stream.expected(len(r.held)) {
		tries = triesPerFollower
	}
	for range tries {
		if r.op.try() == nil {
			r.stream.came()
			return true
		}
	}
	return false
}

// hold keeps the message that op took, decoded in held and raw in the ring.
func (r *Receiver[T]) hold() *DecodeError {
	slot := r.slot(r.sent + uint64(len(r.held)))
	*slot, r.op.msg = r.op.msg, *slot
	r.held = append(r.held, Message[T]{Type: slot.typ()})
	last := len(r.held) - 1
	if err := decodeRaw(r.q.codec, slot, &r.held[last].Value); err != nil {
		r.held = r.held[:last]
		return err.(*DecodeError)
	}
	return nil
}

// slot is where the raw form of a value is.
func (r *Receiver[T]) slot(number uint64) *raw { return &r.ring[number%uint64(len(r.ring))] }

// deliver sends what is held to C. It reports false if the Receiver had to stop
// before it was through.
func (r *Receiver[T]) deliver() bool {
	delivered := 0
	defer func() {
		clear(r.held[:delivered]) // the program's now
		r.held = append(r.held[:0], r.held[delivered:]...)
	}()
	for _, m := range r.held {
		select {
		case r.c <- m:
		default:
			select {
			case r.c <- m:
			case <-r.holding.Done():
				return false
			}
		}
		delivered++
		r.sent++
		r.op.owing = true
	}
	if r.op.owing && r.op.waited {
		// Messages come one by one: the program can have this one now, or
		// after a system call that most likely finds no other.
		runtime.Gosched()
	}
	return true
}

// letGoOfHeld hands back what could not be delivered.
func (r *Receiver[T]) letGoOfHeld() {
	for i := range r.held {
		slot := r.slot(r.sent + uint64(i))
		r.q.core.handBack(*slot)
		*slot = raw{}
	}
	clear(r.held)
	r.held = r.held[:0]
}

// reason turns why the pump stopped into what Err returns.
func (r *Receiver[T]) reason(err error) error {
	switch {
	case errors.Is(err, errStopped):
		return nil
	case errors.Is(err, ErrClosed):
		err = ErrClosed
	case r.ctx.Err() != nil && errors.Is(err, r.ctx.Err()) && !errors.Is(err, ErrRemoved):
		return ctxError(r.ctx)
	}
	if _, undecoded := err.(*DecodeError); undecoded {
		return err
	}
	return r.q.core.opError("receive", err, 0)
}

// end publishes why the Receiver has ended, and closes C, once.
func (r *Receiver[T]) end(err error) {
	r.err.Store(receiverEnd{err})
	r.letGo(errStopped) // releases what the ctx knows of this Receiver
	close(r.c)
	close(r.done)
}

func (r *Receiver[T]) spent() bool {
	select {
	case <-r.done:
		return len(r.c) == 0
	default:
		return false
	}
}

// collect moves what is unread in C to the slot.
func (r *Receiver[T]) collect(*UndeliveredError) {
	<-r.done
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		// The values left in C are the last ones that were sent, so their
		// number tells which ones they are. The program may be reading them
		// at the same time: then the number falls by more than the one that
		// is taken here, and that is one of several.
		before := uint64(len(r.c))
		m, ok := <-r.c
		if !ok {
			break
		}
		after := uint64(len(r.c))
		at := r.identify(m, r.sent-before, r.sent-after)
		r.q.core.handBack(r.ring[at])
		r.ring[at] = raw{}
	}
	r.q.core.pumps.remove(r)
}

// identify returns the index in ring of the value m, whose number is in from to
// end-1.
func (r *Receiver[T]) identify(m Message[T], from, end uint64) uint64 {
	n := uint64(len(r.ring))
	for i := from; i < end-1; i++ {
		var value T
		known := &r.ring[i%n]
		if known.buf == nil || known.typ() != m.Type {
			continue
		}
		// Values that are equal to the codec may stand for each other.
		if r.q.codec.Decode(known.text(), &value) == nil && reflect.DeepEqual(value, m.Value) {
			return i % n
		}
	}
	return (end - 1) % n
}

// handBack gives a message to the slot, and wakes who waits for such a one.
func (q *queue) handBack(m raw) {
	q.slot.put(m)
	q.room.wake()
}
