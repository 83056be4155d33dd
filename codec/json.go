package codec

import (
	"encoding/json"
	"sync"
)

// JSON returns the codec for T as JSON text, by the rules of [encoding/json].
//
// Append writes no newline behind it. Decode begins with the zero value of T,
// unlike [json.Unmarshal], so that no field keeps what an earlier message said;
// anything but white space behind the value is an error.
func JSON[T any]() Codec[T] { return jsonCodec[T]{} }

type jsonCodec[T any] struct{}

func (jsonCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	w := jsonWriters.Get().(*jsonWriter)
	w.dst = dst
	// The address, so that methods of *T count here as they do in Decode.
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

// jsonWriter is an encoder that writes behind dst: json.Marshal would return a
// copy of its own, to be copied again.
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
