package engine

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// This file is which subjects a queue has. A message's subject is
//
//	<prefix>.q.<msqid>.<n>.<d1>.....<dn>.<padding>
//
// where d1 to dn are the hexadecimal digits of its type, without leading zeros, and n is how
// many. So each range of types is a few wildcards, in their order, and the lowest type of
// those in a queue is found by a few questions, however many there are. The padding makes all subjects
// of a queue equally long, so that the bytes of texts follow from those that the
// server counts.

// layout are the subjects and the stream names of an Engine.
type layout struct{ prefix string }

const maxDigits = 16

// digitsOf returns the digits of a type.
func digitsOf(typ int64) string { return strconv.FormatInt(typ, 16) }

// length is the token of how many digits there are: 1 to 9, a to g.
func length(digits int) byte { return "0123456789abcdefg"[digits] }

func (l layout) keys() string                { return l.prefix + "_KEYS" }
func (l layout) keySubjects() string         { return l.prefix + ".k.>" }
func (l layout) key(key int32) string        { return fmt.Sprintf("%s.k.%08x", l.prefix, uint32(key)) }
func (l layout) private(nonce string) string { return l.prefix + ".k.private." + nonce }

func (l layout) stream(id int) string  { return fmt.Sprintf("%s_Q%d", l.prefix, id) }
func (l layout) all(id int) string     { return fmt.Sprintf("%s.q.%d.>", l.prefix, id) }
func (l layout) wakes(id int) string   { return fmt.Sprintf("%s.w.%d.>", l.prefix, id) }
func (l layout) ledgers(id int) string { return fmt.Sprintf("%s.l.%d.>", l.prefix, id) }
func (l layout) ledger(id int, name string) string {
	return fmt.Sprintf("%s.l.%d.%s", l.prefix, id, name)
}

// room is where those who have taken a message say so, and removed where whoever has removed the
// queue does.
func (l layout) room(id int) string    { return fmt.Sprintf("%s.r.%d", l.prefix, id) }
func (l layout) removed(id int) string { return fmt.Sprintf("%s.x.%d", l.prefix, id) }

// message returns the subject of messages of the type.
func (l layout) message(id int, typ int64) string {
	var b strings.Builder
	digits := digitsOf(typ)
	fmt.Fprintf(&b, "%s.q.%d.%c", l.prefix, id, length(len(digits)))
	for _, d := range digits {
		b.WriteByte('.')
		b.WriteRune(d)
	}
	b.WriteByte('.')
	b.WriteString(padding[:2*(maxDigits-len(digits))+1])
	return b.String()
}

// subjectLength is that of each message's subject.
func (l layout) subjectLength(id int) int { return len(l.message(id, 1)) }

var padding = strings.Repeat("p", 2*maxDigits+1)

// typeOf returns the type of a message, of its subject or of that of its wake-up.
func (l layout) typeOf(subject string) (int64, error) {
	rest, ok := strings.CutPrefix(subject, l.prefix+".")
	tokens := strings.Split(rest, ".")
	if !ok || len(tokens) < 5 {
		return 0, fmt.Errorf("the subject %q is not that of a message", subject)
	}
	typ, err := strconv.ParseInt(strings.Join(tokens[3:len(tokens)-1], ""), 16, 64)
	if err != nil || typ < 1 {
		return 0, fmt.Errorf("the subject %q is not that of a message", subject)
	}
	return typ, nil
}

// subtree is the types whose digits begin with some.
type subtree struct {
	digits int    // how many they have
	begin  string // the first of them
}

// filter is the wildcard of the subtree. kind is "q" or "w".
func (l layout) filter(kind string, id int, t subtree) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s.%s.%d.%c", l.prefix, kind, id, length(t.digits))
	for _, d := range t.begin {
		b.WriteByte('.')
		b.WriteRune(d)
	}
	b.WriteString(".>")
	return b.String()
}

// below returns the subtrees of the types less than the digits, in ascending order.
func below(digits string) []subtree {
	var list []subtree
	for n := 1; n < len(digits); n++ {
		list = append(list, subtree{n, ""})
	}
	for i := range digits {
		// Those that differ first in this digit: the later, the higher.
		for d := firstDigit(i); d < digits[i]; d = nextDigit(d) {
			list = append(list, subtree{len(digits), digits[:i] + string(d)})
		}
	}
	return list
}

// above returns the subtrees of the types greater than the digits.
func above(digits string) []subtree {
	var list []subtree
	for i := range digits {
		for d := nextDigit(digits[i]); d != 0; d = nextDigit(d) {
			list = append(list, subtree{len(digits), digits[:i] + string(d)})
		}
	}
	for n := len(digits) + 1; n <= maxDigits; n++ {
		list = append(list, subtree{n, ""})
	}
	return list
}

// firstDigit is the least that a type may have at the place.
func firstDigit(place int) byte {
	if place == 0 {
		return '1'
	}
	return '0'
}

// nextDigit returns the digit behind d, 0 behind the last.
func nextDigit(d byte) byte {
	switch d {
	case '9':
		return 'a'
	case 'f':
		return 0
	}
	return d + 1
}

// wakeOf is the wake-up subject of messages of the type.
func (l layout) wakeOf(id int, typ int64) string {
	return l.prefix + ".w" + l.message(id, typ)[len(l.prefix)+len(".q"):]
}

// wakesOf are the wake-up subjects of messages that the selector selects.
func (l layout) wakesOf(id int, s Selector) []string { return l.subjectsOf("w", id, s) }

// subjectsOf are the subjects of messages that the selector selects, or of their wake-ups. kind is "q" or "w".
func (l layout) subjectsOf(kind string, id int, s Selector) []string {
	digits := digitsOf(s.Type)
	ofType := l.message(id, s.Type)
	if kind == "w" {
		ofType = l.wakeOf(id, s.Type)
	}
	var types []subtree
	switch s.Mode {
	case Any:
		return []string{fmt.Sprintf("%s.%s.%d.>", l.prefix, kind, id)}
	case OfType:
		return []string{ofType}
	case UpTo:
		types = below(digits)
	case Except:
		types = slices.Concat(below(digits), above(digits))
	}
	var filters []string
	for _, t := range types {
		filters = append(filters, l.filter(kind, id, t))
	}
	if s.Mode == UpTo {
		filters = append(filters, ofType)
	}
	return filters
}

// passedOn is where a wake-up goes for which nobody in its process has waited.
func (l layout) passedOn(id int, group string) string {
	return fmt.Sprintf("%s.p.%d.%s", l.prefix, id, group)
}
