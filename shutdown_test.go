//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
)

// TestShutdown: a program that reads every C to its end, and has closed nothing else,
// gets what its Receivers had taken; the kernel gets what its Senders had accepted.
func TestShutdown(t *testing.T) {
	const messages = 6
	for _, buffer := range []int{0, 1, messages} {
		t.Run(fmt.Sprintf("buffers of %d", buffer), func(t *testing.T) {
			q := newQueue(t)
			other := attach(t, q.ID())
			orders := q.Receiver(ctxWithin(t), chanmq.OfType(1), chanmq.WithBuffer(buffer))
			replies := q.Sender(ctxWithin(t), chanmq.WithBuffer(buffer))
			for n := range messages {
				if err := other.Send(ctxWithin(t), 1, number(n)); err != nil {
					t.Fatal(err)
				}
			}
			var handled int
			begun := make(chan struct{})
			var consumer sync.WaitGroup
			consumer.Go(func() {
				for m := range orders.C() {
					if handled == 0 {
						close(begun)
						time.Sleep(time.Millisecond) // Shutdown begins meanwhile
					}
					if got := numberOf(m.Value); got != handled {
						t.Errorf("got %d, want %d", got, handled)
					}
					handled++
					select {
					case replies.C() <- chanmq.Message[[]byte]{Type: 2, Value: m.Value}:
					case <-replies.Done():
						// The Sender ends when all has been read; a reply that
						// it does not take is sent by the handle itself, or not
						// at all if that is closed.
						if err := q.Send(ctxWithin(t), 2, m.Value); err != nil && !errors.Is(err, chanmq.ErrClosed) {
							t.Error(err)
						}
					}
				}
			})
			<-begun
			if err := q.Shutdown(ctxWithin(t)); err != nil {
				t.Errorf("Shutdown: %v", err)
			}
			consumer.Wait()
			for _, err := range []error{orders.Err(), replies.Err()} {
				if err != nil {
					t.Errorf("Err: %v", err)
				}
			}
			if left := replies.Unsent(); len(left) > 0 {
				t.Errorf("Unsent: %v", left)
			}
			for n := handled; n < messages; n++ { // not taken
				m, err := other.Receive(ctxWithin(t), chanmq.OfType(1))
				if err != nil || numberOf(m.Value) != n {
					t.Errorf("Receive: %v, %v, want %d", m, err, n)
				}
			}
			_, _, err := q.TryReceive(chanmq.Any())
			wantError(t, "TryReceive", err, chanmq.ErrClosed)
			for ok := true; ok; {
				if _, ok, err = other.TryReceive(chanmq.OfType(2)); err != nil {
					t.Fatal(err)
				}
			}
			if err := q.Shutdown(ctxWithin(t)); err != nil {
				t.Errorf("a second Shutdown: %v", err)
			}
		})
	}
}

