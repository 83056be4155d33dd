// Package sysvtest specifies System V message queues as tests that any
// [sysv.Kernel] must pass; [Run] runs them. Both the kernel that the tests run on and
// the one of internal/simq pass them.
package sysvtest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// TB is the part of testing.TB that this package uses; rapid.T has it too.
type TB interface {
	Helper()
	Cleanup(func())
	Log(...any)
	Errorf(string, ...any)
	Fatal(...any)
	Fatalf(string, ...any)
	Skip(...any)
	Skipf(string, ...any)
}

// Machine is a kernel under test, with what a test must know of it besides the
// interface.
type Machine struct {
	sysv.Kernel
	// PID is the process id that Stat returns for the calls of this process.
	PID int32
	// Asleep returns the number of calls of this process that are blocked in the
	// kernel. It skips the test if that cannot be determined.
	Asleep func(TB) int
	// Emulated means that the test runs under qemu-user, which changes some results.
	Emulated bool
	// As returns a user without capabilities. It skips the test if it may not
	// become that user.
	As func(t TB, uid, gid uint32) User
	// Lacks has the rules that cannot hold for the kernel, by what they say, and why. They
	// are skipped.
	Lacks map[string]string
}

// User calls do as a user of the machine, and returns its result. do may run
// in another goroutine.
type User func(do func(sysv.Kernel) error) error

// self is the user of the machine's Kernel.
func (m Machine) self(do func(sysv.Kernel) error) error { return do(m.Kernel) }

// Run tests the kernels that newMachine returns, one for each test. It fails if they lack what
// is no rule.
func Run(t *testing.T, newMachine func(TB) Machine) {
	rules := make(map[string]bool)
	for _, group := range []struct {
		name  string
		rules []rule
	}{
		{"get", getRules},
		{"send", sendRules},
		{"receive", receiveRules},
		{"copy", copyRules},
		{"control", controlRules},
		{"permission", permissionRules},
		{"block", blockRules},
	} {
		for _, r := range group.rules {
			rules[r.says] = true
		}
		t.Run(group.name, func(t *testing.T) {
			for _, r := range group.rules {
				t.Run(r.says, func(t *testing.T) {
					t.Log("source:", r.source)
					m := newMachine(t)
					if reason, lacks := m.Lacks[r.says]; lacks {
						t.Skip(reason)
					}
					r.check(t, m)
				})
			}
		})
	}
	for says := range newMachine(t).Lacks {
		if !rules[says] {
			t.Errorf("Machine.Lacks has what is no rule: %q", says)
		}
	}
}

// rule is a statement about the kernel, its source, and its test.
type rule struct {
	says   string
	source string // a function of Linux's ipc/, or a manual page
	check  func(*testing.T, Machine)
}

// queue is a queue of one test.
type queue struct {
	t  TB
	m  Machine
	id int
}

// private creates a queue without a key. It is removed when the test ends.
func private(t TB, m Machine) queue {
	t.Helper()
	return get(t, m, sysv.KeyPrivate, 0o600)
}

// get creates a queue. It is removed when the test ends.
func get(t TB, m Machine, key int32, flags int) queue {
	t.Helper()
	id, err := m.Get(key, flags|sysv.Create)
	equal(t, err, nil, "Get(%#x, %#o)", key, flags|sysv.Create)
	t.Cleanup(func() {
		if err := m.Remove(id); err != nil && err != sysv.EINVAL { // EINVAL: the test has removed it
			t.Errorf("the queue is left behind: %v", err)
		}
	})
	return queue{t, m, id}
}

// freeKey returns a key that no queue has.
func freeKey(t TB, k sysv.Kernel) int32 {
	t.Helper()
	for {
		key := 1 + rand.Int32N(math.MaxInt32) // not KeyPrivate, for which Get would create a queue
		if _, err := k.Get(key, 0); err == sysv.ENOENT {
			return key
		}
	}
}

// Message returns a message in the form that Send takes.
func Message(typ int, text string) []byte {
	msg := sysv.Buffer(len(text))
	sysv.PutType(msg, typ)
	copy(msg[sysv.HeaderSize:], text)
	return msg
}

