//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

// These tests are about handles of a kernel that is remote, and leases messages.

// TestRemoteHandlesDoTheSame: what a program sees of a handle does not depend on where the
// queue is.
func TestRemoteHandlesDoTheSame(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("a kernel that is simulated does the same on every architecture, and here it takes minutes")
	}
	machinesAreRemote = true
	defer func() { machinesAreRemote = false }()
	for name, test := range map[string]func(*testing.T){
		"TestEveryCallFails":                            TestEveryCallFails,
		"TestEveryCallFailsFromThenOn":                  TestEveryCallFailsFromThenOn,
		"TestEverythingEndsAtEveryCall":                 TestEverythingEndsAtEveryCall,
		"TestStormOfInterrupts":                         TestStormOfInterrupts,
		"TestInterruptsAreLost":                         TestInterruptsAreLost,
		"TestMessageBeatsInterrupt":                     TestMessageBeatsInterrupt,
		"TestEndsOfAReceiver":                           TestEndsOfAReceiver,
		"TestEndsOfAHandle":                             TestEndsOfAHandle,
		"TestEndsOfAConsumer":                           TestEndsOfAConsumer,
		"TestEndsOfAMerged":                             TestEndsOfAMerged,
		"TestShutdownWaitsForAcknowledgements":          TestShutdownWaitsForAcknowledgements,
		"TestShutdownSendsBackWhatWasHandedBack":        TestShutdownSendsBackWhatWasHandedBack,
		"TestOrderSurvivesCancelAndResubscribe":         TestOrderSurvivesCancelAndResubscribe,
		"TestHandBackWakesTheOneWhoWaits":               TestHandBackWakesTheOneWhoWaits,
		"TestHandBackReachesWhoWaitsAlready":            TestHandBackReachesWhoWaitsAlready,
		"TestForwardMovesMessagesByteForByte":           TestForwardMovesMessagesByteForByte,
		"TestForwardHandsBack":                          TestForwardHandsBack,
		"TestForwardKeepsOrderAcrossCancels":            TestForwardKeepsOrderAcrossCancels,
		"TestForwardEndsWithTheHandle":                  TestForwardEndsWithTheHandle,
		"TestForwardSurvivesRemoval":                    TestForwardSurvivesRemoval,
		"TestMergeKeepsTheOrderOfEach":                  TestMergeKeepsTheOrderOfEach,
		"TestMergeSurvivesCancelAndMergeAgain":          TestMergeSurvivesCancelAndMergeAgain,
		"TestMergedHandsBackAtOnce":                     TestMergedHandsBackAtOnce,
		"TestRemovalWithUnreadMessages":                 TestRemovalWithUnreadMessages,
		"TestReopenOfMany":                              TestReopenOfMany,
		"TestErrorsOfEndedContexts":                     TestErrorsOfEndedContexts,
		"TestReceiverTakesNoMoreThanItHasRoomFor":       TestReceiverTakesNoMoreThanItHasRoomFor,
		"TestWithDrain":                                 TestWithDrain,
		"TestMergedDeliversWhatAFailedReceiverHadTaken": TestMergedDeliversWhatAFailedReceiverHadTaken,
	} {
		t.Run(name, test)
	}
}

// wantTrips checks how often the process went to the machine since the last look.
func (m *machine) wantTrips(t *testing.T, what string, want simq.Trips) {
	t.Helper()
	if got := m.remote.Trips(); got != want {
		t.Errorf("%s: %+v trips, want %+v", what, got, want)
	}
}

