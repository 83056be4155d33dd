package codec_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"structs"
	"testing"
	"time"
	"unsafe"

	"github.com/chanmq/chanmq/codec"
)

// native writes numbers as this machine has them in memory.
func native(values ...any) string {
	var text []byte
	for _, v := range values {
		var err error
		if text, err = binary.Append(text, binary.NativeEndian, v); err != nil {
			panic(err)
		}
	}
	return string(text)
}

// These types have the same layout on every GOARCH; clayout_test.go has others.
func TestStructRoundTrip(t *testing.T) {
	roundTrip(t, codec.Struct[struct{ Data int32 }](), struct{ Data int32 }{-7}, struct{ Data int32 }{1}, native(int32(-7)))
	roundTrip(t, codec.Struct[uint16](), 0xABCD, 1, native(uint16(0xABCD)))
	roundTrip(t, codec.Struct[bool](), true, false, "\x01")
	roundTrip(t, codec.Struct[[3]bool](), [3]bool{true, false, true}, [3]bool{false, true, true}, "\x01\x00\x01")
	roundTrip(t, codec.Struct[[2][2]int16](), [2][2]int16{{1, 2}, {3, 4}}, [2][2]int16{}, native([]int16{1, 2, 3, 4}))
	roundTrip(t, codec.Struct[float32](), -0.5, 1, native(float32(-0.5)))
	roundTrip(t, codec.Struct[complex64](), 1+2i, 0, native(complex64(1+2i)))
	roundTrip(t, codec.Struct[time.Duration](), time.Second, time.Hour, codecText(t, codec.Struct[int64](), int64(time.Second)))

	type padded struct {
		A int8
		B int32
		C [2]struct {
			D int16
			E int8
		}
		F bool
	}
	v := padded{A: 1, B: -2, F: true}
	v.C[0].D, v.C[0].E, v.C[1].D, v.C[1].E = 3, 4, 5, 6
	e := padded{A: 9, B: 9, F: true}
	roundTrip(t, codec.Struct[padded](), v, e,
		native(int8(1), [3]byte{}, int32(-2), int16(3), int8(4), int8(0), int16(5), int8(6), int8(0), true, [3]byte{}))

	// Unexported fields are members; markers of size 0 take no space.
	type plain struct {
		_ structs.HostLayout
		a uint16
		b uint16
		_ [0]byte
	}
	roundTrip(t, codec.Struct[plain](), plain{a: 1, b: 2}, plain{a: 3}, native(uint16(1), uint16(2)))
}

