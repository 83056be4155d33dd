package chanmq

import (
	"fmt"

	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/wait"
)

// A Message is what is in a queue: a type, which receivers select by, and a
// value. In C it is struct msgbuf.
type Message[T any] struct {
	Type  int64 // mtype: > 0, and no more than a C long holds
	Value T
}

// Codec turns values into the text of messages and back. Package codec has
// those that most programs need, and says what is required of others. A codec may
// decode different texts to identical values, with one limit, in [Receiver.Close].
type Codec[T any] = codec.Codec[T]

// Key names a queue for every process of an IPC namespace. Programs agree on a
// number, or on a file and a project id from which [FTok] computes one.
type Key int32

// String returns the key as ipcs(1) prints it, such as "0x2a0100ff".
func (k Key) String() string { return fmt.Sprintf("0x%08x", uint32(k)) }

// Selector says which messages a receive takes: the msgtyp and MSG_EXCEPT of
// msgrcv(2). The zero value is [Any]. Selectors can be compared with ==.
//
// A selector with a type that no message can have (<= 0, or more than fits a C
// long) is refused, with [ErrInvalidType], by the call that is given it.
type Selector struct {
	mode selectorMode
	typ  int64
}

type selectorMode uint8

const (
	anyType selectorMode = iota
	ofType
	upTo
	except
)

// Any selects the oldest message, whatever its type.
func Any() Selector { return Selector{} }

// OfType selects the oldest message of type t, t > 0.
func OfType(t int64) Selector { return Selector{ofType, t} }

// UpTo selects the oldest message of the lowest type that is <= t, t > 0: a
// priority queue, 1 being the most urgent. In C it is msgtyp -t.
func UpTo(t int64) Selector { return Selector{upTo, t} }

// Except selects the oldest message whose type is not t, t > 0 (MSG_EXCEPT,
// Linux only).
func Except(t int64) Selector { return Selector{except, t} }

// String returns the call for the selector, such as "UpTo(3)".
func (s Selector) String() string {
	switch s.mode {
	case ofType:
		return fmt.Sprintf("OfType(%d)", s.typ)
	case upTo:
		return fmt.Sprintf("UpTo(%d)", s.typ)
	case except:
		return fmt.Sprintf("Except(%d)", s.typ)
	}
	return "Any()"
}

// validate refuses types that no message can have. msgrcv(2) would take them
// for another selector: OfType(0) would mean Any, OfType(-3) UpTo(3).
func (s Selector) validate() error {
	if s.mode == anyType {
		return nil
	}
	err := validateType(s.typ)
	switch {
	case err == nil:
		return nil
	case s.mode == ofType && s.typ == 0:
		return fmt.Errorf("%v: %w; msgtyp 0 of msgrcv is Any() here", s, err)
	case s.mode == ofType && s.typ >= -sysv.MaxType && s.typ < 0:
		return fmt.Errorf("%v: %w; msgtyp %d of msgrcv is UpTo(%d) here", s, err, s.typ, -s.typ)
	}
	return fmt.Errorf("%v: %w", s, err)
}

func validateType(typ int64) error {
	if typ < 1 || typ > sysv.MaxType {
		return fmt.Errorf("%w: %d is not in 1 to %d", ErrInvalidType, typ, sysv.MaxType)
	}
	return nil
}

// kernel returns the selector as msgrcv(2) is told of it.
func (s Selector) kernel() (msgtyp, flags int) {
	switch s.mode {
	case ofType:
		return int(s.typ), 0
	case upTo:
		return -int(s.typ), 0
	case except:
		return int(s.typ), sysv.Except
	}
	return 0, 0
}

// key returns the selector as package wait is told of it.
func (s Selector) key() wait.Key {
	if s.mode == ofType {
		return wait.Key{Exact: true, Type: s.typ}
	}
	return wait.Key{Mode: uint8(s.mode), Type: s.typ}
}

// Matches reports whether the selector selects messages of the type.
func (s Selector) Matches(typ int64) bool { return s.matches(typ) }

// matches reports whether a message of the type may be taken.
func (s Selector) matches(typ int64) bool {
	switch s.mode {
	case ofType:
		return typ == s.typ
	case upTo:
		return typ <= s.typ
	case except:
		return typ != s.typ
	}
	return true
}

// overlaps reports whether a message may match both selectors. It may err on
// the side of true.
func (s Selector) overlaps(o Selector) bool {
	if s.mode == ofType {
		return o.matches(s.typ)
	}
	return o.mode != ofType || s.matches(o.typ)
}
