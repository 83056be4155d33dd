package journal

import (
	"fmt"
	"math"
	"sync/atomic"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/sysv"
)

// A LengthHint is what a codec knows of the length of its texts: it finds the length
// of a message if the process dies before msgrcv has returned it. The zero value says
// that nothing is known; then the length is inferred, and wrong if the text ends with
// the byte that the slot was filled with, which is the one that has ended the
// fewest messages of the journal.
type LengthHint struct {
	kind  uint8
	end   byte
	packs bool
	size  uint32
}

// Enveloped is the hint of a handle that takes texts out of their envelopes (package
// envelope): what h says is of those texts, and what was received may be a pack or a reference.
func (h LengthHint) Enveloped() LengthHint {
	h.packs = true
	return h
}

// The kinds of LengthHint, as the file has them.
const (
	hintNone = iota
	hintEnd
	hintFixed
	hintKinds

	hintPacks = 4 // is added to the others
)

// word is the hint in the file, and the byte that the text is filled with.
func (h LengthHint) word(fill byte) uint32 {
	kind := h.kind
	if h.packs {
		kind |= hintPacks
	}
	return uint32(fill) | uint32(kind)<<8
}

// parseHint is the opposite of word. It reports false if there is no such hint.
func parseHint(word, size uint32) (h LengthHint, ok bool) {
	kind := word >> 8
	h = LengthHint{kind: uint8(kind &^ hintPacks), packs: kind&hintPacks > 0, size: size}
	return h, kind < hintPacks+hintKinds && h.kind < hintKinds && size <= MaxRoom
}

// NeverEndsIn says that no text ends with the byte, as text in UTF-8 never does with
// 0xFF. Lengths are then exact.
func NeverEndsIn(b byte) LengthHint { return LengthHint{kind: hintEnd, end: b} }

// FixedLength says that every text has n bytes. Lengths are then exact, unless
// another sender breaks the rule.
func FixedLength(n int) LengthHint {
	if n < 0 || n > MaxRoom {
		return LengthHint{}
	}
	return LengthHint{kind: hintFixed, size: uint32(n)}
}

// defaultFill is what slots are filled with at first.
const defaultFill = 0xFF

// infer returns the length of the text in a slot that was filled with the byte, and
// whether it is not sure.
func (h LengthHint) infer(room []byte, fill byte) (n int, inferred bool) {
	if h.packs {
		if n, ok := envelope.Length(room); ok {
			e, _, err := envelope.Parse(room[:n])
			if err == nil && e.Kind == envelope.Pack {
				_, _, err = envelope.ParsePack(room[:n])
			}
			if err == nil {
				return n, false // it says so itself
			}
		}
		h.packs = false
		if e, _, err := envelope.Parse(room); err == nil && e.Kind == envelope.Plain {
			n, inferred := h.infer(room[envelope.PlainHeader:], fill)
			return envelope.PlainHeader + n, inferred
		}
	}
	n = len(room)
	for n > 0 && room[n-1] == fill {
		n--
	}
	switch {
	case h.kind == hintEnd:
		return n, false
	case h.kind == hintFixed && n <= int(h.size) && int(h.size) <= len(room):
		return int(h.size), false
	}
	return n, n < len(room)
}

// A Slot is a buffer for one message, in a journal. One that is empty belongs to one
// goroutine at a time, which receives into it:
//
//	s.Arm(hint)
//	n, err := kernel.Receive(msqid, s.Buffer(), msgtyp, flags)
//	if err == nil {
//		s.Took(n, seq)
//	}
//
// One that holds a message belongs to whoever holds the message, until Free
// acknowledges it. Slots of an [Adopted] journal hold a message that another process
// took, and cannot be received into.
type Slot struct {
	buf      []byte // type and text, see sysv.Buffer
	n        int    // bytes of text
	seq      uint64
	attempt  int
	inferred bool
	values   int // of a pack: how many it had; 0: it is one message
	moved    int // of a pack: how many of them have got slots of their own

	// Of a journal that this process receives into.
	j        *Journal
	class    int
	ctl      []byte          // what is before the type
	length   *atomic.Uint32  // the word of ctl with the length
	attempts *atomic.Uint32  // the word of ctl with the attempts
	gone     *atomic.Uint32  // the word of ctl with the values that were moved
	mtype    *atomic.Uintptr // the type
	hint     LengthHint      // as in ctl
	fill     byte            // what the text is filled with, behind dirty
	dirty    int             // bytes of text that are not filled
	armed    bool            // ready to be received into

	// Of one that it has adopted.
	a      *Adopted
	offset int64 // of the slot, in the file
	freed  bool  // guarded by a.mu

	released bool // guarded by j.mu or a.mu
}

