package simq

import "github.com/chanmq/chanmq/internal/sysv"

// lease implements sysv.Lease. The Kernel's mutex guards ended.
type lease struct {
	p       *Process
	q       *queue
	attempt int
	ended   bool
}

// leaseTo leases a message to the process, and returns it. Other receives pass by it.
func (q *queue) leaseTo(p *Process, i int) message {
	m := &q.messages[i]
	m.attempts++
	m.lease = &lease{p: p, q: q, attempt: m.attempts}
	return *m
}

// leased returns the place of the lease's message, or -1 if the queue was removed, or the
// process is dead.
func (q *queue) leased(l *lease) int {
	for i := range q.messages {
		if q.messages[i].lease == l {
			return i
		}
	}
	return -1
}

// free leaves a leased message to the first receiver that waits for it.
func (q *queue) free(i int) {
	m := &q.messages[i]
	m.lease.ended, m.lease = true, nil
	r := q.receiver(*m)
	if r == nil {
		return
	}
	r.msg = *m
	if r.leases {
		r.msg = q.leaseTo(r.thread.p, i)
	} else {
		q.delete(i)
	}
	r.wake(nil)
}

func (l *lease) Attempt() int { return l.attempt }

// end ends the lease, and reports whether its message is in the queue still. It panics if
// the program has ended it before.
func (l *lease) end(do func(q *queue, i int)) (there bool) {
	l.p.k.mu.Lock()
	defer l.p.k.mu.Unlock()
	i := l.q.leased(l)
	switch {
	case i >= 0:
		do(l.q, i)
	case l.ended && !l.p.dead:
		panic("simq: a lease is ended twice")
	}
	l.ended = true
	return i >= 0
}

func (l *lease) Ack() error {
	if !l.end((*queue).delete) {
		return sysv.EINVAL
	}
	return nil
}

func (l *lease) Release() { l.end((*queue).free) }

// Kill ends what the process has leased, as its death does.
func (r *Remote) Kill() {
	k := r.Process.k
	k.mu.Lock()
	defer k.mu.Unlock()
	r.Process.dead = true
	for _, q := range k.queues {
		for i := 0; i < len(q.messages); i++ {
			if l := q.messages[i].lease; l != nil && l.p == r.Process {
				before := len(q.messages)
				q.free(i)
				i -= before - len(q.messages) // a plain receive has taken it
			}
		}
	}
}
