package simq

import "github.com/chanmq/chanmq/internal/sysv"

// thread implements sysv.Thread. It panics if its caller violates the order of
// calls that sysv.Thread requires; with a real thread that may go unnoticed. The
// Kernel's mutex guards entered and asleep.
type thread struct {
	p       *Process
	tid     int32
	entered bool
	asleep  *sleeper // the call that waits, or nil
}

// sleeper is a blocking call that waits: struct msg_sender and msg_receiver. It is
// in a list of its queue, and its thread points to it, until it is woken.
type sleeper struct {
	thread *thread
	q      *queue
	msg    message  // of a sender: what it sends. Of a receiver: what it got
	sel    selector // of a receiver
	room   int      // of a receiver
	leases bool     // of a receiver: what it gets stays in the queue
	// done has a buffer for the result, so that waking never blocks. The call
	// that sleeps creates it, in its synctest bubble.
	done chan error
}

// mustBeFree panics if no call of the thread may begin now.
func (t *thread) mustBeFree() {
	if !t.entered {
		panic("simq: blocking call outside Enter and Leave")
	}
	if t.asleep != nil {
		panic("simq: two blocking calls on one Thread")
	}
}

func (t *thread) newSleeper(q *queue) *sleeper {
	t.asleep = &sleeper{thread: t, q: q, done: make(chan error, 1)}
	return t.asleep
}

// wake ends the wait of a sleeper that was removed from its queue's list.
func (s *sleeper) wake(err error) {
	s.thread.asleep = nil
	s.done <- err
}

func (t *thread) Enter() bool {
	return t.p.call(Call{Op: Enter}, func() error {
		if t.entered {
			panic("simq: Enter twice")
		}
		t.entered = true
		return nil
	}) == nil
}

func (t *thread) Leave() {
	t.p.k.mu.Lock()
	defer t.p.k.mu.Unlock()
	if !t.entered || t.asleep != nil {
		panic("simq: Leave without Enter, or from a blocking call")
	}
	t.entered = false
}

// Interrupt wakes the call that waits. If no call waits, it is lost, like a signal
// that a thread handles before it enters the kernel.
func (t *thread) Interrupt() {
	_ = t.p.call(Call{Op: Interrupt}, func() error { // an error means that the interrupt is lost
		if !t.entered {
			panic("simq: Interrupt outside Enter and Leave")
		}
		if s := t.asleep; s != nil {
			s.q.remove(s)
			s.wake(sysv.EINTR)
		}
		return nil
	})
}

func (t *thread) Send(id int, msg []byte) error {
	return t.p.sleepingCall(sendCall(id, msg, true), func() (*sleeper, error) {
		t.mustBeFree()
		return t.p.k.send(t.p, t, id, msg)
	})
}

func (t *thread) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	m, err := t.receive(id, buf, msgtyp, flags, false)
	if err != nil {
		return 0, err
	}
	return m.fill(buf), nil
}

// receive takes a message, or leases it. E2BIG: it is the message.
func (t *thread) receive(id int, buf []byte, msgtyp, flags int, leases bool) (m message, err error) {
	var s *sleeper
	err = t.p.sleepingCall(receiveCall(id, buf, msgtyp, flags, true), func() (_ *sleeper, err error) {
		t.mustBeFree()
		m, s, err = t.p.k.receive(t.p, t, id, textSize(buf), msgtyp, flags, leases)
		return s, err
	})
	if s != nil {
		m = s.msg
	}
	return m, err
}
