//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

// forward starts Forward, and returns where its error comes.
func forward(ctx context.Context, to, from *chanmq.Queue[[]byte], s chanmq.Selector) <-chan error {
	ended := make(chan error, 1)
	go func() { ended <- chanmq.Forward(ctx, to, from, s) }()
	return ended
}

// wantForwardError checks what every error of Forward is.
func wantForwardError(t testing.TB, err, is error, failed *chanmq.Queue[[]byte], words ...string) {
	t.Helper()
	wantError(t, "Forward", err, is, append(words, "chanmq: forward")...)
	var op *chanmq.OpError
	if !errors.As(err, &op) || op.Op != "forward" || op.ID != failed.ID() {
		t.Errorf("%v (%#v) is not an *OpError of forward that names msqid %d", err, err, failed.ID())
	}
}

func TestForwardMovesMessagesByteForByte(t *testing.T) {
	kernel := chanmqtest.Simulated(t)
	simulated := func(opts ...chanmq.Option) *chanmq.Queue[[]byte] {
		q, err := chanmq.Private(0o600, append(opts, kernel.Option())...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { q.Close() })
		return q
	}
	for name, queues := range map[string][2]*chanmq.Queue[[]byte]{
		"on the host":              {newQueue(t), newQueue(t)},
		"polling":                  {newQueue(t, chanmq.WithMaxParked(0)), newQueue(t, chanmq.WithMaxParked(0))},
		"simulated":                {simulated(), simulated()},
		"from the host to another": {newQueue(t), simulated()},
		"from another to the host": {simulated(), newQueue(t)},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := queues[0], queues[1]
			ctx, cancel := context.WithCancel(ctxWithin(t))
			defer cancel()
			ended := forward(ctx, to, from, chanmq.Any())
			sizes := []int{0, 1, 7, 255, 256, 257, 1000, 8192, 3, 0}
			texts := make([][]byte, len(sizes))
			for i, size := range sizes {
				texts[i] = make([]byte, size)
				for j := range texts[i] {
					texts[i][j] = byte(rand.Int())
				}
			}
			background(t, func() {
				for i, text := range texts {
					if err := from.Send(ctx, int64(1+i*i), text); err != nil {
						t.Error(err)
					}
				}
			})
			for i, text := range texts {
				m, err := to.Receive(ctxWithin(t), chanmq.Any())
				if err != nil {
					t.Fatal(err)
				}
				if m.Type != int64(1+i*i) || !bytes.Equal(m.Value, text) {
					t.Errorf("message %d came as type %d, %d bytes, want %d, %d", i, m.Type, len(m.Value), 1+i*i, len(text))
				}
			}
			cancel()
			wantForwardError(t, <-ended, context.Canceled, from)
			wantNone(t, from)
			wantNone(t, to)
		})
	}
}

func TestForwardLeavesWhatItDoesNotSelect(t *testing.T) {
	from, to := newQueue(t), newQueue(t)
	for n := range 20 {
		sendNumbers(t, from, int64(1+n%2), n, n+1)
	}
	ctx, cancel := context.WithCancelCause(ctxWithin(t))
	ended := forward(ctx, to, from, chanmq.OfType(2))
	for n := 1; n < 20; n += 2 {
		wantNumbers(t, to, chanmq.OfType(2), n, n+1)
	}
	errWhy := errors.New("because")
	cancel(errWhy)
	err := <-ended
	wantForwardError(t, err, context.Canceled, from, "because")
	wantForwardError(t, err, errWhy, from)
	wantNone(t, to)
	for n := 0; n < 20; n += 2 {
		wantNumbers(t, from, chanmq.Any(), n, n+1)
	}
	wantNone(t, from)
}

