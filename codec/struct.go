package codec

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"strconv"
	"unsafe"
)

// Struct returns the codec for messages that are structs in C programs:
//
//	struct msg { long mtype; int32_t id; double price; };
//
// corresponds, without the mtype, to
//
//	codec.Struct[struct { ID int32; Price float64 }]()
//
// The fields of T are the members after mtype, at the offsets where C has them:
// in native byte order, with the padding of C on this GOARCH, which is not always
// that of Go (arm, mips, mipsle). If T is not a struct, it is the only member.
//
//	C                               Go
//	char, signed char, int8_t       int8
//	unsigned char, uint8_t          uint8, byte
//	char name[n]                    [n]byte
//	short, int16_t                  int16
//	int, enum, int32_t              int32
//	unsigned int, uint32_t          uint32
//	long, ssize_t                   int
//	unsigned long, size_t           uint
//	uintptr_t                       uintptr
//	long long, int64_t              int64
//	unsigned long long, uint64_t    uint64
//	float                           float32
//	double                          float64
//	bool, _Bool                     bool
//	float _Complex                  complex64
//	double _Complex                 complex128
//	struct, member[n]               struct, [n]member
//
// So C's long is Go's int, and C's int is Go's int32. Unions, bit fields and long
// double have no equivalent in Go: use integers or byte arrays of the same size
// and alignment. For a packed struct use byte arrays, which have no alignment, or
// [Func] with encoding/binary, which adds no padding: see the examples.
//
// Append writes zeros for a blank field, such as _ [4]byte, and for padding, so
// that no stale memory gets into a message. Decode ignores both. Unexported fields
// are members like the others.
//
// Append writes sizeof(T) bytes. A C program that sends sizeof(struct msg) -
// sizeof(long) bytes may send more: the trailing padding that the alignment of the
// long adds. For struct { long mtype; int data; } that makes 8 bytes instead of 4.
// Decode accepts both sizes and no other. Let T end with the field _ [0]int to
// send the trailing padding too. A bool is true if its byte is not zero.
//
// Struct panics if T or one of its fields has no fixed size or contains a
// pointer, and if T has size 0: that is a mistake in the program, not in a
// message.
func Struct[T any]() Codec[T] {
	t := reflect.TypeFor[T]()
	l, err := layoutOf(t)
	if err != nil {
		panic(fmt.Sprintf("codec: Struct[%v]: %v", t, err))
	}
	return &structCodec[T]{l}
}

type structCodec[T any] struct{ layout }

func (c *structCodec[T]) Append(dst []byte, v T) ([]byte, error) {
	mem := memory(&v)
	dst, out := extend(dst, c.size)
	if !c.solid {
		clear(out)
	}
	for _, r := range c.runs {
		copy(out[r.c:r.c+r.n], mem[r.g:r.g+r.n])
	}
	return dst, nil
}

func (c *structCodec[T]) Decode(src []byte, v *T) error {
	if len(src) != c.size && len(src) != c.padded {
		return c.sizeError(reflect.TypeFor[T](), len(src))
	}
	mem := memory(v)
	for _, r := range c.runs {
		copy(mem[r.g:r.g+r.n], src[r.c:r.c+r.n])
	}
	// As bytes, before they are used as bools: a Go bool must be 0 or 1.
	for _, r := range c.bools {
		for i, b := range mem[r.g : r.g+r.n] {
			if b != 0 {
				mem[r.g+i] = 1
			}
		}
	}
	return nil
}