// newSlot writes an empty slot. All of its pages are written to: then the kernel can
// copy to them without a page fault.
func newSlot(j *Journal, class int, mem []byte) *Slot {
	s := &Slot{
		j:        j,
		class:    class,
		ctl:      mem[:slotMtype:slotMtype],
		buf:      mem[slotMtype:],
		length:   sysv.Uint32(mem, slotLength),
		attempts: sysv.Uint32(mem, slotAttempts),
		gone:     sysv.Uint32(mem, slotMoved),
		mtype:    sysv.Long(mem, slotMtype),
		fill:     defaultFill,
		released: true,
	}
	clear(s.ctl)
	s.mtype.Store(0)
	fill(mem[slotHeader:], s.fill)
	s.putHint()
	return s
}

// forget makes any further use panic, instead of touching memory that is unmapped.
func (s *Slot) forget() { *s = Slot{released: true} }

func (s *Slot) putHint() {
	native.PutUint32(s.ctl[slotFill:], s.hint.word(s.fill))
	native.PutUint32(s.ctl[slotFixed:], s.hint.size)
}

// Buffer returns the slot as the buffer of msgrcv: type and text.
func (s *Slot) Buffer() []byte { return s.buf }

// Room returns the number of bytes of text that fit.
func (s *Slot) Room() int { return len(s.buf) - sysv.HeaderSize }

// Adopted reports whether another process took the message. Such a slot is not used
// again.
func (s *Slot) Adopted() bool { return s.a != nil }

// Arm makes an empty slot ready to be received into: it fills what the last message
// has overwritten. It must be called before each msgrcv, and does nothing if it was
// called before and no message came. It panics if the slot holds a message.
func (s *Slot) Arm(h LengthHint) {
	if s.armed && s.hint == h {
		return
	}
	if s.mtype.Load() != 0 {
		panic("journal: Arm of a slot that holds a message")
	}
	// The type is 0, so that whatever is stored here does not count. The system call
	// that follows is behind all of it.
	b := h.end
	if h.kind != hintEnd {
		b = byte(s.j.fill.Load())
	}
	text := s.buf[sysv.HeaderSize:]
	if b == s.fill {
		fill(text[:s.dirty], b)
	} else {
		fill(text, b)
	}
	s.dirty = 0
	if b != s.fill || h != s.hint {
		s.fill, s.hint = b, h
		s.putHint()
	}
	s.begin()
	s.armed = true
}

// begin makes what is before the type of an empty slot that of a message which was not
// delivered, and whose length is not known.
func (s *Slot) begin() {
	native.PutUint32(s.ctl[slotLength:], 0)
	native.PutUint32(s.ctl[slotAttempts:], 0)
	native.PutUint64(s.ctl[slotValues:], 0) // and slotMoved
	s.values, s.moved, s.attempt, s.inferred = 0, 0, 0, false
}

// Took records what msgrcv returned, after it has succeeded. seq is the message's place
// in the order in which the handle takes messages.
func (s *Slot) Took(n int, seq uint64) { s.TookPack(n, seq, 0) }

// TookPack is Took for a pack (package envelope): so many values, whose places in the order
// are from seq on. They are moved to slots of their own, from the first to the last, by Put
// and Moved, which makes each of them a message that is delivered and acknowledged by itself.
func (s *Slot) TookPack(n int, seq uint64, values int) {
	s.n, s.seq = n, seq
	s.dirty, s.armed = n, false
	if s.values = values; values > 0 {
		native.PutUint32(s.ctl[slotValues:], uint32(values))
	}
	native.PutUint64(s.ctl[slotSeq:], seq)
	s.length.Store(uint32(n) + 1) // now seq counts
	if s.hint.kind == hintNone && n > 0 {
		s.j.ended(s.buf[sysv.HeaderSize+n-1])
	}
}

