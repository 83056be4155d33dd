package codec

import "encoding"

// Binary returns the codec for a type with a binary encoding, such as [time.Time]
// or [net/netip.Addr]: *T implements [encoding.BinaryAppender] and
// [encoding.BinaryUnmarshaler]. The compiler infers P:
//
//	codec.Binary[time.Time]()
//
// Decode sets the value to the zero value of T before it decodes.
func Binary[T any, P interface {
	*T
	encoding.BinaryAppender
	encoding.BinaryUnmarshaler
}]() Codec[T] {
	return binaryCodec[T, P]{}
}

type binaryCodec[T any, P interface {
	*T
	encoding.BinaryAppender
	encoding.BinaryUnmarshaler
}] struct{}

func (binaryCodec[T, P]) Append(dst []byte, v T) ([]byte, error) { return P(&v).AppendBinary(dst) }

func (binaryCodec[T, P]) Decode(src []byte, v *T) error {
	var zero T
	*v = zero
	return P(v).UnmarshalBinary(src)
}
