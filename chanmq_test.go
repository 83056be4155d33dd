//go:build linux

package chanmq_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
)

// The ten promises of the package comment, one test each: what a program may rely
// on, through the exported API and on the kernel of this machine. They are an
// introduction. docs/reliability.md lists all tests that hold each promise.

// Promise 1: a message that the kernel handed over is in exactly one place: the
// caller's hands, C's buffer, the handle's hand-back slot, or back in the kernel
// queue. It is never dropped and never duplicated.
func TestPromise1ExactlyOnePlace(t *testing.T) {
	for _, buffer := range []int{0, 3} {
		t.Run(fmt.Sprintf("buffer %d", buffer), func(t *testing.T) {
			q := newQueue(t)
			other := attach(t, q.ID()) // another handle, as of another process
			const total, inHand = 10, 2
			places := make([][]string, total)
			is := func(place string, m chanmq.Message[[]byte]) {
				n := numberOf(m.Value)
				places[n] = append(places[n], place)
			}

			sendNumbers(t, q, 1, 0, total)
			ctx, cancel := context.WithCancel(ctxWithin(t))
			defer cancel()
			r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer))
			for range inHand {
				is("the caller's hands", next(t, r))
			}
			untilTaken(t, q, total-inHand-buffer-1) // C is full, and the Receiver holds one more
			cancel()
			<-r.Done()
			takeAll(t, other, func(m chanmq.Message[[]byte]) { is("the kernel queue", m) })
			for m := range r.C() {
				is("C's buffer", m)
			}
			if err := q.Close(); err != nil { // which empties the slot
				t.Error(err)
			}
			takeAll(t, other, func(m chanmq.Message[[]byte]) { is("the slot", m) })

			for n, places := range places {
				if len(places) != 1 {
					t.Errorf("message %d is in %q, want one place", n, places)
				}
			}
			if last := places[inHand+buffer]; !slices.Equal(last, []string{"the slot"}) {
				t.Errorf("the message that the Receiver held is in %q, want the slot", last)
			}
		})
	}
}

// Promise 2: Receive returns a message that it took even if ctx ended meanwhile;
// on a ctx already done it takes nothing.
func TestPromise2ReceiveReturnsWhatItTook(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 2)
	ctx, cancel := context.WithCancel(ctxWithin(t))
	defer cancel()
	// The codec is asked when the message has been taken: then ctx ends.
	view := chanmq.As(q, codec.Func(
		func(dst []byte, n int) ([]byte, error) { return append(dst, number(n)...), nil },
		func(src []byte, n *int) error { *n = numberOf(src); cancel(); return nil }))
	if m, err := view.Receive(ctx, chanmq.Any()); err != nil || m.Value != 0 {
		t.Errorf("Receive whose ctx ended behind the message = %v, %v; want number 0", m, err)
	}
	if m, err := view.Receive(ctx, chanmq.Any()); !errors.Is(err, context.Canceled) {
		t.Errorf("Receive on a ctx already done = %v, %v", m, err)
	}
	wantNumbers(t, q, chanmq.Any(), 1, 2)

	// Message and cancel at once: whoever is first, the message is somewhere.
	for n := range 200 {
		ctx, cancel := context.WithCancel(t.Context())
		var both sync.WaitGroup
		both.Go(func() {
			if err := q.Send(ctxWithin(t), 1, number(n)); err != nil {
				t.Error(err)
			}
		})
		both.Go(cancel)
		m, err := q.Receive(ctx, chanmq.Any())
		both.Wait()
		if err == nil {
			if got := numberOf(m.Value); got != n {
				t.Fatalf("Receive = %d, want %d", got, n)
			}
		} else {
			wantError(t, "Receive", err, context.Canceled)
			wantNumbers(t, q, chanmq.Any(), n, n+1)
		}
		wantNone(t, q)
	}
}