// TestShutdownRefusesNewPumps, and lets direct calls go on.
func TestShutdownRefusesNewPumps(t *testing.T) {
	q := newQueue(t)
	r := q.Receiver(ctxWithin(t), chanmq.OfType(1))
	if err := q.Send(ctxWithin(t), 1, nil); err != nil {
		t.Fatal(err)
	}
	untilTaken(t, q, 0)
	ended := make(chan error, 1)
	go func() { ended <- q.Shutdown(ctxWithin(t)) }()
	for q.Receiver(ctxWithin(t), chanmq.OfType(9)).Err() == nil { // not yet
		time.Sleep(time.Millisecond)
	}
	wantError(t, "a new Receiver", q.Receiver(ctxWithin(t), chanmq.OfType(9)).Err(), chanmq.ErrClosed)
	wantError(t, "a new Sender", q.Sender(ctxWithin(t)).Err(), chanmq.ErrClosed)
	if err := q.Send(ctxWithin(t), 2, nil); err != nil {
		t.Errorf("Send: %v", err)
	}
	if _, err := q.Receive(ctxWithin(t), chanmq.OfType(2)); err != nil {
		t.Errorf("Receive: %v", err)
	}
	if m, ok := <-r.C(); !ok || m.Type != 1 {
		t.Errorf("C: %v, %v", m, ok)
	}
	if err := <-ended; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// TestShutdownSendsBackWhatWasHandedBack, waiting for room.
func TestShutdownSendsBackWhatWasHandedBack(t *testing.T) {
	q := newQueue(t)
	if err := q.Set(chanmq.Attr{MaxBytes: 8}); err != nil {
		t.Fatal(err)
	}
	other := attach(t, q.ID())
	r := q.Receiver(ctxWithin(t), chanmq.OfType(1), chanmq.WithBuffer(1))
	for n := range 4 { // two are in the Receiver, two fill the queue
		if err := other.Send(ctxWithin(t), 1, number(n)); err != nil {
			t.Fatal(err)
		}
	}
	untilTaken(t, other, 2)
	_ = r.Close()
	ended := make(chan error, 1)
	go func() { ended <- q.Shutdown(ctxWithin(t)) }()
	for _, want := range []int{2, 3, 0, 1} {
		m, err := other.Receive(ctxWithin(t), chanmq.Any())
		if err != nil || numberOf(m.Value) != want {
			t.Errorf("Receive: %v, %v, want %d", m, err, want)
		}
	}
	if err := <-ended; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// TestShutdownThatIsCutShort: what nobody reads is given back when ctx ends, and what
// the queue does not take is in the error.
func TestShutdownThatIsCutShort(t *testing.T) {
	for name, full := range map[string]bool{"room for everything": false, "a full queue": true} {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			other := attach(t, q.ID())
			r := q.Receiver(ctxWithin(t), chanmq.OfType(1), chanmq.WithBuffer(1))
			for n := range 2 {
				if err := other.Send(ctxWithin(t), 1, number(n)); err != nil {
					t.Fatal(err)
				}
			}
			untilTaken(t, other, 0)
			for ok := full; ok; {
				var err error
				if ok, err = other.TrySend(9, make([]byte, 1024)); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(ctxWithin(t), 20*time.Millisecond)
			defer cancel()
			err := q.Shutdown(ctx)
			if _, ok := <-r.C(); ok {
				t.Error("C holds a value that was given back")
			}
			var undelivered *chanmq.UndeliveredError
			switch {
			case !full:
				wantError(t, "Shutdown", err, context.DeadlineExceeded, "shutdown", "msqid")
				for n := range 2 {
					m, ok, err := other.TryReceive(chanmq.OfType(1))
					if err != nil || !ok || numberOf(m.Value) != n {
						t.Errorf("TryReceive: %v, %v, %v, want %d", m, ok, err, n)
					}
				}
			case !errors.As(err, &undelivered) || len(undelivered.Messages) != 2:
				t.Errorf("Shutdown: %v, want two messages", err)
			}
		})
	}
}

// TestShutdownAndCloseAtOnce: they agree, from several goroutines.
func TestShutdownAndCloseAtOnce(t *testing.T) {
	for range rounds(100) {
		q := newQueue(t)
		r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(2))
		for n := range 3 {
			if err := q.Send(ctxWithin(t), 1, number(n)); err != nil {
				t.Fatal(err)
			}
		}
		var left sync.Map
		var all sync.WaitGroup
		for _, end := range []func() error{
			q.Close, func() error { return q.Shutdown(ctxWithin(t)) }, func() error { return q.Shutdown(ctxWithin(t)) },
			r.Close, func() error { return r.Drain(ctxWithin(t)) },
		} {
			all.Go(func() {
				if err := end(); err != nil {
					left.Store(err, true)
				}
			})
		}
		read := 0
		for range r.C() {
			read++
		}
		all.Wait()
		left.Range(func(err, _ any) bool { t.Errorf("%v", err); return true })
		other := attach(t, q.ID())
		stat, err := other.Stat()
		if err != nil || read+stat.Messages != 3 {
			t.Fatalf("%d were read, and %d are in the queue (%v), want 3", read, stat.Messages, err)
		}
		_ = other.Remove()
	}
}

