package chanmq

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// A Receiver moves the messages that a [Selector] selects from the queue into
// the channel C, for programs that range over it or select over several of
// them. It is a pump: a goroutine of its own that takes a message and offers it
// on C, ahead of the program by one message and C's buffer.
//
// It ends when its ctx ends, when Close or Drain is called, when the queue is
// removed, when a message does not decode, and when the handle is closed. Then
// C is closed, and Err says why. The message that it held goes to the handle's
// hand-back slot; values in C's buffer can still be read, and [Receiver.Close]
// moves those to the slot, too.
//
// The next receive on the handle that selects a message in the slot gets it, before
// anything newer. Nobody else does: the slot is part of the handle, has no bound,
// and keeps what it has for as long as nobody receives it. [Queue.Close] and
// [Queue.Shutdown] send that back to the kernel queue. A process that ends without
// either loses it, also if all its Receivers were cancelled before.
type Receiver[T any] struct {
	intake
	q             *Queue[T]
	c             chan Message[T] // sent to and closed by the pump alone
	onDecodeError func(*DecodeError)

	// Of the goroutine, until done is closed; then guarded by collecting. With a journal,
	// ring is written with acking, for acknowledge.
	held []Message[T] // taken and not sent to c yet; the last one may not be decoded yet
	ring []kept[T]    // of the last cap(c)+2 messages, held ones included; see slot

	sent atomic.Uint64 // how many values were sent to c; written with collecting

	// How many of them are known to be read, with a journal. Whoever has collecting may
	// lock acking, not the other way round.
	acking sync.Mutex
	acked  uint64 // guarded by acking

	// The next look at what was read from c's buffer, with a journal. Guarded by collecting.
	look      *time.Timer // nil: none is due
	lookPause time.Duration

	downstream atomic.Pointer[downstream] // who reads c in the program's place; nil: nobody yet

	collecting sync.Mutex // held by whoever sends to c, and whoever collects
	recalled   bool       // what was unread is handed back: nothing more may be sent to c; guarded by collecting
}

// kept is what a Receiver keeps of a message that may have to be handed back.
type kept[T any] struct {
	raw *raw // nil: none yet
	// value is what was sent to C, if that has a buffer: see identify.
	value T
}

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
		q:             q,
		c:             make(chan Message[T], o.buffer),
		onDecodeError: o.onDecodeError,
		ring:          make([]kept[T], o.buffer+2), // held, in c's buffer, and read by the downstream
	}
	core := q.core()
	r.intake.init(core, ctx, s, o.drain)
	if err == nil && !core.pumps.add(r) {
		err = ErrClosed
	}
	if err != nil {
		r.finish(err)
		return r
	}
	r.start(q.codec.hint)
	go r.receiveAll()
	return r
}

// receiveAll is the goroutine.
func (r *Receiver[T]) receiveAll() {
	err := errCodecExit
	defer func() { r.finish(err) }()
	err = r.run(r)
}

// C returns the channel of messages. It is always the same. It is closed, once,
// when the Receiver has ended, after Err can be read; values that are in its
// buffer then can still be read, unless Close has moved them to the handle.
func (r *Receiver[T]) C() <-chan Message[T] { return r.c }

// Done returns a channel that is closed when the Receiver has ended: its
// goroutine is gone, and what it held is handed back.
func (r *Receiver[T]) Done() <-chan struct{} { return r.pump.Done() }

// Err returns why C was closed: an [*OpError] that matches ctx.Err() and the ctx's
// cause, [ErrRemoved], or [ErrClosed] if the handle was closed; or a
// [*DecodeError], which holds the message. It returns nil as long as C is open, and
// after Close and Drain, unless a message did not decode before they were through.
func (r *Receiver[T]) Err() error { return r.pump.Err() }

// Drain makes the Receiver stop taking messages, deliver the one that it holds,
// and close C. It returns when that is done; values in C's buffer are the
// program's to read. While nobody reads C it waits for ctx, returns an [*OpError]
// that matches ctx.Err(), and the Receiver goes on draining; so call it from
// another goroutine than C's reader, or with a ctx that ends. After the Receiver's
// end, and after Close, it returns nil at once.
func (r *Receiver[T]) Drain(ctx context.Context) error { return r.awaitDrained(ctx) }

// Close makes the Receiver stop, waits for its end, and hands back to the handle
// what it had taken and the program has not read, the values in C's buffer too.
// The next receives on the handle get them, in the order taken, before newer
// messages. C is closed and empty afterwards. While another goroutine reads C,
// that may still get a value that was taken after one that is handed back. Close
// recognizes what that goroutine has read by the value itself; so only there, if
// the codec decodes different texts to identical values, a message may be handed
// back with the text of another one of the same type and value.
//
// Close may be called from any goroutine, C's reader too, and any number of times;
// it always returns nil. It must not be called from a WithDecodeError function, nor
// from a codec, which it waits for.
func (r *Receiver[T]) Close() error {
	r.stop(asked)
	r.collect(nil)
	return nil
}

func (r *Receiver[T]) await() error { return nil }

