//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

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
	r := open.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(-1))
	if _, ok := <-r.C(); ok || r.Err() == nil {
		t.Errorf("WithBuffer(-1): Err %v", r.Err())
	}
}

// TestCloseMatrix walks what Close promises: whatever state the Receiver is in,
// and however it is closed, every message is either read or received from the
// handle afterwards, once and in order.
func TestCloseMatrix(t *testing.T) {
	const sent = 12
	read := func(r *chanmq.Receiver[[]byte], n int) (numbers []int) {
		for range n {
			numbers = append(numbers, numberOf((<-r.C()).Value))
		}
		return numbers
	}
	ways := []struct {
		name string
		do   func(q *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], cancel func()) []int // returns what it read
	}{
		{"unread", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			r.Close()
			return nil
		}},
		{"after some", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			got := read(r, 5)
			r.Close()
			return got
		}},
		{"double", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			got := read(r, 3)
			r.Close()
			r.Close()
			return got
		}},
		{"concurrent", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			got := read(r, 3)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() { r.Close() })
			}
			wg.Wait()
			return got
		}},
		{"concurrent with the queue's", func(q *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			got := read(r, 3)
			var wg sync.WaitGroup
			wg.Go(func() { r.Close() })
			wg.Go(func() { q.Close() })
			wg.Wait()
			return got
		}},
		{"after ctx", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], cancel func()) []int {
			got := read(r, 2)
			cancel()
			<-r.Done()
			r.Close()
			return got
		}},
		{"after ctx, not closed, C read to its end", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], cancel func()) (got []int) {
			cancel()
			for m := range r.C() {
				got = append(got, numberOf(m.Value))
			}
			return got
		}},
		{"after Drain", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) (got []int) {
			drained := make(chan error)
			go func() { drained <- r.Drain(context.Background()) }()
			for m := range r.C() {
				got = append(got, numberOf(m.Value))
			}
			<-drained
			r.Close()
			return got
		}},
		{"during Drain", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) []int {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			r.Drain(ctx) // nobody reads: it may not finish
			r.Close()
			return nil
		}},
		{"from the consumer's goroutine", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) (got []int) {
			for m := range r.C() {
				got = append(got, numberOf(m.Value))
				if len(got) == 4 {
					r.Close()
				}
			}
			return got
		}},
		{"while the consumer reads", func(_ *chanmq.Queue[[]byte], r *chanmq.Receiver[[]byte], _ func()) (got []int) {
			closed := make(chan struct{})
			go func() { r.Close(); close(closed) }()
			for m := range r.C() {
				got = append(got, numberOf(m.Value))
			}
			<-closed
			return got
		}},
	}
	for _, buffer := range []int{0, 1, 4, sent, 2 * sent} {
		for _, way := range ways {
			t.Run(fmt.Sprintf("buffer %d/%s", buffer, way.name), func(t *testing.T) {
				q := newQueue(t)
				sendNumbers(t, q, 1, 0, sent)
				ctx, cancel := context.WithCancel(ctxWithin(t))
				defer cancel()
				r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer))
				untilTaken(t, q, max(0, sent-buffer-1))
				read := way.do(q, r, cancel)
				// While a consumer reads, the closer takes its turns between:
				// what it read is in order, with gaps that the rest fills.
				seen := make([]bool, sent)
				last := -1
				for _, n := range read {
					if n <= last {
						t.Errorf("read %d after %d", n, last)
					}
					seen[n], last = true, n
				}
				handle := q
				if way.name == "concurrent with the queue's" {
					handle = attach(t, q.ID())
				}
				last = -1
				for {
					m, ok, err := handle.TryReceive(chanmq.Any())
					if err != nil {
						t.Fatal(err)
					}
					if !ok {
						break
					}
					n := numberOf(m.Value)
					if seen[n] {
						t.Errorf("%d came twice", n)
					}
					if n <= last && handle == q {
						t.Errorf("received %d after %d", n, last)
					}
					seen[n], last = true, n
				}
				for n, seen := range seen {
					if !seen {
						t.Errorf("%d was lost", n)
					}
				}
			})
		}
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

