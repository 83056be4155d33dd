package chanmq

import (
	"errors"
	"slices"
)

// returning is what a handle sends back to its kernel queue, in as few messages as may be.
type returning struct {
	q      *queue
	held   []raw
	packer packer // the first values of held, which next has chosen; none: the first message, as it is
}

// leave drops the messages that are in the queue still, and leaves them to others.
func (r *returning) leave() {
	if r.q.leaser == nil || r.q.options.remove || r.q.knownRemoved() {
		return // nobody would get them: they are like the others
	}
	r.held = slices.DeleteFunc(r.held, func(m raw) bool {
		if m.lease == nil || m.queue != r.q.msqid() {
			return false
		}
		m.release()
		if c := r.q.counters; c != nil {
			c.returned.Add(1)
		}
		return true
	})
}

// next chooses the first values of held that may be in one message of so many bytes of text,
// with packing.
func (r *returning) next(limit int) {
	if !r.q.options.packing {
		return
	}
	r.packer.begin(r.held[0].typ())
	for i := range r.held {
		m := &r.held[i]
		if m.damaged || m.file != nil || m.typ() != r.packer.typ {
			return
		}
		for text := range m.texts() {
			_ = r.packer.add(func(dst []byte) ([]byte, error) { return append(dst, text...), nil }) // it cannot fail
			if r.packer.size() >= limit {
				return
			}
		}
	}
}

// alone reports whether the first message is sent as it is.
func (r *returning) alone() bool { return len(r.packer.ends) == 0 }

// once sends what next has chosen, as much as there is room for, and returns how many
// values that were. It does not wait.
func (r *returning) once(limit int) (n int, err error) {
	if r.alone() {
		msg, file, err := r.q.wire(&r.held[0])
		if err == nil {
			err = r.q.kernel.Send(r.q.msqid(), msg)
		}
		settleFile(file, err)
		return 1, err
	}
	for n = max(r.packer.fits(limit), 1); ; n /= 2 {
		if err = r.q.kernel.Send(r.q.msqid(), r.packer.message(n)); err == nil || n == 1 {
			return n, err
		}
	}
}

// sent drops the first n values: the kernel has them. The error is the journal's.
func (r *returning) sent(n int) error {
	if c := r.q.counters; c != nil {
		c.returned.Add(uint64(n))
	}
	var errs []error
	for n > 0 {
		m := &r.held[0]
		if m.values > n {
			m.drop(n)
			break
		}
		n -= max(m.values, 1)
		errs = append(errs, m.ack())
		m.release()
		r.held = r.held[1:]
	}
	return errors.Join(errs...)
}

// all sends everything, without waiting. It returns the error of the journal, and why the
// kernel has not taken what is left in held.
func (r *returning) all() (journal, err error) {
	limit := r.q.packLimit()
	for len(r.held) > 0 {
		r.next(limit)
		n, err := r.once(limit)
		if err != nil {
			return journal, err
		}
		journal = errors.Join(journal, r.sent(n))
	}
	return journal, nil
}