// TestCloseOfAShutdownThatWaits: Close returns what Shutdown has in its hands, waiting for
// room in the queue.
func TestCloseOfAShutdownThatWaits(t *testing.T) {
	for range rounds(2) {
		onMachine(t, func(t *testing.T, m *machine) {
			q := m.private(t, chanmq.WithMaxParked(0)) // whom Close wakes need not run before it goes on
			m.puts(t, q.ID(), 1, 7)
			d, err := q.Take(t.Context(), chanmq.Any())
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.Nack(), q.Set(chanmq.Attr{MaxBytes: 1}), m.put(q.ID(), 9, []byte("x"))); err != nil {
				t.Fatal(err)
			}
			ended := make(chan error, 1)
			go func() { ended <- q.Shutdown(t.Context()) }()
			synctest.Wait()
			err = q.Close()
			var undelivered *chanmq.UndeliveredError
			if !errors.As(err, &undelivered) || len(undelivered.Messages) != 1 {
				t.Fatalf("Close: %v, want one message", err)
			}
			if err := <-ended; err != nil {
				t.Fatalf("Shutdown: %v", err)
			}
		})
	}
}

// TestWithDrain: the end of ctx lets the program read what was taken, and Close gives
// back what it does not read.
func TestWithDrain(t *testing.T) {
	for _, buffer := range []int{0, 2} {
		t.Run(fmt.Sprintf("read to the end, buffer of %d", buffer), func(t *testing.T) {
			q := newQueue(t)
			ctx, cancel := context.WithCancel(ctxWithin(t))
			r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer), chanmq.WithDrain())
			for n := range 4 {
				if err := q.Send(ctxWithin(t), 1, number(n)); err != nil {
					t.Fatal(err)
				}
			}
			taken := 1 + buffer
			untilTaken(t, q, 4-taken)
			cancel()
			time.Sleep(time.Millisecond)
			// Those who come behind it do not wait for it, and get what is newer.
			for n := taken; n < 4; n++ {
				m, err := q.Receive(ctxWithin(t), chanmq.Any())
				if err != nil || numberOf(m.Value) != n {
					t.Errorf("Receive: %v, %v, want %d", m, err, n)
				}
			}
			for n := range taken {
				if m, ok := <-r.C(); !ok || numberOf(m.Value) != n {
					t.Errorf("C: %v, %v, want %d", m, ok, n)
				}
			}
			if m, ok := <-r.C(); ok {
				t.Errorf("C: %v, want its end", m)
			}
			wantError(t, "Err", r.Err(), context.Canceled, "receive")
		})
		t.Run(fmt.Sprintf("closed, buffer of %d", buffer), func(t *testing.T) {
			q := newQueue(t)
			ctx, cancel := context.WithCancel(ctxWithin(t))
			r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer), chanmq.WithDrain())
			for n := range 1 + buffer {
				if err := q.Send(ctxWithin(t), 1, number(n)); err != nil {
					t.Fatal(err)
				}
			}
			untilTaken(t, q, 0)
			cancel()
			_ = r.Close()
			for n := range 1 + buffer {
				m, err := q.Receive(ctxWithin(t), chanmq.Any())
				if err != nil || numberOf(m.Value) != n {
					t.Errorf("Receive: %v, %v, want %d", m, err, n)
				}
			}
		})
	}
	t.Run("idle", func(t *testing.T) {
		q := newQueue(t)
		ctx, cancel := context.WithCancel(ctxWithin(t))
		r := q.Receiver(ctx, chanmq.Any(), chanmq.WithDrain())
		time.Sleep(time.Millisecond)
		cancel()
		<-r.Done()
		wantError(t, "Err", r.Err(), context.Canceled)
	})
}

