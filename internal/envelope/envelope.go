// Package envelope is the one header that this module puts before the text of a message:
// for requests and replies, for messages that were given up, for packs of several values, for
// references to texts in files, and for texts that happen to begin like a header. docs/envelope.md has the layout, for programs
// in other languages.
//
// A message needs no envelope. A text that does not begin with the magic is what its sender
// wrote, and [Wrap] gives an envelope of kind [Plain] to the few that do.
package envelope

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// Kind says what is in an envelope.
type Kind uint8

// The kinds of version 1.
const (
	Plain      Kind = 1 // a text that begins like an envelope itself
	Request    Kind = 2 // of a client to a server
	Reply      Kind = 3 // of a server to a client
	Error      Kind = 4 // why there is no reply; its text is for people
	DeadLetter Kind = 5 // a message that was given up, with the reason
	Pack       Kind = 6 // several values in one message: see ParsePack
	Reference  Kind = 7 // a text in a file: see Ref
)

// String returns the name of the kind.
func (k Kind) String() string {
	switch k {
	case Plain:
		return "plain"
	case Request:
		return "request"
	case Reply:
		return "reply"
	case Error:
		return "error reply"
	case DeadLetter:
		return "dead letter"
	case Pack:
		return "pack"
	case Reference:
		return "reference"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Sizes in bytes, and the version.
const (
	Version = 1

	common         = 8 // magic, version, kind, length of the header
	requestSize    = 64
	replySize      = 48
	deadLetterSize = 24 // before the reason
	referenceSize  = 56

	// MaxReason bounds the reason of a dead letter. A longer one is cut off.
	MaxReason = 1024
)

// magic is what an envelope begins with. 0xFE is in no text in UTF-8.
const magic = "\xFEcmq"

// Life identifies a process, so that others can tell when it has ended. What is not known
// is 0.
type Life struct {
	PID           uint32 // in its own pid namespace
	PIDNamespace  uint32 // inode of /proc/self/ns/pid
	TimeNamespace uint32 // inode of /proc/self/ns/time, which Start depends on
	Start         uint64 // field 22 of /proc/self/stat, in clock ticks since the boot
}

// Ref says where a text is that is not in the message: in which file of which directory. The
// names are these numbers in hex, so that no Ref can say anything else.
type Ref struct {
	Dir, Name [16]byte
	Size      uint64 // of the text, in bytes
	Sum       uint32 // CRC-32C of the text
}

// Header is what is in an envelope before the text. Which fields are in it depends on the
// kind; the others are ignored.
type Header struct {
	Kind Kind

	CallID     uint64 // Request, Reply, Error: which call of the client
	ReplyType  int64  // Request: mtype of the reply; 0: none is wanted
	Expiry     int64  // Request: not to be handled after; Reply, Error: not to be kept after; Unix nanoseconds, 0: never
	WaitsUntil int64  // Request: the client waits no longer; Unix nanoseconds, 0: as long as it lives
	Life       Life   // Request, Reply, Error: of the client
	Code       uint32 // Error: what went wrong

	Type     int64  // DeadLetter: the mtype that the message had
	Attempts uint32 // DeadLetter: how often it was delivered
	Reason   string // DeadLetter: why it was given up; UTF-8

	Values uint16 // Pack: how many values it has, at least 1
	Size   uint32 // Pack: bytes behind the header

	Ref Ref // Reference
}

// The errors of Parse.
var (
	// ErrNone is the error of a text that does not begin like an envelope.
	ErrNone = errors.New("envelope: the text has none")

	// ErrVersion is the error of an envelope of a later version of this module.
	ErrVersion = errors.New("envelope: unknown version")

	// ErrKind is the error of an envelope of a kind that a later version of this module
	// has introduced.
	ErrKind = errors.New("envelope: unknown kind")

	// ErrDamaged is the error of a header that contradicts itself, or was cut off.
	ErrDamaged = errors.New("envelope: damaged")
)

// Begins reports whether the text begins like an envelope.
func Begins(text []byte) bool {
	return len(text) >= len(magic) && string(text[:len(magic)]) == magic
}

// Wrap appends the text to dst, in an envelope if it begins like one itself.
func Wrap(dst, text []byte) []byte {
	if Begins(text) {
		dst = Append(dst, &Header{Kind: Plain})
	}
	return append(dst, text...)
}

// Ambiguous reports whether a handle with packing, or for large texts, would not receive the
// text as it is, if it were sent without an envelope: it takes plain texts and packs out of
// theirs, follows references, and refuses what is damaged. Requests, replies and dead letters
// it passes on.
func Ambiguous(text []byte) bool {
	if !Begins(text) {
		return false
	}
	h, _, err := Parse(text)
	return err != nil || h.Kind == Plain || h.Kind == Pack || h.Kind == Reference
}

// Append appends the header to dst. The text goes behind it.
func Append(dst []byte, h *Header) []byte {
	start := len(dst)
	dst = append(dst, magic...)
	dst = append(dst, Version, byte(h.Kind), 0, 0)
	le := binary.LittleEndian
	switch h.Kind {
	case Request:
		dst = le.AppendUint64(dst, h.CallID)
		dst = le.AppendUint64(dst, uint64(h.ReplyType))
		dst = le.AppendUint64(dst, uint64(h.Expiry))
		dst = le.AppendUint64(dst, uint64(h.WaitsUntil))
		dst = appendLife(dst, &h.Life, 0)
	case Reply, Error:
		dst = le.AppendUint64(dst, h.CallID)
		dst = le.AppendUint64(dst, uint64(h.Expiry))
		dst = appendLife(dst, &h.Life, h.Code)
	case DeadLetter:
		reason := cut(h.Reason, MaxReason)
		dst = le.AppendUint64(dst, uint64(h.Type))
		dst = le.AppendUint32(dst, h.Attempts)
		dst = le.AppendUint32(dst, uint32(len(reason)))
		dst = append(dst, reason...)
	case Pack:
		dst = le.AppendUint16(dst, h.Values)
		dst = le.AppendUint32(dst, h.Size)
	case Reference:
		dst = append(dst, h.Ref.Dir[:]...)
		dst = append(dst, h.Ref.Name[:]...)
		dst = le.AppendUint64(dst, h.Ref.Size)
		dst = le.AppendUint32(dst, h.Ref.Sum)
		dst = le.AppendUint32(dst, 0)
	}
	le.PutUint16(dst[start+6:], uint16(len(dst)-start))
	return dst
}

func appendLife(dst []byte, l *Life, code uint32) []byte {
	le := binary.LittleEndian
	dst = le.AppendUint32(dst, l.PID)
	dst = le.AppendUint32(dst, l.PIDNamespace)
	dst = le.AppendUint32(dst, l.TimeNamespace)
	dst = le.AppendUint32(dst, code)
	return le.AppendUint64(dst, l.Start)
}

// cut returns at most the first n bytes of s, and no half character.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// Parse returns the header of an envelope, and the text behind it, which is part of the
// slice that it was given. A header may be longer than the fields that are known: a later
// version adds some at its end.
func Parse(text []byte) (h Header, payload []byte, err error) {
	if !Begins(text) {
		return h, nil, ErrNone
	}
	if len(text) < common {
		return h, nil, fmt.Errorf("%w: %d bytes, and a header has at least %d", ErrDamaged, len(text), common)
	}
	le := binary.LittleEndian
	version, kind, size := text[4], Kind(text[5]), int(le.Uint16(text[6:]))
	if version != Version {
		return h, nil, fmt.Errorf("%w %d; this program knows version %d", ErrVersion, version, Version)
	}
	least := common
	switch kind {
	case Plain:
	case Request:
		least = requestSize
	case Reply, Error:
		least = replySize
	case DeadLetter:
		least = deadLetterSize
	case Pack:
		least = PackHeader
	case Reference:
		least = referenceSize
	default:
		return h, nil, fmt.Errorf("%w %d", ErrKind, kind)
	}
	if size < least || size > len(text) {
		return h, nil, fmt.Errorf("%w: a header of %d bytes in a text of %d; that of a %v has at least %d",
			ErrDamaged, size, len(text), kind, least)
	}
	h.Kind = kind
	b := text[common:size]
	switch kind {
	case Request:
		h.CallID = le.Uint64(b)
		h.ReplyType = int64(le.Uint64(b[8:]))
		h.Expiry = int64(le.Uint64(b[16:]))
		h.WaitsUntil = int64(le.Uint64(b[24:]))
		h.Life, _ = life(b[32:])
		if h.ReplyType < 0 {
			return h, nil, fmt.Errorf("%w: reply type %d", ErrDamaged, h.ReplyType)
		}
	case Reply, Error:
		h.CallID = le.Uint64(b)
		h.Expiry = int64(le.Uint64(b[8:]))
		h.Life, h.Code = life(b[16:])
	case DeadLetter:
		h.Type = int64(le.Uint64(b))
		h.Attempts = le.Uint32(b[8:])
		n := le.Uint32(b[12:])
		if h.Type < 0 || n > math.MaxUint16 || int(n) > len(b)-(deadLetterSize-common) {
			return h, nil, fmt.Errorf("%w: message type %d, a reason of %d bytes in a header of %d", ErrDamaged, h.Type, n, size)
		}
		h.Reason = string(b[deadLetterSize-common:][:n])
	case Pack:
		h.Values, h.Size = le.Uint16(b), le.Uint32(b[2:])
		if h.Values == 0 || uint64(h.Size) != uint64(len(text)-size) {
			return h, nil, fmt.Errorf("%w: a pack of %d values in %d bytes, of which there are %d",
				ErrDamaged, h.Values, h.Size, len(text)-size)
		}
	case Reference:
		copy(h.Ref.Dir[:], b)
		copy(h.Ref.Name[:], b[16:])
		h.Ref.Size, h.Ref.Sum = le.Uint64(b[32:]), le.Uint32(b[40:])
		if h.Ref.Size > math.MaxInt64 || len(text) > size {
			return h, nil, fmt.Errorf("%w: a reference to a text of %d bytes, with %d behind it", ErrDamaged, h.Ref.Size, len(text)-size)
		}
	}
	return h, text[size:], nil
}

func life(b []byte) (l Life, code uint32) {
	le := binary.LittleEndian
	l.PID, l.PIDNamespace, l.TimeNamespace = le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])
	l.Start = le.Uint64(b[16:])
	return l, le.Uint32(b[12:])
}
