package codec_test

import (
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/chanmq/chanmq/codec"
)

func TestBinaryRoundTrip(t *testing.T) {
	now := time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC)
	text, err := now.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, codec.Binary[time.Time](), now, now.Add(time.Hour), string(text))
	roundTrip(t, codec.Binary[netip.Addr](), netip.MustParseAddr("10.0.0.1"), netip.IPv6Unspecified(), "\x0a\x00\x00\x01")
}

// sparse omits a zero b from its encoding, and UnmarshalBinary sets only the fields
// that are present.
type sparse struct{ a, b byte }

var errSparse = errors.New("sparse")

func (s *sparse) AppendBinary(dst []byte) ([]byte, error) {
	if s.a == 0xFF {
		return dst, errSparse
	}
	if dst = append(dst, s.a); s.b != 0 {
		dst = append(dst, s.b)
	}
	return dst, nil
}

func (s *sparse) UnmarshalBinary(src []byte) error {
	switch len(src) {
	case 2:
		s.b = src[1]
		fallthrough
	case 1:
		s.a = src[0]
		return nil
	}
	return errSparse
}

func TestBinaryDecodeStartsFromTheZeroValue(t *testing.T) {
	roundTrip(t, codec.Binary[sparse](), sparse{1, 0}, sparse{8, 9}, "\x01")
}

func TestBinaryPassesErrorsOn(t *testing.T) {
	c := codec.Binary[sparse]()
	if _, err := c.Append(nil, sparse{a: 0xFF}); err != errSparse {
		t.Errorf("Append: %v", err)
	}
	if err := c.Decode(nil, new(sparse)); err != errSparse {
		t.Errorf("Decode: %v", err)
	}
}
