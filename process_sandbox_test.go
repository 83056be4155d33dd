//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

// TestSandboxWithoutTgkill: where a sandbox (seccomp) denies the call that sends the
// signal, waits end with their ctx all the same: they poll.
func TestSandboxWithoutTgkill(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user has no seccomp")
	}
	for _, errno := range []syscall.Errno{syscall.EPERM, syscall.ENOSYS} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			q := newQueue(t)
			testkit.Wait(t, testkit.Start(t, "without tgkill", fmt.Sprint(q.ID()), strconv.Itoa(int(errno))))
			wantNone(t, q)
		})
	}
}

func init() {
	roles["without tgkill"] = func(args []string) error {
		errno, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		if err := denyTgkill(syscall.Errno(errno)); err != nil {
			return fmt.Errorf("seccomp: %w", err)
		}
		if err := unix.Tgkill(os.Getpid(), unix.Gettid(), 0); err != syscall.Errno(errno) {
			return fmt.Errorf("tgkill: %v, want %v", err, syscall.Errno(errno))
		}
		time.AfterFunc(time.Minute, func() { panic("a wait does not end") })
		q, err := attachArg(args[0])
		if err != nil {
			return err
		}
		for range 3 {
			ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
			_, err := q.Receive(ctx, chanmq.Any())
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("Receive: %w", err)
			}
			r := q.Receiver(context.Background(), chanmq.Any())
			if err := q.Send(context.Background(), 1, nil); err != nil {
				return err
			}
			if _, ok := <-r.C(); !ok {
				return r.Err()
			}
			if err := r.Close(); err != nil {
				return err
			}
		}
		q.Receiver(context.Background(), chanmq.Any())
		return q.Close()
	}
}

// denyTgkill makes tgkill(2) fail, in all threads of the process.
func denyTgkill(errno syscall.Errno) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // the number of the call
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_TGKILL},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, failed := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program))) // unsafe rule (4): converted in the call
	if failed != 0 {
		return failed
	}
	return nil
}
