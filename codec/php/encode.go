package php

import (
	"bytes"
	"cmp"
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
)

func appendValue(dst []byte, v reflect.Value, depth int) ([]byte, error) {
	if depth > maxDepth {
		return dst, depthError()
	}
	switch v.Kind() {
	case reflect.Invalid:
		return appendNull(dst), nil
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return appendNull(dst), nil
		}
	}
	if text, ok, err := textOf(v); ok {
		if err != nil {
			return dst, err
		}
		return appendString(dst, text), nil
	}

	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		return appendValue(dst, v.Elem(), depth+1)
	case reflect.Bool:
		if v.Bool() {
			return append(dst, "b:1;"...), nil
		}
		return append(dst, "b:0;"...), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return appendInt(dst, v.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		i, err := intOf(v.Uint())
		if err != nil {
			return dst, err
		}
		return appendInt(dst, i), nil
	case reflect.Float32, reflect.Float64:
		return appendFloat(dst, v.Float(), v.Type().Bits()), nil
	case reflect.String:
		return appendString(dst, v.String()), nil
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return appendBytes(dst, v), nil
		}
		return appendList(dst, v, depth)
	case reflect.Map:
		return appendMap(dst, v, depth)
	case reflect.Struct:
		return appendStruct(dst, v, depth)
	}
	return dst, fmt.Errorf("%v has no form in PHP", v.Type())
}

// textOf returns the text of a value whose type implements TextMarshaler, or whose
// pointer type does.
func textOf(v reflect.Value) (text []byte, ok bool, err error) {
	switch {
	case v.Kind() == reflect.Interface:
		return nil, false, nil // the value that it holds is encoded later
	case v.Type().Implements(textMarshaler):
	case reflect.PointerTo(v.Type()).Implements(textMarshaler):
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		v = p
	default:
		return nil, false, nil
	}
	text, err = v.Interface().(encoding.TextMarshaler).MarshalText()
	return text, true, err
}

func appendNull(dst []byte) []byte { return append(dst, "N;"...) }

func appendInt(dst []byte, i int64) []byte {
	dst = append(dst, "i:"...)
	dst = strconv.AppendInt(dst, i, 10)
	return append(dst, ';')
}

func intOf(u uint64) (int64, error) {
	if u > math.MaxInt64 {
		return 0, fmt.Errorf("%d is larger than PHP_INT_MAX", u)
	}
	return int64(u), nil
}

func appendFloat(dst []byte, f float64, bits int) []byte {
	dst = append(dst, "d:"...)
	switch {
	case math.IsNaN(f):
		dst = append(dst, "NAN"...)
	case math.IsInf(f, 1):
		dst = append(dst, "INF"...)
	case math.IsInf(f, -1):
		dst = append(dst, "-INF"...)
	default:
		dst = strconv.AppendFloat(dst, f, 'G', -1, bits)
	}
	return append(dst, ';')
}

func appendString[S string | []byte](dst []byte, s S) []byte {
	dst = append(dst, "s:"...)
	dst = strconv.AppendInt(dst, int64(len(s)), 10)
	dst = append(dst, `:"`...)
	dst = append(dst, s...)
	return append(dst, `";`...)
}

// appendBytes appends a slice or an array of bytes.
func appendBytes(dst []byte, v reflect.Value) []byte {
	if v.Kind() == reflect.Array && !v.CanAddr() {
		p := reflect.New(v.Type()).Elem()
		p.Set(v)
		v = p
	}
	return appendString(dst, v.Bytes())
}

func appendCount(dst []byte, n int) []byte {
	dst = append(dst, "a:"...)
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, ":{"...)
}

func appendList(dst []byte, v reflect.Value, depth int) ([]byte, error) {
	dst = appendCount(dst, v.Len())
	for i := range v.Len() {
		var err error
		dst = appendInt(dst, int64(i))
		if dst, err = appendValue(dst, v.Index(i), depth+1); err != nil {
			return dst, fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return append(dst, '}'), nil
}

func appendStruct(dst []byte, v reflect.Value, depth int) ([]byte, error) {
	s, err := structTypeOf(v.Type())
	if err != nil {
		return dst, err
	}
	dst = appendCount(dst, len(s.fields))
	for _, f := range s.fields {
		dst = appendString(dst, f.name)
		if dst, err = appendValue(dst, v.Field(f.index), depth+1); err != nil {
			return dst, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return append(dst, '}'), nil
}

// entry is an entry of a map.
type entry struct {
	text  []byte // the key, encoded
	value reflect.Value
}

func appendMap(dst []byte, v reflect.Value, depth int) ([]byte, error) {
	entries := make([]entry, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		text, err := appendKey(nil, it.Key())
		if err != nil {
			return dst, err
		}
		entries = append(entries, entry{text, it.Value()})
	}
	// A deterministic order: shorter keys first, so that integers of the same
	// sign are ordered by magnitude.
	slices.SortFunc(entries, func(a, b entry) int {
		if c := cmp.Compare(len(a.text), len(b.text)); c != 0 {
			return c
		}
		return bytes.Compare(a.text, b.text)
	})
	dst = appendCount(dst, len(entries))
	for _, e := range entries {
		var err error
		dst = append(dst, e.text...)
		if dst, err = appendValue(dst, e.value, depth+1); err != nil {
			return dst, fmt.Errorf("[%s]: %w", e.text[:len(e.text)-1], err)
		}
	}
	return append(dst, '}'), nil
}

func appendKey(dst []byte, k reflect.Value) ([]byte, error) {
	if k.Kind() == reflect.Interface && !k.IsNil() {
		k = k.Elem()
	}
	switch k.Kind() {
	case reflect.String:
		return appendString(dst, k.String()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return appendInt(dst, k.Int()), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		i, err := intOf(k.Uint())
		return appendInt(dst, i), err
	}
	return dst, fmt.Errorf("a key of type %v has no form in PHP", k.Type())
}