// Promise 3: when its ctx ends, a Receiver hands back the message it holds and
// closes C; values in C's buffer stay readable. Close also hands back what is
// unread in C. The next receive on the handle gets that first: order survives.
func TestPromise3OrderSurvivesCancelAndClose(t *testing.T) {
	q := newQueue(t)
	const total = 20
	sendNumbers(t, q, 1, 0, total)
	want := 0
	got := func(m chanmq.Message[[]byte]) {
		t.Helper()
		if n := numberOf(m.Value); n != want {
			t.Fatalf("received %d, want %d", n, want)
		}
		want++
	}

	ctx, cancel := context.WithCancel(ctxWithin(t))
	defer cancel()
	r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(3))
	got(next(t, r))
	untilTaken(t, q, total-5)
	cancel()
	for m := range r.C() { // what is in C stays readable
		got(m)
	}

	r = q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(3))
	got(next(t, r))
	untilTaken(t, q, total-want-4)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if m, ok := <-r.C(); ok {
		t.Errorf("C holds number %d after Close", numberOf(m.Value))
	}

	// Direct calls go on where the Receivers ended, also those of another view.
	view := chanmq.As(q, codec.Struct[uint32]())
	for ; want < total; want++ {
		if m, err := view.Receive(ctxWithin(t), chanmq.Any()); err != nil || int(m.Value) != want {
			t.Fatalf("Receive = %d, %v; want %d", m.Value, err, want)
		}
	}
	wantNone(t, q)
}

// Promise 4: Queue.Close ends every pump and sends what is unread back to the
// kernel queue, without blocking. What the kernel does not take, and what Senders
// had accepted and not sent, comes back in *UndeliveredError.
func TestPromise4CloseReturnsEverything(t *testing.T) {
	t.Run("to the kernel", func(t *testing.T) {
		q := newQueue(t)
		sendNumbers(t, q, 1, 0, 6)
		r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(2))
		untilTaken(t, q, 3)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		wantDone(t, "the Receiver", r.Done())
		other := attach(t, q.ID())
		wantNumbers(t, other, chanmq.Any(), 3, 6)
		wantNumbers(t, other, chanmq.Any(), 0, 3) // at the tail
		wantNone(t, other)
	})
	t.Run("to the program", func(t *testing.T) {
		q := newQueue(t)
		if err := q.Set(chanmq.Attr{MaxBytes: 4 * len(number(0))}); err != nil {
			t.Fatal(err)
		}
		sendNumbers(t, q, 1, 0, 2)
		r := q.Receiver(ctxWithin(t), chanmq.OfType(1), chanmq.WithBuffer(1))
		untilTaken(t, q, 0)
		s := q.Sender(ctxWithin(t), chanmq.WithBuffer(2))
		for n := 2; n < 9; n++ { // four fill the queue, the Sender accepts three more
			offer(t, s, chanmq.Message[[]byte]{Type: 2, Value: number(n)})
		}
		untilTaken(t, q, 4)
		var left *chanmq.UndeliveredError
		if err := q.Close(); !errors.As(err, &left) {
			t.Fatalf("Close: %v, want *UndeliveredError", err)
		}
		wantDone(t, "the Receiver", r.Done())
		wantDone(t, "the Sender", s.Done())
		var numbers []int
		for _, m := range left.Messages {
			numbers = append(numbers, numberOf(m.Value))
		}
		slices.Sort(numbers)
		if want := []int{0, 1, 6, 7, 8}; !slices.Equal(numbers, want) {
			t.Errorf("undelivered are %v, want %v", numbers, want)
		}
		other := attach(t, q.ID())
		wantNumbers(t, other, chanmq.Any(), 2, 6)
		wantNone(t, other)
	})
}

