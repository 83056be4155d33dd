package engine

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// someTypes are types of all lengths.
func someTypes() []int64 {
	types := []int64{1, 2, 9, 10, 15, 16, 17, 255, 256, 4095, 4096, math.MaxInt32, math.MaxInt64 - 1, math.MaxInt64}
	for range 200 {
		types = append(types, max(1, rand.Int64()>>rand.IntN(62)))
	}
	return types
}

// TestSubjects: a type's subject leads back to it, and all are equally long.
func TestSubjects(t *testing.T) {
	l := layout{"P"}
	for _, typ := range someTypes() {
		subject := l.message(7, typ)
		if got, err := l.typeOf(subject); err != nil || got != typ {
			t.Errorf("%q is of type %d, error %v, want %d", subject, got, err, typ)
		}
		if got, err := l.typeOf(l.wakeOf(7, typ)); err != nil || got != typ {
			t.Errorf("%q is of type %d, error %v, want %d", l.wakeOf(7, typ), got, err, typ)
		}
		if len(subject) != l.subjectLength(7) {
			t.Errorf("%q has %d bytes, want %d", subject, len(subject), l.subjectLength(7))
		}
	}
	for _, subject := range []string{"", "P", "P.q.7", "P.q.7.1.p", "P.q.7.1.x.p", "P.q.7.1.0.p", "other.q.7.1.1.p"} {
		if typ, err := l.typeOf(subject); err == nil {
			t.Errorf("%q is of type %d", subject, typ)
		}
	}
}

// selects reports whether a filter of subjects selects one.
func selects(filter, subject string) bool {
	if prefix, ok := strings.CutSuffix(filter, ">"); ok {
		return strings.HasPrefix(subject, prefix) && len(subject) > len(prefix)
	}
	return filter == subject
}

// TestSubtrees: each type is in one subtree below another type, or above it, or is that type.
func TestSubtrees(t *testing.T) {
	l := layout{"P"}
	types := someTypes()
	for _, of := range types {
		digits := digitsOf(of)
		filters := func(list []subtree) (filters []string) {
			for _, s := range list {
				filters = append(filters, l.filter("q", 7, s))
			}
			return filters
		}
		lower, higher := filters(below(digits)), filters(above(digits))
		for _, typ := range types {
			subject := l.message(7, typ)
			in := func(filters []string) (n int) {
				for _, f := range filters {
					if selects(f, subject) {
						n++
					}
				}
				return n
			}
			want := [2]int{}
			if typ < of {
				want[0] = 1
			}
			if typ > of {
				want[1] = 1
			}
			if got := [2]int{in(lower), in(higher)}; got != want {
				t.Errorf("type %d is in %v subtrees below and above %d, want %v", typ, got, of, want)
			}
		}
		if n := len(lower) + len(higher); n > 16*maxDigits {
			t.Errorf("%d subtrees", n)
		}
	}
}

// TestSubtreesAscend: what is in one is lower than what is in the next.
func TestSubtreesAscend(t *testing.T) {
	lowest := func(s subtree) string {
		return fmt.Sprintf("%c%s", length(s.digits), s.begin+strings.Repeat("0", s.digits-len(s.begin)))
	}
	for _, typ := range someTypes() {
		list := below(digitsOf(typ))
		if !slices.IsSortedFunc(list, func(a, b subtree) int { return strings.Compare(lowest(a), lowest(b)) }) {
			t.Errorf("below %x: %v", typ, list)
		}
	}
}

// TestWakesOf: a selector hears of the messages that it selects, each once, and of no others.
func TestWakesOf(t *testing.T) {
	l := layout{"P"}
	types := someTypes()
	for _, s := range []Selector{{}, {OfType, 17}, {UpTo, 256}, {UpTo, math.MaxInt64}, {Except, 1}, {Except, 4095}} {
		filters := l.wakesOf(7, s)
		for _, typ := range types {
			n := 0
			for _, f := range filters {
				if selects(f, l.wakeOf(7, typ)) {
					n++
				}
			}
			if want := map[bool]int{true: 1}[s.Matches(typ)]; n != want {
				t.Errorf("%+v hears %d times of type %d, want %d", s, n, typ, want)
			}
		}
	}
}
