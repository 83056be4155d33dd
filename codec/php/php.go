// Package php provides a codec for the format of PHP's serialize(), which
// msg_send() writes and msg_receive() reads by default:
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
// The key of a field is its Go name, or the name in its tag, as in `php:"id"`; a
// field with the tag `php:"-"` is omitted. An embedded struct is a field with the
// name of its type. Pointers and interfaces are encoded as the value they hold.
// Any other type is an error.
//
// # From PHP to Go
//
// The same table applies in the other direction, with these rules:
//
//   - null sets any Go value to its zero value.
//   - An int fits a Go float; a float fits a Go integer if it is a whole number.
//     A value that overflows the Go type is an error. There are no other
//     conversions: "5" does not fit an int.
//   - An array fits a slice or array if its keys are 0, 1, 2 and so on, in this
//     order. For an array in which array_filter() left gaps, call array_values()
//     in PHP, or receive it in a map. A Go array may be longer, but not shorter.
//   - In a map with string keys and in structs, integer keys are converted to
//     decimal, because PHP itself converts the key '5' to 5.
//   - A key that the struct does not have is ignored, a field without a key is set
//     to its zero value, and if a key occurs twice, the last value counts.
//   - An object fits wherever an array that is not a list fits. Its class is
//     ignored, and protected and private properties have their plain names.
//   - An interface (any) is set to a nil, bool, int64, float64 or string, to []any
//     for a list, and to map[string]any for any other array and for objects.
//
// References (&$x, or the same object twice), enums, and objects of classes that
// implement Serializable are errors.
//
// # Untrusted input
//
// Decode creates no objects and runs no code of a class. Each length and count is
// checked against the rest of the message before it is used, memory grows only
// with the input that was read, and values nest to a depth of at most 512.
package php

import (
	"fmt"
	"reflect"
)

// Codec encodes values of type T in PHP's format, and decodes them. It implements
// chanmq's Codec[T], and is safe for concurrent use.
type Codec[T any] struct{}

// Serialize returns the codec for T.
func Serialize[T any]() Codec[T] { return Codec[T]{} }

// NeverEndsIn returns a byte that no text in this format ends with: what chanmq's journal
// finds the length of a message by, see codec.Ender.
func (Codec[T]) NeverEndsIn() byte { return 0xFF }

// Append appends v to dst, encoded as PHP's serialize() does, and returns the
// extended slice.
func (Codec[T]) Append(dst []byte, v T) ([]byte, error) {
	out, err := appendValue(dst, reflect.ValueOf(&v).Elem(), 0)
	if err != nil {
		return dst, fmt.Errorf("php: %w", err)
	}
	return out, nil
}

// Decode sets *v to the value that src holds, as written by serialize(). Nothing
// of the earlier value remains. It does not retain src.
func (Codec[T]) Decode(src []byte, v *T) error {
	d := decoder{src: src}
	err := d.value(reflect.ValueOf(v).Elem(), 0)
	if err == nil && d.pos < len(src) {
		err = fmt.Errorf("%d bytes after the value", len(src)-d.pos)
	}
	if err != nil {
		return fmt.Errorf("php: at byte %d: %w", d.pos, err)
	}
	return nil
}
