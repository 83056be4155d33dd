package chanmq

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// A Delivery is a message that has to be acknowledged: [Queue.Take] and [Consumer] return
// one. Until Ack or Nack it is in the program's hands. With a journal ([WithJournal]) it
// outlives the process all the same: if that ends before Ack, however it ends, the message
// is delivered again, to another process or to the next one. So it is on a cluster, where
// the message stays in its queue until Ack. Otherwise it is lost with the process.
//
// A Delivery may be copied; all copies are the same delivery. The zero Delivery is one that
// is acknowledged.
type Delivery[T any] struct {
	Message[T]

	// Attempt is how many times the message was delivered, this time included. It is 1
	// the first time. With a journal, those of processes that have died count as well. On a
	// cluster each process that had the message counts, whether its program got it or not.
	Attempt int

	// LengthInferred says that the process which took the message from the kernel died
	// before it knew the length, and that the codec does not know it either. Then the end
	// of the text is where the journal's fill byte begins, which is wrong if the text ended
	// with that byte, as about one in 256 random texts does: that many bytes are missing.
	LengthInferred bool

	state  *delivery
	number uint64 // of this use of state
}

// Ack says that the message is dealt with: it is never delivered again. Of several calls
// of Ack and Nack, on any copy and from any goroutine, the first one counts, and the
// others do nothing. Ack works after [Queue.Close] too.
//
// It returns nil, or, for a message that another process had taken, why the file of that
// process's journal cannot be written: then the message may be delivered again. On a cluster
// it does not wait for the servers; an error says that they will not get to know of it, and
// that the message will be delivered again.
func (d Delivery[T]) Ack() error { return d.state.settle(d.number, acked) }

// Nack gives the message back to the handle: the next receive that selects it gets it,
// before newer messages, in its place in the order. A receive that is asleep in the kernel
// already, where more than one message is in flight, may be given a newer one before it
// wakes up for this one. The message comes back at once: a program that cannot deal with it
// yet pauses before Nack, or it would spin. Of several calls of Ack and Nack, on
// any copy and from any goroutine, the first one counts, and the others do nothing.
//
// It returns nil, but for one case. After [Queue.Close] the message goes back to the
// kernel queue, at its tail, or is in its place there still, on a cluster; if the queue does not take it, it stays in the journal, and
// without a journal it is returned in an [*UndeliveredError].
func (d Delivery[T]) Nack() error { return d.state.settle(d.number, nacked) }

// withdraw is Nack of a delivery that the program has not got.
func (d Delivery[T]) withdraw() error { return d.state.settle(d.number, withdrawn) }

// newDelivery returns the delivery of state's message, which is m decoded.
func newDelivery[T any](state *delivery, m Message[T], attempt int) Delivery[T] {
	return Delivery[T]{
		Message:        m,
		Attempt:        attempt,
		LengthInferred: state.raw.lengthInferred(),
		state:          state,
		number:         state.begin(),
	}
}

// delivery is what the copies of a Delivery share. It is used for one after another, with
// the buffer of its last message.
type delivery struct {
	number  atomic.Uint64 // odd: of the delivery that is not settled
	raw     *raw          // the message, not nil; of whoever makes number odd or even
	core    *queue        // nil: of an orphan
	credits *credits      // of the Consumer; nil: of Take

	// For the observer, if there is one; of whoever has raw.
	ctx       context.Context // of Take, or of the Consumer
	delivered time.Time
}

// settlement is how a delivery ends.
type settlement int

const (
	acked     settlement = iota // by the program
	nacked                      // by the program
	dropped                     // the program has the message otherwise
	withdrawn                   // the program has not got it
)

// begin makes the message one that has to be settled.
func (d *delivery) begin() uint64 {
	if d.core != nil {
		d.core.unacked.Add(1)
	}
	return d.number.Add(1)
}

// deliver notes when the program gets it, for the observer.
func (d *delivery) deliver(ctx context.Context) {
	if d.core.options.observer != nil {
		d.ctx, d.delivered = ctx, time.Now()
	}
}

// settle does it, unless it is done.
func (d *delivery) settle(number uint64, how settlement) (err error) {
	if d == nil || !d.number.CompareAndSwap(number, number+1) {
		return nil
	}
	core, ctx := d.core, d.ctx
	d.ctx = nil
	var e Event // while the message is there
	if observed := core != nil && core.options.observer != nil; observed && (how == acked || how == nacked) {
		e = Event{Type: d.raw.typ(), Size: d.raw.n, Duration: time.Since(d.delivered), Attempt: d.raw.delivered()}
	}
	switch {
	case how == acked, how == dropped:
		err = d.raw.ack()
	case core == nil:
		d.raw.release()
	default:
		err = core.handBack(*d.raw)
		*d.raw = raw{}
	}
	if core != nil {
		core.unacked.Add(-1)
	}
	d.credits.put(d)
	if core != nil {
		core.settled(ctx, how, e, err)
	}
	return err
}

// settled counts and reports what the program has done with a delivery.
func (q *queue) settled(ctx context.Context, how settlement, e Event, err error) {
	switch c := q.counters; {
	case c == nil:
	case how == acked:
		c.acks.Add(1)
	case how == nacked:
		c.nacks.Add(1)
	}
	if q.options.observer == nil {
		return
	}
	e.Err = err
	switch how {
	case acked:
		e.Op = OpAck
	case nacked:
		e.Op = OpNack
	default:
		return
	}
	q.observe(ctx, e)
}

// taken are the deliveries of Take that are settled, to be used again.
var taken = sync.Pool{New: func() any { return new(delivery) }}

// credits are the deliveries that a Consumer may have in flight: whoever has one may take
// a message, and it comes back when that is settled.
type credits struct {
	free  chan *delivery // has room for all; nil: one that was not used yet
	ended atomic.Bool    // the Consumer takes no more
}

func newCredits(n int) *credits {
	c := &credits{free: make(chan *delivery, n)}
	for range n {
		c.free <- nil
	}
	return c
}

// put takes back one that is settled. Those of Take are nobody's.
func (c *credits) put(d *delivery) {
	if c == nil {
		d.raw.release()
		d.core = nil
		taken.Put(d)
		return
	}
	c.free <- d
	if c.ended.Load() {
		c.release() // nobody else does: end may have looked before
	}
}

// end is called when the Consumer takes no more.
func (c *credits) end() {
	c.ended.Store(true)
	c.release()
}

// release gives the buffers back.
func (c *credits) release() {
	for {
		select {
		case d := <-c.free:
			if d != nil {
				d.raw.release()
			}
		default:
			return
		}
	}
}
