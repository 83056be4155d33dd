package codec_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/codec"
)

// These tests compare codec.Struct with a C compiler for the same GOARCH. Each
// case is a struct msg in C and the corresponding T in Go, with the same values.

type (
	inner struct {
		A int8
		B int64
		C int16
	}
	tick struct {
		On  bool
		Val float32
	}
)

const cTypes = `
struct inner { int8_t a; int64_t b; int16_t c; };
struct tick { bool on; float val; };
`

var cCases = []cCase{
	newCCase("int", "int data;", "m.data = -2;",
		struct{ Data int32 }{-2}),
	newCCase("scalar", "double data;", "m.data = 6.25;",
		6.25),
	newCCase("one byte", "char c;", "m.c = 'x';",
		struct{ C int8 }{'x'}),
	newCCase("array", "short data[5];", "for (int i = 0; i < 5; i++) m.data[i] = -300 * i;",
		[5]int16{0, -300, -600, -900, -1200}),
	newCCase("text", "char name[13];", `strcpy(m.name, "hello");`,
		struct{ Name [13]byte }{[13]byte{'h', 'e', 'l', 'l', 'o'}}),
	newCCase("int64 after char", "char c; long long n;", "m.c = 1; m.n = -0x123456789abcdefLL;",
		struct {
			C int8
			N int64
		}{1, -0x123456789abcdef}),
	newCCase("int64 after int32", "int a; int64_t n;", "m.a = 7; m.n = 0x1122334455667788;",
		struct {
			A int32
			N int64
		}{7, 0x1122334455667788}),
	newCCase("double after int", "int i; double d;", "m.i = 3; m.d = -1.5e300;",
		struct {
			I int32
			D float64
		}{3, -1.5e300}),
	newCCase("int32 after double", "double d; int i;", "m.d = 0.1; m.i = -9;",
		struct {
			D float64
			I int32
		}{0.1, -9}),
	newCCase("long", "long l; unsigned long ul; size_t z; uintptr_t p; ssize_t s;",
		"m.l = -5; m.ul = 6; m.z = 7; m.p = 8; m.s = -9;",
		struct {
			L  int
			UL uint
			Z  uint
			P  uintptr
			S  int
		}{-5, 6, 7, 8, -9}),
	newCCase("bool", "char c; bool b[3]; int i; bool z;", "m.c = 1; m.b[1] = true; m.i = 5; m.z = true;",
		struct {
			C int8
			B [3]bool
			I int32
			Z bool
		}{1, [3]bool{false, true, false}, 5, true}),
	newCCase("unsigned", "uint8_t a; uint16_t b; uint32_t c; uint64_t d;",
		"m.a = 0xfe; m.b = 0xfedc; m.c = 0xfedcba98; m.d = 0xfedcba9876543210;",
		struct {
			A uint8
			B uint16
			C uint32
			D uint64
		}{0xfe, 0xfedc, 0xfedcba98, 0xfedcba9876543210}),
	newCCase("complex", "char c; float _Complex f; char e; double _Complex d;",
		"m.c = 1; m.f = 1.5f + 2.5f*I; m.e = 2; m.d = -3.5 + 4.5*I;",
		struct {
			C int8
			F complex64
			E int8
			D complex128
		}{1, 1.5 + 2.5i, 2, -3.5 + 4.5i}),
	newCCase("nested", "char c; struct inner in; char d;", "m.c = 1; m.in.a = 2; m.in.b = -3; m.in.c = 4; m.d = 5;",
		struct {
			C  int8
			In inner
			D  int8
		}{1, inner{2, -3, 4}, 5}),
	// Where a long is shorter than an int64, this differs from a struct with the
	// members of inner: the inner struct begins at its own alignment.
	newCCase("nested alone", "struct inner in;", "m.in.a = 2; m.in.b = -3; m.in.c = 4;",
		struct{ In inner }{inner{2, -3, 4}}),
	newCCase("members", "int8_t a; int64_t b; int16_t c;", "m.a = 2; m.b = -3; m.c = 4;",
		inner{2, -3, 4}),
	newCCase("array of structs", "char c; struct inner in[3]; short s;",
		"m.c = 9; for (int i = 0; i < 3; i++) { m.in[i].a = i+1; m.in[i].b = -i; m.in[i].c = 100*i; } m.s = 11;",
		struct {
			C  int8
			In [3]inner
			S  int16
		}{9, [3]inner{{1, 0, 0}, {2, -1, 100}, {3, -2, 200}}, 11}),
	newCCase("array of arrays", "int g[2][3]; struct tick t[2][2];",
		"for (int i = 0; i < 6; i++) m.g[i/3][i%3] = i; m.t[1][0].on = true; m.t[1][0].val = 2.5f;",
		struct {
			G [2][3]int32
			T [2][2]tick
		}{[2][3]int32{{0, 1, 2}, {3, 4, 5}}, [2][2]tick{{}, {{true, 2.5}, {}}}}),
	newCCase("explicit padding", "int a; char pad[4]; int b; char end[3];", "m.a = 1; m.b = 2;",
		struct {
			A int32
			_ [4]byte
			B int32
			_ [3]byte
		}{A: 1, B: 2}),
	newCCase("order", "int id; char side; double price; char sym[8]; short flags; long seq; bool last;",
		`m.id = 1; m.side = 'B'; m.price = 99.5; strcpy(m.sym, "ACME"); m.flags = 3; m.seq = 1L << 30; m.last = true;`,
		struct {
			ID    int32
			Side  int8
			Price float64
			Sym   [8]byte
			Flags int16
			Seq   int
			Last  bool
		}{1, 'B', 99.5, [8]byte{'A', 'C', 'M', 'E'}, 3, 1 << 30, true}),

	newTrailingCase("trailing padding", "char name[5];", `strcpy(m.name, "tea");`,
		struct {
			Name [5]byte
			_    [0]int
		}{Name: [5]byte{'t', 'e', 'a'}}),
	newTrailingCase("trailing padding after double", "double d; char c;", "m.d = 0.5; m.c = 'x';",
		struct {
			D float64
			C int8
			_ [0]int
		}{D: 0.5, C: 'x'}),

	newPackedCase("packed, bytes", packedMembers, packedSet, codec.Struct[packedBytes](), somePackedBytes()),
	newPackedCase("packed, encoding/binary", packedMembers, packedSet, codecOfPacked[reading](), reading{'t', 0x01020304, 21.5, -2}),
}

