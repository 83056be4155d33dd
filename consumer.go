package chanmq

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// A Consumer moves the messages that a [Selector] selects from the queue into the channel
// C, as a [Receiver] does, and has them acknowledged: what it delivers is in flight until
// Ack or Nack, and it takes no more than [WithInFlight] says. With a journal
// ([WithJournal]), and on a cluster, what was not acknowledged when the process ended is
// delivered again, so that each message is dealt with at least once.
//
//	jobs := q.Consumer(ctx, chanmq.OfType(1), chanmq.WithInFlight(4))
//	for range 4 {
//		go func() {
//			for d := range jobs.C() {
//				if err := work(d.Value); err != nil {
//					d.Nack()
//					continue
//				}
//				d.Ack()
//			}
//		}()
//	}
//
// It ends as a Receiver does: then C is closed, and Err says why. What it held goes to the
// handle's hand-back slot; values in C's buffer can still be read, and [Consumer.Close]
// moves those to the slot, too. Deliveries that the program has stay the program's, to be
// acknowledged, also after [Queue.Close]; [Queue.Shutdown] waits for that.
type Consumer[T any] struct {
	intake
	q *Queue[T]
	c chan Delivery[T] // sent to and closed by the pump alone
	o consumerOptions

	credits *credits

	// Of the goroutine, until done is closed.
	spare []*delivery   // credits that it has
	alone bool          // the last message that was taken is to be in flight by itself
	held  []Delivery[T] // taken and not sent to c yet; the last one may not be decoded yet
}

// Consumer starts a Consumer for the messages that s selects. It always returns one; where
// it cannot work (the handle is closed, the selector or an option is bad), its C is closed
// at once and Err says why.
//
// C has room for all that may be in flight but one, up to 64, or up to what [WithBuffer]
// says. Consumers and Receivers, of all processes, compete for messages.
func (q *Queue[T]) Consumer(ctx context.Context, s Selector, opts ...ConsumerOption) *Consumer[T] {
	o, err := newConsumerOptions(opts)
	if err == nil {
		err = s.validate()
	}
	if err == nil && o.borrowed {
		err = q.mayBorrow()
	}
	c := &Consumer[T]{
		q:       q,
		c:       make(chan Delivery[T], o.buffer),
		o:       o,
		credits: newCredits(o.inFlight),
	}
	core := q.core()
	c.intake.init(core, ctx, s, o.drain)
	if err == nil && !core.pumps.add(c) {
		err = ErrClosed
	}
	if err != nil {
		c.finish(err)
		return c
	}
	c.start(q.codec.hint)
	c.from.leaser = core.leaser
	go c.receiveAll()
	return c
}

// receiveAll is the goroutine.
func (c *Consumer[T]) receiveAll() {
	err := errCodecExit
	defer func() { c.finish(err) }()
	err = c.run(c)
}

// mayBorrow returns an error if the values of the view are no messages as they are.
func (q *Queue[T]) mayBorrow() error {
	if q.codec.bytes {
		return nil
	}
	return fmt.Errorf("WithBorrowedValues: the values of this view are made by a %T; only those of a Queue[[]byte] with codec.Bytes can be the messages themselves", q.codec.Codec)
}

// C returns the channel of deliveries. It is always the same. It is closed, once, when the
// Consumer has ended, after Err can be read; values that are in its buffer then can still
// be read, unless Close has moved them to the handle.
func (c *Consumer[T]) C() <-chan Delivery[T] { return c.c }

// Done returns a channel that is closed when the Consumer has ended: its goroutine is
// gone, and what it held is handed back. Deliveries may still be in flight.
func (c *Consumer[T]) Done() <-chan struct{} { return c.pump.Done() }

// Err returns why C was closed, as [Receiver.Err] does.
func (c *Consumer[T]) Err() error { return c.pump.Err() }

// Drain makes the Consumer stop taking messages, deliver those that it holds, and close C,
// as [Receiver.Drain] does. It does not wait for deliveries to be acknowledged.
func (c *Consumer[T]) Drain(ctx context.Context) error { return c.awaitDrained(ctx) }

// Close makes the Consumer stop, waits for its end, and hands back to the handle what it
// had taken and the program has not read, the values in C's buffer too. The next receives
// on the handle get them, in the order taken, before newer messages. C is closed and empty
// afterwards. What the program has read stays in flight.
//
// Close may be called from any goroutine, C's reader too, and any number of times; it
// always returns nil. It must not be called from a function of WithDecodeError or
// WithMaxAttempts, nor from a codec, which it waits for.
func (c *Consumer[T]) Close() error {
	c.stop(asked)
	c.collect(nil)
	return nil
}

// await waits until a message may be in flight.
func (c *Consumer[T]) await() error {
	if c.alone {
		if err := c.awaitCredits(c.o.inFlight, c.taking); err != nil {
			return err
		}
		c.alone = false
	}
	return c.awaitCredits(1, c.taking)
}

// room: what is in C is in flight.
func (c *Consumer[T]) room(least int) int {
	for len(c.spare) < least && c.collectCredit() {
	}
	if c.alone {
		return 0
	}
	return len(c.spare)
}

// collectCredit takes one that is free.
func (c *Consumer[T]) collectCredit() bool {
	select {
	case d := <-c.credits.free:
		c.spare = append(c.spare, d)
		return true
	default:
		return false
	}
}

