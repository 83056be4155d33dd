//go:build linux

package serve_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
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

// TestOneQueue is the second way to wedge what is written by hand: 300 callers on one queue
// for both directions, whose requests leave no room for a reply.
func TestOneQueue(t *testing.T) {
	q := newQueue(t)
	s := serve.NewServer(attach(t, q), attach(t, q))
	handleDouble(s)
	stop := start(t, s)
	c := newClient(t, q, q)
	var wg sync.WaitGroup
	for i := range int32(300) {
		wg.Go(func() {
			for n := range int32(10) {
				wantDoubleE(t, c, i*10+n)
			}
		})
	}
	wg.Wait()
	if err := stop(); err != nil {
		t.Error(err)
	}
	t.Logf("%+v", s.Stats())
	wantEmpty(t, q)
}

// wantDoubleE is wantDouble for goroutines.
func wantDoubleE(t testing.TB, c *serve.Client[int32, int32], n int32) {
	t.Helper()
	if got, err := c.Call(ctxWithin(t), n); err != nil || got != 2*n {
		t.Errorf("the reply to %d is %d, %v", n, got, err)
	}
}

// TestErrors: what goes wrong in a server reaches the caller, and the server goes on.
func TestErrors(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	var reported reports
	s := serve.NewServer(requests, replies, reported.option(), serve.WithRejection())
	serve.Handle(s, chanmq.UpTo(2), codec.String(), codec.Func(
		func(dst []byte, v string) ([]byte, error) {
			if v == "unencodable" {
				return nil, errors.New("no")
			}
			return append(dst, v...), nil
		}, codec.String().Decode), func(ctx context.Context, what string) (string, error) {
		switch what {
		case "panic":
			panic("oops")
		case "exit":
			runtime.Goexit()
		case "error":
			return "", fmt.Errorf("reason %q", "x")
		case "code":
			return "", fmt.Errorf("wrapped: %w", &serve.RemoteError{Code: 1001, Text: "mine"})
		case "long":
			return "", errors.New("x" + strings.Repeat("é", 4000))
		case "large":
			return strings.Repeat("x", 1<<20), nil
		case "info":
			info, ok := serve.Info(ctx)
			return fmt.Sprint(info, ok), nil
		}
		return what, nil
	})
	serve.Handle(s, chanmq.OfType(3), number, number, double)
	serve.Consume(s, chanmq.OfType(4), number, func(context.Context, int32) error { return nil })
	start(t, s)
	call := func(typ int64, what string) (string, error) {
		c := serve.NewClient(requests, replies, typ, codec.String(), codec.String())
		defer c.Close()
		return c.Call(ctxWithin(t), what)
	}
	for _, test := range []struct {
		typ      int64
		what     string
		is       error
		code     serve.Code
		text     string
		reported string // "": nothing
	}{
		{1, "panic", serve.ErrPanicked, serve.CodePanicked, "the handler panicked: oops", "server_test.go"},
		{1, "exit", serve.ErrPanicked, serve.CodePanicked, "Goexit", "Goexit"},
		{1, "error", nil, serve.CodeFailed, `reason "x"`, ""},
		{2, "code", nil, 1001, "mine", ""},
		{2, "long", nil, serve.CodeFailed, "éé", ""},
		{1, "unencodable", serve.ErrUnencodable, serve.CodeUnencodable, "no", "no"},
		{1, "large", chanmq.ErrTooLarge, serve.CodeTooLarge, "msgmax", "msgmax"},
		{3, "not a number", serve.ErrUndecodable, serve.CodeUndecodable, "12 bytes", "12 bytes"},
		{4, "consumed", serve.ErrNoHandler, serve.CodeNoHandler, "use Send", ""},
		{9, "nobody's", serve.ErrNoHandler, serve.CodeNoHandler, "type 9; there are handlers for UpTo(2), OfType(3), OfType(4)", ""},
	} {
		_, err := call(test.typ, test.what)
		var remote *serve.RemoteError
		switch {
		case !errors.As(err, &remote):
			t.Errorf("%s: %v, which is no RemoteError", test.what, err)
			continue
		case remote.Code != test.code || test.is != nil && !errors.Is(err, test.is):
			t.Errorf("%s: %#v, want code %d", test.what, remote, test.code)
		case !strings.Contains(err.Error(), test.text) || len(remote.Text) > 1024:
			t.Errorf("%s: %v, which does not say %q", test.what, err, test.text)
		}
		errs := reported.take()
		if test.reported == "" {
			if len(errs) > 0 {
				t.Errorf("%s: reported %v", test.what, errs)
			}
			continue
		}
		var about *serve.RequestError
		if len(errs) != 1 || !errors.As(errs[0], &about) || !strings.Contains(about.Error(), test.reported) {
			t.Errorf("%s: reported %v, want %q", test.what, errs, test.reported)
		}
	}
	if got, err := call(2, "info"); got != "{2 1 false} true" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	c := serve.NewClient(requests, replies, 9, codec.String(), codec.String())
	defer c.Close()
	if err := c.Send(t.Context(), "nobody's, and without a reply"); err != nil {
		t.Fatal(err)
	}
	untilEmpty(t, requests)
	testkit.Eventually(t, "a rejection", func() bool { return s.Stats().Rejected == 3 })
	if errs := reported.take(); len(errs) != 1 || !errors.Is(errs[0], serve.ErrNoHandler) {
		t.Errorf("reported %v", errs)
	}
	// Somebody else's message has nobody who could be told.
	if err := requests.Send(t.Context(), 1, []byte("plain")); err != nil {
		t.Fatal(err)
	}
	untilEmpty(t, requests)
	if got, err := call(2, "still there"); got != "still there" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	var about *serve.RequestError
	if errs := reported.take(); len(errs) != 1 || !errors.As(errs[0], &about) || string(about.Message.Value) != "plain" {
		t.Errorf("reported %v", errs)
	}
	stats := s.Stats()
	if stats.Panics != 2 || stats.Undecodable != 2 || stats.Rejected != 3 || stats.Handled != 3 || stats.Dead != 1 {
		t.Errorf("%+v", stats)
	}
	wantEmpty(t, requests, replies)
}

