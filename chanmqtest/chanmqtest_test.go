package chanmqtest_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, nil)) }

// fake is a test inside a test. It records its failures instead of reporting them.
type fake struct {
	testing.TB // for the other methods
	cleanups   []func()
	said       []string
	skipped    bool
}

// run runs a test to its end, with its cleanups, in a goroutine of its own as
// package testing does. It returns the text of its failures, "" if it passed.
func run(t *testing.T, test func(testing.TB)) string {
	t.Helper()
	f := &fake{TB: t}
	var wg sync.WaitGroup
	wg.Go(func() { f.run(test) })
	wg.Wait()
	if f.skipped {
		t.Skip(f.report())
	}
	return f.report()
}

func (f *fake) run(test func(testing.TB)) {
	defer func() {
		for len(f.cleanups) > 0 {
			last := f.cleanups[len(f.cleanups)-1]
			f.cleanups = f.cleanups[:len(f.cleanups)-1]
			last()
		}
	}()
	test(f)
}

func (f *fake) report() string { return strings.Join(f.said, "\n") }

func (f *fake) Helper()          {}
func (f *fake) Cleanup(c func()) { f.cleanups = append(f.cleanups, c) }
func (f *fake) Errorf(format string, args ...any) {
	f.said = append(f.said, fmt.Sprintf(format, args...))
}
func (f *fake) Skipf(format string, args ...any) {
	f.Errorf(format, args...)
	f.skipped = true
	runtime.Goexit() // as SkipNow of package testing does
}

type newQueue func(testing.TB, ...chanmq.Option) *chanmq.Queue[[]byte]

// kernel is what a test on either kernel uses.
type kernel struct {
	newQueue newQueue        // New or Kernel.New
	options  []chanmq.Option // open other queues on it
}

// onBothKernels runs a test on the real and on a simulated kernel.
func onBothKernels(t *testing.T, test func(*testing.T, kernel)) {
	t.Run("real", func(t *testing.T) {
		t.Parallel()
		q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		must(t, err)
		must(t, q.Close())
		test(t, kernel{newQueue: chanmqtest.New})
	})
	t.Run("simulated", func(t *testing.T) {
		t.Parallel()
		k := chanmqtest.Simulated(t)
		test(t, kernel{k.New, []chanmq.Option{k.Option()}})
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
			onBothKernels(t, func(t *testing.T, k kernel) {
				said := run(t, func(t testing.TB) { c.test(t, k.newQueue) })
				if c.says == "" && said != "" || !strings.Contains(said, c.says) {
					t.Errorf("the test said %q, want %q", said, c.says)
				}
			})
		})
	}
}

func TestTheQueueIsRemoved(t *testing.T) {
	onBothKernels(t, func(t *testing.T, k kernel) {
		var q *chanmq.Queue[[]byte]
		if said := run(t, func(t testing.TB) { q = k.newQueue(t) }); said != "" {
			t.Error(said)
		}
		if _, err := q.Stat(); !errors.Is(err, chanmq.ErrClosed) && !errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("Stat: %v", err)
		}
	})
}

// List asks the real kernel.
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

