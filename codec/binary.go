package codec

import "encoding"

// Binary returns the codec for a type that has a binary form of its own, like
// [time.Time] or [net/netip.Addr]: *T is an [encoding.BinaryAppender] and an
// [encoding.BinaryUnmarshaler]. The compiler finds P:
//
//	codec.Binary[time.Time]()
//
// Decode begins with the zero value of T.
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