// TestRunEnds: the end of Run's ctx ends neither handlers nor their replies; what was not
// taken stays in the queue.
func TestRunEnds(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(requests, replies)
	begun, proceed := make(chan struct{}), make(chan struct{})
	serve.Handle(s, chanmq.OfType(1), number, number, func(ctx context.Context, n int32) (int32, error) {
		begun <- struct{}{}
		<-proceed
		return 2 * n, ctx.Err()
	}, serve.WithConcurrency(2))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	c := newClient(t, attach(t, requests), attach(t, replies))
	answers := make(chan error)
	for n := range int32(3) {
		go func() {
			got, err := c.Call(ctxWithin(t), n)
			if err == nil && got != 2*n {
				err = fmt.Errorf("the reply to %d is %d", n, got)
			}
			answers <- err
		}()
	}
	<-begun
	<-begun
	testkit.Eventually(t, "a third request", func() bool { return messages(t, requests) == 1 })
	cancel()
	close(proceed)
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if n := messages(t, requests); n != 1 {
		t.Errorf("%d requests are left", n)
	}
	// Run may be called again.
	go func() { <-begun }()
	start(t, s)
	if err := <-answers; err != nil {
		t.Error(err)
	}
}

// TestDrainTime: the ctx of handlers ends when the drain time is over.
func TestDrainTime(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(requests, replies, serve.WithDrainTime(10*time.Millisecond))
	begun := make(chan struct{})
	serve.Handle(s, chanmq.OfType(1), number, number, func(ctx context.Context, n int32) (int32, error) {
		close(begun)
		<-ctx.Done()
		return 0, ctx.Err()
	})
	c := newClient(t, attach(t, requests), attach(t, replies))
	stop := start(t, s)
	answer := make(chan error)
	go func() {
		_, err := c.Call(ctxWithin(t), 1)
		answer <- err
	}()
	<-begun
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := <-answer; err == nil || !strings.Contains(err.Error(), "context canceled") {
		t.Error(err)
	}
}