// awaitCredits waits until it has so many, that is, until deliveries are settled.
func (c *Consumer[T]) awaitCredits(n int, ctx context.Context) error {
	for len(c.spare) < n && c.collectCredit() {
	}
	if len(c.spare) >= n {
		return nil
	}
	c.core.beginRead()
	defer c.core.endRead()
	for len(c.spare) < n {
		select {
		case d := <-c.credits.free:
			c.spare = append(c.spare, d)
		case <-ctx.Done():
			return &canceled{}
		case <-c.core.removal.gone:
			return sysv.EIDRM
		}
	}
	return nil
}

// hold keeps the message that was taken in a delivery, decoded.
func (c *Consumer[T]) hold() *aside {
	last := len(c.spare) - 1
	d := c.spare[last]
	c.spare = c.spare[:last]
	if d == nil {
		d = &delivery{core: c.core, credits: c.credits}
	}
	c.from.give(&d.raw)
	if c.o.maxAttempts > 0 && d.raw.delivered() >= c.o.maxAttempts {
		dead := newDelivery(d, d.raw.whole(), d.raw.delivered())
		return &aside{do: func() {
			defer dead.withdraw() // has an effect if the function does not return
			c.from.received(c.ctx, d.raw, 0, nil)
			d.deliver(c.ctx)
			c.o.dead(dead)
			_ = dead.Ack() // at worst it comes again
		}}
	}
	// One of these may have ended its process: the others must not be blamed again.
	c.alone = c.o.maxAttempts > 0 && d.raw.delivered() > 0 && d.raw.adopted()
	c.held = append(c.held, newDelivery(d, Message[T]{Type: d.raw.typ()}, 0))
	err := c.decode(d, &c.held[len(c.held)-1].Value)
	c.from.received(c.ctx, d.raw, 0, err)
	if err == nil {
		return nil
	}
	undecoded := c.held[len(c.held)-1]
	c.held = c.held[:len(c.held)-1]
	if c.o.onDecodeError == nil {
		_ = undecoded.state.settle(undecoded.number, dropped) // it is in the error
		return &aside{err: err}
	}
	return &aside{do: func() {
		d.raw.deliver()            // it may end the process
		defer undecoded.withdraw() // has an effect if the function does not return
		c.o.onDecodeError(err.(*DecodeError))
		_ = undecoded.state.settle(undecoded.number, dropped)
	}}
}

// decode decodes the message of d. If that ends the process, it was an attempt.
func (c *Consumer[T]) decode(d *delivery, v *T) error {
	if c.o.borrowed && !d.raw.damaged {
		text, err := d.raw.borrow()
		if err != nil {
			return c.q.decodeError(d.raw.message(), err)
		}
		*any(v).(*[]byte) = text // see mayBorrow
		return nil
	}
	d.raw.deliver()
	c.holder.enterCodec()
	err := c.q.decodeTaken(&c.from, d.raw, v)
	d.raw.undeliver()
	return err
}

// deliver sends what is held to C. It returns why the Consumer had to stop before it was
// through.
func (c *Consumer[T]) deliver() error {
	delivered := 0
	var began time.Time
	observed := c.core.options.observer != nil
	if observed {
		began = time.Now()
	}
	defer func() {
		n := copy(c.held, c.held[delivered:])
		clear(c.held[n:]) // the program's now
		c.held = c.held[:n]
	}()
	for i := range c.held {
		d := &c.held[i]
		if c.alone && i == len(c.held)-1 {
			if err := c.awaitCredits(c.o.inFlight-1, c.running); err != nil {
				return err
			}
		}
		// Before the program has it: what it does then may end the process.
		d.Attempt = d.state.raw.deliver()
		d.state.deliver(c.ctx)
		size := d.state.raw.n
		select {
		case c.c <- *d:
		default:
			if err := c.awaitReader(d); err != nil {
				return err
			}
		}
		delivered++
		c.from.waiter.NeedYield = true
		if observed {
			c.core.observe(c.ctx, Event{Op: OpDeliver, Type: d.Type, Size: size, Attempt: d.Attempt, Duration: time.Since(began)})
		}
	}
	if c.from.waiter.NeedYield && c.from.waiter.Waited {
		// Messages come one by one: see Receiver.deliver.
		runtime.Gosched()
	}
	return nil
}

// awaitReader sends d to C when there is a reader, or returns why it could not.
func (c *Consumer[T]) awaitReader(d *Delivery[T]) error {
	c.core.beginRead()
	defer c.core.endRead()
	select {
	case c.c <- *d:
		return nil
	case <-c.running.Done():
		d.state.raw.undeliver()
		return &canceled{}
	case <-c.core.removal.gone:
		d.state.raw.undeliver()
		return sysv.EIDRM
	}
}

// handBackHeld hands back what could not be delivered.
func (c *Consumer[T]) handBackHeld() {
	for _, d := range c.held {
		_ = d.withdraw() // the slot is open, see queue.close
	}
	clear(c.held)
	c.held = c.held[:0]
}

// finish publishes why the Consumer has ended, and closes C, once.
func (c *Consumer[T]) finish(err error) {
	for _, d := range c.spare {
		c.credits.free <- d
	}
	c.credits.end()
	c.pump.end(err, 0)
	c.stopTaking()
	close(c.c)
	close(c.done)
	if c.drained() {
		c.core.pumps.remove(c)
	}
}

// drained reports whether the Consumer has ended, and C is empty.
func (c *Consumer[T]) drained() bool { return c.hasEnded() && len(c.c) == 0 }

// collect moves what is unread to the slot.
func (c *Consumer[T]) collect(*UndeliveredError) {
	<-c.done
	for d := range c.c {
		d.state.raw.undeliver()
		_ = d.withdraw() // the slot is open, see queue.close
	}
	c.core.pumps.remove(c)
}