// TestRemoteWaitsParkAtOnce: each call that waits is one trip of a Thread, however many there
// are, and whatever the handle's options are for waits on this machine.
func TestRemoteWaitsParkAtOnce(t *testing.T) {
	const calls = 100
	for name, opts := range map[string][]chanmq.Option{
		"WithMaxParked": {chanmq.WithMaxParked(1)},
		"WithPolling":   {chanmq.WithPolling(time.Millisecond, time.Second)},
		"WithSpin":      {chanmq.WithSpin(time.Second)},
	} {
		t.Run(name, func(t *testing.T) {
			onRemote(t, 0, func(t *testing.T, m *machine) {
				q := m.private(t, opts...)
				m.remote.Trips()
				var all sync.WaitGroup
				for n := range calls {
					all.Go(func() {
						var err error
						if n%2 == 0 {
							_, err = q.Receive(t.Context(), chanmq.OfType(1))
						} else {
							_, err = q.Take(t.Context(), chanmq.UpTo(1))
						}
						if err != nil {
							t.Error(err)
						}
					})
				}
				synctest.Wait()
				if n := m.Asleep(); n != calls {
					t.Errorf("%d receives sleep, want %d", n, calls)
				}
				time.Sleep(time.Hour)
				m.wantTrips(t, "receives", simq.Trips{Thread: calls})
				for n := range calls {
					m.puts(t, q.ID(), 1, n)
				}
				all.Wait()
				m.wantTrips(t, "messages that come", simq.Trips{})

				full := m.private(t, opts...)
				if err := full.Set(chanmq.Attr{MaxBytes: 1}); err != nil {
					t.Fatal(err)
				}
				m.puts(t, full.ID(), 2, 1)
				m.remote.Trips()
				ctx, cancel := context.WithCancel(t.Context())
				for range calls {
					all.Go(func() {
						if err := full.Send(ctx, 1, text(1)); !errors.Is(err, context.Canceled) {
							t.Errorf("Send: %v", err)
						}
					})
				}
				synctest.Wait()
				time.Sleep(time.Hour)
				cancel()
				all.Wait()
				m.wantTrips(t, "sends", simq.Trips{Thread: calls})
				if chanmq.Polling(q) != nil || chanmq.Polling(full) != nil {
					t.Error("something polls")
				}
			})
		})
	}
}

// TestRemoteCallsAreSingleTrips: what a call needs is asked for at once, and what is in the
// process is not asked for.
func TestRemoteCallsAreSingleTrips(t *testing.T) {
	onRemote(t, 4, func(t *testing.T, m *machine) {
		ctx := t.Context()
		q := m.private(t)
		m.remote.Trips()
		do := func(what string, err error, want simq.Trips) {
			t.Helper()
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			m.wantTrips(t, what, want)
		}
		do("Send", q.Send(ctx, 1, text(1)), simq.Trips{Thread: 1})
		_, err := q.Receive(ctx, chanmq.Any())
		do("Receive", err, simq.Trips{Thread: 1})
		_, err = q.TrySend(1, text(2))
		do("TrySend", err, simq.Trips{Kernel: 1})
		_, _, err = q.TryReceive(chanmq.Any())
		do("TryReceive", err, simq.Trips{Kernel: 1})

		m.puts(t, q.ID(), 1, 1, 2, 3, 4, 5)
		d, err := q.Take(ctx, chanmq.Any())
		do("Take", err, simq.Trips{Thread: 1})
		do("Nack", d.Nack(), simq.Trips{})
		for n := range 5 {
			d, err = q.Take(ctx, chanmq.Any())
			do("Take of what is here", errors.Join(err, d.Ack()), simq.Trips{})
			if got := numberIn(d.Value); got != n+1 {
				t.Errorf("Take: %d, want %d", got, n+1)
			}
		}

		if err := m.put(q.ID(), 1, []byte(strings.Repeat("x", 5000))); err != nil {
			t.Fatal(err)
		}
		_, err = q.Receive(ctx, chanmq.Any())
		do("Receive of a message that does not fit", err, simq.Trips{Thread: 2})

		m.puts(t, q.ID(), 1, 1, 2, 3)
		r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(9))
		synctest.Wait()
		do("a Receiver", r.Close(), simq.Trips{Thread: 4})
		wantMessages(t, q, 1, 2, 3)

		m.puts(t, q.ID(), 1, 1, 2, 3, 4, 5)
		m.remote.Trips()
		c := q.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(5))
		for range 5 {
			d := <-c.C()
			_ = d.Ack()
		}
		synctest.Wait()
		do("a Consumer", c.Close(), simq.Trips{Thread: 2})
	})
}

// TestRemoteTooLarge: a message that can never fit is refused, not waited for.
func TestRemoteTooLarge(t *testing.T) {
	onRemote(t, 0, func(t *testing.T, m *machine) {
		q := m.private(t)
		if err := q.Set(chanmq.Attr{MaxBytes: 100}); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{101, 1 << 20} {
			value := make([]byte, size)
			wantError(t, "Send", q.Send(t.Context(), 1, value), chanmq.ErrTooLarge, fmt.Sprint(size))
			_, err := q.TrySend(1, value)
			wantError(t, "TrySend", err, chanmq.ErrTooLarge)
			s := q.Sender(t.Context())
			s.C() <- chanmq.Message[[]byte]{Type: 1, Value: value}
			<-s.Done()
			wantError(t, "a Sender", s.Err(), chanmq.ErrTooLarge)
			_ = s.Unsent()
		}
	})
}