// Promise 5: C is closed exactly once, by the pump alone, after Err is readable.
// Close is safe from the consumer's own goroutine and from several at once.
func TestPromise5CIsClosedOnce(t *testing.T) {
	q := newQueue(t)
	why := errors.New("why")
	for range 50 {
		ctx, cancel := context.WithCancelCause(t.Context())
		r := q.Receiver(ctx, chanmq.Any())
		go cancel(why)
		for m := range r.C() {
			t.Errorf("received %v", m)
		}
		wantError(t, "Err when C is closed", r.Err(), why)

		sendNumbers(t, q, 1, 0, 3)
		r = q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(1))
		var closing sync.WaitGroup
		for range r.C() {
			for range 4 {
				closing.Go(func() { r.Close() }) // closing C again would panic
			}
			r.Close()
		}
		if err := r.Err(); err != nil {
			t.Errorf("Err after Close: %v, want nil", err)
		}
		closing.Wait()
		takeAll(t, q, func(chanmq.Message[[]byte]) {})
	}
}

// Promise 6: per type, one receiver sees the order in which the kernel queued the
// messages.
func TestPromise6OrderPerType(t *testing.T) {
	q := newQueue(t)
	const types, each = 3, 200
	ctx := ctxWithin(t)
	for typ := int64(1); typ <= types; typ++ {
		background(t, func() {
			for n := range each {
				if err := q.Send(ctx, typ, number(n)); err != nil {
					t.Errorf("sending %d of type %d: %v", n, typ, err)
					return
				}
			}
		})
	}
	r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(4))
	var want [types + 1]int
	for range types * each {
		m := next(t, r)
		if n := numberOf(m.Value); n != want[m.Type] {
			t.Fatalf("received %d of type %d, want %d", n, m.Type, want[m.Type])
		}
		want[m.Type]++
	}
}

// Promise 7: Receivers compete for messages; they do not broadcast. An unread
// type fills the queue for all senders.
func TestPromise7ReceiversCompete(t *testing.T) {
	q := newQueue(t)
	other := attach(t, q.ID())
	const total = 100
	sendNumbers(t, q, 1, 0, total)
	var came [total]int
	mine := q.Receiver(ctxWithin(t), chanmq.OfType(1))
	theirs := other.Receiver(ctxWithin(t), chanmq.OfType(1))
	for range total {
		var m chanmq.Message[[]byte]
		var open bool
		select {
		case m, open = <-mine.C():
		case m, open = <-theirs.C():
		}
		if !open {
			t.Fatalf("a Receiver has ended: %v, %v", mine.Err(), theirs.Err())
		}
		came[numberOf(m.Value)]++
	}
	mine.Close()
	theirs.Close()
	for _, handle := range []*chanmq.Queue[[]byte]{q, other} {
		takeAll(t, handle, func(m chanmq.Message[[]byte]) { came[numberOf(m.Value)]++ })
	}
	for n, times := range came {
		if times != 1 {
			t.Errorf("message %d was received %d times", n, times)
		}
	}

	fill(t, q) // with messages of type 9, 1,024 bytes each
	large := make([]byte, 1024)
	for _, handle := range []*chanmq.Queue[[]byte]{q, other} {
		if sent, err := handle.TrySend(1, large); sent || err != nil {
			t.Errorf("TrySend of type 1 while type 9 is unread = %v, %v", sent, err)
		}
	}
	if _, err := q.Receive(ctxWithin(t), chanmq.OfType(9)); err != nil {
		t.Fatal(err)
	}
	if sent, err := other.TrySend(1, large); !sent || err != nil {
		t.Errorf("TrySend of type 1 once one of type 9 was read = %v, %v", sent, err)
	}
}

