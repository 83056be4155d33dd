package simq_test

import (
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

// The tests in this file make random calls to the simulated and to the real
// kernel, and compare all results. Run more of them with
//
//	go test -run Model ./internal/simq -rapid.checks=20000

// side is one of the two kernels.
type side struct {
	sysvtest.Machine
	users []sysvtest.User
	ids   []int // of the queues, in the order in which they were created
}

// user calls do as one of the users, and returns its description of the result.
func (s *side) user(u int, do func(sysv.Kernel) string) string {
	answer := "could not become the user"
	_ = s.users[u](func(k sysv.Kernel) error { answer = do(k); return nil })
	return answer
}

// remove removes all queues of a side.
func (s *side) remove(t *rapid.T) {
	for _, id := range s.ids {
		if err := s.Remove(id); err != nil && err != sysv.EINVAL {
			t.Errorf("a queue is left behind: %v", err)
		}
	}
}

// newSides returns both kernels, with users that have the same permissions on
// both. The first is the user of this process.
func newSides(t *testing.T) (real, sim *side) {
	t.Helper()
	if sysvtest.Emulated() {
		t.Skip("qemu-user changes what the kernel answers")
	}
	host := sysvtest.Host(t)
	limits, err := host.Limits()
	want(t, err, nil)
	k := simq.New()
	k.SetLimits(limits)
	self := k.Process(uint32(os.Geteuid()), uint32(os.Getegid()))
	machine := machine(t)
	machine.Kernel, machine.PID = self, self.PID()
	machine.Asleep = func(sysvtest.TB) int { return k.Asleep() }

	kernelOf := func(m sysvtest.Machine) sysvtest.User {
		return func(do func(sysv.Kernel) error) error { return do(m.Kernel) }
	}
	real = &side{Machine: host, users: []sysvtest.User{kernelOf(host)}}
	sim = &side{Machine: machine, users: []sysvtest.User{kernelOf(machine)}}
	if sysvtest.MayBecomeOthers() == nil {
		for _, ids := range [][2]uint32{{2001, 3001}, {2002, 3001}, {2003, 3003}} {
			p := k.Process(ids[0], ids[1])
			real.users = append(real.users, host.As(t, ids[0], ids[1]))
			sim.users = append(sim.users, func(do func(sysv.Kernel) error) error { return do(p) })
		}
	}
	return real, sim
}

// model is the state of one random test.
type model struct {
	*rapid.T
	real, sim *side
	keys      []int32
	sent      int
}

// both compares the result of a call on both sides.
func (m *model) both(what string, call func(*side) string) string {
	m.Helper()
	real, sim := call(m.real), call(m.sim)
	m.Logf("%s: %s", what, real)
	if real != sim {
		m.Fatalf("%s: the kernel returns %s, the simulation %s", what, real, sim)
	}
	return real
}

func (m *model) pick(label string, values ...int) int {
	return rapid.SampledFrom(values).Draw(m.T, label)
}

func (m *model) user() int { return rapid.IntRange(0, len(m.real.users)-1).Draw(m.T, "user") }

// queue draws one of the queues, which may have been removed.
func (m *model) queue() int {
	if len(m.real.ids) == 0 {
		m.Skip("there is no queue yet")
	}
	return rapid.IntRange(0, len(m.real.ids)-1).Draw(m.T, "queue")
}

// get opens or creates a queue, and checks that it is the same one on both sides.
func (m *model) get(u int, key int32, flags int) {
	ids := make(map[*side]int)
	m.both(fmt.Sprintf("user %d: Get(%#x, %#o)", u, key, flags), func(s *side) string {
		return s.user(u, func(k sysv.Kernel) string {
			id, err := k.Get(key, flags)
			ids[s] = id
			if err != nil {
				return fmt.Sprintf("%d, %v", id, err)
			}
			// The ids differ: compare their index among the queues.
			return fmt.Sprintf("queue %d, or a new one", slices.Index(s.ids, id))
		})
	})
	if id := ids[m.real]; id >= 0 && !slices.Contains(m.real.ids, id) {
		m.real.ids = append(m.real.ids, id)
		m.sim.ids = append(m.sim.ids, ids[m.sim])
	}
}

// send sends a message that differs from the ones before.
func (m *model) send(u, q, typ, size int) {
	m.sent++
	text := strings.Repeat(string(rune('a'+m.sent%26)), size)
	m.both(fmt.Sprintf("user %d: Send(%d, type %d, %d bytes)", u, q, typ, size), func(s *side) string {
		return s.user(u, func(k sysv.Kernel) string {
			return fmt.Sprint(k.Send(s.ids[q], sysvtest.Message(typ, text)))
		})
	})
}

func (m *model) receive(u, q, room, msgtyp, flags int) string {
	return m.both(fmt.Sprintf("user %d: Receive(%d, %d bytes, %d, %#o)", u, q, room, msgtyp, flags), func(s *side) string {
		return s.user(u, func(k sysv.Kernel) string {
			return sysvtest.Receive(k.Receive, s.ids[q], room, msgtyp, flags).String()
		})
	})
}

// stat compares the state of a queue. Of times and process ids it compares only
// whether they are set.
func (m *model) stat(u, q int) {
	m.both(fmt.Sprintf("user %d: Stat(%d)", u, q), func(s *side) string {
		return s.user(u, func(k sysv.Kernel) string {
			st, err := k.Stat(s.ids[q])
			return describe(s, st, err)
		})
	})
}

func describe(s *side, st sysv.Stat, err error) string {
	if err != nil {
		return err.Error()
	}
	st.ID = slices.Index(s.ids, st.ID)
	for _, at := range []*int64{&st.SendTime, &st.ReceiveTime, &st.ChangeTime} {
		*at = min(*at, 1)
	}
	st.SendPID, st.ReceivePID = min(st.SendPID, 1), min(st.ReceivePID, 1)
	return fmt.Sprintf("%+v", st)
}

func (m *model) set(u, q int, a sysv.Attr) {
	m.both(fmt.Sprintf("user %d: Set(%d, %+v)", u, q, a), func(s *side) string {
		return s.user(u, func(k sysv.Kernel) string { return fmt.Sprint(k.Set(s.ids[q], a)) })
	})
}

func (m *model) removeQueue(u, q int) {
	m.both(fmt.Sprintf("user %d: Remove(%d)", u, q), func(s *side) string {
		return s.user(u, func(k sysv.Kernel) string { return fmt.Sprint(k.Remove(s.ids[q])) })
	})
}

// list compares the entries of the test's queues in the list of all queues.
func (m *model) list(u int) {
	m.both(fmt.Sprintf("user %d: List", u), func(s *side) string {
		return s.user(u, func(k sysv.Kernel) string {
			list, err := k.List()
			list = slices.DeleteFunc(list, func(st sysv.Stat) bool { return !slices.Contains(s.ids, st.ID) })
			slices.SortFunc(list, func(a, b sysv.Stat) int { return slices.Index(s.ids, a.ID) - slices.Index(s.ids, b.ID) })
			answer := fmt.Sprint(err)
			for _, st := range list {
				answer += "\n" + describe(s, st, nil)
			}
			return answer
		})
	})
}

func TestModel(t *testing.T) {
	real, sim := newSides(t)
	limits, err := real.Limits()
	want(t, err, nil)
	msgmax, msgmnb := limits.MaxMessage, uint64(limits.MaxBytes)
	sizes := []uint64{0, 1, 2, 3, 10, 100, msgmnb - 1, msgmnb, 1 << 32, 1<<32 + 5,
		msgmnb + 1, math.MaxInt32, 1 << 31, math.MaxUint32, math.MaxUint64}
	// A root who may not exceed msgmnb, as in many containers, is not simulated.
	careful := os.Geteuid() == 0 && !mayExceed(t, real, msgmnb)
	types := []int{1, 2, 3, 4, 1, 2, 3, math.MaxInt, 0, -1}
	lengths := []int{0, 1, 2, 3, 5, 8, 60, msgmax, msgmax + 1}
	selectors := []int{0, 1, 2, 3, 4, 5, -1, -2, -3, -4, math.MaxInt, -math.MaxInt, math.MinInt}
	flags := []int{0, 0, 0, sysv.Except, sysv.Copy, sysv.Copy | sysv.Except}
	modes := []int{0o600, 0o666, 0o640, 0o420, 0o204, 0o060, 0o006, 0o777, 0}
	owners := []int{os.Geteuid(), os.Geteuid(), 2001, 2002, 2003, -1}
	groups := []int{os.Getegid(), os.Getegid(), 3001, 3003, -1}

	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			T:    t,
			real: &side{Machine: real.Machine, users: real.users},
			sim:  &side{Machine: sim.Machine, users: sim.users},
		}
		t.Cleanup(func() { m.real.remove(t); m.sim.remove(t) })
		for range 3 {
			m.keys = append(m.keys, unusedKey(t, real))
		}
		m.get(0, sysv.KeyPrivate, 0o666)
		send := func(*rapid.T) {
			m.send(m.user(), m.queue(), m.pick("type", types...), m.pick("length", lengths...))
		}
		receive := func(*rapid.T) {
			m.receive(m.user(), m.queue(), m.pick("room", 0, 1, 2, 3, 8, msgmax, msgmax+100),
				m.pick("msgtyp", selectors...), m.pick("flags", flags...))
		}
		t.Repeat(map[string]func(*rapid.T){
			"get": func(t *rapid.T) {
				key := rapid.SampledFrom(append(m.keys, sysv.KeyPrivate)).Draw(t, "key")
				m.get(m.user(), key, m.pick("flags", 0, sysv.Create, sysv.Create, sysv.Create|sysv.Exclusive, sysv.Exclusive)|
					m.pick("mode", modes...))
			},
			"send": send, "send more": send, "send even more": send,
			"receive": receive, "receive more": receive, "receive even more": receive,
			"stat": func(*rapid.T) { m.stat(m.user(), m.queue()) },
			"set": func(*rapid.T) {
				u, size := m.user(), rapid.SampledFrom(sizes).Draw(t, "size")
				if u == 0 && careful {
					size = min(size, msgmnb)
				}
				m.set(u, m.queue(), sysv.Attr{
					UID:      uint32(m.pick("uid", owners...)),
					GID:      uint32(m.pick("gid", groups...)),
					Mode:     uint32(m.pick("mode", modes...)),
					MaxBytes: size,
				})
			},
			"remove": func(*rapid.T) { m.removeQueue(m.user(), m.queue()) },
			"list":   func(*rapid.T) { m.list(m.user()) },
		})
		// The messages left in the queues must be the same, too.
		for q := range m.real.ids {
			m.stat(0, q)
			for strings.HasPrefix(m.receive(0, q, msgmax+100, 0, 0), "message") {
			}
		}
	})
}