func codecText[T any](t *testing.T, c codec.Codec[T], v T) string {
	t.Helper()
	text, err := c.Append(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// The padding and the blank fields of a Go value may hold anything, as may the
// storage after len(dst).
func TestStructPaddingIsZero(t *testing.T) {
	type padded struct {
		A int8
		B int32
		_ [4]byte
		C int16
	}
	var v padded
	mem := unsafe.Slice((*byte)(unsafe.Pointer(&v)), unsafe.Sizeof(v))
	for i := range mem {
		mem[i] = 0xEE
	}
	v.A, v.B, v.C = 1, 2, 3
	dst := make([]byte, 64)
	for i := range dst {
		dst[i] = 0xDD
	}
	got, err := codec.Struct[padded]().Append(dst[:0], v)
	if err != nil {
		t.Fatal(err)
	}
	if want := native(int8(1), [3]byte{}, int32(2), [4]byte{}, int16(3), [2]byte{}); string(got) != want {
		t.Errorf("Append = %x, want %x", got, want)
	}
}

func TestStructDecodesAnyTrueAsTrue(t *testing.T) {
	for b := range 256 {
		var v struct {
			N    int8
			Flag [2]bool
		}
		if err := codec.Struct[struct {
			N    int8
			Flag [2]bool
		}]().Decode([]byte{0xFF, byte(b), 0}, &v); err != nil {
			t.Fatal(err)
		}
		if v.Flag != [2]bool{b != 0, false} || v.N != -1 {
			t.Errorf("byte %#x: %+v", b, v)
		}
		if mem := *(*byte)(unsafe.Pointer(&v.Flag[0])); mem > 1 {
			t.Errorf("byte %#x is %#x in a Go bool", b, mem)
		}
	}
}

func TestStructLengths(t *testing.T) {
	long := reflect.TypeFor[int]().Size()
	for _, c := range []struct {
		name  string
		sizes func(n int) (ok bool, err error)
		// What Append writes, and what sizeof(struct msg) - sizeof(long) is.
		size, padded int
	}{
		{"int32", lengthsOf[struct{ Data int32 }](), 4, int(long)},
		{"5 bytes", lengthsOf[[5]byte](), 5, 8},
		{"3 int32", lengthsOf[[3]int32](), 12, 12 + int(long) - 4},
		{"int64", lengthsOf[[2]int](), 2 * int(long), 2 * int(long)},
	} {
		for n := range 40 {
			ok, err := c.sizes(n)
			if want := n == c.size || n == c.padded; ok != want {
				t.Errorf("%s: Decode of %d bytes: %v", c.name, n, err)
			}
			if !ok {
				wantError(t, err, fmt.Sprintf("message of %d bytes, not of %d", n, c.size))
				if c.padded != c.size {
					wantError(t, err, fmt.Sprintf("nor of %d with padding", c.padded))
				}
				// The mistakes that are off by the size of the mtype.
				long := int(long)
				for hint, want := range map[string]bool{
					fmt.Sprintf("(%d bytes) too long: sizeof m includes the mtype", long):  n == c.size+long || n == c.padded+long,
					fmt.Sprintf("(%d bytes) too short: sizeof m includes the mtype", long): n > 0 && (n == c.size-long || n == c.padded-long),
				} {
					if got := strings.Contains(err.Error(), hint); got != want {
						t.Errorf("%s: Decode of %d bytes: %v; says %q: %t, want %t", c.name, n, err, hint, got, want)
					}
				}
			}
		}
	}
}

// A program that passes sizeof m to msgsnd, and one whose Go side has a field
// for the mtype.
func TestStructNamesTheMistakeWithTheMtype(t *testing.T) {
	type order struct {
		ID    int32
		Flags int32
	}
	type withType struct {
		Type  int
		ID    int32
		Flags int32
	}
	const long = strconv.IntSize / 8
	err := codec.Struct[order]().Decode(make([]byte, long+8), new(order))
	wantError(t, err, fmt.Sprintf("message of %d bytes, not of 8", long+8), "pass sizeof m - sizeof(long) to msgsnd")
	err = codec.Struct[withType]().Decode(make([]byte, 8), new(withType))
	wantError(t, err, fmt.Sprintf("message of 8 bytes, not of %d", long+8), "T has no field for it")
}

func lengthsOf[T any]() func(n int) (bool, error) {
	return func(n int) (bool, error) {
		err := codec.Struct[T]().Decode(make([]byte, n), new(T))
		return err == nil, err
	}
}

func TestStructRefuses(t *testing.T) {
	type deep struct {
		A int32
		B [2][3]struct {
			C struct{ Name string }
		}
	}
	type embedding struct {
		N int32
		deep
	}
	for _, c := range []struct {
		make func()
		says []string
	}{
		{func() { codec.Struct[string]() }, []string{"Struct[string]", "it is of type string"}},
		{func() { codec.Struct[*int32]() }, []string{"it is of type *int32"}},
		{func() { codec.Struct[[]byte]() }, []string{"it is of type []uint8"}},
		{func() { codec.Struct[map[int]int]() }, []string{"it is of type map[int]int"}},
		{func() { codec.Struct[any]() }, []string{"it is of type interface {}"}},
		{func() { codec.Struct[func()]() }, []string{"it is of type func()"}},
		{func() { codec.Struct[chan int]() }, []string{"it is of type chan int"}},
		{func() { codec.Struct[unsafe.Pointer]() }, []string{"it is of type unsafe.Pointer"}},
		{func() { codec.Struct[[4]string]() }, []string{"[] is of type string"}},
		{func() { codec.Struct[[0]string]() }, []string{"[] is of type string"}},
		{func() { codec.Struct[struct{ A, B *int }]() }, []string{"A is of type *int"}},
		{func() { codec.Struct[struct{ _ []int }]() }, []string{"_ is of type []int"}},
		{func() { codec.Struct[deep]() }, []string{"Struct[codec_test.deep]", "B[][].C.Name is of type string"}},
		{func() { codec.Struct[embedding]() }, []string{"deep.B[][].C.Name is of type string"}},
		{func() { codec.Struct[struct{ At time.Time }]() }, []string{"At.loc is of type *time.Location"}},
		{func() { codec.Struct[struct{}]() }, []string{"Struct[struct {}]", "no bytes"}},
		{func() { codec.Struct[[0]int]() }, []string{"no bytes"}},
		{func() { codec.Struct[[3]struct{}]() }, []string{"no bytes"}},
	} {
		wantPanic(t, c.make, c.says...)
	}
}

// Bit patterns that are not a number pass through unchanged.
func TestStructKeepsBits(t *testing.T) {
	v := math.Float64frombits(0x7FF0_0000_0000_0001) // a signalling NaN
	c := codec.Struct[[1]float64]()
	text := codecText(t, c, [1]float64{v})
	var back [1]float64
	if err := c.Decode([]byte(text), &back); err != nil {
		t.Fatal(err)
	}
	if codecText(t, c, back) != text {
		t.Errorf("%x became %x", text, codecText(t, c, back))
	}
}