// TestForwardThatCannotStart takes nothing.
func TestForwardThatCannotStart(t *testing.T) {
	open, other, closed := newKeyed(t), newQueue(t), newQueue(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	var zero chanmq.Queue[[]byte]
	sendNumbers(t, open, 1, 0, 1)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	byKey, err := chanmq.Open(open.Key())
	if err != nil {
		t.Fatal(err)
	}
	adopt(t, byKey)
	for name, c := range map[string]struct {
		ctx      context.Context
		to, from *chanmq.Queue[[]byte]
		s        chanmq.Selector
		failed   *chanmq.Queue[[]byte]
		is       error
		words    []string
	}{
		"from closed":          {nil, open, closed, chanmq.Any(), closed, chanmq.ErrClosed, nil},
		"to closed":            {nil, closed, open, chanmq.Any(), closed, chanmq.ErrClosed, nil},
		"to itself, closed":    {nil, closed, closed, chanmq.Any(), closed, chanmq.ErrClosed, nil},
		"from zero":            {nil, open, &zero, chanmq.Any(), &zero, chanmq.ErrClosed, []string{"zero value"}},
		"to zero":              {nil, &zero, open, chanmq.Any(), &zero, chanmq.ErrClosed, []string{"zero value"}},
		"type 0":               {nil, other, open, chanmq.OfType(0), open, chanmq.ErrInvalidType, []string{"OfType(0)"}},
		"to itself":            {nil, open, open, chanmq.Any(), open, nil, []string{"itself"}},
		"to another handle":    {nil, attach(t, open.ID()), open, chanmq.Any(), open, nil, []string{"itself"}},
		"to the same key":      {nil, byKey, open, chanmq.Any(), open, nil, []string{"itself"}},
		"ctx ended":            {ended, other, open, chanmq.Any(), open, context.Canceled, nil},
		"ctx ended and closed": {ended, closed, open, chanmq.Any(), closed, chanmq.ErrClosed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := c.ctx
			if ctx == nil {
				ctx = ctxWithin(t)
			}
			wantForwardError(t, chanmq.Forward(ctx, c.to, c.from, c.s), c.is, c.failed, c.words...)
		})
	}
	wantNumbers(t, open, chanmq.Any(), 0, 1)
	wantNone(t, open)
}

// TestForwardToWhatWouldBeItself: a handle that has lost its queue would find, under
// WithReopen, the one that the other handle is for.
func TestForwardToWhatWouldBeItself(t *testing.T) {
	lost := openReopening(t)
	removeElsewhere(t, lost.ID())
	createElsewhere(t, lost.Key())
	found, err := chanmq.Open(lost.Key())
	if err != nil {
		t.Fatal(err)
	}
	adopt(t, found)
	wantForwardError(t, chanmq.Forward(ctxWithin(t), found, lost, chanmq.Any()), nil, lost, "itself")
	wantForwardError(t, chanmq.Forward(ctxWithin(t), lost, found, chanmq.Any()), nil, found, "itself")
}

// TestForwardOnOneMachine: several processes of a simulated machine have the same
// queues, and another machine's have the same msqids.
func TestForwardOnOneMachine(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t)
		again, err := chanmq.Attach(q.ID(), inject.Kernel(m.peer).(chanmq.Option))
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		wantForwardError(t, chanmq.Forward(t.Context(), again, q, chanmq.Any()), nil, q, "itself")

		elsewhere, err := chanmq.Private(0o600, chanmqtest.Simulated(t).Option())
		if err != nil {
			t.Fatal(err)
		}
		if elsewhere.ID() != q.ID() {
			t.Fatalf("msqids %d and %d, want the same", elsewhere.ID(), q.ID())
		}
		m.puts(t, q.ID(), 1, 0)
		ctx, cancel := context.WithCancel(t.Context())
		ended := forward(ctx, elsewhere, q, chanmq.Any())
		synctest.Wait()
		cancel()
		wantForwardError(t, <-ended, context.Canceled, q)
		wantMessages(t, elsewhere, 0)
		if err := elsewhere.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestForwardHandsBack lets Forward fail when it holds a message, in all the ways
