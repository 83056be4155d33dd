//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestSelectOverThreeTypesFromThreeProcesses(t *testing.T) {
	q := newQueue(t)
	const types, each = 3, 1000
	var receivers [types]<-chan chanmq.Message[[]byte]
	for i := range receivers {
		receivers[i] = q.Receiver(ctxWithin(t), chanmq.OfType(int64(i+1))).C()
	}
	for i := range types {
		cmd := testkit.Start(t, "send", fmt.Sprint(q.ID()), fmt.Sprint(i+1), fmt.Sprint(each))
		defer testkit.Wait(t, cmd)
	}
	var next [types]int
	for range types * each {
		var m chanmq.Message[[]byte]
		from := int64(0)
		select {
		case m = <-receivers[0]:
			from = 1
		case m = <-receivers[1]:
			from = 2
		case m = <-receivers[2]:
			from = 3
		}
		if m.Type != from {
			t.Fatalf("a message of type %d on the channel of type %d", m.Type, from)
		}
		if got := numberOf(m.Value); got != next[from-1] {
			t.Fatalf("type %d: got %d, want %d", from, got, next[from-1])
		}
		next[from-1]++
	}
	wantNone(t, q)
}

func TestRangeEndsOnRemovalByAnotherProcess(t *testing.T) {
	q := newQueue(t)
	r := q.Receiver(ctxWithin(t), chanmq.Any())
	direct := make(chan error, 1)
	go func() {
		_, err := q.Receive(ctxWithin(t), chanmq.OfType(2))
		direct <- err
	}()
	testkit.Eventually(t, "two parked receives", func() bool { return len(testkit.ThreadsInCalls()) == 2 })
	testkit.Wait(t, testkit.Start(t, "remove", fmt.Sprint(q.ID())))
	for m := range r.C() {
		t.Errorf("unexpected %v", m)
	}
	if err := r.Err(); !errors.Is(err, chanmq.ErrRemoved) {
		t.Errorf("Err: %v", err)
	}
	if err := <-direct; !errors.Is(err, chanmq.ErrRemoved) {
		t.Errorf("Receive: %v", err)
	}
	var last error
	for _, err := range q.Messages(ctxWithin(t), chanmq.Any()) {
		last = err
	}
	if !errors.Is(last, chanmq.ErrRemoved) {
		t.Errorf("Messages: %v", last)
	}
}

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

// TestManyHandles shows that many handles of one queue in
// one process do not get into each other's way.
func TestManyHandles(t *testing.T) {
	q := newQueue(t)
	const handles, each = 20, 50
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[int]bool)
	for range handles {
		handle := attach(t, q.ID())
		wg.Go(func() {
			for range each {
				m, err := handle.Receive(ctxWithin(t), chanmq.Any())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[numberOf(m.Value)] = true
				mu.Unlock()
			}
		})
	}
	sendNumbers(t, q, 1, 0, handles*each)
	wg.Wait()
	if len(seen) != handles*each {
		t.Errorf("%d messages, want %d", len(seen), handles*each)
	}
}
