package codec_test

import (
	"encoding/binary"
	"fmt"

	"github.com/chanmq/chanmq/codec"
)

// reading has the members after mtype of a packed struct in C:
//
//	struct __attribute__((packed)) msg {
//		long mtype;
//		char kind;
//		uint32_t sensor;
//		double value;
//		short flags;
//	};
type reading struct {
	Kind   byte
	Sensor uint32
	Value  float64
	Flags  int16
}

// codecOfPacked is the codec for packed structs. Package encoding/binary adds no
// padding between the fields. The types of the fields must have a fixed size: for
// C's long write int64, or int32 where it has 32 bits.
func codecOfPacked[T any]() codec.Codec[T] {
	return codec.Func(
		func(dst []byte, v T) ([]byte, error) {
			return binary.Append(dst, binary.NativeEndian, &v)
		},
		func(src []byte, v *T) error {
			if want := binary.Size(v); len(src) != want {
				return fmt.Errorf("message of %d bytes, not of %d", len(src), want)
			}
			_, err := binary.Decode(src, binary.NativeEndian, v)
			return err
		})
}

// A packed struct, by encoding/binary, which adds no padding. This is more
// convenient than the arrays of bytes in the example "Packed" of Struct, and slower.
func ExampleFunc_packed() {
	c := codecOfPacked[reading]()
	text, err := c.Append(nil, reading{Kind: 't', Sensor: 7, Value: 21.5, Flags: -2})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(text), "bytes")

	var v reading
	err = c.Decode(text, &v)
	fmt.Println(v, err)
	// Output:
	// 15 bytes
	// {116 7 21.5 -2} <nil>
}
