package cstruct

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func parse(t *testing.T, declaration string, o Options) *Struct {
	t.Helper()
	s, err := Parse(declaration, o)
	if err != nil {
		t.Fatalf("%q: %v", declaration, err)
	}
	return s
}

// TestDecode: what messages look like, in both byte orders where that matters.
func TestDecode(t *testing.T) {
	little, big := Options{Order: binary.LittleEndian}, Options{Order: binary.BigEndian}
	for _, test := range []struct {
		declaration string
		o           Options
		text        string
		want        string
	}{
		{"i32 id", little, "\x07\x00\x00\x00", "id=7"},
		{"i32 id", big, "\x00\x00\x00\x07", "id=7"},
		{"int id; char name[4];", little, "\xff\xff\xff\xffab\x00z", `id=-1 name="ab"`},
		{"char[4] name", little, "abcd", `name="abcd"`},
		{"char[2] name", little, "\xff\x01", "name=[255 1]"},
		{"char c; char d", little, "x\x00", `c="x" d=""`},
		{"u8 a; u16 b; u32 c; u64 d", little, "\x01\x00\x02\x00\x03\x00\x00\x00\x04\x00\x00\x00\x00\x00\x00\x80", "a=1 b=2 c=3 d=9223372036854775812"},
		{"u8 a; u16 b", Options{Packed: true, Order: binary.BigEndian}, "\x01\x00\x02", "a=1 b=2"},
		{"i8 a[2][2]", little, "\x01\x02\x03\xfc", "a=[[1 2] [3 -4]]"},
		{"u8[2] a, b", little, "\x01\x02\x03\x04", "a=[1 2] b=[3 4]"},
		{"f32 x", little, "\x00\x00\xc0\x3f", "x=1.5"},
		{"f64 x", big, "\x3f\xf8\x00\x00\x00\x00\x00\x00", "x=1.5"},
		{"bool a, b", little, "\x00\x02", "a=false b=true"},
		{"u8 a; u8 _pad[2]; u8; u8 b", little, "\x01\xff\xff\xff\x02", "a=1 b=2"},
		{"u16 n; char[] text", little, "\x02\x00hello", `n=2 text="hello"`},
		{"u16 n; char text[]", little, "\x02\x00", `n=2 text=""`},
		{"u8 n; u16 values[]", little, "\x02\x00\x01\x00\x02\x00\x03", "n=2 values=[1 2]"},
		{"struct { u8 x; u16 y; } p[2]; u8 z", little, "\x01\x00\x02\x00\x03\x00\x04\x00\x05\x00", "p=[{x=1 y=2} {x=3 y=4}] z=5"},
		{"struct point { u8 x, y; };", little, "\x01\x02", "x=1 y=2"},
		{"unsigned x; const char s[1]; enum color c", little, "\x01\x00\x00\x00s\x00\x00\x00\x02\x00\x00\x00", `x=1 s="s" c=2`},
		{"/* all */ i8 a; // one\ni8 b", little, "\x01\x02", "a=1 b=2"},
	} {
		s := parse(t, test.declaration, test.o)
		record, err := s.Decode([]byte(test.text))
		if err != nil {
			t.Errorf("%q: %v", test.declaration, err)
			continue
		}
		if got := record.String(); got != test.want {
			t.Errorf("%q: %s, want %s", test.declaration, got, test.want)
		}
	}
}

