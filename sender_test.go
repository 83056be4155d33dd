//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

func wantUnsent(t testing.TB, s *chanmq.Sender[[]byte], from, to int) {
	t.Helper()
	unsent := s.Unsent()
	if len(unsent) != to-from {
		t.Errorf("%d messages unsent, want %d to %d", len(unsent), from, to-1)
		return
	}
	for i, m := range unsent {
		if numberOf(m.Value) != from+i {
			t.Errorf("unsent %d is number %d, want %d", i, numberOf(m.Value), from+i)
		}
	}
}

func TestSenderSendsInOrder(t *testing.T) {
	for _, buffer := range []int{0, 1, 16} {
		t.Run(fmt.Sprintf("buffer %d", buffer), func(t *testing.T) {
			q := newQueue(t)
			s := q.Sender(ctxWithin(t), chanmq.WithBuffer(buffer))
			const n = 2000 // more than the queue holds
			go func() {
				for i := range n {
					s.C() <- message(i)
				}
				close(s.C())
			}()
			wantNumbers(t, q, chanmq.OfType(1), 0, n)
			<-s.Done()
			if err := errors.Join(s.Err(), s.Close()); err != nil {
				t.Error(err)
			}
			wantUnsent(t, s, 0, 0)
		})
	}
}

func TestSenderCloseOfCFlushes(t *testing.T) {
	q := newQueue(t)
	s := q.Sender(ctxWithin(t), chanmq.WithBuffer(8))
	for i := range 8 {
		s.C() <- message(i)
	}
	close(s.C())
	<-s.Done()
	if stat, err := q.Stat(); err != nil || stat.Messages != 8 {
		t.Errorf("%d messages in the queue, %v; want 8", stat.Messages, err)
	}
	if err := errors.Join(s.Err(), s.Flush(ctxWithin(t)), s.Close()); err != nil {
		t.Error(err)
	}
}

func TestSenderFlush(t *testing.T) {
	q := newQueue(t)
	s := q.Sender(ctxWithin(t), chanmq.WithBuffer(8))
	defer s.Close()
	sent := 0
	for range 50 {
		for range 1 + sent%8 {
			s.C() <- message(sent)
			sent++
		}
		if err := s.Flush(ctxWithin(t)); err != nil {
			t.Fatal(err)
		}
		if stat, err := q.Stat(); err != nil || stat.Messages != sent {
			t.Fatalf("after Flush %d messages in the queue, %v; want %d", stat.Messages, err, sent)
		}
	}
	t.Run("while the queue is full", func(t *testing.T) {
		filler := fill(t, q)
		s.C() <- chanmq.Message[[]byte]{Type: 1, Value: make([]byte, 2000)}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if err := s.Flush(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Flush: %v", err)
		}
		flushed := make(chan error)
		go func() { flushed <- s.Flush(ctxWithin(t)) }()
		for range filler {
			if _, err := q.Receive(ctxWithin(t), chanmq.OfType(9)); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-flushed; err != nil {
			t.Error(err)
		}
	})
}

func TestSenderEnds(t *testing.T) {
	tests := []struct {
		name string
		end  func(q *chanmq.Queue[[]byte], s *chanmq.Sender[[]byte], cancel func())
		want error
	}{
		{"ctx", func(_ *chanmq.Queue[[]byte], _ *chanmq.Sender[[]byte], cancel func()) { cancel() }, context.Canceled},
		{"Close", func(_ *chanmq.Queue[[]byte], s *chanmq.Sender[[]byte], _ func()) { s.Close() }, nil},
		{"concurrent Close", func(_ *chanmq.Queue[[]byte], s *chanmq.Sender[[]byte], _ func()) {
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() { s.Close() })
			}
			wg.Wait()
		}, nil},
	}
	for _, test := range tests {
		t.Run(test.name+"/idle", func(t *testing.T) {
			q := newQueue(t)
			ctx, cancel := context.WithCancel(ctxWithin(t))
			defer cancel()
			s := q.Sender(ctx)
			if s.Unsent() != nil || s.Err() != nil {
				t.Errorf("while it runs: Unsent %v, Err %v", s.Unsent(), s.Err())
			}
			test.end(q, s, cancel)
			<-s.Done()
			if err := s.Err(); !errors.Is(err, test.want) {
				t.Errorf("Err: %v, want %v", err, test.want)
			}
			if err := s.Close(); err != nil {
				t.Errorf("Close: %v", err)
			}
			wantUnsent(t, s, 0, 0)
		})
		t.Run(test.name+"/full queue, full buffer", func(t *testing.T) {
			q := newQueue(t)
			filler := fill(t, q)
			ctx, cancel := context.WithCancel(ctxWithin(t))
			defer cancel()
			s := q.Sender(ctx, chanmq.WithBuffer(4))
			// Larger than the room that fill left.
			large := func(n int) chanmq.Message[[]byte] {
				return chanmq.Message[[]byte]{Type: 1, Value: append(number(n), make([]byte, 2000)...)}
			}
			for n := range 5 { // one in the pump's hand, four in C
				s.C() <- large(n)
			}
			test.end(q, s, cancel)
			<-s.Done()
			if err := s.Err(); !errors.Is(err, test.want) {
				t.Errorf("Err: %v, want %v", err, test.want)
			}
			if err := s.Close(); err == nil {
				t.Error("Close says nothing of the messages that were not sent")
			}
			wantUnsent(t, s, 0, 5)
			wantUnsent(t, s, 0, 5) // again
			for range filler {
				if _, ok, err := q.TryReceive(chanmq.OfType(9)); !ok || err != nil {
					t.Fatal(ok, err)
				}
			}
			wantNone(t, q)
			if err := q.Close(); err != nil {
				t.Errorf("Close of the queue reports what Unsent has returned: %v", err)
			}
		})
	}
}

