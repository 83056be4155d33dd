package sysvtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// Host returns the kernel that the tests run on.
func Host(TB) Machine {
	return Machine{Kernel: sysv.Host(), PID: int32(os.Getpid()), Asleep: hostAsleep, Emulated: Emulated(), As: hostUser}
}

// hostAsleep counts the threads of the process whose wait channel, the kernel
// function in which they sleep, is that of msgsnd or msgrcv. Such a thread is
// already in a list of the queue; one that was woken no longer counts, even before
// it runs (get_wchan, fs/proc/base.c).
func hostAsleep(t TB) int {
	t.Helper()
	if !hasWaitChannels() {
		t.Skip("/proc/self/task/*/wchan does not show where threads sleep on this system")
	}
	n := 0
	for _, channel := range waitChannels() {
		if strings.Contains(channel, "msgrcv") || strings.Contains(channel, "msgsnd") {
			n++
		}
	}
	return n
}

// waitChannels returns the wait channels of all threads; "0" is a running thread.
func waitChannels() []string {
	files, _ := filepath.Glob("/proc/self/task/*/wchan")
	var channels []string
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil { // otherwise the thread has ended
			channels = append(channels, string(data))
		}
	}
	return channels
}

// hasWaitChannels reports whether the kernel shows wait channels. A Go program has
// threads that sleep, though not at every moment.
var hasWaitChannels = sync.OnceValue(func() bool {
	for range 1000 {
		for _, channel := range waitChannels() {
			if channel != "" && channel != "0" {
				return true
			}
		}
		time.Sleep(time.Millisecond)
	}
	return false
})

// hostUser changes the user of single threads. In Linux, users are a property of
// threads; only the C library and package syscall keep them the same in a process,
// and they are bypassed here.
func hostUser(t TB, uid, gid uint32) User {
	t.Helper()
	if err := MayBecomeOthers(); err != nil {
		t.Skip(err)
	}
	return func(do func(sysv.Kernel) error) error {
		return onThread(func() error {
			if err := become(uid, gid); err != nil {
				return err
			}
			return do(sysv.Host())
		})
	}
}

// onThread calls do on a thread that ends afterwards, so that a change of its user
// does not outlive the call. It is not the first thread of the program, whose user
// counts as that of the process. A do that ends its goroutine, as FailNow of a test
// does, is an error.
func onThread(do func() error) error {
	result := make(chan error, 1)
	go func() {
		defer close(result)
		runtime.LockOSThread()
		if syscall.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			result <- onThread(do)
			return
		}
		result <- do() // without UnlockOSThread, the thread ends with the goroutine
	}()
	err, returned := <-result
	if !returned {
		return errors.New("the goroutine ended in the call")
	}
	return err
}

// MayBecomeOthers returns nil if the process may become other users, and has all
// rights to their queues. Root in a container often has not.
var MayBecomeOthers = sync.OnceValue(func() error {
	// capabilities(7), by number: to become another user; to use, change and
	// remove the queues of others.
	const setgid, setuid, ipcOwner, sysAdmin = 6, 7, 15, 21
	const needed = 1<<setgid | 1<<setuid | 1<<ipcOwner | 1<<sysAdmin
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, line, _ := strings.Cut(string(status), "\nCapEff:")
	line, _, _ = strings.Cut(line, "\n")
	effective, err := strconv.ParseUint(strings.TrimSpace(line), 16, 64)
	if err != nil {
		return err
	}
	if effective&needed != needed {
		return fmt.Errorf("the test has the capabilities %#x and needs %#x to become other users", effective, uint64(needed))
	}
	// In a user namespace of its own a process has all capabilities, but other
	// users may not exist there.
	const anyone = 2001
	if err := onThread(func() error { return become(anyone, anyone) }); err != nil {
		return fmt.Errorf("the test may not become another user: %w", err)
	}
	return nil
})

// become changes the effective user and group of the calling thread. A thread that
// leaves user 0 loses its capabilities: capabilities(7).
func become(uid, gid uint32) error {
	const same = ^uintptr(0)
	for _, call := range [][4]uintptr{
		{syscall.SYS_SETGROUPS, 0, 0, 0},
		{syscall.SYS_SETRESGID, same, uintptr(gid), same},
		{syscall.SYS_SETRESUID, same, uintptr(uid), same},
	} {
		if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return errno
		}
	}
	return nil
}