// there are. What it had taken comes first again, and the error names the queue.
func TestForwardHandsBack(t *testing.T) {
	for name, c := range map[string]struct {
		full bool
		fail func(t *testing.T, m *machine, to, from *chanmq.Queue[[]byte], cancel func())
		to   bool // to is to blame, not from
		is   error
	}{
		"ctx":         {true, func(_ *testing.T, _ *machine, _, _ *chanmq.Queue[[]byte], cancel func()) { cancel() }, true, context.Canceled},
		"to removed":  {true, func(_ *testing.T, m *machine, to, _ *chanmq.Queue[[]byte], _ func()) { _ = m.peer.Remove(to.ID()) }, true, chanmq.ErrRemoved},
		"to closed":   {true, func(_ *testing.T, _ *machine, to, _ *chanmq.Queue[[]byte], _ func()) { _ = to.Close() }, true, chanmq.ErrClosed},
		"from closed": {true, func(_ *testing.T, _ *machine, _, from *chanmq.Queue[[]byte], _ func()) { _ = from.Close() }, false, chanmq.ErrClosed},
		"to ends early": {true, func(_ *testing.T, _ *machine, to, _ *chanmq.Queue[[]byte], _ func()) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = to.Shutdown(ctx)
		}, true, chanmq.ErrClosed},
		"from ends early": {true, func(_ *testing.T, _ *machine, _, from *chanmq.Queue[[]byte], _ func()) {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			_ = from.Shutdown(ctx)
		}, false, chanmq.ErrClosed},
		"no permission": {false, func(t *testing.T, m *machine, to, _ *chanmq.Queue[[]byte], _ func()) {
			if err := m.peer.Set(to.ID(), sysv.Attr{UID: 500, GID: 500, Mode: 0o400, MaxBytes: 4096}); err != nil {
				t.Error(err)
			}
		}, true, syscall.EACCES},
		"larger than the queue": {false, func(t *testing.T, m *machine, to, _ *chanmq.Queue[[]byte], _ func()) {
			if err := m.peer.Set(to.ID(), sysv.Attr{UID: 500, GID: 500, Mode: 0o600, MaxBytes: 1}); err != nil {
				t.Error(err)
			}
		}, true, chanmq.ErrTooLarge},
		"larger than msgmax": {false, func(_ *testing.T, m *machine, _, _ *chanmq.Queue[[]byte], _ func()) {
			m.SetLimits(sysv.Limits{MaxMessage: 1})
		}, true, chanmq.ErrTooLarge},
		"no memory": {false, func(_ *testing.T, m *machine, _, _ *chanmq.Queue[[]byte], _ func()) {
			m.faults(func(_ int, c simq.Call) error {
				if c.Op == simq.Send {
					m.then(nil)
					return sysv.ENOMEM
				}
				return nil
			})
		}, true, syscall.ENOMEM},
	} {
		for way, opts := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					from, to := m.private(t, opts...), m.private(t, opts...)
					fromID, toID := from.ID(), to.ID()
					if c.full {
						if err := to.Set(chanmq.Attr{MaxBytes: 2}); err != nil {
							t.Fatal(err)
						}
						m.puts(t, toID, 1, 98)
					}
					for n := 10; n < 15; n++ { // two bytes each
						m.puts(t, fromID, n, n)
					}
					if !c.full {
						c.fail(t, m, to, from, nil)
					}
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					ended := forward(ctx, to, from, chanmq.Any())
					synctest.Wait()
					if c.full {
						c.fail(t, m, to, from, cancel)
					}
					failed := from
					if c.to {
						failed = to
					}
					wantForwardError(t, <-ended, c.is, failed)
					m.SetLimits(sysv.Limits{MaxMessage: 8192})
					if err := from.Shutdown(t.Context()); err != nil {
						t.Error(err)
					}
					// The handle has given back what it held: it is at the tail.
					for _, want := range []int{11, 12, 13, 14, 10} {
						if got, ok := m.take(fromID); !ok || numberIn(got) != want {
							t.Errorf("from holds %q, %v, want %d", got, ok, want)
						}
					}
				})
			})
		}
	}
}