// errAway and errUnsure are what a kernel of a cluster returns.
var (
	errAway   = fmt.Errorf("nats: no servers: %w", chanmq.ErrUnavailable)
	errUnsure = fmt.Errorf("nats: no answer: %w", chanmq.ErrUncertain)
)

// TestCtxEndsWhileTheMachineIsAway: a wait ends at once, with nothing done, and goes on when the
// machine is back if its ctx has not ended.
func TestCtxEndsWhileTheMachineIsAway(t *testing.T) {
	errWhy := errors.New("why")
	for name, call := range map[string]func(context.Context, *chanmq.Queue[[]byte]) error{
		"Send": func(ctx context.Context, q *chanmq.Queue[[]byte]) error { return q.Send(ctx, 1, text(2)) },
		"Receive": func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			_, err := q.Receive(ctx, chanmq.Any())
			return err
		},
		"Take": func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			d, err := q.Take(ctx, chanmq.Any())
			return errors.Join(err, d.Ack())
		},
		"a Receiver": func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			r := q.Receiver(ctx, chanmq.Any())
			<-r.C()
			go r.Close()
			<-r.Done()
			return r.Err()
		},
		"a Consumer": func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			c := q.Consumer(ctx, chanmq.Any())
			d := <-c.C()
			go c.Close()
			<-c.Done()
			return errors.Join(c.Err(), d.Ack())
		},
		"a Sender": func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			s := q.Sender(ctx)
			s.C() <- chanmq.Message[[]byte]{Type: 1, Value: text(2)}
			close(s.C())
			<-s.Done()
			_ = s.Unsent()
			return s.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			onRemote(t, 0, func(t *testing.T, m *machine) {
				q := m.private(t)
				m.puts(t, q.ID(), 1, 1)
				m.remote.GoAway(errAway)
				m.remote.Trips()
				ctx, cancel := context.WithCancelCause(t.Context())
				ended := make(chan error, 2)
				go func() { ended <- call(ctx, q) }()
				synctest.Wait()
				cancel(errWhy)
				synctest.Wait() // the clock stands still
				var op *chanmq.OpError
				select {
				case err := <-ended:
					if !errors.As(err, &op) || !errors.Is(err, context.Canceled) || !errors.Is(err, errWhy) {
						t.Errorf("%v", err)
					}
				default:
					t.Fatal("it waits on")
				}
				m.wantTrips(t, "it", simq.Trips{})

				go func() { ended <- call(t.Context(), q) }()
				synctest.Wait()
				select {
				case err := <-ended:
					t.Fatalf("it did not wait: %v", err)
				default:
				}
				m.remote.ComeBack()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				synctest.Wait()
				stat, err := q.Stat()
				if want := map[bool]int{true: 2}[strings.Contains(name, "Send")]; err != nil || stat.Messages != want {
					t.Errorf("the queue has %d messages, %v, want %d", stat.Messages, err, want)
				}
			})
		})
	}
}

// TestUnavailable: calls that do not wait fail while the machine is away, and say that nothing
// was done. So does Open, which leaves nothing behind.
func TestUnavailable(t *testing.T) {
	onRemote(t, 0, func(t *testing.T, m *machine) {
		q := m.private(t)
		m.remote.GoAway(errAway)
		defer m.remote.ComeBack()
		_, sendErr := q.TrySend(1, nil)
		_, _, receiveErr := q.TryReceive(chanmq.Any())
		_, statErr := q.Stat()
		_, openErr := chanmq.Open(1, m.option())
		_, createErr := chanmq.Create(1, 0o600, m.option(), chanmq.WithReopen())
		_, privateErr := chanmq.Private(0o600, m.option())
		_, attachErr := chanmq.Attach(q.ID(), m.option())
		for what, err := range map[string]error{
			"TrySend": sendErr, "TryReceive": receiveErr, "Stat": statErr, "Set": q.Set(chanmq.Attr{Perm: 0o640}), "Remove": q.Remove(),
			"Open": openErr, "Create": createErr, "Private": privateErr, "Attach": attachErr,
		} {
			var op *chanmq.OpError
			if wantError(t, what, err, chanmq.ErrUnavailable, "no servers"); !errors.As(err, &op) {
				t.Errorf("%s: %T, want an OpError", what, err)
			}
		}
		if n := m.remote.OpenHandles(); n != 1 {
			t.Errorf("%d kernels are not released, want that of the handle", n)
		}
	})
}