// Result is the result of a Receive.
type Result struct {
	Type int
	Text string
	Err  error
}

func (r Result) String() string {
	if r.Err != nil {
		return "error " + r.Err.Error()
	}
	return fmt.Sprintf("message %d %q", r.Type, r.Text)
}

// Receive receives with the Receive method of a Kernel or of a Thread, into a buffer
// for room bytes of text. It panics if a failed call wrote to the buffer, or returned a size
// that cannot be that of a message which does not fit: no caller may see part of a message.
func Receive(receive func(id int, buf []byte, msgtyp, flags int) (int, error), id, room, msgtyp, flags int) Result {
	buf := sysv.Buffer(room)
	n, err := receive(id, buf, msgtyp, flags)
	if err == nil {
		return Result{Type: sysv.Type(buf), Text: string(buf[sysv.HeaderSize:][:n])}
	}
	if n != 0 && (err != sysv.E2BIG || n <= room) {
		panic(fmt.Sprintf("Receive returned %d bytes and %v", n, err))
	}
	if Emulated() {
		buf = buf[sysv.HeaderSize:] // qemu-user writes a type even if the call fails
	}
	for _, b := range buf {
		if b != 0 {
			panic(fmt.Sprintf("Receive wrote to its buffer and returned %v", err))
		}
	}
	return Result{Err: err}
}

func (q queue) trySend(typ int, text string) error { return q.m.Send(q.id, Message(typ, text)) }

func (q queue) tryReceive(room, msgtyp, flags int) Result {
	return Receive(q.m.Receive, q.id, room, msgtyp, flags)
}

// send sends a message that must fit.
func (q queue) send(typ int, text string) {
	q.t.Helper()
	equal(q.t, q.trySend(typ, text), nil, "Send(%d, %q)", typ, text)
}

// holds checks the messages of the queue, and takes them.
func (q queue) holds(want ...Result) {
	q.t.Helper()
	st := q.stat()
	equal(q.t, int(st.Messages), len(want), "messages")
	bytes := 0
	for i, w := range want {
		bytes += len(w.Text)
		equal(q.t, q.tryReceive(room, 0, 0), w, "message %d of the queue", i)
	}
	equal(q.t, int(st.Bytes), bytes, "bytes")
	equal(q.t, q.tryReceive(room, 0, 0), Result{Err: sysv.ENOMSG}, "after the last message")
}

func (q queue) stat() sysv.Stat {
	q.t.Helper()
	st, err := q.m.Stat(q.id)
	equal(q.t, err, nil, "Stat")
	return st
}

// justNow, in the wanted state, stands for any time since the test began.
const justNow = -1

// hasState checks the state of a queue. The kernel updates its seconds once per
// tick, so a time may be one second before the time that our clock showed.
func (q queue) hasState(want sysv.Stat, began int64) {
	q.t.Helper()
	got := q.m.believable(q.stat())
	want = q.m.believable(want)
	for _, at := range []struct{ got, want *int64 }{
		{&got.SendTime, &want.SendTime},
		{&got.ReceiveTime, &want.ReceiveTime},
		{&got.ChangeTime, &want.ChangeTime},
	} {
		if *at.want == justNow && *at.got >= began-1 && *at.got <= time.Now().Unix() {
			*at.want = *at.got
		}
	}
	equal(q.t, got, want, "Stat")
}

// set changes the queue; this must succeed.
func (q queue) set(change func(*sysv.Attr)) {
	q.t.Helper()
	equal(q.t, q.trySet(change), nil, "Set")
}

func (q queue) trySet(change func(*sysv.Attr)) error {
	q.t.Helper()
	if os.Geteuid() != 0 {
		q.m.needMode(q.t) // with mode 0 we would lose access
	}
	a := q.stat().Attr
	change(&a)
	return q.m.Set(q.id, a)
}

// room is large enough for any message of the tests.
const room = 64

// equal fails the test unless got equals want.
func equal[T comparable](t TB, got, want T, what string, args ...any) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: got %v, want %v", fmt.Sprintf(what, args...), got, want)
	}
}
