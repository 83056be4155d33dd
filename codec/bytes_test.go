package codec_test

import (
	"testing"

	"github.com/chanmq/chanmq/codec"
)

func TestBytesRoundTrip(t *testing.T) {
	for _, text := range []string{"", "a", "\x00\xff", "with \n and ü"} {
		roundTrip(t, codec.Bytes(), []byte(text), []byte("earlier, and longer"), text)
	}
}

func TestBytesOfAnEmptyMessageAreNotNil(t *testing.T) {
	var v []byte
	if err := codec.Bytes().Decode(nil, &v); err != nil || v == nil || len(v) != 0 {
		t.Errorf("Decode of an empty message = %#v, %v; want an empty slice", v, err)
	}
}

func TestBytesReuseStorage(t *testing.T) {
	v := make([]byte, 0, 8)
	first := &v[:1][0]
	if err := codec.Bytes().Decode([]byte("12345678"), &v); err != nil || string(v) != "12345678" {
		t.Fatalf("Decode = %q, %v", v, err)
	}
	if &v[0] != first {
		t.Error("Decode left storage that has room")
	}
}

func TestStringRoundTrip(t *testing.T) {
	for _, text := range []string{"", "a", "\x00\xff", "with \n and ü"} {
		roundTrip(t, codec.String(), text, "earlier", text)
	}
}
