package chanmqtest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, nil)) }

// fake is a test inside a test: what it would say, and whether it would fail.
type fake struct {
	testing.TB // for the rest
	cleanups   []func()
	said       []string
	skipped    bool
}

// run runs a test to its end, with its cleanups, in a goroutine of its own as
// package testing does. It returns what it said, "" if it passed.
func run(t *testing.T, test func(testing.TB)) string {
	t.Helper()
	f := &fake{TB: t}
	var wg sync.WaitGroup
	wg.Go(func() {
		defer func() {
			for len(f.cleanups) > 0 {
				last := f.cleanups[len(f.cleanups)-1]
				f.cleanups = f.cleanups[:len(f.cleanups)-1]
				last()
			}
		}()
		test(f)
	})
	wg.Wait()
	if f.skipped {
		t.Skip(strings.Join(f.said, "\n"))
	}
	return strings.Join(f.said, "\n")
}

func (f *fake) Helper()          {}
func (f *fake) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }
func (f *fake) Errorf(format string, args ...any) {
	f.said = append(f.said, fmt.Sprintf(format, args...))
}
func (f *fake) Skipf(format string, args ...any) {
	f.Errorf(format, args...)
	f.skipped = true
	panic(f) // nothing of this test can go on
}

type newQueue func(testing.TB, ...chanmq.Option) *chanmq.Queue[[]byte]

// onBothKernels runs a test with queues of New and of Kernel.New.
func onBothKernels(t *testing.T, test func(*testing.T, newQueue)) {
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		must(t, err)
		must(t, q.Close())
		test(t, chanmqtest.New)
	})
	t.Run("simulated", func(t *testing.T) {
		t.Parallel()
		test(t, chanmqtest.Simulated(t).New)
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func send(t testing.TB, q *chanmq.Queue[[]byte], types ...int64) {
	t.Helper()
	for _, typ := range types {
		must(t, q.Send(t.Context(), typ, []byte("text")))
	}
}

func TestLeftover(t *testing.T) {
	for _, c := range []struct {
		name string
		test func(testing.TB, newQueue)
		says string
	}{
		{"nothing", func(t testing.TB, newQueue newQueue) {
			q := newQueue(t)
			send(t, q, 1, 2)
			for range 2 {
				_, err := q.Receive(t.Context(), chanmq.Any())
				must(t, err)
			}
		}, ""},
		{"one message", func(t testing.TB, newQueue newQueue) {
			send(t, newQueue(t), 5)
		}, "1 message: 1 of type 5"},
		{"several types", func(t testing.TB, newQueue newQueue) {
			send(t, newQueue(t), 7, 1, 1)
		}, "3 messages: 2 of type 1, 1 of type 7"},
		{"in a Receiver", func(t testing.TB, newQueue newQueue) {
			q := newQueue(t)
			send(t, q, 1, 2, 3)
			r := q.Receiver(context.Background(), chanmq.Any(), chanmq.WithBuffer(1))
			<-r.C()
		}, "2 messages: 1 of type 2, 1 of type 3"},
		{"in a Sender", func(t testing.TB, newQueue newQueue) {
			q := newQueue(t)
			for sent := true; sent; {
				var err error
				sent, err = q.TrySend(1, make([]byte, 4096))
				must(t, err)
			}
			s := q.Sender(context.Background(), chanmq.WithBuffer(1))
			s.C() <- chanmq.Message[[]byte]{Type: 9, Value: make([]byte, 4096)}
		}, "1 of type 9"},
		{"of a queue that goes with its handle", func(t testing.TB, newQueue newQueue) {
			send(t, newQueue(t, chanmq.WithRemoveOnClose()), 4)
		}, "1 message: 1 of type 4"},
		{"in a queue that the test closed", func(t testing.TB, newQueue newQueue) {
			q := newQueue(t)
			send(t, q, 3)
			must(t, q.Close())
		}, "1 message: 1 of type 3"},
		{"in a queue that the test removed", func(t testing.TB, newQueue newQueue) {
			q := newQueue(t)
			send(t, q, 3)
			must(t, q.Remove())
		}, ""},
		{"that is allowed", func(t testing.TB, newQueue newQueue) {
			q := newQueue(t)
			chanmqtest.AllowLeftover(q)
			send(t, q, 1, 2)
			r := q.Receiver(context.Background(), chanmq.Any(), chanmq.WithBuffer(1))
			<-r.C()
			send(t, q, 3)
		}, ""},
		{"of one queue of two", func(t testing.TB, newQueue newQueue) {
			a, b := newQueue(t), newQueue(t)
			chanmqtest.AllowLeftover(a)
			send(t, a, 1)
			send(t, b, 2)
		}, "1 message: 1 of type 2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBothKernels(t, func(t *testing.T, newQueue newQueue) {
				said := run(t, func(t testing.TB) { c.test(t, newQueue) })
				if c.says == "" && said != "" || !strings.Contains(said, c.says) {
					t.Errorf("the test said %q, want %q", said, c.says)
				}
			})
		})
	}
}

