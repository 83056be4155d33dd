//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/testkit"
)

// openLarge returns a handle for a new queue whose larger texts are in a directory of the
// test's own.
func openLarge(t *testing.T, threshold int, opts ...chanmq.Option) (q *chanmq.Queue[[]byte], dir string) {
	t.Helper()
	dir = journalDir(t)
	return openLargeIn(t, dir, threshold, opts...), dir
}

func openLargeIn(t *testing.T, dir string, threshold int, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	with := []chanmq.Option{chanmq.WithLarge(dir, chanmq.WithLargeThreshold(threshold)), chanmq.WithRemoveOnClose()}
	q, err := chanmq.Private(0o600, append(with, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// wantLargeFiles checks how many texts there are.
func wantLargeFiles(t *testing.T, dir string, want int) {
	t.Helper()
	if got := testkit.LargeFiles(t, dir); len(got) != want {
		t.Errorf("%d files, want %d: %q", len(got), want, got)
	}
}

// largeText returns a text of n bytes that is like no other of another number.
func largeText(n, number int) []byte {
	text := bytes.Repeat([]byte{byte(number)}, n)
	for i := 0; i < n; i += 509 {
		text[i] = byte(i / 509)
	}
	return text
}

func TestLargeSizes(t *testing.T) {
	dir := journalDir(t)
	q, err := chanmq.Private(0o600, chanmq.WithLarge(dir), chanmq.WithRemoveOnClose())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	ctx := context.Background()
	for _, test := range []struct{ size, files int }{
		{0, 0}, {1, 0}, {4096, 0}, {4097, 1}, {8192, 1}, {8193, 1}, {1 << 20, 1}, {16<<20 + 1, 1},
	} {
		text := largeText(test.size, 7)
		if err := q.Send(ctx, 3, text); err != nil {
			t.Fatal(test.size, err)
		}
		wantLargeFiles(t, dir, test.files)
		m, err := q.Receive(ctx, chanmq.Any())
		if err != nil || m.Type != 3 || !bytes.Equal(m.Value, text) {
			t.Errorf("%d bytes: got type %d, %d bytes, %v", test.size, m.Type, len(m.Value), err)
		}
		wantLargeFiles(t, dir, 0)
	}
}

// TestLargeBrowsedBehindAnEnvelope: what Browse shows does not depend on the message before.
func TestLargeBrowsedBehindAnEnvelope(t *testing.T) {
	q, _ := openLarge(t, 100)
	plain := envelope.Wrap(nil, []byte("\xFEcmq"))
	texts := [][]byte{[]byte("\xFEcmq is no envelope"), []byte("behind it"), largeText(1000, 1), plain, largeText(1000, 2)}
	for _, text := range texts {
		if err := q.Send(ctxWithin(t), 1, text); err != nil {
			t.Fatal(err)
		}
	}
	damaged := []byte("\xFEcmq damaged")
	if err := attach(t, q.ID()).Send(ctxWithin(t), 1, damaged); err != nil {
		t.Fatal(err)
	}
	if err := q.Send(ctxWithin(t), 1, []byte("the last")); err != nil {
		t.Fatal(err)
	}
	texts = append(texts, damaged, []byte("the last"))
	n := 0
	for m, err := range q.Browse() {
		var undecoded *chanmq.DecodeError
		if errors.As(err, &undecoded) && bytes.Equal(texts[n], damaged) {
			m, err = undecoded.Message, nil
		}
		if err != nil || !bytes.Equal(m.Value, texts[n]) {
			t.Errorf("message %d: %q, %v", n, m.Value, err)
		}
		n++
	}
	if n != len(texts) {
		t.Errorf("%d messages", n)
	}
}

func TestLargeIsRemovedWhenNotSent(t *testing.T) {
	q, dir := openLarge(t, 100)
	for {
		sent, err := q.TrySend(1, make([]byte, 90))
		if err != nil {
			t.Fatal(err)
		}
		if !sent {
			break
		}
	}
	if sent, err := q.TrySend(1, largeText(1000, 1)); sent || err != nil {
		t.Errorf("sent to a full queue: %v, %v", sent, err)
	}
	wantLargeFiles(t, dir, 0)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	if err := q.Send(ctx, 1, largeText(1000, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	wantLargeFiles(t, dir, 0)
	if err := q.Send(context.Background(), 0, largeText(1000, 1)); !errors.Is(err, chanmq.ErrInvalidType) {
		t.Error(err)
	}
	wantLargeFiles(t, dir, 0)
	s := q.Sender(context.Background(), chanmq.WithBuffer(2))
	s.C() <- chanmq.Message[[]byte]{Type: 1, Value: largeText(1000, 1)}
	s.C() <- chanmq.Message[[]byte]{Type: 1, Value: largeText(2000, 2)}
	if err := s.Close(); err == nil {
		t.Error("sent to a full queue")
	}
	unsent := s.Unsent()
	if len(unsent) != 2 || !bytes.Equal(unsent[1].Value, largeText(2000, 2)) {
		t.Errorf("%d unsent", len(unsent))
	}
	wantLargeFiles(t, dir, 0)
}

// sendLarge sends large texts with the numbers as first bytes.
func sendLarge(t *testing.T, q *chanmq.Queue[[]byte], numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		if err := q.Send(ctxWithin(t), 1, largeText(1000, n)); err != nil {
			t.Fatal(err)
		}
	}
}

// wantLarge receives those texts, and no others.
func wantLarge(t *testing.T, q *chanmq.Queue[[]byte], numbers ...int) {
	t.Helper()
	for _, n := range numbers {
		m, ok, err := q.TryReceive(chanmq.Any())
		if err != nil || !ok || !bytes.Equal(m.Value, largeText(1000, n)) {
			t.Errorf("number %d: %v, %d bytes, %v", n, ok, len(m.Value), err)
		}
	}
	wantNone(t, q)
}

// TestLargeLivesAsLongAsItsMessage: on each way of a message, when its file is removed.
func TestLargeLivesAsLongAsItsMessage(t *testing.T) {
	for _, options := range []struct {
		name string
		more func(t *testing.T) []chanmq.Option
	}{
		{"alone", func(*testing.T) []chanmq.Option { return nil }},
		{"journal", func(t *testing.T) []chanmq.Option { return []chanmq.Option{chanmq.WithJournal(journalDir(t))} }},
		{"packing", func(*testing.T) []chanmq.Option { return []chanmq.Option{chanmq.WithPacking()} }},
		{"all", func(t *testing.T) []chanmq.Option {
			return []chanmq.Option{chanmq.WithJournal(journalDir(t)), chanmq.WithPacking()}
		}},
	} {
		for _, test := range []struct {
			name string
			do   func(t *testing.T, q *chanmq.Queue[[]byte], dir string)
		}{
			{"direct calls", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				sendLarge(t, q, 1, 2, 3)
				var m chanmq.Message[[]byte]
				if err := q.ReceiveInto(ctxWithin(t), chanmq.Any(), &m); err != nil || !bytes.Equal(m.Value, largeText(1000, 1)) {
					t.Error(err)
				}
				wantLargeFiles(t, dir, 2)
				batch := make([]chanmq.Message[[]byte], 5)
				if n, err := q.ReceiveBatch(ctxWithin(t), chanmq.Any(), batch); n != 2 || err != nil || !bytes.Equal(batch[1].Value, largeText(1000, 3)) {
					t.Errorf("batch of %d, %v", n, err)
				}
			}},
			{"SendAll", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				values := [][]byte{largeText(10, 1), largeText(20, 2), largeText(1000, 3), largeText(1000, 4), largeText(30, 5)}
				if n, err := q.SendAll(ctxWithin(t), 1, values); n != len(values) || err != nil {
					t.Fatal(n, err)
				}
				wantLargeFiles(t, dir, 2)
				for i, value := range values {
					if m, err := q.Receive(ctxWithin(t), chanmq.Any()); err != nil || !bytes.Equal(m.Value, value) {
						t.Errorf("value %d: %d bytes, %v", i, len(m.Value), err)
					}
				}
			}},
			{"Browse", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				sendLarge(t, q, 1, 2)
				for range 2 {
					n := 0
					for m, err := range q.Browse() {
						if n++; err != nil || !bytes.Equal(m.Value, largeText(1000, n)) {
							t.Errorf("browsed %d bytes, %v", len(m.Value), err)
						}
					}
					if n != 2 {
						t.Errorf("%d messages", n)
					}
				}
				wantLargeFiles(t, dir, 2)
				wantLarge(t, q, 1, 2)
			}},
			{"pumps", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				s := q.Sender(ctxWithin(t), chanmq.WithBuffer(8))
				for n := range 8 {
					s.C() <- chanmq.Message[[]byte]{Type: 1, Value: largeText(n%2*1000+50, n)}
				}
				if err := s.Flush(ctxWithin(t)); err != nil {
					t.Fatal(err)
				}
				wantLargeFiles(t, dir, 4)
				r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(3))
				for n := range 8 {
					if m := <-r.C(); !bytes.Equal(m.Value, largeText(n%2*1000+50, n)) {
						t.Errorf("number %d: %d bytes", n, len(m.Value))
					}
				}
				if err := errors.Join(s.Close(), r.Close()); err != nil {
					t.Error(err)
				}
			}},
			{"hand back", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				sendLarge(t, q, 1, 2, 3, 4)
				r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(2))
				if m := <-r.C(); !bytes.Equal(m.Value, largeText(1000, 1)) {
					t.Error("not the first one")
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
				wantLargeFiles(t, dir, 3)
				wantLarge(t, q, 2, 3, 4)
			}},
			{"back to the kernel", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				other := attach(t, q.ID())
				second, err := chanmq.Attach(q.ID(), chanmq.WithLarge(dir, chanmq.WithLargeThreshold(100)))
				if err != nil {
					t.Fatal(err)
				}
				sendLarge(t, q, 1, 2)
				d, err := second.Take(ctxWithin(t), chanmq.Any())
				if err != nil || !bytes.Equal(d.Value, largeText(1000, 1)) {
					t.Fatal(err)
				}
				if err := d.Nack(); err != nil {
					t.Error(err)
				}
				if n := countMessages(t, other); n != 1 {
					t.Errorf("%d messages", n)
				}
				if err := second.Close(); err != nil {
					t.Error(err)
				}
				if n := countMessages(t, other); n != 2 {
					t.Errorf("%d messages", n)
				}
				wantLargeFiles(t, dir, 2)
				wantLarge(t, q, 2, 1)
			}},
			{"Take", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				sendLarge(t, q, 1, 2)
				d, err := q.Take(ctxWithin(t), chanmq.Any())
				if err != nil || !bytes.Equal(d.Value, largeText(1000, 1)) {
					t.Fatal(err)
				}
				wantLargeFiles(t, dir, 2)
				if err := errors.Join(d.Ack(), d.Ack()); err != nil {
					t.Error(err)
				}
				wantLargeFiles(t, dir, 1)
				if d, err = q.Take(ctxWithin(t), chanmq.Any()); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(d.Nack(), d.Nack()); err != nil {
					t.Error(err)
				}
				wantLargeFiles(t, dir, 1)
				wantLarge(t, q, 2)
			}},
			{"Consumer with borrowed values", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				sendLarge(t, q, 1, 2, 3)
				c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithBorrowedValues(), chanmq.WithInFlight(2))
				first, second := <-c.C(), <-c.C()
				if !bytes.Equal(first.Value, largeText(1000, 1)) || !bytes.Equal(second.Value, largeText(1000, 2)) {
					t.Error("not the first two")
				}
				wantLargeFiles(t, dir, 3)
				if err := errors.Join(first.Ack(), second.Ack(), (<-c.C()).Ack(), c.Close()); err != nil {
					t.Error(err)
				}
			}},
			{"attempts", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				sendLarge(t, q, 1)
				dead := make(chan []byte, 1)
				c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithMaxAttempts(2, func(d chanmq.Delivery[[]byte]) { dead <- d.Value }))
				for range 2 {
					if err := (<-c.C()).Nack(); err != nil {
						t.Error(err)
					}
				}
				if text := <-dead; !bytes.Equal(text, largeText(1000, 1)) {
					t.Errorf("given up: %d bytes", len(text))
				}
				if err := c.Close(); err != nil {
					t.Error(err)
				}
			}},
			{"Merge", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				sendLarge(t, q, 1, 2, 3)
				m := chanmq.Merge(q.Receiver(ctxWithin(t), chanmq.Any()))
				if v := <-m.C(); !bytes.Equal(v.Value, largeText(1000, 1)) {
					t.Error("not the first one")
				}
				if err := m.Close(); err != nil {
					t.Error(err)
				}
				wantLarge(t, q, 2, 3)
			}},
			{"another codec", func(t *testing.T, q *chanmq.Queue[[]byte], dir string) {
				v := chanmq.As(q, codec.JSON[[]string]())
				words := slices.Repeat([]string{"word"}, 100)
				if err := v.Send(ctxWithin(t), 1, words); err != nil {
					t.Fatal(err)
				}
				wantLargeFiles(t, dir, 1)
				if m, err := v.Receive(ctxWithin(t), chanmq.Any()); err != nil || !slices.Equal(m.Value, words) {
					t.Error(m, err)
				}
				sendLarge(t, q, 9)
				_, err := v.Receive(ctxWithin(t), chanmq.Any())
				var undecoded *chanmq.DecodeError
				if !errors.As(err, &undecoded) || !bytes.Equal(undecoded.Message.Value, largeText(1000, 9)) {
					t.Error(err)
				}
			}},
		} {
			t.Run(options.name+"/"+test.name, func(t *testing.T) {
				q, dir := openLarge(t, 100, options.more(t)...)
				test.do(t, q, dir)
				if err := q.Close(); err != nil {
					t.Error(err)
				}
				wantLargeFiles(t, dir, 0)
			})
		}
	}
}