// The packed struct of the examples.
const (
	packedMembers = "char kind; uint32_t sensor; double value; short flags;"
	packedSet     = "m.kind = 't'; m.sensor = 0x01020304; m.value = 21.5; m.flags = -2;"
)

type packedBytes struct {
	Kind   byte
	Sensor [4]byte
	Value  [8]byte
	Flags  [2]byte
}

func somePackedBytes() (p packedBytes) {
	p.Kind = 't'
	binary.NativeEndian.PutUint32(p.Sensor[:], 0x01020304)
	binary.NativeEndian.PutUint64(p.Value[:], math.Float64bits(21.5))
	binary.NativeEndian.PutUint16(p.Flags[:], 0xFFFE) // -2
	return p
}

// cCase is one struct msg { long mtype; members } attribute.
type cCase struct {
	name, members, set string
	attribute          string
	check              func(t *testing.T, c cLayout)
}

// cLayout is what the C program prints for a case. Offsets and the bytes are
// counted from the end of mtype.
type cLayout struct {
	text    []byte // sizeof(struct msg) - sizeof(long) bytes
	align   int    // of the widest member
	offsets []int  // of the members
	sizes   []int
}

// newCCase is a case in which Append leaves out the padding that the alignment of
// mtype adds to the end of the struct.
func newCCase[T comparable](name, members, set string, v T) cCase {
	return cCase{name: name, members: members, set: set, check: func(t *testing.T, c cLayout) {
		size := roundUp(c.offsets[len(c.offsets)-1]+c.sizes[len(c.sizes)-1]+longSize, c.align) - longSize
		checkLayout(t, c, codec.Struct[T](), v, size)
		checkSizes(t, c, codec.Struct[T](), size)
	}}
}

// newTrailingCase is a case in which Append writes that padding too.
func newTrailingCase[T comparable](name, members, set string, v T) cCase {
	return cCase{name: name, members: members, set: set, check: func(t *testing.T, c cLayout) {
		checkLayout(t, c, codec.Struct[T](), v, len(c.text))
		checkSizes(t, c, codec.Struct[T](), len(c.text))
	}}
}

// newPackedCase is a case of a packed struct, with a codec of its own.
func newPackedCase[T comparable](name, members, set string, cd codec.Codec[T], v T) cCase {
	return cCase{name: name, members: members, set: set, attribute: "__attribute__((packed))", check: func(t *testing.T, c cLayout) {
		checkLayout(t, c, cd, v, len(c.text))
	}}
}

