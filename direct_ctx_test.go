//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

// errWhy is the cause of a ctx in these tests.
var errWhy = errors.New("the test's reason")

// endedContexts are contexts that have ended, and what each error of theirs is.
func endedContexts(t testing.TB) map[string]struct {
	ctx context.Context
	is  []error
} {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	caused, cancelCause := context.WithCancelCause(t.Context())
	cancelCause(errWhy)
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Hour))
	t.Cleanup(cancelLate)
	return map[string]struct {
		ctx context.Context
		is  []error
	}{
		"cancelled":              {cancelled, []error{context.Canceled}},
		"cancelled with a cause": {caused, []error{context.Canceled, errWhy}},
		"past its deadline":      {late, []error{context.DeadlineExceeded}},
	}
}

func TestCtxThatHasEndedDoesNothing(t *testing.T) {
	for name, ended := range endedContexts(t) {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			sendNumbers(t, q, 1, 0, 1)
			wantUnchanged(t, q)
			for _, is := range ended.is {
				_, err := q.Receive(ended.ctx, chanmq.Any())
				wantError(t, "Receive", err, is)
				wantError(t, "ReceiveInto", q.ReceiveInto(ended.ctx, chanmq.Any(), new(chanmq.Message[[]byte])), is)
				for _, err := range q.Messages(ended.ctx, chanmq.Any()) {
					wantError(t, "Messages", err, is)
				}
				err = q.Send(ended.ctx, 1, number(1))
				wantError(t, "Send", err, is)
				if strings.Contains(err.Error(), "full") {
					t.Errorf("Send into a queue with room: %v", err)
				}
			}
		})
	}
}

func TestCtxThatEndsDuringTheWait(t *testing.T) {
	q := newQueue(t)
	filled := fill(t, q)
	full := []string{fmt.Sprintf("holds %d messages, %d of", filled, 1024*filled), "msg_qbytes"}
	for _, tt := range []struct {
		name  string
		call  func(context.Context) error
		words []string
	}{
		{"Send", func(ctx context.Context) error { return q.Send(ctx, 1, make([]byte, 1024)) }, full},
		{"Receive", func(ctx context.Context) error { _, err := q.Receive(ctx, chanmq.OfType(3)); return err }, nil},
		{"ReceiveInto", func(ctx context.Context) error {
			return q.ReceiveInto(ctx, chanmq.OfType(3), new(chanmq.Message[[]byte]))
		}, nil},
		{"Messages", func(ctx context.Context) (last error) {
			yields := 0
			for _, err := range q.Messages(ctx, chanmq.OfType(3)) {
				last = err
				yields++
			}
			if yields != 1 {
				t.Errorf("Messages yields %d times", yields)
			}
			return last
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantUnchanged(t, q)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			wantError(t, "at the deadline", tt.call(ctx), context.DeadlineExceeded, tt.words...)

			caused, cancelCause := context.WithCancelCause(t.Context())
			result := make(chan error, 1)
			background(t, func() { result <- tt.call(caused) })
			untilAsleep(t, 1)
			cancelCause(errWhy)
			err := <-result
			wantError(t, "cancelled", err, context.Canceled, append(tt.words, errWhy.Error())...)
			wantError(t, "cancelled", err, errWhy)
		})
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
