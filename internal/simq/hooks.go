package simq

import "github.com/chanmq/chanmq/internal/sysv"

// Hooks are told of system calls. They run outside the kernel's mutex, in the
// goroutine of the call, so they may use the machine, wait, or panic; and at the
// same time as others, where several goroutines make calls.
type Hooks struct {
	// Fault is asked before a call does anything. An error that it returns,
	// such as sysv.EINTR, ENOMEM or EACCES, is what the call returns: nothing
	// was sent, taken or changed. The same way Enter reports false, and an
	// Interrupt is lost.
	Fault func(Call) error
	// Observe is told of a call that ends, also of one that Fault ended, and
	// of its error.
	Observe func(Call, error)
}

// SetHooks replaces the hooks, for calls that have not begun. The zero Hooks
// takes them away.
func (k *Kernel) SetHooks(h Hooks) { k.hooks.Store(&h) }

// Op is what a call does: a method of sysv.Kernel or sysv.Thread.
type Op string

// The ops. Leave is not among them, since it cannot fail.
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

// Call is a system call as the hooks see it. A field that the op has no use
// for is zero.
type Call struct {
	Op       Op
	PID      int32 // the process
	ID       int   // the queue
	Key      int32 // of Get
	Flags    int   // of Get and Receive
	Type     int   // of Send the message's type, of Receive msgtyp
	Size     int   // the bytes of text: of Send those sent, of Receive those there is room for
	Blocking bool  // a Send or Receive of a Thread
}

func sendCall(id int, msg []byte, blocking bool) Call {
	return Call{Op: Send, ID: id, Type: sysv.Type(msg), Size: textSize(msg), Blocking: blocking}
}

func receiveCall(id int, buf []byte, msgtyp, flags int, blocking bool) Call {
	return Call{Op: Receive, ID: id, Type: msgtyp, Flags: flags, Size: textSize(buf), Blocking: blocking}
}

// call makes a system call: do runs under the kernel's mutex, the hooks around it.
func (p *Process) call(c Call, do func() error) error {
	return p.sleepingCall(c, func() (*sleeper, error) { return nil, do() })
}

// sleepingCall is call where do may return a sleeper, whose end it then waits
// for, with the mutex released.
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
