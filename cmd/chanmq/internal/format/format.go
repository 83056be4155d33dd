// Package format makes text of what chanmq shows: tables, bars, times, bytes. It knows
// nothing of queues in the kernel.
package format

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Count is like "1 message" and "2 messages".
func Count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// Percent is how much of max n is, 0 to 100, rounded down: only what is full is 100.
func Percent(n, max int) int {
	switch {
	case n <= 0:
		return 0
	case max <= 0 || n >= max:
		return 100
	}
	return int(100 * int64(n) / int64(max))
}

// Bar draws percent as a bar of width cells.
func Bar(percent, width int) string {
	filled := percent * width / 100
	if percent > 0 && filled == 0 {
		filled = 1
	}
	return strings.Repeat("#", filled) + strings.Repeat(".", width-filled)
}

// Age is how long ago t was, in one or two units, "never" for the zero time.
func Age(now, t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return Duration(now.Sub(t))
}

// Duration is a duration in one or two units, rounded down to seconds.
func Duration(d time.Duration) string {
	const day = 24 * time.Hour
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	case d < day:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	case d < 100*day:
		return fmt.Sprintf("%dd%02dh", d/day, d%day/time.Hour)
	}
	return fmt.Sprintf("%dd", d/day)
}

// ParseSize reads a number of bytes, which may end in K or M.
func ParseSize(text string) (int, error) {
	digits, factor := text, 1
	switch {
	case strings.HasSuffix(strings.ToUpper(text), "K"):
		digits, factor = text[:len(text)-1], 1<<10
	case strings.HasSuffix(strings.ToUpper(text), "M"):
		digits, factor = text[:len(text)-1], 1<<20
	}
	n, err := strconv.ParseUint(digits, 10, 40)
	if err != nil || n == 0 || n > uint64(maxInt/factor) {
		return 0, fmt.Errorf("%q is no size: give a number of bytes, such as 16384, 64K or 1M", text)
	}
	return int(n) * factor, nil
}

const maxInt = int(^uint(0) >> 1)

// Printable is text for a terminal: control characters, which could do anything to the
// terminal, and bytes that are no UTF-8 become escapes.
func Printable(text []byte) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\\':
			b.WriteString(`\\`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x80:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		text = text[n:]
	}
	return b.String()
}

// Hex writes a dump of text: offset, bytes, characters.
func Hex(w io.Writer, text []byte) error {
	for at := 0; at < len(text); at += 16 {
		row := text[at:min(at+16, len(text))]
		var b strings.Builder
		fmt.Fprintf(&b, "%08x ", at)
		for i := range 16 {
			if i%8 == 0 {
				b.WriteByte(' ')
			}
			if i < len(row) {
				fmt.Fprintf(&b, "%02x ", row[i])
			} else {
				b.WriteString("   ")
			}
		}
		b.WriteString(" |")
		for _, c := range row {
			if c < 0x20 || c > 0x7e {
				c = '.'
			}
			b.WriteByte(c)
		}
		b.WriteString("|\n")
		if _, err := io.WriteString(w, b.String()); err != nil {
			return err
		}
	}
	return nil
}

// Table lays out rows in columns.
type Table struct {
	Right []bool   // columns that are numbers
	Width int      // lines are cut at this many characters; 0: they are not
	Style []string // of each row, behind the header, an escape sequence; may be shorter
	rows  [][]string
}

// Row adds a row.
func (t *Table) Row(cells ...string) { t.rows = append(t.rows, cells) }

// String is the table, without blanks at the ends of lines.
func (t *Table) String() string {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for n, row := range t.rows {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			blanks := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i < len(t.Right) && t.Right[i] {
				line.WriteString(blanks + cell)
			} else {
				line.WriteString(cell + blanks)
			}
		}
		text := strings.TrimRight(line.String(), " ")
		if runes := []rune(text); t.Width > 0 && len(runes) > t.Width {
			text = string(runes[:t.Width])
		}
		if n > 0 && n <= len(t.Style) && t.Style[n-1] != "" {
			text = t.Style[n-1] + text + "\x1b[0m"
		}
		b.WriteString(text + "\n")
	}
	return b.String()
}
