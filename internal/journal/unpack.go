package journal

import (
	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/sysv"
)

// unpack gives the values of packs in an adopted journal slots of their own, behind what is
// there, so that each is delivered and acknowledged by itself. twice are the slots of values
// that are still in a pack, see readSlots. Whenever this process dies, the next one finds each
// value in a pack, in a slot, or in both, and begins again.
func unpack(fd int, h header, slots []*Slot, twice []int64) ([]*Slot, error) {
	for _, offset := range twice {
		// Before anything of the pack is moved: then it would count again.
		if err := sysv.WriteAt(fd, emptyType[:], offset+int64(slotMtype)); err != nil {
			return nil, err
		}
		step("adopt: freed")
	}
	behind := uint64(1) // the numbers of all
	for _, s := range slots {
		behind = max(behind, s.seq+uint64(max(s.Values(), 1)))
	}
	unpacked := false
	for _, s := range slots {
		if s.values == 0 && s.seq == 0 && s.Enveloped() {
			n, _, err := envelope.ParsePack(s.Text())
			if err != nil {
				continue // it is none
			}
			// Its process had not recorded it. The length is last: then the rest counts.
			s.values, s.seq = n, behind
			behind += uint64(n)
			if err := s.recordPack(fd); err != nil {
				return nil, err
			}
		}
		if s.values == 0 {
			continue
		}
		used, err := s.appendValues(fd, h)
		if err != nil {
			return nil, err
		}
		h.used, unpacked = used, true
	}
	if !unpacked {
		return slots, nil
	}
	slots, _, err := readSlots(descriptor(fd), h)
	return slots, err
}

// recordPack writes what TookPack would have.
func (s *Slot) recordPack(fd int) error {
	var word [8]byte
	native.PutUint64(word[:], s.seq)
	if err := sysv.WriteAt(fd, word[:], s.offset+slotSeq); err != nil {
		return err
	}
	native.PutUint64(word[:], 0)
	native.PutUint32(word[:], uint32(s.values)) // and slotMoved
	if err := sysv.WriteAt(fd, word[:], s.offset+slotValues); err != nil {
		return err
	}
	native.PutUint32(word[:], uint32(s.n)+1)
	err := sysv.WriteAt(fd, word[:4], s.offset+slotLength)
	step("adopt: recorded")
	return err
}

// appendValues writes an extent with the values of a pack, makes it part of the file, and
// frees the pack. It returns how much of the file is in use.
func (s *Slot) appendValues(fd int, h header) (used int64, err error) {
	values := s.packed()
	room := 8
	for _, text := range values {
		room = max(room, (len(text)+7)&^7)
	}
	stride := slotHeader + room
	pages := (int64(extentHeader+len(values)*stride) + h.page - 1) / h.page
	used = h.used + pages*h.page
	if used/h.page > maxPages {
		return 0, ErrTooLarge
	}
	mem := make([]byte, pages*h.page)
	putExtent(mem, int(pages), room, len(values))
	for i, text := range values {
		slot := mem[extentHeader+i*stride:][:stride]
		native.PutUint64(slot[slotSeq:], s.seq+uint64(i))
		native.PutUint32(slot[slotLength:], uint32(len(text))+1)
		sysv.PutType(slot[slotMtype:], s.Type())
		copy(slot[slotHeader:], text)
	}
	if err := sysv.WriteAt(fd, mem, h.used); err != nil {
		return 0, err
	}
	step("adopt: extent written")
	var word [4]byte
	native.PutUint32(word[:], uint32(used/h.page))
	if err := sysv.WriteAt(fd, word[:], headerUsed); err != nil {
		return 0, err
	}
	step("adopt: extent committed")
	err = sysv.WriteAt(fd, emptyType[:], s.offset+int64(slotMtype))
	step("adopt: unpacked")
	return used, err
}

// packed returns the values that a pack still has.
func (s *Slot) packed() (values [][]byte) {
	n, at, err := envelope.ParsePack(s.Text())
	if err != nil {
		panic(err) // readSlot has checked it
	}
	for i := range n {
		var value []byte
		if value, at = envelope.NextValue(s.Text(), at); i >= s.moved {
			values = append(values, value)
		}
	}
	return values
}