// TestUncertain: where nobody knows whether a message was sent, the error says so, and that
// ctx has ended, and why.
func TestUncertain(t *testing.T) {
	errWhy := errors.New("why")
	sends := map[string]func(context.Context, *chanmq.Queue[[]byte]) error{
		"Send": func(ctx context.Context, q *chanmq.Queue[[]byte]) error { return q.Send(ctx, 1, text(1)) },
		"SendAll": func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			sent, err := q.SendAll(ctx, 1, [][]byte{text(1), text(2)})
			if sent != 0 {
				err = fmt.Errorf("%d were sent: %w", sent, err)
			}
			return err
		},
		"a Sender": func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			s := q.Sender(ctx)
			s.C() <- chanmq.Message[[]byte]{Type: 1, Value: text(1)}
			<-s.Done()
			if unsent := s.Unsent(); len(unsent) != 1 || numberIn(unsent[0].Value) != 1 {
				return fmt.Errorf("Unsent: %v", unsent)
			}
			return s.Err()
		},
		"Forward": func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			return chanmq.Forward(ctx, q, from(ctx), chanmq.Any())
		},
	}
	for name, send := range sends {
		t.Run(name, func(t *testing.T) {
			onRemote(t, 0, func(t *testing.T, m *machine) {
				q, source := m.private(t), m.private(t)
				m.puts(t, source.ID(), 1, 1)
				m.remote.LoseAnswers(errUnsure)
				ctx, cancel := context.WithCancelCause(context.WithValue(t.Context(), fromKey{}, source))
				ended := make(chan error, 1)
				go func() { ended <- send(ctx, q) }()
				synctest.Wait()
				cancel(errWhy)
				err := <-ended
				var op *chanmq.OpError
				for _, want := range []error{chanmq.ErrUncertain, context.Canceled, errWhy} {
					if wantError(t, "it", err, want); !errors.As(err, &op) {
						t.Errorf("%T, want an OpError", err)
					}
				}
				if name == "Forward" {
					wantMessages(t, source, 1) // it may be in both
				}
				wantMessages(t, q, 1)
			})
		})
	}
}

type fromKey struct{}

// from returns the queue of a test's ctx that Forward takes from.
func from(ctx context.Context) *chanmq.Queue[[]byte] {
	return ctx.Value(fromKey{}).(*chanmq.Queue[[]byte])
}

// TestUncertainEnds: what a Sender is not certain of is in the error of whoever ends it.
func TestUncertainEnds(t *testing.T) {
	onRemote(t, 0, func(t *testing.T, m *machine) {
		q := m.private(t)
		m.remote.LoseAnswers(errUnsure)
		s := q.Sender(t.Context())
		s.C() <- chanmq.Message[[]byte]{Type: 1, Value: text(1)}
		synctest.Wait()
		wantError(t, "Close of the Sender", s.Close(), chanmq.ErrUncertain)

		s = q.Sender(t.Context())
		s.C() <- chanmq.Message[[]byte]{Type: 1, Value: text(2)}
		synctest.Wait()
		var undelivered *chanmq.UndeliveredError
		err := q.Close()
		if !errors.As(err, &undelivered) || len(undelivered.Messages) != 2 {
			t.Errorf("Close of the handle: %v", err)
		}
		wantError(t, "Close of the handle", err, chanmq.ErrUncertain)
	})
}

// TestRemoteRefuses what is of one machine, before it does anything.
func TestRemoteRefuses(t *testing.T) {
	onRemote(t, 0, func(t *testing.T, m *machine) {
		for name, opt := range map[string]chanmq.Option{
			"WithJournal": chanmq.WithJournal(""), "WithPacking": chanmq.WithPacking(), "WithLarge": chanmq.WithLarge(""),
		} {
			_, err := chanmq.Create(1, 0o600, m.option(), opt)
			wantError(t, name, err, errors.ErrUnsupported, name, "cluster")
			_, err = chanmq.Attach(1, opt, m.option())
			wantError(t, name, err, errors.ErrUnsupported, name, "cluster")
		}
		m.wantTrips(t, "it", simq.Trips{})
	})
}

