package php_test

import (
	"bytes"
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/elliotchance/phpserialize"

	"github.com/chanmq/chanmq/codec/php"
)

// codecOf is a copy of chanmq's Codec[T], and as of its As: the result of
// Serialize must implement the one, and the other must infer T from it.
type codecOf[T any] interface {
	Append(dst []byte, v T) ([]byte, error)
	Decode(src []byte, v *T) error
}

func as[T any](c codecOf[T]) codecOf[T] { return c }

var _ codecOf[time.Time] = as(php.Serialize[time.Time]())

type order struct {
	ID     int    `php:"id"`
	Note   string `php:"note"`
	Secret bool   `php:"-"`
	Tags   []string
	Parent *order
	hidden int
}

// pair is an array with the keys 0 and 1.
type pair struct {
	N int    `php:"0"`
	S string `php:"1"`
}

// vector is a value in PHP and in Go, and its encoding.
type vector struct {
	php  string // an expression
	text string // its encoding by serialize(), from PHP 8.2
	// own is its encoding by Append if that differs: "" if it does not, "-" if
	// it encodes a different value.
	own   string
	check func(t *testing.T, text string) (own string)
}

func newVector[T any](expr, text, own string, want T) vector {
	return vector{expr, text, own, func(t *testing.T, text string) string {
		t.Helper()
		c := php.Serialize[T]()
		const before = "before"
		out, err := c.Append([]byte(before), want)
		if err != nil || !strings.HasPrefix(string(out), before) {
			t.Fatalf("Append(%#v) = %q, %v", want, out, err)
		}
		out = out[len(before):]
		texts := []string{text, string(out)}
		if own == "-" {
			texts = texts[:1]
		}
		for _, text := range texts {
			src := []byte(text)
			v := earlier[T]()
			if err := c.Decode(src, &v); err != nil {
				t.Fatalf("Decode(%q): %v", text, err)
			}
			clear(src) // Decode must not retain it
			if !same(v, want) {
				t.Errorf("Decode(%q) = %#v, want %#v", text, v, want)
			}
		}
		return string(out)
	}}
}

// earlier returns a value of T that is not zero, for some T: nothing of it may
// remain after Decode.
func earlier[T any]() (v T) {
	switch p := any(&v).(type) {
	case *order:
		*p = order{9, "earlier", true, []string{"x"}, &order{}, 9}
	case *map[string]any:
		*p = map[string]any{"earlier": 1}
	case *map[any]int:
		*p = map[any]int{"earlier": 1}
	case *[]int:
		*p = []int{9, 9, 9, 9, 9}
	case *any:
		*p = "earlier"
	case *string:
		*p = "earlier"
	case **int:
		*p = new(int)
	}
	return v
}

// same is reflect.DeepEqual, except that all NaNs are the same.
func same(a, b any) bool {
	x, isFloat := a.(float64)
	y, isFloatToo := b.(float64)
	if isFloat && isFloatToo {
		return math.Float64bits(x) == math.Float64bits(y) || math.IsNaN(x) && math.IsNaN(y)
	}
	return reflect.DeepEqual(a, b)
}