// mayExceed reports whether this process may make a queue larger than msgmnb.
func mayExceed(t *testing.T, real *side, msgmnb uint64) bool {
	t.Helper()
	id, err := real.Get(sysv.KeyPrivate, 0o600)
	want(t, err, nil)
	st, err := real.Stat(id)
	want(t, err, nil)
	st.MaxBytes = msgmnb + 1
	err = real.Set(id, st.Attr)
	want(t, real.Remove(id), nil)
	return err == nil
}

// unusedKey returns a key that is free on the real kernel.
func unusedKey(t *rapid.T, real *side) int32 {
	for {
		key := rapid.Int32().Draw(t, "key")
		if key == sysv.KeyPrivate {
			continue // Get would create a queue
		}
		if _, err := real.Get(key, 0); err == sysv.ENOENT {
			return key
		}
	}
}

// waiting is a blocking call in progress on both sides.
type waiting struct {
	what      string
	real, sim *sysvtest.Call
	sender    bool
}

// quiesce waits until each call of a side either has returned or is blocked in the
// kernel, and returns which calls have returned.
func quiesce(m *model, s *side, calls []*sysvtest.Call) []bool {
	m.Helper()
	returned := make([]bool, len(calls))
	sysvtest.Eventually(m, "all calls have returned or are blocked in the kernel", func() bool {
		left := 0
		for i, c := range calls {
			if returned[i] = c.Returned(); !returned[i] {
				left++
			}
		}
		return s.Asleep(m) == left
	})
	return returned
}

