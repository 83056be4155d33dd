//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

// TestCancelledReceivesLeaveNothing cancels receives that are parked, and shows
// that no thread stays behind in the kernel, where it would swallow the next
// message.
func TestCancelledReceivesLeaveNothing(t *testing.T) {
	const cancels = 1000
	q := newQueue(t)
	one := func() {
		ctx, cancel := context.WithCancel(ctxWithin(t))
		defer cancel()
		ended := make(chan error, 1)
		go func() {
			_, err := q.Receive(ctx, chanmq.Any())
			ended <- err
		}()
		// Some are cancelled before they park, some after.
		for range 20 {
			runtime.Gosched()
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("Receive: %v", err)
		}
	}
	one()
	threads := testkit.Threads()
	for range cancels {
		one()
	}
	var wg sync.WaitGroup
	for range 8 { // threads that ran these are kept by the runtime, idle
		wg.Go(func() {
			for range cancels / 8 {
				one()
			}
		})
	}
	wg.Wait()
	if tids := testkit.ThreadsInCalls(); len(tids) > 0 {
		t.Errorf("threads still in msgrcv: %v", tids)
	}
	if now := testkit.Threads(); now > threads+2*8+4 {
		t.Errorf("%d threads after %d cancelled receives, %d before", now, 2*cancels, threads)
	}
	sendNumbers(t, q, 1, 0, 100)
	wantNumbers(t, q, chanmq.Any(), 0, 100)
}