func vectors() []vector {
	seven := 7
	return []vector{
		newVector[any](`null`, `N;`, "", nil),
		newVector[*int](`null`, `N;`, "", nil),
		newVector(`7`, `i:7;`, "", &seven),
		newVector(`true`, `b:1;`, "", true),
		newVector(`false`, `b:0;`, "", false),
		newVector[any](`true`, `b:1;`, "", true),
		newVector(`0`, `i:0;`, "", 0),
		newVector(`-5`, `i:-5;`, "", int8(-5)),
		newVector(`255`, `i:255;`, "", uint8(255)),
		newVector(`PHP_INT_MAX`, `i:9223372036854775807;`, "", int64(math.MaxInt64)),
		newVector(`PHP_INT_MAX`, `i:9223372036854775807;`, "", uint64(math.MaxInt64)),
		newVector(`PHP_INT_MIN`, `i:-9223372036854775808;`, "", int64(math.MinInt64)),
		newVector[any](`-5`, `i:-5;`, "", int64(-5)),
		newVector(`1.0`, `d:1;`, "", 1.0),
		newVector[any](`1.0`, `d:1;`, "", 1.0),
		newVector(`-0.0`, `d:-0;`, "", math.Copysign(0, -1)),
		newVector(`0.1`, `d:0.1;`, "", 0.1),
		newVector(`0.1`, `d:0.1;`, "", float32(0.1)),
		newVector(`1.5e300`, `d:1.5E+300;`, "", 1.5e300),
		newVector(`1e25`, `d:1.0E+25;`, `d:1E+25;`, 1e25),
		newVector(`-2.5e-7`, `d:-2.5E-7;`, `d:-2.5E-07;`, -2.5e-7),
		newVector(`PHP_FLOAT_MAX`, `d:1.7976931348623157E+308;`, "", math.MaxFloat64),
		newVector(`4.9e-324`, `d:5.0E-324;`, `d:5E-324;`, math.SmallestNonzeroFloat64),
		newVector(`NAN`, `d:NAN;`, "", math.NaN()),
		newVector(`INF`, `d:INF;`, "", math.Inf(1)),
		newVector(`-INF`, `d:-INF;`, "", math.Inf(-1)),
		newVector(`3.0`, `d:3;`, "-", 3), // round() returns a float
		newVector(`3`, `i:3;`, "-", 3.0),
		newVector(`""`, `s:0:"";`, "", ""),
		newVector(`""`, `s:0:"";`, "", []byte{}),
		newVector(`"hello"`, `s:5:"hello";`, "", "hello"),
		newVector(`"it's \\ \"x\"; \n\x41"`, "s:14:\"it's \\ \"x\"; \nA\";", "", "it's \\ \"x\"; \nA"),
		newVector(`'C:\new\x41'`, `s:10:"C:\new\x41";`, "", `C:\new\x41`),
		newVector(`"grün ☃ 🐘"`, `s:14:"grün ☃ 🐘";`, "", "grün ☃ 🐘"),
		newVector(`"\x00\xff\x80"`, "s:3:\"\x00\xff\x80\";", "", []byte{0, 255, 128}),
		newVector(`"\x00\xff\x80"`, "s:3:\"\x00\xff\x80\";", "", [3]byte{0, 255, 128}),
		newVector[any](`"\x00\xff\x80"`, "s:3:\"\x00\xff\x80\";", "", "\x00\xff\x80"),
		newVector(`"2026-02-03T04:05:06Z"`, `s:20:"2026-02-03T04:05:06Z";`, "", time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)),
		newVector(`["at" => "10.0.0.1"]`, `a:1:{s:2:"at";s:8:"10.0.0.1";}`, "",
			map[string]netip.Addr{"at": netip.MustParseAddr("10.0.0.1")}),
		newVector(`[]`, `a:0:{}`, "", []int{}),
		newVector(`[]`, `a:0:{}`, "", map[string]any{}),
		newVector[any](`[]`, `a:0:{}`, "", []any{}),
		newVector(`[1,2,3]`, `a:3:{i:0;i:1;i:1;i:2;i:2;i:3;}`, "", []int{1, 2, 3}),
		newVector(`[1,2,3]`, `a:3:{i:0;i:1;i:1;i:2;i:2;i:3;}`, "", [3]int{1, 2, 3}),
		newVector(`[1,2,3]`, `a:3:{i:0;i:1;i:1;i:2;i:2;i:3;}`, "-", [4]int{1, 2, 3}),
		newVector(`["a","b"]`, `a:2:{i:0;s:1:"a";i:1;s:1:"b";}`, "", []string{"a", "b"}),
		newVector(`[7,"x"]`, `a:2:{i:0;i:7;i:1;s:1:"x";}`, `a:2:{s:1:"0";i:7;s:1:"1";s:1:"x";}`, pair{7, "x"}),
		newVector[any](`[1, "x", null, [true, 2.5]]`, `a:4:{i:0;i:1;i:1;s:1:"x";i:2;N;i:3;a:2:{i:0;b:1;i:1;d:2.5;}}`, "",
			[]any{int64(1), "x", nil, []any{true, 2.5}}),
		newVector(`["id" => 7, "note" => "n"]`, `a:2:{s:2:"id";i:7;s:4:"note";s:1:"n";}`, "-", order{ID: 7, Note: "n"}),
		newVector(`["id" => 7, "note" => "n", "Tags" => ["x"], "Parent" => ["id" => 6, "note" => "", "Tags" => [], "Parent" => null]]`,
			`a:4:{s:2:"id";i:7;s:4:"note";s:1:"n";s:4:"Tags";a:1:{i:0;s:1:"x";}s:6:"Parent";a:4:{s:2:"id";i:6;s:4:"note";s:0:"";s:4:"Tags";a:0:{}s:6:"Parent";N;}}`, "",
			order{ID: 7, Note: "n", Tags: []string{"x"}, Parent: &order{ID: 6, Tags: []string{}}}),
		newVector(`["id" => 7, "more" => [1, (object)["x" => 1.5]], "note" => null]`,
			`a:3:{s:2:"id";i:7;s:4:"more";a:2:{i:0;i:1;i:1;O:8:"stdClass":1:{s:1:"x";d:1.5;}}s:4:"note";N;}`, "-", order{ID: 7}),
		newVector(`["5" => "five", "x" => 1, -3 => 2, "05" => 3]`, `a:4:{i:5;s:4:"five";s:1:"x";i:1;i:-3;i:2;s:2:"05";i:3;}`, "-",
			map[string]any{"5": "five", "x": int64(1), "-3": int64(2), "05": int64(3)}),
		newVector(`[5 => 1, -3 => 2, "x" => 3]`, `a:3:{i:5;i:1;i:-3;i:2;s:1:"x";i:3;}`, "", map[any]int{int64(5): 1, int64(-3): 2, "x": 3}),
		newVector(`[9 => true, 10 => false]`, `a:2:{i:9;b:1;i:10;b:0;}`, "", map[uint16]bool{9: true, 10: false}),
		newVector[any](`[2 => "a", 0 => "b"]`, `a:2:{i:2;s:1:"a";i:0;s:1:"b";}`, "-", map[string]any{"0": "b", "2": "a"}),
		newVector[any](`[0 => "b", 2 => "a"]`, `a:2:{i:0;s:1:"b";i:2;s:1:"a";}`, `a:2:{s:1:"0";s:1:"b";s:1:"2";s:1:"a";}`, map[string]any{"0": "b", "2": "a"}),
		newVector(`[[1,2],[3]]`, `a:2:{i:0;a:2:{i:0;i:1;i:1;i:2;}i:1;a:1:{i:0;i:3;}}`, "", [][]int{{1, 2}, {3}}),
		newVector[any](`[["a"=>["b"=>["c"=>[]]]]]`, `a:1:{i:0;a:1:{s:1:"a";a:1:{s:1:"b";a:1:{s:1:"c";a:0:{}}}}}`, "",
			[]any{map[string]any{"a": map[string]any{"b": map[string]any{"c": []any{}}}}}),
		newVector(`(object)["id" => 7]`, `O:8:"stdClass":1:{s:2:"id";i:7;}`, "-", order{ID: 7}),
		newVector[any](`(object)["id" => 7]`, `O:8:"stdClass":1:{s:2:"id";i:7;}`, "-", map[string]any{"id": int64(7)}),
		newVector(`new Order`, "O:5:\"Order\":3:{s:2:\"id\";i:7;s:7:\"\x00*\x00note\";s:1:\"n\";s:13:\"\x00Order\x00secret\";b:1;}", "-",
			order{ID: 7, Note: "n"}),
		newVector(`[new Order]`, "a:1:{i:0;O:5:\"Order\":3:{s:2:\"id\";i:7;s:7:\"\x00*\x00note\";s:1:\"n\";s:13:\"\x00Order\x00secret\";b:1;}}", "-",
			[]map[string]any{{"id": int64(7), "note": "n", "secret": true}}),
	}
}

