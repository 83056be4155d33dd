package sysvtest

import (
	"runtime"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

var (
	interrupted = Result{Err: sysv.EINTR}
	removed     = Result{Err: sysv.EIDRM}
	tooBig      = Result{Err: sysv.E2BIG}
	forbidden   = Result{Err: sysv.EACCES}
	sent        = Result{}
)

// full sets the size of the queue to n bytes and fills it with two messages of type
// 9, of n-1 bytes and of 1 byte.
func (q queue) full(n int) {
	q.t.Helper()
	q.set(func(a *sysv.Attr) { a.MaxBytes = uint64(n) })
	q.send(9, filler(n-1))
	q.send(9, filler(1))
}

func filler(n int) string { return "0123456789abcdef"[:n] }

var blockRules = []rule{
	{"a call that can complete does not wait", "do_msgsnd, do_msgrcv", func(t *testing.T, m Machine) {
		q := private(t, m)
		equal(t, Start(t, m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
			if err := th.Send(q.id, Message(4, "abc")); err != nil {
				return Result{Err: err}
			}
			return Receive(th.Receive, q.id, room, 0, 0)
		}).Result(), Result{Type: 4, Text: "abc"}, "Send and Receive of a Thread")
		q.send(4, "abc")
		equal(t, Start(t, m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
			return Receive(th.Receive, q.id, 2, 0, 0)
		}).Result(), tooBig, "Receive with a buffer too small")
		q.holds(Result{Type: 4, Text: "abc"})
	}},
	{"a receive waits for a message that its selector matches", "pipelined_send, testmsg", func(t *testing.T, m Machine) {
		for _, c := range []struct{ msgtyp, flags, unwanted, wanted int }{
			{5, 0, 4, 5},
			{-5, 0, 6, 5},
			{-5, 0, 6, 1},
			{5, sysv.Except, 5, 6},
		} {
			q := private(t, m)
			q.send(c.unwanted, "queued before")
			r := q.receiveAsleep(room, c.msgtyp, c.flags)
			q.send(c.unwanted, "queued after")
			m.stillAsleep(t, 1)
			q.send(c.wanted, "wanted")
			equal(t, r.Result(), Result{Type: c.wanted, Text: "wanted"}, "Receive(%d, %#o)", c.msgtyp, c.flags)
			q.holds(Result{Type: c.unwanted, Text: "queued before"}, Result{Type: c.unwanted, Text: "queued after"})
		}
	}},
	{"a message for a receiver that waits does not pass through the queue", "pipelined_send", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.set(func(a *sysv.Attr) { a.MaxBytes = 3 })
		r := q.receiveAsleep(room, 0, 0)
		q.send(1, "abc")
		equal(t, r.Result(), Result{Type: 1, Text: "abc"}, "Receive")
		q.holds()
	}},
	{"for a receiver that waited, Stat has the id of its thread", "pipelined_send, task_pid", func(t *testing.T, m Machine) {
		if m.Emulated {
			t.Skip("qemu-user returns wrong process ids")
		}
		q := private(t, m)
		calls := []*Call{q.receiveAsleep(room, 0, 0), q.receiveAsleep(room, 0, 0)}
		var pids []int32
		for _, c := range calls {
			q.send(1, "abc")
			equal(t, c.Result(), Result{Type: 1, Text: "abc"}, "Receive")
			st := q.stat()
			equal(t, st.SendPID, m.PID, "SendPID")
			if st.ReceivePID == 0 || st.ReceiveTime < st.SendTime {
				t.Errorf("Stat = %+v", st)
			}
			pids = append(pids, st.ReceivePID)
		}
		// One of them may be the thread whose id is that of the process.
		if pids[0] == pids[1] {
			t.Errorf("both receivers are %d", pids[0])
		}
	}},
	{"receivers get messages in the order in which they began to wait", "pipelined_send", func(t *testing.T, m Machine) {
		q := private(t, m)
		any1, five, any2 := q.receiveAsleep(room, 0, 0), q.receiveAsleep(room, 5, 0), q.receiveAsleep(room, 0, 0)
		q.send(5, "a")
		q.send(4, "b")
		q.send(5, "c")
		equal(t, any1.Result(), Result{Type: 5, Text: "a"}, "the first, of any type")
		equal(t, any2.Result(), Result{Type: 4, Text: "b"}, "the third, of any type")
		equal(t, five.Result(), Result{Type: 5, Text: "c"}, "the second, of type 5")
		q.holds()
	}},
	{"a receiver whose buffer is too small is woken with E2BIG, the next is tried", "pipelined_send", func(t *testing.T, m Machine) {
		q := private(t, m)
		none, small, five, large := q.receiveAsleep(0, 0, 0), q.receiveAsleep(2, 0, 0),
			q.receiveAsleep(0, 5, 0), q.receiveAsleep(3, 0, 0)
		q.send(1, "abc")
		equal(t, none.Result(), tooBig, "no room")
		equal(t, small.Result(), tooBig, "room for 2 bytes")
		equal(t, large.Result(), Result{Type: 1, Text: "abc"}, "room for 3 bytes")
		q.holds()
		m.stillAsleep(t, 1) // that for type 5
		q.send(5, "")
		equal(t, five.Result(), Result{Type: 5}, "no room, for an empty message")
	}},
	{"a message too long for all waiting receivers is queued", "pipelined_send", func(t *testing.T, m Machine) {
		q := private(t, m)
		a, b := q.receiveAsleep(2, 0, 0), q.receiveAsleep(2, -5, 0)
		q.send(1, "abc")
		equal(t, a.Result(), tooBig, "the first")
		equal(t, b.Result(), tooBig, "the second")
		q.holds(Result{Type: 1, Text: "abc"})
	}},
	{"a send waits for free space", "do_msgsnd, ss_wakeup", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.full(4)
		s := q.sendAsleep(1, "abc")
		equal(t, q.stat().Messages, 2, "messages")
		equal(t, q.tryReceive(room, 9, 0), Result{Type: 9, Text: filler(3)}, "Receive")
		equal(t, s.Result(), sent, "Send")
		q.holds(Result{Type: 9, Text: filler(1)}, Result{Type: 1, Text: "abc"})
	}},
	{"a send to a full queue waits even if a receiver waits for that message", "do_msgsnd", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.full(2)
		r := q.receiveAsleep(room, 1, 0)
		s := q.sendAsleep(1, "x")
		m.stillAsleep(t, 2)
		equal(t, q.trySend(1, "x"), error(sysv.EAGAIN), "Send that does not wait")
		equal(t, q.tryReceive(room, 9, 0), Result{Type: 9, Text: filler(1)}, "Receive that frees space")
		equal(t, s.Result(), sent, "Send")
		equal(t, r.Result(), Result{Type: 1, Text: "x"}, "Receive")
		q.holds(Result{Type: 9, Text: filler(1)})
	}},
	{"a sender whose message fits overtakes one that waits for more space", "ss_wakeup", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.full(8)
		long, short := q.sendAsleep(1, filler(8)), q.sendAsleep(2, "x")
		equal(t, q.tryReceive(room, 9, 0), Result{Type: 9, Text: filler(7)}, "Receive")
		equal(t, short.Result(), sent, "Send of 1 byte")
		m.stillAsleep(t, 1)
		equal(t, q.tryReceive(room, 0, 0), Result{Type: 9, Text: filler(1)}, "Receive")
		equal(t, q.tryReceive(room, 0, 0), Result{Type: 2, Text: "x"}, "Receive of the message that fit")
		equal(t, long.Result(), sent, "Send of 8 bytes")
		q.holds(Result{Type: 1, Text: filler(8)})
	}},
	{"a new sender uses space that is too small for a waiting one", "do_msgsnd", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.full(8)
		long := q.sendAsleep(1, filler(8))
		equal(t, q.tryReceive(room, 9, 0), Result{Type: 9, Text: filler(7)}, "Receive")
		q.send(2, "x")
		m.stillAsleep(t, 1)
		equal(t, q.tryReceive(room, 0, 0), Result{Type: 9, Text: filler(1)}, "Receive")
		equal(t, q.tryReceive(room, 0, 0), Result{Type: 2, Text: "x"}, "Receive of the new sender's message")
		equal(t, long.Result(), sent, "Send of 8 bytes")
	}},
	{"space that Set adds wakes a sender", "msgctl_down", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.full(2)
		s := q.sendAsleep(1, "abc")
		q.set(func(a *sysv.Attr) { a.MaxBytes = 4 })
		m.stillAsleep(t, 1) // with space for 2 bytes
		q.set(func(a *sysv.Attr) { a.MaxBytes = 5 })
		equal(t, s.Result(), sent, "Send")
	}},
	{"Set does not end the wait of a receiver that may still read", "msgctl_down, expunge_all", func(t *testing.T, m Machine) {
		q := private(t, m)
		r := q.receiveAsleep(room, 0, 0)
		q.set(func(a *sysv.Attr) { a.Mode = 0o644 })
		q.send(1, "x")
		equal(t, r.Result(), Result{Type: 1, Text: "x"}, "Receive")
	}},
	{"Set wakes calls that lost their permission with EACCES", "msgctl_down, expunge_all, ss_wakeup", func(t *testing.T, m Machine) {
		m.needMode(t)
		other := m.As(t, otherID, otherGID)
		q := private(t, m)
		q.full(2)
		q.set(func(a *sysv.Attr) { a.Mode = 0o666 })
		receive := q.asleep(other, func(k sysv.Kernel, th sysv.Thread) Result {
			return Receive(th.Receive, q.id, room, 1, 0)
		})
		short := q.asleep(other, func(k sysv.Kernel, th sysv.Thread) Result {
			return Result{Err: th.Send(q.id, Message(1, ""))}
		})
		long := q.asleep(other, func(k sysv.Kernel, th sysv.Thread) Result {
			return Result{Err: th.Send(q.id, Message(1, "abcd"))}
		})
		q.set(func(a *sysv.Attr) { a.Mode, a.MaxBytes = 0o600, 3 })
		equal(t, receive.Result(), forbidden, "Receive")
		equal(t, short.Result(), forbidden, "Send that fits")
		m.stillAsleep(t, 1) // a send that does not fit is not checked
		q.set(func(a *sysv.Attr) { a.MaxBytes = 10 })
		equal(t, long.Result(), forbidden, "Send that fits now")
		q.holds(Result{Type: 9, Text: filler(1)}, Result{Type: 9, Text: filler(1)})
	}},
	{"Remove wakes all waiting calls with EIDRM", "freeque", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.full(2)
		calls := []*Call{
			q.receiveAsleep(room, 1, 0),
			q.sendAsleep(1, "x"),
			q.receiveAsleep(room, 9, sysv.Except),
			q.sendAsleep(1, ""),
		}
		m.stillAsleep(t, len(calls))
		equal(t, m.Remove(q.id), nil, "Remove")
		for i, c := range calls {
			equal(t, c.Result(), removed, "call %d", i)
		}
	}},
	{"a receive that is interrupted returns EINTR and takes nothing", "do_msgrcv, signal(7)", func(t *testing.T, m Machine) {
		q := private(t, m)
		first, second := q.receiveAsleep(room, 0, 0), q.receiveAsleep(room, 0, 0)
		first.Interrupt()
		equal(t, first.Result(), interrupted, "Receive")
		m.stillAsleep(t, 1)
		q.send(1, "a")
		equal(t, second.Result(), Result{Type: 1, Text: "a"}, "the other Receive")
		q.send(1, "b")
		q.holds(Result{Type: 1, Text: "b"})
	}},
	{"a send that is interrupted returns EINTR and sends nothing", "do_msgsnd, signal(7)", func(t *testing.T, m Machine) {
		q := private(t, m)
		q.full(2)
		first, second := q.sendAsleep(1, "a"), q.sendAsleep(2, "b")
		first.Interrupt()
		equal(t, first.Result(), interrupted, "Send")
		m.stillAsleep(t, 1)
		equal(t, q.tryReceive(room, 0, 0), Result{Type: 9, Text: filler(1)}, "Receive")
		equal(t, second.Result(), sent, "the other Send")
		q.holds(Result{Type: 9, Text: filler(1)}, Result{Type: 2, Text: "b"})
	}},
	{"a thread can wait again after an interrupt", "signal(7)", func(t *testing.T, m Machine) {
		q := private(t, m)
		again := make(chan struct{})
		c := q.asleep(m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
			if r := Receive(th.Receive, q.id, room, 0, 0); r != interrupted {
				return r
			}
			close(again)
			return Receive(th.Receive, q.id, room, 0, 0)
		})
		c.Interrupt()
		<-again
		q.send(1, "x")
		equal(t, c.Result(), Result{Type: 1, Text: "x"}, "the second Receive")
	}},
	{"an interrupt before the call is lost", "signal(7)", func(t *testing.T, m Machine) {
		q := private(t, m)
		c := q.asleep(m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
			th.Interrupt() // by the thread itself, so the signal has arrived when this returns
			return Receive(th.Receive, q.id, room, 0, 0)
		})
		q.send(1, "x")
		equal(t, c.Result(), Result{Type: 1, Text: "x"}, "Receive")
	}},
	{"a message handed to a receiver is returned in preference to EINTR", "do_msgrcv, lockless receive", func(t *testing.T, m Machine) {
		for range 10 {
			q := private(t, m)
			r := q.receiveAsleep(room, 0, 0)
			q.send(1, "x")
			r.Interrupt()
			equal(t, r.Result(), Result{Type: 1, Text: "x"}, "Receive")
		}
	}},
	{"if a message and an interrupt come together, the message is returned or queued", "do_msgrcv, lockless receive", func(t *testing.T, m Machine) {
		for range 10 {
			q := private(t, m)
			r := q.receiveAsleep(room, 0, 0)
			r.Interrupt()
			q.send(1, "x")
			switch result := r.Result(); result {
			case Result{Type: 1, Text: "x"}:
				q.holds()
			case interrupted:
				q.holds(Result{Type: 1, Text: "x"})
			default:
				t.Fatal(result)
			}
		}
	}},
	{"if free space and an interrupt come together, the message is sent or EINTR returned", "do_msgsnd", func(t *testing.T, m Machine) {
		for range 10 {
			q := private(t, m)
			q.full(2)
			s := q.sendAsleep(1, "x")
			equal(t, q.tryReceive(room, 0, 0), Result{Type: 9, Text: filler(1)}, "Receive")
			s.Interrupt()
			switch result := s.Result(); result {
			case sent:
				q.holds(Result{Type: 9, Text: filler(1)}, Result{Type: 1, Text: "x"})
			case interrupted:
				q.holds(Result{Type: 9, Text: filler(1)})
			default:
				t.Fatal(result)
			}
		}
	}},
	{"many interrupted calls neither lose nor duplicate messages", "do_msgsnd, do_msgrcv", func(t *testing.T, m Machine) {
		const senders, receivers, each = 3, 3, 60
		q := private(t, m)
		q.set(func(a *sysv.Attr) { a.MaxBytes = 4 })
		again := func(call func() Result) Result {
			for {
				if r := call(); r != interrupted {
					return r
				}
			}
		}
		var calls []*Call
		for s := range senders {
			calls = append(calls, Start(t, m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
				for i := range each {
					msg := Message(1+s, string(rune(i)))
					if r := again(func() Result { return Result{Err: th.Send(q.id, msg)} }); r != sent {
						return r
					}
				}
				return sent
			}))
		}
		got := make(chan Result, senders*each+1)
		for range receivers {
			calls = append(calls, Start(t, m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
				var last [1 + senders]int
				for {
					r := again(func() Result { return Receive(th.Receive, q.id, room, 0, 0) })
					if r.Err != nil {
						return r
					}
					if i := int([]rune(r.Text)[0]); i < last[r.Type] {
						return Result{Type: r.Type, Text: "out of order"}
					} else {
						last[r.Type] = i
					}
					got <- r
				}
			}))
		}
		seen := make(map[Result]bool)
		for begin := time.Now(); len(seen) < senders*each; {
			select {
			case r := <-got:
				if seen[r] {
					t.Fatalf("received twice: %v", r)
				}
				seen[r] = true
			default:
				if time.Since(begin) > hang {
					t.Fatalf("received only %d messages", len(seen))
				}
				for _, c := range calls {
					c.Interrupt()
				}
				if m.Traits().Remote {
					time.Sleep(time.Millisecond) // or nothing gets through
				} else {
					runtime.Gosched()
				}
			}
		}
		for _, c := range calls[:senders] {
			equal(t, c.Result(), sent, "a sender")
		}
		equal(t, m.Remove(q.id), nil, "Remove")
		for _, c := range calls[senders:] {
			// EINVAL is for a receiver that was between two calls.
			if r := c.Result(); r != removed && r.Err != sysv.EINVAL {
				t.Errorf("a receiver: %v", r)
			}
		}
		equal(t, len(got), 0, "messages received in excess of those sent")
	}},
}