// checkLayout checks that the codec encodes v as size bytes, as C does, and that
// Decode finds each member where C has it.
func checkLayout[T comparable](t *testing.T, c cLayout, cd codec.Codec[T], v T, size int) {
	// Every byte of the storage is dirty; none of that may remain.
	dst := bytes.Repeat([]byte{0xA5}, 256)
	got, err := cd.Append(dst[:3], v)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:3], dst[:3]) {
		t.Errorf("Append changed the bytes before: %x", got[:3])
	}
	got = got[3:]
	if len(got) != size {
		t.Errorf("Append wrote %d bytes, C's members and padding are %d", len(got), size)
	}
	if !bytes.HasPrefix(c.text, got) {
		t.Errorf("Append wrote\n%x, C has\n%x\nwith the members at %v", got, c.text, c.offsets)
	}
	for _, text := range [][]byte{got, c.text} {
		var back T
		if err := cd.Decode(text, &back); err != nil {
			t.Errorf("Decode of %d bytes: %v", len(text), err)
		} else if back != v {
			t.Errorf("Decode of %d bytes: %+v, want %+v", len(text), back, v)
		}
	}

	// Each byte in turn must set the member that C has there, and no other.
	var back T
	members := membersOf(reflect.ValueOf(&back).Elem())
	if len(members) != len(c.offsets) {
		t.Fatalf("%d members in Go, %d in C", len(members), len(c.offsets))
	}
	for at := range got {
		text := make([]byte, len(got))
		text[at] = 0xFF
		if err := cd.Decode(text, &back); err != nil {
			t.Fatal(err)
		}
		for i, m := range members {
			if !m.IsValid() {
				continue
			}
			within := at >= c.offsets[i] && at < c.offsets[i]+c.sizes[i]
			if isSet := !m.IsZero(); isSet && !within || !isSet && within && !hasPadding(m.Type()) {
				t.Errorf("byte %d sets member %d: %v; C has it at %d, of %d bytes", at, i, isSet, c.offsets[i], c.sizes[i])
			}
		}
	}
}

// checkSizes checks that Decode accepts size bytes, and as many as C has, only.
func checkSizes[T any](t *testing.T, c cLayout, cd codec.Codec[T], size int) {
	for n := range len(c.text) + 9 {
		if err := cd.Decode(make([]byte, n), new(T)); (err == nil) != (n == size || n == len(c.text)) {
			t.Errorf("Decode of %d bytes: error %v; C's sizes are %d and %d", n, err, size, len(c.text))
		}
	}
}

// membersOf returns the fields of v if it is a struct, and v itself otherwise. A
// blank field (explicit padding) becomes the zero Value, and is left out if it has
// no bytes.
func membersOf(v reflect.Value) (members []reflect.Value) {
	if v.Kind() != reflect.Struct {
		return []reflect.Value{v}
	}
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.Name == "_" {
			if f.Type.Size() > 0 {
				members = append(members, reflect.Value{})
			}
			continue
		}
		members = append(members, v.Field(i))
	}
	return members
}

