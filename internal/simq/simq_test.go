package simq_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

// machine returns a simulated kernel for the tests of sysvtest.
func machine(sysvtest.TB) sysvtest.Machine {
	k := simq.New()
	root := k.Process(0, 0)
	return sysvtest.Machine{
		Kernel: root,
		PID:    root.PID(),
		Asleep: func(sysvtest.TB) int { return k.Asleep() },
		As: func(_ sysvtest.TB, uid, gid uint32) sysvtest.User {
			p := k.Process(uid, gid)
			return func(do func(sysv.Kernel) error) error { return do(p) }
		},
	}
}

func TestKernel(t *testing.T) { sysvtest.Run(t, machine) }

// TestRemoteKernel: a process elsewhere has the same queues.
func TestRemoteKernel(t *testing.T) {
	sysvtest.Run(t, func(sysvtest.TB) sysvtest.Machine {
		k := simq.New()
		root := k.Remote(0, 0, 4)
		return sysvtest.Machine{
			Kernel: root.Handle(),
			PID:    root.PID(),
			Asleep: func(sysvtest.TB) int { return k.Asleep() },
			As: func(_ sysvtest.TB, uid, gid uint32) sysvtest.User {
				p := k.Remote(uid, gid, 4).Handle()
				return func(do func(sysv.Kernel) error) error { return do(p) }
			},
			Lacks: map[string]string{
				"space that Set adds wakes a sender":                     neverWaits,
				"Set wakes calls that lost their permission with EACCES": neverWaits,
			},
		}
	})
}

const neverWaits = "a message that is larger than the queue may ever hold is EINVAL there, and does not wait"

// The other tests are about what the simulation adds to a kernel, and what a test
// must not do to the kernel that it runs on.

// newQueue returns a private queue of a process.
func newQueue(t *testing.T, p *simq.Process) int {
	t.Helper()
	id, err := p.Get(sysv.KeyPrivate, 0o600)
	want(t, err, nil)
	return id
}

