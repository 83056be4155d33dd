//go:build linux

package interop_test

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq/codec"
)

var c = &language{
	name:    "C",
	byID:    true,
	clients: true,
	builds:  true,
	eidrm:   errno(syscall.EIDRM),
	command: compile,
	cases:   cCases,
}

func TestC(t *testing.T) { c.test(t) }

// The structs of testdata/c/records.h.
type (
	single struct{ Data int32 }
	padded struct { // with the trailing padding of a struct that begins with a long
		Data int32
		_    [0]int
	}
	whole struct { // a long too large
		Data int32
		_    int
	}
	padding struct {
		Tag   int8
		ID    int32
		Flag  int8
		Ratio float64
		Tail  int16
	}
	arrays struct {
		Counts [4]int32
		Grid   [2][3]float64
		Raw    [5]byte
	}
	nested struct {
		Head struct {
			Kind  int8
			Stamp int // long
		}
		Points [2]struct {
			X int16
			Y int32
		}
	}
	cStrings struct {
		Name [16]byte
		Path [8]byte
	}
	numbers struct {
		C  int8
		UC uint8
		S  int16
		US uint16
		I  int32
		UI uint32
		L  int
		UL uint
		LL int64
		F  float32
		D  float64
	}
	flat struct {
		ID    int32
		Qty   int16
		Name  [16]byte
		Price float64
		Tag   int8
	}
)

func cCases() []testCase {
	var n nested
	n.Head.Kind, n.Head.Stamp = 'n', -2000000000
	n.Points[0].X, n.Points[0].Y = -1, 70000
	n.Points[1].X, n.Points[1].Y = 2, -70000

	text := cStrings{Path: [8]byte([]byte("/srv/app"))}
	copy(text.Name[:], "resize")

	f := flat{ID: -70000, Qty: -300, Price: 19.5, Tag: 'f'}
	copy(f.Name[:], "resize")

	return slices.Concat(
		payloads(),
		[]testCase{
			// C sends strlen()+1 bytes; Go sends the whole array.
			sends("cstring", nothing, codec.CString(32), "hello"),
			receives("cstring", "cstring", nothing, codec.CString(32), "hello", "hello"),
		},
		both("int", long, codec.Struct[int32](), -70000, "-70000"),
		both("sizeof", long, codec.Struct[single](), single{-70000}, "-70000"),
		[]testCase{receives("sizeof-checked", "sizeof-checked", long, codec.Struct[padded](), padded{Data: -70000}, "-70000")},
		both("whole", long, codec.Struct[whole](), whole{Data: -70000}, "-70000"),
		both("flat", long, codec.Struct[flat](), f, "-70000 -300 resize 19.5 f"),
		both("padding", long, codec.Struct[padding](), padding{'a', -70000, 1, 0.1, -2}, "a -70000 1 0.1 -2"),
		both("arrays", long, codec.Struct[arrays](), arrays{
			Counts: [4]int32{1, -2, 3, 70000},
			Grid:   [2][3]float64{{0.5, 1.5, 2.5}, {-0.5, -1.5, -2.5}},
			Raw:    [5]byte{1, 2, 253, 254, 255},
		}, "1 -2 3 70000 0.5 1.5 2.5 -0.5 -1.5 -2.5 0102fdfeff"),
		both("nested", long, codec.Struct[nested](), n, "n -2000000000 -1 70000 2 -70000"),
		both("strings", long, codec.Struct[cStrings](), text, "resize /srv/app"),
		both("numbers", long, codec.Struct[numbers](), numbers{
			math.MinInt8, math.MaxUint8, math.MinInt16, math.MaxUint16, math.MinInt32, math.MaxUint32,
			math.MinInt, math.MaxUint, math.MinInt64, 0.25, -1e300,
		}, fmt.Sprint("-128 255 -32768 65535 -2147483648 4294967295 ", math.MinInt, " ", strconv.FormatUint(math.MaxUint, 10), " -9223372036854775808 0.25 -1e+300")),
		[]testCase{sendsType("type-max", nothing, codec.String(), math.MaxInt, "max")},
		behaviours(),
		[]testCase{
			{"receive/except", nothing, receiveExcept},
			{"serve/client", nothing, serveClient},
			{"serve/server", nothing, serveServer},
			failure("empty", empty, errno(syscall.ENOMSG), left),
			failure("too-large", hundredBytes, errno(syscall.E2BIG), left),
			failure("truncate", hundredBytes, "bytes 10", taken),
			failure("full", fill, errno(syscall.EAGAIN), left),
			failure("removed", remove, errno(syscall.EINVAL), gone),
		},
	)
}
