package codec_test

import (
	"testing"
	"time"

	"github.com/chanmq/chanmq/codec"
)

// TestLengths: what codecs say of the length of their texts is true of each.
func TestLengths(t *testing.T) {
	for _, s := range []string{"", "hello", "schön", "\U0010FFFF", "\x7f"} {
		wantLength(t, codec.String(), s)
		wantLength(t, codec.CString(16), s)
		wantLength(t, codec.JSON[string](), s)
	}
	wantLength(t, codec.Struct[quote](), aQuote)
	wantLength(t, codec.Struct[dense](), aDense)
	for _, c := range []any{codec.Bytes(), codec.Binary[time.Time]()} {
		_, ender := c.(codec.Ender)
		_, fixed := c.(codec.FixedSizer)
		if ender || fixed {
			t.Errorf("%T cannot know how its texts end", c)
		}
	}
}

func wantLength[T any](t *testing.T, c codec.Codec[T], v T) {
	t.Helper()
	text, err := c.Append(nil, v)
	if err != nil {
		t.Fatal(err)
	}
	switch c := c.(type) {
	case codec.FixedSizer:
		if c.FixedSize() != len(text) {
			t.Errorf("%T: FixedSize is %d, and a text has %d bytes", c, c.FixedSize(), len(text))
		}
	case codec.Ender:
		if len(text) > 0 && text[len(text)-1] == c.NeverEndsIn() {
			t.Errorf("%T: a text ends with %#x", c, c.NeverEndsIn())
		}
	default:
		t.Errorf("%T says nothing of its texts", c)
	}
}
