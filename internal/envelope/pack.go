package envelope

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A pack is several texts in one message. Each has its length before it, in two bytes.

const (
	PlainHeader = common // bytes of an envelope of kind Plain before its text

	PackHeader  = 14 // bytes of a pack before its first value
	ValueHeader = 2  // bytes of a pack before the text of each value

	// MaxValue is how many bytes of text a value in a pack has at most, and how many values
	// a pack has.
	MaxValue = math.MaxUint16
)

// PutPack writes the header of a pack to the first PackHeader bytes of b: of so many values,
// in size bytes behind it. PutValue writes what is before a value of n bytes.
func PutPack(b []byte, values, size int) {
	Append(b[:0:PackHeader], &Header{Kind: Pack, Values: uint16(values), Size: uint32(size)})
}

// PutValue writes what is before a value of n bytes in a pack, to the first ValueHeader bytes
// of b.
func PutValue(b []byte, n int) { binary.LittleEndian.PutUint16(b, uint16(n)) }

// ParsePack checks a pack, every length in it, and returns how many values it has. They begin
// at the offset, for NextValue.
func ParsePack(text []byte) (values, offset int, err error) {
	h, body, err := Parse(text)
	if err != nil {
		return 0, 0, err
	}
	if h.Kind != Pack {
		return 0, 0, fmt.Errorf("%w: a %v, and no pack", ErrKind, h.Kind)
	}
	left := len(body)
	for n := range int(h.Values) {
		if left < ValueHeader {
			return 0, 0, fmt.Errorf("%w: a pack of %d values ends before value %d", ErrDamaged, h.Values, n+1)
		}
		size := int(binary.LittleEndian.Uint16(body[len(body)-left:]))
		if left -= ValueHeader + size; left < 0 {
			return 0, 0, fmt.Errorf("%w: a pack of %d values ends within value %d", ErrDamaged, h.Values, n+1)
		}
	}
	if left > 0 {
		return 0, 0, fmt.Errorf("%w: %d bytes behind a pack of %d values", ErrDamaged, left, h.Values)
	}
	return int(h.Values), len(text) - len(body), nil
}

// NextValue returns the value of a pack at the offset, part of the text, and the offset of the
// one behind it. ParsePack has checked the text.
func NextValue(text []byte, offset int) (value []byte, next int) {
	at := offset + ValueHeader
	next = at + int(binary.LittleEndian.Uint16(text[offset:]))
	return text[at:next:next], next
}

// Length returns how many bytes a pack or a reference has that the text begins with, as its
// header says: more may be behind it. It returns false if the text does not begin with one.
func Length(text []byte) (n int, ok bool) {
	if !Begins(text) || len(text) < common || text[4] != Version {
		return 0, false
	}
	size := int(binary.LittleEndian.Uint16(text[6:]))
	switch kind := Kind(text[5]); {
	case size > len(text):
	case kind == Reference && size >= referenceSize:
		return size, true
	case kind == Pack && size >= PackHeader:
		body := binary.LittleEndian.Uint32(text[common+2:])
		if uint64(body) <= uint64(len(text)-size) {
			return size + int(body), true
		}
	}
	return 0, false
}