// TestHandlerDeadline: the ctx of a handler ends when its caller gives up.
func TestHandlerDeadline(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(requests, replies)
	ended := make(chan error, 1)
	serve.Handle(s, chanmq.OfType(1), number, number, func(ctx context.Context, n int32) (int32, error) {
		<-ctx.Done()
		ended <- ctx.Err()
		return 0, ctx.Err()
	})
	start(t, s)
	c := newClient(t, requests, replies)
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	_, err := c.Call(ctx, 1)
	wantIs(t, "the call", err, context.DeadlineExceeded)
	wantIs(t, "the handler", <-ended, context.DeadlineExceeded)
	testkit.Eventually(t, "an empty queue of replies", func() bool { return messages(t, replies) == 0 })
}

// TestConcurrency: a handler never works on more messages than it may, and different
// handlers do not wait for each other.
func TestConcurrency(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(requests, replies)
	const most = 3
	var working, worst atomic.Int32
	proceed := make(chan struct{})
	serve.Handle(s, chanmq.OfType(2), number, number, func(_ context.Context, n int32) (int32, error) {
		now := working.Add(1)
		defer working.Add(-1)
		for old := worst.Load(); now > old && !worst.CompareAndSwap(old, now); old = worst.Load() {
		}
		<-proceed
		return n, nil
	}, serve.WithConcurrency(most))
	handleDouble(s)
	start(t, s)
	slow := serve.NewClient(requests, replies, 2, number, number)
	defer slow.Close()
	var wg sync.WaitGroup
	for n := range int32(10) {
		wg.Go(func() {
			if _, err := slow.Call(ctxWithin(t), n); err != nil {
				t.Error(err)
			}
		})
	}
	testkit.Eventually(t, "all workers busy", func() bool { return working.Load() == most })
	wantDouble(t, newClient(t, requests, replies), 1)
	close(proceed)
	wg.Wait()
	if worst.Load() != most {
		t.Errorf("%d at once", worst.Load())
	}
}

// TestBadServers: Run says what is wrong before it takes anything.
func TestBadServers(t *testing.T) {
	q, other := newQueue(t), newQueue(t)
	for _, test := range []struct {
		name, word string
		s          func() *serve.Server
	}{
		{"no queue", "requests is nil", func() *serve.Server { return serve.NewServer(nil, q) }},
		{"no handlers", "no handlers", func() *serve.Server { return serve.NewServer(q, other) }},
		{"no replies", "no queue for replies", func() *serve.Server {
			s := serve.NewServer(q, nil)
			handleDouble(s)
			return s
		}},
		{"any of one queue", "Handle of Any(): requests and replies have the same queue", func() *serve.Server {
			s := serve.NewServer(q, q)
			serve.Handle(s, chanmq.Any(), number, number, double)
			return s
		}},
		{"no codec", "nil", func() *serve.Server {
			s := serve.NewServer(q, other)
			serve.Handle(s, chanmq.Any(), nil, number, double)
			return s
		}},
		{"bad selector", "OfType(0)", func() *serve.Server {
			s := serve.NewServer(q, other)
			serve.Handle(s, chanmq.OfType(0), number, number, double)
			return s
		}},
		{"bad option", "WithOutbox(0)", func() *serve.Server { return serve.NewServer(q, other, serve.WithOutbox(0)) }},
		{"bad drain time", "WithDrainTime(0s)", func() *serve.Server { return serve.NewServer(q, other, serve.WithDrainTime(0)) }},
		{"bad report", "WithErrorReport", func() *serve.Server { return serve.NewServer(q, other, serve.WithErrorReport(nil)) }},
		{"bad reply TTL", "WithReplyTTL(-1ns)", func() *serve.Server { return serve.NewServer(q, other, serve.WithReplyTTL(-1)) }},
		{"bad concurrency", "WithConcurrency(0)", func() *serve.Server {
			s := serve.NewServer(q, other)
			handleDouble(s, serve.WithConcurrency(0))
			return s
		}},
		{"bad attempts", "WithMaxAttempts(0)", func() *serve.Server {
			s := serve.NewServer(q, other)
			handleDouble(s, serve.WithMaxAttempts(0, nil))
			return s
		}},
		{"bad pause", "WithRetryPause", func() *serve.Server {
			s := serve.NewServer(q, other)
			handleDouble(s, serve.WithRetryPause(2, 1))
			return s
		}},
		{"bad pending", "WithMaxPending(0)", func() *serve.Server {
			s := serve.NewServer(q, other)
			handleDouble(s, serve.WithMaxPending(0))
			return s
		}},
	} {
		if err := test.s().Run(t.Context()); err == nil || !strings.Contains(err.Error(), test.word) {
			t.Errorf("%s: %v, which does not say %q", test.name, err, test.word)
		}
	}
	s := serve.NewServer(q, other)
	handleDouble(s)
	start(t, s)
	wantDouble(t, newClient(t, q, other), 1)
	if err := s.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "running already") {
		t.Error(err)
	}
}