// memory returns the memory of *v as bytes.
func memory[T any](v *T) []byte {
	// unsafe.Slice covers exactly one variable, of a type in which layoutOf found
	// no pointers; bytes need no alignment. The conversion is pattern (1) of
	// unsafe.Pointer: T has at least one byte.
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// layout describes where the parts of a Go value are in a message.
type layout struct {
	runs   []run // everything but padding and blank fields
	bools  []run // the bytes of runs that hold bools
	size   int   // of the message that Append writes
	padded int   // with the trailing padding of struct { long mtype; ... }
	solid  bool  // a single run covers the whole message
}

// run is a sequence of n bytes without padding.
type run struct {
	g, c, n int // the offset in Go's memory and in the message, the length
}

func (l *layout) sizeError(t reflect.Type, got int) error {
	text := fmt.Sprintf("codec: Struct[%v]: message of %d bytes, not of %d", t, got, l.size)
	if l.padded != l.size {
		text += fmt.Sprintf(", nor of %d with padding", l.padded)
	}
	// The usual mistakes with the mtype are off by exactly its size.
	switch {
	case got == l.size+longSize || got == l.padded+longSize:
		text += fmt.Sprintf("; a C long (%d bytes) too long: sizeof m includes the mtype, "+
			"pass sizeof m - sizeof(long) to msgsnd", longSize)
	case got > 0 && (got == l.size-longSize || got == l.padded-longSize):
		text += fmt.Sprintf("; a C long (%d bytes) too short: sizeof m includes the mtype, the text of a message does not, "+
			"so T has no field for it, and sizeof(long) is subtracted from the size of the whole struct only", longSize)
	}
	return errors.New(text)
}

const (
	longSize  = strconv.IntSize / 8 // C's long is Go's int wherever there are System V queues
	longAlign = longSize
)

// layoutOf lays out struct { long mtype; T }, with the fields of T as members.
func layoutOf(t reflect.Type) (layout, error) {
	size, align, err := measure(t, "")
	if err != nil {
		return layout{}, err
	}
	if size == 0 {
		return layout{}, errors.New("it has no bytes")
	}
	// The text of a message begins right after mtype. If a long is shorter than an
	// int64, the first member may have padding before it: offsets are from mtype.
	begin := longSize
	if t.Kind() != reflect.Struct {
		begin = roundUp(begin, align)
	}
	var l layout
	end := l.place(t, 0, begin)
	l.size = roundUp(end, align) - longSize
	l.padded = roundUp(end, max(align, longAlign)) - longSize
	l.solid = len(l.runs) == 1 && l.runs[0].n == l.size
	return l, nil
}

// place adds the parts of t, which is at offset g in Go's memory and at offset c
// of C's struct, counted from mtype. It returns the end of t's last member.
func (l *layout) place(t reflect.Type, g, c int) (end int) {
	switch t.Kind() {
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			size, align, _ := measure(f.Type, "")
			c = roundUp(c, align)
			if f.Name != "_" {
				l.place(f.Type, g+int(f.Offset), c)
			}
			c += size
		}
		return c
	case reflect.Array:
		if e := t.Elem(); e.Kind() == reflect.Struct || e.Kind() == reflect.Array {
			size, _, _ := measure(e, "")
			for i := range t.Len() {
				l.place(e, g+i*int(e.Size()), c+i*size)
			}
			return c + t.Len()*size
		}
		// There is no padding between numbers or bools: one run.
	}
	r := run{g, c - longSize, int(t.Size())}
	l.runs = addRun(l.runs, r)
	if t.Kind() == reflect.Bool || t.Kind() == reflect.Array && t.Elem().Kind() == reflect.Bool {
		l.bools = addRun(l.bools, r)
	}
	return c + r.n
}

// addRun appends r, or extends the last run if r follows it directly.
func addRun(runs []run, r run) []run {
	if r.n == 0 {
		return runs
	}
	if i := len(runs) - 1; i >= 0 && runs[i].g+runs[i].n == r.g && runs[i].c+runs[i].n == r.c {
		runs[i].n += r.n
		return runs
	}
	return append(runs, r)
}

// measure returns the size and alignment of t in C. The error names, by its path,
// the part of t that has no fixed size or contains a pointer.
func measure(t reflect.Type, path string) (size, align int, err error) {
	switch t.Kind() {
	case reflect.Bool, reflect.Int8, reflect.Uint8, reflect.Int16, reflect.Uint16,
		reflect.Int32, reflect.Uint32, reflect.Int64, reflect.Uint64,
		reflect.Int, reflect.Uint, reflect.Uintptr, reflect.Float32, reflect.Float64:
		size = int(t.Size())
		return size, cAlign(size), nil
	case reflect.Complex64, reflect.Complex128:
		size = int(t.Size()) // C has it as an array of two
		return size, cAlign(size / 2), nil
	case reflect.Array:
		size, align, err = measure(t.Elem(), path+"[]")
		return size * t.Len(), align, err
	case reflect.Struct:
		align = 1
		for i := range t.NumField() {
			f := t.Field(i)
			name := f.Name
			if path != "" {
				name = path + "." + name
			}
			s, a, err := measure(f.Type, name)
			if err != nil {
				return 0, 0, err
			}
			size = roundUp(size, a) + s
			align = max(align, a)
		}
		return roundUp(size, align), align, nil
	}
	what := "it"
	if path != "" {
		what = path
	}
	return 0, 0, fmt.Errorf("%s is of type %v: only numbers, bools, and arrays and structs of them have a fixed size and no pointers", what, t)
}

// cAlign returns the alignment in C of a number of size bytes as a member of a
// struct: its size, except on 386 (System V ABI). Go's own alignment differs on
// arm, mips and mipsle.
func cAlign(size int) int {
	if runtime.GOARCH == "386" {
		return min(size, 4)
	}
	return size
}

func roundUp(n, align int) int { return (n + align - 1) / align * align }
