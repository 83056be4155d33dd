package codec

import (
	"encoding/json"
	"sync"
)

// JSON returns the codec for T as JSON, by the rules of [encoding/json].
//
// Append writes no trailing newline. Decode sets the value to the zero value of T
// before it decodes, unlike [json.Unmarshal], so that no field keeps the value of
// an earlier message. Anything but white space after the JSON value is an error.
func JSON[T any]() Codec[T] { return jsonCodec[T]{} }

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	w := jsonWriters.Get().(*jsonWriter)
	w.dst = dst
	// The address, so that a MarshalJSON method of *T is found.
	err := w.enc.Encode(&v)
	out := w.dst
	w.dst = nil
	jsonWriters.Put(w)
	if err != nil {
		return dst, err
	}
	return out[:len(out)-1], nil // Encode ends with a newline
}

func (jsonCodec[T]) Decode(src []byte, v *T) error {
	var zero T
	*v = zero
	return json.Unmarshal(src, v)
}

// jsonWriter is an encoder that appends to dst. json.Marshal would return a new
// slice, which would have to be copied to dst.
type jsonWriter struct {
	enc *json.Encoder
	dst []byte
}

var jsonWriters = sync.Pool{New: func() any {
	w := new(jsonWriter)
	w.enc = json.NewEncoder(w)
	return w
}}

func (w *jsonWriter) Write(p []byte) (int, error) {
	w.dst = append(w.dst, p...)
	return len(p), nil
}
