package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
)

// openLarge returns a handle for a new queue whose larger texts are in a directory of the
// test's own.
func openLarge(t *testing.T, threshold int, opts ...chanmq.Option) (q *chanmq.Queue[[]byte], dir string) {
	t.Helper()
	dir = journalDir(t)
	with := []chanmq.Option{chanmq.WithLarge(dir, chanmq.WithLargeThreshold(threshold)), chanmq.WithRemoveOnClose()}
	q, err := chanmq.Private(0o600, append(with, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q, dir
}

// largeFiles returns the names of the texts in the directory.
func largeFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if !strings.HasSuffix(name, ".lease") {
			names = append(names, name)
		}
	}
	return names
}

// wantLargeFiles checks how many texts there are.
func wantLargeFiles(t *testing.T, dir string, want int) {
	t.Helper()
	if got := largeFiles(t, dir); len(got) != want {
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
