package chanmq

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/large"
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
	room          int   // of text, that a new buffer gets
	wakes         int64 // the type of a pack of which others may take the rest; 0: there is none
	batch               // the message, once the operation is done

	leaser sysv.Leaser // nil: what it takes leaves the queue
	asks   bool        // leaser is asked for more than what is here: nobody waits for it behind that
	lease  sysv.Lease  // of what leaser has just given

	began time.Time // for the observer, if there is one
}

func (o *receive) init(q *queue, spinner *wait.Spinner, hint journal.LengthHint) {
	q.adopt() // what others have left comes first
	if q.options.opens() {
		hint = hint.Enveloped()
	}
	o.q, o.hint, o.room = q, hint, smallMessage
	o.msg, o.in = new(raw), new(raw)
	o.waiter.Init(q.lot, o, spinner)
}

func (o *receive) selects(s Selector) {
	o.sel = s
	o.msgtyp, o.flags = s.kernel()
}

// tryHeld takes what was handed back.
func (o *receive) tryHeld() error {
	q := o.q
	switch {
	case q.closed.Load():
		return ErrClosed
	case o.holder != nil && o.holder.ctx.Err() != nil:
		return wait.ErrCanceled // see holders.register
	}
	if q.slot.count.Load() > 0 {
		if taken, err := o.takeHeld(); taken || err != nil {
			return err
		}
	}
	return wait.ErrWait
}

// TryHere is Try for a leaser, which gives what is here.
func (o *receive) TryHere() error {
	if o.leaser != nil {
		return o.Try()
	}
	return o.tryHeld()
}

// Try takes what was handed back first: it is older than what the kernel has.
func (o *receive) Try() error {
	q := o.q
	if err := o.tryHeld(); err != wait.ErrWait {
		return err
	}
	for {
		at, err := o.ready()
		if err != nil {
			return err
		}
		lease, ok := at.lease()
		if !ok {
			if q.closed.Load() {
				return ErrClosed
			}
			continue // it has another queue now
		}
		var n int
		switch {
		case o.leaser == nil:
			n, err = q.kernel.Receive(at.id, o.buffer().buf, o.msgtyp, o.flags)
		case o.asks:
			n, o.lease, err = o.leaser.TryLeased(at.id, o.buffer().buf, o.msgtyp, o.flags)
		default:
			n, o.lease, err = o.leaser.ReceiveLeased(at.id, o.buffer().buf, o.msgtyp, o.flags)
		}
		if err == nil {
			err := o.took(n, at, lease)
			lease.End()
			return err
		}
		lease.End()
		switch err {
		case sysv.ENOMSG:
			return wait.ErrWait
		case sysv.E2BIG:
			o.larger(n)
		default:
			return o.failed(err)
		}
	}
}

func (o *receive) Block(t sysv.Thread) error {
	for {
		at, err := o.ready()
		if err != nil {
			return err
		}
		lease, ok := at.lease()
		if !ok {
			if o.q.closed.Load() {
				return ErrClosed
			}
			continue // it has another queue now
		}
		var n int
		if o.leaser != nil {
			n, o.lease, err = t.(sysv.LeasingThread).ReceiveLeased(at.id, o.buffer().buf, o.msgtyp, o.flags)
		} else {
			n, err = t.Receive(at.id, o.buffer().buf, o.msgtyp, o.flags)
		}
		if err == nil {
			err := o.took(n, at, lease)
			lease.End()
			return err
		}
		lease.End()
		if err != sysv.E2BIG {
			return o.failed(err)
		}
		o.larger(n)
	}
}

// buffer is what msgrcv writes to.
func (o *receive) buffer() *raw {
	if o.q.options.packing {
		return o.in
	}
	return o.msg
}

// larger makes the next buffer larger than the one that a message of n bytes did not fit.
func (o *receive) larger(n int) {
	o.room = o.buffer().roomFor(n)
	if o.q.options.packing {
		o.room = max(o.room, packRoom)
	}
}

// packRoom is what most packs fit into: msgmax, if nobody has changed it.
const packRoom = 8192