func want[T comparable](t *testing.T, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

func receive(k sysv.Kernel, id int) sysvtest.Result {
	return sysvtest.Receive(k.Receive, id, 64, 0, 0)
}

func message(typ int, text string) sysvtest.Result { return sysvtest.Result{Type: typ, Text: text} }

func TestTheFirstIDIsZero(t *testing.T) {
	// Zero is a valid id, which programs tend to forget.
	want(t, newQueue(t, simq.New().Process(0, 0)), 0)
}

func TestProcessesShareQueues(t *testing.T) {
	k := simq.New()
	a, b := k.Process(500, 500), k.Process(501, 500)
	const key = 0x1234
	id, err := a.Get(key, sysv.Create|0o660)
	want(t, err, nil)
	same, err := b.Get(key, 0o660)
	want(t, err, nil)
	want(t, same, id)
	want(t, a.Send(id, sysvtest.Message(3, "x")), nil)
	want(t, receive(b, id), message(3, "x"))
	st, err := a.Stat(id)
	want(t, err, nil)
	want(t, st.SendPID, a.PID())
	want(t, st.ReceivePID, b.PID())
	if a.PID() == b.PID() {
		t.Errorf("both processes are %d", a.PID())
	}
}

func TestLimitsChangeWhileRunning(t *testing.T) {
	k := simq.New()
	p := k.Process(0, 0)
	l, err := p.Limits()
	want(t, err, nil)
	want(t, l, sysv.Limits{MaxMessage: 8192, MaxBytes: 16384, MaxQueues: 32000})

	old := newQueue(t, p)
	want(t, p.Send(old, sysvtest.Message(1, "abc")), nil)
	k.SetLimits(sysv.Limits{MaxMessage: 2, MaxBytes: 5})
	l, err = p.Limits()
	want(t, err, nil)
	want(t, l, sysv.Limits{MaxMessage: 2, MaxBytes: 5, MaxQueues: 32000, Queues: 1, Messages: 1, Bytes: 3})

	// msgmax applies to new messages, msgmnb to new queues.
	want(t, p.Send(old, sysvtest.Message(1, "abc")), error(sysv.EINVAL))
	want(t, sysvtest.Receive(p.Receive, old, 64, 0, sysv.Copy), sysvtest.Result{Err: sysv.EINVAL})
	want(t, receive(p, old), message(1, "abc"))
	st, err := p.Stat(old)
	want(t, err, nil)
	want(t, st.MaxBytes, 16384)
	st, err = p.Stat(newQueue(t, p))
	want(t, err, nil)
	want(t, st.MaxBytes, 5)
}

func TestTooManyQueues(t *testing.T) {
	k := simq.New()
	p := k.Process(0, 0)
	k.SetLimits(sysv.Limits{MaxQueues: 2})
	const key = 7
	id, err := p.Get(key, sysv.Create)
	want(t, err, nil)
	newQueue(t, p)
	_, err = p.Get(sysv.KeyPrivate, 0)
	want(t, err, error(sysv.ENOSPC))
	_, err = p.Get(8, sysv.Create)
	want(t, err, error(sysv.ENOSPC))
	same, err := p.Get(key, sysv.Create) // creates none
	want(t, err, nil)
	want(t, same, id)
	want(t, p.Remove(id), nil)
	newQueue(t, p)
}

func TestFaultFailsACallThatThenDidNothing(t *testing.T) {
	k := simq.New()
	p := k.Process(0, 0)
	const key = 7
	id, err := p.Get(key, sysv.Create|0o600)
	want(t, err, nil)
	want(t, p.Send(id, sysvtest.Message(2, "abc")), nil)
	before, err := p.Stat(id)
	want(t, err, nil)
	th := p.NewThread()
	want(t, th.Enter(), true)

	const fault = sysv.ENOMEM
	var calls []simq.Call
	buf := sysv.Buffer(10)
	for _, c := range []struct {
		call func() error
		is   simq.Call // what the hooks get, except for the process
	}{
		{func() error { _, err := p.Get(key+1, sysv.Create); return err },
			simq.Call{Op: simq.Get, Key: key + 1, Flags: sysv.Create}},
		{func() error { return p.Send(id, sysvtest.Message(9, "xy")) },
			simq.Call{Op: simq.Send, ID: id, Type: 9, Size: 2}},
		{func() error { return th.Send(id, sysvtest.Message(9, "xy")) },
			simq.Call{Op: simq.Send, ID: id, Type: 9, Size: 2, Blocking: true}},
		{func() error { _, err := p.Receive(id, buf, -3, sysv.Except); return err },
			simq.Call{Op: simq.Receive, ID: id, Type: -3, Flags: sysv.Except, Size: 10}},
		{func() error { _, err := th.Receive(id, buf, -3, 0); return err },
			simq.Call{Op: simq.Receive, ID: id, Type: -3, Size: 10, Blocking: true}},
		{func() error { _, err := p.Stat(id); return err }, simq.Call{Op: simq.Stat, ID: id}},
		{func() error { return p.Set(id, sysv.Attr{}) }, simq.Call{Op: simq.Set, ID: id}},
		{func() error { return p.Remove(id) }, simq.Call{Op: simq.Remove, ID: id}},
		{func() error { _, err := p.List(); return err }, simq.Call{Op: simq.List}},
		{func() error { _, err := p.Limits(); return err }, simq.Call{Op: simq.Limits}},
	} {
		calls = nil
		k.SetHooks(simq.Hooks{
			Fault: func(c simq.Call) error { calls = append(calls, c); return fault },
			Observe: func(c simq.Call, err error) {
				calls = append(calls, c)
				want(t, err, error(fault))
			},
		})
		want(t, c.call(), error(fault))
		c.is.PID = p.PID()
		if !slices.Equal(calls, []simq.Call{c.is, c.is}) {
			t.Errorf("the hooks saw %+v, want %+v twice", calls, c.is)
		}
	}

	k.SetHooks(simq.Hooks{})
	after, err := p.Stat(id)
	want(t, err, nil)
	want(t, after, before)
	_, err = p.Get(key+1, 0)
	want(t, err, error(sysv.ENOENT))
	want(t, receive(p, id), message(2, "abc"))
}

func TestFaultMakesAThreadUninterruptible(t *testing.T) {
	k := simq.New()
	p := k.Process(0, 0)
	k.SetHooks(simq.Hooks{Fault: func(c simq.Call) error {
		if c.Op == simq.Enter {
			return sysv.EPERM
		}
		return nil
	}})
	th := p.NewThread()
	want(t, th.Enter(), false)
	k.SetHooks(simq.Hooks{})
	want(t, th.Enter(), true) // the first Enter had no effect
	th.Leave()
}

func TestObserveSeesEachCallOnce(t *testing.T) {
	k := simq.New()
	p := k.Process(0, 0)
	type done struct {
		op  simq.Op
		err error
	}
	var seen []done
	k.SetHooks(simq.Hooks{Observe: func(c simq.Call, err error) { seen = append(seen, done{c.Op, err}) }})
	id := newQueue(t, p)
	want(t, p.Send(id, sysvtest.Message(1, "")), nil)
	receive(p, id)
	receive(p, id)
	th := p.NewThread()
	th.Enter()
	want(t, th.Send(id, sysvtest.Message(0, "")), error(sysv.EINVAL))
	th.Interrupt()
	th.Leave()
	expected := []done{
		{simq.Get, nil}, {simq.Send, nil}, {simq.Receive, nil}, {simq.Receive, sysv.ENOMSG},
		{simq.Enter, nil}, {simq.Send, sysv.EINVAL}, {simq.Interrupt, nil},
	}
	if !slices.Equal(seen, expected) {
		t.Errorf("saw %v, want %v", seen, expected)
	}
}

// The misuse of a thread might go unnoticed with a real kernel.
func TestThreadPanicsOutOfOrder(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(*simq.Process, sysv.Thread)
		says string
	}{
		{"Enter twice", func(_ *simq.Process, th sysv.Thread) { th.Enter(); th.Enter() }, "Enter"},
		{"Leave without Enter", func(_ *simq.Process, th sysv.Thread) { th.Leave() }, "Leave"},
		{"Interrupt before Enter", func(_ *simq.Process, th sysv.Thread) { th.Interrupt() }, "Interrupt"},
		{"Interrupt after Leave", func(_ *simq.Process, th sysv.Thread) { th.Enter(); th.Leave(); th.Interrupt() }, "Interrupt"},
		{"a call that would block, without Enter", func(p *simq.Process, th sysv.Thread) {
			id, _ := p.Get(sysv.KeyPrivate, 0o600)
			_, _ = th.Receive(id, sysv.Buffer(1), 0, 0)
		}, "outside"},
		{"a call that would not block, without Enter", func(p *simq.Process, th sysv.Thread) {
			id, _ := p.Get(sysv.KeyPrivate, 0o600)
			_ = th.Send(id, sysvtest.Message(1, ""))
		}, "outside"},
	} {
		t.Run(c.name, func(t *testing.T) {
			k := simq.New()
			p := k.Process(0, 0)
			func() {
				defer func() {
					if got, _ := recover().(string); !strings.Contains(got, c.says) {
						t.Errorf("panic %q, want one about %s", got, c.says)
					}
				}()
				c.do(p, p.NewThread())
			}()
			newQueue(t, p) // the machine still works
		})
	}
}

func TestThreadPanicsForTwoCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := simq.New().Process(0, 0)
		id := newQueue(t, p)
		th := p.NewThread()
		result := blocked(th, func() sysvtest.Result { return sysvtest.Receive(th.Receive, id, 64, 0, 0) })
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
			want(t, p.Remove(id), nil)
			want(t, result(), sysvtest.Result{Err: sysv.EIDRM})
		}()
		_ = th.Send(id, sysvtest.Message(1, ""))
	})
}

// blocked starts a blocking call in a goroutine of the bubble, and returns once it is
// blocked. The returned function waits for its result.
func blocked(th sysv.Thread, call func() sysvtest.Result) func() sysvtest.Result {
	result := make(chan sysvtest.Result, 1)
	go func() {
		th.Enter()
		defer th.Leave()
		result <- call()
	}()
	synctest.Wait()
	return func() sysvtest.Result { return <-result }
}

func TestTimesAreOfTheBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := simq.New().Process(0, 0)
		id := newQueue(t, p)
		st, err := p.Stat(id)
		want(t, err, nil)
		want(t, st.ChangeTime, time.Now().Unix())
		for _, c := range []struct {
			call func() error
			at   *int64 // the time that the call sets
		}{
			{func() error { return p.Send(id, sysvtest.Message(1, "")) }, &st.SendTime},
			{func() error { return receive(p, id).Err }, &st.ReceiveTime},
			{func() error { return p.Set(id, st.Attr) }, &st.ChangeTime},
		} {
			time.Sleep(time.Minute)
			want(t, c.call(), nil)
			*c.at = time.Now().Unix()
			got, err := p.Stat(id)
			want(t, err, nil)
			want(t, got.SendTime, st.SendTime)
			want(t, got.ReceiveTime, st.ReceiveTime)
			want(t, got.ChangeTime, st.ChangeTime)
		}
	})
}