func TestTheQueueIsRemoved(t *testing.T) {
	onBothKernels(t, func(t *testing.T, newQueue newQueue) {
		var q *chanmq.Queue[[]byte]
		if said := run(t, func(t testing.TB) { q = newQueue(t) }); said != "" {
			t.Error(said)
		}
		if _, err := q.Stat(); !errors.Is(err, chanmq.ErrClosed) && !errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("Stat: %v", err)
		}
	})
}

// The kernel has ways of its own to be asked, as far as List goes.
func TestNewLeavesNoQueue(t *testing.T) {
	var id int
	run(t, func(t testing.TB) {
		q := chanmqtest.New(t)
		send(t, q, 1)
		id = q.ID()
	})
	stats, err := chanmq.List()
	must(t, err)
	for _, stat := range stats {
		if stat.ID == id {
			t.Errorf("msqid %d is still there", id)
		}
	}
}

// leak is a test that leaves goroutines in another handle, which stop ends.
func leak(leave func(ctx context.Context, q *chanmq.Queue[[]byte])) (test func(testing.TB, *chanmqtest.Kernel), stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var q *chanmq.Queue[[]byte]
	test = func(t testing.TB, k *chanmqtest.Kernel) {
		k.New(t)
		var err error
		q, err = chanmq.Private(0o600, k.Option())
		must(t, err)
		leave(ctx, q)
		synctest.Wait()
	}
	return test, func() { cancel(); _ = q.Close() }
}

func TestGoroutinesLeft(t *testing.T) {
	receive := func(ctx context.Context, q *chanmq.Queue[[]byte]) {
		_, _ = q.Receive(ctx, chanmq.Any())
	}
	for _, c := range []struct {
		name  string
		leave func(context.Context, *chanmq.Queue[[]byte])
		says  string
	}{
		{"a Receiver", func(ctx context.Context, q *chanmq.Queue[[]byte]) { q.Receiver(ctx, chanmq.Any()) }, "(*Receiver"},
		{"a Sender", func(ctx context.Context, q *chanmq.Queue[[]byte]) { q.Sender(ctx) }, "(*Sender"},
		{"a call", func(ctx context.Context, q *chanmq.Queue[[]byte]) { go receive(ctx, q) }, "Receive"},
		{"a call of a goroutine's goroutine", func(ctx context.Context, q *chanmq.Queue[[]byte]) {
			go func() {
				go receive(ctx, q)
				<-ctx.Done()
			}()
		}, "Receive"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { // where patience costs no time
				test, stop := leak(c.leave)
				defer stop()
				k := chanmqtest.Simulated(t)
				said := run(t, func(t testing.TB) { test(t, k) })
				if !strings.Contains(said, "goroutines left") || !strings.Contains(said, c.says) {
					t.Errorf("the test said %q", said)
				}
			})
		})
	}
}

func TestGoroutinesThatAreNotTheTests(t *testing.T) {
	k := chanmqtest.Simulated(t)
	before := k.New(t)
	before.Receiver(t.Context(), chanmq.Any())
	began, ended := make(chan struct{}), make(chan struct{})
	go func() { // as a test that runs in parallel does
		<-began
		k.New(t).Receiver(t.Context(), chanmq.Any())
		close(ended)
	}()
	said := run(t, func(t testing.TB) {
		k.New(t).Receiver(context.Background(), chanmq.Any()) // ended by Close
		close(began)
		<-ended
		_, _, err := before.TryReceive(chanmq.Any())
		must(t, err)
	})
	if said != "" {
		t.Error(said)
	}
}