// TestKernelIsReleased once, when the handle is closed, or could not be opened.
func TestKernelIsReleased(t *testing.T) {
	onRemote(t, 0, func(t *testing.T, m *machine) {
		for what, open := range map[string]func() (*chanmq.Queue[[]byte], error){
			"Open":   func() (*chanmq.Queue[[]byte], error) { return chanmq.Open(1, m.option()) },
			"Attach": func() (*chanmq.Queue[[]byte], error) { return chanmq.Attach(99, m.option()) },
			"Create": func() (*chanmq.Queue[[]byte], error) { return chanmq.Create(1, 0o1000, m.option()) },
		} {
			if _, err := open(); err == nil {
				t.Errorf("%s: no error", what)
			}
		}
		_, err := chanmq.Open(1, m.option())
		wantError(t, "Open", err, fs.ErrNotExist)
		q := must(chanmq.Private(0o600, m.option()))
		if n := m.remote.OpenHandles(); n != 1 {
			t.Errorf("%d kernels are not released, want that of the handle", n)
		}
		var all sync.WaitGroup
		for range 3 {
			all.Go(func() { _ = q.Close() })
			all.Go(func() { _ = q.Shutdown(t.Context()) })
		}
		all.Wait()
		if n := m.remote.OpenHandles(); n != 0 {
			t.Errorf("%d kernels are not released", n)
		}
	})
}

// wantLeft checks what the queue has for somebody else, and with which attempts, and takes it.
func (m *machine) wantLeft(t *testing.T, id int, attempt int, numbers ...int) {
	t.Helper()
	q := must(chanmq.Attach(id, inject.Kernel(m.Kernel.Remote(0, 0, 0)).(chanmq.Option)))
	defer q.Close()
	synctest.Wait()
	stat, err := q.Stat()
	if err != nil || stat.Messages != len(numbers) {
		t.Errorf("the queue has %d messages, %v, want %v", stat.Messages, err, numbers)
	}
	for _, n := range numbers {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		d, err := q.Take(ctx, chanmq.Any())
		cancel()
		if err != nil || numberIn(d.Value) != n || d.Attempt != attempt {
			t.Errorf("took %q, attempt %d, %v, want %d, attempt %d", d.Value, d.Attempt, err, n, attempt)
		}
		_ = d.Ack()
	}
}

// TestDeliveriesStayInTheQueue until Ack, and nobody else gets them meanwhile.
func TestDeliveriesStayInTheQueue(t *testing.T) {
	onRemote(t, 0, func(t *testing.T, m *machine) {
		q := m.private(t)
		m.puts(t, q.ID(), 1, 1, 2)
		d := must(q.Take(t.Context(), chanmq.Any()))
		if stat := must(q.Stat()); stat.Messages != 2 || d.Attempt != 1 {
			t.Errorf("%d messages, attempt %d", stat.Messages, d.Attempt)
		}
		if text, ok := m.take(q.ID()); !ok || numberIn(text) != 2 {
			t.Errorf("somebody else has %q", text)
		}
		_ = d.Nack()
		m.puts(t, q.ID(), 1, 3)
		if d = must(q.Take(t.Context(), chanmq.Any())); d.Attempt != 2 || numberIn(d.Value) != 1 {
			t.Errorf("after Nack: %q, attempt %d", d.Value, d.Attempt)
		}
		_ = d.Ack()
		_ = d.Nack()
		m.wantLeft(t, q.ID(), 1, 3)
	})
}

// TestDeliveriesOfADeadProcess: somebody else gets them, in their places, and Attempt counts.
func TestDeliveriesOfADeadProcess(t *testing.T) {
	onRemote(t, 2, func(t *testing.T, m *machine) {
		q := m.private(t)
		m.puts(t, q.ID(), 1, 1, 2, 3, 4, 5, 6)
		for range 3 {
			must(q.Take(t.Context(), chanmq.Any()))
		}
		m.remote.Kill()
		var blamed []int
		other := must(chanmq.Attach(q.ID(), inject.Kernel(m.Kernel.Remote(0, 0, 4)).(chanmq.Option)))
		defer other.Close()
		c := other.Consumer(t.Context(), chanmq.Any(), chanmq.WithInFlight(9), chanmq.WithMaxAttempts(2, func(d chanmq.Delivery[[]byte]) {
			t.Errorf("%q is given up after the first death", d.Value)
		}))
		for n := range 6 {
			d := <-c.C()
			want := 1
			if n < 3 { // the first Take has leased two ahead
				want = 2
			}
			if d.Attempt != want || numberIn(d.Value) != n+1 {
				t.Errorf("%q, attempt %d, want %d, attempt %d", d.Value, d.Attempt, n+1, want)
			}
			if want == 2 {
				blamed = append(blamed, n)
				synctest.Wait()
				if len(c.C()) > 0 {
					t.Errorf("%d are in flight beside one that may have ended a process", len(c.C()))
				}
			}
			_ = d.Ack()
		}
		if len(blamed) != 3 {
			t.Errorf("%v had been leased", blamed)
		}
	})
}

