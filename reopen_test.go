//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

func init() {
	// create KEY creates the queue and prints its msqid.
	roles["create"] = func(args []string) error {
		key, err := strconv.ParseInt(args[0], 10, 32)
		if err != nil {
			return err
		}
		q, err := chanmq.Create(chanmq.Key(key), 0o600, chanmq.WithExclusive())
		if err != nil {
			return err
		}
		fmt.Println(q.ID())
		return q.Close()
	}
}

// removeElsewhere removes the queue from another process.
func removeElsewhere(t testing.TB, id int) {
	t.Helper()
	testkit.Wait(t, testkit.Start(t, "remove", strconv.Itoa(id)))
}

// createElsewhere creates a queue from another process, and returns a handle.
func createElsewhere(t testing.TB, key chanmq.Key) *chanmq.Queue[[]byte] {
	t.Helper()
	cmd := testkit.Process(t, "create", strconv.Itoa(int(key)))
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	id, err := strconv.Atoi(strings.TrimSpace(out.String()))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, id)
	return attach(t, id)
}

// openReopening creates a queue, and returns a handle that Open opened WithReopen.
func openReopening(t testing.TB, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	made := newKeyed(t)
	q, err := chanmq.Open(made.Key(), append(opts, chanmq.WithReopen())...)
	if err != nil {
		t.Fatal(err)
	}
	return adopt(t, q)
}

// waits are the ways to wait on a queue. Those that receive return the text that
// they got; those that send, send "sent".
var waits = []struct {
	name  string
	sends bool
	call  func(context.Context, *chanmq.Queue[[]byte]) (string, error)
}{
	{"Receive", false, func(ctx context.Context, q *chanmq.Queue[[]byte]) (string, error) {
		m, err := q.Receive(ctx, chanmq.Any())
		return string(m.Value), err
	}},
	{"Messages", false, func(ctx context.Context, q *chanmq.Queue[[]byte]) (string, error) {
		for m, err := range q.Messages(ctx, chanmq.Any()) {
			return string(m.Value), err
		}
		return "", errNothing
	}},
	{"Receiver", false, func(ctx context.Context, q *chanmq.Queue[[]byte]) (string, error) {
		r := q.Receiver(ctx, chanmq.Any())
		defer r.Close()
		if m, ok := <-r.C(); ok {
			return string(m.Value), nil
		}
		return "", r.Err()
	}},
	{"Send", true, func(ctx context.Context, q *chanmq.Queue[[]byte]) (string, error) {
		return "", q.Send(ctx, 1, []byte("sent"))
	}},
	{"Sender", true, func(ctx context.Context, q *chanmq.Queue[[]byte]) (string, error) {
		s := q.Sender(ctx)
		defer s.Unsent()
		select {
		case s.C() <- chanmq.Message[[]byte]{Type: 1, Value: []byte("sent")}:
			close(s.C())
			<-s.Done()
		case <-s.Done():
		}
		return "", s.Err()
	}},
}

type waitResult struct {
	text string
	err  error
}

// startWait starts one of waits, and returns when it sleeps, or polls. A call
// that sends finds the queue full.
func startWait(t testing.TB, ctx context.Context, q *chanmq.Queue[[]byte], i int, polls bool) <-chan waitResult {
	t.Helper()
	if waits[i].sends {
		for n := roomIn(t, q); n > 0; n = roomIn(t, q) {
			if sent, err := q.TrySend(9, make([]byte, n)); !sent || err != nil {
				t.Fatalf("TrySend of %d bytes = %v, %v", n, sent, err)
			}
		}
	}
	result := make(chan waitResult, 1)
	background(t, func() {
		text, err := waits[i].call(ctx, q)
		result <- waitResult{text, err}
	})
	if !polls {
		untilAsleep(t, 1)
	}
	return result
}

// roomIn returns how large a message still fits, up to the largest allowed.
func roomIn(t testing.TB, q *chanmq.Queue[[]byte]) int {
	t.Helper()
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return min(stat.MaxBytes-stat.Bytes, largest(t))
}