// room: with what is in C these make at most cap(c)+1.
func (r *Receiver[T]) room(int) int { return 1 + cap(r.c) - len(r.c) - len(r.held) }

// hold keeps the message that was taken, decoded in held and raw in the ring.
func (r *Receiver[T]) hold() *aside {
	number := r.sent.Load() + uint64(len(r.held))
	k := r.slot(number)
	r.keep(k, number)
	r.held = append(r.held, Message[T]{Type: k.raw.typ()})
	last := len(r.held) - 1
	r.holder.enterCodec()
	err := r.q.decodeTaken(&r.from, k.raw, &r.held[last].Value)
	r.from.received(r.ctx, k.raw, 0, err)
	if err == nil {
		return nil
	}
	r.held = r.held[:last]
	if r.onDecodeError == nil {
		return &aside{err: err} // which has the message: finish acknowledges it
	}
	return &aside{do: func() {
		r.onDecodeError(err.(*DecodeError))
		_ = k.raw.ack() // at worst it comes again
	}}
}

// keep puts the message that was taken into the ring, in place of one that was read,
// whose buffer is used for the next one.
func (r *Receiver[T]) keep(k *kept[T], number uint64) {
	if r.acknowledges() {
		r.acking.Lock()
		defer r.acking.Unlock()
		if k.raw != nil {
			_ = k.raw.ack()
		}
		// Or acknowledge would take the new one for it.
		if size := uint64(len(r.ring)); number >= size {
			r.acked = max(r.acked, number-size+1)
		}
	}
	r.from.give(&k.raw)
}

func (r *Receiver[T]) acknowledges() bool { return r.core.options.acknowledges() }

// slot is what is kept of the value with the number.
func (r *Receiver[T]) slot(number uint64) *kept[T] { return &r.ring[number%uint64(len(r.ring))] }

// deliver sends what is held to C. It returns why the Receiver had to stop before it
// was through.
func (r *Receiver[T]) deliver() error {
	delivered := 0
	var began time.Time
	observed := r.core.options.observer != nil
	if observed {
		began = time.Now()
	}
	r.collecting.Lock()
	defer r.collecting.Unlock()
	defer func() {
		clear(r.held[:delivered]) // the program's now
		r.held = append(r.held[:0], r.held[delivered:]...)
	}()
	for _, m := range r.held {
		if r.recalled {
			return &canceled{}
		}
		k := r.slot(r.sent.Load())
		if cap(r.c) > 0 {
			k.value = m.Value
		}
		size := k.raw.n // before it is acknowledged
		select {
		case r.c <- m:
		default:
			if err := r.awaitReader(m); err != nil {
				return err
			}
		}
		delivered++
		r.sent.Add(1)
		r.from.waiter.NeedYield = true
		r.acknowledge()
		if observed {
			r.core.observe(r.ctx, Event{Op: OpDeliver, Type: m.Type, Size: size, Duration: time.Since(began)})
		}
	}
	if r.look == nil && r.unacked() {
		r.lookLater(lookMin)
	}
	if r.from.waiter.NeedYield && r.from.waiter.Waited {
		// Messages come one by one: the program can have this one now, or
		// after a system call that most likely finds no other.
		runtime.Gosched()
	}
	return nil
}

// awaitReader sends m to C when there is a reader, or returns why it could not.
func (r *Receiver[T]) awaitReader(m Message[T]) error {
	r.core.beginRead()
	defer r.core.endRead()
	select {
	case r.c <- m:
		return nil
	case <-r.running.Done():
		return &canceled{}
	case <-r.core.removal.gone:
		return sysv.EIDRM
	}
}

// handBackHeld hands back what could not be delivered, or not be decoded because
// the codec did not return.
func (r *Receiver[T]) handBackHeld() {
	for i := range r.held {
		r.handBack(r.slot(r.sent.Load() + uint64(i)))
	}
	clear(r.held)
	r.held = r.held[:0]
}

func (r *Receiver[T]) handBack(k *kept[T]) {
	_ = r.core.handBack(*k.raw) // the slot is open, see queue.close
	*k = kept[T]{}
}

// acknowledge frees, in the journal, the messages that the program has read. It needs
// collecting.
func (r *Receiver[T]) acknowledge() {
	if !r.acknowledges() {
		return
	}
	read := r.sent.Load() - uint64(len(r.c))
	if d := r.downstream.Load(); d != nil && !d.hasStopped() {
		read = d.passed.Load()
	}
	r.acknowledgeUpTo(read)
}

func (r *Receiver[T]) acknowledgeUpTo(read uint64) {
	r.acking.Lock()
	defer r.acking.Unlock()
	for ; r.acked < read; r.acked++ {
		_ = r.slot(r.acked).raw.ack() // at worst it comes again
	}
}

// unacked reports whether values were sent that are not known to be read, with a journal.
func (r *Receiver[T]) unacked() bool {
	if !r.acknowledges() {
		return false
	}
	r.acking.Lock()
	defer r.acking.Unlock()
	return r.acked < r.sent.Load()
}

