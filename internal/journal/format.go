package journal

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/sysv"
)

// The file, in the byte order and with the C long of the process that made it:
// docs/journal.md.
//
//	header, one page | extent | extent | ...
//	extent, whole pages: header | slot | slot | ...
//	slot: 64 bytes, at whose end is the type | text
//
// Only the words that are marked change after they were written.

const version = 1

var magic = [8]byte{'c', 'h', 'a', 'n', 'm', 'q', 'J', '\n'}

const byteOrder = 0x01020304

// Offsets in the header.
const (
	headerMagic     = 0
	headerByteOrder = 8
	headerVersion   = 12
	headerLong      = 16 // bytes of a C long
	headerPage      = 20 // bytes of a page
	headerBoot      = 24 // 16 bytes
	headerNSDev     = 40
	headerNSIno     = 48
	headerNSID      = 56
	headerInitial   = 64
	headerMsqid     = 68
	headerKey       = 72
	headerCUID      = 76
	headerCGID      = 80
	headerPID       = 84  // of the creator, for those who look at the file
	headerCreated   = 88  // nanoseconds since boot
	headerSum       = 96  // CRC-32 (IEEE) of what is before
	headerUsed      = 100 // changes: pages of the file that are in use
	headerChanged   = 104 // changes: seconds
	headerSize      = 128
)

// Offsets in an extent.
const (
	extentMagic  = 0
	extentPages  = 4
	extentRoom   = 8 // bytes of text in a slot
	extentCount  = 12
	extentSum    = 16 // CRC-32 of what is before
	extentHeader = 64

	extentMark = 0x4A514D43
)

// Offsets in a slot. All of it changes.
const (
	slotSeq      = 0 // counts if the length is known
	slotLength   = 8 // 0: not known; else 1 more
	slotAttempts = 12
	slotFill     = 16 // the byte, and the kind of hint above it
	slotFixed    = 20
	slotValues   = 24                           // of a pack: how many it had; 0: it is one message
	slotMoved    = 28                           // of a pack: how many of them have got slots of their own
	slotMtype    = slotHeader - sysv.HeaderSize // 0: the slot is empty
	slotHeader   = 64
)

func putHeader(b []byte, queue Identity, page int) {
	copy(b[headerMagic:], magic[:])
	native.PutUint32(b[headerByteOrder:], byteOrder)
	native.PutUint32(b[headerVersion:], version)
	native.PutUint32(b[headerLong:], uint32(sysv.HeaderSize))
	native.PutUint32(b[headerPage:], uint32(page))
	copy(b[headerBoot:], queue.Boot[:])
	native.PutUint64(b[headerNSDev:], queue.NamespaceDev)
	native.PutUint64(b[headerNSIno:], queue.NamespaceIno)
	native.PutUint64(b[headerNSID:], queue.NamespaceID)
	initial := uint32(0)
	if queue.Initial {
		initial = 1
	}
	native.PutUint32(b[headerInitial:], initial)
	native.PutUint32(b[headerMsqid:], uint32(queue.ID))
	native.PutUint32(b[headerKey:], uint32(queue.Key))
	native.PutUint32(b[headerCUID:], queue.CreatorUID)
	native.PutUint32(b[headerCGID:], queue.CreatorGID)
	native.PutUint32(b[headerPID:], uint32(processID))
	native.PutUint64(b[headerCreated:], uint64(sysv.BootTime()))
	native.PutUint32(b[headerSum:], crc32.ChecksumIEEE(b[:headerSum]))
	native.PutUint32(b[headerChanged:], uint32(queue.Changed))
}

func putExtent(b []byte, pages, room, count int) {
	native.PutUint32(b[extentMagic:], extentMark)
	native.PutUint32(b[extentPages:], uint32(pages))
	native.PutUint32(b[extentRoom:], uint32(room))
	native.PutUint32(b[extentCount:], uint32(count))
	native.PutUint32(b[extentSum:], crc32.ChecksumIEEE(b[:extentSum]))
}

