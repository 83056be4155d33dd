package simq

import (
	"math"
	"slices"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// queue is struct msg_queue. The mutex of the Kernel guards it.
type queue struct {
	sysv.Stat
	messages           []message
	receivers, senders []*sleeper // in the order of their arrival
}

type message struct {
	typ      int
	text     []byte
	lease    *lease // who has it, while it is in the queue; nil: nobody
	attempts int    // how many leases it has had
}

// fill writes the message to a buffer that is large enough, and returns the size of
// its text.
func (m message) fill(buf []byte) int {
	sysv.PutType(buf, m.typ)
	return copy(buf[sysv.HeaderSize:], m.text)
}

// fits is msg_fits_inqueue: at most msg_qbytes bytes, and as many messages.
func (q *queue) fits(m message) bool {
	return q.Bytes+uint64(len(m.text)) <= q.MaxBytes && q.Messages+1 <= q.MaxBytes
}

// put sends a message that fits. It is pipelined_send: the first receiver that
// waits for such a message gets it directly, not through the queue. Receivers
// before it whose buffer is too small are woken with E2BIG.
func (q *queue) put(m message, from *Process) {
	q.SendTime, q.SendPID = time.Now().Unix(), from.pid
	r := q.receiver(m)
	if r != nil {
		// Here Linux records the thread (task_pid). If a receive finds its
		// message in the queue, it records the process (task_tgid).
		q.ReceiveTime, q.ReceivePID = time.Now().Unix(), r.thread.tid
	}
	if r == nil || r.leases {
		q.messages = append(q.messages, m)
		q.Messages++
		q.Bytes += uint64(len(m.text))
	}
	if r == nil {
		return
	}
	if r.leases {
		m = q.leaseTo(r.thread.p, len(q.messages)-1)
	}
	r.msg = m
	r.wake(nil)
}

// receiver takes the first receiver out of the list that waits for such a message. Those
// before it whose buffer is too small are woken.
func (q *queue) receiver(m message) *sleeper {
	for i := 0; i < len(q.receivers); {
		r := q.receivers[i]
		if !r.sel.matches(m.typ) {
			i++
			continue
		}
		q.receivers = slices.Delete(q.receivers, i, i+1)
		if len(m.text) <= r.room {
			return r
		}
		r.msg = m
		r.wake(sysv.E2BIG)
	}
	return nil
}

// take takes the message that the selector selects, for a receiver that does not
// have to wait, or leases it. ENOMSG: no message matches. E2BIG: it is the message.
func (q *queue) take(sel selector, room int, to *Process, leases bool) (message, error) {
	i := sel.find(q.messages)
	if i < 0 {
		return message{}, sysv.ENOMSG
	}
	m := q.messages[i]
	if len(m.text) > room {
		return m, sysv.E2BIG
	}
	q.ReceiveTime, q.ReceivePID = time.Now().Unix(), to.pid
	if leases {
		return q.leaseTo(to, i), nil
	}
	q.delete(i)
	return m, nil
}

// delete removes the message, and wakes the senders that fit its space.
func (q *queue) delete(i int) {
	q.Messages--
	q.Bytes -= uint64(len(q.messages[i].text))
	q.messages = slices.Delete(q.messages, i, i+1)
	q.wakeSenders()
}

// copyAt returns the message at a position, which stays in the queue: MSG_COPY.
// Linux copies through a buffer of at most msgmax bytes (prepare_copy), and returns
// EINVAL for a longer message, sent when msgmax was greater.
func (q *queue) copyAt(position, room, limit int) (message, error) {
	if position < 0 || position >= len(q.messages) {
		return message{}, sysv.ENOMSG
	}
	switch m := q.messages[position]; {
	case len(m.text) > room:
		return m, sysv.E2BIG
	case len(m.text) > limit:
		return message{}, sysv.EINVAL
	default:
		return m, nil
	}
}

// wakeSenders is ss_wakeup. It wakes every sender whose message fits the free space
// now, which may be more senders than can send. They try one after the other; those
// that no longer fit wait again, after the senders that were not woken.
func (q *queue) wakeSenders() {
	var woken, asleep []*sleeper
	for _, s := range q.senders {
		if q.fits(s.msg) {
			woken = append(woken, s)
		} else {
			asleep = append(asleep, s)
		}
	}
	q.senders = asleep
	for _, s := range woken {
		switch {
		case !s.thread.p.may(q, mayWrite):
			s.wake(sysv.EACCES)
		case q.fits(s.msg):
			q.put(s.msg, s.thread.p)
			s.wake(nil)
		default:
			q.senders = append(q.senders, s)
		}
	}
}

// recheckReceivers wakes the receivers that may no longer read after IPC_SET.
func (q *queue) recheckReceivers() {
	q.receivers = slices.DeleteFunc(q.receivers, func(r *sleeper) bool {
		if r.thread.p.may(q, mayRead) {
			return false
		}
		r.wake(sysv.EACCES)
		return true
	})
}

// remove removes a sleeper from the queue's lists.
func (q *queue) remove(s *sleeper) {
	is := func(other *sleeper) bool { return other == s }
	q.receivers = slices.DeleteFunc(q.receivers, is)
	q.senders = slices.DeleteFunc(q.senders, is)
}

// selector is the meaning of msgtyp and MSG_EXCEPT, as in convert_mode.
type selector struct {
	mode selectMode
	typ  int
}

type selectMode int

const (
	searchAny       selectMode = iota // 0: the oldest message
	searchEqual                       // t: the oldest of type t
	searchNotEqual                    // t, MSG_EXCEPT: the oldest of another type
	searchLessEqual                   // -t: the oldest of the lowest type up to t
)

func selectorOf(msgtyp, flags int) selector {
	switch {
	case msgtyp == 0:
		return selector{mode: searchAny}
	case msgtyp == math.MinInt: // -msgtyp would overflow
		return selector{searchLessEqual, math.MaxInt}
	case msgtyp < 0:
		return selector{searchLessEqual, -msgtyp}
	case flags&sysv.Except != 0:
		return selector{searchNotEqual, msgtyp}
	default:
		return selector{searchEqual, msgtyp}
	}
}

// matches is testmsg.
func (s selector) matches(typ int) bool {
	switch s.mode {
	case searchEqual:
		return typ == s.typ
	case searchNotEqual:
		return typ != s.typ
	case searchLessEqual:
		return typ <= s.typ
	default:
		return true
	}
}

// find is find_msg: the index of the message to take, or -1.
func (s selector) find(messages []message) int {
	found := -1
	for i, m := range messages {
		switch {
		case m.lease != nil || !s.matches(m.typ):
		case s.mode != searchLessEqual:
			return i
		case found < 0 || m.typ < messages[found].typ:
			found = i
		}
	}
	return found
}
