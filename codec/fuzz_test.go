package codec_test

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq/codec"
)

// decodeGuarded decodes src into a value between two guard words, and checks that
// Decode changes neither them nor src.
func decodeGuarded[T any](t *testing.T, c codec.Codec[T], src []byte) (T, error) {
	t.Helper()
	const pattern = 0x5A5A5A5A5A5A5A5A
	g := struct {
		before uint64
		v      T
		after  uint64
	}{before: pattern, after: pattern}
	kept := bytes.Clone(src)
	err := c.Decode(src[:len(src):len(src)], &g.v)
	if g.before != pattern || g.after != pattern {
		t.Fatalf("Decode(%x) wrote outside of the value", src)
	}
	if !bytes.Equal(src, kept) {
		t.Fatalf("Decode changed the message %x to %x", kept, src)
	}
	return g.v, err
}

// again encodes v, decodes the text, and encodes the result again. It checks that
// both texts are the same, and returns the text.
func again[T any](t *testing.T, c codec.Codec[T], v T) []byte {
	t.Helper()
	const before = "before"
	text, err := c.Append([]byte(before), v)
	if err != nil {
		t.Fatalf("Append(%#v): %v", v, err)
	}
	if !strings.HasPrefix(string(text), before) {
		t.Fatalf("Append(%#v) changed the bytes before: %q", v, text)
	}
	text = text[len(before):]
	back, err := decodeGuarded(t, c, text)
	if err != nil {
		t.Fatalf("Decode(%q) of what Append wrote: %v", text, err)
	}
	second, err := c.Append(nil, back)
	if err != nil {
		t.Fatalf("Append(%#v): %v", back, err)
	}
	if !bytes.Equal(text, second) {
		t.Fatalf("%q came back as %q", text, second)
	}
	return text
}

func FuzzStruct(f *testing.F) {
	type part struct {
		A int16
		B bool
		C int32
	}
	type record struct {
		A int8
		B float64
		C [3]part
		_ [2]byte
		D [2]bool
		E complex64
		F int
	}
	c := codec.Struct[record]()
	text, err := c.Append(nil, record{A: 1, B: 0.5, D: [2]bool{true, false}, F: -1})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(bytes.Repeat([]byte{0xFF}, len(text)))
	f.Add(text[:len(text)-1])
	f.Fuzz(func(t *testing.T, src []byte) {
		v, err := decodeGuarded(t, c, src)
		if fits := len(src) == len(text); fits != (err == nil) {
			t.Fatalf("Decode of %d bytes, size %d: %v", len(src), len(text), err)
		}
		if err == nil {
			again(t, c, v)
		}
		small := codec.Struct[part]()
		if v, err := decodeGuarded(t, small, src); err == nil {
			out := again(t, small, v)
			// Bytes that are neither bools nor padding stay the same.
			if !bytes.Equal(out[:2], src[:2]) || !bytes.Equal(out[4:8], src[4:8]) {
				t.Fatalf("%x came back as %x", src, out)
			}
		}
	})
}

func FuzzCString(f *testing.F) {
	f.Add(uint8(4), "abc", []byte("abc\x00"))
	f.Add(uint8(4), "abcd", []byte("abcd"))
	f.Add(uint8(4), "abcde", []byte("abcde"))
	f.Add(uint8(8), "a\x00b", []byte("a\x00b"))
	f.Add(uint8(1), "", []byte(nil))
	f.Fuzz(func(t *testing.T, size uint8, value string, src []byte) {
		n := int(size)%32 + 1
		c := codec.CString(n)
		fits := len(value) <= n && !strings.Contains(value, "\x00")
		if _, err := c.Append(nil, value); fits != (err == nil) {
			t.Fatalf("CString(%d).Append(%q): %v", n, value, err)
		}
		if fits {
			if text := again(t, c, value); len(text) != n {
				t.Fatalf("CString(%d).Append(%q) = %q", n, value, text)
			}
		}
		if v, err := decodeGuarded(t, c, src); err == nil {
			if !strings.HasPrefix(string(src), v) || len(src) > n {
				t.Fatalf("CString(%d).Decode(%q) = %q", n, src, v)
			}
			again(t, c, v)
		}
	})
}

func FuzzBytes(f *testing.F) {
	f.Add([]byte(nil), []byte("earlier"))
	f.Add([]byte("a\x00b"), []byte(nil))
	f.Fuzz(func(t *testing.T, src, earlier []byte) {
		v := bytes.Clone(earlier)
		if err := codec.Bytes().Decode(src, &v); err != nil || v == nil || !bytes.Equal(v, src) {
			t.Fatalf("Decode(%q) = %#v, %v", src, v, err)
		}
		if text := again(t, codec.Bytes(), v); !bytes.Equal(text, src) {
			t.Fatalf("%q came back as %q", src, text)
		}
	})
}

func FuzzString(f *testing.F) {
	f.Add([]byte(nil))
	f.Add([]byte("a\x00\xff"))
	f.Fuzz(func(t *testing.T, src []byte) {
		v, err := decodeGuarded(t, codec.String(), src)
		if err != nil || v != string(src) {
			t.Fatalf("Decode(%q) = %q, %v", src, v, err)
		}
		if text := again(t, codec.String(), v); !bytes.Equal(text, src) {
			t.Fatalf("%q came back as %q", src, text)
		}
	})
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte(`{"id":7,"note":"a","items":["b"],"meta":{"c":1}}`))
	f.Add([]byte(`{"id":7} {"id":8}`))
	f.Add([]byte(`[[1e300,null,true,"<\u2028\ud800>"],{"":{}}]`))
	f.Add([]byte("null\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		if v, err := decodeGuarded(t, codec.JSON[order](), src); err == nil {
			again(t, codec.JSON[order](), v)
		}
		if v, err := decodeGuarded(t, codec.JSON[any](), src); err == nil {
			if text := again(t, codec.JSON[any](), v); bytes.HasSuffix(text, []byte("\n")) {
				t.Fatalf("Append(%#v) ends with a newline: %q", v, text)
			}
		}
	})
}

func FuzzBinary(f *testing.F) {
	for _, at := range []time.Time{{}, time.Unix(1e9, 7), time.Unix(0, 0).In(time.FixedZone("", -3661))} {
		text, err := at.MarshalBinary()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte("\x7f\x00\x00\x01\x50\x00"))
	f.Fuzz(func(t *testing.T, src []byte) {
		// Not all times survive a round trip in package time: it refuses some
		// zones, and changes those west of UTC by a fraction of a minute. So
		// this compares with its own encoding, and compares instants.
		c := codec.Binary[time.Time]()
		if v, err := decodeGuarded(t, c, src); err == nil {
			text, err := c.Append(nil, v)
			want, wantErr := v.MarshalBinary()
			if (err == nil) != (wantErr == nil) || !bytes.Equal(text, want) {
				t.Fatalf("Append(%v) = %x, %v; want %x, %v", v, text, err, want, wantErr)
			}
			if err == nil {
				if back, err := decodeGuarded(t, c, text); err != nil || !back.Equal(v) {
					t.Fatalf("%v came back as %v, %v", v, back, err)
				}
			}
		}
		if v, err := decodeGuarded(t, codec.Binary[netip.AddrPort](), src); err == nil {
			again(t, codec.Binary[netip.AddrPort](), v)
		}
	})
}