// TestForwardEndsWithTheHandle: Shutdown of either queue lets Forward send what it
// holds, and takes no more.
func TestForwardEndsWithTheHandle(t *testing.T) {
	for _, end := range []string{"to", "from"} {
		for way, opts := range ways {
			t.Run(end+", "+way, func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					from, to := m.private(t, opts...), m.private(t, opts...)
					if err := to.Set(chanmq.Attr{MaxBytes: 2}); err != nil {
						t.Fatal(err)
					}
					m.puts(t, to.ID(), 1, 98)
					m.puts(t, from.ID(), 1, 10, 11)
					ended := forward(t.Context(), to, from, chanmq.Any())
					synctest.Wait()
					q := to
					if end == "from" {
						q = from
					}
					shut := make(chan error, 1)
					go func() { shut <- q.Shutdown(t.Context()) }()
					synctest.Wait()
					select {
					case err := <-shut:
						t.Fatalf("Shutdown returned %v before there was room", err)
					default:
					}
					for _, want := range []int{98, 10} {
						if got, ok := m.take(to.ID()); !ok || numberIn(got) != want {
							t.Errorf("to has %q, %v, want %d", got, ok, want)
						}
						time.Sleep(time.Second) // the poller sees that there is room
					}
					wantForwardError(t, <-ended, chanmq.ErrClosed, q)
					if err := <-shut; err != nil {
						t.Error(err)
					}
					if got, ok := m.take(from.ID()); !ok || numberIn(got) != 11 {
						t.Errorf("from has %q, %v, want 11", got, ok)
					}
				})
			})
		}
	}
}

// TestForwardIdleEndsWithEitherHandle: a Forward that waits for a message sees at
// once that one of its handles is closed.
func TestForwardIdleEndsWithEitherHandle(t *testing.T) {
	for _, end := range []string{"to", "from", "both"} {
		t.Run(end, func(t *testing.T) {
			from, to := newQueue(t), newQueue(t)
			ended := forward(ctxWithin(t), to, from, chanmq.OfType(5))
			testkit.Eventually(t, "a parked receive", func() bool { return len(testkit.ThreadsInCalls()) == 1 })
			var wg sync.WaitGroup
			if end != "from" {
				wg.Go(func() { to.Close() })
			}
			if end != "to" {
				wg.Go(func() { from.Close() })
			}
			wg.Wait()
			select {
			case err := <-ended:
				wantError(t, "Forward", err, chanmq.ErrClosed)
			case <-time.After(10 * time.Second):
				t.Fatal("Forward goes on")
			}
		})
	}
}

// TestForwardComesBehindOlderReceivers: what a Receiver holds whose ctx has ended is
// forwarded first, however long its codec takes; and Close ends that wait.
func TestForwardComesBehindOlderReceivers(t *testing.T) {
	for _, end := range []string{"codec", "Close", "ctx"} {
		t.Run(end, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				from, to := m.private(t), m.private(t)
				m.puts(t, from.ID(), 1, 0, 1)
				older, cancelOlder := context.WithCancel(t.Context())
				release := make(chan struct{})
				chanmq.As(from, waiting{release}).Receiver(older, chanmq.Any())
				synctest.Wait()
				cancelOlder()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := forward(ctx, to, from, chanmq.Any())
				synctest.Wait()
				want := context.Canceled
				switch end {
				case "codec":
					close(release)
					synctest.Wait()
					cancel()
				case "ctx":
					cancel()
					synctest.Wait()
					close(release)
				case "Close":
					want = chanmq.ErrClosed
					closed := make(chan error, 1)
					go func() { closed <- from.Close() }()
					synctest.Wait()
					defer func() { // it waits for the codec, and Forward does not
						close(release)
						if err := <-closed; err != nil {
							t.Error(err)
						}
					}()
				}
				wantForwardError(t, <-ended, want, from)
				if end == "codec" {
					wantMessages(t, to, 0, 1)
				} else {
					wantMessages(t, to)
				}
			})
		})
	}
}

// waiting is a codec of bytes that waits before it decodes.
type waiting struct{ release <-chan struct{} }

func (waiting) Append(dst []byte, v []byte) ([]byte, error) { return append(dst, v...), nil }

func (w waiting) Decode(src []byte, v *[]byte) error {
	<-w.release
	*v = append((*v)[:0], src...)
	return nil
}

