package chanmq

import (
	"math"
	"reflect"

	"github.com/chanmq/chanmq/internal/sysv"
)

// identical reports whether a and b are the same value: numbers of the same bits
// (so a NaN is identical to itself), and references to the same thing. It does not
// look behind references, so it needs no equality of what is there, and says of a
// value whether it is this very one: each message decodes to references of its own.
func identical[T any](a, b T) bool {
	return sameValue(reflect.ValueOf(&a).Elem(), reflect.ValueOf(&b).Elem())
}

func sameValue(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Bool:
		return a.Bool() == b.Bool()
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return a.Int() == b.Int()
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return a.Uint() == b.Uint()
	case reflect.Float32, reflect.Float64:
		return sameBits(a.Float(), b.Float())
	case reflect.Complex64, reflect.Complex128:
		x, y := a.Complex(), b.Complex()
		return sameBits(real(x), real(y)) && sameBits(imag(x), imag(y))
	case reflect.String:
		return a.Len() == b.Len() && (!a.CanAddr() || sysv.Word(a) == sysv.Word(b)) && a.String() == b.String()
	case reflect.Func:
		// Closures share the pointer to their code.
		return a.Pointer() == b.Pointer() && (!a.CanAddr() || sysv.Word(a) == sysv.Word(b))
	case reflect.Slice:
		return a.Pointer() == b.Pointer() && a.Len() == b.Len() && a.IsNil() == b.IsNil()
	case reflect.Pointer, reflect.Map, reflect.Chan, reflect.UnsafePointer:
		return a.Pointer() == b.Pointer()
	case reflect.Interface:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() && b.IsNil()
		}
		return a.Elem().Type() == b.Elem().Type() && sameValue(a.Elem(), b.Elem())
	case reflect.Array:
		for i := range a.Len() {
			if !sameValue(a.Index(i), b.Index(i)) {
				return false
			}
		}
		return true
	case reflect.Struct:
		for i := range a.NumField() {
			if !sameValue(a.Field(i), b.Field(i)) {
				return false
			}
		}
		return true
	}
	return false
}

func sameBits(x, y float64) bool { return math.Float64bits(x) == math.Float64bits(y) }