// TestEndOfAHandleWithLeases: what the handle holds is for the others in its place, even if
// the queue is full. What the program has stays the program's, also when the kernel is
// released.
func TestEndOfAHandleWithLeases(t *testing.T) {
	for name, end := range map[string]func(context.Context, *chanmq.Queue[[]byte]) error{
		"Close":    func(_ context.Context, q *chanmq.Queue[[]byte]) error { return q.Close() },
		"Shutdown": func(ctx context.Context, q *chanmq.Queue[[]byte]) error { return q.Shutdown(ctx) },
		"Shutdown that is cut short": func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			ctx, cancel := context.WithTimeout(ctx, time.Second)
			defer cancel()
			err := q.Shutdown(ctx)
			if !errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("it was not cut short: %w", err)
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			onRemote(t, 2, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithCounters())
				m.puts(t, q.ID(), 1, 1, 2, 3, 4, 5, 6, 7, 8)
				if err := q.Set(chanmq.Attr{MaxBytes: 8}); err != nil {
					t.Fatal(err)
				}
				var held []chanmq.Delivery[[]byte]
				for range 4 {
					held = append(held, must(q.Take(t.Context(), chanmq.Any())))
				}
				_ = held[2].Nack()
				_ = held[0].Nack()
				if name == "Shutdown" { // which waits for the others
					_ = held[1].Ack()
					_ = held[3].Ack()
				} else {
					c := q.Consumer(t.Context(), chanmq.Any(), chanmq.WithBuffer(1), chanmq.WithInFlight(3))
					synctest.Wait()
					defer func() {
						if _, open := <-c.C(); open {
							t.Error("C has something after Close")
						}
					}()
				}
				if err := end(t.Context(), q); err != nil {
					t.Errorf("%v", err)
				}
				counted := q.Counters()
				if name == "Shutdown" {
					if counted.Returned != 2 {
						t.Errorf("%d are counted as returned, want 2", counted.Returned)
					}
					m.wantQueue(t, q.ID(), 1, 3, 5, 6, 7, 8)
					return
				}
				if counted.InFlight != 2 {
					t.Errorf("%d are in flight, want 2", counted.InFlight)
				}
				if err := held[1].Ack(); err != nil {
					t.Errorf("Ack after Close: %v", err)
				}
				if err := held[3].Nack(); err != nil {
					t.Errorf("Nack after Close: %v", err)
				}
				m.wantQueue(t, q.ID(), 1, 3, 4, 5, 6, 7, 8)
			})
		})
	}
}

// wantQueue checks what the queue has for everybody, and takes it.
func (m *machine) wantQueue(t *testing.T, id int, numbers ...int) {
	t.Helper()
	var got []int
	for {
		text, ok := m.take(id)
		if !ok {
			break
		}
		got = append(got, numberIn(text))
	}
	if !slices.Equal(got, numbers) {
		t.Errorf("the queue has %v, want %v", got, numbers)
	}
	if stat := must(m.peer.Stat(id)); stat.Messages != 0 {
		t.Errorf("%d messages are leased still", stat.Messages)
	}
}

// TestLeasesEndWithTheQueue: what the handle holds of a queue that is removed is in nobody's
// place any more, and comes back in the error, as without leases.
func TestLeasesEndWithTheQueue(t *testing.T) {
	for name, c := range map[string]struct {
		opts   []chanmq.Option
		remove func(*machine, *chanmq.Queue[[]byte]) error
	}{
		"WithRemoveOnClose": {[]chanmq.Option{chanmq.WithRemoveOnClose()}, func(*machine, *chanmq.Queue[[]byte]) error { return nil }},
		"Remove":            {nil, func(_ *machine, q *chanmq.Queue[[]byte]) error { return q.Remove() }},
		"by somebody else": {nil, func(m *machine, q *chanmq.Queue[[]byte]) error {
			err := m.peer.Remove(q.ID())
			_, _ = q.Receive(context.Background(), chanmq.OfType(2)) // notices it
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			onRemote(t, 0, func(t *testing.T, m *machine) {
				q := m.private(t, c.opts...)
				m.puts(t, q.ID(), 1, 1)
				d := must(q.Take(t.Context(), chanmq.Any()))
				_ = d.Nack()
				if err := c.remove(m, q); err != nil {
					t.Fatal(err)
				}
				var undelivered *chanmq.UndeliveredError
				if err := q.Close(); !errors.As(err, &undelivered) || len(undelivered.Messages) != 1 {
					t.Errorf("Close: %v, want the message", err)
				}
			})
		})
	}
}

