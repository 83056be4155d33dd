package sysv_test

import (
	"math"
	"testing"
	"unsafe"

	"github.com/chanmq/chanmq/internal/sysv"
)

func TestTypeIsWhatPutTypeWrote(t *testing.T) {
	for _, typ := range []int{0, 1, -1, 258, math.MaxInt, math.MinInt} {
		buf := make([]byte, sysv.HeaderSize+3)
		for i := range 3 { // also at unaligned offsets
			sysv.PutType(buf[i:], typ)
			if got := sysv.Type(buf[i:]); got != typ {
				t.Errorf("Type = %d at offset %d, want %d", got, i, typ)
			}
		}
	}
}

func TestTypeIsInNativeOrder(t *testing.T) {
	buf := sysv.Buffer(0)
	sysv.PutType(buf, 0x01020304)
	if got := *(*int)(unsafe.Pointer(&buf[0])); got != 0x01020304 {
		t.Errorf("in C the type is %#x", got)
	}
}

func TestShortBufferPanics(t *testing.T) {
	for name, call := range map[string]func([]byte){
		"Type":    func(b []byte) { sysv.Type(b) },
		"PutType": func(b []byte) { sysv.PutType(b, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			call(make([]byte, sysv.HeaderSize-1))
		})
	}
}

func TestBuffer(t *testing.T) {
	for n := range 4 * sysv.HeaderSize {
		buf := sysv.Buffer(n)
		if len(buf) != sysv.HeaderSize+n {
			t.Errorf("Buffer(%d) has %d bytes, want %d more than the header", n, len(buf), n)
		}
		if uintptr(unsafe.Pointer(&buf[0]))%uintptr(sysv.HeaderSize) != 0 {
			t.Errorf("Buffer(%d) is not aligned", n)
		}
		clear(buf) // with -race, checkptr checks that all of it is allocated
	}
}