func TestVectors(t *testing.T) {
	for _, v := range vectors() {
		own := v.check(t, v.text)
		if want := v.own; want != "-" {
			if want == "" {
				want = v.text
			}
			if own != want {
				t.Errorf("%s: Append wrote %q, want %q", v.php, own, want)
			}
		}
	}
}

func TestNilIsAnEmptyArray(t *testing.T) {
	for name, c := range map[string]func() ([]byte, error){
		"slice": func() ([]byte, error) { return php.Serialize[[]int]().Append(nil, nil) },
		"map":   func() ([]byte, error) { return php.Serialize[map[string]int]().Append(nil, nil) },
	} {
		if out, err := c(); err != nil || string(out) != "a:0:{}" {
			t.Errorf("Append of a nil %s = %q, %v", name, out, err)
		}
	}
}

type (
	label    string
	octet    byte
	embedded struct {
		order
		Inner
		N any
	}
	Inner struct{ X int }
)

func TestNamedTypesAndEmbedding(t *testing.T) {
	v := struct {
		L label
		M map[label][2]octet
		E embedded
		P **[2]octet
	}{L: "l", M: map[label][2]octet{"k": {1, 2}}, E: embedded{Inner: Inner{3}, N: []octet("x")}}
	bytes2 := &[2]octet{'h', 'i'}
	v.P = &bytes2
	out, err := php.Serialize[any]().Append(nil, v)
	want := "a:4:{s:1:\"L\";s:1:\"l\";s:1:\"M\";a:1:{s:1:\"k\";s:2:\"\x01\x02\";}" +
		`s:1:"E";a:2:{s:5:"Inner";a:1:{s:1:"X";i:3;}s:1:"N";s:1:"x";}s:1:"P";s:2:"hi";}`
	if err != nil || string(out) != want {
		t.Fatalf("Append = %q, %v; want %q", out, err, want)
	}
	back := v
	if err := php.Serialize[struct {
		L label
		M map[label][2]octet
		E embedded
		P **[2]octet
	}]().Decode(out, &back); err != nil {
		t.Fatal(err)
	}
	v.E.N = "x"
	if !reflect.DeepEqual(back, v) {
		t.Errorf("Decode = %+v, want %+v", back, v)
	}
}

