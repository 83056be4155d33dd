package format

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestPercentAndBar(t *testing.T) {
	for _, test := range []struct {
		n, max, percent int
		bar             string
	}{
		{0, 100, 0, ".........."},
		{1, 100, 1, "#........."},
		{99, 100, 99, "#########."},
		{100, 100, 100, "##########"},
		{101, 100, 100, "##########"},
		{9999, 10000, 99, "#########."},
		{1, 10000, 0, ".........."},
		{5, 0, 100, "##########"},
		{0, 0, 0, ".........."},
	} {
		percent := Percent(test.n, test.max)
		if bar := Bar(percent, 10); percent != test.percent || bar != test.bar {
			t.Errorf("%d of %d: %d %s, want %d %s", test.n, test.max, percent, bar, test.percent, test.bar)
		}
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second:                   "0s",
		59*time.Second + 999999999:     "59s",
		time.Minute:                    "1m00s",
		time.Hour - 1:                  "59m59s",
		25*time.Hour + 61*time.Minute:  "1d02h",
		23*time.Hour + 59*time.Minute:  "23h59m",
		100 * 24 * time.Hour:           "100d",
		2000*24*time.Hour + time.Hour:  "2000d",
		99*24*time.Hour + 23*time.Hour: "99d23h",
	} {
		if got := Duration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
	if got := Age(time.Now(), time.Time{}); got != "never" {
		t.Error(got)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int{"1": 1, "16384": 16384, "64K": 65536, "64k": 65536, "2M": 2 << 20} {
		if got, err := ParseSize(text); got != want || err != nil {
			t.Errorf("%s: %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-1", "K", "1G", "1.5K", "99999999999999999999"} {
		if got, err := ParseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestPrintable(t *testing.T) {
	for text, want := range map[string]string{
		"plain, grün":   "plain, grün",
		"\x1b[31m\a":    `\x1b[31m\x07`,
		"a\nb\tc\\":     `a\nb\tc\\`,
		"\xff\xc3":      `\xff\xc3`,
		"\u202eevil":    `\u202eevil`,
		"\u0085\x7f\r ": `\u0085\x7f\x0d `,
	} {
		if got := Printable([]byte(text)); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestHex(t *testing.T) {
	var b strings.Builder
	if err := Hex(&b, []byte("0123456789abcdef\x00\xff~")); err != nil {
		t.Fatal(err)
	}
	want := "00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n" +
		"00000010  00 ff 7e                                          |..~|\n"
	if b.String() != want {
		t.Errorf("\n%s want\n%s", b.String(), want)
	}
}

func TestTable(t *testing.T) {
	table := Table{Right: []bool{false, true}, Style: []string{"", "\x1b[31m"}}
	table.Row("NAME", "N", "")
	table.Row("grün", "1", "x")
	table.Row("b", "200", "")
	want := "NAME    N\ngrün    1  x\n\x1b[31mb     200\x1b[0m\n"
	if got := table.String(); got != want {
		t.Errorf("\n%q want\n%q", got, want)
	}
	table.Width = 4
	if got, want := table.String(), "NAME\ngrün\n\x1b[31mb   \x1b[0m\n"; got != want {
		t.Errorf("cut: %q want %q", got, want)
	}
}

// FuzzLine: what Append writes ParseLine reads, whatever the message is, and what ParseLine
// reads does not make it panic.
func FuzzLine(f *testing.F) {
	f.Add(int64(1), []byte("hello"), []byte(`{"type":1,"text":"x"}`))
	f.Add(int64(7), []byte("\xff\x00<&>\u2028"), []byte(`{"type":1,"base64":"!"}`))
	f.Add(int64(7), []byte{}, []byte(`{"struct":{"a":1}} {}`))
	f.Fuzz(func(t *testing.T, typ int64, text, line []byte) {
		encode := func(m json.RawMessage) ([]byte, error) { return m, nil }
		_, _, _ = ParseLine(line, 1, encode)
		if typ < 1 {
			return
		}
		written, err := NewLine(typ, text).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if strings.Count(string(written), "\n") != 1 {
			t.Fatalf("%q is not one line", written)
		}
		gotType, got, err := ParseLine(written, 1, nil)
		if err != nil || gotType != typ || string(got) != string(text) {
			t.Fatalf("%s: %d %q, %v", written, gotType, got, err)
		}
	})
}
