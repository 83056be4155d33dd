//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// rounds is how many times the tests of this file race, and 1/of times as many as
// messages in TestStress.
func rounds(of int) int { return max(*stressCount/of, 20) }

// ownContext is a ctx whose Done channel is not one of package context: contexts
// that are derived from it end some time after it.
type ownContext struct {
	context.Context
	done  chan struct{}
	ended atomic.Bool
}

func newOwnContext(parent context.Context) (context.Context, context.CancelFunc) {
	ctx := &ownContext{Context: parent, done: make(chan struct{})}
	return ctx, func() {
		if !ctx.ended.Swap(true) {
			close(ctx.done)
		}
	}
}

func (c *ownContext) Done() <-chan struct{} { return c.done }
func (c *ownContext) Err() error {
	if c.ended.Load() {
		return context.Canceled
	}
	return nil
}

// contexts are ways to make a ctx that can be cancelled.
var contexts = map[string]func(context.Context) (context.Context, context.CancelFunc){
	"of package context":     context.WithCancel,
	"with a Done of its own": newOwnContext,
	"derived from one with its own": func(parent context.Context) (context.Context, context.CancelFunc) {
		own, cancel := newOwnContext(parent)
		ctx, cancelDerived := context.WithCancel(own)
		return ctx, func() { cancel(); cancelDerived() }
	},
	"with a cause that is ErrClosed": func(parent context.Context) (context.Context, context.CancelFunc) {
		ctx, cancel := context.WithCancelCause(parent)
		return ctx, func() { cancel(fmt.Errorf("another queue: %w", chanmq.ErrClosed)) }
	},
	"with a deadline": func(parent context.Context) (context.Context, context.CancelFunc) {
		return context.WithTimeout(parent, time.Hour)
	},
}

// TestCancelAndSubscribeAgain: whatever kind of ctx it is, when a Receiver's has
// ended, the next receive has what it held, and nothing newer before that.
func TestCancelAndSubscribeAgain(t *testing.T) {
	for name, newContext := range contexts {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			total := 10 * rounds(10)
			sendInBackground(t, q, total, func(int) int64 { return 1 })
			random := rand.New(rand.NewPCG(1, 2))
			for next := 0; next < total; {
				ctx, cancel := newContext(ctxWithin(t))
				if random.IntN(4) == 0 {
					m, err := q.Receive(ctx, chanmq.OfType(1))
					if err != nil || numberOf(m.Value) != next {
						t.Fatalf("Receive: %v, %v, want %d", m, err, next)
					}
					next++
				} else {
					r := q.Receiver(ctx, chanmq.OfType(1))
					for range min(random.IntN(3), total-next) {
						m := <-r.C()
						if got := numberOf(m.Value); got != next {
							t.Fatalf("got %d, want %d", got, next)
						}
						next++
					}
				}
				cancel()
			}
			wantNone(t, q)
		})
	}
}

// TestManyCancelledAtOnce: Receivers with the same selector that are cancelled at any
// moment, and read by nobody, hand back in the order of the kernel.
func TestManyCancelledAtOnce(t *testing.T) {
	for name, newContext := range contexts {
		for _, receivers := range []int{2, 7} {
			t.Run(fmt.Sprintf("%d, ctx %s", receivers, name), func(t *testing.T) {
				q := newQueue(t)
				other := attach(t, q.ID())
				for round := range rounds(60) {
					ctx, cancel := newContext(ctxWithin(t))
					var all []*chanmq.Receiver[[]byte]
					for n := range receivers {
						all = append(all, q.Receiver(ctx, chanmq.OfType(1), chanmq.WithBuffer(n%3)))
					}
					if round%2 == 0 {
						runtime.Gosched()
						time.Sleep(rand.N(200 * time.Microsecond)) // until they park
					}
					const messages = 20
					sent := make(chan error, 1)
					go func() {
						for n := range messages {
							if err := other.Send(context.Background(), 1, number(n)); err != nil {
								sent <- err
								return
							}
						}
						sent <- nil
					}()
					time.Sleep(rand.N(100 * time.Microsecond))
					cancel()
					// What is in C's buffer the program would read; Close hands it back.
					for _, r := range all {
						_ = r.Close()
					}
					if err := <-sent; err != nil {
						t.Fatal(err)
					}
					for n := range messages {
						m, ok, err := q.TryReceive(chanmq.OfType(1))
						if err != nil || !ok || numberOf(m.Value) != n {
							t.Fatalf("round %d: TryReceive: %v, %v, %v, want %d", round, m, ok, err, n)
						}
					}
				}
				wantNone(t, q)
			})
		}
	}
}