func refusing[T any](v T) func() error {
	return func() error {
		out, err := php.Serialize[T]().Append([]byte("before"), v)
		if err != nil && string(out) != "before" {
			panic("an error leaves " + string(out))
		}
		return err
	}
}

type ring struct{ Next *ring }

func TestAppendRefuses(t *testing.T) {
	circle := new(ring)
	circle.Next = circle
	type twice struct {
		A int `php:"x"`
		B int `php:"x"`
	}
	for _, c := range []struct {
		call func() error
		says []string
	}{
		{refusing(uint64(math.MaxInt64 + 1)), []string{"9223372036854775808", "PHP_INT_MAX"}},
		{refusing(map[uint64]int{math.MaxUint64: 1}), []string{"PHP_INT_MAX"}},
		{refusing(1i), []string{"complex128"}},
		{refusing(func() {}), []string{"func()"}},
		{refusing(make(chan int)), []string{"chan int"}},
		{refusing(map[float64]int{1.5: 1}), []string{"key", "float64"}},
		{refusing(map[any]int{nil: 1}), []string{"key"}},
		{refusing(map[string][]any{"a": {1, struct{ B any }{1i}}}), []string{`[s:1:"a"]: [1]: B: complex128`}},
		{refusing(twice{}), []string{"twice", `"x"`, "A and B"}},
		{refusing(circle), []string{"deeper than 512"}},
		{refusing(time.Date(12345, 1, 1, 0, 0, 0, 0, time.UTC)), []string{"year"}},
	} {
		err := c.call()
		if err == nil {
			t.Errorf("no error, want one that says %q", c.says)
			continue
		}
		for _, says := range append(c.says, "php: ") {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("error %q does not say %q", err, says)
			}
		}
	}
}

