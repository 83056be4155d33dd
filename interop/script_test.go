//go:build linux

package interop_test

import (
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

var (
	perl   = &language{name: "Perl", clients: true, eidrm: errno(syscall.EIDRM), command: perlCommand, cases: perlCases}
	python = &language{name: "Python", eidrm: "ExistentialError", command: pythonCommand, cases: pythonCases}
	php    = &language{name: "PHP", eidrm: errno(syscall.EIDRM), command: phpCommand, cases: phpCases}
)

func TestPerl(t *testing.T)   { perl.test(t) }
func TestPython(t *testing.T) { python.test(t) }
func TestPHP(t *testing.T)    { php.test(t) }

func perlCommand(t *testing.T, program string) []string {
	t.Helper()
	path := tool(t, "perl", "perl")
	if err := perlWorks(); err != nil {
		missing(t, "perl: no IPC::Msg, or no JSON::PP: %v (Debian: perl)", err)
	}
	return []string{path, filepath.Join("testdata", "perl", program+".pl")}
}

var perlWorks = sync.OnceValue(func() error {
	return exec.Command("perl", "-MIPC::Msg", "-MJSON::PP", "-e", "1").Run()
})

func pythonCommand(t *testing.T, program string) []string {
	t.Helper()
	path := pythonWithQueues()
	if path == "" {
		missing(t, "python3: no module sysv_ipc (Debian: python3-sysv-ipc)")
	}
	return []string{path, filepath.Join("testdata", "python", program+".py")}
}

// pythonWithQueues prefers Debian's Python to another one in PATH, since it is the
// one that has Debian's module.
var pythonWithQueues = sync.OnceValue(func() string {
	for _, path := range []string{"/usr/bin/python3", "python3"} {
		if exec.Command(path, "-c", "import sysv_ipc").Run() == nil {
			return path
		}
	}
	return ""
})

func phpCommand(t *testing.T, program string) []string {
	t.Helper()
	path := tool(t, "php", "php-cli")
	if !phpWithQueues() {
		missing(t, "php: no extension sysvmsg (Debian: php-cli)")
	}
	// msg_receive and msg_send print warnings in addition to their error codes. On
	// standard error they make tests fail that expect none.
	return []string{path, "-d", "display_errors=stderr", filepath.Join("testdata", "php", program+".php")}
}

var phpWithQueues = sync.OnceValue(func() bool {
	return exec.Command("php", "-r", `exit(extension_loaded("sysvmsg") ? 0 : 1);`).Run() == nil
})

// order is sent as JSON.
type order struct {
	ID    int     `json:"id"`
	Qty   int     `json:"qty"`
	Name  string  `json:"name"`
	Price float64 `json:"price"`
}

// record is struct { int id; short qty; char name[16]; double price; }, which the
// languages encode with their pack functions.
type record struct {
	ID    int32
	Qty   int16
	Name  [16]byte
	Price float64
}

// packet is sent as a 32-bit and a 16-bit number in network byte order, and text.
type packet struct {
	ID   uint32
	Qty  uint16
	Name string
}

func network() codec.Codec[packet] {
	return codec.Func(
		func(dst []byte, p packet) ([]byte, error) {
			dst = binary.BigEndian.AppendUint32(dst, p.ID)
			dst = binary.BigEndian.AppendUint16(dst, p.Qty)
			return append(dst, p.Name...), nil
		},
		func(src []byte, p *packet) error {
			if len(src) < 6 {
				return fmt.Errorf("packet of %d bytes", len(src))
			}
			*p = packet{binary.BigEndian.Uint32(src), binary.BigEndian.Uint16(src[4:]), string(src[6:])}
			return nil
		})
}

// scripts are the tests of every scripting language.
func scripts() []testCase {
	r := record{ID: -70000, Qty: -300, Price: 19.5}
	copy(r.Name[:], "Zürich")
	return slices.Concat(
		payloads(),
		both("json", nothing, codec.JSON[order](), order{70000, 300, "Zürich", 19.5}, "70000 300 Zürich 19.5"),
		both("network", nothing, network(), packet{70000, 300, "Zürich"}, "70000 300 Zürich"),
		both("struct", byteOrder, codec.Struct[record](), r, "-70000 -300 Zürich 19.5"),
		behaviours(),
	)
}

// wideType is the test of a type that does not fit a 32-bit C long: a 32-bit process
// gets its lower half from the kernel.
func wideType() testCase {
	want := int64(1<<32 + 5)
	if architectures[runtime.GOARCH].long == 4 {
		want = 5
	}
	return sendsType("type-wide", nothing, codec.String(), want, "wide")
}

func perlCases() []testCase {
	return slices.Concat(
		scripts(),
		both("long", long, codec.Struct[int](), -70000, "-70000"),
		[]testCase{
			wideType(),
			{"receive/except", nothing, receiveExcept},
			failure("empty", empty, errno(syscall.ENOMSG), left),
			failure("too-large", hundredBytes, errno(syscall.E2BIG), left),
			failure("truncate", hundredBytes, "text 0123456789", taken),
			failure("full", fill, errno(syscall.EAGAIN), left),
			failure("removed", empty, errno(syscall.ENOENT), gone),
			failure("wide-character", empty, "died: Wide character in msgsnd", left),
		},
	)
}

func pythonCases() []testCase {
	return slices.Concat(
		scripts(),
		both("long", long, codec.Struct[int](), -70000, "-70000"),
		[]testCase{
			sendsType("type-default", nothing, codec.String(), 1, "one"),
			{"serve/client", nothing, serveClient},
			failure("empty", empty, "BusyError -", left),
			failure("too-large", thousandsOfBytes, fmt.Sprintf("OSError %d", syscall.E2BIG), left),
			failure("too-large-to-send", empty, "ValueError -", left),
			failure("type-over-int", empty, "OverflowError -", left),
			failure("full", fill, "BusyError -", left),
			failure("removed", empty, "ExistentialError -", gone),
		},
	)
}

func phpCases() []testCase {
	text := codec.String()
	cases := slices.Concat(
		scripts(),
		[]testCase{
			// Values other than strings with serialize=false.
			sends("raw-int", nothing, text, "-42"),
			sends("raw-float", nothing, text, "19.500000"),
			sends("raw-true", nothing, text, "1"),
			sends("raw-false", nothing, text, "0"),
			// With serialize=true, the default.
			sends("serialize-int", nothing, text, "i:-42;"),
			sends("serialize-float", nothing, text, "d:19.5;"),
			sends("serialize-string", nothing, text, `s:7:"Zürich";`),
			sends("serialize-true", nothing, text, "b:1;"),
			sends("serialize-null", nothing, text, "N;"),
			receives("unserialize-int", "unserialize", nothing, text, "i:-42;", "-42"),
			receives("unserialize-float", "unserialize", nothing, text, "d:19.5;", "19.5"),
			receives("unserialize-string", "unserialize", nothing, text, `s:7:"Zürich";`, "'Zürich'"),
			receives("unserialize-true", "unserialize", nothing, text, "b:1;", "true"),
			receives("unserialize-null", "unserialize", nothing, text, "N;", "NULL"),

			wideType(),
			{"receive/except", nothing, receiveExcept},
			failure("empty", empty, fmt.Sprintf("MSG_ENOMSG %d false", syscall.ENOMSG), left),
			failure("too-large", hundredBytes, fmt.Sprintf("error %d false", syscall.E2BIG), left),
			failure("truncate", hundredBytes, "text 0123456789", taken),
			failure("full", fill, fmt.Sprintf("MSG_EAGAIN %d NULL", syscall.EAGAIN), left),
			failure("removed", empty, fmt.Sprintf("error %d NULL", syscall.EINVAL), gone),
			failure("null", empty, "TypeError", left),
			// A receiver that unserializes loses a message that is not serialized.
			failure("not-serialized", hundredBytes, "error 0 false", taken),
		},
	)
	return cases
}

func thousandsOfBytes(t *testing.T, q *chanmq.Queue[[]byte]) {
	t.Helper()
	send(t, q, 1, make([]byte, 2049))
}
