package php_test

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/rand"
	"os/exec"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/codec/php"
)

// runPHP runs a program in the php interpreter and returns the lines it prints.
func runPHP(t *testing.T, program string) []string {
	t.Helper()
	path, err := exec.LookPath("php")
	if err != nil {
		t.Skipf("the php interpreter is not installed: %v", err)
	}
	// Without php.ini, precision and error display have their default settings.
	cmd := exec.Command(path, "-n", "-d", "display_errors=stderr")
	cmd.Stdin = strings.NewReader("<?php\n" + program)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("php: %v\n%s%s", err, stderr.String(), out)
	}
	return strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
}

func unhex(t *testing.T, line string) string {
	t.Helper()
	text, err := hex.DecodeString(line)
	if err != nil {
		t.Fatalf("php printed %q: %v", line, err)
	}
	return string(text)
}

// PHP encodes the vectors as listed, and decodes the output of Append to the value
// of the expression.
func TestVectorsInPHP(t *testing.T) {
	all := vectors()
	var program strings.Builder
	program.WriteString(`class Order { public $id = 7; protected $note = "n"; private $secret = true; }
function both($v, $own) {
	echo bin2hex(serialize($v)), "\n", $own === "" ? "" : bin2hex(serialize(unserialize(hex2bin($own)))), "\n";
}
`)
	owns := make([]string, len(all))
	for i, v := range all {
		if owns[i] = v.check(t, v.text); v.own == "-" {
			owns[i] = ""
		}
		fmt.Fprintf(&program, "both(%s, %q);\n", v.php, hex.EncodeToString([]byte(owns[i])))
	}
	lines := runPHP(t, program.String())
	if len(lines) != 2*len(all) {
		t.Fatalf("php printed %d lines, want %d", len(lines), 2*len(all))
	}
	for i, v := range all {
		if got := unhex(t, lines[2*i]); got != v.text {
			t.Errorf("serialize(%s) is %q here, the vector has %q", v.php, got, v.text)
		}
		if got := unhex(t, lines[2*i+1]); owns[i] != "" && got != v.text {
			t.Errorf("unserialize(%q) is %q, want %s", owns[i], got, v.php)
		}
	}
}

// Any value that passes through PHP comes back unchanged.
func TestThroughPHP(t *testing.T) {
	c := php.Serialize[any]()
	random := rand.New(rand.NewSource(1)) // the same values in each run
	var program strings.Builder
	values := make([]any, 500)
	for i := range values {
		values[i] = randomValue(random, 4)
		text, err := c.Append(nil, values[i])
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&program, "echo bin2hex(serialize(unserialize(hex2bin('%x')))), \"\\n\";\n", text)
	}
	lines := runPHP(t, program.String())
	if len(lines) != len(values) {
		t.Fatalf("php printed %d lines, want %d", len(lines), len(values))
	}
	for i, want := range values {
		text := unhex(t, lines[i])
		var got any
		if err := c.Decode([]byte(text), &got); err != nil {
			t.Errorf("Decode(%q): %v", text, err)
		} else if !same(got, want) {
			t.Errorf("%#v came back as %#v", want, got)
		}
	}
}

// randomValue returns values of the types that Decode stores in an interface.
func randomValue(r *rand.Rand, depth int) any {
	kinds := 8
	if depth == 0 {
		kinds = 6
	}
	switch r.Intn(kinds) {
	case 0:
		return nil
	case 1:
		return r.Intn(2) == 0
	case 2:
		return int64(r.Uint64()) >> r.Intn(64)
	case 3:
		f := math.Float64frombits(r.Uint64())
		if math.IsNaN(f) {
			return 0.5 // a NaN inside another value would not compare equal
		}
		return f
	case 4:
		return float64(r.Intn(2000)-1000) / 8
	case 5:
		return randomText(r)
	case 6:
		list := make([]any, r.Intn(5))
		for i := range list {
			list[i] = randomValue(r, depth-1)
		}
		return list
	default:
		m := map[string]any{}
		for range 1 + r.Intn(4) {
			// Not a number, which PHP would convert to an integer key.
			m["k"+randomText(r)] = randomValue(r, depth-1)
		}
		return m
	}
}

func randomText(r *rand.Rand) string {
	const alphabet = "abc '\"\\;:{}\x00\x01\n\xff\xc3\xbc☃🐘0123456789xn"
	text := make([]byte, r.Intn(20))
	for i := range text {
		text[i] = alphabet[r.Intn(len(alphabet))]
	}
	return string(text)
}

// PHP refuses the same malformed texts as this package, so that neither side
// accepts a message that the other refuses.
func TestPHPRefusesTheSame(t *testing.T) {
	texts := []string{``, `hello`, `b:2;`, `i:1`, `i:;`, `d:0x1p-2;`, `d:+Inf;`, `s:5:"abcd";`, `s:3:"abcd";`,
		`s:2000000000:"abcd";`, `s:-1:"";`, `a:2000000000:{i:0;i:1;}`, `a:1:{i:0;i:1;i:1;i:2;}`, `a:-1:{}`, `a:1:{N;N;}`}
	var program strings.Builder
	for _, text := range texts {
		fmt.Fprintf(&program, "echo @unserialize(hex2bin('%x')) === false ? 'refused' : 'taken', \"\\n\";\n", text)
	}
	lines := runPHP(t, program.String())
	for i, text := range texts {
		var v any
		if err := php.Serialize[any]().Decode([]byte(text), &v); err == nil || lines[i] != "refused" {
			t.Errorf("%q: error %v here, %s by PHP", text, err, lines[i])
		}
	}
}
