package codec

// Bytes returns the codec for raw messages.
//
// Decode copies the message into the storage of the slice, and allocates if the
// message does not fit there. An empty message becomes an empty slice, not nil.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type bytesCodec struct{}

func (bytesCodec) Append(dst []byte, v []byte) ([]byte, error) { return append(dst, v...), nil }

func (bytesCodec) Decode(src []byte, v *[]byte) error {
	if *v == nil {
		*v = []byte{} // an empty slice: this does not allocate
	}
	*v = append((*v)[:0], src...)
	return nil
}

// String returns the codec for text: all bytes of the message, in any encoding,
// without a terminating NUL. See [CString] for text that has one.
func String() Codec[string] { return stringCodec{} }

type stringCodec struct{}

func (stringCodec) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }

func (stringCodec) Decode(src []byte, v *string) error {
	*v = string(src)
	return nil
}
