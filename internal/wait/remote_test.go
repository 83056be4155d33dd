package wait

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// onRemote runs a test in a bubble, with waits on a remote kernel.
func onRemote(t *testing.T, test func(t *testing.T, h *handle)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, newHandle(t, remote, func(c *Config) { c.Polling, c.Spin = true, time.Second }))
	})
}

// TestRemoteWaitsPark at once, however many there are and whatever they wait for. None is
// tried, and none looks at the queue.
func TestRemoteWaitsPark(t *testing.T) {
	const each = 50
	onRemote(t, func(t *testing.T, h *handle) {
		h.setSize(2)
		h.put(9, 1, 2)
		ctx, cancel := context.WithCancel(t.Context())
		var all []*operation
		var ended []<-chan error
		for n := range each {
			receive, send := h.receive([]int{1, 2, -2}[n%3]), h.send(1)
			all = append(all, &receive.operation, &send.operation)
		}
		for _, o := range all {
			ended = append(ended, o.start(ctx))
		}
		synctest.Wait()
		time.Sleep(time.Hour)
		if n := h.kernel.Asleep(); n != 2*each {
			t.Errorf("%d waits sleep in the kernel, want %d", n, 2*each)
		}
		cancel()
		for i, o := range all {
			wantEnded(t, fmt.Sprint("wait ", i), ended[i], ErrCanceled)
			if n := o.tries.Load(); n != 0 {
				t.Errorf("wait %d was tried %d times", i, n)
			}
		}
		if n := h.stats.Load() + h.looks.Load(); n != 0 {
			t.Errorf("%d looks at the queue", n)
		}
	})
}

// TestRemoteHandBack: what is handed back is taken by one of those that wait for it, and what
// is there already is taken without the kernel.
func TestRemoteHandBack(t *testing.T) {
	const waits = 10
	onRemote(t, func(t *testing.T, h *handle) {
		var ended []<-chan error
		for range waits {
			ended = append(ended, h.receive(1).start(t.Context()))
		}
		synctest.Wait()
		for n := range waits {
			h.handBack(message{typ: 1, n: n, number: int64(n)})
			synctest.Wait() // the clock stands still
			if left := h.kernel.Asleep(); left != waits-n-1 {
				t.Errorf("%d waits are left behind %d messages", left, n+1)
			}
		}
		for _, end := range ended {
			wantEnded(t, "a receive", end, nil)
		}
		h.handBack(message{typ: 1, n: 1, number: 1})
		o := h.receive(1)
		if err := o.run(t.Context()); err != nil || o.waiter.Waited || o.waiter.Stage != AtOnce {
			t.Errorf("%v, waited: %v, stage %d", err, o.waiter.Waited, o.waiter.Stage)
		}
	})
}

// TestRemoteOrder: those that are ordered line up, and one after the other parks.
func TestRemoteOrder(t *testing.T) {
	const waits = 5
	onRemote(t, func(t *testing.T, h *handle) {
		var all []*receive
		var ended []<-chan error
		for range waits {
			o := ordered(h.receive(1))
			all, ended = append(all, o), append(ended, o.waiting(t.Context()))
		}
		for n, o := range all {
			if left := h.kernel.Asleep(); left != 1 {
				t.Errorf("%d of them park", left)
			}
			h.put(1, n)
			synctest.Wait()
			wantEnded(t, fmt.Sprint("wait ", n), ended[n], nil)
			if o.msg.n != n {
				t.Errorf("wait %d has message %d", n, o.msg.n)
			}
		}
	})
}

// TestRemoteTryMore takes what is here, and makes no trip.
func TestRemoteTryMore(t *testing.T) {
	onRemote(t, func(t *testing.T, h *handle) {
		o := ordered(h.receive(1))
		defer o.waiter.Release()
		h.put(1, 1)
		if err := o.waiter.TryMore(); err != ErrWait || o.tries.Load() != 0 {
			t.Errorf("TryMore: %v after %d tries, want ErrWait after none", err, o.tries.Load())
		}
		h.handBack(message{typ: 1, n: 2, number: 1})
		if err := o.waiter.TryMore(); err != nil || o.msg.n != 2 {
			t.Errorf("TryMore: %v, message %d, want what was handed back", err, o.msg.n)
		}
	})
}
