//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

// afterEnd is every call that needs the queue.
func afterEnd(ctx context.Context, q *chanmq.Queue[[]byte]) map[string]func() error {
	calls := map[string]func() error{
		"Stat":   func() error { _, err := q.Stat(); return err },
		"Set":    func() error { return q.Set(chanmq.Attr{Perm: 0o600}) },
		"Remove": q.Remove,
		"Browse": func() error {
			for _, err := range q.Browse() {
				return err
			}
			return nil
		},
		"Receiver": func() error {
			r := q.Receiver(ctx, chanmq.Any())
			for range r.C() {
				return errors.New("Receiver: a message")
			}
			return r.Err()
		},
		"Sender": func() error {
			s := q.Sender(ctx, chanmq.WithBuffer(1))
			defer s.Unsent()
			s.C() <- message(1)
			<-s.Done()
			return s.Err()
		},
	}
	for _, s := range sends {
		calls[s.name] = func() error { return s.send(ctx, q, 1, []byte("text")) }
	}
	for _, r := range receives {
		calls[r.name] = func() error { _, err := r.receive(ctx, q, chanmq.Any()); return err }
	}
	return calls
}

func TestRemovedQueue(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 3)
	other := attach(t, q.ID())
	if err := other.Remove(); err != nil {
		t.Fatal(err)
	}
	for name, call := range afterEnd(ctxWithin(t), q) {
		wantError(t, name, call(), chanmq.ErrRemoved, "the queue was removed", fmt.Sprintf("msqid %d", q.ID()))
	}
}

func TestRemovalDuringTheWait(t *testing.T) {
	for _, tt := range []struct {
		name string
		full bool
		call func(context.Context, *chanmq.Queue[[]byte]) error
	}{
		{"Receive", false, func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			_, err := q.Receive(ctx, chanmq.Any())
			return err
		}},
		{"Messages", false, func(ctx context.Context, q *chanmq.Queue[[]byte]) (last error) {
			for _, err := range q.Messages(ctx, chanmq.Any()) {
				last = err
			}
			return last
		}},
		{"Send", true, func(ctx context.Context, q *chanmq.Queue[[]byte]) error { return q.Send(ctx, 1, make([]byte, 1024)) }},
	} {
		for _, polls := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, polling %v", tt.name, polls), func(t *testing.T) {
				var opts []chanmq.Option
				if polls {
					opts = append(opts, chanmq.WithPolling(time.Millisecond, time.Millisecond))
				}
				q := newQueue(t, opts...)
				if tt.full {
					fill(t, q)
				}
				ctx, result := ctxWithin(t), make(chan error, 1)
				background(t, func() { result <- tt.call(ctx, q) })
				if !polls {
					untilAsleep(t, 1)
				}
				if err := attach(t, q.ID()).Remove(); err != nil {
					t.Error(err)
				}
				wantError(t, tt.name, <-result, chanmq.ErrRemoved)
			})
		}
	}
}

func TestClosedHandle(t *testing.T) {
	q := newQueue(t)
	id := q.ID()
	sendNumbers(t, q, 1, 0, 1)
	strings := chanmq.As(q, codec.String())
	if err := strings.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range afterEnd(ctxWithin(t), q) {
		err := call()
		wantError(t, name, err, chanmq.ErrClosed, "the handle is closed")
		wantError(t, name, err, os.ErrClosed)
	}
	if q.ID() != id || q.Key() != 0 {
		t.Errorf("ID %d, Key %v; want %d and 0", q.ID(), q.Key(), id)
	}
	if err := q.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	// The queue lives on, with what stood in it.
	wantNumbers(t, attach(t, id), chanmq.Any(), 0, 1)
}

func TestPermissions(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user sets modes wrong, and does not tell of queues that it may not read")
	}
	self := os.Geteuid()
	if self == nobody {
		t.Skipf("this process is user %d itself", nobody)
	}
	const read, write = true, true
	for _, tt := range []struct {
		perm        fs.FileMode
		read, write bool
	}{
		{0o600, !read, !write},
		{0o640, !read, !write},
		{0o604, read, !write},
		{0o602, !read, write},
		{0o606, read, write},
	} {
		t.Run(fmt.Sprintf("%#o", tt.perm), func(t *testing.T) {
			q := newQueue(t)
			if err := q.Set(chanmq.Attr{Perm: tt.perm}); err != nil {
				t.Fatal(err)
			}
			sendNumbers(t, q, 1, 0, len(receives)+1) // for each receive, and for Browse
			asNobody(t, func() {
				other := must(chanmq.Attach(q.ID()))
				defer other.Close()
				ctx := ctxWithin(t)
				check := func(name string, err error, allowed bool) {
					if allowed {
						if err != nil {
							t.Errorf("%s: %v", name, err)
						}
						return
					}
					wantError(t, name, err, fs.ErrPermission, fmt.Sprintf("belongs to uid %d", self),
						fmt.Sprintf("permissions %#o", tt.perm), fmt.Sprintf("has uid %d", nobody))
				}
				for _, r := range receives {
					_, err := r.receive(ctx, other, chanmq.Any())
					check(r.name, err, tt.read)
				}
				_, err := other.Stat()
				check("Stat", err, tt.read)
				for _, err := range other.Browse() {
					check("Browse", err, tt.read)
					break
				}
				for _, s := range sends {
					check(s.name, s.send(ctx, other, 1, nil), tt.write)
				}
				check("Remove", other.Remove(), false)
				if tt.read { // Set begins with a look
					check("Set", other.Set(chanmq.Attr{Perm: 0o666}), false)
				}
			})
		})
	}
}
