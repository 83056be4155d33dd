package sysvtest

import (
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/chanmq/chanmq/internal/sysv"
)

// emulator returns the path of the qemu-user that runs this program on an
// architecture other than its own and translates its system calls, or "".
//
// qemu emulates the link /proc/self/exe, so that it leads to the emulated program.
// The same link of a thread leads to the program that the kernel runs: qemu, which
// is for another machine.
var emulator = sync.OnceValue(func() string {
	self, err := os.Executable()
	if err != nil {
		return ""
	}
	threads, _ := filepath.Glob("/proc/self/task/*/exe") // none but on Linux
	for _, thread := range threads {
		path, err := os.Readlink(thread)
		if err != nil {
			continue // the thread has ended
		}
		runs, err := elfMachine(thread)
		if err != nil {
			continue
		}
		if compiled, err := elfMachine(self); err == nil && runs != compiled {
			return path
		}
		return ""
	}
	return ""
})

// Emulated reports whether the tests run under qemu-user.
func Emulated() bool { return emulator() != "" }

// Command returns the command that runs the test binary again, emulated if this
// process is.
func Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if Emulated() {
		return exec.CommandContext(t.Context(), emulator(), append([]string{self}, args...)...)
	}
	return exec.CommandContext(t.Context(), self, args...)
}

func elfMachine(path string) (elf.Machine, error) {
	f, err := elf.Open(path)
	if err != nil {
		return elf.EM_NONE, err
	}
	defer f.Close()
	return f.Machine, nil
}

// bigEndian reports whether the program was compiled for a big-endian architecture.
func bigEndian() bool {
	one := make([]byte, sysv.HeaderSize)
	sysv.PutType(one, 1)
	return one[0] == 0
}

// believable sets those fields of a state to zero that qemu-user gets wrong, in
// linux-user/syscall.c up to version 7.2 at least:
//   - struct target_msqid_ds has longs for the process ids, which are ints;
//   - struct target_ipc_perm has 16 bits for a mode of 32 bits, so a big-endian
//     program sees and sets mode 0;
//   - the halves of a 32-bit program's times are in little-endian order.
func (m Machine) believable(st sysv.Stat) sysv.Stat {
	if m.Emulated {
		st.SendPID, st.ReceivePID = 0, 0
		if bigEndian() {
			st.Mode = 0
			st.SendTime, st.ReceiveTime, st.ChangeTime = 0, 0, 0
		}
	}
	return st
}

// needMode skips a test that depends on a mode set by Set.
func (m Machine) needMode(t TB) {
	t.Helper()
	if m.Emulated && bigEndian() {
		t.Skip("qemu-user sets mode 0 for big-endian programs")
	}
}