// TestBothCloseAtOnce: Receiver.Close and Queue.Close at the same time leave each
// message in one place: the queue again, or the error.
func TestBothCloseAtOnce(t *testing.T) {
	slow := codec.Func(
		func(dst []byte, n int) ([]byte, error) { return append(dst, number(n)...), nil },
		func(src []byte, n *int) error {
			if len(src) != 4 {
				return errors.New("not a number")
			}
			time.Sleep(rand.N(30 * time.Microsecond))
			*n = numberOf(src)
			return nil
		})
	q := newQueue(t)
	const messages = 8
	for round := range rounds(20) {
		handle := attach(t, q.ID())
		r := chanmq.As(handle, slow).Receiver(context.Background(), chanmq.Any(), chanmq.WithBuffer(messages/2))
		for n := range messages {
			if err := q.Send(ctxWithin(t), 1, number(n)); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(rand.N(200 * time.Microsecond))
		var closing sync.WaitGroup
		for range 2 {
			closing.Go(func() { _ = r.Close() })
		}
		var undelivered *chanmq.UndeliveredError
		err := handle.Close()
		closing.Wait()
		var came []int
		if errors.As(err, &undelivered) {
			for _, m := range undelivered.Messages {
				came = append(came, numberOf(m.Value))
			}
		}
		for ok := true; ok; {
			var m chanmq.Message[[]byte]
			if m, ok, err = q.TryReceive(chanmq.Any()); err != nil {
				t.Fatal(err)
			} else if ok {
				came = append(came, numberOf(m.Value))
			}
		}
		slices.Sort(came)
		if want := []int{0, 1, 2, 3, 4, 5, 6, 7}; !slices.Equal(came, want) {
			t.Fatalf("round %d: there are %v, want %v", round, came, want)
		}
	}
}

// stamped is a value that is not equal to itself, nor to what its text decodes to
// the next time.
type stamped[T any] struct {
	id    int
	stamp T
}

// stampCodec decodes numbers to such values.
func stampCodec[T any](stamp func() T) chanmq.Codec[stamped[T]] {
	return codec.Func(
		func(dst []byte, v stamped[T]) ([]byte, error) { return append(dst, number(v.id)...), nil },
		func(src []byte, v *stamped[T]) error {
			*v = stamped[T]{numberOf(src), stamp()}
			return nil
		})
}

// TestCloseWhileReadingAnyValue: what Close moves from C to the handle while another
// goroutine reads C are the messages that this one does not get, also where values
// are not equal to themselves.
func TestCloseWhileReadingAnyValue(t *testing.T) {
	t.Run("NaN", func(t *testing.T) { testCloseWhileReading(t, math.NaN) })
	t.Run("func", func(t *testing.T) {
		testCloseWhileReading(t, func() func() int { n := rand.Int(); return func() int { return n } })
	})
	t.Run("time", func(t *testing.T) { testCloseWhileReading(t, time.Now) })
	t.Run("pointer", func(t *testing.T) { testCloseWhileReading(t, func() *int { return new(int) }) })
	t.Run("interface", func(t *testing.T) { testCloseWhileReading(t, func() any { return math.NaN() }) })
}

func testCloseWhileReading[T any](t *testing.T, stamp func() T) {
	t.Helper()
	raws := newQueue(t)
	q := chanmq.As(raws, stampCodec(stamp))
	const messages = 16
	for round := range rounds(10) {
		r := q.Receiver(context.Background(), chanmq.Any(), chanmq.WithBuffer(messages))
		for n := range messages {
			if err := raws.Send(ctxWithin(t), 1, number(n)); err != nil {
				t.Fatal(err)
			}
		}
		first := <-r.C()
		came := []int{first.Value.id}
		read := make(chan []int)
		go func() {
			var ids []int
			for m := range r.C() {
				ids = append(ids, m.Value.id)
			}
			read <- ids
		}()
		if round%3 > 0 {
			time.Sleep(rand.N(20 * time.Microsecond))
		}
		_ = r.Close()
		came = append(came, <-read...)
		for ok := true; ok; {
			var m chanmq.Message[[]byte]
			var err error
			if m, ok, err = raws.TryReceive(chanmq.Any()); err != nil {
				t.Fatal(err)
			} else if ok {
				came = append(came, numberOf(m.Value))
			}
		}
		slices.Sort(came)
		for n := range messages {
			if n >= len(came) || came[n] != n || len(came) != messages {
				t.Fatalf("round %d: there are %v, want 0 to %d", round, came, messages-1)
			}
		}
	}
}
