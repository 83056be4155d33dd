package codec_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/chanmq/chanmq/codec"
)

// struct { long mtype; int data; }, as in many tutorials.
func ExampleStruct() {
	type msg struct {
		Data int32 // C's int
	}
	c := codec.Struct[msg]()
	text, err := c.Append(nil, msg{Data: 42})
	if err != nil {
		panic(err)
	}
	fmt.Println(len(text), "bytes")

	var v msg
	err = c.Decode(text, &v)
	fmt.Println(v.Data, err)
	// Output:
	// 4 bytes
	// 42 <nil>
}

// A C program that checks the return value of msgrcv(2) against
//
//	struct msg { long mtype; char name[5]; };
//	sizeof(struct msg) - sizeof(long) /* 8: with the trailing padding */
//
// wants that padding in the message. The field _ [0]int has the alignment of
// C's long, and adds it.
func ExampleStruct_trailingPadding() {
	type msg struct {
		Name [5]byte
		_    [0]int
	}
	type unpadded struct {
		Name [5]byte
	}
	text, err := codec.Struct[msg]().Append(nil, msg{Name: [5]byte{'t', 'e', 'a'}})
	fmt.Printf("%q %v\n", text, err)
	text, err = codec.Struct[unpadded]().Append(nil, unpadded{Name: [5]byte{'t', 'e', 'a'}})
	fmt.Printf("%q %v\n", text, err)
	// Output:
	// "tea\x00\x00\x00\x00\x00" <nil>
	// "tea\x00\x00" <nil>
}

// A packed struct has no padding:
//
//	struct __attribute__((packed)) msg {
//		long mtype;
//		char kind;
//		uint32_t sensor;
//		double value;
//		short flags;
//	};
//
// Arrays of bytes have no alignment, so the struct in Go has no padding either.
// See also the example "Packed" of Func.
func ExampleStruct_packed() {
	type msg struct {
		Kind   byte
		Sensor [4]byte
		Value  [8]byte
		Flags  [2]byte
	}
	c := codec.Struct[msg]()
	m := msg{Kind: 't'}
	binary.NativeEndian.PutUint32(m.Sensor[:], 7)
	binary.NativeEndian.PutUint64(m.Value[:], math.Float64bits(21.5))
	text, err := c.Append(nil, m)
	if err != nil {
		panic(err)
	}
	fmt.Println(len(text), "bytes")

	var v msg
	if err := c.Decode(text, &v); err != nil {
		panic(err)
	}
	fmt.Printf("%c %d %g\n", v.Kind, binary.NativeEndian.Uint32(v.Sensor[:]),
		math.Float64frombits(binary.NativeEndian.Uint64(v.Value[:])))
	// Output:
	// 15 bytes
	// t 7 21.5
}

// struct { long mtype; char name[8]; }
func ExampleCString() {
	c := codec.CString(8)
	text, err := c.Append(nil, "hello")
	fmt.Printf("%q %v\n", text, err)

	_, err = c.Append(nil, "hello, world")
	fmt.Println(err)
	// Output:
	// "hello\x00\x00\x00" <nil>
	// codec: CString(8): text of 12 bytes
}

func ExampleJSON() {
	type Order struct {
		ID   int    `json:"id"`
		Note string `json:"note,omitempty"`
	}
	c := codec.JSON[Order]()
	text, err := c.Append(nil, Order{ID: 7})
	fmt.Printf("%s %v\n", text, err)

	v := Order{Note: "of an earlier message"}
	err = c.Decode([]byte(`{"id":8}`), &v)
	fmt.Printf("%+v %v\n", v, err)
	// Output:
	// {"id":7} <nil>
	// {ID:8 Note:} <nil>
}

// A number in network byte order.
func ExampleFunc() {
	c := codec.Func(
		func(dst []byte, v uint32) ([]byte, error) {
			return binary.BigEndian.AppendUint32(dst, v), nil
		},
		func(src []byte, v *uint32) error {
			if len(src) != 4 {
				return errors.New("not of 4 bytes")
			}
			*v = binary.BigEndian.Uint32(src)
			return nil
		})
	text, err := c.Append(nil, 0xCAFE)
	fmt.Printf("%x %v\n", text, err)
	// Output: 0000cafe <nil>
}