func TestReopenFindsTheNewQueue(t *testing.T) {
	for i, w := range waits {
		for _, polls := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, polling %v", w.name, polls), func(t *testing.T) {
				var opts []chanmq.Option
				if polls {
					opts = append(opts, chanmq.WithPolling(time.Millisecond, 2*time.Millisecond))
				}
				q := openReopening(t, opts...)
				lost := q.ID()
				result := startWait(t, ctxWithin(t), q, i, polls)
				removeElsewhere(t, lost)
				made := createElsewhere(t, q.Key())
				if w.sends {
					if m, err := made.Receive(ctxWithin(t), chanmq.Any()); err != nil || string(m.Value) != "sent" {
						t.Errorf("the new queue got %q, %v", m.Value, err)
					}
				} else if err := made.Send(ctxWithin(t), 1, []byte("new")); err != nil {
					t.Error(err)
				}
				switch got := <-result; {
				case got.err != nil:
					t.Error(got.err)
				case !w.sends && got.text != "new":
					t.Errorf("received %q", got.text)
				}
				if q.ID() != made.ID() {
					t.Errorf("msqid %d, want %d", q.ID(), made.ID())
				}
			})
		}
	}
}

// TestReopenMakesTheQueueAgain: a handle that Create returned repeats Create.
func TestReopenMakesTheQueueAgain(t *testing.T) {
	for i, w := range waits {
		t.Run(w.name, func(t *testing.T) {
			q := newKeyed(t, chanmq.WithReopen())
			lost := q.ID()
			result := startWait(t, ctxWithin(t), q, i, false)
			removeElsewhere(t, lost)
			testkit.Eventually(t, "another queue", func() bool { return q.ID() != lost })
			testkit.Reap(t, q.ID())
			other, err := chanmq.Open(q.Key())
			if err != nil {
				t.Fatal(err)
			}
			adopt(t, other)
			if perm := statOf(t, other.ID()).Perm; perm&0o077 != 0 {
				t.Errorf("its permissions are %#o, want 0600", perm)
			}
			if w.sends {
				if m, err := other.Receive(ctxWithin(t), chanmq.Any()); err != nil || string(m.Value) != "sent" {
					t.Errorf("the new queue got %q, %v", m.Value, err)
				}
			} else if err := other.Send(ctxWithin(t), 1, []byte("new")); err != nil {
				t.Error(err)
			}
			if got := <-result; got.err != nil {
				t.Error(got.err)
			}
		})
	}
}

func TestReopenOfTries(t *testing.T) {
	t.Run("Open", func(t *testing.T) {
		q := openReopening(t)
		removeElsewhere(t, q.ID())
		_, _, err := q.TryReceive(chanmq.Any())
		wantError(t, "TryReceive while there is none", err, chanmq.ErrRemoved)
		_, err = q.TrySend(1, nil)
		wantError(t, "TrySend while there is none", err, chanmq.ErrRemoved)
		made := createElsewhere(t, q.Key())
		pass(t, made, q)
		removeElsewhere(t, q.ID())
		made = createElsewhere(t, q.Key())
		if sent, err := q.TrySend(1, number(0)); !sent || err != nil {
			t.Errorf("TrySend = %v, %v", sent, err)
		}
		wantNumbers(t, made, chanmq.Any(), 0, 1)
		wantNone(t, q)
	})
	t.Run("Attach", func(t *testing.T) {
		q := adopt(t, must(chanmq.Attach(newKeyed(t).ID(), chanmq.WithReopen())))
		removeElsewhere(t, q.ID())
		_, _, err := q.TryReceive(chanmq.Any())
		wantError(t, "TryReceive while there is none", err, chanmq.ErrRemoved)
		pass(t, createElsewhere(t, q.Key()), q) // by the key that the msqid had
	})
	t.Run("Create", func(t *testing.T) {
		q := newKeyed(t, chanmq.WithReopen())
		lost := q.ID()
		removeElsewhere(t, lost)
		if sent, err := q.TrySend(1, number(0)); !sent || err != nil {
			t.Fatalf("TrySend = %v, %v", sent, err)
		}
		testkit.Reap(t, q.ID())
		if q.ID() == lost {
			t.Errorf("the msqid is still %d", lost)
		}
		wantNumbers(t, q, chanmq.Any(), 0, 1)
	})
}

