package testkit

import (
	"fmt"
	"os"
	"reflect"
	"runtime"
	"syscall"
)

// sandboxVariable is set in the process that EnterSandbox starts.
const sandboxVariable = "CHANMQ_TEST_SANDBOX"

// EnterSandbox returns nil in a process for which the system call with the number
// fails, as in a container whose seccomp(2) profile denies it. If this is none, it runs
// the program again in its place, with the same arguments, and such a profile. It
// returns an error where that is not allowed.
func EnterSandbox(call uintptr, errno syscall.Errno) error {
	if os.Getenv(sandboxVariable) != "" {
		return nil
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // the profile is that of a thread, and of what it executes
	defer runtime.UnlockOSThread()
	if err := deny(call, errno); err != nil {
		return fmt.Errorf("this process may not have a seccomp(2) filter: %w", err)
	}
	return syscall.Exec(program, os.Args, append(os.Environ(), sandboxVariable+"=1"))
}

// filter is the profile: the number of the call is the first field of struct
// seccomp_data. As package-level variables they are never moved.
var (
	filter  [4]syscall.SockFilter
	program = syscall.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
)

// deny makes a system call of the calling thread fail.
func deny(call uintptr, errno syscall.Errno) error {
	// include/uapi/linux/prctl.h, include/uapi/linux/seccomp.h
	const (
		setSeccomp    = 22
		setNoNewPrivs = 38
		modeFilter    = 2
		returnErrno   = 0x00050000
		returnAllow   = 0x7fff0000
	)
	filter = [...]syscall.SockFilter{
		{Code: syscall.BPF_LD | syscall.BPF_W | syscall.BPF_ABS},
		{Code: syscall.BPF_JMP | syscall.BPF_JEQ | syscall.BPF_K, K: uint32(call), Jf: 1},
		{Code: syscall.BPF_RET | syscall.BPF_K, K: returnErrno | uint32(errno)},
		{Code: syscall.BPF_RET | syscall.BPF_K, K: returnAllow},
	}
	for _, args := range [][3]uintptr{
		{setNoNewPrivs, 1, 0},
		{setSeccomp, modeFilter, reflect.ValueOf(&program).Pointer()},
	} {
		if _, _, errno := syscall.RawSyscall6(syscall.SYS_PRCTL, args[0], args[1], args[2], 0, 0, 0); errno != 0 {
			return errno
		}
	}
	return nil
}