// TestLargeOfARemovedQueue: the files of what was in it go with it.
func TestLargeOfARemovedQueue(t *testing.T) {
	for _, test := range []struct {
		name   string
		remove func(q *chanmq.Queue[[]byte]) error
	}{
		{"WithRemoveOnClose", func(*chanmq.Queue[[]byte]) error { return nil }},
		{"Remove", func(q *chanmq.Queue[[]byte]) error { return q.Remove() }},
	} {
		t.Run(test.name, func(t *testing.T) {
			q, dir := openLarge(t, 100)
			sendLarge(t, q, 1, 2, 3)
			d, err := q.Take(ctxWithin(t), chanmq.Any())
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(test.remove(q), q.Close()); err != nil {
				t.Error(err)
			}
			wantLargeFiles(t, dir, 1)
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
			wantLargeFiles(t, dir, 0)
		})
	}
}

// TestLargeUndelivered: what comes back to the program is the text.
func TestLargeUndelivered(t *testing.T) {
	q, dir := openLarge(t, 100)
	sendLarge(t, q, 1)
	r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(1))
	for len(r.C()) == 0 {
		time.Sleep(time.Millisecond)
	}
	var left *chanmq.UndeliveredError
	if err := q.Close(); !errors.As(err, &left) || len(left.Messages) != 1 || !bytes.Equal(left.Messages[0].Value, largeText(1000, 1)) {
		t.Error(err)
	}
	wantLargeFiles(t, dir, 0)
}

