package peer

import (
	"strings"
	"testing"
)

// A message counts only if it is whole, and its turn.
func TestArrivals(t *testing.T) {
	const size = 32
	text := func(size int, number, sender, atEnd int64) []byte {
		b := Text(size)
		putStamp(b, number)
		putSender(b, sender)
		putStamp(end(b), atEnd)
		return b
	}
	for _, c := range []struct {
		name string
		text []byte
		ends bool
		want string // in the error; "": none
	}{
		{"its turn", text(size, 7, 0, 7), true, ""},
		{"too short", text(size-1, 7, 0, 7), true, "31 bytes, not 32"},
		{"lost before it", text(size, 8, 0, 8), true, "message 8 of sender 0 out of order"},
		{"doubled", text(size, 6, 0, 6), true, "message 6 of sender 0 out of order"},
		{"no such sender", text(size, 7, 1, 7), true, "message 7 of sender 1 out of order"},
		{"end of another", text(size, 7, 0, 3), true, "message 7 ends as message 3"},
		{"end that says nothing", text(size, 7, 0, 3), false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := arrivals{size: size, ends: c.ends, next: []int64{7}}
			err := a.check(c.text)
			switch {
			case c.want == "" && err != nil:
				t.Error(err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("err = %v, want %q", err, c.want)
			}
			if want := int64(7); err == nil && a.next[0] != want+1 || err != nil && a.next[0] != want {
				t.Errorf("err = %v, and the next one is %d", err, a.next[0])
			}
		})
	}
}