func TestReopenNotAfterOnesOwnRemove(t *testing.T) {
	for i, w := range waits {
		t.Run(w.name, func(t *testing.T) {
			q := newKeyed(t, chanmq.WithReopen())
			result := startWait(t, ctxWithin(t), q, i, false)
			if err := q.Remove(); err != nil {
				t.Fatal(err)
			}
			wantError(t, w.name, (<-result).err, chanmq.ErrRemoved)
			createElsewhere(t, q.Key())
			_, err := w.call(ctxWithin(t), q)
			wantError(t, w.name+" afterwards", err, chanmq.ErrRemoved)
			_, _, err = q.TryReceive(chanmq.Any())
			wantError(t, "TryReceive afterwards", err, chanmq.ErrRemoved)
		})
	}
}

// TestReopenAfterARefusedRemove: a Remove that was refused does not count.
func TestReopenAfterARefusedRemove(t *testing.T) {
	made := newKeyed(t)
	if err := made.Set(chanmq.Attr{Perm: 0o666}); err != nil {
		t.Fatal(err)
	}
	var q *chanmq.Queue[[]byte]
	asNobody(t, func() {
		q = must(chanmq.Open(made.Key(), chanmq.WithReopen()))
		wantError(t, "Remove", q.Remove(), fs.ErrPermission)
	})
	adopt(t, q)
	removeElsewhere(t, q.ID())
	pass(t, createElsewhere(t, q.Key()), q)
}

func TestReopenKeepsWhatTheHandleHolds(t *testing.T) {
	q := openReopening(t)
	hold(t, q, 0, 3)
	removeElsewhere(t, q.ID())

	wantNumbers(t, q, chanmq.Any(), 0, 1) // while the queue is away
	made := createElsewhere(t, q.Key())
	sendNumbers(t, made, 1, 3, 5)
	wantNumbers(t, q, chanmq.Any(), 1, 5)
	wantNone(t, q)
}

// hold leaves the numbers from to to-1 in the handle's slot, as a Receiver does that
// was closed.
func hold(t testing.TB, q *chanmq.Queue[[]byte], from, to int) {
	t.Helper()
	sendNumbers(t, q, 1, from, to)
	r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(to-from))
	untilTaken(t, q, 0)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestCloseWhileTheQueueIsAway(t *testing.T) {
	t.Run("ends what waits", func(t *testing.T) {
		for i, w := range waits {
			t.Run(w.name, func(t *testing.T) {
				q := openReopening(t)
				result := startWait(t, ctxWithin(t), q, i, false)
				removeElsewhere(t, q.ID())
				if err := q.Close(); err != nil {
					var undelivered *chanmq.UndeliveredError
					if w.name != "Sender" || !errors.As(err, &undelivered) {
						t.Error(err)
					}
				}
				wantError(t, w.name, (<-result).err, chanmq.ErrClosed)
			})
		}
	})
	t.Run("returns what the handle holds", func(t *testing.T) {
		q := openReopening(t)
		hold(t, q, 0, 3)
		removeElsewhere(t, q.ID())
		var undelivered *chanmq.UndeliveredError
		if err := q.Close(); !errors.As(err, &undelivered) || !errors.Is(err, chanmq.ErrRemoved) {
			t.Fatalf("Close: %v, want an *UndeliveredError that is ErrRemoved", err)
		}
		if len(undelivered.Messages) != 3 {
			t.Fatalf("%d messages undelivered, want 3", len(undelivered.Messages))
		}
		for i, m := range undelivered.Messages {
			if numberOf(m.Value) != i {
				t.Errorf("message %d is number %d", i, numberOf(m.Value))
			}
		}
	})
}

