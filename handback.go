package chanmq

import (
	"slices"
	"sync"
	"sync/atomic"

	"github.com/chanmq/chanmq/internal/sysv"
)

// smallMessage is the text that a new buffer has room for. A message that is
// larger makes it grow; starting small keeps ten thousand receivers cheap.
const smallMessage = 256

// raw is one message as the kernel gave it, in a buffer that is used again.
// Whoever holds the raw owns the message.
type raw struct {
	seq uint64 // its place in the order in which this handle took messages
	buf []byte // as sysv.Buffer makes it; nil: none yet
	n   int    // bytes of text
}

func (m *raw) typ() int64 { return int64(sysv.Type(m.buf)) }

// text is valid until the buffer is used again.
func (m *raw) text() []byte { return m.buf[sysv.HeaderSize:][:m.n] }

// message copies it out of the buffer.
func (m *raw) message() Message[[]byte] {
	return Message[[]byte]{m.typ(), append([]byte{}, m.text()...)}
}

// grow makes room for a message that did not fit. The kernel does not tell how
// large it is, and msgmax may have changed since it was sent, so: twice as much.
func (m *raw) grow() {
	room := smallMessage
	if m.buf != nil {
		room = 2 * (len(m.buf) - sysv.HeaderSize)
	}
	m.buf = sysv.Buffer(room)
}

// handback is the slot for messages that were taken from the kernel and that
// nobody got: what a Receiver held when it ended. The next receive that selects
// one gets it, before the kernel is asked. Receives number the messages as they
// take them, and the slot is kept in that order, so that several Receivers may
// hand back in any order of their own.
type handback struct {
	taken atomic.Uint64 // the number of messages taken so far
	count atomic.Int64  // len(held), so that a receive can pass by an empty slot

	mu   sync.Mutex
	held []raw // in the order of seq; guarded by mu
}

// number gives a message that was just taken its place in the order.
func (h *handback) number(m *raw) { m.seq = h.taken.Add(1) }

// put gives a message to the slot, buffer and all.
func (h *handback) put(m raw) {
	h.mu.Lock()
	defer h.mu.Unlock()
	at, _ := slices.BinarySearchFunc(h.held, m.seq, func(held raw, seq uint64) int {
		if held.seq < seq {
			return -1
		}
		return 1
	})
	h.held = slices.Insert(h.held, at, m)
	h.count.Store(int64(len(h.held)))
}

// take moves the message that s selects into m, whose buffer it replaces.
func (h *handback) take(s Selector, m *raw) bool {
	if h.count.Load() == 0 {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	at := h.find(s)
	if at < 0 {
		return false
	}
	*m = h.held[at]
	h.held = slices.Delete(h.held, at, at+1)
	h.count.Store(int64(len(h.held)))
	return true
}

// has reports whether take would succeed.
func (h *handback) has(s Selector) bool {
	if h.count.Load() == 0 {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.find(s) >= 0
}

// find returns the index of the message that msgrcv(2) would choose, or -1.
func (h *handback) find(s Selector) int {
	best := -1
	for i := range h.held {
		typ := h.held[i].typ()
		if !s.matches(typ) {
			continue
		}
		if s.mode != upTo {
			return i
		}
		if best < 0 || typ < h.held[best].typ() {
			best = i
		}
	}
	return best
}

// empty takes everything out, in order.
func (h *handback) empty() []raw {
	h.mu.Lock()
	defer h.mu.Unlock()
	held := h.held
	h.held = nil
	h.count.Store(0)
	return held
}