// TestLeaseOfAQueueThatWasReopened: the message goes to the queue that there is now.
func TestLeaseOfAQueueThatWasReopened(t *testing.T) {
	onRemote(t, 0, func(t *testing.T, m *machine) {
		q := must(chanmq.Create(7, 0o600, m.option(), chanmq.WithReopen()))
		m.puts(t, q.ID(), 1, 1, 2)
		d := must(q.Take(t.Context(), chanmq.Any()))
		late := must(q.Take(t.Context(), chanmq.Any()))
		_ = d.Nack()
		if err := m.peer.Remove(q.ID()); err != nil {
			t.Fatal(err)
		}
		if err := q.Send(t.Context(), 2, text(3)); err != nil { // which creates it again
			t.Fatal(err)
		}
		id := q.ID()
		if err := q.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := late.Nack(); err != nil {
			t.Errorf("Nack after Close: %v", err)
		}
		m.wantQueue(t, id, 3, 1, 2)
	})
}

// TestPlainReceivesTakeWhatWasLeased: a receive that needs no Ack takes a delivery that was
// given back out of the queue, and it is the handle's then.
func TestPlainReceivesTakeWhatWasLeased(t *testing.T) {
	for name, receive := range map[string]func(context.Context, *chanmq.Queue[[]byte]) []byte{
		"Receive": func(ctx context.Context, q *chanmq.Queue[[]byte]) []byte {
			return must(q.Receive(ctx, chanmq.Any())).Value
		},
		"TryReceive": func(_ context.Context, q *chanmq.Queue[[]byte]) []byte {
			m, _, err := q.TryReceive(chanmq.Any())
			return must(m, err).Value
		},
		"ReceiveBatch": func(ctx context.Context, q *chanmq.Queue[[]byte]) []byte {
			into := make([]chanmq.Message[[]byte], 2)
			must(q.ReceiveBatch(ctx, chanmq.Any(), into))
			return into[0].Value
		},
		"a Receiver": func(ctx context.Context, q *chanmq.Queue[[]byte]) []byte {
			r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(1))
			defer r.Close()
			return (<-r.C()).Value
		},
		"a panic": func(ctx context.Context, q *chanmq.Queue[[]byte]) []byte {
			func() {
				defer func() { _ = recover() }()
				_, _ = chanmq.As(q, codec.Func(
					func(dst []byte, _ int) ([]byte, error) { return dst, nil },
					func([]byte, *int) error { panic("decode") },
				)).Receive(ctx, chanmq.Any())
			}()
			return must(q.Take(ctx, chanmq.Any())).Value
		},
	} {
		t.Run(name, func(t *testing.T) {
			onRemote(t, 0, func(t *testing.T, m *machine) {
				q := m.private(t)
				m.puts(t, q.ID(), 1, 1)
				_ = must(q.Take(t.Context(), chanmq.Any())).Nack()
				if got := receive(t.Context(), q); numberIn(got) != 1 {
					t.Errorf("received %q, want 1", got)
				}
				if stat := must(q.Stat()); stat.Messages != 0 {
					t.Errorf("%d messages are in the queue still", stat.Messages)
				}
			})
		})
	}
}