// header is what the first page says.
type header struct {
	queue   Identity
	page    int64
	created int64
	used    int64 // bytes
}

// readHeader reads the header of a file of that size. The error is a reason.
func readHeader(r io.ReaderAt, size int64) (header, error) {
	var b [headerSize]byte
	if err := readAt(r, b[:], 0); err != nil {
		return header{}, fmt.Errorf("shorter than a header: %w", err)
	}
	if !bytes.Equal(b[headerMagic:][:len(magic)], magic[:]) {
		return header{}, fmt.Errorf("not a journal")
	}
	word := func(offset int) uint32 { return native.Uint32(b[offset:]) }
	if order := word(headerByteOrder); order != byteOrder {
		return header{}, fmt.Errorf("of another byte order, %#x", order)
	}
	if v := word(headerVersion); v != version {
		return header{}, fmt.Errorf("of version %d, not %d", v, version)
	}
	if long := word(headerLong); long != uint32(sysv.HeaderSize) {
		return header{}, fmt.Errorf("of a process with a C long of %d bytes, not %d", long, sysv.HeaderSize)
	}
	if sum := crc32.ChecksumIEEE(b[:headerSum]); sum != word(headerSum) {
		return header{}, fmt.Errorf("the header's checksum is %#x, not %#x", sum, word(headerSum))
	}
	h := header{page: int64(word(headerPage)), created: int64(native.Uint64(b[headerCreated:]))}
	if h.page < 4096 || h.page > 1<<24 || h.page&(h.page-1) != 0 {
		return header{}, fmt.Errorf("pages of %d bytes", h.page)
	}
	h.used = int64(word(headerUsed)) * h.page
	if h.used < h.page || h.used > size {
		return header{}, fmt.Errorf("%d bytes are used of %d", h.used, size)
	}
	q := &h.queue
	copy(q.Boot[:], b[headerBoot:])
	q.NamespaceDev = native.Uint64(b[headerNSDev:])
	q.NamespaceIno = native.Uint64(b[headerNSIno:])
	q.NamespaceID = native.Uint64(b[headerNSID:])
	q.Initial = word(headerInitial) == 1
	q.ID = int(int32(word(headerMsqid)))
	q.Key = int32(word(headerKey))
	q.CreatorUID, q.CreatorGID = word(headerCUID), word(headerCGID)
	q.Changed = int64(word(headerChanged))
	return h, nil
}

// readSlots returns the slots that hold a message, in the order in which they were
// taken, and the offsets of those that are still in a pack: its owner died before it had
// recorded that they were moved. It trusts nothing in the file, and uses no more memory than
// the messages need and the largest slot. The error is a reason.
func readSlots(r io.ReaderAt, h header) (slots []*Slot, twice []int64, err error) {
	file := window{r: r, end: h.used}
	for at := h.page; at < h.used; {
		b, err := file.bytes(at, extentHeader)
		if err != nil {
			return nil, nil, err
		}
		word := func(offset int) uint32 { return native.Uint32(b[offset:]) }
		if word(extentMagic) != extentMark || crc32.ChecksumIEEE(b[:extentSum]) != word(extentSum) {
			return nil, nil, fmt.Errorf("no extent at %d", at)
		}
		size := int64(word(extentPages)) * h.page
		room, count := int64(word(extentRoom)), int64(word(extentCount))
		if size == 0 || size > h.used-at || room == 0 || room > MaxRoom || room%8 != 0 ||
			count == 0 || count > (size-extentHeader)/(slotHeader+room) {
			return nil, nil, fmt.Errorf("the extent at %d has %d slots of %d bytes in %d", at, count, room, size)
		}
		for i := range count {
			s, err := readSlot(&file, at+extentHeader+i*(slotHeader+room), int(room))
			if err != nil {
				return nil, nil, err
			}
			if s != nil {
				slots = append(slots, s)
			}
		}
		at += size
	}
	slices.SortStableFunc(slots, func(a, b *Slot) int {
		// 0 is behind all others, and a pack before its first value.
		return cmp.Or(cmp.Compare(a.seq-1, b.seq-1), cmp.Compare(b.values, a.values))
	})
	pack := uint64(0) // behind the last value of the pack before
	slots = slices.DeleteFunc(slots, func(s *Slot) bool {
		if s.values > 0 {
			pack = s.seq + uint64(s.Values())
			return false
		}
		within := s.seq != 0 && s.seq < pack
		if within {
			twice = append(twice, s.offset)
		}
		return within
	})
	return slots, twice, nil
}

