//go:build linux

// Package interop_test runs programs in other languages against Go, over real
// queues, in both directions. docs/interop-matrix.md describes each test.
//
// In the name of a test, such as TestPHP/send/json, "send" and "receive" are what the
// other program does. Tests whose tool is not installed are skipped, or fail if the
// environment has CHANMQ_INTEROP=require.
package interop_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// deadline ends what would otherwise hang. It is far longer than any test needs.
const deadline = 30 * time.Second

// binaries is the directory of the programs that the tests build.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "chanmq-interop-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binaries = dir
		return m.Run()
	}())
}

// missing skips a test that needs something that is not installed.
func missing(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CHANMQ_INTEROP") == "require" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// tool returns the path of a program, or skips the test.
func tool(t *testing.T, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, "%s: not installed (Debian: %s)", name, debian)
	}
	return path
}

// machine returns the GOARCH of the kernel, and so of the installed programs. It
// differs from runtime.GOARCH under an emulator, and for 386 on amd64.
var machine = sync.OnceValue(func() string {
	// Not the system call: an emulator returns the emulated machine.
	out, err := exec.Command("uname", "-m").Output()
	if err != nil {
		return runtime.GOARCH
	}
	switch name := strings.TrimSpace(string(out)); name {
	case "x86_64":
		return "amd64"
	case "aarch64":
		return "arm64"
	default:
		return name
	}
})

// port is an architecture on which the tests can run in an emulator.
type port struct{ emulator, compiler, debian string }

var ports = map[string]port{
	"arm64":   {"qemu-aarch64-static", "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"},
	"ppc64le": {"qemu-ppc64le-static", "powerpc64le-linux-gnu-gcc", "gcc-powerpc64le-linux-gnu libc6-dev-ppc64el-cross"},
	"riscv64": {"qemu-riscv64-static", "riscv64-linux-gnu-gcc", "gcc-riscv64-linux-gnu libc6-dev-riscv64-cross"},
	"s390x":   {"qemu-s390x-static", "s390x-linux-gnu-gcc", "gcc-s390x-linux-gnu libc6-dev-s390x-cross"},
}

// emulated reports whether the test runs under qemu-user.
func emulated() bool { return emulates(runtime.GOARCH, machine()) }

func emulates(goarch, machine string) bool {
	return goarch != machine && !(goarch == "386" && machine == "amd64")
}

// native returns the command that runs a program built for runtime.GOARCH.
func native(t *testing.T, program string) []string {
	t.Helper()
	if !emulated() {
		return []string{program}
	}
	return []string{tool(t, ports[runtime.GOARCH].emulator, "qemu-user-static"), program}
}

// compiler is a C compiler for runtime.GOARCH, with its flags.
type compiler struct {
	command []string
	debian  string // the packages that it needs
}

func compilers() []compiler {
	switch {
	case runtime.GOARCH == machine():
		return []compiler{{[]string{"cc"}, "gcc libc6-dev"}}
	case runtime.GOARCH == "386":
		return []compiler{
			{[]string{"i686-linux-gnu-gcc", "-static"}, "gcc-i686-linux-gnu libc6-dev-i386-cross"},
			{[]string{"cc", "-m32", "-static"}, "gcc-multilib"},
		}
	}
	p := ports[runtime.GOARCH]
	// Static, since the shared libraries of that machine are not installed.
	return []compiler{{[]string{p.compiler, "-static"}, p.debian}}
}

// workingCompiler returns the first compiler that works. The error says what to
// install.
var workingCompiler = sync.OnceValues(func() (command []string, err error) {
	probe := filepath.Join(binaries, "probe.c")
	if err := os.WriteFile(probe, []byte("#include <stdio.h>\nint main(void) { return 0; }\n"), 0o600); err != nil {
		return nil, err
	}
	var packages []string
	for _, c := range compilers() {
		args := append(c.command[1:len(c.command):len(c.command)], "-o", filepath.Join(binaries, "probe"), probe)
		if exec.Command(c.command[0], args...).Run() == nil {
			return c.command, nil
		}
		packages = append(packages, c.debian)
	}
	return nil, fmt.Errorf("cc: no C compiler for %s (Debian: %s)", runtime.GOARCH, strings.Join(packages, ", or "))
})

// compile builds testdata/c/NAME.c, once, and returns the command that runs it.
func compile(t *testing.T, name string) []string {
	t.Helper()
	cc, err := workingCompiler()
	if err != nil {
		missing(t, "%v", err)
	}
	program := filepath.Join(binaries, name)
	if _, err := os.Stat(program); err != nil {
		args := append(cc[1:len(cc):len(cc)], "-std=gnu11", "-Wall", "-Wextra", "-Werror",
			"-o", program, filepath.Join("testdata", "c", name+".c"))
		if out, err := exec.Command(cc[0], args...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
	}
	return native(t, program)
}
