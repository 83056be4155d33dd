//go:build linux

package serve_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/serve"
)

func TestCall(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(requests, replies)
	handleDouble(s)
	stop := start(t, s)
	c := newClient(t, requests, replies)
	for n := range int32(100) {
		wantDouble(t, c, n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if stats := s.Stats(); stats.Taken != 100 || stats.Handled != 100 || stats.Replies != 100 {
		t.Errorf("server: %+v", stats)
	}
	if stats := c.Stats(); stats != (serve.ClientStats{Calls: 100}) {
		t.Errorf("client: %+v", stats)
	}
	wantEmpty(t, requests, replies)
}

// TestConcurrentCalls: 1,000 calls at once, of 10 clients, through queues of the default
// 16 KiB, each of which gets its own reply; and through one queue for both directions.
func TestConcurrentCalls(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprint("one queue: ", shared), func(t *testing.T) {
			requests := newQueue(t)
			replies := requests
			if !shared {
				replies = newQueue(t)
			}
			s := serve.NewServer(attach(t, requests), attach(t, replies))
			handleDouble(s, serve.WithConcurrency(4))
			stop := start(t, s)
			ctx := ctxWithin(t)
			var wg sync.WaitGroup
			const clients, callers, each = 10, 100, 3
			for i := range clients {
				c := newClient(t, attach(t, requests), attach(t, replies))
				for j := range callers {
					wg.Go(func() {
						for k := range each {
							n := int32(i<<16 | j<<8 | k)
							if got, err := c.Call(ctx, n); err != nil || got != 2*n {
								t.Errorf("the reply to %d is %d, %v", n, got, err)
								return
							}
						}
					})
				}
			}
			wg.Wait()
			if err := stop(); err != nil {
				t.Error(err)
			}
			if stats := s.Stats(); stats.Handled != clients*callers*each || stats.Dropped > 0 {
				t.Errorf("%+v", stats)
			}
			t.Logf("%+v", s.Stats())
			wantEmpty(t, requests, replies)
		})
	}
}

