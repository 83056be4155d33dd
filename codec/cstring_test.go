package codec_test

import (
	"testing"

	"github.com/chanmq/chanmq/codec"
)

func TestCStringRoundTrip(t *testing.T) {
	for _, c := range []struct {
		n           int
		value, text string
	}{
		{1, "", "\x00"},
		{1, "a", "a"},
		{4, "", "\x00\x00\x00\x00"},
		{4, "abc", "abc\x00"},
		{4, "abcd", "abcd"}, // no NUL, as strncpy leaves it
		{8, "grün", "gr\xc3\xbcn\x00\x00\x00"},
	} {
		roundTrip(t, codec.CString(c.n), c.value, "earlier", c.text)
	}
}

func TestCStringPaddingIsZeroInDirtyStorage(t *testing.T) {
	dst := []byte("????????")
	got, err := codec.CString(4).Append(dst[:1], "a")
	if err != nil || string(got) != "?a\x00\x00\x00" {
		t.Errorf("Append = %q, %v", got, err)
	}
}

func TestCStringRefusesToAppend(t *testing.T) {
	for _, c := range []struct {
		n     int
		value string
		says  string
	}{
		{4, "abcde", "5 bytes"},
		{4, "a\x00b", "NUL at byte 1"},
		{4, "abc\x00", "NUL at byte 3"},
	} {
		got, err := codec.CString(c.n).Append([]byte("before"), c.value)
		wantError(t, err, "CString(4)", c.says)
		if string(got) != "before" {
			t.Errorf("Append(%q) left %q", c.value, got)
		}
	}
}

func TestCStringDecode(t *testing.T) {
	for _, c := range []struct {
		n                  int
		text, want, refuse string
	}{
		{n: 4, text: "ab\x00c", want: "ab"}, // stale memory after the NUL
		{n: 4, text: "\x00bcd", want: ""},
		{n: 4, text: "ab\x00", want: "ab"}, // strlen()+1
		{n: 4, text: "\x00", want: ""},
		{n: 4, text: "", refuse: "message of 0 bytes"},
		{n: 4, text: "abc", refuse: "message of 3 bytes"},
		{n: 4, text: "a\x00\x00", refuse: "message of 3 bytes"},
		{n: 4, text: "a\x00b", refuse: "message of 3 bytes"},
		{n: 4, text: "abcd\x00", refuse: "message of 5 bytes"},
		{n: 4, text: "a\x00\x00\x00\x00", refuse: "message of 5 bytes"},
	} {
		v := "earlier"
		err := codec.CString(c.n).Decode([]byte(c.text), &v)
		switch {
		case c.refuse != "":
			wantError(t, err, "CString(4)", c.refuse)
		case err != nil || v != c.want:
			t.Errorf("CString(%d).Decode(%q) = %q, %v; want %q", c.n, c.text, v, err, c.want)
		}
	}
}

func TestCStringRefusesSizes(t *testing.T) {
	wantPanic(t, func() { codec.CString(0) }, "CString(0)")
	wantPanic(t, func() { codec.CString(-1) }, "CString(-1)")
}