func hasPadding(t reflect.Type) bool {
	for t.Kind() == reflect.Array {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct
}

const longSize = strconv.IntSize / 8

func roundUp(n, align int) int { return (n + align - 1) / align * align }

func TestStructAgreesWithC(t *testing.T) {
	layouts := runC(t, cProgram(), len(cCases))
	for i, c := range cCases {
		t.Run(c.name, func(t *testing.T) { c.check(t, layouts[i]) })
	}
}

// cProgram returns a program that prints a line for each case: the alignment of
// the widest member, the offset and size of each member, and the bytes of a
// struct msg.
func cProgram() string {
	var decls, prints strings.Builder
	for i, c := range cCases {
		fmt.Fprintf(&decls, "struct msg%d { long mtype; %s } %s;\n", i, c.members, c.attribute)
		// Without mtype, the struct has the alignment of its widest member.
		fmt.Fprintf(&decls, "struct members%d { %s } %s;\n", i, c.members, c.attribute)
		fmt.Fprintf(&prints, "\t{ struct msg%d m; memset(&m, 0, sizeof m); %s\n", i, c.set)
		fmt.Fprintf(&prints, "\t  printf(\"%%zu\", _Alignof(struct members%d));\n", i)
		for _, name := range cMembers(c.members) {
			fmt.Fprintf(&prints, "\t  printf(\" %%zu:%%zu\", offsetof(struct msg%d, %s) - sizeof(long), sizeof m.%s);\n", i, name, name)
		}
		prints.WriteString("\t  dump((unsigned char *)&m + sizeof(long), sizeof m - sizeof(long)); }\n")
	}
	return `#include <complex.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
` + cTypes + decls.String() + `
static void dump(const unsigned char *p, size_t n) {
	printf(" ");
	for (size_t i = 0; i < n; i++) printf("%02x", p[i]);
	printf("\n");
}
int main(void) {
` + prints.String() + "\treturn 0;\n}\n"
}

// cMembers returns the names that are declared: the last word of each declaration.
func cMembers(decls string) (names []string) {
	for decl := range strings.SplitSeq(strings.TrimSuffix(decls, ";"), ";") {
		decl, _, _ = strings.Cut(decl, "[")
		words := strings.Fields(decl)
		names = append(names, words[len(words)-1])
	}
	return names
}

// cCompilers are the usual C compilers for a GOARCH; the first that works is used.
// The environment variable CC overrides them.
var cCompilers = map[string][]string{
	"386":      {"i686-linux-gnu-gcc -static", "cc -m32"},
	"amd64":    {"x86_64-linux-gnu-gcc", "cc"},
	"arm":      {"arm-linux-gnueabi-gcc -static", "arm-linux-gnueabihf-gcc -static"},
	"arm64":    {"aarch64-linux-gnu-gcc -static"},
	"mips":     {"mips-linux-gnu-gcc -static"},
	"mips64":   {"mips64-linux-gnuabi64-gcc -static"},
	"mips64le": {"mips64el-linux-gnuabi64-gcc -static"},
	"mipsle":   {"mipsel-linux-gnu-gcc -static"},
	"ppc64":    {"powerpc64-linux-gnu-gcc -static"},
	"ppc64le":  {"powerpc64le-linux-gnu-gcc -static"},
	"riscv64":  {"riscv64-linux-gnu-gcc -static"},
	"s390x":    {"s390x-linux-gnu-gcc -static"},
}

// emulators run programs for a GOARCH that the kernel cannot run.
var emulators = map[string]string{
	"386": "qemu-i386-static", "amd64": "qemu-x86_64-static", "arm": "qemu-arm-static",
	"arm64": "qemu-aarch64-static", "mips": "qemu-mips-static", "mips64": "qemu-mips64-static",
	"mips64le": "qemu-mips64el-static", "mipsle": "qemu-mipsel-static", "ppc64": "qemu-ppc64-static",
	"ppc64le": "qemu-ppc64le-static", "riscv64": "qemu-riscv64-static", "s390x": "qemu-s390x-static",
}

// runC compiles and runs the program for the GOARCH of this test.
func runC(t *testing.T, source string, cases int) []cLayout {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skipf("the C compilers of %s are not known here", runtime.GOOS)
	}
	dir := t.TempDir()
	src, exe := filepath.Join(dir, "layout.c"), filepath.Join(dir, "layout")
	if err := os.WriteFile(src, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	candidates := cCompilers[runtime.GOARCH]
	if len(candidates) == 0 {
		candidates = []string{"cc"} // the test runs on such a machine
	}
	if cc := os.Getenv("CC"); cc != "" {
		candidates = []string{cc}
	}
	var missing []string
	for _, cc := range candidates {
		args := strings.Fields(cc)
		path, err := exec.LookPath(args[0])
		if err != nil {
			missing = append(missing, err.Error())
			continue
		}
		args = append(args[1:], "-std=gnu11", "-o", exe, src)
		if out, err := exec.Command(path, args...).CombinedOutput(); err != nil {
			if strings.HasPrefix(cc, "cc -m") && bytes.Contains(out, []byte("No such file")) {
				missing = append(missing, cc+": has no headers or libraries for it")
				continue
			}
			t.Fatalf("%s: %v\n%s", cc, err, out)
		}
		return parseC(t, runExe(t, exe), cases)
	}
	t.Skipf("no C compiler for %s: %s", runtime.GOARCH, strings.Join(missing, "; "))
	return nil
}

func runExe(t *testing.T, exe string) string {
	t.Helper()
	out, err := exec.Command(exe).CombinedOutput()
	if err != nil {
		// The test itself may run under an emulator that is not registered with
		// the kernel.
		emulator, lookErr := exec.LookPath(emulators[runtime.GOARCH])
		if lookErr != nil {
			t.Fatalf("running the C program: %v\n%s", err, out)
		}
		if out, err = exec.Command(emulator, exe).CombinedOutput(); err != nil {
			t.Fatalf("running the C program in %s: %v\n%s", emulator, err, out)
		}
	}
	return string(out)
}

func parseC(t *testing.T, out string, cases int) (all []cLayout) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != cases {
		t.Fatalf("the C program printed %d cases, want %d:\n%s", len(lines), cases, out)
	}
	for _, line := range lines {
		words := strings.Fields(line)
		var c cLayout
		var err error
		if c.align, err = strconv.Atoi(words[0]); err != nil {
			t.Fatal(err)
		}
		for _, w := range words[1 : len(words)-1] {
			var offset, size int
			if _, err := fmt.Sscanf(w, "%d:%d", &offset, &size); err != nil {
				t.Fatalf("%q: %v", w, err)
			}
			c.offsets = append(c.offsets, offset)
			c.sizes = append(c.sizes, size)
		}
		if c.text, err = hex.DecodeString(words[len(words)-1]); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	return all
}
