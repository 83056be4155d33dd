package codec

// Bytes returns the codec for messages as they are.
//
// Decode copies the message into the storage that v has, and allocates when it
// does not fit: once for a nil v. An empty message gives an empty slice, which
// is not nil.
func Bytes() Codec[[]byte] { return bytesCodec{} }

type bytesCodec struct{}

func (bytesCodec) Append(dst []byte, v []byte) ([]byte, error) { return append(dst, v...), nil }

func (bytesCodec) Decode(src []byte, v *[]byte) error {
	if *v == nil {
		*v = []byte{} // of no bytes: this allocates nothing
	}
	*v = append((*v)[:0], src...)
	return nil
}

// String returns the codec for messages that are text: all of their bytes, of
// any encoding, with no NUL behind them. See [CString] for those that have one.
func String() Codec[string] { return stringCodec{} }

type stringCodec struct{}

func (stringCodec) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }

func (stringCodec) Decode(src []byte, v *string) error {
	*v = string(src)
	return nil
}