// TestServerQueueErrors: the removal of a queue ends Run with one error.
func TestServerQueueErrors(t *testing.T) {
	for _, which := range []string{"requests", "replies"} {
		t.Run(which, func(t *testing.T) {
			requests, replies := newQueue(t), newQueue(t)
			s := serve.NewServer(requests, replies)
			handleDouble(s, serve.WithConcurrency(3))
			ended := make(chan error)
			go func() { ended <- s.Run(context.Background()) }()
			c := newClient(t, attach(t, requests), attach(t, replies))
			wantDouble(t, c, 1)
			if which == "requests" {
				if err := requests.Remove(); err != nil {
					t.Fatal(err)
				}
			} else {
				if err := replies.Remove(); err != nil {
					t.Fatal(err)
				}
				if err := c.Send(t.Context(), 1); err != nil { // no reply is wanted
					t.Fatal(err)
				}
				_, _ = c.Call(t.Context(), 2)
			}
			wantIs(t, "Run", <-ended, chanmq.ErrRemoved)
		})
	}
}

func TestMiddleware(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	s := serve.NewServer(requests, replies)
	h := serve.Handler[int32, int32](func(ctx context.Context, n int32) (int32, error) {
		switch n {
		case -1:
			panic("oops")
		case -2:
			<-ctx.Done()
			return 0, ctx.Err()
		}
		return 2 * n, nil
	})
	var limit limiter
	h = serve.Log(logger, serve.Limit(&limit, serve.Timeout(time.Millisecond, serve.Recover(h))))
	serve.Handle(s, chanmq.OfType(1), number, number, h)
	consumed := make(chan int32)
	serve.Consume(s, chanmq.OfType(2), number, serve.Log(logger, serve.NoReply(func(_ context.Context, n int32) error {
		consumed <- n
		return nil
	})).Discard)
	stop := start(t, s)
	c := newClient(t, requests, replies)
	wantDouble(t, c, 4)
	_, err := c.Call(ctxWithin(t), -1)
	wantIs(t, "a panic", err, serve.ErrPanicked)
	if _, err = c.Call(ctxWithin(t), -2); err == nil || !strings.Contains(err.Error(), "the handler had 1ms") {
		t.Errorf("a timeout: %v", err)
	}
	if _, err = c.Call(ctxWithin(t), 1); err == nil || !strings.Contains(err.Error(), "rate limit: too many") {
		t.Errorf("a limit: %v", err)
	}
	if err := chanmq.As(requests, number).Send(ctxWithin(t), 2, 7); err != nil {
		t.Fatal(err)
	}
	if n := <-consumed; n != 7 {
		t.Errorf("consumed %d", n)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if limit.n != 4 {
		t.Errorf("the limiter was asked %d times", limit.n)
	}
	if text := log.String(); strings.Count(text, "level=INFO") != 2 || strings.Count(text, "level=WARN") != 3 ||
		!strings.Contains(text, "type=2 attempt=1") || !strings.Contains(text, "oops") {
		t.Errorf("logged\n%s", text)
	}
}

// limiter lets three calls go on.
type limiter struct{ n int }

func (l *limiter) Wait(context.Context) error {
	if l.n++; l.n > 3 {
		return errors.New("too many")
	}
	return nil
}