// Pauses between looks at what was read from C's buffer while no message comes, doubling
// from one to the other.
const (
	lookMin = 5 * time.Millisecond
	lookMax = 10 * time.Second
)

// lookLater makes acknowledge be called again as long as something is unread, since
// nobody says when a value is read from a channel's buffer. It needs collecting.
func (r *Receiver[T]) lookLater(pause time.Duration) {
	r.lookPause = pause
	r.look = time.AfterFunc(pause, func() {
		r.collecting.Lock()
		defer r.collecting.Unlock()
		if r.look == nil {
			return // all is read or handed back
		}
		r.look = nil
		r.acknowledge()
		if r.unacked() {
			r.lookLater(min(2*r.lookPause, lookMax))
		}
	})
}

// passed is called by a downstream when the program has the value that it had read. It
// does without collecting, which the goroutine has while it waits for a reader.
func (r *Receiver[T]) passed(d *downstream) {
	if read := d.passed.Add(1); r.acknowledges() {
		r.acknowledgeUpTo(read)
	}
}

// releaseBuffers gives the buffers back to the journal when all is read or handed back.
// It needs collecting.
func (r *Receiver[T]) releaseBuffers() {
	if !r.acknowledges() {
		return
	}
	r.acking.Lock()
	defer r.acking.Unlock()
	for i := range r.ring {
		if m := r.ring[i].raw; m != nil {
			_ = m.ack()
			m.release()
		}
	}
	r.acked = r.sent.Load()
	if r.look != nil {
		r.look.Stop()
		r.look = nil
	}
}

// finish publishes why the Receiver has ended, and closes C, once.
func (r *Receiver[T]) finish(err error) {
	r.pump.end(err, 0)
	r.stopTaking()
	close(r.c)
	close(r.done)
	if r.drained() {
		r.core.pumps.remove(r)
	}
}

// drained reports whether the Receiver has ended, and C is empty, and nobody holds
// what was in it, or is about to hand it back.
func (r *Receiver[T]) drained() bool {
	if !r.hasEnded() || !r.collecting.TryLock() {
		return false
	}
	defer r.collecting.Unlock()
	d := r.downstream.Load()
	if len(r.c) > 0 || d != nil && !d.hasStopped() {
		return false
	}
	r.releaseBuffers()
	return true
}

// attach gives the Receiver a downstream, which it can have one of. It returns
// noDownstream if the Receiver has been closed.
func (r *Receiver[T]) attach() (d *downstream, ok bool) {
	d = newDownstream(&r.holder)
	// What the program has read before. A send under way may be missed, so that one
	// message is acknowledged later than it could be.
	sent, unread := r.sent.Load(), len(r.c)
	for now := r.sent.Load(); now != sent; now = r.sent.Load() {
		sent, unread = now, len(r.c)
	}
	d.passed.Store(sent - min(sent, uint64(unread)))
	if r.downstream.CompareAndSwap(nil, d) {
		r.core.holders.register(&d.holder)
		return d, true
	}
	d.cancel()
	return noDownstream, r.downstream.Load() == noDownstream
}

// recall hands back what is unread, for a downstream that reads no more from C: the
// value that it read last, if it holds that, and those in C's buffer.
func (r *Receiver[T]) recall(held bool) {
	r.collecting.Lock()
	defer r.collecting.Unlock()
	r.recalled = true
	if held {
		r.handBack(r.slot(r.sent.Load() - uint64(len(r.c)) - 1))
	}
	r.handBackUnread()
}

// collect moves what is unread to the slot.
func (r *Receiver[T]) collect(*UndeliveredError) {
	<-r.done
	r.downstream.CompareAndSwap(nil, noDownstream) // or it would read C at the same time
	d := r.downstream.Load()
	d.cancel()
	<-d.stopped
	r.collecting.Lock()
	defer r.collecting.Unlock()
	r.handBackUnread()
	r.releaseBuffers()
	r.core.pumps.remove(r)
}

// handBackUnread hands back what is in C's buffer. It needs collecting.
func (r *Receiver[T]) handBackUnread() {
	for {
		// The values left in C are the last ones that were sent, so their
		// number tells which ones they are. The program may be reading them
		// at the same time: then the number falls by more than the one that
		// is taken here, and that is one of several.
		before := uint64(len(r.c))
		select {
		case m, ok := <-r.c:
			if !ok {
				return
			}
			after := uint64(len(r.c))
			sent := r.sent.Load()
			r.handBack(r.slot(r.identify(m, sent-before, sent-after)))
		default:
			return
		}
	}
}

// identify returns the number, from first to end-1, of the value m. Of several it
// is the one that is the same value as m, as far as a program can tell two values
// apart; equality would not do, since a value need not be equal to itself.
func (r *Receiver[T]) identify(m Message[T], first, end uint64) uint64 {
	for n := first; n < end-1; n++ {
		k := r.slot(n)
		if k.raw != nil && k.raw.typ() == m.Type && identical(k.value, m.Value) {
			return n
		}
	}
	return end - 1
}