// Promise 8: without a journal, the end of a process without Close (here SIGKILL)
// loses at most what it had taken: cap(C)+1 per Receiver. Direct calls read
// nothing ahead.
func TestPromise8KilledProcessLosesWhatItHeld(t *testing.T) {
	for _, buffer := range []int{directly, 0, 3} {
		name, most := fmt.Sprintf("buffer %d", buffer), buffer+1
		if buffer == directly {
			name, most = "direct calls", 0
		}
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			const total = 20
			sendNumbers(t, q, 1, 0, total)
			var came [total]int

			process := testkit.Process(t, "promise 8", fmt.Sprint(q.ID()), fmt.Sprint(buffer))
			stdin, err := process.StdinPipe() // it waits for its end
			if err != nil {
				t.Fatal(err)
			}
			defer stdin.Close()
			stdout, err := process.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := process.Start(); err != nil {
				t.Fatal(err)
			}
			reads := bufio.NewScanner(stdout)
			for range readByPromise8 {
				if !reads.Scan() {
					t.Fatalf("it has ended: %v", process.Wait())
				}
				n, err := strconv.Atoi(reads.Text())
				if err != nil {
					t.Fatal(err)
				}
				came[n]++
			}
			untilTaken(t, q, total-readByPromise8-most)
			if err := process.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = process.Wait() // its error is that it was killed

			takeAll(t, q, func(m chanmq.Message[[]byte]) { came[numberOf(m.Value)]++ })
			lost := 0
			for n, times := range came {
				if times == 0 {
					lost++
				} else if times > 1 {
					t.Errorf("message %d was received %d times", n, times)
				}
			}
			if lost > most {
				t.Errorf("%d messages lost, want at most %d", lost, most)
			}
		})
	}
}

const (
	readByPromise8 = 5
	directly       = -1 // in place of a Receiver's buffer
)

func init() {
	// The process reads some messages, prints their numbers, and waits to be
	// killed: msqid, buffer.
	roles["promise 8"] = func(args []string) error {
		q, err := attachArg(args[0])
		if err != nil {
			return err
		}
		buffer, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		ctx := context.Background()
		receive := func() (chanmq.Message[[]byte], error) { return q.Receive(ctx, chanmq.Any()) }
		if buffer != directly {
			r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer))
			receive = func() (chanmq.Message[[]byte], error) { return <-r.C(), r.Err() }
		}
		for range readByPromise8 {
			m, err := receive()
			if err != nil {
				return err
			}
			fmt.Println(numberOf(m.Value))
		}
		_, err = io.Copy(io.Discard, os.Stdin)
		return err
	}
}

// Promise 9: a message larger than the buffer grows the buffer and is never
// truncated. A message that does not decode ends the Receiver with a *DecodeError
// that holds it, or, with WithDecodeError, goes to that function.
func TestPromise9EveryMessageFits(t *testing.T) {
	t.Run("any size", func(t *testing.T) {
		q := newQueue(t)
		r := q.Receiver(ctxWithin(t), chanmq.Any())
		for _, size := range []int{0, 1, 100, 1000, min(largest(t), 1<<20)} {
			text := bytes.Repeat([]byte("text "), size/5+1)[:size]
			if err := q.Send(ctxWithin(t), 1, text); err != nil {
				t.Fatal(err)
			}
			if m := next(t, r); !bytes.Equal(m.Value, text) {
				t.Errorf("received %d bytes, want %d, as they were sent", len(m.Value), size)
			}
		}
	})
	t.Run("any text", func(t *testing.T) {
		q := newQueue(t)
		send := func(texts ...string) {
			for _, text := range texts {
				if err := q.Send(ctxWithin(t), 1, []byte(text)); err != nil {
					t.Fatal(err)
				}
			}
		}
		view := chanmq.As(q, codec.JSON[int]())
		check := func(err *chanmq.DecodeError) {
			if text := string(err.Message.Value); text != "bad" {
				t.Errorf("the error holds %q, want the message", text)
			}
		}

		send("1", "bad", "2")
		r := view.Receiver(ctxWithin(t), chanmq.Any())
		if m := next(t, r); m.Value != 1 {
			t.Errorf("received %d, want 1", m.Value)
		}
		if m, ok := <-r.C(); ok {
			t.Errorf("received %d, want the end", m.Value)
		}
		var undecoded *chanmq.DecodeError
		if err := r.Err(); !errors.As(err, &undecoded) {
			t.Fatalf("Err: %v, want *DecodeError", err)
		}
		check(undecoded)

		send("bad", "3")
		calls := 0
		r = view.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithDecodeError(func(err *chanmq.DecodeError) {
			calls++
			check(err)
		}))
		for want := 2; want <= 3; want++ {
			if m := next(t, r); m.Value != want {
				t.Errorf("received %d, want %d", m.Value, want)
			}
		}
		if calls != 1 {
			t.Errorf("WithDecodeError's function was called %d times, want once", calls)
		}
	})
}

