package chanmq

import (
	"sync/atomic"

	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/large"
	"github.com/chanmq/chanmq/internal/sysv"
)

// smallMessage is the text that a new buffer has room for. A message that is
// larger makes it grow; starting small keeps ten thousand receivers cheap.
const smallMessage = 256

// raw is one message as the kernel gave it, in a buffer that is used again.
// Whoever holds the raw owns the message.
type raw struct {
	seq      uint64        // its place in the order in which this handle took messages
	buf      []byte        // as sysv.Buffer makes it; nil: none yet
	n        int           // bytes of text; of a pack, of the values that are still in it
	off      int           // what is before the text in buf: its envelope; of a pack, the values that are gone too
	values   int           // of a pack: how many are still in it; 0: it is one message
	damaged  bool          // its envelope could not be read, and is part of the text
	saved    *journal.Slot // whose memory buf is, and outlives the process; nil: there is no journal
	file     *large.File   // of a reference that was taken: where the text is; nil: it is in the message
	attempts int           // how many times it was delivered, if there is no journal
	lease    sysv.Lease    // for as long as the message is in its queue still; nil: it is not
	queue    int           // the msqid of that queue

	unacked *atomic.Int64 // counts it, or its values, while it is in a journal; nil: nothing does
	counted int64         // as how many
}

func (m *raw) typ() int64 { return int64(sysv.Type(m.buf)) }

// text is valid until the buffer is used again.
func (m *raw) text() []byte { return m.buf[sysv.HeaderSize+m.off:][:m.n:m.n] }

// wire is the message as msgsnd takes it, in the envelope that it came in.
func (m *raw) wire() []byte { return m.buf[:sysv.HeaderSize+m.off+m.n] }

// message copies it out of the buffer.
func (m *raw) message() Message[[]byte] {
	return Message[[]byte]{m.typ(), append([]byte{}, m.text()...)}
}

// room returns how many bytes of text fit.
func (m *raw) room() int { return len(m.buf) - sysv.HeaderSize }

// roomFor returns how much room to make for a message of n bytes that did not fit. 0 stands
// for an unknown number.
func (m *raw) roomFor(n int) int {
	if n > m.room() {
		return n
	}
	return 2 * m.room()
}

// in reports whether the buffer is in the journal, or in no journal if j is nil.
// Deliveries of Take pass buffers from one handle to another.
func (m *raw) in(j *journal.Journal) bool {
	if m.saved == nil {
		return j == nil
	}
	return m.saved.In(j)
}

// grow replaces the empty buffer by one with that much room, in the journal if there
// is one. If there is an error, nothing has changed.
func (m *raw) grow(j *journal.Journal, room int) error {
	if j == nil {
		m.buf = sysv.Buffer(room)
		return nil
	}
	s, err := j.Slot(room)
	if err != nil {
		return err
	}
	m.release()
	*m = raw{buf: s.Buffer(), saved: s}
	return nil
}

// took records what msgrcv returned.
func (m *raw) took(n int, seq uint64) {
	m.n, m.off, m.damaged, m.seq, m.attempts = n, 0, false, seq, 0
	if m.saved != nil {
		m.saved.Took(n, seq)
	}
}

// leasedBy says that the message which was taken is in the queue still.
func (m *raw) leasedBy(l sysv.Lease, queue int) {
	m.lease, m.queue = l, queue
	m.attempts = l.Attempt() - 1
}

// endLease takes the message out of its queue, if it is there.
func (m *raw) endLease() error {
	l := m.lease
	if l == nil {
		return nil
	}
	m.lease = nil
	return l.Ack()
}

// countUnacked counts the message in c until it is acknowledged, or left to the next process.
func (m *raw) countUnacked(c *counters) {
	if m.saved != nil {
		m.countIn(&c.unacknowledged)
	}
}

func (m *raw) countIn(unacked *atomic.Int64) {
	m.unacked, m.counted = unacked, int64(max(m.values, 1))
	unacked.Add(m.counted)
}

// uncount ends what countUnacked has begun.
func (m *raw) uncount() {
	if m.unacked != nil {
		m.unacked.Add(-m.counted)
		m.unacked = nil
	}
}

// ack says that the message is somebody else's now: the program's, or the kernel's. The
// buffer is empty, or gone if it was another process's. So is the file of a larger text.
func (m *raw) ack() error {
	file := m.file
	m.file = nil
	err := m.endLease()
	if m.saved != nil {
		m.uncount()
		err = m.saved.Free()
		if m.saved.Adopted() {
			*m = raw{}
		}
	}
	if err == nil {
		file.Remove() // when the message cannot come again
	} else {
		file.Release()
	}
	return err
}

// release gives the buffer back to the journal. A message that is in it stays there
// for the next process, and one that is leased in its queue.
func (m *raw) release() {
	m.file.Release()
	m.file = nil
	if m.lease != nil {
		m.lease.Release()
		m.lease = nil
	}
	if m.saved != nil {
		m.uncount()
		m.saved.Release()
		*m = raw{}
	}
}

// deliver counts a delivery, before the program gets the message, and returns their
// number, this one included.
func (m *raw) deliver() int {
	if m.saved != nil {
		return m.saved.Deliver()
	}
	m.attempts++
	return m.attempts
}

// undeliver takes that back: the program did not get it.
func (m *raw) undeliver() {
	if m.saved != nil {
		m.saved.Undeliver()
	} else {
		m.attempts--
	}
}

// delivered returns how many times it was delivered.
func (m *raw) delivered() int {
	if m.saved != nil {
		return m.saved.Attempt()
	}
	return m.attempts
}

// adopted reports whether another process took it, and is dead, as far as is known: with a
// lease, it may also have left it.
func (m *raw) adopted() bool {
	if m.lease != nil {
		return m.lease.Attempt() > 1
	}
	return m.saved != nil && m.saved.Adopted()
}

// lengthInferred reports whether the process that took it died before it knew the length.
func (m *raw) lengthInferred() bool { return m.saved != nil && m.saved.LengthInferred() }
