package codec_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/chanmq/chanmq/codec"
)

// quote has padding between its fields, so it takes several copies.
type quote struct {
	ID    int32
	Side  int8
	Price float64
	Sym   [8]byte
	Last  bool
}

// dense has no padding, so it takes a single copy.
type dense struct{ A, B, C, D int64 }

var (
	aQuote = quote{1, 'B', 99.5, [8]byte{'A', 'C', 'M', 'E'}, true}
	aDense = dense{1, 2, 3, 4}
)

// operation is a call of a codec. new returns the call, which reuses storage of
// its own.
type operation struct {
	name   string
	allocs float64
	new    func() (call func() error)
}

func appending[T any](c codec.Codec[T], v T) func() func() error {
	return func() func() error {
		dst := make([]byte, 0, 256)
		return func() error {
			_, err := c.Append(dst, v)
			return err
		}
	}
}

// decoding decodes into the same value again.
func decoding[T any](c codec.Codec[T], v T) func() func() error {
	return func() func() error {
		src, err := c.Append(nil, v)
		into := new(T)
		return func() error {
			if err != nil {
				return err
			}
			return c.Decode(src, into)
		}
	}
}

var operations = []operation{
	{"Struct/append", 0, appending(codec.Struct[quote](), aQuote)},
	{"Struct/decode", 0, decoding(codec.Struct[quote](), aQuote)},
	{"Struct dense/append", 0, appending(codec.Struct[dense](), aDense)},
	{"Struct dense/decode", 0, decoding(codec.Struct[dense](), aDense)},
	{"CString/append", 0, appending(codec.CString(16), "hello")},
	{"CString/decode", 1, decoding(codec.CString(16), "hello")},
	{"Bytes/append", 0, appending(codec.Bytes(), make([]byte, 64))},
	{"Bytes/decode", 0, decoding(codec.Bytes(), make([]byte, 64))},
	{"Bytes/decode into nil", 1, func() func() error {
		src := make([]byte, 64)
		var into []byte
		return func() error {
			into = nil
			return codec.Bytes().Decode(src, &into)
		}
	}},
	{"Bytes/decode nothing into nil", 0, func() func() error {
		var into []byte
		return func() error {
			into = nil
			return codec.Bytes().Decode(nil, &into)
		}
	}},
	{"String/append", 0, appending(codec.String(), "hello, queue")},
	{"String/decode", 1, decoding(codec.String(), "hello, queue")},
}

// The allocations of these also depend on other packages.
var otherOperations = []operation{
	{name: "JSON/append", new: appending(codec.JSON[order](), order{ID: 7, Note: "note"})},
	{name: "JSON/decode", new: decoding(codec.JSON[order](), order{ID: 7, Note: "note"})},
	{name: "Binary/append", new: appending(codec.Binary[time.Time](), time.Unix(1e9, 7))},
	{name: "Binary/decode", new: decoding(codec.Binary[time.Time](), time.Unix(1e9, 7))},
}

func TestAllocations(t *testing.T) {
	for _, op := range operations {
		t.Run(op.name, func(t *testing.T) {
			call := op.new()
			if got := testing.AllocsPerRun(200, func() {
				if err := call(); err != nil {
					t.Fatal(err)
				}
			}); got != op.allocs {
				t.Errorf("%v allocations, want %v", got, op.allocs)
			}
		})
	}
}

func BenchmarkCodec(b *testing.B) {
	for _, op := range append(operations, otherOperations...) {
		b.Run(op.name, func(b *testing.B) {
			call := op.new()
			b.ReportAllocs()
			for b.Loop() {
				if err := call(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Struct is meant to be called once, not for each message. This is its cost.
func BenchmarkStruct(b *testing.B) {
	for _, n := range []int{1, 100} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if n == 1 {
					codec.Struct[quote]()
				} else {
					codec.Struct[[100]quote]()
				}
			}
		})
	}
}
