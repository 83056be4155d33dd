package php_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/chanmq/chanmq/codec/php"
)

// again decodes src, encodes the value, and decodes and encodes that text again. It
// checks that both texts are the same.
func again[T any](t *testing.T, src []byte) {
	t.Helper()
	c := php.Serialize[T]()
	kept := bytes.Clone(src)
	var v T
	err := c.Decode(src[:len(src):len(src)], &v)
	if !bytes.Equal(src, kept) {
		t.Fatalf("Decode changed the message %q to %q", kept, src)
	}
	if err != nil {
		return
	}
	text, err := c.Append(nil, v)
	if err != nil {
		t.Fatalf("Append(%#v) of the result of Decode(%q): %v", v, src, err)
	}
	var back T
	if err := c.Decode(text, &back); err != nil {
		t.Fatalf("Decode(%q) of what Append wrote: %v", text, err)
	}
	second, err := c.Append(nil, back)
	if err != nil || !bytes.Equal(text, second) {
		t.Fatalf("%q came back as %q, %v", text, second, err)
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range vectors() {
		f.Add([]byte(v.text))
	}
	f.Add([]byte(`a:2000000000:{i:0;i:1;}`))
	f.Add([]byte(`a:2:{i:0;i:1;i:1;R:2;}`))
	f.Add([]byte(`a:3:{s:1:"A";i:1;s:1:"B";a:1:{i:0;s:3:"x'y";}s:1:"C";O:1:"k":1:{s:1:"M";d:1e5;}}`))
	f.Fuzz(func(t *testing.T, src []byte) {
		again[any](t, src)
		again[string](t, src)
		again[float64](t, src)
		again[[]int8](t, src)
		again[map[any]any](t, src)
		again[order](t, src)
		again[struct {
			A uint16
			B []*[2]string
			C map[int32]struct{ M any }
			D [4]byte
			E time.Duration
			F map[string]bool
		}](t, src)
	})
}

func FuzzString(f *testing.F) {
	f.Add("it's \\x41 \\n")
	f.Add("\x00\xff\";")
	f.Fuzz(func(t *testing.T, s string) {
		c := php.Serialize[map[string][]string]()
		text, err := c.Append(nil, map[string][]string{s: {s, s}})
		if err != nil {
			t.Fatal(err)
		}
		var v map[string][]string
		if err := c.Decode(text, &v); err != nil || len(v) != 1 || len(v[s]) != 2 || v[s][0] != s || v[s][1] != s {
			t.Fatalf("%q came back from %q as %q, %v", s, text, v, err)
		}
	})
}