// took records what msgrcv returned, under the lease.
func (o *receive) took(n int, at *attachment, lease *large.Lease) error {
	q := o.q
	if !q.options.packing {
		o.msg.took(n, q.slot.number(1))
		q.countTaken(o.msg, n)
		o.msg.follow(at.large, lease)
		if o.lease != nil {
			o.msg.leasedBy(o.lease, at.id)
			o.lease = nil
		}
		return nil
	}
	o.in.tookPacked(n, &q.slot)
	q.countTaken(o.in, n)
	if o.in.values == 0 {
		o.room = smallMessage // what came last is what is expected next
		o.keepIn()
		o.msg.follow(at.large, lease)
		return nil
	}
	pack := *o.in
	*o.in, o.room = raw{}, pack.room()
	typ := pack.typ()
	switch state, err := q.slot.exchange(&pack, o.sel, &o.batch, q.at.Load().journal); {
	case state == slotClosed:
		if err := q.handBack(pack); err != nil {
			return err
		}
		return ErrClosed
	case state == slotFilled:
		o.wakes = typ
		if err != nil {
			_, err = o.takeHeld() // it is in the slot
		}
		return err
	}
	return nil
}

// wake wakes those who wait for what is left of a pack. The operation must not be blocking any
// more: it may be among them.
func (o *receive) wake() {
	if typ := o.wakes; typ != 0 {
		o.wakes = 0
		o.q.lot.Wake(typ)
	}
}

// takeHeld takes a message from the slot.
func (o *receive) takeHeld() (taken bool, err error) {
	for {
		at := o.q.at.Load()
		taken, err := o.q.slot.take(o.sel, &o.batch, at.journal)
		switch {
		case err == nil:
			if c := o.q.counters; c != nil && taken {
				c.takenAgain.Add(uint64(1 + o.end - o.next))
			}
			if taken && o.leaser == nil {
				_ = o.msg.endLease() // at worst it comes again
			}
			return taken, nil
		case o.q.closed.Load():
			return false, ErrClosed
		case o.q.at.Load() == at:
			return false, err
		} // else that journal was closed
	}
}

