package simq

import "github.com/chanmq/chanmq/internal/sysv"

// Hooks are called for system calls. They run in the goroutine of the call without
// the kernel's mutex, so they may use the machine, wait, or panic. If several
// goroutines make calls, hooks run concurrently.
type Hooks struct {
	// Fault is called before a call does anything. If it returns an error, such
	// as sysv.EINTR, ENOMEM or EACCES, the call returns that error, and nothing
	// is sent, taken or changed. In this way Enter returns false, and an
	// Interrupt is lost.
	Fault func(Call) error
	// Observe is called when a call ends, with its error, including calls that
	// Fault made fail.
	Observe func(Call, error)
}

// SetHooks replaces the hooks, for calls that have not begun yet. The zero Hooks
// removes them.
func (k *Kernel) SetHooks(h Hooks) { k.hooks.Store(&h) }

// Op is the kind of a call: a method of sysv.Kernel or sysv.Thread.
type Op string

// The kinds of calls. Leave is missing, since it cannot fail.
const (
	Get       Op = "Get"
	Send      Op = "Send"
	Receive   Op = "Receive"
	Stat      Op = "Stat"
	Set       Op = "Set"
	Remove    Op = "Remove"
	List      Op = "List"
	Limits    Op = "Limits"
	Enter     Op = "Enter"
	Interrupt Op = "Interrupt"
)

// Call is a system call as hooks see it. Fields that do not apply to the Op are
// zero.
type Call struct {
	Op       Op
	PID      int32 // the process
	ID       int   // the queue
	Key      int32 // of Get
	Flags    int   // of Get and Receive
	Type     int   // of Send: the message type; of Receive: msgtyp
	Size     int   // of Send: the bytes of text; of Receive: the capacity for text
	Blocking bool  // a Send or Receive of a Thread
}

func sendCall(id int, msg []byte, blocking bool) Call {
	return Call{Op: Send, ID: id, Type: sysv.Type(msg), Size: textSize(msg), Blocking: blocking}
}

func receiveCall(id int, buf []byte, msgtyp, flags int, blocking bool) Call {
	return Call{Op: Receive, ID: id, Type: msgtyp, Flags: flags, Size: textSize(buf), Blocking: blocking}
}

// call makes a system call: it runs do under the kernel's mutex, and the hooks
// before and after.
func (p *Process) call(c Call, do func() error) error {
	return p.sleepingCall(c, func() (*sleeper, error) { return nil, do() })
}

// sleepingCall is call for a do that may return a sleeper. If it does, sleepingCall
// waits until the sleeper is woken, without the mutex.
func (p *Process) sleepingCall(c Call, do func() (*sleeper, error)) (err error) {
	c.PID = p.pid
	hooks := p.k.hooks.Load()
	if hooks.Observe != nil {
		defer func() { hooks.Observe(c, err) }()
	}
	if hooks.Fault != nil {
		if err := hooks.Fault(c); err != nil {
			return err
		}
	}
	s, err := p.k.locked(do)
	if s != nil {
		return <-s.done
	}
	return err
}

func (k *Kernel) locked(do func() (*sleeper, error)) (*sleeper, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return do()
}