// TestForwardNumbersMessagesInOrder lets one Forward take a message, and be slow to
// come back from the kernel, while another one takes the next. Handed back, they
// have the order in which they were taken.
func TestForwardNumbersMessagesInOrder(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		from, to := m.private(t), m.private(t)
		if err := to.Set(chanmq.Attr{MaxBytes: 1}); err != nil {
			t.Fatal(err)
		}
		m.puts(t, to.ID(), 1, 9) // it is full
		var received atomic.Int32
		m.SetHooks(simq.Hooks{Observe: func(c simq.Call, err error) {
			if c.PID == m.self.PID() && c.Op == simq.Receive && err == nil && received.Add(1) == 1 {
				time.Sleep(time.Second)
			}
		}})
		m.puts(t, from.ID(), 1, 0, 1)
		ctx, cancel := context.WithCancel(t.Context())
		first, second := forward(ctx, to, from, chanmq.Any()), forward(ctx, to, from, chanmq.Any())
		time.Sleep(time.Minute)
		cancel()
		wantForwardError(t, <-first, context.Canceled, to)
		wantForwardError(t, <-second, context.Canceled, to)
		wantMessages(t, from, 0, 1)
	})
}

// TestForwardSurvivesRemoval: under WithReopen both queues are waited for.
func TestForwardSurvivesRemoval(t *testing.T) {
	from, to := openReopening(t), openReopening(t)
	ctx, cancel := context.WithCancel(ctxWithin(t))
	defer cancel()
	ended := forward(ctx, to, from, chanmq.Any())
	sendNumbers(t, from, 1, 0, 1)
	wantNumbers(t, to, chanmq.Any(), 0, 1)

	removeElsewhere(t, to.ID())
	sendNumbers(t, from, 1, 1, 3) // the first of them finds out
	newTo := createElsewhere(t, to.Key())
	wantNumbers(t, newTo, chanmq.Any(), 1, 3)

	removeElsewhere(t, from.ID())
	newFrom := createElsewhere(t, from.Key())
	sendNumbers(t, newFrom, 1, 3, 5)
	wantNumbers(t, newTo, chanmq.Any(), 3, 5)
	cancel()
	wantError(t, "Forward", <-ended, context.Canceled)
}

// TestForwardKeepsOrderAcrossCancels cancels Forward again and again, at random
// moments, while to is full most of the time, and receives from the handle at once.
// Both queues together have every message once, and each in order.
func TestForwardKeepsOrderAcrossCancels(t *testing.T) {
	for way, opts := range map[string][]chanmq.Option{
		"parking":                 nil,
		"polling":                 {chanmq.WithPolling(time.Millisecond, 2*time.Millisecond)},
		"two at a time, one park": {chanmq.WithMaxParked(1)},
	} {
		t.Run(way, func(t *testing.T) {
			from, to := newQueue(t, opts...), newQueue(t, opts...)
			if err := to.Set(chanmq.Attr{MaxBytes: 12}); err != nil {
				t.Fatal(err)
			}
			const total = 400
			sendInBackground(t, from, total, func(int) int64 { return 1 })
			var mu sync.Mutex
			seen := make([]int, total)
			saw := func(n int) {
				mu.Lock()
				defer mu.Unlock()
				seen[n]++
			}
			readCtx, stopReading := context.WithCancel(ctxWithin(t))
			defer stopReading()
			background(t, func() {
				last := -1
				for m, err := range to.Messages(readCtx, chanmq.Any()) {
					if err != nil {
						return
					}
					n := numberOf(m.Value)
					if n <= last {
						t.Errorf("to: %d came behind %d", n, last)
					}
					last = n
					saw(n)
				}
			})
			last, count := -1, 0
			all := func() bool {
				mu.Lock()
				defer mu.Unlock()
				count = 0
				for _, n := range seen {
					count += n
				}
				return count >= total
			}
			for !all() {
				ctx, cancel := context.WithCancel(ctxWithin(t))
				ended := forward(ctx, to, from, chanmq.Any())
				time.Sleep(rand.N(300 * time.Microsecond))
				cancel()
				// At once, and not behind the end of Forward.
				m, ok, err := from.TryReceive(chanmq.Any())
				if err != nil {
					t.Fatal(err)
				}
				if ok {
					n := numberOf(m.Value)
					if n <= last {
						t.Errorf("from: %d came behind %d", n, last)
					}
					last = n
					saw(n)
				}
				wantError(t, "Forward", <-ended, context.Canceled)
			}
			stopReading()
			mu.Lock()
			defer mu.Unlock()
			for n, times := range seen {
				if times != 1 {
					t.Errorf("message %d came %d times", n, times)
				}
			}
		})
	}
}

