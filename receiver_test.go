//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
)

// sendInBackground sends 0 to total-1, each as the type that typ says. The test
// waits for it, and ends it when it fails.
func sendInBackground(t testing.TB, q *chanmq.Queue[[]byte], total int, typ func(n int) int64) {
	t.Helper()
	ctx := ctxWithin(t)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for n := range total {
			if err := q.Send(ctx, typ(n), number(n)); err != nil {
				t.Errorf("sending %d: %v", n, err)
				return
			}
		}
	}()
	t.Cleanup(func() { <-sent })
}

func TestReceiverDeliversInOrderPerType(t *testing.T) {
	for _, buffer := range []int{0, 1, 7, 64} {
		t.Run(fmt.Sprintf("buffer %d", buffer), func(t *testing.T) {
			q := newQueue(t)
			odd := q.Receiver(ctxWithin(t), chanmq.OfType(1), chanmq.WithBuffer(buffer))
			even := q.Receiver(ctxWithin(t), chanmq.OfType(2), chanmq.WithBuffer(buffer))
			const n = 500
			sendInBackground(t, q, n, func(n int) int64 { return int64(1 + n%2) })
			next := map[int64]int{1: 0, 2: 1}
			for range n {
				var m chanmq.Message[[]byte]
				select {
				case m = <-odd.C():
				case m = <-even.C():
				}
				if got := numberOf(m.Value); got != next[m.Type] {
					t.Fatalf("type %d: got %d, want %d", m.Type, got, next[m.Type])
				}
				next[m.Type] += 2
			}
		})
	}
}

func TestReceiverEnds(t *testing.T) {
	errWhy := errors.New("because")
	tests := []struct {
		name string
		end  func(q *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], cancel context.CancelCauseFunc) error
		want []error // nil: Err is nil
	}{
		{"ctx", func(_ *chanmq.Queue[[]byte], _ *chanmq.Receiver[[]byte], cancel context.CancelCauseFunc) error {
			cancel(nil)
			return nil
		}, []error{context.Canceled}},
		{"ctx with a cause", func(_ *chanmq.Queue[[]byte], _ *chanmq.Receiver[[]byte], cancel context.CancelCauseFunc) error {
			cancel(errWhy)
			return nil
		}, []error{context.Canceled, errWhy}},
		{"Close", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ context.CancelCauseFunc) error {
			return r.Close()
		}, nil},
		{"Drain", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ context.CancelCauseFunc) error {
			return r.Drain(context.Background())
		}, nil},
		{"Remove", func(q *chanmq.Queue[[]byte], _ *chanmq.Receiver[[]byte], _ context.CancelCauseFunc) error {
			return q.Remove()
		}, []error{chanmq.ErrRemoved}},
		{"Close of the queue", func(q *chanmq.Queue[[]byte], _ *chanmq.Receiver[[]byte], _ context.CancelCauseFunc) error {
			return q.Close()
		}, []error{chanmq.ErrClosed, os.ErrClosed}},
	}
	for _, test := range tests {
		for _, state := range []string{"at once", "spinning", "parked"} {
			t.Run(test.name+"/"+state, func(t *testing.T) {
				q := newQueue(t)
				ctx, cancel := context.WithCancelCause(ctxWithin(t))
				defer cancel(nil)
				r := q.Receiver(ctx, chanmq.Any())
				switch state {
				case "spinning":
					sendNumbers(t, q, 1, 0, 1)
					<-r.C()
				case "parked":
					testkit.Eventually(t, "a parked receive", func() bool { return len(testkit.ThreadsInCalls()) == 1 })
				}
				if err := r.Err(); err != nil {
					t.Errorf("Err while C is open: %v", err)
				}
				if err := test.end(q, r, cancel); err != nil {
					t.Error(err)
				}
				for m := range r.C() {
					t.Errorf("unexpected message %v", m)
				}
				err := r.Err() // readable as soon as C is closed
				if test.want == nil && err != nil {
					t.Errorf("Err: %v, want nil", err)
				}
				for _, want := range test.want {
					if !errors.Is(err, want) {
						t.Errorf("Err: %v, want one that is %v", err, want)
					}
				}
				<-r.Done()
				if err := r.Close(); err != nil {
					t.Errorf("Close afterwards: %v", err)
				}
				if got := r.Err(); got != err {
					t.Errorf("Err changed from %v to %v", err, got)
				}
			})
		}
	}
}

