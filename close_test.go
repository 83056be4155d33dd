//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

func TestQueueCloseSendsBack(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 6)
	buffered := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(3))
	untilTaken(t, q, 2)
	ctx, cancel := context.WithCancel(ctxWithin(t))
	direct := q.Receiver(ctx, chanmq.Any())
	untilTaken(t, q, 1)
	cancel()
	<-direct.Done() // one message in the slot, four with buffered
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if !errors.Is(buffered.Err(), chanmq.ErrClosed) {
		t.Errorf("Err: %v", buffered.Err())
	}
	// Number 5 was still in the queue; the others went to the tail in order.
	other := attach(t, q.ID())
	wantNumbers(t, other, chanmq.Any(), 5, 6)
	wantNumbers(t, other, chanmq.Any(), 0, 5)
	wantNone(t, other)
}

func TestQueueCloseReturnsWhatTheKernelRefuses(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 4)
	q.Receiver(ctxWithin(t), chanmq.OfType(1), chanmq.WithBuffer(8))
	untilTaken(t, q, 0)
	for {
		if sent, err := q.TrySend(2, number(99)); err != nil {
			t.Fatal(err)
		} else if !sent {
			break
		}
	}
	err := q.Close()
	var left *chanmq.UndeliveredError
	if !errors.As(err, &left) || len(left.Messages) != 4 {
		t.Fatalf("Close: %v, want *UndeliveredError with 4 messages", err)
	}
	for i, m := range left.Messages {
		if m.Type != 1 || numberOf(m.Value) != i {
			t.Errorf("message %d is %v", i, m)
		}
	}
}

func TestQueueCloseReportsUnsent(t *testing.T) {
	type record struct{ F func() } // encoding/json has no form for it
	q := newQueue(t)
	fill(t, q)
	s := q.Sender(ctxWithin(t), chanmq.WithBuffer(2))
	for n := range 3 {
		s.C() <- chanmq.Message[[]byte]{Type: 1, Value: append(number(n), make([]byte, 2000)...)}
	}
	unencodable := chanmq.As(q, codec.JSON[record]()).Sender(ctxWithin(t))
	unencodable.C() <- chanmq.Message[record]{Type: 5}
	<-unencodable.Done()
	err := q.Close()
	var left *chanmq.UndeliveredError
	if !errors.As(err, &left) {
		t.Fatalf("Close: %v", err)
	}
	if len(left.Messages) != 3 || len(left.Unencoded) != 1 || left.Unencoded[0].Type != 5 {
		t.Errorf("%d messages and %v", len(left.Messages), left.Unencoded)
	}
	for i, m := range left.Messages {
		if numberOf(m.Value) != i {
			t.Errorf("message %d is number %d", i, numberOf(m.Value))
		}
	}
	if !errors.Is(s.Err(), chanmq.ErrClosed) {
		t.Errorf("Err: %v", s.Err())
	}
}

func TestCloseAfterRemovalKeepsWhatWasTaken(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 5)
	r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(2))
	untilTaken(t, q, 2)
	if err := q.Remove(); err != nil {
		t.Fatal(err)
	}
	if got := numberOf((<-r.C()).Value); got != 0 {
		t.Fatalf("got %d", got)
	}
	if got := numberOf((<-r.C()).Value); got != 1 {
		t.Fatalf("got %d", got)
	}
	// Number 2, which the pump had in hand, is now in C, and nobody reads it.
	<-r.Done()
	err := q.Close()
	var left *chanmq.UndeliveredError
	if !errors.As(err, &left) {
		t.Fatalf("Close: %v, want *UndeliveredError", err)
	}
	if !errors.Is(err, chanmq.ErrRemoved) {
		t.Errorf("Close: %v, want ErrRemoved in it", err)
	}
	if len(left.Messages) != 1 || numberOf(left.Messages[0].Value) != 2 {
		t.Errorf("left %v, want number 2", left.Messages)
	}
	if err := q.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// TestCloseThatRemovesReturnsWhatItHolds: with WithRemoveOnClose nothing is sent back
// to the queue, which is about to go, and what the handle holds is in the error.
func TestCloseThatRemovesReturnsWhatItHolds(t *testing.T) {
	for name, end := range map[string]func(*chanmq.Queue[[]byte]) error{
		"Close":    func(q *chanmq.Queue[[]byte]) error { return q.Close() },
		"Shutdown": func(q *chanmq.Queue[[]byte]) error { return q.Shutdown(ctxWithin(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t, chanmq.WithRemoveOnClose())
			sendNumbers(t, q, 1, 0, 4)
			r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(2))
			untilTaken(t, q, 1)
			_ = r.Close()
			err := end(q)
			var left *chanmq.UndeliveredError
			if !errors.As(err, &left) || len(left.Messages) != 3 {
				t.Fatalf("%v, want *UndeliveredError with 3 messages", err)
			}
			wantError(t, name, err, chanmq.ErrRemoved, "WithRemoveOnClose")
			for i, m := range left.Messages {
				if numberOf(m.Value) != i {
					t.Errorf("message %d is number %d", i, numberOf(m.Value))
				}
			}
		})
	}
}