func decoding[T any](text string) func() error {
	return func() error { return php.Serialize[T]().Decode([]byte(text), new(T)) }
}

type endless *endless

func TestDecodeRefuses(t *testing.T) {
	deep := strings.Repeat("a:1:{i:0;", 600) + "N;" + strings.Repeat("}", 600)
	for _, c := range []struct {
		name string
		call func() error
		says string
	}{
		{"nothing", decoding[any](``), "format"},
		{"rubbish", decoding[any](`hello`), "format"},
		{"two values", decoding[any](`i:1;i:2;`), "at byte 4: 4 bytes after"},
		{"a bool that is neither", decoding[any](`b:2;`), "format"},
		{"no end", decoding[any](`i:1`), "format"},
		{"no number", decoding[any](`i:;`), "format"},
		{"an int too large", decoding[any](`i:9223372036854775808;`), "format"},
		{"Go's hexadecimal float", decoding[any](`d:0x1p-2;`), "format"},
		{"Go's infinity", decoding[any](`d:+Inf;`), "format"},
		{"a float too large", decoding[any](`d:1e999;`), "format"},
		{"a string too short", decoding[string](`s:5:"abcd";`), "format"},
		{"a string too long", decoding[string](`s:3:"abcd";`), "format"},
		{"a string much too long", decoding[string](`s:2000000000:"abcd";`), "2000000000 is more"},
		{"a string of negative length", decoding[string](`s:-1:"";`), "format"},
		{"a count too large", decoding[[]int](`a:2000000000:{i:0;i:1;}`), "2000000000 is more"},
		{"a count too small", decoding[[]int](`a:1:{i:0;i:1;i:1;i:2;}`), "format"},
		{"a negative count", decoding[any](`a:-1:{}`), "format"},
		{"a count beyond all", decoding[any](`a:99999999999999999999:{}`), "format"},
		{"a key that is none", decoding[any](`a:1:{N;N;}`), "format"},
		{"escaped strings", decoding[any](`S:1:"\41";`), "format"},
		{"too deep", decoding[any](deep), "deeper than 512"},
		{"too deep for a struct", decoding[struct{}](`a:1:{s:1:"x";` + deep + `}`), "deeper than 512"},
		{"an endless type", decoding[endless](`i:1;`), "deeper than 512"},
		{"a reference", decoding[any](`a:2:{i:0;i:1;i:1;R:2;}`), "at byte 17: a reference"},
		{"the same object", decoding[any](`a:2:{i:0;O:8:"stdClass":0:{}i:1;r:2;}`), "a reference"},
		{"an enum", decoding[any](`E:11:"Suit:Hearts";`), "enum"},
		{"text for an int", decoding[int](`s:1:"5";`), "at byte 0: a string does not fit int"},
		{"an int for text", decoding[string](`i:5;`), "an int does not fit string"},
		{"an int for a bool", decoding[bool](`i:1;`), "an int does not fit bool"},
		{"a bool for an int", decoding[int](`b:1;`), "a bool does not fit int"},
		{"an array for text", decoding[string](`a:0:{}`), "an array does not fit string"},
		{"an array for a time", decoding[time.Time](`a:0:{}`), "an array does not fit time.Time"},
		{"an int for a time", decoding[time.Time](`i:0;`), "an int does not fit time.Time"},
		{"text that is no time", decoding[time.Time](`s:1:"x";`), "parsing time"},
		{"an int8 too large", decoding[int8](`i:128;`), "128 overflows int8"},
		{"a negative uint", decoding[uint](`i:-1;`), "-1 overflows uint"},
		{"a fraction for an int", decoding[int](`d:1.5;`), "1.5 does not fit int"},
		{"a float too large for an int", decoding[int64](`d:9223372036854775808;`), "does not fit int64"},
		{"NaN for an int", decoding[int](`d:NAN;`), "NaN does not fit int"},
		{"a float32 too large", decoding[float32](`d:1e300;`), "overflows float32"},
		{"bytes too few", decoding[[3]byte](`s:2:"ab";`), "2 bytes does not fit [3]uint8"},
		{"elements too many", decoding[[1]int](`a:2:{i:0;i:1;i:1;i:2;}`), "more elements than [1]int"},
		{"holes in a list", decoding[[]int](`a:2:{i:0;i:1;i:2;i:2;}`), `the key "2" where a list has 1`},
		{"a named key in a list", decoding[[]int](`a:1:{s:1:"x";i:1;}`), `the key "x" where a list has 0`},
		{"an object for a list", decoding[[]int](`O:8:"stdClass":0:{}`), "an object does not fit []int"},
		{"a named key in a map of ints", decoding[map[int]int](`a:1:{s:1:"x";i:1;}`), `the key "x" does not fit int`},
		{"a key too large", decoding[map[int8]int](`a:1:{i:128;i:1;}`), "128 overflows int8"},
		{"an interface with methods", decoding[error](`i:1;`), "an int does not fit error"},
		{"a func", decoding[func()](`i:1;`), "an int does not fit func()"},
	} {
		err := c.call()
		if err == nil {
			t.Errorf("%s: no error, want one that says %q", c.name, c.says)
		} else if !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "php: at byte ") {
			t.Errorf("%s: error %q does not say %q", c.name, err, c.says)
		}
	}
}