func TestSenderEndsAtWhatCannotBeSent(t *testing.T) {
	tests := []struct {
		name string
		bad  chanmq.Message[[]byte]
		want error
	}{
		{"too large", chanmq.Message[[]byte]{Type: 1, Value: append(number(1), make([]byte, 1<<20)...)}, chanmq.ErrTooLarge},
		{"type 0", chanmq.Message[[]byte]{Type: 0, Value: number(1)}, chanmq.ErrInvalidType},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q := newQueue(t)
			s := q.Sender(ctxWithin(t), chanmq.WithBuffer(3))
			s.C() <- message(0)
			s.C() <- test.bad
			for n := 2; n < 4; n++ {
				select {
				case s.C() <- message(n):
				case <-s.Done():
					select { // there is room in the buffer still
					case s.C() <- message(n):
					default:
						t.Error("the buffer is full")
					}
				}
			}
			<-s.Done()
			if err := s.Err(); !errors.Is(err, test.want) {
				t.Errorf("Err: %v, want %v", err, test.want)
			}
			if err := s.Flush(ctxWithin(t)); !errors.Is(err, test.want) {
				t.Errorf("Flush: %v", err)
			}
			wantUnsent(t, s, 1, 4)
			wantNumbers(t, q, chanmq.Any(), 0, 1)
		})
	}
}

func TestSenderAfterRemoval(t *testing.T) {
	q := newQueue(t)
	fill(t, q)
	s := q.Sender(ctxWithin(t))
	s.C() <- chanmq.Message[[]byte]{Type: 1, Value: make([]byte, 2000)}
	testkit.Eventually(t, "a parked send", func() bool { return len(testkit.ThreadsInCalls()) == 1 })
	if err := q.Remove(); err != nil {
		t.Fatal(err)
	}
	<-s.Done()
	if err := s.Err(); !errors.Is(err, chanmq.ErrRemoved) {
		t.Errorf("Err: %v", err)
	}
	if n := len(s.Unsent()); n != 1 {
		t.Errorf("%d messages unsent", n)
	}
}

func TestSenderOnAClosedHandle(t *testing.T) {
	q := newQueue(t)
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	s := q.Sender(ctxWithin(t), chanmq.WithBuffer(1))
	<-s.Done()
	s.C() <- message(0)
	if err := s.Err(); !errors.Is(err, chanmq.ErrClosed) {
		t.Errorf("Err: %v", err)
	}
	wantUnsent(t, s, 0, 1)
	if bad := newQueue(t).Sender(ctxWithin(t), chanmq.WithBuffer(-1)); bad.Err() == nil {
		t.Error("WithBuffer(-1) is taken")
	}
}
