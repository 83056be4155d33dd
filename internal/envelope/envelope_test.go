package envelope

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"
)

// headers has one of each kind, with all fields that it has.
func headers() []Header {
	life := Life{PID: 4242, PIDNamespace: 4026531836, TimeNamespace: 4026531834, Start: 1 << 40}
	return []Header{
		{Kind: Plain},
		{Kind: Request, CallID: math.MaxUint64, ReplyType: 1<<62 + 5, Expiry: 1_800_000_000_000_000_000, WaitsUntil: 7, Life: life},
		{Kind: Request},
		{Kind: Reply, CallID: 3, Expiry: -1, Life: life},
		{Kind: Error, CallID: 4, Life: life, Code: 1001},
		{Kind: DeadLetter, Type: math.MaxInt64, Attempts: 5, Reason: "Grüße: no such order"},
		{Kind: DeadLetter},
		{Kind: Pack, Values: 2, Size: uint32(len(packOf("", "value")) - PackHeader)},
		{Kind: Reference, Ref: Ref{Dir: [16]byte{1, 15: 2}, Name: [16]byte{3, 15: 4}, Size: math.MaxInt64, Sum: math.MaxUint32}},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, want := range headers() {
		texts := []string{"", "text", magic}
		switch want.Kind {
		case Pack:
			texts = []string{packOf("", "value")[PackHeader:]}
		case Reference:
			texts = []string{""}
		}
		for _, text := range texts {
			b := append(Append([]byte("before"), &want), text...)[len("before"):]
			got, payload, err := Parse(b)
			if err != nil || got != want || string(payload) != text {
				t.Errorf("%v: got %+v, %q, %v, want %+v, %q", want.Kind, got, payload, err, want, text)
			}
		}
	}
}

// TestLayout has the bytes that docs/envelope.md promises.
func TestLayout(t *testing.T) {
	for _, test := range []struct {
		h    Header
		want string
	}{
		{Header{Kind: Plain}, "\xFEcmq\x01\x01\x08\x00"},
		{
			Header{Kind: Request, CallID: 0x0102030405060708, ReplyType: 2, Expiry: 3, WaitsUntil: 4, Life: Life{5, 6, 7, 8}},
			"\xFEcmq\x01\x02\x40\x00" + "\x08\x07\x06\x05\x04\x03\x02\x01" + "\x02\x00\x00\x00\x00\x00\x00\x00" +
				"\x03\x00\x00\x00\x00\x00\x00\x00" + "\x04\x00\x00\x00\x00\x00\x00\x00" +
				"\x05\x00\x00\x00" + "\x06\x00\x00\x00" + "\x07\x00\x00\x00" + "\x00\x00\x00\x00" + "\x08\x00\x00\x00\x00\x00\x00\x00",
		},
		{
			Header{Kind: Error, CallID: 1, Expiry: 3, Life: Life{5, 6, 7, 8}, Code: 9},
			"\xFEcmq\x01\x04\x30\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" + "\x03\x00\x00\x00\x00\x00\x00\x00" +
				"\x05\x00\x00\x00" + "\x06\x00\x00\x00" + "\x07\x00\x00\x00" + "\x09\x00\x00\x00" + "\x08\x00\x00\x00\x00\x00\x00\x00",
		},
		{
			Header{Kind: Pack, Values: 0x0201, Size: 0x06050403},
			"\xFEcmq\x01\x06\x0e\x00" + "\x01\x02" + "\x03\x04\x05\x06",
		},
		{
			Header{Kind: Reference, Ref: Ref{Dir: [16]byte([]byte("0123456789abcdef")), Name: [16]byte([]byte("ABCDEFGHIJKLMNOP")), Size: 0x0807060504030201, Sum: 0x0C0B0A09}},
			"\xFEcmq\x01\x07\x38\x00" + "0123456789abcdef" + "ABCDEFGHIJKLMNOP" + "\x01\x02\x03\x04\x05\x06\x07\x08" +
				"\x09\x0A\x0B\x0C" + "\x00\x00\x00\x00",
		},
		{
			Header{Kind: DeadLetter, Type: 1, Attempts: 2, Reason: "why"},
			"\xFEcmq\x01\x05\x1b\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00" + "\x03\x00\x00\x00" + "why",
		},
	} {
		if got := Append(nil, &test.h); string(got) != test.want {
			t.Errorf("%v:\ngot  %x\nwant %x", test.h.Kind, got, test.want)
		}
	}
}

// TestLongerHeader: a reader skips what a later version adds to a header.
func TestLongerHeader(t *testing.T) {
	for _, want := range headers() {
		b := Append(nil, &want)
		b[6] += 5
		text := "text"
		switch want.Kind {
		case Pack:
			text = packOf("", "value")[PackHeader:]
		case Reference:
			text = ""
		}
		got, payload, err := Parse(append(append(b, "later"...), text...))
		if err != nil || got != want || string(payload) != text {
			t.Errorf("%v: got %+v, %q, %v", want.Kind, got, payload, err)
		}
	}
}

func TestWrap(t *testing.T) {
	for _, text := range []string{"", "text", "\xFEcm", magic, magic + "\x01\x02"} {
		b := Wrap(nil, []byte(text))
		if !Begins([]byte(text)) {
			if string(b) != text {
				t.Errorf("%q became %q", text, b)
			}
			continue
		}
		h, payload, err := Parse(b)
		if err != nil || h.Kind != Plain || string(payload) != text {
			t.Errorf("%q: %+v, %q, %v", text, h, payload, err)
		}
	}
}

func TestLongReason(t *testing.T) {
	h := Header{Kind: DeadLetter, Type: 1, Reason: strings.Repeat("é", MaxReason)}
	got, _, err := Parse(Append(nil, &h))
	if err != nil || got.Reason != h.Reason[:MaxReason] {
		t.Errorf("%d bytes, %v", len(got.Reason), err)
	}
	h.Reason = "x" + h.Reason
	if got, _, err = Parse(Append(nil, &h)); err != nil || got.Reason != h.Reason[:MaxReason-1] {
		t.Errorf("%d bytes, %v: half a character", len(got.Reason), err)
	}
}

// TestDamaged: every envelope that is cut off, or has other numbers, is an error or an
// envelope, and an error says which.
func TestDamaged(t *testing.T) {
	for _, h := range headers() {
		whole := Append(nil, &h)
		for n := range whole {
			_, _, err := Parse(whole[:n])
			want := ErrDamaged
			if n < len(magic) {
				want = ErrNone
			}
			if !errors.Is(err, want) {
				t.Errorf("%v, %d of %d bytes: %v", h.Kind, n, len(whole), err)
			}
		}
	}
	for _, test := range []struct {
		text string
		want error
	}{
		{"\xFEcmq\x02\x01\x08\x00", ErrVersion},
		{"\xFEcmq\x01\x00\x08\x00", ErrKind},
		{"\xFEcmq\x01\x08\x08\x00", ErrKind},
		{"\xFEcmq\x01\x07\x08\x00", ErrDamaged},
		{string(Append(nil, &Header{Kind: Reference})) + "behind", ErrDamaged},
		{string(Append(nil, &Header{Kind: Reference, Ref: Ref{Size: 1 << 63}})), ErrDamaged},
		{"\xFEcmq\x01\x01\x07\x00", ErrDamaged},
		{"\xFEcmq\x01\x01\xFF\xFF", ErrDamaged},
		{string(Append(nil, &Header{Kind: Request, ReplyType: -1})), ErrDamaged},
		{string(Append(nil, &Header{Kind: DeadLetter, Type: -1})), ErrDamaged},
		{"\xFEcmq\x01\x05\x18\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00" + "\x01\x00\x00\x00" + "text", ErrDamaged},
		{"\xFEcmq\x01\x05\x18\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00" + "\xFF\xFF\xFF\xFF" + "text", ErrDamaged},
	} {
		if _, _, err := Parse([]byte(test.text)); !errors.Is(err, test.want) {
			t.Errorf("%x: %v, want %v", test.text, err, test.want)
		}
	}
}

// FuzzParse: Parse never panics, and what it accepts it writes again.
func FuzzParse(f *testing.F) {
	for _, h := range headers() {
		f.Add(append(Append(nil, &h), "text"...))
	}
	f.Add([]byte(packOf("", "value")))
	f.Fuzz(func(t *testing.T, text []byte) {
		h, payload, err := Parse(text)
		if err != nil {
			return
		}
		again := append(Append(nil, &h), payload...)
		h2, payload2, err := Parse(again)
		if len(h.Reason) > MaxReason {
			return // cut off
		}
		if err != nil || h2 != h || !bytes.Equal(payload2, payload) {
			t.Errorf("%+v %q became %+v %q, %v", h, payload, h2, payload2, err)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	text := Append(nil, &Header{Kind: Reply})
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := Parse(text); err != nil {
			b.Fatal(err)
		}
	}
}
