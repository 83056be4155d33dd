package wait

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// TestCauseAtEveryStep: whatever ends a wait does so at once, at whichever step of the
// wait it comes. The poller looks once an hour.
func TestCauseAtEveryStep(t *testing.T) {
	causes := map[string]struct {
		happens func(h *handle, cancel context.CancelFunc)
		want    error
	}{
		"a message is handed back": {func(h *handle, _ context.CancelFunc) { h.handBack(message{typ: 1, number: 1}) }, nil},
		"the ctx ends":             {func(_ *handle, cancel context.CancelFunc) { cancel() }, ErrCanceled},
		"the handle is closed":     {func(h *handle, _ context.CancelFunc) { h.close() }, errClosed},
	}
	const both, parked, polled = "parked, polled", "parked", "polled"
	steps := map[string]struct {
		of      string                         // the ways to wait that have this step
		arrange func(o *receive, cause func()) // has cause called there
	}{
		"first try, the slot was empty":                 {both, func(o *receive, cause func()) { o.onTry = onCall(1, cause) }},
		"first try, the queue was empty":                {both, func(o *receive, cause func()) { o.onTried = onCall(1, cause) }},
		"try when it has the turn, the slot was empty":  {both, func(o *receive, cause func()) { o.onTry = onCall(2, cause) }},
		"try when it has the turn, the queue was empty": {both, func(o *receive, cause func()) { o.onTried = onCall(2, cause) }},
		"last look for a cause":                         {both, func(o *receive, cause func()) { o.onPending = onCall(1, cause) }},
		"sleep":                                         {both, func(_ *receive, cause func()) { time.AfterFunc(time.Minute, cause) }},
		"before Enter": {parked, func(o *receive, cause func()) {
			o.h.setFault(func(c simq.Call) error {
				if c.Op == simq.Enter {
					cause()
				}
				return nil
			})
		}},
		"before msgrcv": {parked, func(o *receive, cause func()) {
			o.h.setFault(func(c simq.Call) error {
				if c.Op == simq.Receive && c.Blocking {
					cause()
				}
				return nil
			})
		}},
		"on the way to the poller":              {polled, func(o *receive, cause func()) { o.onSuspend = onCall(1, cause) }},
		"the poller's try, the slot was empty":  {polled, func(o *receive, cause func()) { o.onTry = onCall(3, cause) }},
		"the poller's try, the queue was empty": {polled, func(o *receive, cause func()) { o.onTried = onCall(3, cause) }},
		"sleep, when the poller has looked":     {polled, func(_ *receive, cause func()) { time.AfterFunc(61*time.Minute, cause) }},
		"behind the poller's try":               {polled, func(o *receive, cause func()) { o.onSuspend = onCall(2, cause) }},
	}
	for causeName, c := range causes {
		for stepName, step := range steps {
			t.Run(causeName+", "+stepName, func(t *testing.T) {
				inBubble(t, func(t *testing.T, h *handle) {
					way := parked
					if h.lot.config.Polling {
						way = polled
					}
					if !strings.Contains(step.of, way) {
						return
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					o := h.receive(1)
					var happened, ended time.Time
					step.arrange(o, onCall(1, func() {
						happened = time.Now()
						h.runs.Go(func() { c.happens(h, cancel) })
						if way == polled && stepName == "last look for a cause" {
							return // which is made under the lock that the cause needs
						}
						// Time stands still until everybody sleeps, or interrupts
						// one that does not sleep yet.
						time.Sleep(time.Millisecond)
					}))
					var err error
					h.runs.Go(func() { err, ended = o.run(ctx), time.Now() })
					time.Sleep(90 * time.Minute) // the poller has looked once
					synctest.Wait()
					switch {
					case happened.IsZero():
						t.Error("the wait has no such step")
					case ended.IsZero():
						t.Error("it still waits")
					case err != c.want:
						t.Errorf("it ended with: %v, want %v", err, c.want)
					case ended.Sub(happened) > time.Second:
						t.Errorf("it took %v", ended.Sub(happened))
					}
				})
			})
		}
	}
}

// onCall returns a function that calls f at its n-th call alone.
func onCall(n int64, f func()) func() {
	var calls atomic.Int64
	return func() {
		if calls.Add(1) == n {
			f()
		}
	}
}

// TestMessageBeatsTheInterrupt: a message that the kernel has given to a wait is
// returned, although the wait is interrupted.
func TestMessageBeatsTheInterrupt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t)
		ctx, cancel := context.WithCancel(t.Context())
		o := h.receive(1)
		ended := o.waiting(ctx)
		h.setFault(func(c simq.Call) error {
			if c.Op == simq.Interrupt {
				h.put(1, 7)
			}
			return nil
		})
		cancel()
		wantEnded(t, "a receive", ended, nil)
		if o.msg.n != 7 {
			t.Errorf("it has message %d, want 7", o.msg.n)
		}
	})
}