// readSlot returns nil if the slot is empty.
func readSlot(file *window, at int64, room int) (*Slot, error) {
	b, err := file.bytes(at, slotHeader)
	if err != nil {
		return nil, err
	}
	typ := sysv.Type(b[slotMtype:])
	if typ == 0 {
		return nil, nil
	}
	if typ < 0 {
		return nil, fmt.Errorf("the message at %d has type %d", at, typ)
	}
	length := int64(native.Uint32(b[slotLength:])) - 1
	attempts := native.Uint32(b[slotAttempts:])
	filled := native.Uint32(b[slotFill:])
	hint, known := parseHint(filled, native.Uint32(b[slotFixed:]))
	switch {
	case length > int64(room):
		return nil, fmt.Errorf("the message at %d has %d bytes in a slot of %d", at, length, room)
	case attempts > 1<<31-1:
		return nil, fmt.Errorf("the message at %d had %d attempts", at, attempts)
	case !known:
		return nil, fmt.Errorf("the slot at %d has a hint %#x of %d", at, filled, hint.size)
	}
	s := &Slot{offset: at, attempt: int(attempts), n: int(length), hint: hint}
	need := room
	if length >= 0 {
		need = int(length)
		s.values, s.moved = int(native.Uint32(b[slotValues:])), int(native.Uint32(b[slotMoved:]))
		if s.values > envelope.MaxValue || s.values > 0 && s.moved >= s.values {
			return nil, fmt.Errorf("the pack at %d has %d values, %d of them moved", at, s.values, s.moved)
		}
		s.seq = native.Uint64(b[slotSeq:]) + uint64(s.moved)
	}
	text, err := file.bytes(at+slotHeader, need)
	if err != nil {
		return nil, err
	}
	if length < 0 {
		s.n, s.inferred = hint.infer(text, byte(filled))
	}
	if s.values > 0 {
		if n, _, err := envelope.ParsePack(text); err != nil || n != s.values {
			return nil, fmt.Errorf("no pack of %d values at %d: %d, %v", s.values, at, n, err)
		}
	}
	s.buf = sysv.Buffer(s.n)
	sysv.PutType(s.buf, typ)
	copy(s.buf[sysv.HeaderSize:], text)
	return s, nil
}

// window reads a file in pieces that are large enough for many small slots.
type window struct {
	r    io.ReaderAt
	end  int64 // of the file
	at   int64 // where buf is from
	buf  []byte
	many [64 << 10]byte
}

// bytes returns n bytes of the file, until the next call.
func (w *window) bytes(at int64, n int) ([]byte, error) {
	if at < w.at || at+int64(n) > w.at+int64(len(w.buf)) {
		if at+int64(n) > w.end {
			return nil, io.ErrUnexpectedEOF
		}
		buf := w.many[:min(int64(len(w.many)), w.end-at)]
		if n > len(buf) {
			buf = make([]byte, n)
		}
		w.at, w.buf = at, buf
		if err := readAt(w.r, buf, at); err != nil {
			w.buf = nil
			return nil, err
		}
	}
	return w.buf[at-w.at:][:n], nil
}

// readAt fills b.
func readAt(r io.ReaderAt, b []byte, at int64) error {
	n, err := r.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