func TestReceiverThatCannotStart(t *testing.T) {
	closed := newQueue(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	open := newQueue(t)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	sendNumbers(t, open, 1, 0, 1)
	tests := []struct {
		name string
		r    *chanmq.Receiver[[]byte]
		want error
	}{
		{"closed handle", closed.Receiver(ctxWithin(t), chanmq.Any()), chanmq.ErrClosed},
		{"type 0", open.Receiver(ctxWithin(t), chanmq.OfType(0)), chanmq.ErrInvalidType},
		{"negative type", open.Receiver(ctxWithin(t), chanmq.UpTo(-1)), chanmq.ErrInvalidType},
		{"ctx ended", open.Receiver(ended, chanmq.Any()), context.Canceled},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if m, ok := <-test.r.C(); ok {
				t.Errorf("C yielded %v", m)
			}
			if err := test.r.Err(); !errors.Is(err, test.want) {
				t.Errorf("Err: %v, want %v", err, test.want)
			}
			if err := errors.Join(test.r.Drain(context.Background()), test.r.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	wantNumbers(t, open, chanmq.Any(), 0, 1) // nobody took it
	for _, n := range []int{-1, math.MaxInt} {
		r := open.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(n))
		if _, ok := <-r.C(); ok || r.Err() == nil {
			t.Errorf("WithBuffer(%d): Err %v", n, r.Err())
		}
	}
}

func TestReceiverDecodeError(t *testing.T) {
	texts := codec.Func(
		func(dst []byte, s string) ([]byte, error) { return append(dst, s...), nil },
		func(src []byte, s *string) error {
			if string(src) == "bad" {
				return errors.New("it is bad")
			}
			*s = string(src)
			return nil
		})
	send := func(t *testing.T, q *chanmq.Queue[[]byte], texts ...string) {
		for _, text := range texts {
			if err := q.Send(ctxWithin(t), 7, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Run("ends the Receiver, and is in Err", func(t *testing.T) {
		q := newQueue(t)
		send(t, q, "good", "bad", "better")
		r := chanmq.As(q, texts).Receiver(ctxWithin(t), chanmq.Any())
		var got []string
		for m := range r.C() {
			got = append(got, m.Value)
		}
		var undecoded *chanmq.DecodeError
		if err := r.Err(); !errors.As(err, &undecoded) || string(undecoded.Message.Value) != "bad" || undecoded.Message.Type != 7 {
			t.Errorf("Err: %v", err)
		}
		if fmt.Sprint(got) != "[good]" {
			t.Errorf("got %v", got)
		}
		r.Close()
		m, err := q.Receive(ctxWithin(t), chanmq.Any())
		if err != nil || string(m.Value) != "better" {
			t.Errorf("then %s, %v", m.Value, err)
		}
		wantNone(t, q)
	})
	t.Run("goes to the function", func(t *testing.T) {
		q := newQueue(t)
		send(t, q, "bad", "good", "bad", "bad", "better")
		dead := make(chan *chanmq.DecodeError, 3)
		r := chanmq.As(q, texts).Receiver(ctxWithin(t), chanmq.Any(),
			chanmq.WithDecodeError(func(e *chanmq.DecodeError) { dead <- e }), chanmq.WithBuffer(2))
		if a, b := (<-r.C()).Value, (<-r.C()).Value; a != "good" || b != "better" {
			t.Errorf("got %s, %s", a, b)
		}
		for range 3 {
			if e := <-dead; string(e.Message.Value) != "bad" {
				t.Errorf("dead letter %v", e)
			}
		}
		r.Close()
		wantNone(t, q)
	})
	t.Run("the function may receive from the handle and end the ctx", func(t *testing.T) {
		q := newQueue(t)
		send(t, q, "bad", "good")
		ctx, cancel := context.WithCancel(ctxWithin(t))
		defer cancel()
		var inside string
		r := chanmq.As(q, texts).Receiver(ctx, chanmq.Any(), chanmq.WithDecodeError(func(*chanmq.DecodeError) {
			cancel()
			m, err := q.Receive(ctxWithin(t), chanmq.Any())
			inside = fmt.Sprint(string(m.Value), err)
		}))
		<-r.Done()
		if inside != "good<nil>" {
			t.Errorf("received %s", inside)
		}
	})
}

func TestDrainWaitsForItsCtxOnly(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 3)
	r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(1))
	untilTaken(t, q, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := r.Drain(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Drain with nobody reading: %v", err)
	}
	// It goes on draining: what it held comes, and nothing more is taken.
	for want := range 2 {
		if got := numberOf((<-r.C()).Value); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
	if _, ok := <-r.C(); ok || r.Err() != nil {
		t.Errorf("C is open, or Err %v", r.Err())
	}
	wantNumbers(t, q, chanmq.Any(), 2, 3)
}
