package sysv

import (
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// alarm is an Alarm whose sleep is a futex(2) call with a timeout: when a Go timer
// ends, the runtime wakes several threads to look for work, which costs an idle
// program more than what it woke up for.
type alarm struct {
	rung uint32 // 1: it has rung
}

func (linux) NewAlarm() Alarm { return new(alarm) }

// Operations of futex(2) (include/uapi/linux/futex.h), which x/sys/unix has no
// names for.
const (
	futexWait    = 0
	futexWake    = 1
	futexPrivate = 128 // no other process uses the word
)

func (a *alarm) Sleep(d time.Duration) {
	deadline := time.Now().Add(d)
	for !atomic.CompareAndSwapUint32(&a.rung, 1, 0) {
		left := time.Until(deadline)
		if left <= 0 {
			return
		}
		timeout := unix.NsecToTimespec(int64(left))
		// EAGAIN: it has rung. EINTR, ETIMEDOUT: the loop looks at the clock.
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX,
			uintptr(unsafe.Pointer(&a.rung)), // unsafe rule (4): converted in the call
			futexWait|futexPrivate, 0,
			uintptr(unsafe.Pointer(&timeout)), // unsafe rule (4): converted in the call
			0, 0)
	}
}

func (a *alarm) Ring() {
	if atomic.SwapUint32(&a.rung, 1) == 1 {
		return
	}
	// It cannot fail with a word that exists.
	_, _, _ = unix.RawSyscall6(unix.SYS_FUTEX,
		uintptr(unsafe.Pointer(&a.rung)), // unsafe rule (4): converted in the call
		futexWake|futexPrivate, 1, 0, 0, 0)
}
