// Package sysv is chanmq's interface to the kernel: the four message queue calls,
// ftok, and a way to interrupt a blocking call. It is the only package of the
// module that imports golang.org/x/sys, and, apart from the codec for C structs,
// the only one that uses unsafe.
//
// Everything above it uses a [Kernel]. [Host] is the one that the program runs on;
// internal/simq has one that exists in memory only, for tests.
//
// Errors are plain [syscall.Errno] values on every operating system, so that the
// simulated kernel returns the same errors where there is no real one.
package sysv

import (
	"math"
	"reflect"
	"syscall"
	"time"
	"unsafe"
)

// HeaderSize is the number of bytes before the text of a message that hold its
// type: the C long at the beginning of struct msgbuf. C's long is Go's int on
// every GOARCH of Linux.
const HeaderSize = int(unsafe.Sizeof(int(0)))

// MaxType is the largest message type that fits a C long.
const MaxType = int64(math.MaxInt)

// Flags of msgget(2) and msgrcv(2). The numbers are the same on every Linux
// architecture (include/uapi/linux/ipc.h, include/uapi/linux/msg.h).
const (
	Create    = 0o1000  // IPC_CREAT
	Exclusive = 0o2000  // IPC_EXCL
	noWait    = 0o4000  // IPC_NOWAIT: implied by the methods of Kernel
	Except    = 0o20000 // MSG_EXCEPT
	Copy      = 0o40000 // MSG_COPY: msgtyp is a position, the message stays
)

// KeyPrivate is IPC_PRIVATE: Get creates a new queue without a key.
const KeyPrivate = 0

// The errors of a Kernel that callers distinguish.
const (
	E2BIG  = syscall.E2BIG  // receive: the message is larger than the buffer, and was not taken
	EACCES = syscall.EACCES // no permission
	EAGAIN = syscall.EAGAIN // send: the queue is full
	EEXIST = syscall.EEXIST // get: the key exists, and Exclusive was given
	EIDRM  = syscall.EIDRM  // the queue was removed
	EINTR  = syscall.EINTR  // a blocking call was interrupted; nothing was sent or taken
	EINVAL = syscall.EINVAL // no such queue (any more), or a bad argument
	ENOENT = syscall.ENOENT // get: no queue has the key
	ENOMEM = syscall.ENOMEM // no memory for the message or the queue
	ENOMSG = syscall.ENOMSG // receive: no message matches
	ENOSPC = syscall.ENOSPC // get: msgmni queues exist
	ENOSYS = syscall.ENOSYS // the kernel lacks the call, or MSG_COPY
	EPERM  = syscall.EPERM  // control: not the owner, or CAP_SYS_RESOURCE is missing
)

// Kernel is what chanmq needs of an operating system: System V message queues
// as in msgget(2), msgop(2) and msgctl(2). Its methods do not block; the blocking
// calls are methods of [Thread]. It is safe for concurrent use.
type Kernel interface {
	// Get returns the id (msqid) of the queue with the key. flags are the
	// permissions, Create and Exclusive.
	Get(key int32, flags int) (id int, err error)
	// Send puts a message into the queue: HeaderSize bytes with its type, as
	// written by PutType, and its text. EAGAIN: the queue is full.
	Send(id int, msg []byte) error
	// Receive takes the message that msgtyp and flags (Except, Copy) select. It
	// writes the type and the n bytes of text to buf. ENOMSG: no message
	// matches. E2BIG: the text does not fit buf; n is its size, or 0 if that is not
	// known.
	Receive(id int, buf []byte, msgtyp, flags int) (n int, err error)
	// Stat returns the state of a queue.
	Stat(id int) (Stat, error)
	// Set changes the owner, permissions and size of a queue, all at once.
	Set(id int, a Attr) error
	// Remove destroys a queue. Calls that are blocked on it return EIDRM.
	Remove(id int) error
	// List returns the state of every queue that the caller may see.
	List() ([]Stat, error)
	// Limits returns the limits of the system, and the current usage.
	Limits() (Limits, error)
	// NewThread returns a Thread for blocking calls, one at a time.
	NewThread() Thread
	// NewAlarm returns a place to sleep, for one goroutine at a time.
	NewAlarm() Alarm
	// UID returns the user id that permissions are checked for.
	UID() int
	// Traits say what it is like beyond its calls.
	Traits() Traits
	// Handle returns the Kernel for one handle. It may be the same for all.
	Handle() Kernel
	// Release ends a Kernel that Handle returned. It is called once, when the handle is
	// closed or could not be opened: what the Kernel has taken from a queue and not given
	// out goes back. Leases that it has given out go on. No call is under way that waits;
	// others that come late fail, or work as before.
	Release()
}