// TestLargeWithoutTheOption: such a handle has the reference, as bytes.
func TestLargeWithoutTheOption(t *testing.T) {
	q, _ := openLarge(t, 100)
	sendLarge(t, q, 1)
	m, err := attach(t, q.ID()).Receive(ctxWithin(t), chanmq.Any())
	if err != nil || len(m.Value) != 56 || !bytes.HasPrefix(m.Value, []byte("\xFEcmq\x01\x07")) {
		t.Errorf("%x, %v", m.Value, err)
	}
}

// TestLargeThatCannotBeRead: the error holds the reference, and says what is wrong.
func TestLargeThatCannotBeRead(t *testing.T) {
	for _, test := range []struct {
		name string
		harm func(path string) error
		word string
	}{
		{"removed", os.Remove, "does not exist"},
		{"shorter", func(path string) error { return os.Truncate(path, 999) }, "999 bytes"},
		{"damaged", func(path string) error {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte("x"), 5)
			return errors.Join(err, f.Close())
		}, "checksum"},
		{"a link", func(path string) error {
			return errors.Join(os.Rename(path, path+".moved"), os.Symlink(path+".moved", path))
		}, "symbolic"},
		{"a directory", func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o700)) }, "no regular file"},
	} {
		t.Run(test.name, func(t *testing.T) {
			q, dir := openLarge(t, 100)
			sendLarge(t, q, 1)
			path := testkit.LargeFiles(t, dir)[0]
			t.Cleanup(func() { // before q is closed
				if err := errors.Join(os.RemoveAll(path), os.RemoveAll(path+".moved")); err != nil {
					t.Error(err)
				}
			})
			if err := test.harm(path); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				for _, err := range q.Browse() {
					var undecoded *chanmq.DecodeError
					if !errors.As(err, &undecoded) || !strings.Contains(err.Error(), test.word) {
						t.Errorf("browsed: %v", err)
					}
				}
			}
			_, err := q.Receive(ctxWithin(t), chanmq.Any())
			var undecoded *chanmq.DecodeError
			if !errors.As(err, &undecoded) || len(undecoded.Message.Value) != 56 || !strings.Contains(err.Error(), test.word) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestLargeForward(t *testing.T) {
	for _, test := range []struct {
		name     string
		from, to bool // with the option
		want     int  // files in the directory of to, on the way
	}{
		{"both", true, true, 1},
		{"from", true, false, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			from, dir := openLarge(t, 100)
			to := newQueue(t, chanmq.WithRemoveOnClose())
			if test.to {
				to = openLargeIn(t, dir, 100)
			}
			sendLarge(t, from, 1)
			ctx, cancel := context.WithCancel(ctxWithin(t))
			ended := make(chan error)
			go func() { ended <- chanmq.Forward(ctx, to, from, chanmq.Any()) }()
			for countMessages(t, to) == 0 {
				time.Sleep(time.Millisecond)
			}
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			wantLargeFiles(t, dir, test.want)
			wantLarge(t, to, 1)
			wantLargeFiles(t, dir, 0)
		})
	}
}

// TestLargeForwardedToNoRoom: a text that is larger than to takes stays in from.
func TestLargeForwardedToNoRoom(t *testing.T) {
	from, dir := openLarge(t, 100)
	text := largeText(1<<20, 5)
	if err := from.Send(ctxWithin(t), 1, text); err != nil {
		t.Fatal(err)
	}
	if err := chanmq.Forward(ctxWithin(t), newQueue(t), from, chanmq.Any()); !errors.Is(err, chanmq.ErrTooLarge) {
		t.Error(err)
	}
	wantLargeFiles(t, dir, 1)
	if m, err := from.Receive(ctxWithin(t), chanmq.Any()); err != nil || !bytes.Equal(m.Value, text) {
		t.Error(err)
	}
}

// TestLargeReopened: what was taken from the queue before, and what waits to be sent, belongs
// to the one that is found again.
func TestLargeReopened(t *testing.T) {
	dir := journalDir(t)
	option := chanmq.WithLarge(dir, chanmq.WithLargeThreshold(100))
	q := newKeyed(t, option, chanmq.WithReopen())
	sendLarge(t, q, 1)
	d, err := q.Take(ctxWithin(t), chanmq.Any())
	if err != nil {
		t.Fatal(err)
	}
	remover, err := chanmq.Open(q.Key())
	if err == nil {
		err = errors.Join(remover.Remove(), remover.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	sendLarge(t, q, 2) // the kernel refuses it at first
	if err := d.Nack(); err != nil {
		t.Error(err)
	}
	other, err := chanmq.Open(q.Key(), option, chanmq.WithRemoveOnClose())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	wantLarge(t, other, 2, 1)
	wantLargeFiles(t, dir, 0)
	if err := other.Close(); err != nil {
		t.Error(err)
	}
}

// TestCountersOfALargerText: it is one message, also behind a pack.
func TestCountersOfALargerText(t *testing.T) {
	var sent []int
	q := openLargeIn(t, journalDir(t), 100, chanmq.WithPacking(), chanmq.WithCounters(), chanmq.WithObserver(func(_ context.Context, e chanmq.Event) {
		if e.Op == chanmq.OpSend {
			sent = append(sent, e.Messages)
		}
	}))
	ctx := context.Background()
	if _, err := q.SendAll(ctx, 1, [][]byte{{1}, {2}, {3}}); err != nil {
		t.Fatal(err)
	}
	if err := q.Send(ctx, 1, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if n := q.Counters().Sent; n != 4 || !slices.Equal(sent, []int{3, 1}) {
		t.Errorf("%d sent, in sends of %v; want 4, of 3 and 1", n, sent)
	}
}