// TestHandBackReachesWhoWaitsAlready shows that a message is not stuck in the
// slot while a receive that wants it sleeps in the kernel.
func TestHandBackReachesWhoWaitsAlready(t *testing.T) {
	for _, opts := range [][]chanmq.Option{nil, {chanmq.WithPolling(time.Minute, time.Hour)}} {
		q := newQueue(t, opts...)
		sendNumbers(t, q, 1, 0, 1)
		holder := q.Receiver(ctxWithin(t), chanmq.OfType(1))
		untilTaken(t, q, 0)
		waiter := q.Receiver(ctxWithin(t), chanmq.Any())
		got := make(chan error, 1)
		go func() {
			_, err := q.Receive(ctxWithin(t), chanmq.OfType(2))
			got <- err
		}()
		if opts == nil {
			testkit.Eventually(t, "two parked receives", func() bool { return len(testkit.ThreadsInCalls()) == 2 })
		}
		holder.Close()
		if m := <-waiter.C(); numberOf(m.Value) != 0 {
			t.Errorf("got %v", m)
		}
		select {
		case err := <-got:
			t.Errorf("a receive of another type ended: %v", err)
		default:
		}
		q.Close()
		if err := <-got; !errors.Is(err, chanmq.ErrClosed) {
			t.Errorf("Receive: %v", err)
		}
	}
}

// TestOrderSurvivesCancelAndResubscribe changes at random how it receives, and
// never misses a number.
func TestOrderSurvivesCancelAndResubscribe(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			q := newQueue(t)
			const total = 3000
			sendInBackground(t, q, total, func(n int) int64 { return int64(1 + n%3) })
			next := 0
			want := func(m chanmq.Message[[]byte]) {
				t.Helper()
				if got := numberOf(m.Value); got != next {
					t.Fatalf("got %d, want %d", got, next)
				}
				next++
			}
			for next < total {
				some := min(random.IntN(8), total-next)
				ctx, cancel := context.WithCancel(ctxWithin(t))
				switch way := random.IntN(6); way {
				case 0: // direct
					for range some {
						m, err := q.Receive(ctx, chanmq.Any())
						if err != nil {
							t.Fatal(err)
						}
						want(m)
					}
				case 1: // an iterator that is left
					for m, err := range q.Messages(ctx, chanmq.Any()) {
						if err != nil {
							t.Fatal(err)
						}
						want(m)
						if some--; some <= 0 {
							break
						}
					}
				case 2: // a Receiver that is cancelled, and nobody waits for its end
					r := q.Receiver(ctx, chanmq.Except(4))
					for range some {
						want(<-r.C())
					}
					cancel()
				case 3: // cancelled, and its buffer read out
					r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(random.IntN(5)))
					for range some {
						want(<-r.C())
					}
					cancel()
					for m := range r.C() {
						want(m)
					}
				case 4: // closed with an unread buffer
					r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(random.IntN(5)))
					for range some {
						want(<-r.C())
					}
					r.Close()
				case 5: // drained
					r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(random.IntN(5)))
					for range some {
						want(<-r.C())
					}
					go r.Drain(context.Background())
					for m := range r.C() {
						want(m)
					}
				}
				cancel()
			}
			wantNone(t, q)
		})
	}
}

// TestAnyViewTakesOver shows that what one typed view leaves another receives,
// in the form that it had in the kernel.
func TestAnyViewTakesOver(t *testing.T) {
	type order struct{ ID int }
	q := newQueue(t)
	orders := chanmq.As(q, codec.JSON[order]())
	texts := []string{`{"ID":1,"more":"kept"}`, `{"ID": 2}`, `{"ID":3}`}
	for _, text := range texts {
		if err := q.Send(ctxWithin(t), 1, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	r := orders.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(1))
	untilTaken(t, q, 1)
	r.Close()
	for _, want := range texts {
		m, err := q.Receive(ctxWithin(t), chanmq.Any())
		if err != nil || string(m.Value) != want {
			t.Errorf("got %s, %v; want %s", m.Value, err, want)
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

// TestCloseWhileReading has the consumer and Close take turns at C, and counts.
func TestCloseWhileReading(t *testing.T) {
	type record struct{ N int }
	q := newQueue(t)
	records := chanmq.As(q, codec.JSON[record]())
	const rounds, total = 200, 60
	for round := range rounds {
		for n := range total {
			// The texts differ in what the codec does not see.
			text := fmt.Sprintf(`{"N":%d,"round":%d}`, n, round)
			if err := q.Send(ctxWithin(t), 1, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		r := records.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(total))
		untilTaken(t, q, 0)
		closed := make(chan struct{})
		go func() { r.Close(); close(closed) }()
		count := make([]int, total)
		for m := range r.C() {
			count[m.Value.N]++
		}
		<-closed
		last := -1
		for {
			m, ok, err := records.TryReceive(chanmq.Any())
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			if m.Value.N <= last {
				t.Fatalf("%d after %d", m.Value.N, last)
			}
			last = m.Value.N
			count[m.Value.N]++
		}
		for n, times := range count {
			if times != 1 {
				t.Fatalf("round %d: message %d came %d times", round, n, times)
			}
		}
	}
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