// ready makes a buffer to receive into, and returns the queue. Linux does not say how
// large a message is that did not fit, and msgmax may have changed since it was sent: so
// the next buffer is twice as large.
func (o *receive) ready() (*attachment, error) {
	for {
		at := o.q.at.Load()
		m := o.buffer()
		if m.buf == nil || m.room() < o.room || !m.in(at.journal) {
			err := m.grow(at.journal, o.room)
			switch {
			case err == nil:
				if o.holder != nil && !o.q.options.packing {
					// Its buffers are many, and most messages small. A direct call has a
					// new one each time, in a journal.
					o.room = smallMessage
				}
			case o.q.closed.Load():
				return nil, ErrClosed
			case o.q.at.Load() != at:
				continue // that journal was closed
			default:
				return nil, err
			}
		}
		if m.saved != nil {
			m.saved.Arm(o.hint)
		}
		return at, nil
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

func (o *receive) Key() wait.Key {
	key := o.sel.key()
	key.Leased = o.leaser != nil
	return key
}

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
	_ = o.q.handBack(*o.msg) // nobody is left to report to
	*o.msg = raw{}
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

// handBackAhead gives up the values that were taken with the message.
func (o *receive) handBackAhead() {
	for ; o.next < o.end; o.next++ {
		_ = o.q.handBack(*o.ahead[o.next]) // the slot is open, see queue.close
		*o.ahead[o.next] = raw{}
	}
}

// send is the operation that puts a message into the queue. It belongs to one
// goroutine, see wait.Operation.
type send struct {
	q      *queue
	waiter wait.Waiter
	msg    []byte         // type and text; its storage is used again
	file   *large.Pending // what msg refers to; nil: nothing
	limit  int            // of a pack, in bytes of text; 0: not known yet
	pack   pack
	values int // of the pack in msg; 0: it is one message

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
	if err := o.prepare(typ); err != nil {
		return err
	}
	msg, err := encoded(o.msg, encode)
	if err != nil {
		return err
	}
	if text := msg[sysv.HeaderSize:]; len(text) > o.q.largeLimit() {
		return o.putLarge(typ, text)
	}
	if o.q.options.opens() && envelope.Ambiguous(msg[sysv.HeaderSize:]) {
		msg = slices.Insert(msg, sysv.HeaderSize, envelope.Append(nil, &envelope.Header{Kind: envelope.Plain})...)
	}
	o.msg = msg
	sysv.PutType(o.msg, int(typ))
	return nil
}

// putLarge makes the message a reference if the text is over the limit.
func (o *send) putLarge(typ int64, text []byte) error {
	if len(text) <= o.q.largeLimit() {
		return nil
	}
	file, err := o.q.at.Load().large.Put(text)
	switch {
	case errors.Is(err, fs.ErrClosed):
		return ErrClosed
	case err != nil:
		return cause([]error{err}, "WithLarge: %v", err)
	}
	o.msg = append(sysv.Buffer(smallMessage)[:sysv.HeaderSize], reference(file)...) // not what the text was encoded in
	o.file = file
	sysv.PutType(o.msg, int(typ))
	return nil
}

// encodeLarge is encode for a text that is over the limit.
func (o *send) encodeLarge(typ int64, text []byte) error {
	if err := o.prepare(typ); err != nil {
		return err
	}
	return o.putLarge(typ, text)
}

// prepare begins a message of the type, and checks whether it may be sent.
func (o *send) prepare(typ int64) error {
	o.begin()
	if o.q.closed.Load() {
		return ErrClosed
	}
	return validateType(typ)
}

// follow moves the text to the queue that the message is about to be sent to: the one that it
// was meant for may have been removed, under WithReopen.
func (o *send) follow(at *attachment) error {
	if o.file == nil || o.file.In(at.large) {
		return nil
	}
	if err := o.file.Move(at.large); err != nil {
		return cause([]error{err}, "WithLarge: %v", err)
	}
	o.msg = append(o.msg[:sysv.HeaderSize], reference(o.file)...)
	return nil
}

// settle says what has become of the message.
func (o *send) settle(err error) {
	settleFile(o.file, err)
	o.file = nil
}

// size returns the number of bytes of text.
func (o *send) size() int { return max(len(o.msg)-sysv.HeaderSize, 0) }

func (o *send) TryHere() error {
	if o.q.closed.Load() {
		return ErrClosed
	}
	return wait.ErrWait
}

func (o *send) Try() error {
	if o.q.closed.Load() {
		return ErrClosed
	}
	at := o.q.at.Load()
	if err := o.follow(at); err != nil {
		return err
	}
	id := at.id
	err := o.q.kernel.Send(id, o.msg)
	if err == sysv.EAGAIN {
		return wait.ErrWait
	}
	return o.done(id, err)
}

func (o *send) Block(t sysv.Thread) error {
	at := o.q.at.Load()
	if err := o.follow(at); err != nil {
		return err
	}
	return o.done(at.id, t.Send(at.id, o.msg))
}

// done notes that the kernel has taken the message, or returns why it has not.
func (o *send) done(id int, err error) error {
	if err != nil {
		return o.refused(id, err)
	}
	wait.CountSend()
	if c := o.q.counters; c != nil && !o.returns { // see returning.sent
		c.sent.Add(uint64(max(o.values, 1)))
		c.sentBytes.Add(uint64(o.size()))
	}
	return nil
}

// begin makes it one of no message yet, and notes when it began, for the observer.
func (o *send) begin() {
	o.msg, o.values = o.msg[:sysv.HeaderSize], 0
	if o.q.options.observer != nil {
		o.began, o.waiter.Stage = time.Now(), wait.AtOnce
	}
}

// sent reports that the message, or the pack, was sent, or why not.
func (o *send) sent(ctx context.Context, typ int64, err error) {
	if o.q.options.observer != nil {
		o.q.observe(ctx, Event{
			Op: OpSend, Type: typ, Size: o.size(), Messages: o.values,
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
// kernel would wait for the room forever. A pack of which the queue has room for a part
// does not wait either.
func (o *send) CheckFits() error {
	s := o.q.subject()
	stat, err := s.statAny()
	switch {
	case err != nil:
		return nil
	case uint64(o.size()) > stat.MaxBytes:
		return s.tooLarge(o.size())
	case o.pack.values > 1 && stat.Bytes < stat.MaxBytes:
		room := int(min(stat.MaxBytes-stat.Bytes, maxPack))
		if fits := o.pack.packer.fits(room); 0 < fits && fits < o.pack.values {
			o.pack.values = fits
			return errSmaller
		}
	}
	return nil
}

// pack is what a send has as its message, if that is a pack.
type pack struct {
	packer *packer
	values int // the first so many of it
}

// errSmaller is the error of a pack of which a part can be sent at once.
var errSmaller = errors.New("the queue has room for a part of the pack")

func (o *send) Key() wait.Key { return wait.Key{Send: true, Size: o.size()} }
func (o *send) Suspend()      {}
func (o *send) Resume()       {}

// packLimit is queue.packLimit, as it was when it was last looked at.
func (o *send) packLimit() int {
	if o.limit == 0 {
		o.limit = max(1, o.q.packLimit())
	}
	return o.limit
}
