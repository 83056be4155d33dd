package chanmq

import (
	"testing"

	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysv"
)

// TestIdentify holds what collect needs when the program reads C at the same
// time: of the values that may have been the one taken, the right one is found.
func TestIdentify(t *testing.T) {
	type record struct{ N int }
	rawOf := func(typ int, text string) raw {
		m := raw{buf: sysv.Buffer(smallMessage), n: len(text)}
		sysv.PutType(m.buf, typ)
		copy(m.text(), text)
		return m
	}
	// Values 4 to 8 were sent; the ring holds the last five, value 5 first.
	r := &Receiver[record]{
		q: &Queue[record]{codec: codec.JSON[record]()},
		ring: []raw{
			rawOf(1, `{"N":5}`),
			rawOf(1, `{"N":6,"unseen":1}`),
			{}, // value 7 was handed back already
			rawOf(2, `{"N":8}`),
			rawOf(1, `{"N":8}`), // value 4, or 9
		},
	}
	tests := []struct {
		name      string
		m         Message[record]
		from, end uint64 // numbers of the values that it may be
		want      uint64 // index in the ring
	}{
		{"only one", Message[record]{1, record{99}}, 5, 6, 0},
		{"the first of two", Message[record]{1, record{5}}, 5, 7, 0},
		{"the second of two", Message[record]{1, record{6}}, 5, 7, 1},
		{"not the one that is gone", Message[record]{2, record{8}}, 7, 9, 3},
		{"by its type", Message[record]{2, record{8}}, 8, 10, 3},
		{"by its type, the last", Message[record]{1, record{8}}, 8, 10, 4},
		{"of all", Message[record]{1, record{6}}, 5, 10, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := r.identify(test.m, test.from, test.end); got != test.want {
				t.Errorf("identified as %d, want %d", got, test.want)
			}
		})
	}
}