// TestLongRun makes many calls, of which every tenth ends before its reply comes, to a
// server in this process and one in another. Nothing is left over.
func TestLongRun(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(attach(t, requests), attach(t, replies))
	handleDouble(s, serve.WithConcurrency(2))
	stop := start(t, s)
	other := startProcess(t, "double", id(requests), id(replies), "")
	const callers = 8
	var made atomic.Int64
	var wg sync.WaitGroup
	clients := []*serve.Client[int32, int32]{newClient(t, requests, replies), newClient(t, requests, replies)}
	for i := range callers {
		wg.Go(func() {
			c := clients[i%len(clients)]
			for n := made.Add(1); n <= int64(*calls); n = made.Add(1) {
				ctx, cancel := context.WithCancel(context.Background())
				if n%10 == 0 {
					time.AfterFunc(time.Duration(n%100)*time.Microsecond, cancel)
				}
				got, err := c.Call(ctx, int32(n))
				if err == nil && got != 2*int32(n) || err != nil && ctx.Err() == nil {
					t.Errorf("the reply to %d is %d, %v", n, got, err)
				}
				cancel()
			}
		})
	}
	wg.Wait()
	for _, c := range clients {
		c.Close()
		if stats := c.Stats(); stats.Foreign > 0 {
			t.Errorf("client: %+v", stats)
		} else {
			t.Logf("client: %+v", stats)
		}
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	other.kill() // it has answered all
	t.Logf("server: %+v", s.Stats())
	wantEmpty(t, requests, replies)
}

// TestIdleClient: a client has no goroutine while nobody calls, except for a while after a
// call that ended without its reply.
func TestIdleClient(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(attach(t, requests), attach(t, replies))
	begun, proceed := make(chan struct{}), make(chan struct{})
	serve.Handle(s, chanmq.OfType(1), number, number, func(_ context.Context, n int32) (int32, error) {
		if n < 0 {
			begun <- struct{}{}
			<-proceed
		}
		return 2 * n, nil
	})
	start(t, s)
	wantDouble(t, newClient(t, requests, replies), 1) // the handles have what they need
	before := runtime.NumGoroutine()
	clients := make([]*serve.Client[int32, int32], 10)
	for i := range clients {
		clients[i] = newClient(t, requests, replies)
		wantDouble(t, clients[i], 1)
	}
	testkit.Eventually(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	_, err := clients[0].Call(ctx, -1)
	wantIs(t, "a call that is given up", err, context.Canceled)
	close(proceed)
	testkit.Eventually(t, "the late reply", func() bool { return clients[0].Stats().Late == 1 })
	testkit.Eventually(t, "as many goroutines as before", func() bool { return runtime.NumGoroutine() <= before })
	wantEmpty(t, requests, replies)
}

// TestTimeouts is the first way to wedge what is written by hand: 63 calls that end before
// their replies come fill the queue of replies for ever.
func TestTimeouts(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(attach(t, requests), attach(t, replies))
	begun, proceed := make(chan struct{}), make(chan struct{})
	filler := make([]byte, 200) // 63 of these fill the queue
	serve.Handle(s, chanmq.OfType(1), codec.Bytes(), codec.Bytes(), func(context.Context, []byte) ([]byte, error) {
		begun <- struct{}{}
		<-proceed
		return filler, nil
	})
	stop := start(t, s)
	c := serve.NewClient(requests, replies, 1, codec.Bytes(), codec.Bytes())
	defer c.Close()
	const abandoned = 200
	for range abandoned {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-begun; cancel() }()
		if _, err := c.Call(ctx, nil); !errors.Is(err, context.Canceled) {
			t.Fatalf("%v, want that of the ctx", err)
		}
		proceed <- struct{}{}
	}
	go func() { <-begun; proceed <- struct{}{} }()
	if reply, err := c.Call(ctxWithin(t), nil); err != nil || len(reply) != len(filler) {
		t.Errorf("the call behind the timeouts: %d bytes, %v", len(reply), err)
	}
	untilEmpty(t, replies)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if stats := c.Stats(); stats.Abandoned != abandoned || stats.Late != abandoned {
		t.Errorf("%+v", stats)
	}
	wantEmpty(t, requests, replies)
}

// TestDeadlines: a request whose caller waits no longer is not handled, and no reply to it
// is sent; nor is one that has waited for longer than its TTL, but its caller hears of it.
func TestDeadlines(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	c := newClient(t, requests, replies)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	if _, err := c.Call(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	answer := make(chan error, 1)
	go func() {
		_, err := c.Call(ctxWithin(t), 2, serve.WithTTL(time.Millisecond))
		answer <- err
	}()
	if err := c.Send(ctxWithin(t), 3, serve.WithTTL(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "three requests", func() bool { return messages(t, requests) == 3 })
	time.Sleep(5 * time.Millisecond)
	s := serve.NewServer(requests, replies)
	serve.Handle(s, chanmq.OfType(1), number, number, func(_ context.Context, n int32) (int32, error) {
		t.Errorf("%d was handled", n)
		return 0, nil
	})
	stop := start(t, s)
	err := <-answer
	wantIs(t, "the call with a TTL", err, serve.ErrExpired)
	var remote *serve.RemoteError
	if !errors.As(err, &remote) || remote.Code != serve.CodeExpired {
		t.Errorf("%#v", err)
	}
	untilEmpty(t, requests)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if stats := s.Stats(); stats.Expired != 3 || stats.Replies != 1 {
		t.Errorf("%+v", stats)
	}
	wantEmpty(t, requests, replies)
}

// TestClose: Close ends calls that wait for a reply and calls that wait for room.
func TestClose(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	c := newClient(t, requests, replies)
	ended := make(chan error)
	const n = 300 // more than there is room for
	for range n {
		go func() {
			_, err := c.Call(context.Background(), 1)
			ended <- err
		}()
	}
	testkit.Eventually(t, "a full queue", func() bool { return c.Stats().Calls == n && messages(t, requests) > 200 })
	go c.Close()
	for range n {
		wantIs(t, "a call under way", <-ended, serve.ErrClosed)
	}
	c.Close()
	_, err := c.Call(t.Context(), 1)
	wantIs(t, "Call after Close", err, serve.ErrClosed)
	wantIs(t, "Call after Close", err, chanmq.ErrClosed)
	wantIs(t, "Send after Close", c.Send(t.Context(), 1), serve.ErrClosed)
	// A reply that comes after all is taken out by the next client of this process.
	s := serve.NewServer(requests, replies)
	handleDouble(s)
	stop := start(t, s)
	untilEmpty(t, requests)
	if err := stop(); err != nil {
		t.Error(err)
	}
	next := newClient(t, requests, replies)
	if next.Stats().Swept == 0 {
		t.Errorf("%+v", next.Stats())
	}
	wantEmpty(t, requests, replies)
}

// TestQueueErrors: the end of a queue ends all calls.
func TestQueueErrors(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	c := newClient(t, requests, replies)
	ended := make(chan error)
	for range 10 {
		go func() {
			_, err := c.Call(context.Background(), 1)
			ended <- err
		}()
	}
	testkit.Eventually(t, "requests", func() bool { return messages(t, requests) == 10 })
	if err := replies.Remove(); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		wantIs(t, "a call whose queue was removed", <-ended, chanmq.ErrRemoved)
	}
	_, err := c.Call(t.Context(), 1)
	wantIs(t, "a call without a queue for the reply", err, chanmq.ErrRemoved)
}

func TestBadClients(t *testing.T) {
	q := newQueue(t)
	for _, test := range []struct {
		c    *serve.Client[int32, int32]
		word string
	}{
		{serve.NewClient[int32, int32](nil, q, 1, number, number), "nil"},
		{serve.NewClient[int32, int32](q, nil, 1, number, number), "nil"},
		{serve.NewClient[int32, int32](q, q, 1, nil, number), "nil"},
		{serve.NewClient(q, q, 0, number, number), "invalid message type"},
		{serve.NewClient(q, q, 1, number, number, serve.WithTTL(0)), "WithTTL(0s)"},
	} {
		_, err := test.c.Call(t.Context(), 1)
		if err == nil || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%v, which does not say %q", err, test.word)
		}
		if err := test.c.Send(t.Context(), 1); err == nil || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%v, which does not say %q", err, test.word)
		}
		test.c.Stats()
		test.c.Close()
		test.c.Close()
	}
	c := newClient(t, q, q)
	if _, err := c.Call(t.Context(), 1, serve.WithTTL(-1)); err == nil {
		t.Error("a negative TTL")
	}
	ended, cancel := context.WithCancelCause(t.Context())
	why := errors.New("why")
	cancel(why)
	_, err := c.Call(ended, 1)
	wantIs(t, "a ctx that has ended", err, context.Canceled)
	wantIs(t, "a ctx that has ended", err, why)
	wantEmpty(t, q)
}