// TestModelOfBlockingCalls compares, after each call, which of the blocked calls
// return, and their results.
//
// In Linux the scheduler decides in which order threads run that were woken
// together. So at most one sender waits at a time, since all senders whose messages
// fit are woken together, and there is no Set while several receivers wait.
func TestModelOfBlockingCalls(t *testing.T) {
	real, sim := newSides(t)
	types := []int{1, 2, 3}
	lengths := []int{0, 1, 2, 3}
	rooms := []int{0, 1, 2, 3, 3, 3}
	selectors := []int{0, 0, 1, 2, 3, -1, -2}
	flags := []int{0, 0, sysv.Except}

	rapid.Check(t, func(t *rapid.T) {
		m := &model{
			T:    t,
			real: &side{Machine: real.Machine, users: real.users},
			sim:  &side{Machine: sim.Machine, users: sim.users},
		}
		t.Cleanup(func() { m.real.remove(t); m.sim.remove(t) })
		var calls []waiting
		q := 0 // the queue in use
		setSize := func(size int) {
			m.set(0, q, sysv.Attr{
				UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Mode: 0o600, MaxBytes: uint64(size),
			})
		}
		newQueue := func() {
			q = len(m.real.ids)
			m.get(0, sysv.KeyPrivate, 0o600)
			setSize(4)
		}
		newQueue()
		count := func(sender bool) int {
			n := 0
			for _, c := range calls {
				if c.sender == sender {
					n++
				}
			}
			return n
		}
		start := func(what string, sender bool, call func(sysv.Thread, int) sysvtest.Result) {
			on := func(s *side) *sysvtest.Call {
				id := s.ids[q]
				return sysvtest.Start(t, s.users[0], func(_ sysv.Kernel, th sysv.Thread) sysvtest.Result { return call(th, id) })
			}
			t.Log(what)
			calls = append(calls, waiting{what, on(m.real), on(m.sim), sender})
		}
		receive := func(t *rapid.T) {
			if count(false) == 4 {
				t.Skip("enough receivers wait")
			}
			room, msgtyp, flags := m.pick("room", rooms...), m.pick("msgtyp", selectors...), m.pick("flags", flags...)
			start(fmt.Sprintf("waiting Receive(%d bytes, %d, %#o)", room, msgtyp, flags), false,
				func(th sysv.Thread, id int) sysvtest.Result {
					return sysvtest.Receive(th.Receive, id, room, msgtyp, flags)
				})
		}
		send := func(t *rapid.T) {
			if count(true) == 1 {
				t.Skip("a sender waits")
			}
			m.sent++
			text := strings.Repeat(string(rune('a'+m.sent%26)), m.pick("length", lengths...))
			typ := m.pick("type", types...)
			start(fmt.Sprintf("waiting Send(%d, %q)", typ, text), true,
				func(th sysv.Thread, id int) sysvtest.Result {
					return sysvtest.Result{Err: th.Send(id, sysvtest.Message(typ, text))}
				})
		}
		t.Repeat(map[string]func(*rapid.T){
			"waiting receive": receive, "another waiting receive": receive, "one more waiting receive": receive,
			"waiting send": send, "another waiting send": send,
			"send": func(*rapid.T) { m.send(0, q, m.pick("type", types...), m.pick("length", lengths...)) },
			"receive": func(*rapid.T) {
				m.receive(0, q, m.pick("room", rooms...), m.pick("msgtyp", selectors...), m.pick("flags", flags...))
			},
			"set": func(t *rapid.T) {
				if count(false) > 1 {
					t.Skip("several receivers wait")
				}
				setSize(m.pick("size", 1, 2, 4, 6))
			},
			"interrupt": func(t *rapid.T) {
				if len(calls) == 0 {
					t.Skip("no call waits")
				}
				c := rapid.SampledFrom(calls).Draw(t, "call")
				t.Logf("Interrupt of %s", c.what)
				for _, call := range []*sysvtest.Call{c.real, c.sim} {
					call.Interrupt()
					call.Result()
				}
			},
			"remove": func(*rapid.T) {
				m.removeQueue(0, q)
				newQueue()
			},
			// After each of these:
			"": func(t *rapid.T) {
				var reals, sims []*sysvtest.Call
				for _, c := range calls {
					reals, sims = append(reals, c.real), append(sims, c.sim)
				}
				real, sim := quiesce(m, m.real, reals), quiesce(m, m.sim, sims)
				var left []waiting
				for i, c := range calls {
					if real[i] != sim[i] {
						t.Fatalf("%s: returned on the kernel: %v, in the simulation: %v", c.what, real[i], sim[i])
					}
					if !real[i] {
						left = append(left, c)
						continue
					}
					m.both(c.what, func(s *side) string {
						if s == m.real {
							return c.real.Result().String()
						}
						return c.sim.Result().String()
					})
					c.real.End()
					c.sim.End()
				}
				calls = left
				m.stat(0, q)
			},
		})
	})
}