// leak returns a test that leaves goroutines in another handle, and stop, which ends
// them.
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
			synctest.Test(t, func(t *testing.T) { // where waiting costs no time
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
	onBothKernels(t, func(t *testing.T, k kernel) {
		said := run(t, func(t testing.TB) {
			for range 3 {
				// The Receivers of the first live while the last is closed.
				k.newQueue(t).Receiver(context.Background(), chanmq.Any())
			}
		})
		if said != "" {
			t.Error(said)
		}
	})
}

// beside opens a handle of a new queue, which is removed with it, for a test that
// may leave it open. It is closed when the outer test ends.
func (k kernel) beside(outer testing.TB) *chanmq.Queue[[]byte] {
	outer.Helper()
	opts := append(slices.Clip(k.options), chanmq.WithExclusive(), chanmq.WithRemoveOnClose())
	q, err := chanmq.Create(chanmq.Key(1+rand.N[int32](1<<30)), 0o600, opts...)
	must(outer, err)
	outer.Cleanup(func() { must(outer, q.Close()) })
	return q
}

func TestHandlesLeft(t *testing.T) {
	for _, c := range []struct {
		name string
		// test opens handles by open.
		test  func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte])
		fails bool
	}{
		{"idle", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			open()
		}, true},
		{"after a call", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			_, _, err := open().TryReceive(chanmq.Any())
			must(t, err)
		}, true},
		{"of a queue that the test removed", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			must(t, open().Remove())
		}, true},
		{"closed", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			must(t, open().Close())
		}, false},
		{"shut down through a view", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			must(t, chanmq.As(open(), codec.String()).Shutdown(t.Context()))
		}, false},
		{"one of two", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			closed := open()
			open()
			must(t, closed.Close())
		}, true},
		{"closed by Cleanup", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			q := open()
			t.Cleanup(func() { must(t, q.Close()) })
		}, false},
		{"closed by Cleanup between two queues", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			q := open()
			t.Cleanup(func() { must(t, q.Close()) })
			k.newQueue(t)
		}, false},
		{"opened before New, closed by Cleanup", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			q := open()
			t.Cleanup(func() { must(t, q.Close()) })
			k.newQueue(t)
		}, false},
		{"of a fake test in the test's goroutine", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			f := &fake{TB: t}
			f.run(func(inner testing.TB) {
				k.newQueue(inner)
				open()
			})
			if !strings.Contains(f.report(), "handles not closed, 1:") {
				t.Errorf("the fake test said %q", f.report())
			}
		}, false},
		{"opened by a goroutine", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			var wg sync.WaitGroup
			wg.Go(func() { open() })
			wg.Wait()
		}, true},
		{"opened by a goroutine's goroutine", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			var wg sync.WaitGroup
			wg.Go(func() {
				var inner sync.WaitGroup
				inner.Go(func() { open() })
				inner.Wait()
			})
			wg.Wait()
		}, true},
		{"closed by a goroutine after the test", func(t testing.TB, k kernel, open func() *chanmq.Queue[[]byte]) {
			k.newQueue(t)
			go func() {
				q := open()
				time.Sleep(time.Second)
				_ = q.Close()
			}()
			synctest.Wait()
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			onBothKernels(t, func(t *testing.T, k kernel) {
				synctest.Test(t, func(t *testing.T) { // where waiting costs no time
					var last *chanmq.Queue[[]byte]
					said := run(t, func(inner testing.TB) {
						c.test(inner, k, func() *chanmq.Queue[[]byte] {
							last = k.beside(t)
							return last
						})
					})
					if !c.fails {
						if said != "" {
							t.Errorf("the test said %q", said)
						}
						return
					}
					for _, want := range []string{
						"handles not closed, 1:",
						fmt.Sprintf("msqid %d, key %v, opened by", last.ID(), last.Key()),
						"chanmqtest_test.kernel.beside\n", "chanmqtest_test.go:",
					} {
						if !strings.Contains(said, want) {
							t.Errorf("the test said %q, want %q", said, want)
						}
					}
				})
			})
		})
	}
}

func TestHandlesThatAreNotTheTests(t *testing.T) {
	onBothKernels(t, func(t *testing.T, k kernel) {
		synctest.Test(t, func(t *testing.T) {
			k.newQueue(t)
			opened, ended := make(chan struct{}), make(chan struct{})
			var parallel string
			var wg sync.WaitGroup
			wg.Go(func() {
				parallel = run(t, func(inner testing.TB) {
					k.newQueue(inner)
					k.beside(t)
					close(opened)
					<-ended
				})
			})
			said := run(t, func(inner testing.TB) {
				k.newQueue(inner)
				<-opened
				k.newQueue(t) // closed when the outer test ends
			})
			close(ended)
			wg.Wait()
			if said != "" {
				t.Errorf("the test that left nothing said %q", said)
			}
			if !strings.Contains(parallel, "handles not closed, 1:") {
				t.Errorf("the test that left a handle said %q", parallel)
			}
		})
	})
}

// open opens a queue of a key by a process of a user, and closes it when the test
// ends.
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
	// The process of Option belongs to the user who runs the test.
	if uid := os.Geteuid(); uid >= 0 {
		open(t, key+1, k.Option(), chanmq.WithOwner(uid))
	}
}

// Errors name the user of the simulated process, not the one who runs the test.
func TestSimulatedProcessesInErrors(t *testing.T) {
	k := chanmqtest.Simulated(t)
	const key = 42
	open(t, key, k.Process(0, 0))
	q, err := chanmq.Open(key, k.Process(500, 500))
	must(t, err)
	t.Cleanup(func() { must(t, q.Close()) })
	for _, c := range []struct {
		name string
		call func() error
		says string
	}{
		{"Send", func() error { return q.Send(t.Context(), 1, nil) }, "this process has uid 500)"},
		{"TryReceive", func() error { _, _, err := q.TryReceive(chanmq.Any()); return err }, "this process has uid 500)"},
		{"Remove", func() error { return q.Remove() }, "this process has uid 500)"},
		{"Create, WithOwner", func() error {
			_, err := chanmq.Create(key+1, 0o600, chanmq.WithOwner(501), k.Process(500, 500))
			return err
		}, "uid 500 creates, only 501"},
	} {
		if err := c.call(); !errors.Is(err, os.ErrPermission) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", c.name, err, c.says)
		}
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
	// A fault that stays until the end of the test must not disturb its cleanups.
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
