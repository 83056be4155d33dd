//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

// largestText makes TestLargeOfEverySize go further: go test -run LargeOfEverySize -largest 1073741824
var largestText = flag.Int("largest", 1<<24, "bytes of the largest text of TestLargeOfEverySize, which takes some five times as much memory")

func init() { roles["large-sizes"] = sendLargeSizes }

// largeSizes are what texts have, up to the largest: around every limit there is.
func largeSizes(most int) (sizes []int) {
	for _, size := range []int{
		0, 1, 4095, 4096, 4097, 8191, 8192, 8193, 16384, 16385, 1<<16 - 1, 1 << 16, 1<<16 + 1,
		1<<20 - 1, 1 << 20, 1<<20 + 1, 1 << 24, 1<<27 + 3, 1<<29 + 1, 1 << 30,
	} {
		if size <= most {
			sizes = append(sizes, size)
		}
	}
	return sizes
}

// sizedText is what the text of so many bytes has in it, a piece for each call.
func sizedText(size int) func(piece []byte) {
	source := rand.NewChaCha8([32]byte{byte(size), byte(size >> 8), byte(size >> 16), byte(size >> 24), 7})
	return func(piece []byte) { _, _ = source.Read(piece) } // it does not fail
}

const sizedPiece = 1 << 20

// wantSized checks a text, whose type tells the size.
func wantSized(t *testing.T, m chanmq.Message[[]byte], size int) {
	t.Helper()
	if m.Type != int64(size)+1 || len(m.Value) != size {
		t.Fatalf("a message of type %d has %d bytes, want %d", m.Type, len(m.Value), size)
	}
	next, want := sizedText(size), make([]byte, min(size, sizedPiece))
	for at := 0; at < size; at += sizedPiece {
		piece := want[:min(sizedPiece, size-at)]
		if next(piece); !bytes.Equal(m.Value[at:at+len(piece)], piece) {
			t.Fatalf("a text of %d bytes is another one behind %d", size, at)
		}
	}
}

// browsed reports whether the text of so many bytes is in the queue, which is not the first of
// others, and checks it.
func browsed(t *testing.T, q *chanmq.Queue[[]byte], size int) bool {
	t.Helper()
	for m, err := range q.Browse() {
		switch {
		case m.Type != int64(size)+1, errors.Is(err, fs.ErrNotExist): // taken meanwhile
			return false
		case err != nil:
			t.Fatal(err)
		}
		wantSized(t, m, size)
		return true
	}
	return false
}

// sendLargeSizes sends texts of all sizes: msqid, directory, the largest, by what.
func sendLargeSizes(args []string) error {
	id, idErr := strconv.Atoi(args[0])
	most, mostErr := strconv.Atoi(args[2])
	if err := errors.Join(idErr, mostErr); err != nil {
		return err
	}
	q, err := chanmq.Attach(id, chanmq.WithLarge(args[1]))
	if err != nil {
		return err
	}
	defer q.Close()
	ctx := context.Background()
	s := q.Sender(ctx)
	for _, size := range largeSizes(most) {
		text, next := make([]byte, size), sizedText(size)
		for at := 0; at < size; at += sizedPiece {
			next(text[at:min(at+sizedPiece, size)])
		}
		if args[3] == "Send" {
			err = q.Send(ctx, int64(size)+1, text)
		} else {
			select {
			case s.C() <- chanmq.Message[[]byte]{Type: int64(size) + 1, Value: text}:
			case <-s.Done():
				err = s.Err()
			}
		}
		if err != nil {
			return err
		}
	}
	return errors.Join(s.Flush(ctx), s.Close())
}

// TestLargeOfEverySize: texts of all sizes come as they were, whichever way they take from one process
// to another, and leave nothing.
func TestLargeOfEverySize(t *testing.T) {
	sizes := largeSizes(*largestText)
	for _, way := range []struct {
		name, sends string
		journal     bool
		receive     func(t *testing.T, ctx context.Context, q *chanmq.Queue[[]byte])
	}{
		{"Send, ReceiveInto", "Send", false, func(t *testing.T, ctx context.Context, q *chanmq.Queue[[]byte]) {
			var m chanmq.Message[[]byte]
			for _, size := range sizes {
				if err := q.ReceiveInto(ctx, chanmq.Any(), &m); err != nil {
					t.Fatal(err)
				}
				wantSized(t, m, size)
			}
		}},
		{"Sender, Receiver", "Sender", false, func(t *testing.T, ctx context.Context, q *chanmq.Queue[[]byte]) {
			r := q.Receiver(ctx, chanmq.Any())
			for _, size := range sizes {
				wantSized(t, <-r.C(), size)
			}
		}},
		{"Sender, Receiver with a journal", "Sender", true, func(t *testing.T, ctx context.Context, q *chanmq.Queue[[]byte]) {
			r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(2))
			for _, size := range sizes {
				wantSized(t, <-r.C(), size)
			}
		}},
		{"Send, Consumer with a journal and borrowed values", "Send", true, func(t *testing.T, ctx context.Context, q *chanmq.Queue[[]byte]) {
			c := q.Consumer(ctx, chanmq.Any(), chanmq.WithBorrowedValues(), chanmq.WithInFlight(1))
			for _, size := range sizes {
				d := <-c.C()
				wantSized(t, d.Message, size)
				if err := d.Nack(); err != nil {
					t.Fatal(err)
				}
				d = <-c.C()
				wantSized(t, d.Message, size)
				if err := d.Ack(); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"Send, Browse, hand-back", "Send", false, func(t *testing.T, ctx context.Context, q *chanmq.Queue[[]byte]) {
			for _, size := range sizes {
				testkit.Eventually(t, "the text is in the queue", func() bool { return browsed(t, q, size) })
				canceled, cancel := context.WithCancel(ctx)
				r := q.Receiver(canceled, chanmq.OfType(int64(size)+1))
				testkit.Eventually(t, "the Receiver has the text", func() bool { return !browsed(t, q, size) })
				cancel()
				<-r.Done()
				m, err := q.Receive(ctx, chanmq.OfType(int64(size)+1))
				if err != nil {
					t.Fatal(err)
				}
				wantSized(t, m, size)
			}
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			dir := journalDir(t)
			opts := []chanmq.Option{chanmq.WithLarge(dir), chanmq.WithRemoveOnClose()}
			if way.journal {
				opts = append(opts, chanmq.WithJournal(journalDir(t)))
			}
			q, err := chanmq.Private(0o600, opts...)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { q.Close() })
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			cmd := testkit.Process(t, "large-sizes", fmt.Sprint(q.ID()), dir, fmt.Sprint(*largestText), way.sends)
			cmd.Stderr = os.Stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			way.receive(t, ctx, q)
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			t.Logf("%d texts up to %d bytes in %v", len(sizes), sizes[len(sizes)-1], time.Since(began).Round(time.Millisecond))
			wantLargeFiles(t, dir, 0)
		})
	}
}