func TestCtxEndsWhileTheQueueIsAway(t *testing.T) {
	for i, w := range waits {
		t.Run(w.name, func(t *testing.T) {
			q := openReopening(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			result := startWait(t, ctx, q, i, false)
			removeElsewhere(t, q.ID())
			cancel(errWhy)
			err := (<-result).err
			wantError(t, w.name, err, context.Canceled)
			wantError(t, w.name, err, errWhy)

			// Once it has looked for the queue, the error says so.
			for within := 10 * time.Millisecond; ; within *= 2 {
				ctx, cancel := context.WithTimeout(t.Context(), within)
				_, err := w.call(ctx, q)
				cancel()
				wantError(t, w.name, err, context.DeadlineExceeded)
				if errors.Is(err, chanmq.ErrRemoved) {
					wantError(t, w.name, err, nil, "no queue has this key", "re-created")
					break
				}
				if within > time.Minute {
					t.Fatalf("after %v still %v", within, err)
				}
			}
		})
	}
}

// TestPumpsCloseWhileTheQueueIsAway: Close and Drain work while there is no queue.
func TestPumpsCloseWhileTheQueueIsAway(t *testing.T) {
	q := openReopening(t)
	r := q.Receiver(ctxWithin(t), chanmq.Any())
	drained := q.Receiver(ctxWithin(t), chanmq.OfType(3))
	removeElsewhere(t, q.ID())
	s := q.Sender(ctxWithin(t))
	s.C() <- message(7)
	if err := r.Close(); err != nil || r.Err() != nil {
		t.Errorf("Receiver: Close %v, Err %v", err, r.Err())
	}
	if err := drained.Drain(ctxWithin(t)); err != nil || drained.Err() != nil {
		t.Errorf("Receiver: Drain %v, Err %v", err, drained.Err())
	}
	wantError(t, "Sender: Close", s.Close(), chanmq.ErrClosed, "1 message ")
	wantUnsent(t, s, 7, 8)
}

func TestReopenChecksTheOwnerAgain(t *testing.T) {
	self := os.Geteuid()
	if self == nobody {
		t.Skipf("this process is user %d itself", nobody)
	}
	q := openReopening(t, chanmq.WithOwner(self))
	result := startWait(t, ctxWithin(t), q, 0, false)
	removeElsewhere(t, q.ID())
	var planted *chanmq.Queue[[]byte]
	asNobody(t, func() {
		planted = must(chanmq.Create(q.Key(), 0o666, chanmq.WithExclusive()))
		if err := planted.Send(t.Context(), 1, []byte("planted")); err != nil {
			t.Error(err)
		}
	})
	adopt(t, planted)

	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := q.Receive(ctx, chanmq.Any())
	wantError(t, "Receive", err, chanmq.ErrRemoved, "planted", fmt.Sprintf("created by uid %d", nobody))
	wantError(t, "Receive", err, context.DeadlineExceeded)
	if n := statOf(t, planted.ID()).Messages; n != 1 {
		t.Errorf("the planted queue holds %d messages, want 1", n)
	}
	if err := planted.Remove(); err != nil {
		t.Fatal(err)
	}
	made := createElsewhere(t, q.Key())
	if err := made.Send(ctxWithin(t), 1, []byte("real")); err != nil {
		t.Fatal(err)
	}
	if got := <-result; got.text != "real" || got.err != nil {
		t.Errorf("Receive = %q, %v", got.text, got.err)
	}
}

func TestReopenOfManyWaits(t *testing.T) {
	const n = 50
	q := openReopening(t, chanmq.WithMaxParked(n/2)) // so that half of them poll
	ctx := ctxWithin(t)
	got := make(chan int64, n)
	for typ := int64(1); typ <= n; typ++ {
		background(t, func() {
			m, err := q.Receive(ctx, chanmq.OfType(typ))
			if err != nil {
				t.Error(err)
			}
			got <- m.Type
		})
	}
	untilAsleep(t, n/2)
	made := q
	for range 3 {
		removeElsewhere(t, made.ID())
		made = createElsewhere(t, q.Key())
	}
	for typ := int64(1); typ <= n; typ++ {
		if err := made.Send(ctx, typ, nil); err != nil {
			t.Fatal(err)
		}
	}
	var sum int64
	for range n {
		sum += <-got
	}
	if sum != n*(n+1)/2 {
		t.Errorf("the types that came add up to %d", sum)
	}
}

// TestReopenIsNoBusyLoop: between two lookups of the key, waits pause.
func TestReopenIsNoBusyLoop(t *testing.T) {
	q := openReopening(t)
	removeElsewhere(t, q.ID())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	start, before := time.Now(), processorTime(t)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			_, err := q.Receive(ctx, chanmq.Any())
			wantError(t, "Receive", err, context.DeadlineExceeded)
		})
	}
	wg.Wait()
	elapsed, used := time.Since(start), processorTime(t)-before
	if used > elapsed/2 {
		t.Errorf("20 receives used the processor for %v of %v", used, elapsed)
	}
}

// processorTime returns how long this process has run.
func processorTime(t testing.TB) time.Duration {
	t.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		t.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