// Promise 10: a queue that is removed ends every Receiver, Sender and call with
// ErrRemoved. With WithReopen they look the key up again and carry on.
func TestPromise10RemovalEndsEverything(t *testing.T) {
	t.Run("ErrRemoved", func(t *testing.T) {
		q := newQueue(t)
		sendNumbers(t, q, 3, 0, 1)
		holding := q.Receiver(ctxWithin(t), chanmq.OfType(3)) // a message that nobody reads
		untilTaken(t, q, 0)
		fill(t, q)
		large := make([]byte, 1024)
		ctx := ctxWithin(t)
		received, sent := make(chan error, 1), make(chan error, 1)
		background(t, func() {
			_, err := q.Receive(ctx, chanmq.OfType(1))
			received <- err
		})
		background(t, func() { sent <- q.Send(ctx, 2, large) })
		r, s := q.Receiver(ctx, chanmq.OfType(1)), q.Sender(ctx)
		offer(t, s, chanmq.Message[[]byte]{Type: 2, Value: large})

		if err := attach(t, q.ID()).Remove(); err != nil { // as ipcrm does
			t.Fatal(err)
		}
		wantError(t, "Receive", <-received, chanmq.ErrRemoved)
		wantError(t, "Send", <-sent, chanmq.ErrRemoved)
		for m := range r.C() {
			t.Errorf("received %v", m)
		}
		wantError(t, "the Receiver's Err", r.Err(), chanmq.ErrRemoved)
		<-s.Done()
		wantError(t, "the Sender's Err", s.Err(), chanmq.ErrRemoved)
		if unsent := len(s.Unsent()); unsent != 1 {
			t.Errorf("%d messages are unsent, want 1", unsent)
		}
		<-holding.Done()
		wantError(t, "Err of the Receiver that holds a message", holding.Err(), chanmq.ErrRemoved)
		wantNumbers(t, q, chanmq.OfType(3), 0, 1) // which it handed back
	})
	t.Run("WithReopen", func(t *testing.T) {
		first := newKeyed(t)
		q := adopt(t, must(chanmq.Open(first.Key(), chanmq.WithReopen())))
		r := q.Receiver(ctxWithin(t), chanmq.Any())
		sendNumbers(t, q, 1, 0, 1)
		if n := numberOf(next(t, r).Value); n != 0 {
			t.Errorf("received %d, want 0", n)
		}
		if err := first.Remove(); err != nil {
			t.Fatal(err)
		}
		second := adopt(t, must(chanmq.Create(first.Key(), 0o600)))
		sendNumbers(t, second, 1, 1, 2)
		if n := numberOf(next(t, r).Value); n != 1 {
			t.Errorf("received %d from the new queue, want 1", n)
		}
	})
}

// next returns the next value of C, which must be open.
func next[T any](t *testing.T, r *chanmq.Receiver[T]) chanmq.Message[T] {
	t.Helper()
	m, ok := <-r.C()
	if !ok {
		t.Fatalf("C is closed: %v", r.Err())
	}
	return m
}

// offer gives a Sender a message, which it must accept.
func offer(t *testing.T, s *chanmq.Sender[[]byte], m chanmq.Message[[]byte]) {
	t.Helper()
	select {
	case s.C() <- m:
	case <-s.Done():
		t.Fatalf("the Sender has ended: %v", s.Err())
	}
}

// wantDone checks that a pump has ended.
func wantDone(t *testing.T, what string, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	default:
		t.Errorf("%s still runs", what)
	}
}
