package sysvtest

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// Call is a blocking call in a goroutine of its own.
type Call struct {
	t        TB
	thread   steadyThread
	result   Result        // when returned is closed
	returned chan struct{} // closed when the call has returned
	release  chan struct{} // closed when it is no longer interrupted
	finished chan struct{} // closed when the goroutine ends
	end      sync.Once
}

// steadyThread is a Thread whose calls continue after a signal that the test has
// not sent. The Go runtime sends such signals to preempt goroutines; one may arrive
// when the goroutine is in the kernel already.
type steadyThread struct {
	sysv.Thread
	interrupted atomic.Bool // the test has interrupted it, and no call has returned EINTR yet
}

func (th *steadyThread) Send(id int, msg []byte) error {
	for {
		if err := th.Thread.Send(id, msg); err != sysv.EINTR || th.interrupted.Swap(false) {
			return err
		}
	}
}

func (th *steadyThread) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	for {
		n, err := th.Thread.Receive(id, buf, msgtyp, flags)
		if err != sysv.EINTR || th.interrupted.Swap(false) {
			return n, err
		}
	}
}

// Start makes a blocking call as a user. At the end of the test, a call that still
// waits is interrupted.
func Start(t TB, as User, call func(sysv.Kernel, sysv.Thread) Result) *Call {
	t.Helper()
	c := &Call{
		t:        t,
		returned: make(chan struct{}),
		release:  make(chan struct{}),
		finished: make(chan struct{}),
	}
	entered := make(chan bool, 1)
	go func() {
		defer close(c.finished)
		_ = as(func(k sysv.Kernel) error {
			c.thread.Thread = k.NewThread()
			ok := c.thread.Enter()
			entered <- ok
			if !ok {
				return nil
			}
			c.result = call(k, &c.thread)
			close(c.returned)
			<-c.release // c.thread may be interrupted until then
			c.thread.Leave()
			return nil
		})
	}()
	if !<-entered {
		t.Fatal("Enter reports that a call of this process cannot be interrupted")
	}
	t.Cleanup(c.End)
	return c
}

// End interrupts the call, if it still waits, and ends its goroutine.
func (c *Call) End() {
	c.end.Do(func() {
		for !c.Returned() {
			c.Interrupt()
			runtime.Gosched()
		}
		close(c.release)
		<-c.finished
	})
}

// Returned reports whether the call has returned.
func (c *Call) Returned() bool {
	select {
	case <-c.returned:
		return true
	default:
		return false
	}
}

// Interrupt interrupts the call, before its End.
func (c *Call) Interrupt() {
	c.thread.interrupted.Store(true)
	c.thread.Interrupt()
}

// Result waits until the call returns.
func (c *Call) Result() Result {
	c.t.Helper()
	Eventually(c.t, "the call has returned", func() bool {
		if !c.Returned() && c.thread.interrupted.Load() {
			c.thread.Interrupt() // again, since it was lost if the call was just continuing
		}
		return c.Returned()
	})
	return c.result
}

// hang is far longer than anything that a test waits for.
const hang = 2 * time.Minute

// Eventually waits until a condition holds, and fails the test if it never does.
func Eventually(t TB, what string, holds func() bool) {
	t.Helper()
	begin := time.Now()
	for tries := 0; !holds(); tries++ {
		if time.Since(begin) > hang {
			t.Fatalf("after %v still not: %s", hang, what)
		}
		if tries < 100 {
			runtime.Gosched() // most waits are far shorter than a sleep
		} else {
			time.Sleep(time.Millisecond)
		}
	}
}

// asleep starts a blocking call and returns once it is blocked in the kernel.
func (q queue) asleep(as User, call func(sysv.Kernel, sysv.Thread) Result) *Call {
	q.t.Helper()
	before := q.m.Asleep(q.t)
	c := Start(q.t, as, call)
	Eventually(q.t, "the call is blocked in the kernel", func() bool {
		return q.m.Asleep(q.t) > before || c.Returned()
	})
	if c.Returned() {
		q.t.Fatalf("the call did not block: %v", c.Result())
	}
	return c
}

// stillAsleep checks the number of calls that are blocked in the kernel.
func (m Machine) stillAsleep(t TB, calls int) {
	t.Helper()
	Eventually(t, fmt.Sprintf("%d calls are blocked in the kernel", calls), func() bool { return m.Asleep(t) == calls })
}

// receiveAsleep starts a receive that blocks in the kernel.
func (q queue) receiveAsleep(room, msgtyp, flags int) *Call {
	q.t.Helper()
	return q.asleep(q.m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
		return Receive(th.Receive, q.id, room, msgtyp, flags)
	})
}

// sendAsleep starts a send that blocks in the kernel.
func (q queue) sendAsleep(typ int, text string) *Call {
	q.t.Helper()
	return q.asleep(q.m.self, func(_ sysv.Kernel, th sysv.Thread) Result {
		return Result{Err: th.Send(q.id, Message(typ, text))}
	})
}

// WaitingReceive starts a receive that waits for a message from a new queue.
func WaitingReceive(t TB, m Machine) *Call {
	t.Helper()
	return private(t, m).receiveAsleep(room, 0, 0)
}
