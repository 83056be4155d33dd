package sysv

import (
	"os"
	"os/signal"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// interruptSignal interrupts a blocking call of a thread. The Go runtime sends it
// to its own threads all the time to preempt them, and ignores one that it did not
// expect (runtime/signal_unix.go), so a stray one is harmless. System V calls are
// never restarted after a signal handler, even with SA_RESTART: signal(7).
const interruptSignal = unix.SIGURG

var pid = os.Getpid() // a Go program does not fork without exec

// thread is a Thread of the Linux kernel. Its fields belong to the goroutine that
// called Enter, until Leave; Interrupt reads tid, and the caller orders it after
// Enter.
type thread struct {
	entries uint
	tid     int
	blocked bool          // the thread had the signal blocked before Enter
	mask    unix.Sigset_t // the thread's mask before Enter, if blocked
}

// entriesPerCheck is the number of calls of Enter per check of whether the thread can
// be interrupted.
const entriesPerCheck = 32

func (linux) NewThread() Thread { return new(thread) }

// Enter locks the goroutine to its thread, so that tid is the id of the thread that
// will block.
func (t *thread) Enter() bool {
	runtime.LockOSThread()
	t.tid = unix.Gettid()
	// A program ignores the signal once, if at all, and Interrupt can handle
	// that. Checking only now and then saves system calls per message.
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

// unblock unblocks the signal for the calling thread. If the parent of this
// process had it blocked, every thread has inherited that mask.
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
		// The thread must not receive signals that the parent process had
		// blocked. This cannot fail: the mask is one that we read.
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &t.mask, nil)
	}
	runtime.UnlockOSThread()
}

func (t *thread) Interrupt() {
	if !signalCaught(interruptSignal) {
		catchSignal() // the signal was caught when the call began, and the call must end
	}
	// It cannot fail with ESRCH: the goroutine is locked to the thread until Leave.
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

// signalCaught reports whether the process has a handler for the signal. A signal
// that is ignored, or has its default action, interrupts nothing. This asks the
// kernel, since C code in the process (the host of a c-shared library) may have set
// the handler, which signal.Ignored does not see.
func signalCaught(sig unix.Signal) bool {
	// struct kernel_sigaction has at most 8 words: handler, flags, restorer and
	// mask, in an order that depends on the architecture
	// (include/linux/signal_types.h).
	var act [8]uintptr
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), 0,
		uintptr(unsafe.Pointer(&act)), // unsafe rule (4): converted in the call
		kernelSigsetSize, 0, 0)
	const sigDfl, sigIgn = 0, 1
	handler := act[sigactionHandler]
	return errno == 0 && handler != sigDfl && handler != sigIgn
}

var catching sync.Mutex

// catchSignal installs the Go runtime's handler for the signal again, after the
// program, or C code in it, has ignored the signal. This has no other effect: the
// default action of SIGURG is to ignore it, and so does the runtime's handler.
func catchSignal() {
	catching.Lock()
	defer catching.Unlock()
	// The runtime may believe that its handler is installed although C code has
	// replaced it. Ignore corrects that, Notify installs the handler, and Stop
	// leaves it installed, as at the start of the program.
	c := make(chan os.Signal, 1)
	signal.Ignore(interruptSignal)
	signal.Notify(c, interruptSignal)
	signal.Stop(c)
}
