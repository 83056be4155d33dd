package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// The tests of the files sim_*_test.go run on the simulated kernel, in a synctest
// bubble: time passes at once, calls can be counted and made to fail, and
// everything must come to rest, or the bubble reports a deadlock.

// machine is a simulated kernel with the process that a test is about, and
// another one that has no faults and is not counted.
type machine struct {
	*simq.Kernel
	self, peer *simq.Process
	remote     *simq.Remote // self, if that reaches the machine over a network

	mu    sync.Mutex
	fault func(n int, c simq.Call) error // asked at the process's n-th call, from 1; guarded by mu
	calls map[simq.Op]int                // of the process; guarded by mu
	total int                            // of the process; guarded by mu
}

// tooManyCalls is more than any run of a scenario needs: something is spinning.
const tooManyCalls = 50_000

// machinesAreRemote makes those of onMachine such ones.
var machinesAreRemote bool

// onRemote runs a test in a bubble, whose process is elsewhere. A receive with a lease leases
// so many messages ahead. Every handle's kernel is released in the end.
func onRemote(t *testing.T, ahead int, test func(*testing.T, *machine)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		k := simq.New()
		r := k.Remote(500, 500, ahead)
		m := newMachine(k, r.Process)
		m.remote = r
		t.Cleanup(func() {
			if n := r.OpenHandles(); n != 0 {
				t.Errorf("the kernels of %d handles are not released", n)
			}
		})
		test(t, m)
	})
}

// onMachine runs a test in a bubble.
func onMachine(t *testing.T, test func(*testing.T, *machine)) {
	t.Helper()
	if machinesAreRemote {
		onRemote(t, 0, test)
		return
	}
	synctest.Test(t, func(t *testing.T) {
		k := simq.New()
		test(t, newMachine(k, k.Process(500, 500)))
	})
}

func newMachine(k *simq.Kernel, self *simq.Process) *machine {
	m := &machine{Kernel: k, self: self, peer: k.Process(0, 0), calls: make(map[simq.Op]int)}
	k.SetHooks(simq.Hooks{Fault: m.called})
	return m
}

func (m *machine) called(c simq.Call) error {
	if c.PID != m.self.PID() {
		return nil
	}
	m.mu.Lock()
	m.calls[c.Op]++
	m.total++
	n, fault := m.total, m.fault
	m.mu.Unlock()
	if fault == nil {
		return nil
	}
	if n > tooManyCalls {
		panic(fmt.Sprintf("a busy loop, at %+v", c))
	}
	return fault(n, c)
}

// faults sets what happens at the process's calls, and counts them from 0 again.
func (m *machine) faults(fault func(n int, c simq.Call) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault, m.total = fault, 0
	clear(m.calls)
}

// then sets what happens at the process's calls from now on.
func (m *machine) then(fault func(n int, c simq.Call) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fault = fault
}

// during returns how many calls the process makes while f runs.
func (m *machine) during(f func()) int {
	m.faults(nil)
	f()
	return m.count()
}

// count returns how many calls the process has made.
func (m *machine) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

func (m *machine) option() chanmq.Option {
	if m.remote != nil {
		return inject.Kernel(m.remote).(chanmq.Option)
	}
	return inject.Kernel(m.self).(chanmq.Option)
}

// private opens a queue, which the test closes at its end. Spinning would only
// add calls that are all alike.
func (m *machine) private(t *testing.T, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Private(0o600, append([]chanmq.Option{m.option(), chanmq.WithSpin(0)}, opts...)...)
	if m.remote != nil && errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() }) // what it returns the test has looked at
	return q
}

func text(n int) []byte { return []byte(strconv.Itoa(n)) }

func numberIn(text []byte) int {
	n, err := strconv.Atoi(string(text))
	if err != nil {
		panic(err)
	}
	return n
}

// put lets the other process send.
func (m *machine) put(id, typ int, text []byte) error {
	msg := append(sysv.Buffer(0), text...)
	sysv.PutType(msg, typ)
	return m.peer.Send(id, msg)
}

// puts lets the other process send numbers.
func (m *machine) puts(t *testing.T, id, typ int, numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		if err := m.put(id, typ, text(n)); err != nil {
			t.Error(err)
		}
	}
}

// take lets the other process receive; false if there is nothing.
func (m *machine) take(id int) ([]byte, bool) {
	buf := sysv.Buffer(8192)
	n, err := m.peer.Receive(id, buf, 0, 0)
	return buf[sysv.HeaderSize:][:n], err == nil
}

// receiving starts a Receive, and returns when it waits.
func receiving(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) <-chan error {
	ended := make(chan error, 1)
	go func() {
		_, err := q.Receive(ctx, s)
		ended <- err
	}()
	synctest.Wait()
	return ended
}

// wantMessages receives numbers in this order, without waiting, and nothing more.
func wantMessages(t *testing.T, q *chanmq.Queue[[]byte], numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		m, ok, err := q.TryReceive(chanmq.Any())
		if !ok || err != nil || numberIn(m.Value) != n {
			t.Errorf("received %q, %v, %v, want %d", m.Value, ok, err, n)
			return
		}
	}
	if m, ok, err := q.TryReceive(chanmq.Any()); ok || err != nil {
		t.Errorf("received %q, %v, want nothing more", m.Value, err)
	}
}