// TestForwardChain moves messages through several queues, by several Forwards each,
// while others of them end and begin. Every message arrives once; with one Forward
// at a time, in order.
func TestForwardChain(t *testing.T) {
	for _, test := range []struct {
		width int
		opts  []chanmq.Option
	}{
		{1, nil}, {3, nil},
		{1, []chanmq.Option{chanmq.WithPacking()}}, {3, []chanmq.Option{chanmq.WithPacking()}},
	} {
		width, packing := test.width, test.opts != nil
		t.Run(fmt.Sprintf("%d, packing: %v", width, packing), func(t *testing.T) {
			queues := []*chanmq.Queue[[]byte]{newQueue(t, test.opts...), newQueue(t, test.opts...), newQueue(t, test.opts...)}
			const total = 2000
			ctx, cancel := context.WithCancel(ctxWithin(t))
			defer cancel()
			if packing {
				background(t, func() { sendPacks(t, queues[0], total) })
			} else {
				sendInBackground(t, queues[0], total, func(n int) int64 { return 1 + int64(n)%3 })
			}
			for i := range len(queues) - 1 {
				for range width {
					background(t, func() {
						for ctx.Err() == nil {
							short, cancel := context.WithTimeout(ctx, rand.N(5*time.Millisecond))
							err := chanmq.Forward(short, queues[i+1], queues[i], chanmq.Any())
							cancel()
							if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
								t.Error(err)
								return
							}
						}
					})
				}
			}
			seen := make([]bool, total)
			for i := range total {
				m, err := queues[len(queues)-1].Receive(ctxWithin(t), chanmq.Any())
				if err != nil {
					t.Fatal(err)
				}
				n := numberOf(m.Value)
				if seen[n] || !packing && m.Type != 1+int64(n)%3 || width == 1 && n != i {
					t.Fatalf("receive %d: message %d of type %d, seen before: %v", i, n, m.Type, seen[n])
				}
				seen[n] = true
			}
			cancel()
		})
	}
}

// sendPacks sends numbers in packs of different sizes, of one type after the other.
func sendPacks(t testing.TB, q *chanmq.Queue[[]byte], total int) {
	for n := 0; n < total; {
		typ, size := 1+int64(n)%3, min(1+rand.N(300), total-n)
		var values [][]byte
		for i := range size {
			values = append(values, number(n+i))
		}
		if sent, err := q.SendAll(t.Context(), typ, values); err != nil {
			if t.Context().Err() == nil {
				t.Errorf("sent %d of %d: %v", sent, size, err)
			}
			return
		}
		n += size
	}
}

// TestForwardSendsPacks: what came in one message leaves in one, and is counted by value.
func TestForwardSendsPacks(t *testing.T) {
	for _, test := range []struct {
		name     string
		from, to []chanmq.Option
		packs    bool
	}{
		{"both", []chanmq.Option{chanmq.WithPacking()}, []chanmq.Option{chanmq.WithPacking()}, true},
		{"from", []chanmq.Option{chanmq.WithPacking()}, nil, false},
		{"neither", nil, nil, true},
		{"journal", []chanmq.Option{chanmq.WithPacking(), chanmq.WithJournal(journalDir(t))}, []chanmq.Option{chanmq.WithPacking()}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			counted := chanmq.WithCounters()
			from, to := newQueue(t, append(test.from, counted)...), newQueue(t, append(test.to, counted)...)
			source := must(chanmq.Attach(from.ID(), chanmq.WithPacking()))
			defer source.Close()
			const total = 900
			for n := 0; n < total; n += 100 {
				var values [][]byte
				for i := range 100 {
					values = append(values, number(n+i))
				}
				if _, err := source.SendAll(ctxWithin(t), 1, values); err != nil {
					t.Fatal(err)
				}
			}
			if n := countMessages(t, from); n != 9 {
				t.Fatalf("%d messages were sent", n)
			}
			ctx, cancel := context.WithCancel(ctxWithin(t))
			ended := forward(ctx, to, from, chanmq.Any())
			untilTaken(t, from, 0)
			want := 9
			if !test.packs {
				want = total
			}
			untilTaken(t, to, want)
			cancel()
			<-ended
			if sent := to.Counters().Sent; len(test.from) > 0 && sent != total {
				t.Errorf("%d values were counted as sent", sent)
			}
			if n := from.Counters().Unacknowledged; n != 0 {
				t.Errorf("%d are not acknowledged", n)
			}
			sink := must(chanmq.Attach(to.ID(), chanmq.WithPacking()))
			defer sink.Close()
			wantNumbers(t, sink, chanmq.Any(), 0, total)
			wantNone(t, sink)
		})
	}
}