func TestBubbleSeesABlockingReceive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := simq.New().Process(0, 0)
		id := newQueue(t, p)
		begin := time.Now()
		th := p.NewThread()
		result := blocked(th, func() sysvtest.Result { return sysvtest.Receive(th.Receive, id, 64, 0, 0) })
		time.AfterFunc(time.Hour, func() { want(t, p.Send(id, sysvtest.Message(1, "x")), nil) })
		want(t, result(), message(1, "x"))
		want(t, time.Since(begin), time.Hour) // the clock ran on, since all were blocked
		st, err := p.Stat(id)
		want(t, err, nil)
		want(t, st.SendTime, begin.Add(time.Hour).Unix())
		want(t, st.ReceiveTime, st.SendTime)
	})
}

func TestBubbleSeesABlockingSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := simq.New()
		k.SetLimits(sysv.Limits{MaxBytes: 1})
		p := k.Process(0, 0)
		id := newQueue(t, p)
		want(t, p.Send(id, sysvtest.Message(1, "a")), nil)
		begin := time.Now()
		th := p.NewThread()
		result := blocked(th, func() sysvtest.Result {
			return sysvtest.Result{Err: th.Send(id, sysvtest.Message(2, "b"))}
		})
		time.AfterFunc(time.Hour, func() { want(t, receive(p, id), message(1, "a")) })
		want(t, result(), sysvtest.Result{})
		want(t, time.Since(begin), time.Hour)
		want(t, receive(p, id), message(2, "b"))
	})
}

func TestBubbleInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := simq.New()
		p := k.Process(0, 0)
		id := newQueue(t, p)
		th := p.NewThread()
		result := blocked(th, func() sysvtest.Result { return sysvtest.Receive(th.Receive, id, 64, 0, 0) })

		k.SetHooks(simq.Hooks{Fault: func(c simq.Call) error {
			if c.Op == simq.Interrupt {
				return errors.New("lost")
			}
			return nil
		}})
		th.Interrupt()
		synctest.Wait()
		want(t, k.Asleep(), 1)

		k.SetHooks(simq.Hooks{})
		th.Interrupt()
		want(t, result(), sysvtest.Result{Err: sysv.EINTR})
		want(t, k.Asleep(), 0)
	})
}

func TestBubbleRemove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := simq.New()
		k.SetLimits(sysv.Limits{MaxBytes: 1})
		p := k.Process(0, 0)
		id := newQueue(t, p)
		want(t, p.Send(id, sysvtest.Message(1, "a")), nil)
		var results []func() sysvtest.Result
		for range 10 {
			r, s := p.NewThread(), p.NewThread()
			results = append(results,
				blocked(r, func() sysvtest.Result { return sysvtest.Receive(r.Receive, id, 64, 2, 0) }),
				blocked(s, func() sysvtest.Result { return sysvtest.Result{Err: s.Send(id, sysvtest.Message(2, "b"))} }))
		}
		want(t, k.Asleep(), len(results))
		want(t, p.Remove(id), nil)
		for _, result := range results {
			want(t, result(), sysvtest.Result{Err: sysv.EIDRM})
		}
	})
}

// In the simulation, senders are served in the order of ss_wakeup. In Linux the
// scheduler decides which of the woken senders runs first.
func TestSendersAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := simq.New()
		k.SetLimits(sysv.Limits{MaxBytes: 4})
		p := k.Process(0, 0)
		id := newQueue(t, p)
		want(t, p.Send(id, sysvtest.Message(9, "1234")), nil)
		var results []func() sysvtest.Result
		send := func(typ int, text string) {
			th := p.NewThread()
			results = append(results, blocked(th, func() sysvtest.Result {
				return sysvtest.Result{Err: th.Send(id, sysvtest.Message(typ, text))}
			}))
		}
		send(1, "abc")
		send(2, "de")
		send(3, "f")
		// Each of the three fits alone; of two together, only the first and the third.
		want(t, receive(p, id), message(9, "1234"))
		want(t, receive(p, id), message(1, "abc"))
		want(t, receive(p, id), message(3, "f"))
		want(t, receive(p, id), message(2, "de"))
		want(t, receive(p, id), sysvtest.Result{Err: sysv.ENOMSG})
		for _, result := range results {
			want(t, result(), sysvtest.Result{})
		}
	})
}