// TestZeroQueue: every call says what to do, and none panics.
func TestZeroQueue(t *testing.T) {
	var q chanmq.Queue[[]byte]
	view := chanmq.As(&q, chanmq.Codec[string](nil))
	_, receiveErr := q.Receive(ctxWithin(t), chanmq.Any())
	_, _, tryReceiveErr := q.TryReceive(chanmq.Any())
	_, trySendErr := q.TrySend(1, nil)
	_, statErr := q.Stat()
	sender := q.Sender(ctxWithin(t))
	for what, err := range map[string]error{
		"Receive": receiveErr, "TryReceive": tryReceiveErr, "Send": q.Send(ctxWithin(t), 1, nil), "TrySend": trySendErr,
		"a view's Send": view.Send(ctxWithin(t), 1, "x"), "ReceiveInto": q.ReceiveInto(ctxWithin(t), chanmq.Any(), new(chanmq.Message[[]byte])),
		"Stat": statErr, "Set": q.Set(chanmq.Attr{}), "Remove": q.Remove(),
		"Receiver": q.Receiver(ctxWithin(t), chanmq.Any()).Err(), "Sender": sender.Err(), "Flush": sender.Flush(ctxWithin(t)),
	} {
		wantError(t, what, err, chanmq.ErrClosed, "zero value", "Open")
	}
	for _, err := range q.Browse() {
		wantError(t, "Browse", err, chanmq.ErrClosed, "zero value")
	}
	for _, err := range q.Messages(ctxWithin(t), chanmq.Any()) {
		wantError(t, "Messages", err, chanmq.ErrClosed, "zero value")
	}
	if q.ID() != -1 || q.Key() != 0 {
		t.Errorf("ID %d, Key %v", q.ID(), q.Key())
	}
	for what, err := range map[string]error{"Close": q.Close(), "Shutdown": q.Shutdown(ctxWithin(t))} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestErrorsOfEndedContexts: every call whose ctx ended returns an error that matches
// it and its cause, and names the operation and the queue.
func TestErrorsOfEndedContexts(t *testing.T) {
	why := errors.New("the reason")
	message := chanmq.Message[[]byte]{Type: 1, Value: make([]byte, 1000)}
	for name, call := range map[string]struct {
		op   string
		call func(ctx context.Context, q *chanmq.Queue[[]byte]) error
	}{
		"Send": {"send", func(ctx context.Context, q *chanmq.Queue[[]byte]) error { return q.Send(ctx, 1, message.Value) }},
		"Receive": {"receive", func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			_, err := q.Receive(ctx, chanmq.OfType(1))
			return err
		}},
		"ReceiveInto": {"receive", func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			return q.ReceiveInto(ctx, chanmq.OfType(1), &chanmq.Message[[]byte]{})
		}},
		"Messages": {"receive", func(ctx context.Context, q *chanmq.Queue[[]byte]) (last error) {
			for _, err := range q.Messages(ctx, chanmq.OfType(1)) {
				last = err
			}
			return last
		}},
		"Receiver": {"receive", func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			r := q.Receiver(ctx, chanmq.OfType(1))
			<-r.Done()
			return r.Err()
		}},
		"Sender, idle": {"send", func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			s := q.Sender(ctx)
			<-s.Done()
			return s.Err()
		}},
		"Sender, waiting for room": {"send", func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			s := q.Sender(ctx)
			select {
			case s.C() <- message:
			case <-s.Done():
			}
			<-s.Done()
			s.Unsent()
			return s.Err()
		}},
		"Flush": {"flush", func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			s := q.Sender(ctxWithin(t))
			s.C() <- message
			err := s.Flush(ctx)
			_ = s.Close() // the message is no concern of this test
			s.Unsent()
			return err
		}},
		"Drain": {"drain", func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			stat, err := q.Stat()
			r := q.Receiver(ctxWithin(t), chanmq.OfType(9))
			untilTaken(t, q, stat.Messages-1)
			err = errors.Join(err, r.Drain(ctx))
			return errors.Join(err, r.Close())
		}},
	} {
		for _, ended := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, ended before: %v", name, ended), func(t *testing.T) {
				q := newQueue(t)
				fill(t, q)
				ctx, cancel := context.WithCancelCause(ctxWithin(t))
				if ended {
					cancel(why)
				} else {
					time.AfterFunc(2*time.Millisecond, func() { cancel(why) })
				}
				err := call.call(ctx, q)
				wantError(t, name, err, context.Canceled, "chanmq: "+call.op, fmt.Sprintf("msqid %d", q.ID()), "context canceled", "the reason")
				wantError(t, name, err, why)
				var op *chanmq.OpError
				if !errors.As(err, &op) || op.Op != call.op || op.ID != q.ID() {
					t.Errorf("%v is no OpError of %q", err, call.op)
				}
			})
		}
	}
}