// TestParseErrors: a mistake is named.
func TestParseErrors(t *testing.T) {
	for declaration, want := range map[string]string{
		"":                             "no members",
		";;":                           "no members",
		"lamp x":                       `unknown type "lamp"`,
		"i32 id f64 price":             `unknown type "i32 id f64"`,
		"i32 id[0]":                    "length of an array",
		"i32 id[-1]":                   "unexpected",
		"i32 id[99999999999]":          "length of an array",
		"i32 id[4":                     `want "]"`,
		"char *name":                   "pointer",
		"char[] text; i32 id":          "must be the last",
		"i32 a, ":                      "want a name",
		"i32 a; i64 a":                 "two members",
		"i32 a[2][]":                   "first length",
		"struct { i8 a; } ; struct {}": "no members",
		"struct { i8 a[]; } x":         "cannot be in a struct",
		"struct { i8 a;":               `not the end`,
		"i64 a[16777216]":              "larger than",
		"/* no end":                    "does not end",
		"i32 a:3":                      "unexpected",
		"u8[]":                         "needs a name",
		strings.Repeat("struct {", 20): "nested",
	} {
		_, err := Parse(declaration, Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want an error with %q", declaration, err, want)
		}
	}
}

// TestSizes: a message has the struct's size, or that with the padding behind it which a C
// program sends that takes the size of the struct with mtype.
func TestSizes(t *testing.T) {
	s := parse(t, "i32 data", Options{})
	long := strconv.IntSize / 8
	for n, ok := range map[int]bool{4: true, long: true, 3: false, 5: false, 0: false, 4 + long: false} {
		_, err := s.Decode(make([]byte, n))
		if (err == nil) != ok {
			t.Errorf("%d bytes: %v", n, err)
		}
		var size *SizeError
		if err != nil && !errors.As(err, &size) {
			t.Errorf("%d bytes: %T", n, err)
		}
		if n == 4+long && !strings.Contains(err.Error(), "mtype") {
			t.Errorf("%d bytes: %v, which does not name the usual mistake", n, err)
		}
	}
	if _, err := parse(t, "u8 a; u32 b", Options{Packed: true}).Decode(make([]byte, 8)); err == nil {
		t.Error("a packed struct has no padding behind it")
	}
}

// TestEncode: JSON, the message, and JSON again.
func TestEncode(t *testing.T) {
	for _, test := range []struct{ declaration, object, want string }{
		{"i32 id; f64 price; char[16] name", `{"name":"lamp","id":-7,"price":12.5}`, `{"id":-7,"price":12.5,"name":"lamp"}`},
		{"u8 a; u64 b", `{"b":18446744073709551615}`, `{"a":0,"b":18446744073709551615}`},
		{"u16 n; char[] text", `{"text":"hello","n":1}`, `{"n":1,"text":"hello"}`},
		{"u16 n; u32 v[]", `{"v":[1,2]}`, `{"n":0,"v":[1,2]}`},
		{"struct { i8 x; bool b; } p[2]", `{"p":[{"x":1},{"b":true}]}`, `{"p":[{"x":1,"b":false},{"x":0,"b":true}]}`},
		{"char c; char d; char[2] e", `{"c":"x","d":200,"e":[200,1]}`, `{"c":"x","d":200,"e":[200,1]}`},
		{"f32 x; f64 y", `{"x":"NaN","y":"-Inf"}`, `{"x":"NaN","y":"-Inf"}`},
	} {
		s := parse(t, test.declaration, Options{})
		text, err := s.Encode(json.RawMessage(test.object))
		if err != nil {
			t.Errorf("%s: %v", test.object, err)
			continue
		}
		record, err := s.Decode(text)
		if err != nil {
			t.Errorf("%s: %v", test.object, err)
			continue
		}
		if got, err := json.Marshal(record); err != nil || string(got) != test.want {
			t.Errorf("%s: %s, %v, want %s", test.object, got, err, test.want)
		}
	}
}

// TestEncodeErrors: what does not fit is refused, not cut.
func TestEncodeErrors(t *testing.T) {
	s := parse(t, "i8 a; u8 b; char[2] c; bool d; f32 e; i16[2] f; struct { i8 x; } g; char h", Options{})
	for _, object := range []string{
		`{"a":128}`, `{"a":1.5}`, `{"a":"1"}`, `{"a":true}`, `{"a":null}`, `{"b":-1}`, `{"c":"abc"}`, `{"c":[256]}`, `{"d":1}`,
		`{"e":"x"}`, `{"e":1e39}`, `{"f":[1,2,3]}`, `{"f":1}`, `{"g":1}`, `{"g":{"y":1}}`, `{"h":"ab"}`, `{"i":1}`, `[]`, `1`, `{"a"`,
	} {
		if text, err := s.Encode(json.RawMessage(object)); err == nil {
			t.Errorf("%s: encoded as %x", object, text)
		}
	}
}

