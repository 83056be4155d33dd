// Package codec encodes Go values as the text of messages, and decodes them.
//
// Which codec fits depends on the program at the other end of the queue:
//
//   - [Bytes] and [String]: the text as it is.
//   - [Struct]: C programs that send a struct, struct { long mtype; int data; }.
//   - [CString]: C programs that send a char name[n].
//   - [JSON]: programs in any language, and programs that are upgraded one by one.
//   - [Binary]: Go programs, for types that implement a binary encoding.
//   - [Func]: anything else, as two functions.
//
// Pass a codec to chanmq.As for a typed view of a queue:
//
//	orders := chanmq.As(q, codec.JSON[Order]())
package codec

import "slices"

// Codec encodes values of type T as the text of messages, and decodes them. The
// type of a message (mtype) is not part of its text. Implementations must be safe
// for concurrent use.
type Codec[T any] interface {
	// Append appends the encoded v to dst and returns the extended slice, as the
	// built-in append does. It must not modify dst[:len(dst)], and must not retain
	// dst or the returned slice, which the caller reuses. If the error is not nil,
	// the returned slice is ignored.
	Append(dst []byte, v T) ([]byte, error)

	// Decode sets *v to the value encoded in src. src is valid, and does not
	// change, during the call only: Decode must not write to src and must not
	// retain it, so it copies the bytes that *v needs. *v may hold an earlier
	// value. Decode may reuse its storage, but nothing of that value may remain.
	// After an error the content of *v is unspecified.
	Decode(src []byte, v *T) error
}

// Func returns a codec made of two functions, which must meet the requirements of
// Append and Decode in [Codec]. It panics if one of them is nil.
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

// extend returns dst extended by n bytes of arbitrary content, and those n bytes.
func extend(dst []byte, n int) (all, tail []byte) {
	all = slices.Grow(dst, n)[:len(dst)+n]
	return all, all[len(dst):]
}
