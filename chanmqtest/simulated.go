package chanmqtest

import (
	"os"
	"slices"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// Kernel is a simulated kernel with queues of its own. It behaves as Linux does
// in msgget(2), msgop(2) and msgctl(2), permissions and limits included. Its
// processes are options of the calls that open queues; the program under test may
// use several. A Kernel is safe for concurrent use.
//
// Calls that wait do not block in a system call, so in a [testing/synctest] bubble
// they are durably blocked, and the bubble's clock advances without delay. Queues
// that a bubble uses must be opened in it.
//
// [chanmq.List] and [chanmq.ReadLimits] ask the real kernel, and FTok the real
// file system.
type Kernel struct {
	machine *simq.Kernel
	self    chanmq.Option
	root    *simq.Process // for calls that are not the program's: Fail does not apply to it
}

// Simulated returns a kernel for one test, without queues and with the default
// limits of Linux: messages of 8,192 bytes, queues of 16,384 bytes. When the test
// ends, it fails if handles or goroutines are left, by the rules of [New]: every
// handle must be closed. Messages may be left, except in queues of [Kernel.New].
func Simulated(t testing.TB) *Kernel {
	t.Helper()
	watchTest(t)
	k := &Kernel{machine: simq.New()}
	k.root = k.machine.Process(0, 0)
	k.self = k.Process(id(os.Geteuid()), id(os.Getegid()))
	return k
}

// id returns a uid or gid even where the operating system has none (-1).
func id(n int) int {
	if n < 0 {
		return 1000
	}
	return n
}

// Option makes [chanmq.Open], Create, Private and Attach open the queue on this
// kernel, by a process that belongs to the user who runs the test:
//
//	q, err := chanmq.Create(key, 0o600, k.Option())
//
// All handles opened with it are of the same process.
func (k *Kernel) Option() chanmq.Option { return k.self }

// Process returns an option like [Kernel.Option] for another process, which
// belongs to a user and a group. User 0 has all permissions.
func (k *Kernel) Process(uid, gid int) chanmq.Option {
	return option(k.machine.Process(uint32(uid), uint32(gid)))
}

func option(k sysv.Kernel) chanmq.Option { return inject.Kernel(k).(chanmq.Option) }

// New is the function [New] on this kernel: a private queue, and the same checks
// when the test ends. The test is never skipped.
func (k *Kernel) New(t testing.TB, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	return newQueue(t, append(slices.Clip(opts), k.self), option(k.root))
}

// Limits changes the limits of the kernel, as sysctl does: msgmax, the bytes of
// a message; msgmnb, the bytes of each queue that is created from now on; msgmni,
// the number of queues. A limit of 0 is left unchanged.
func (k *Kernel) Limits(msgmax, msgmnb, msgmni int) {
	k.machine.SetLimits(sysv.Limits{MaxMessage: msgmax, MaxBytes: msgmnb, MaxQueues: msgmni})
}

// Remove removes the queue with the msqid, as ipcrm does: every call that waits
// on it returns [chanmq.ErrRemoved].
func (k *Kernel) Remove(msqid int) error { return k.root.Remove(msqid) }

// Waiting returns how many sends and receives are blocked in the kernel.
func (k *Kernel) Waiting() int { return k.machine.Asleep() }

// Call is a system call that a process makes.
type Call struct {
	Op    string // "Get" (msgget), "Send" (msgsnd), "Receive" (msgrcv), "Stat", "Set", "Remove" (msgctl), "List", "Limits"
	ID    int    // the msqid; 0 for Get, List and Limits
	Key   chanmq.Key
	Type  int64 // of Send the message's type, of Receive msgtyp as in msgrcv(2)
	Size  int   // of Send the bytes of text, of Receive the size of the buffer (msgsz)
	Waits bool  // without IPC_NOWAIT
}

// Fail makes system calls fail: fault is called before each call of every
// process. If it returns an error, the call returns that error, and has sent, taken
// and changed nothing. The error should be one that msgop(2) lists for the call,
// such as syscall.ENOMEM or syscall.EACCES, and EINTR only where the call waits.
// fault must be safe for concurrent use; it may use the Kernel, but must not wait
// for the program under test. Fail(nil) ends the faults.
func (k *Kernel) Fail(fault func(Call) error) {
	if fault == nil {
		k.machine.SetHooks(simq.Hooks{})
		return
	}
	k.machine.SetHooks(simq.Hooks{Fault: func(c simq.Call) error {
		if c.PID == k.root.PID() || c.Op == simq.Enter || c.Op == simq.Interrupt {
			return nil // not a system call of the program's
		}
		return fault(Call{
			Op:    string(c.Op),
			ID:    c.ID,
			Key:   chanmq.Key(c.Key),
			Type:  int64(c.Type),
			Size:  c.Size,
			Waits: c.Blocking,
		})
	}})
}
