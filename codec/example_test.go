package codec_test

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/chanmq/chanmq/codec"
)

// struct { long mtype; int data; }, as in many a tutorial.
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

// A number in network byte order, which no other codec here has.
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
