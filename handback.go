package chanmq

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq/internal/journal"
)

// This file is what keeps the order of messages that were taken from the kernel
// and that the program did not get: the slot that such messages are handed back to, in
// the order of their numbers, and the holders that a receive waits for
// before it takes anything newer.

// slot is where messages are that were taken from the kernel and that the program
// did not get: what a Receiver held when it ended. The next receive that selects
// one gets it, before the kernel is asked. Receives number the messages as they
// take them, and the slot is kept in that order, so that several Receivers may
// hand back in any order of their own.
//
// What is left of a pack is there as well, as one element with the number of its first
// value: values are taken from its front, so that they are in order too.
type slot struct {
	taken   atomic.Uint64 // the number of the last message that was taken
	adopted atomic.Uint64 // the number of the last one of a process that is dead
	count   atomic.Int64  // len(held), so that a receive can pass by an empty slot

	mu     sync.Mutex
	held   []raw         // in the order of seq; guarded by mu
	types  map[int64]int // how many of held are of each type; guarded by mu
	closed bool          // emptied for the last time; guarded by mu
}

// firstTaken is behind the numbers of all messages that the handle has adopted: what
// another process took and did not handle is older than what is still in the queue.
const firstTaken = 1 << 48

// number returns the place of n values that were just taken in the order: that of the first.
func (s *slot) number(n int) uint64 { return firstTaken + s.taken.Add(uint64(n)) - uint64(n) + 1 }

// numberAdopted is number for a message that another process had taken.
func (s *slot) numberAdopted() uint64 { return s.adopted.Add(1) }

// put gives a message to the slot, buffer and all. It reports false if the slot
// takes no more.
func (s *slot) put(m raw) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.insert(m)
	return true
}

// insert needs mu.
func (s *slot) insert(m raw) {
	at, _ := slices.BinarySearchFunc(s.held, m.seq, func(held raw, seq uint64) int {
		if held.seq < seq {
			return -1
		}
		return 1
	})
	s.held = slices.Insert(s.held, at, m)
	if s.types == nil {
		s.types = make(map[int64]int)
	}
	s.types[m.typ()]++
	s.count.Store(int64(len(s.held)))
}

// take moves the message that sel selects into b, whose buffer it replaces. Of a pack it
// moves as many values as b has room for, into buffers of the journal. If there is an error,
// the pack is left as it is.
func (s *slot) take(sel Selector, b *batch, j *journal.Journal) (taken bool, err error) {
	if s.count.Load() == 0 {
		return false, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.takeFirst(sel, b, j)
}

// slotState is what a slot has become by exchange.
type slotState int

const (
	slotEmpty  slotState = iota // of what others may take
	slotFilled                  // others may take something
	slotClosed                  // it takes nothing any more
)

// exchange puts in a pack that was just taken, and takes what sel selects, which selects the
// pack. If there is an error, it has taken nothing.
func (s *slot) exchange(pack *raw, sel Selector, b *batch, j *journal.Journal) (slotState, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return slotClosed, nil
	}
	if len(s.held) == 0 {
		// Most of the time all of it can be taken.
		if b.unpack(pack, j) == nil {
			if pack.values == 0 {
				b.reuse(*pack)
				return slotEmpty, nil
			}
			s.insert(*pack)
			return slotFilled, nil
		}
	}
	s.insert(*pack)
	_, err := s.takeFirst(sel, b, j)
	return slotFilled, err
}

// takeFirst needs mu.
func (s *slot) takeFirst(sel Selector, b *batch, j *journal.Journal) (taken bool, err error) {
	at := s.find(sel)
	if at < 0 {
		return false, nil
	}
	if s.held[at].values == 0 {
		b.msg.release()
		*b.msg, b.next, b.end = s.remove(at), 0, 0
		return true, nil
	}
	if err := b.unpack(&s.held[at], j); err != nil {
		return false, err
	}
	if s.held[at].values == 0 {
		b.reuse(s.remove(at))
	}
	return true, nil
}

// remove takes out the element. It needs mu.
func (s *slot) remove(at int) raw {
	m := s.held[at]
	// Most are found near the front, so those before it move.
	copy(s.held[1:at+1], s.held[:at])
	s.held[0] = raw{}
	s.held = s.held[1:]
	if typ := m.typ(); s.types[typ] > 1 {
		s.types[typ]--
	} else {
		delete(s.types, typ)
	}
	s.count.Store(int64(len(s.held)))
	return m
}

// has reports whether take would succeed.
func (s *slot) has(sel Selector) bool {
	if s.count.Load() == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.selects(sel)
}

// selects reports whether sel selects any of the messages, without a look at each.
// It needs mu.
func (s *slot) selects(sel Selector) bool {
	switch sel.mode {
	case anyType:
		return len(s.held) > 0
	case ofType:
		return s.types[sel.typ] > 0
	case except:
		return len(s.held) > s.types[sel.typ]
	}
	for typ := range s.types {
		if sel.matches(typ) {
			return true
		}
	}
	return false
}