// TestProcessParksSoMany: all handles together park no more than the process may, and
// what one of them releases the others get.
func TestProcessParksSoMany(t *testing.T) {
	const handles, each = 3, 1000
	const beyond = handles*each - processMaxParked
	synctest.Test(t, func(t *testing.T) {
		var all []*handle
		for range handles {
			h := newHandle(t, func(c *Config) { c.MaxParked = each })
			all = append(all, h)
			for n := range each {
				h.receive(n + 1).start(t.Context())
			}
		}
		want := func(when string, parked, polled int) {
			t.Helper()
			synctest.Wait()
			gotParked, gotPolled := 0, 0
			for _, h := range all {
				gotParked += h.kernel.Asleep()
				gotPolled += h.polled()
			}
			if gotParked != parked || gotPolled != polled {
				t.Errorf("%s %d are parked and %d are polled, want %d and %d", when, gotParked, gotPolled, parked, polled)
			}
		}
		want("at first", processMaxParked, beyond)
		time.Sleep(time.Minute)
		want("after a minute", processMaxParked, beyond)
		all[0].close()
		time.Sleep(time.Minute) // each look lets one go
		want("when one handle is closed", (handles-1)*each, 0)
	})
}

// TestThreadsThatCannotBeInterrupted are not tried again by those that are polled,
// until one that is new finds that they can be.
func TestThreadsThatCannotBeInterrupted(t *testing.T) {
	const waits = 20
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t)
		var entered atomic.Int64
		h.setFault(func(c simq.Call) error {
			if c.Op != simq.Enter {
				return nil
			}
			entered.Add(1)
			return sysv.EPERM
		})
		for n := range waits {
			h.receive(n + 1).waiting(t.Context())
		}
		time.Sleep(time.Minute)
		if h.kernel.Asleep() != 0 || h.polled() != waits {
			t.Errorf("%d waits are parked and %d polled, want none and %d", h.kernel.Asleep(), h.polled(), waits)
		}
		if n := entered.Load(); n != waits {
			t.Errorf("%d attempts to park, want one of each of %d waits", n, waits)
		}
		h.setFault(nil)
		h.receive(waits + 1).waiting(t.Context())
		time.Sleep(time.Minute)
		if h.kernel.Asleep() != waits+1 || h.polled() != 0 {
			t.Errorf("then %d waits are parked and %d polled, want %d and none", h.kernel.Asleep(), h.polled(), waits+1)
		}
	})
}

// TestInterruptsAreRepeated, until the wait has left, and no longer.
func TestInterruptsAreRepeated(t *testing.T) {
	for _, lost := range []int64{0, 1, 3, 20} {
		t.Run(fmt.Sprint(lost), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHandle(t)
				ended := h.receive(1).waiting(t.Context())
				var sent atomic.Int64
				h.setFault(func(c simq.Call) error {
					if c.Op == simq.Interrupt && sent.Add(1) <= lost {
						return sysv.EINTR
					}
					return nil
				})
				h.handBack(message{typ: 1, number: 1})
				wantEnded(t, "a receive", ended, nil)
				time.Sleep(time.Minute)
				if n := sent.Load(); n != lost+1 {
					t.Errorf("%d interrupts, want %d", n, lost+1)
				}
			})
		})
	}
}