// SameMachine reports whether a and b have the same queues. A machine in memory has
// a Kernel for each of its processes, and a method that compares them. So must one have
// whose Handle returns another Kernel each time.
func SameMachine(a, b Kernel) bool {
	if m, ok := a.(interface{ SameMachine(Kernel) bool }); ok {
		return m.SameMachine(b)
	}
	return a == b
}

// Thread lets one goroutine at a time make blocking calls that another goroutine
// can interrupt. The order of calls is Enter, any number of Send and Receive,
// Leave. Any goroutine may call Interrupt between Enter and Leave; callers must
// make sure that it is not called at any other time.
type Thread interface {
	// Enter locks the calling goroutine to a thread that can be interrupted. It
	// returns false, without effect, if a blocking call could not be interrupted.
	Enter() bool
	// Send is Kernel.Send, but waits until the message fits the queue. EINTR: it
	// was interrupted, and nothing was sent.
	Send(id int, msg []byte) error
	// Receive is Kernel.Receive, but waits for a message. EINTR: it was
	// interrupted, and nothing was taken.
	Receive(id int, buf []byte, msgtyp, flags int) (n int, err error)
	// Interrupt makes the current blocking call return EINTR. It is lost if the
	// call has not begun yet, so a caller that needs the effect repeats it.
	Interrupt()
	// Leave undoes Enter.
	Leave()
}

// Alarm is the place where one goroutine at a time sleeps, and others can end that.
type Alarm interface {
	// Sleep returns after d, or when Ring is called; at once if it was called
	// since the last Sleep ended.
	Sleep(d time.Duration)
	// Ring ends the sleep, or the next one.
	Ring()
}

// TimerAlarm is an Alarm that uses no system call of its own.
type TimerAlarm struct{ rung chan struct{} }

// NewTimerAlarm returns one that has not rung.
func NewTimerAlarm() *TimerAlarm { return &TimerAlarm{make(chan struct{}, 1)} }

// Sleep implements [Alarm].
func (a *TimerAlarm) Sleep(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-a.rung:
	}
}

// Ring implements [Alarm].
func (a *TimerAlarm) Ring() {
	select {
	case a.rung <- struct{}{}:
	default: // it has rung
	}
}

// Stat is the state of a queue (struct msqid_ds).
type Stat struct {
	ID  int
	Key int32
	Attr
	CreatorUID, CreatorGID uint32
	Messages, Bytes        uint64
	// Seconds since 1970; zero means never.
	SendTime, ReceiveTime, ChangeTime int64
	SendPID, ReceivePID               int32
}

// Attr is the part of a queue's state that Set changes.
type Attr struct {
	UID, GID uint32
	Mode     uint32 // the nine permission bits
	MaxBytes uint64 // msg_qbytes
}

// Limits are the limits of an IPC namespace, and the current usage.
type Limits struct {
	MaxMessage, MaxBytes, MaxQueues int // msgmax, msgmnb, msgmni
	Queues, Messages, Bytes         int
}

// Buffer returns a buffer for a message with up to n bytes of text, aligned for the
// type at its beginning: a Go int, so the buffer is allocated as an []int.
func Buffer(n int) []byte {
	words := make([]int, 1+(n+HeaderSize-1)/HeaderSize)
	// unsafe.Slice covers memory of at least that length, which the result keeps
	// alive; bytes need no alignment.
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), HeaderSize+n)
}

// PutType writes the type of a message before its text. The buffer must have at
// least HeaderSize bytes.
func PutType(msg []byte, typ int) {
	_ = msg[HeaderSize-1]
	// Bytes are copied, so the buffer need not be aligned.
	copy(msg, (*[HeaderSize]byte)(unsafe.Pointer(&typ))[:])
}

// Type reads the type before the text of a message.
func Type(msg []byte) int {
	var typ int
	_ = msg[HeaderSize-1]
	copy((*[HeaderSize]byte)(unsafe.Pointer(&typ))[:], msg)
	return typ
}

// Word returns the first word of an addressable value of at least that size: what
// tells two func values apart, and the memory of two strings.
func Word(v reflect.Value) uintptr {
	// unsafe rule (5) and (1): a pointer to the value, read as one to its first word.
	return *(*uintptr)(v.Addr().UnsafePointer())
}
