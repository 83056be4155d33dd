//go:build linux

package serve_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/serve"
)

// wantNoFiles checks that no text of a message is left in a directory of WithLarge.
func wantNoFiles(t testing.TB, dir string) {
	t.Helper()
	if left := testkit.LargeFiles(t, dir); len(left) > 0 {
		t.Errorf("%d files are left, the first is %s", len(left), left[0])
	}
}

// order is a request for a text of some bytes.
func order(size, number, padding int) []byte {
	request := binary.LittleEndian.AppendUint32(nil, uint32(size))
	request = binary.LittleEndian.AppendUint32(request, uint32(number))
	return append(request, delivered(padding, number)...)
}

// delivered is the text.
func delivered(size, number int) []byte {
	text := bytes.Repeat([]byte{byte(number)}, size)
	for i := 0; i < size; i += 251 {
		text[i] = byte(i/251 + number>>8)
	}
	return text
}

// deliver is the handler. It checks the padding, too.
func deliver(_ context.Context, request []byte) ([]byte, error) {
	size, number := int(binary.LittleEndian.Uint32(request)), int(binary.LittleEndian.Uint32(request[4:]))
	if padding := request[8:]; !bytes.Equal(padding, delivered(len(padding), number)) {
		return nil, fmt.Errorf("request %d, %d bytes, came damaged", number, len(request))
	}
	return delivered(size, number), nil
}

// TestLargeCalls: calls whose requests and replies are larger than a message, beside small
// ones, each get their own reply, and nothing is left over.
func TestLargeCalls(t *testing.T) {
	for _, journal := range []bool{false, true} {
		t.Run(fmt.Sprint("journal: ", journal), func(t *testing.T) {
			dir := journalDir(t)
			const threshold = 1000
			with := func() []chanmq.Option {
				opts := []chanmq.Option{chanmq.WithLarge(dir, chanmq.WithLargeThreshold(threshold))}
				if journal {
					opts = append(opts, chanmq.WithJournal(journalDir(t)))
				}
				return opts
			}
			requests, replies := newQueue(t, with()...), newQueue(t, with()...)
			s := serve.NewServer(attach(t, requests, with()...), attach(t, replies, with()...))
			serve.Handle(s, chanmq.OfType(1), codec.Bytes(), codec.Bytes(), deliver, serve.WithConcurrency(3))
			stop := start(t, s)
			sizes := []int{0, threshold - 48, threshold - 47, 8192 - 48, 8193, 64 << 10, 1<<20 + 1}
			const callers, each = 12, 14
			clients := []*serve.Client[[]byte, []byte]{
				serve.NewClient(requests, replies, 1, codec.Bytes(), codec.Bytes()),
				serve.NewClient(attach(t, requests, with()...), attach(t, replies, with()...), 1, codec.Bytes(), codec.Bytes()),
			}
			ctx := ctxWithin(t)
			var wg sync.WaitGroup
			for i := range callers {
				c := clients[i%len(clients)]
				wg.Go(func() {
					for k := range each {
						number := i*each + k
						size, padding := sizes[number%len(sizes)], sizes[(number+i)%len(sizes)]
						got, err := c.Call(ctx, order(size, number, padding))
						if err != nil || !bytes.Equal(got, delivered(size, number)) {
							t.Errorf("call %d: %d bytes, want %d: %v", number, len(got), size, err)
						}
					}
				})
			}
			wg.Wait()
			for _, c := range clients {
				c.Close()
			}
			if err := stop(); err != nil {
				t.Error(err)
			}
			wantEmpty(t, requests, replies)
			wantNoFiles(t, dir)
		})
	}
}

// TestLargeLateReplies: calls that end while their large reply is on its way leave neither
// the reply nor its file, whether it was sent before they ended, or after.
func TestLargeLateReplies(t *testing.T) {
	for _, test := range []struct {
		name string
		call func(t *testing.T, c *serve.Client[[]byte, []byte], begun chan context.Context, proceed chan struct{})
	}{
		{"canceled", func(t *testing.T, c *serve.Client[[]byte, []byte], begun chan context.Context, proceed chan struct{}) {
			ctx, cancel := context.WithCancel(context.Background())
			go func() { <-begun; cancel() }()
			_, err := c.Call(ctx, order(1<<20, 1, 20_000))
			wantIs(t, "the call", err, context.Canceled)
			proceed <- struct{}{}
		}},
		{"deadline", func(t *testing.T, c *serve.Client[[]byte, []byte], begun chan context.Context, proceed chan struct{}) {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
			defer cancel()
			go func() {
				select {
				case handling := <-begun:
					deadline, _ := handling.Deadline()
					time.Sleep(time.Until(deadline) - time.Millisecond) // about what the reply takes
					proceed <- struct{}{}
				case <-ctx.Done(): // it was not handled at all
				}
			}()
			got, err := c.Call(ctx, order(1<<20, 1, 20_000))
			if err == nil && bytes.Equal(got, delivered(1<<20, 1)) {
				return // in time
			}
			wantIs(t, "the call", err, context.DeadlineExceeded)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := journalDir(t)
			with := chanmq.WithLarge(dir)
			requests, replies := newQueue(t, with), newQueue(t, with)
			s := serve.NewServer(attach(t, requests, with), attach(t, replies, with))
			begun, proceed := make(chan context.Context), make(chan struct{})
			var handled atomic.Int32
			serve.Handle(s, chanmq.OfType(1), codec.Bytes(), codec.Bytes(), func(ctx context.Context, request []byte) ([]byte, error) {
				select {
				case begun <- ctx:
				case <-ctx.Done(): // its deadline is over already
					return nil, ctx.Err()
				}
				handled.Add(1)
				<-proceed
				return deliver(ctx, request)
			})
			stop := start(t, s)
			c := serve.NewClient(requests, replies, 1, codec.Bytes(), codec.Bytes())
			for range 20 {
				test.call(t, c, begun, proceed)
			}
			go func() { <-begun; proceed <- struct{}{} }()
			got, err := c.Call(ctxWithin(t), order(1<<20, 2, 20_000))
			if err != nil || !bytes.Equal(got, delivered(1<<20, 2)) {
				t.Errorf("the call behind: %d bytes, %v", len(got), err)
			}
			c.Close()
			if err := stop(); err != nil {
				t.Error(err)
			}
			t.Logf("%d handled, client: %+v, server: %+v", handled.Load(), c.Stats(), s.Stats())
			wantEmpty(t, requests, replies)
			wantNoFiles(t, dir)
		})
	}
}

