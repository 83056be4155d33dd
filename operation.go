package chanmq

import (
	"github.com/chanmq/chanmq/internal/sysv"
)

// receive is the operation that takes a message. It belongs to one goroutine,
// see wait.
type receive struct {
	q *queue
	wait
	sel           Selector
	msgtyp, flags int // sel, as the kernel is told of it
	msg           raw // the message, once the operation is done
}

func (o *receive) init(q *queue, spin *spinner) {
	o.q = q
	o.wait.init(&q.room, o, spin)
}

func (o *receive) selects(s Selector) {
	o.sel = s
	o.msgtyp, o.flags = s.kernel()
}

// try takes what was handed back first: it is older than what the kernel has.
func (o *receive) try() error {
	q := o.q
	if q.closed.Load() {
		return ErrClosed
	}
	if q.slot.take(o.sel, &o.msg) {
		return nil
	}
	for {
		if o.msg.buf == nil {
			o.msg.grow()
		}
		n, err := q.kernel.Receive(q.msqid(), o.msg.buf, o.msgtyp, o.flags)
		switch err {
		case nil:
			o.took(n)
			return nil
		case sysv.ENOMSG:
			return errWait
		case sysv.E2BIG:
			o.msg.grow()
		default:
			return gone(err)
		}
	}
}

func (o *receive) block(t sysv.Thread) error {
	for {
		n, err := t.Receive(o.q.msqid(), o.msg.buf, o.msgtyp, o.flags)
		switch err {
		case nil:
			o.took(n)
			return nil
		case sysv.E2BIG:
			o.msg.grow()
		default:
			return gone(err)
		}
	}
}

// gone turns what a removed msqid yields in a receive that is otherwise right
// into the one error for it.
func gone(err error) error {
	if err == sysv.EINVAL {
		return sysv.EIDRM
	}
	return err
}

func (o *receive) took(n int) {
	o.msg.n = n
	o.q.slot.number(&o.msg)
}

func (o *receive) pending() bool     { return o.q.closed.Load() || o.q.slot.has(o.sel) }
func (o *receive) hopeless() error   { return nil }
func (o *receive) key() operationKey { return operationKey{sel: o.sel} }

// send is the operation that puts a message into the queue. It belongs to one
// goroutine, see wait.
type send struct {
	q *queue
	wait
	msg []byte // type and text; its storage is used again
}

func (o *send) init(q *queue, spin *spinner) {
	o.q = q
	o.wait.init(&q.room, o, spin)
	o.msg = sysv.Buffer(smallMessage)
}

// encode puts a message into o.
func (o *send) encode(typ int64, encode func(dst []byte) ([]byte, error)) error {
	if err := validateType(typ); err != nil {
		return err
	}
	msg, err := encode(o.msg[:sysv.HeaderSize])
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

func (o *send) try() error {
	if o.q.closed.Load() {
		return ErrClosed
	}
	id := o.q.msqid()
	err := o.q.kernel.Send(id, o.msg)
	if err == sysv.EAGAIN {
		return errWait
	}
	return o.done(id, err)
}

func (o *send) block(t sysv.Thread) error {
	id := o.q.msqid()
	return o.done(id, t.Send(id, o.msg))
}

// done notes that the kernel has taken the message, or explains why it has not.
func (o *send) done(id int, err error) error {
	if err != nil {
		return o.refused(id, err)
	}
	processSends.Add(1)
	return nil
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
	return gone(err)
}

func (o *send) pending() bool { return o.q.closed.Load() }

// hopeless finds messages that are larger than the queue may ever hold: the
// kernel would wait for the room for ever.
func (o *send) hopeless() error {
	stat, err := look(o.q.kernel, o.q.msqid())
	if err == nil && uint64(o.size()) > stat.MaxBytes {
		return o.q.tooLarge(o.size())
	}
	return nil
}

func (o *send) key() operationKey { return operationKey{send: true} }