// Put stores a message in an empty slot that has room for it: a value of a pack. It panics if
// the slot holds a message.
func (s *Slot) Put(typ int, text []byte, seq uint64) {
	if s.mtype.Load() != 0 {
		panic("journal: Put in a slot that holds a message")
	}
	s.begin()
	s.hint = LengthHint{} // it is in no envelope
	s.putHint()
	copy(s.buf[sysv.HeaderSize:], text)
	s.n, s.seq = len(text), seq
	s.dirty, s.armed = max(s.dirty, len(text)), false
	native.PutUint64(s.ctl[slotSeq:], seq)
	s.length.Store(uint32(len(text)) + 1)
	s.mtype.Store(uintptr(typ)) // now all of it counts
}

// Enveloped reports whether the text is as the kernel gave it to a handle that takes texts out
// of their envelopes. In an adopted slot it is no pack: those are unpacked.
func (s *Slot) Enveloped() bool { return s.hint.packs }

// Values returns how many values of a pack were not moved, 0 if it is one message.
func (s *Slot) Values() int { return s.values - s.moved }

// Moved records that the first n values which the pack still had are in slots of their own,
// or need none any more. With the last of them the slot is freed.
func (s *Slot) Moved(n int) error {
	if n == s.Values() {
		return s.Free()
	}
	s.moved += n
	s.seq += uint64(n)
	s.gone.Store(uint32(s.moved))
	return nil
}

// Held reports whether the slot holds a message.
func (s *Slot) Held() bool {
	if s.a != nil {
		return !s.freed
	}
	return s.mtype.Load() != 0
}

// Type returns the message's type.
func (s *Slot) Type() int { return sysv.Type(s.buf) }

// Text returns the message's text. It is valid until Free.
func (s *Slot) Text() []byte { return s.buf[sysv.HeaderSize:][:s.n:s.n] }

// Seq returns the message's place in the order in which a handle took it, that of a pack's
// first value that was not moved; 0 if the process died before it had one: then it is behind
// all that have.
func (s *Slot) Seq() uint64 { return s.seq }

// LengthInferred reports whether the text may be longer than Text: by some of the
// bytes that the slot was filled with.
func (s *Slot) LengthInferred() bool { return s.inferred }

// Attempt returns how many times the message was delivered.
func (s *Slot) Attempt() int { return s.attempt }

// Deliver counts a delivery, just before the program gets the message. It returns the
// number of deliveries, including this one, by whatever process.
func (s *Slot) Deliver() int {
	if s.attempt < math.MaxInt32 {
		s.setAttempt(s.attempt + 1)
	}
	return s.attempt
}

// Undeliver takes back a Deliver: the program did not get the message.
func (s *Slot) Undeliver() { s.setAttempt(s.attempt - 1) }

func (s *Slot) setAttempt(n int) {
	s.attempt = n
	if s.a != nil {
		s.a.delivered(s)
	} else {
		s.attempts.Store(uint32(n))
	}
}

// Free acknowledges the message: it is never delivered again. A second call, before
// the slot is armed again, does nothing. The slot is empty then. An error says that
// the file of an adopted journal could not be written, so that the message may be
// delivered again.
func (s *Slot) Free() error {
	if s.a != nil {
		return s.a.free(s)
	}
	s.mtype.Store(0)
	return nil
}

// Release gives the slot back. A message that it holds stays in the file, to be adopted
// by another process when all slots of the file are given back: after Close, if this
// process made the file. The slot must not be used again; a second call does nothing
// until Slot hands it out again.
func (s *Slot) Release() {
	if s.a != nil {
		s.a.release(s)
		return
	}
	if s.j != nil {
		s.j.release(s)
	}
}

// In reports whether it is a slot of the journal.
func (s *Slot) In(j *Journal) bool { return s.j == j }

// Larger exchanges an empty slot for one with twice the room, for a message that did
// not fit. If there is an error, the slot can still be used.
func (s *Slot) Larger() (*Slot, error) {
	if s.j == nil {
		return nil, fmt.Errorf("journal: a slot of an adopted journal does not grow")
	}
	larger, err := s.j.Slot(2 * s.Room())
	if err == nil {
		s.Release()
	}
	return larger, err
}

// patterns are blocks of one byte each, to copy from.
var patterns [256]atomic.Pointer[[1024]byte]

// fill sets all of b.
func fill(b []byte, c byte) {
	if c == 0 {
		clear(b)
		return
	}
	pattern := patterns[c].Load()
	if pattern == nil {
		pattern = new([1024]byte)
		for i := range pattern {
			pattern[i] = c
		}
		patterns[c].Store(pattern)
	}
	for len(b) > 0 {
		b = b[copy(b, pattern[:]):]
	}
}