// TestLargeRepliesThatAreNotTaken: a client that takes none of its large replies keeps others
// waiting no longer than one with small ones: of the queue, a file takes what its reference
// does.
func TestLargeRepliesThatAreNotTaken(t *testing.T) {
	dir := journalDir(t)
	with := chanmq.WithLarge(dir)
	requests, replies := newQueue(t, with), newQueue(t, with)
	s := serve.NewServer(attach(t, requests, with), attach(t, replies, with))
	serve.Handle(s, chanmq.OfType(1), codec.Bytes(), codec.Bytes(), deliver, serve.WithConcurrency(2))
	stop := start(t, s)
	stat, err := replies.Stat()
	if err != nil {
		t.Fatal(err)
	}
	// A client that takes nothing, with more replies to come than the queue has room for.
	stuck := stat.MaxBytes / 56 * 5 / 4 // references
	header := envelope.Header{Kind: envelope.Request, ReplyType: replyType, Life: life(t, os.Getpid())}
	for n := range stuck {
		if err := requests.Send(ctxWithin(t), 1, append(envelope.Append(nil, &header), order(9000, n, 0)...)); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Eventually(t, "half of the queue free", func() bool {
		stat, err := replies.Stat()
		return err == nil && s.Stats().Handled == stuck && stat.Bytes <= stat.MaxBytes/2
	})
	c := serve.NewClient(requests, replies, 1, codec.Bytes(), codec.Bytes())
	for n := range 50 {
		if got, err := c.Call(ctxWithin(t), order(20_000, n, 10_000)); err != nil || len(got) != 20_000 {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	c.Close()
	// At last it takes them.
	for n := range stuck {
		m, err := replies.Receive(ctxWithin(t), chanmq.OfType(replyType))
		if err != nil || len(m.Value) != 48+9000 {
			t.Fatalf("reply %d: %d bytes, %v", n, len(m.Value), err)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	t.Logf("%+v", s.Stats())
	wantEmpty(t, requests, replies)
	wantNoFiles(t, dir)
}

// TestLargeReplyWithoutSpace: a reply that its file system has no space for is an error of the
// call, and the server goes on.
func TestLargeReplyWithoutSpace(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	with := chanmq.WithLarge(dir)
	requests, replies := newQueue(t, with), newQueue(t, with)
	var reported reports
	s := serve.NewServer(requests, replies, reported.option())
	serve.Handle(s, chanmq.OfType(1), codec.Bytes(), codec.Bytes(), deliver)
	stop := start(t, s)
	c := serve.NewClient(requests, replies, 1, codec.Bytes(), codec.Bytes())
	defer c.Close()
	_, err := c.Call(ctxWithin(t), order(4<<20, 1, 0))
	var remote *serve.RemoteError
	if !errors.As(err, &remote) || remote.Code != serve.CodeTooLarge || !strings.Contains(remote.Text, "free in its file system") {
		t.Errorf("the reply without space: %v", err)
	}
	if errs := reported.take(); len(errs) != 1 || !errors.Is(errs[0], syscall.ENOSPC) {
		t.Errorf("reported %v", errs)
	}

	// The same for replies that have to wait for room.
	for sent := true; sent; {
		if sent, err = replies.TrySend(1, nil); err != nil {
			t.Fatal(err)
		}
	}
	small, tooLarge := make(chan error), make(chan error)
	go func() {
		_, err := c.Call(ctxWithin(t), order(1, 3, 0))
		small <- err
	}()
	testkit.Eventually(t, "a reply that waits", func() bool { return s.Stats().WaitingPeak == 1 })
	go func() {
		_, err := c.Call(ctxWithin(t), order(4<<20, 4, 0))
		tooLarge <- err
	}()
	testkit.Eventually(t, "two replies that wait", func() bool { return s.Stats().WaitingPeak == 2 })
	for ok := true; ok; {
		if _, ok, err = replies.TryReceive(chanmq.OfType(1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-small; err != nil {
		t.Error(err)
	}
	if err := <-tooLarge; !errors.As(err, &remote) || remote.Code != serve.CodeTooLarge {
		t.Errorf("the reply without space that waited: %v", err)
	}
	if errs := reported.take(); len(errs) != 1 || !errors.Is(errs[0], syscall.ENOSPC) {
		t.Errorf("reported %v", errs)
	}
	if got, err := c.Call(ctxWithin(t), order(100_000, 2, 0)); err != nil || !bytes.Equal(got, delivered(100_000, 2)) {
		t.Errorf("the call behind: %d bytes, %v", len(got), err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	wantEmpty(t, requests, replies)
	wantNoFiles(t, dir)
}
