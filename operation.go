package chanmq

import (
	"context"
	"time"

	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/wait"
)

// This file is the two operations, as package wait knows them.

// receive is the operation that takes a message. It belongs to one goroutine, see
// wait.Operation.
type receive struct {
	q             *queue
	waiter        wait.Waiter
	sel           Selector
	msgtyp, flags int     // sel, as the kernel is told of it
	holder        *holder // of a Receiver; nil: a direct call
	hint          journal.LengthHint
	room          int // of text, that a new buffer gets
	msg           raw // the message, once the operation is done

	began time.Time // for the observer, if there is one
}

func (o *receive) init(q *queue, spinner *wait.Spinner, hint journal.LengthHint) {
	q.adopt() // what others have left comes first
	o.q, o.hint, o.room = q, hint, smallMessage
	o.waiter.Init(q.lot, o, spinner)
}

func (o *receive) selects(s Selector) {
	o.sel = s
	o.msgtyp, o.flags = s.kernel()
}

// Try takes what was handed back first: it is older than what the kernel has.
func (o *receive) Try() error {
	q := o.q
	switch {
	case q.closed.Load():
		return ErrClosed
	case o.holder != nil && o.holder.ctx.Err() != nil:
		return wait.ErrCanceled // see holders.register
	case q.slot.take(o.sel, &o.msg):
		if c := q.counters; c != nil {
			c.takenAgain.Add(1)
		}
		return nil
	}
	for {
		id, err := o.ready()
		if err != nil {
			return err
		}
		n, err := q.kernel.Receive(id, o.msg.buf, o.msgtyp, o.flags)
		switch err {
		case nil:
			o.took(n)
			return nil
		case sysv.ENOMSG:
			return wait.ErrWait
		case sysv.E2BIG:
			o.room = 2 * o.msg.room()
		default:
			return o.failed(err)
		}
	}
}

func (o *receive) Block(t sysv.Thread) error {
	for {
		id, err := o.ready()
		if err != nil {
			return err
		}
		n, err := t.Receive(id, o.msg.buf, o.msgtyp, o.flags)
		switch err {
		case nil:
			o.took(n)
			return nil
		case sysv.E2BIG:
			o.room = 2 * o.msg.room()
		default:
			return o.failed(err)
		}
	}
}

// took notes that the kernel has given the message, of n bytes.
func (o *receive) took(n int) {
	o.msg.took(n, o.q.slot.number())
	if c := o.q.counters; c != nil {
		c.taken.Add(1)
		c.takenBytes.Add(uint64(n))
		o.msg.countUnacked(c)
	}
}

// ready makes o.msg a buffer to receive into, and returns the queue. The kernel does
// not say how large a message is that did not fit, and msgmax may have changed since it
// was sent: so the next buffer is twice as large.
func (o *receive) ready() (msqid int, err error) {
	for {
		at := o.q.at.Load()
		m := &o.msg
		if m.buf == nil || m.room() < o.room || !m.in(at.journal) {
			err := m.grow(at.journal, o.room)
			switch {
			case err == nil:
				if o.holder != nil {
					// Its buffers are many, and most messages small. A direct call has a
					// new one each time, in a journal.
					o.room = smallMessage
				}
			case o.q.closed.Load():
				return -1, ErrClosed
			case o.q.at.Load() != at:
				continue // that journal was closed
			default:
				return -1, err
			}
		}
		if m.saved != nil {
			m.saved.Arm(o.hint)
		}
		return at.id, nil
	}
}

// failed turns the kernel's error into what is returned.
func (o *receive) failed(err error) error {
	err = asRemoved(err)
	if err == sysv.EIDRM && !o.q.reopens(err) {
		o.q.noteRemoved()
	}
	return err
}

func (o *receive) Pending() bool {
	return o.q.closed.Load() || o.q.slot.has(o.sel) || o.holder != nil && o.holder.ctx.Err() != nil
}

func (o *receive) CheckFits() error { return nil }
func (o *receive) Key() wait.Key    { return o.sel.key() }

// Suspend and Resume: while it is not tried, a Receiver holds nothing, and nobody
// has to wait for it.

func (o *receive) Suspend() {
	if o.holder != nil {
		o.q.holders.unregister(o.holder)
	}
}

func (o *receive) Resume() {
	if o.holder != nil {
		o.q.holders.register(o.holder)
	}
}

// handBack gives up the message.
func (o *receive) handBack() {
	_ = o.q.handBack(o.msg) // nobody is left to report to
	o.msg = raw{}
}

// begin notes when the receive began, for the observer.
func (o *receive) begin() {
	if o.q.options.observer != nil {
		o.began, o.waiter.Stage = time.Now(), wait.AtOnce
	}
}

