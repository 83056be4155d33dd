// Package php holds a codec for the format of PHP's serialize(), which
// msg_send() writes and msg_receive() reads unless it is told otherwise:
//
//	orders := chanmq.As(q, php.Serialize[Order]())
//
// # From Go to PHP
//
//	nil pointer, nil interface          null
//	bool                                bool
//	int, uint of any size               int; an error above PHP_INT_MAX
//	float32, float64                    float
//	string, []byte, [n]byte             string, byte for byte
//	encoding.TextMarshaler (time.Time)  string
//	slice, array                        array with the keys 0, 1, 2; a nil slice is []
//	map with string or integer keys     array, sorted by key; a nil map is []
//	struct                              array with a key for each exported field
//
// A field's key is its Go name, or the one in its tag, as in `php:"id"`; with
// `php:"-"` it is left out. An embedded struct is a field by the name of its
// type. Pointers and interfaces stand for what they hold. Everything else is an
// error.
//
// # From PHP to Go
//
// The same in the other direction, by these rules:
//
//   - null makes any Go value its zero value.
//   - An int fits a Go float; a float fits a Go integer when it is a whole number.
//     What overflows the Go type is an error. Nothing else is converted: "5" does
//     not fit an int.
//   - An array fits a slice or array when its keys are 0, 1, 2 and so on, in this
//     order. Put PHP's array_values() around those that array_filter() left holes
//     in, or receive them in a map. A Go array may be longer, and not shorter.
//   - In a map with string keys and in structs, integer keys count as their decimal
//     text, because PHP itself turns '5' into 5.
//   - A key that the struct does not have is passed over, a field without a key gets
//     its zero value, and of the same key twice the last one counts.
//   - An object fits where an array fits that is no list; its class is not looked
//     at, and protected and private properties go by their plain names.
//   - In an interface (any) come nil, bool, int64, float64, string, []any for a list,
//     and map[string]any for any other array and for objects.
//
// References (&$x, the same object twice), enums and objects that serialize
// themselves in the form of Serializable are errors.
//
// # Input that is not to be trusted
//
// Decode makes no objects and runs no code of a class. Each length and count is
// checked against what is left of the message before it is believed, memory
// grows with what was read, and values nest to a depth of 512 at most.
package php

import (
	"fmt"
	"reflect"
)

// Codec turns values of type T into PHP's format and back. Its methods are those
// of chanmq's Codec[T].
type Codec[T any] struct{}

// Serialize returns the codec for T.
func Serialize[T any]() Codec[T] { return Codec[T]{} }

// Append encodes v behind dst, as PHP's serialize() would, and returns the
// extended slice.
func (Codec[T]) Append(dst []byte, v T) ([]byte, error) {
	out, err := appendValue(dst, reflect.ValueOf(&v).Elem(), 0)
	if err != nil {
		return dst, fmt.Errorf("php: %w", err)
	}
	return out, nil
}

// Decode sets v to the one value that src holds, from serialize(). Nothing is
// left of what v was before. It keeps no part of src.
func (Codec[T]) Decode(src []byte, v *T) error {
	d := decoder{src: src}
	err := d.value(reflect.ValueOf(v).Elem(), 0)
	if err == nil && d.pos < len(src) {
		err = fmt.Errorf("%d bytes behind the value", len(src)-d.pos)
	}
	if err != nil {
		return fmt.Errorf("php: at byte %d: %w", d.pos, err)
	}
	return nil
}
