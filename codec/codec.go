// Package codec turns Go values into the text of messages, and back.
//
// Which one fits depends on who is at the other end of the queue:
//
//   - [Bytes] and [String]: the text as it is.
//   - [Struct]: C programs that send a struct, struct { long mtype; int data; }.
//   - [CString]: C programs that send a char name[n].
//   - [JSON]: programs in any language, and those that are updated one by one.
//   - [Binary]: Go programs, with types that have a binary form of their own.
//   - [Func]: anything else, in two functions.
//
// A codec goes to chanmq.As, which makes a typed view of a queue:
//
//	orders := chanmq.As(q, codec.JSON[Order]())
package codec

import "slices"

// Codec turns values of type T into the text of messages, and back. The type
// of a message (mtype) is not part of it. Several goroutines may use a codec at
// the same time.
type Codec[T any] interface {
	// Append encodes v behind dst and returns the extended slice, as append
	// does. It does not modify the bytes that dst has, and keeps neither dst
	// nor the result. What it returns beside an error is not used.
	Append(dst []byte, v T) ([]byte, error)

	// Decode sets v to what src holds. src is valid during the call only: what
	// v needs of it is copied. v may hold an earlier value: its storage may be
	// reused, and nothing of what it said may be left. After an error v holds
	// anything.
	Decode(src []byte, v *T) error
}

// Func returns the codec whose two methods are the two functions. It panics
// when one of them is nil.
func Func[T any](appendTo func(dst []byte, v T) ([]byte, error), decode func(src []byte, v *T) error) Codec[T] {
	if appendTo == nil || decode == nil {
		panic("codec: Func of a nil function")
	}
	return funcCodec[T]{appendTo, decode}
}

type funcCodec[T any] struct {
	appendTo func(dst []byte, v T) ([]byte, error)
	decode   func(src []byte, v *T) error
}

func (c funcCodec[T]) Append(dst []byte, v T) ([]byte, error) { return c.appendTo(dst, v) }
func (c funcCodec[T]) Decode(src []byte, v *T) error          { return c.decode(src, v) }

// extend returns dst with n more bytes of any content, and these n.
func extend(dst []byte, n int) (all, tail []byte) {
	all = slices.Grow(dst, n)[:len(dst)+n]
	return all, all[len(dst):]
}