// TestDecodeErrorsEndLeases: a message that does not decode is in the error, and nowhere else.
func TestDecodeErrorsEndLeases(t *testing.T) {
	onRemote(t, 0, func(t *testing.T, m *machine) {
		q := m.private(t)
		numbers := chanmq.As(q, codec.JSON[int]())
		var undecoded *chanmq.DecodeError
		for what, take := range map[string]func() error{
			"Take": func() error { _, err := numbers.Take(t.Context(), chanmq.Any()); return err },
			"a Consumer": func() error {
				c := numbers.Consumer(t.Context(), chanmq.Any())
				<-c.Done()
				return c.Err()
			},
		} {
			if err := m.put(q.ID(), 1, []byte("x")); err != nil {
				t.Fatal(err)
			}
			if err := take(); !errors.As(err, &undecoded) {
				t.Errorf("%s: %v", what, err)
			}
			if stat := must(q.Stat()); stat.Messages != 0 {
				t.Errorf("%s: %d messages are in the queue still", what, stat.Messages)
			}
		}
	})
}

// TestConsumersDoNotWaitBehindReceivers: what was leased ahead for a Consumer is not there for a
// Receiver with the same selector, which may wait for long.
func TestConsumersDoNotWaitBehindReceivers(t *testing.T) {
	for _, s := range []chanmq.Selector{chanmq.Any(), chanmq.OfType(1)} {
		t.Run(s.String(), func(t *testing.T) {
			onRemote(t, 4, func(t *testing.T, m *machine) {
				q := m.private(t)
				m.puts(t, q.ID(), 1, 0, 1, 2)
				c := q.Consumer(t.Context(), s, chanmq.WithInFlight(1))
				d := <-c.C()
				r := q.Receiver(t.Context(), s)
				synctest.Wait() // it waits in the kernel
				for n := range 2 {
					_ = d.Ack()
					synctest.Wait()
					select {
					case d = <-c.C():
						if got := numberIn(d.Value); got != n+1 {
							t.Errorf("C: %d, want %d", got, n+1)
						}
					default:
						t.Fatal("the Consumer waits")
					}
				}
				_ = d.Nack() // for either
				select {
				case <-r.C():
				case d = <-c.C():
				}
			})
		})
	}
}

// TestStormOfLeases: programs on several handles take, acknowledge, give back, are cancelled and
// start again. Each message is acknowledged once.
func TestStormOfLeases(t *testing.T) {
	const messages, handles, callers = 300, 3, 4
	k := simq.New()
	peer := k.Process(0, 0)
	id := must(peer.Get(0, 0o600))
	var acked [messages]atomic.Int64
	var left atomic.Int64
	left.Store(messages)
	done, allDone := context.WithCancel(ctxWithin(t))
	defer allDone()
	deal := func(d chanmq.Delivery[[]byte]) {
		if rand.N(10) == 0 {
			time.Sleep(rand.N(time.Millisecond)) // the handle may be closed meanwhile
		}
		if rand.N(3) == 0 {
			_ = d.Nack()
			return
		}
		n := numberOf(d.Value)
		if err := d.Ack(); err != nil {
			t.Errorf("Ack: %v", err)
		}
		if acked[n].Add(1) != 1 {
			t.Errorf("message %d is acknowledged again", n)
		}
		if left.Add(-1) == 0 {
			allDone()
		}
	}
	var all sync.WaitGroup
	for h := range handles {
		all.Go(func() {
			remote := k.Remote(0, 0, h)
			for done.Err() == nil {
				q := must(chanmq.Attach(id, inject.Kernel(remote).(chanmq.Option)))
				life, end := context.WithTimeout(done, rand.N(20*time.Millisecond))
				var calls sync.WaitGroup
				for range callers {
					calls.Go(func() {
						for life.Err() == nil {
							ctx, cancel := context.WithTimeout(life, rand.N(time.Millisecond))
							if d, err := q.Take(ctx, chanmq.UpTo(2)); err == nil {
								deal(d)
							}
							cancel()
						}
					})
				}
				c := q.Consumer(life, chanmq.Any(), chanmq.WithInFlight(1+rand.N(5)))
				calls.Go(func() {
					for d := range c.C() {
						deal(d)
					}
				})
				if rand.N(2) == 0 {
					calls.Wait()
				}
				if err := q.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				end()
				calls.Wait()
			}
			if n := remote.OpenHandles(); n != 0 {
				t.Errorf("%d kernels are not released", n)
			}
		})
	}
	for n := range messages {
		if err := peer.Send(id, sysvtest.Message(1+n%3, string(number(n)))); err != nil {
			t.Fatal(err)
		}
	}
	all.Wait()
	if n := left.Load(); n != 0 {
		t.Errorf("%d messages are not acknowledged", n)
	}
	if stat := must(peer.Stat(id)); stat.Messages != 0 {
		t.Errorf("%d messages are in the queue", stat.Messages)
	}
}