// received counts and reports that m, which was taken, was decoded, or why not.
func (o *receive) received(ctx context.Context, m *raw, attempt int, err error) {
	if c := o.q.counters; c != nil && err != nil {
		c.decodeErrors.Add(1)
	}
	if o.q.options.observer != nil {
		o.report(ctx, Event{Type: m.typ(), Size: m.n, Attempt: attempt, Err: err})
		o.begin() // what a pump takes together with it
	}
}

// reportFailed reports the error of a receive that took nothing.
func (o *receive) reportFailed(ctx context.Context, err error) {
	if o.q.options.observer != nil {
		o.report(ctx, Event{Err: err})
	}
}

// report reports an event of a receive. There is an observer.
func (o *receive) report(ctx context.Context, e Event) {
	e.Op, e.Duration, e.Wait = OpReceive, time.Since(o.began), WaitStage(o.waiter.Stage)
	o.q.observe(ctx, e)
}

// send is the operation that puts a message into the queue. It belongs to one
// goroutine, see wait.Operation.
type send struct {
	q      *queue
	waiter wait.Waiter
	msg    []byte // type and text; its storage is used again

	returns bool      // what it sends goes back to where it was taken from
	began   time.Time // for the observer, if there is one
}

func (o *send) init(q *queue, spinner *wait.Spinner) {
	o.q = q
	o.waiter.Init(q.lot, o, spinner)
	o.msg = sysv.Buffer(smallMessage)
}

// encode puts a message into o.
func (o *send) encode(typ int64, encode func(dst []byte) ([]byte, error)) error {
	o.begin()
	o.msg = o.msg[:sysv.HeaderSize]
	if o.q.closed.Load() {
		return ErrClosed
	}
	if err := validateType(typ); err != nil {
		return err
	}
	msg, err := encode(o.msg)
	if err != nil {
		return cause([]error{err}, "encode: %v", err)
	}
	if len(msg) < sysv.HeaderSize {
		return cause(nil, "encode: the codec returned less than it was given to append to")
	}
	o.msg = msg
	sysv.PutType(o.msg, int(typ))
	return nil
}

// size returns the number of bytes of text.
func (o *send) size() int { return len(o.msg) - sysv.HeaderSize }

func (o *send) Try() error {
	if o.q.closed.Load() {
		return ErrClosed
	}
	id := o.q.msqid()
	err := o.q.kernel.Send(id, o.msg)
	if err == sysv.EAGAIN {
		return wait.ErrWait
	}
	return o.done(id, err)
}

func (o *send) Block(t sysv.Thread) error {
	id := o.q.msqid()
	return o.done(id, t.Send(id, o.msg))
}

// done notes that the kernel has taken the message, or returns why it has not.
func (o *send) done(id int, err error) error {
	if err != nil {
		return o.refused(id, err)
	}
	wait.CountSend()
	switch c := o.q.counters; {
	case c == nil:
	case o.returns:
		c.returned.Add(1)
	default:
		c.sent.Add(1)
		c.sentBytes.Add(uint64(o.size()))
	}
	return nil
}

// begin notes when the send began, for the observer.
func (o *send) begin() {
	if o.q.options.observer != nil {
		o.began, o.waiter.Stage = time.Now(), wait.AtOnce
	}
}

// sent reports that the message was sent, or why not.
func (o *send) sent(ctx context.Context, typ int64, err error) {
	if o.q.options.observer != nil {
		o.q.observe(ctx, Event{
			Op: OpSend, Type: typ, Size: o.size(),
			Duration: time.Since(o.began), Wait: WaitStage(o.waiter.Stage), Err: err,
		})
	}
}

// refused tells the two meanings of EINVAL apart: a message that is larger than
// msgmax, and a msqid that is no longer in use.
func (o *send) refused(id int, err error) error {
	if err == sysv.EINVAL {
		if limits, limitsErr := o.q.kernel.Limits(); limitsErr == nil && o.size() > limits.MaxMessage {
			return err
		}
		// msgmax may have been raised since: then the queue is still there.
		if _, statErr := o.q.kernel.Stat(id); statErr == nil || statErr == sysv.EACCES {
			return err
		}
	}
	return asRemoved(err)
}

func (o *send) Pending() bool { return o.q.closed.Load() }

// CheckFits finds messages that are larger than the queue may ever hold: the
// kernel would wait for the room forever.
func (o *send) CheckFits() error {
	s := o.q.subject()
	stat, err := s.statAny()
	if err == nil && uint64(o.size()) > stat.MaxBytes {
		return s.tooLarge(o.size())
	}
	return nil
}

func (o *send) Key() wait.Key { return wait.Key{Send: true, Size: o.size()} }
func (o *send) Suspend()      {}
func (o *send) Resume()       {}
