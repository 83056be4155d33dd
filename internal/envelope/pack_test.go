package envelope

import (
	"errors"
	"strings"
	"testing"
)

// packOf returns a pack of the values.
func packOf(values ...string) string {
	b := make([]byte, PackHeader)
	for _, value := range values {
		at := len(b)
		b = append(b, make([]byte, ValueHeader)...)
		PutValue(b[at:], len(value))
		b = append(b, value...)
	}
	PutPack(b, len(values), len(b)-PackHeader)
	return string(b)
}

// valuesOf returns the values of a pack.
func valuesOf(t *testing.T, pack string) []string {
	t.Helper()
	n, at, err := ParsePack([]byte(pack))
	if err != nil {
		t.Fatalf("%x: %v", pack, err)
	}
	var values []string
	for range n {
		var value []byte
		value, at = NextValue([]byte(pack), at)
		values = append(values, string(value))
	}
	if at != len(pack) {
		t.Errorf("%x: the values end at %d of %d", pack, at, len(pack))
	}
	return values
}

func TestPackRoundTrip(t *testing.T) {
	for _, values := range [][]string{
		{""},
		{"one"},
		{"", "", ""},
		{"one", "", magic, packOf("within", "another"), "Grüße"},
		{strings.Repeat("x", MaxValue), "behind"},
	} {
		pack := packOf(values...)
		if got := valuesOf(t, pack); strings.Join(got, "|") != strings.Join(values, "|") || len(got) != len(values) {
			t.Errorf("got %.100q, want %.100q", got, values)
		}
		for _, behind := range []string{"", "\xFF\xFF\xFF"} {
			if n, ok := Length([]byte(pack + behind)); !ok || n != len(pack) {
				t.Errorf("length %d, %v, want %d", n, ok, len(pack))
			}
		}
	}
}

// TestPackLayout has the bytes that docs/envelope.md promises.
func TestPackLayout(t *testing.T) {
	want := "\xFEcmq\x01\x06\x0e\x00" + "\x02\x00" + "\x07\x00\x00\x00" + "\x03\x00one" + "\x00\x00"
	if got := packOf("one", ""); got != want {
		t.Errorf("got  %x\nwant %x", got, want)
	}
}

// TestPackLongerHeader: a reader skips what a later version adds to the header.
func TestPackLongerHeader(t *testing.T) {
	b := []byte(packOf("one", "two"))
	longer := string(b[:6]) + "\x13\x00" + string(b[8:PackHeader]) + "later" + string(b[PackHeader:])
	if got := valuesOf(t, longer); len(got) != 2 || got[0] != "one" || got[1] != "two" {
		t.Errorf("got %q", got)
	}
	if n, ok := Length([]byte(longer + "\xFF")); !ok || n != len(longer) {
		t.Errorf("length %d, %v, want %d", n, ok, len(longer))
	}
}

func TestPackDamaged(t *testing.T) {
	whole := packOf("one", "", "three")
	damaged := []string{
		"\xFEcmq\x01\x06\x0e\x00" + "\x00\x00" + "\x00\x00\x00\x00",                  // no values
		"\xFEcmq\x01\x06\x0e\x00" + "\x01\x00" + "\x03\x00\x00\x00" + "\x02\x00x",    // a value that is cut off
		"\xFEcmq\x01\x06\x0e\x00" + "\x02\x00" + "\x03\x00\x00\x00" + "\x00\x00\x00", // a length that is
		"\xFEcmq\x01\x06\x0e\x00" + "\x01\x00" + "\x04\x00\x00\x00" + "\x01\x00xx",   // bytes behind
		"\xFEcmq\x01\x06\x0e\x00" + "\x01\x00" + "\xFF\xFF\xFF\xFF" + "\x01\x00x",    // another size
		"\xFEcmq\x01\x06\x0d\x00" + "\x01\x00" + "\x03\x00\x00\x00" + "\x01\x00x",    // a header that is too short
		"\xFEcmq\x01\x06\xFF\xFF" + "\x01\x00" + "\x03\x00\x00\x00" + "\x01\x00x",    // and too long
	}
	for n := len(magic); n < len(whole); n++ {
		damaged = append(damaged, whole[:n])
	}
	for _, text := range damaged {
		if _, _, err := ParsePack([]byte(text)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%x: %v", text, err)
		}
		if !Ambiguous([]byte(text)) {
			t.Errorf("%x would be sent as it is", text)
		}
	}
	if _, _, err := ParsePack(Append(nil, &Header{Kind: Plain})); !errors.Is(err, ErrKind) {
		t.Errorf("a plain text: %v", err)
	}
	for _, text := range []string{"", "text", "\xFEcm", "\xFEcmq\x01\x06\x0e\x00\x01", whole[:len(whole)-1], "\xFEcmq\x02" + whole[5:]} {
		if n, ok := Length([]byte(text)); ok {
			t.Errorf("%x begins with a pack of %d bytes", text, n)
		}
	}
}

// TestAmbiguous: what needs an envelope where the receiver takes packs apart, or follows references.
func TestAmbiguous(t *testing.T) {
	for _, h := range headers() {
		want := h.Kind == Plain || h.Kind == Pack || h.Kind == Reference
		if got := Ambiguous(append(Append(nil, &h), "text"...)); got != want {
			t.Errorf("%v: %v", h.Kind, got)
		}
	}
	for text, want := range map[string]bool{"": false, "text": false, "\xFEcm": false, magic: true, magic + "\x02": true, packOf("x"): true} {
		if got := Ambiguous([]byte(text)); got != want {
			t.Errorf("%x: %v", text, got)
		}
	}
}

// FuzzParsePack: ParsePack never panics, and what it accepts is the pack of its values.
func FuzzParsePack(f *testing.F) {
	f.Add([]byte(packOf("one", "", "three")))
	f.Add([]byte(packOf("")))
	f.Add([]byte("text"))
	f.Fuzz(func(t *testing.T, text []byte) {
		n, ok := Length(text)
		values, at, err := ParsePack(text)
		if err != nil {
			return
		}
		if !ok || n != len(text) {
			t.Errorf("%x: length %d, %v", text, n, ok)
		}
		body := at
		var again []string
		for range values {
			var value []byte
			value, at = NextValue(text, at)
			again = append(again, string(value))
		}
		if at != len(text) || packOf(again...)[PackHeader:] != string(text[body:]) {
			t.Errorf("%x became %q", text, again)
		}
	})
}