func TestGoroutinesOfSeveralQueues(t *testing.T) {
	onBothKernels(t, func(t *testing.T, newQueue newQueue) {
		said := run(t, func(t testing.TB) {
			for range 3 {
				// The Receivers of the first live while the last is closed.
				newQueue(t).Receiver(context.Background(), chanmq.Any())
			}
		})
		if said != "" {
			t.Error(said)
		}
	})
}

// open opens a queue of a key by a process of a user.
func open(t testing.TB, key chanmq.Key, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Create(key, 0o600, opts...)
	must(t, err)
	t.Cleanup(func() { must(t, q.Close()) })
	return q
}

func TestSimulatedProcesses(t *testing.T) {
	k := chanmqtest.Simulated(t)
	const key = 42
	alice := open(t, key, k.Process(500, 500))
	send(t, alice, 1)
	m, err := open(t, key, k.Process(0, 0)).Receive(t.Context(), chanmq.Any())
	must(t, err)
	if string(m.Value) != "text" {
		t.Errorf("received %q", m.Value)
	}
	if _, err := chanmq.Open(key, chanmq.WithOwner(501), k.Process(501, 501)); !errors.Is(err, os.ErrPermission) {
		t.Errorf("another user's queue, WithOwner: %v", err)
	}
	if _, err := chanmq.Open(key, chanmqtest.Simulated(t).Option()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the queue of another kernel: %v", err)
	}
	// The process of Option belongs to whom WithOwner expects.
	if uid := os.Geteuid(); uid >= 0 {
		open(t, key+1, k.Option(), chanmq.WithOwner(uid))
	}
}

func TestSimulatedFaults(t *testing.T) {
	k := chanmqtest.Simulated(t)
	q := k.New(t)
	send(t, q, 1)
	fault := errors.New("a fault")
	var calls []chanmqtest.Call
	k.Fail(func(c chanmqtest.Call) error {
		calls = append(calls, c)
		return fault
	})
	if _, _, err := q.TryReceive(chanmq.OfType(3)); !errors.Is(err, fault) {
		t.Errorf("TryReceive: %v", err)
	}
	if len(calls) != 1 || calls[0].Op != "Receive" || calls[0].ID != q.ID() || calls[0].Type != 3 || calls[0].Waits {
		t.Errorf("the calls: %+v", calls)
	}
	k.Fail(nil)
	if m, ok, err := q.TryReceive(chanmq.Any()); !ok || err != nil {
		t.Errorf("after the faults: %v, %v, %v", m, ok, err)
	}
	// What stays in place until the end must not disturb the end.
	k.Fail(func(chanmqtest.Call) error { return fault })
}

func TestSimulatedLimits(t *testing.T) {
	k := chanmqtest.Simulated(t)
	k.Limits(10, 20, 1)
	q := k.New(t)
	if err := q.Send(t.Context(), 1, make([]byte, 11)); !errors.Is(err, chanmq.ErrTooLarge) {
		t.Errorf("Send: %v", err)
	}
	stat, err := q.Stat()
	must(t, err)
	if stat.MaxBytes != 20 {
		t.Errorf("MaxBytes: %d", stat.MaxBytes)
	}
	if _, err := chanmq.Private(0o600, k.Option()); err == nil || !strings.Contains(err.Error(), "msgmni is 1") {
		t.Errorf("a second queue: %v", err)
	}
}

func TestSimulatedInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := chanmqtest.Simulated(t)
		q := k.New(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		if _, err := q.Receive(ctx, chanmq.Any()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Receive: %v", err)
		}
		if took := time.Since(start); took != time.Hour {
			t.Errorf("it took %v", took)
		}

		ended := make(chan error)
		go func() {
			_, err := q.Receive(t.Context(), chanmq.Any())
			ended <- err
		}()
		synctest.Wait()
		if n := k.Waiting(); n != 1 {
			t.Errorf("%d calls wait", n)
		}
		must(t, k.Remove(q.ID()))
		if err := <-ended; !errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("Receive: %v", err)
		}
	})
}