// TestLikeC compares sizes and offsets with a C compiler's.
func TestLikeC(t *testing.T) {
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc")
	}
	declarations := []string{
		"int32_t id; double price; char name[16];",
		"char a; short b; char c; long d; char e; float f; char g; long long h;",
		"uint8_t a[3]; struct { char x; int y; } p[2]; unsigned long z; _Bool last;",
		"size_t n; struct { struct { double d; char c; } in; char c; } out; unsigned char tail[5];",
	}
	var program strings.Builder
	program.WriteString("#include <stdint.h>\n#include <stddef.h>\n#include <stdio.h>\n")
	for i, d := range declarations {
		fmt.Fprintf(&program, "struct s%d { %s };\nstruct __attribute__((packed)) p%d { %s };\n", i, d, i, d)
	}
	program.WriteString("int main(void) {\n")
	var want strings.Builder
	for i, d := range declarations {
		for _, packed := range []bool{false, true} {
			name := fmt.Sprintf("s%d", i)
			if packed {
				name = fmt.Sprintf("p%d", i)
			}
			s := parse(t, d, Options{Packed: packed})
			if !packed || !strings.Contains(d, "struct") { // packed does not reach into structs in C
				fmt.Fprintf(&program, "printf(\"%s %%zu\\n\", sizeof(struct %s));\n", name, name)
				fmt.Fprintf(&want, "%s %d\n", name, s.Size)
				for _, m := range s.members {
					fmt.Fprintf(&program, "printf(\"%s %%zu\\n\", offsetof(struct %s, %s));\n", m.name, name, m.name)
					fmt.Fprintf(&want, "%s %d\n", m.name, m.offset)
				}
			}
		}
	}
	program.WriteString("return 0; }\n")
	dir := t.TempDir()
	source, binary := filepath.Join(dir, "layout.c"), filepath.Join(dir, "layout")
	if err := os.WriteFile(source, []byte(program.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-o", binary, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got, err := exec.Command(binary).Output()
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want.String() {
		t.Errorf("C has\n%s\nand here it is\n%s", got, want.String())
	}
}

// FuzzStruct: no declaration and no message makes it panic, what is decoded can be encoded
// again, and the two agree.
func FuzzStruct(f *testing.F) {
	f.Add("i32 id; f64 price; char[16] name", []byte("0123456789012345678901234567890123456789"), false)
	f.Add("struct s { u8 a[2][3]; struct { char c; bool b; } p[2]; char[] rest; };", []byte("\x00\xff"), true)
	f.Add("unsigned long a, b; enum e c; // x\n short[] d", []byte{}, false)
	f.Fuzz(func(t *testing.T, declaration string, text []byte, packed bool) {
		s, err := Parse(declaration, Options{Packed: packed})
		if err != nil || s.Size > 1<<12 {
			return
		}
		if !s.fits(len(text)) {
			text = append(text, make([]byte, s.Size)...)[:s.Size]
		}
		record, err := s.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		_ = record.String()
		object, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := s.Encode(object)
		if err != nil {
			t.Fatalf("%s: %v", object, err)
		}
		again, err := s.Decode(encoded)
		if err != nil && s.Flexible() {
			return // what was behind the last whole element is not there again
		}
		if err != nil {
			t.Fatal(err)
		}
		second, err := json.Marshal(again)
		if err != nil {
			t.Fatal(err)
		}
		// A flexible array of chars ends at its NUL.
		if !bytes.Equal(object, second) {
			t.Fatalf("%s, and then %s", object, second)
		}
	})
}
