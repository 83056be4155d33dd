package sysv

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interruptSignal wakes a thread out of a blocking call. The Go runtime sends
// it to its own threads all day to preempt them, and ignores one that it did
// not ask for (runtime/signal_unix.go), so a stray one does no harm. System V
// calls are never restarted behind a signal handler, whatever SA_RESTART says:
// signal(7).
const interruptSignal = unix.SIGURG

var pid = os.Getpid() // a Go program does not fork without exec

// thread is a Thread of the Linux kernel. Its fields belong to the goroutine
// between Enter and Leave; tid is read by Interrupt, which the caller orders
// behind Enter.
type thread struct {
	entries uint
	tid     int
	blocked bool          // the signal was blocked here before Enter
	mask    unix.Sigset_t // the thread's mask before Enter, if blocked
}

// entriesPerCheck is how many times Enter trusts one look at whether the thread can
// be interrupted.
const entriesPerCheck = 32

func (linux) NewThread() Thread { return new(thread) }

// Enter locks the goroutine to its thread, so that the id it publishes is the
// id of the thread that will block.
func (t *thread) Enter() bool {
	runtime.LockOSThread()
	t.tid = unix.Gettid()
	// Whoever has the signal ignored does so once, and Interrupt can do with
	// that: a look now and then saves system calls for each message.
	if t.entries%entriesPerCheck == 0 && !t.interruptible() {
		runtime.UnlockOSThread()
		return false
	}
	t.entries++
	t.blocked = t.unblock()
	return true
}

// interruptible reports whether the calling thread, locked, can be sent a signal that
// has an effect. A sandbox may deny tgkill(2), with any error; so it is tried with
// signal 0, which sends nothing.
func (t *thread) interruptible() bool {
	return signalCaught(interruptSignal) && unix.Tgkill(pid, t.tid, 0) == nil
}

// unblock lets the signal through to the calling thread. A program started by
// a parent that had blocked it inherits that mask on every thread.
func (t *thread) unblock() bool {
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &t.mask); err != nil {
		return false
	}
	const bits = 8 * int(unsafe.Sizeof(t.mask.Val[0]))
	const word, bit = (int(interruptSignal) - 1) / bits, (int(interruptSignal) - 1) % bits
	if t.mask.Val[word]&(1<<bit) == 0 {
		return false
	}
	var set unix.Sigset_t
	set.Val[word] = 1 << bit
	return unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil) == nil
}

func (t *thread) Leave() {
	if t.blocked {
		// Without it the thread would get signals that the program's parent
		// asked it not to get; it cannot fail with a mask that we read.
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &t.mask, nil)
	}
	runtime.UnlockOSThread()
}

func (t *thread) Interrupt() {
	if !signalCaught(interruptSignal) {
		catchSignal() // it was when the call began, and the call must end
	}
	// ESRCH cannot be: the thread is between Enter and Leave, locked.
	_ = unix.Tgkill(pid, t.tid, interruptSignal)
}

func (t *thread) Send(id int, msg []byte) error {
	_, _, errno := unix.Syscall6(unix.SYS_MSGSND, uintptr(id),
		uintptr(unsafe.Pointer(&msg[0])), // unsafe rule (4): converted in the call
		uintptr(len(msg)-HeaderSize), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (t *thread) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	n, _, errno := unix.Syscall6(unix.SYS_MSGRCV, uintptr(id),
		uintptr(unsafe.Pointer(&buf[0])), // unsafe rule (4): converted in the call
		uintptr(len(buf)-HeaderSize), uintptr(msgtyp), uintptr(flags), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// signalCaught reports whether the process has a handler for the signal: one
// that is ignored, or has its default action, interrupts nothing. The kernel is
// asked, since a program may have set that from C (a c-shared library's host),
// where signal.Ignored does not see it.
func signalCaught(sig unix.Signal) bool {
	// struct kernel_sigaction is at most 8 words: handler, flags, restorer and
	// mask, in an order of each architecture's own (include/linux/signal_types.h).
	var act [8]uintptr
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), 0,
		uintptr(unsafe.Pointer(&act)), // unsafe rule (4): converted in the call
		kernelSigsetSize, 0, 0)
	const sigDfl, sigIgn = 0, 1
	handler := act[sigactionHandler]
	return errno == 0 && handler != sigDfl && handler != sigIgn
}

var catching sync.Mutex

// catchSignal gives the signal back to the Go runtime's handler, after the
// program, or C code in it, has had it ignored. Nothing else changes by that:
// to ignore SIGURG is its default action, and the runtime ignores it too.
func catchSignal() {
	catching.Lock()
	defer catching.Unlock()
	// Ignore makes the runtime forget that it has a handler in place, which
	// is not true if C took it away; Notify puts it in place, and Stop leaves
	// it there, as at the program's start.
	c := make(chan os.Signal, 1)
	signal.Ignore(interruptSignal)
	signal.Notify(c, interruptSignal)
	signal.Stop(c)
}
