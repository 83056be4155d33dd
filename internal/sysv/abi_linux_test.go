package sysv

import (
	"fmt"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

// A field of a C structure, and the corresponding field in Go.
type field struct{ c, golang string }

// TestLayout has a C compiler compare the structures of this package with those of
// the kernel's headers and of the C library, which other programs use.
func TestLayout(t *testing.T) {
	times := []field{{"msg_stime", "stime.v"}, {"msg_rtime", "rtime.v"}, {"msg_ctime", "ctime.v"}}
	high := []field(nil)
	if HeaderSize == 4 {
		times = []field{{"msg_stime", "stime.low"}, {"msg_rtime", "rtime.low"}, {"msg_ctime", "ctime.low"}}
		high = []field{{"msg_stime_high", "stime.high"}, {"msg_rtime_high", "rtime.high"}, {"msg_ctime_high", "ctime.high"}}
	}
	queue := append(times,
		field{"msg_perm.uid", "perm.Uid"},
		field{"msg_perm.gid", "perm.Gid"},
		field{"msg_perm.cuid", "perm.Cuid"},
		field{"msg_perm.cgid", "perm.Cgid"},
		field{"msg_perm.mode", "perm.Mode"},
		field{"msg_cbytes", "cbytes"},
		field{"msg_qnum", "qnum"},
		field{"msg_qbytes", "qbytes"},
		field{"msg_lspid", "sendPID"},
		field{"msg_lrpid", "receivePID"},
	)
	info := []field{
		{"msgpool", "pool"}, {"msgmap", "map_"}, {"msgmax", "max"}, {"msgmnb", "mnb"},
		{"msgmni", "mni"}, {"msgssz", "ssz"}, {"msgtql", "tql"}, {"msgseg", "seg"},
	}
	for _, s := range []struct {
		header, c string
		golang    any
		fields    []field
		sizes     bool // not for the C library, whose mode is wider on some architectures
	}{
		{"linux/msg.h", "struct msqid64_ds", msqidDS{}, append(append(high, field{"msg_perm.key", "perm.Key"}), queue...), true},
		{"sys/msg.h", "struct msqid_ds", msqidDS{}, append(queue, field{"msg_perm.__key", "perm.Key"}), false},
		{"linux/msg.h", "struct msginfo", msginfo{}, info, true},
		{"sys/msg.h", "struct msginfo", msginfo{}, info, true},
	} {
		t.Run(s.header+" "+s.c, func(t *testing.T) {
			typ := reflect.TypeOf(s.golang)
			claims := []string{fmt.Sprintf("sizeof(%s) == %d", s.c, typ.Size())}
			for _, f := range s.fields {
				offset, size := locate(t, typ, f.golang)
				claims = append(claims, fmt.Sprintf("offsetof(%s, %s) == %d", s.c, f.c, offset))
				if s.sizes {
					claims = append(claims, fmt.Sprintf("sizeof ((%s *)0)->%s == %d", s.c, f.c, size))
				}
			}
			hold(t, s.header, claims)
		})
	}
}

// locate returns the offset and the size of a field. The path names it from the
// outermost structure on.
func locate(t *testing.T, typ reflect.Type, path string) (offset, size uintptr) {
	t.Helper()
	for _, name := range strings.Split(path, ".") {
		f, ok := typ.FieldByName(name)
		if !ok {
			t.Fatalf("%v has no field %s of %s", typ, name, path)
		}
		offset += f.Offset
		typ = f.Type
	}
	return offset, typ.Size()
}

func TestHeader(t *testing.T) {
	hold(t, "sys/msg.h", []string{
		fmt.Sprintf("offsetof(struct msgbuf, mtext) == %d", HeaderSize),
		fmt.Sprintf("sizeof ((struct msgbuf *)0)->mtype == %d", HeaderSize),
		fmt.Sprintf("(long)(~0ul >> 1) == %d", MaxType),
		fmt.Sprintf("IPC_CREAT == %d && IPC_EXCL == %d && IPC_NOWAIT == %d", Create, Exclusive, noWait),
		fmt.Sprintf("MSG_EXCEPT == %d && MSG_COPY == %d && IPC_PRIVATE == %d", Except, Copy, KeyPrivate),
		fmt.Sprintf("IPC_INFO == %d && MSG_STAT == %d && MSG_INFO == %d", ipcInfo, msgStat, msgInfo),
	})
}

// hold checks that the claims, C expressions, are true after including the header.
func hold(t *testing.T, header string, claims []string) {
	t.Helper()
	prologue := fmt.Sprintf("#include <stddef.h>\n#include <%s>\n", header)
	for _, cc := range compilers() {
		if compile(cc, prologue) != nil {
			continue // not installed, or without this header
		}
		var source strings.Builder
		source.WriteString(prologue)
		for _, c := range claims {
			fmt.Fprintf(&source, "_Static_assert(%s, %q);\n", c, c)
		}
		if err := compile(cc, source.String()); err != nil {
			t.Error(err)
		}
		return
	}
	t.Skipf("none of %v is installed here with the header <%s>", compilers(), header)
}

// compile only checks the source, so that the compiler may be for another
// architecture than this machine's.
func compile(cc []string, source string) error {
	args := append(cc[1:len(cc):len(cc)], "-D_GNU_SOURCE", "-fsyntax-only", "-x", "c", "-")
	cmd := exec.Command(cc[0], args...)
	cmd.Stdin = strings.NewReader(source)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cc, " "), err, out)
	}
	return nil
}

// compilers returns the commands that compile for this architecture, if they are
// installed: the cross compilers by their names on Debian, and plain cc on a
// machine of this architecture, which an emulated test does not run on.
func compilers() [][]string {
	target := map[string]string{
		"386":      "i686-linux-gnu",
		"amd64":    "x86_64-linux-gnu",
		"arm":      "arm-linux-gnueabi",
		"arm64":    "aarch64-linux-gnu",
		"loong64":  "loongarch64-linux-gnu",
		"mips":     "mips-linux-gnu",
		"mipsle":   "mipsel-linux-gnu",
		"mips64":   "mips64-linux-gnuabi64",
		"mips64le": "mips64el-linux-gnuabi64",
		"ppc64":    "powerpc64-linux-gnu",
		"ppc64le":  "powerpc64le-linux-gnu",
		"riscv64":  "riscv64-linux-gnu",
		"s390x":    "s390x-linux-gnu",
	}[runtime.GOARCH]
	commands := [][]string{{target + "-gcc"}}
	cpu, _, _ := strings.Cut(target, "-")
	if machine, err := exec.Command("cc", "-dumpmachine").Output(); err == nil {
		switch {
		case strings.HasPrefix(string(machine), cpu+"-"):
			commands = append(commands, []string{"cc"})
		case runtime.GOARCH == "386" && strings.HasPrefix(string(machine), "x86_64-"):
			commands = append(commands, []string{"cc", "-m32"})
		}
	}
	return commands
}