// TestForwardHandsBackPacks: of a pack that does not fit, what was not sent is handed back, in
// order.
func TestForwardHandsBackPacks(t *testing.T) {
	for _, journal := range []bool{false, true} {
		t.Run(fmt.Sprint("journal: ", journal), func(t *testing.T) {
			opts := []chanmq.Option{chanmq.WithPacking(), chanmq.WithCounters()}
			to := newQueue(t, opts...)
			if journal {
				opts = append(opts, chanmq.WithJournal(journalDir(t)))
			}
			from := newQueue(t, opts...)
			if err := to.Set(chanmq.Attr{MaxBytes: 200, Perm: 0o600}); err != nil {
				t.Fatal(err)
			}
			const total = 2000 // more than are taken together
			var values [][]byte
			for n := range total {
				values = append(values, number(n))
			}
			if _, err := from.SendAll(ctxWithin(t), 1, values); err != nil {
				t.Fatal(err)
			}
			next := 0
			for round := range 3 {
				ctx, cancel := context.WithCancel(ctxWithin(t))
				ended := forward(ctx, to, from, chanmq.Any())
				for range 10 * round {
					wantNumbers(t, to, chanmq.Any(), next, next+1)
					next++
				}
				testkit.Eventually(t, "a full queue", func() bool {
					stat, err := to.Stat()
					return err == nil && stat.Bytes > 190
				})
				cancel()
				wantError(t, "Forward", <-ended, context.Canceled)
			}
			// Those that were not sent are the last ones.
			sent := int(to.Counters().Sent)
			if sent <= next || sent >= total {
				t.Fatalf("%d were sent, %d were received", sent, next)
			}
			wantNumbers(t, from, chanmq.Any(), sent, total)
			wantNone(t, from)
			wantNumbers(t, to, chanmq.Any(), next, sent)
			wantNone(t, to)
		})
	}
}

// Forward is also among the scenarios of the sweeps over every system call.
func init() {
	scenarios = append(scenarios, scenario{"Forward", func(w *work) {
		to, err := chanmq.Private(0o600, w.option(), chanmq.WithSpin(0))
		if err != nil {
			return
		}
		id := to.ID()
		if err := w.peer.Set(id, sysv.Attr{UID: 500, GID: 500, Mode: 0o600, MaxBytes: 2}); err != nil {
			w.Error(err)
		}
		w.puts(1, 3, 0)
		w.puts(2, 4, 0)
		var taker sync.WaitGroup
		taker.Go(func() {
			for range 3 {
				time.Sleep(time.Second)
				if text, ok := w.take(id); ok {
					w.at(numberIn(text), "taken from to")
				}
			}
		})
		ctx, cancel := context.WithTimeout(w.ctx, 10*time.Second)
		defer cancel()
		err = chanmq.Forward(ctx, to, w.q, chanmq.Any())
		var op *chanmq.OpError
		if !errors.As(err, &op) || op.Op != "forward" {
			w.Errorf("Forward: %v", err)
		}
		_ = w.got(w.q.Receive(w.ctx, chanmq.OfType(2)))
		taker.Wait()
		ended := forward(w.ctx, to, w.q, chanmq.OfType(2))
		synctest.Wait()
		if err := to.Close(); err != nil {
			w.Error(err)
		}
		<-ended
		for text, ok := w.take(id); ok; text, ok = w.take(id) {
			w.at(numberIn(text), "in to")
		}
	}})
}