// find returns the index of the message that msgrcv(2) would choose, or -1. It
// needs mu.
func (s *slot) find(sel Selector) int {
	if !s.selects(sel) {
		return -1
	}
	best := -1
	for i := range s.held {
		typ := s.held[i].typ()
		if !sel.matches(typ) {
			continue
		}
		if sel.mode != upTo {
			return i
		}
		if best < 0 || typ < s.held[best].typ() {
			best = i
		}
	}
	return best
}

// takeAlike takes out those at the front that are of one type.
func (s *slot) takeAlike() (held []raw) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.held) > 0 && (len(held) == 0 || s.held[0].typ() == held[0].typ()) {
		held = append(held, s.remove(0))
	}
	return held
}

// close takes everything out, in order. Nothing can be put into the slot from now on.
func (s *slot) close() []raw {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := s.held
	s.held, s.types, s.closed = nil, nil, true
	s.count.Store(0)
	return held
}

// A holder is a Receiver as others see it: one that may hold a message, or be about
// to take one.
type holder struct {
	sel Selector
	// ctx is the program's; at its end the Receiver hands back what it holds. A
	// Receiver that does not do that has one that never ends.
	ctx     context.Context
	inCodec atomic.Bool // it runs the program's code, for as long as that takes

	// Guarded by holders.mu.
	registered bool
	released   chan struct{} // closed, and forgotten, when it is no longer registered
}

// enterCodec says that the holder runs the program's code. leaveCodec follows, once for all
// messages that were taken at once: a store costs as much as decoding a small value.
func (h *holder) enterCodec() {
	if !h.inCodec.Load() {
		h.inCodec.Store(true)
	}
}

func (h *holder) leaveCodec() {
	if h.inCodec.Load() {
		h.inCodec.Store(false)
	}
}

// holders are the Receivers of a handle that may hold a message, by selector.
type holders struct {
	count atomic.Int64 // of all, so that a receive can pass by when there are none

	mu         sync.Mutex
	bySelector map[Selector]map[*holder]struct{} // guarded by mu
	wide       map[Selector]map[*holder]struct{} // those of several types; guarded by mu
}

// register says that h may hold a message from now on. A receive must not begin for
// h before, nor if h.ctx has ended by then: so whoever ends the ctx and then
// receives either finds h registered, or can be sure that it takes nothing.
func (hs *holders) register(h *holder) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.bySelector == nil {
		hs.bySelector = make(map[Selector]map[*holder]struct{})
		hs.wide = make(map[Selector]map[*holder]struct{})
	}
	same := hs.bySelector[h.sel]
	if same == nil {
		same = make(map[*holder]struct{})
		hs.bySelector[h.sel] = same
		if h.sel.mode != ofType {
			hs.wide[h.sel] = same
		}
	}
	same[h] = struct{}{}
	h.registered = true
	hs.count.Add(1)
}

// unregister says that h holds nothing, and takes nothing until it is registered
// again.
func (hs *holders) unregister(h *holder) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if !h.registered {
		return
	}
	h.registered = false
	same := hs.bySelector[h.sel]
	delete(same, h)
	if len(same) == 0 {
		delete(hs.bySelector, h.sel)
		delete(hs.wide, h.sel)
	}
	hs.count.Add(-1)
	if h.released != nil {
		close(h.released)
		h.released = nil
	}
}

// release is the end of a wait for a holder.
type release struct {
	h    *holder
	done <-chan struct{}
}

// ending returns the holders whose ctx has ended, and that may hold a message which
// sel selects.
func (hs *holders) ending(sel Selector) []release {
	if hs.count.Load() == 0 {
		return nil
	}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	var list []release
	add := func(same map[*holder]struct{}) {
		for h := range same {
			if h.ctx.Err() == nil {
				continue
			}
			if h.released == nil {
				h.released = make(chan struct{})
			}
			list = append(list, release{h, h.released})
		}
	}
	others := hs.bySelector
	if sel.mode == ofType {
		add(hs.bySelector[sel])
		others = hs.wide
	}
	for other, same := range others {
		if other.overlaps(sel) {
			add(same)
		}
	}
	return list
}

// await waits until every Receiver whose ctx has ended, and that may hold a message
// which sel selects, has handed it back. So a program may cancel a ctx and receive
// again at once, without waiting for the Receiver's end, and still gets the
// messages in order. It reports false if ctx ends, or closing is closed, before: a
// Receiver may be in a codec, and stay there.
func (hs *holders) await(ctx context.Context, closing <-chan struct{}, sel Selector) bool {
	for _, r := range hs.ending(sel) {
		select {
		case <-r.done:
		case <-ctx.Done():
			return false
		case <-closing:
			return false
		}
	}
	return true
}

// awaitBriefly is await for calls that must not wait. It reports false where one
// of the Receivers runs the program's code. The others end within moments.
func (hs *holders) awaitBriefly(sel Selector) bool {
	for _, r := range hs.ending(sel) {
		for pauses := 0; ; pauses++ {
			select {
			case <-r.done:
			default:
				if r.h.inCodec.Load() {
					return false
				}
				pause(pauses)
				continue
			}
			break
		}
	}
	return true
}

// pause lets others run, the longer the more often it was called in a row.
func pause(n int) {
	if n < 16 {
		runtime.Gosched()
		return
	}
	time.Sleep(50 * time.Microsecond)
}