// A short message allocates little memory, whatever lengths it announces.
func TestDecodeAllocatesByWhatIsThere(t *testing.T) {
	for _, text := range []string{
		`a:100000000:{i:0;i:1;}`,
		`s:100000000:"x";`,
		`O:100000000:"x":1:{}`,
		`O:1:"x":100000000:{}`,
		strings.Repeat(`a:9:{i:0;`, 100),
		// At each level, a list turns out at its end not to be one: the values
		// in it must not be read twice.
		strings.Repeat(`a:2:{i:0;`, 100) + "N;" + strings.Repeat(`i:5;N;}`, 100),
	} {
		c := php.Serialize[any]()
		if got := testing.AllocsPerRun(1, func() {
			var v any
			_ = c.Decode([]byte(text), &v)
		}); got > 2000 {
			t.Errorf("Decode of %d bytes %.20q: %v allocations", len(text), text, got)
		}
	}
}

// Go programs that talk to PHP often use github.com/elliotchance/phpserialize. It
// reads and writes plain values as this package does. It changes strings with a '
// or a backslash, []byte, INF and NAN, so these are not compared.
func TestAgreesWithPhpserialize(t *testing.T) {
	for _, v := range []any{nil, true, false, int64(0), int64(-5), int64(math.MaxInt64), 0.5, -1234.5,
		"", "hello", "grün ☃ 🐘", []any{}, []any{int64(1), "x", nil, []any{true}}} {
		c := php.Serialize[any]()
		own, err := c.Append(nil, v)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := phpserialize.Marshal(v, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(own, theirs) {
			t.Errorf("%#v: %q, of phpserialize %q", v, own, theirs)
		}
	}

	// It sends structs as objects.
	type Job struct {
		Name  string
		Sizes []int
	}
	text, err := phpserialize.Marshal(Job{"j", []int{1, 2}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Name  string `php:"name"`
		Sizes []int  `php:"sizes"`
	}
	if err := php.Serialize[struct {
		Name  string `php:"name"`
		Sizes []int  `php:"sizes"`
	}]().Decode(text, &got); err != nil || got.Name != "j" || !reflect.DeepEqual(got.Sizes, []int{1, 2}) {
		t.Errorf("Decode(%q) = %+v, %v", text, got, err)
	}

	// And it reads ours into a map.
	own, err := php.Serialize[Job]().Append(nil, Job{"j", []int{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	m, err := phpserialize.UnmarshalAssociativeArray(own)
	if want := map[any]any{"Name": "j", "Sizes": []any{int64(1), int64(2)}}; err != nil || !reflect.DeepEqual(m, want) {
		t.Errorf("phpserialize read %q as %#v, %v", own, m, err)
	}
}
