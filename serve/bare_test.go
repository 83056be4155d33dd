//go:build linux

package serve_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/serve"
)

// question and answer are structs as C programs send them.
type (
	question struct{ ReplyTo, Number int32 }
	answer   struct{ Number, Square int32 }
)

var (
	questions = codec.Struct[question]()
	answers   = codec.Struct[answer]()
)

func square(_ context.Context, q question) (answer, error) {
	if q.Number < 0 {
		return answer{}, errors.New("negative")
	}
	return answer{q.Number, q.Number * q.Number}, nil
}

// TestBare: the three forms, between Go and Go; examples/calculator has a C program.
func TestBare(t *testing.T) {
	for _, test := range []struct {
		name   string
		server func(q question, typ int64) int64
		client func(q *question, unique int64) int64
	}{
		{"type plus 3", func(_ question, typ int64) int64 { return typ + 3 }, func(*question, int64) int64 { return 1 + 3 }},
		{"pid", func(q question, _ int64) int64 { return int64(q.ReplyTo) }, func(q *question, _ int64) int64 { q.ReplyTo = 4242; return 4242 }},
		{"named", func(q question, _ int64) int64 { return int64(q.ReplyTo) }, func(q *question, unique int64) int64 { q.ReplyTo = int32(unique); return unique }},
	} {
		t.Run(test.name, func(t *testing.T) {
			requests, replies := newQueue(t), newQueue(t)
			var reported reports
			s := serve.NewServer(requests, replies, reported.option())
			serve.HandleBare(s, chanmq.OfType(1), questions, answers, test.server, square, serve.WithConcurrency(3))
			start(t, s)
			c := serve.NewBareClient(requests, replies, 1, questions, answers, test.client)
			defer c.Close()
			var wg sync.WaitGroup
			for i := range int32(8) {
				wg.Go(func() {
					for n := 100 * i; n < 100*i+20; n++ {
						if a, err := c.Call(ctxWithin(t), question{Number: n}); err != nil || a != (answer{n, n * n}) {
							t.Errorf("%d: %v, %v", n, a, err)
							return
						}
					}
				})
			}
			wg.Wait()
			// There is no reply to tell an error with.
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			defer cancel()
			_, err := c.Call(ctx, question{Number: -1})
			wantIs(t, "a call that fails", err, context.DeadlineExceeded)
			if errs := reported.take(); len(errs) != 1 {
				t.Errorf("reported %v", errs)
			}
			c.Close()
			_, err = c.Call(t.Context(), question{})
			wantIs(t, "Call after Close", err, serve.ErrClosed)
			wantEmpty(t, requests, replies)
		})
	}
}

// slowServer answers the first call when told to, and the others at once.
func slowServer(t *testing.T, requests, replies *chanmq.Queue[[]byte]) (begun, proceed chan struct{}) {
	begun, proceed = make(chan struct{}), make(chan struct{})
	s := serve.NewServer(requests, replies)
	first := true
	serve.HandleBare(s, chanmq.OfType(1), questions, answers,
		func(_ question, typ int64) int64 { return typ + 3 },
		func(ctx context.Context, q question) (answer, error) {
			if first {
				first = false
				begun <- struct{}{}
				<-proceed
			}
			return square(ctx, q)
		})
	start(t, s)
	return begun, proceed
}

// TestBareLateReplies: the reply to a call that has ended is not taken for the next one's,
// whether it comes before that begins, or meanwhile.
func TestBareLateReplies(t *testing.T) {
	plusThree := func(*question, int64) int64 { return 4 }
	match := serve.WithMatch(func(q question, a answer) bool { return q.Number == a.Number })
	for _, test := range []struct {
		name string
		opts []serve.BareOption[question, answer]
		late bool // the reply comes during the next call
	}{
		{"there already", nil, false},
		{"to come", []serve.BareOption[question, answer]{serve.WithOwedWait[question, answer](time.Minute)}, true},
		{"there already, recognised", []serve.BareOption[question, answer]{match}, false},
		{"to come, recognised", []serve.BareOption[question, answer]{match}, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			requests, replies := newQueue(t), newQueue(t)
			begun, proceed := slowServer(t, requests, replies)
			c := serve.NewBareClient(requests, replies, 1, questions, answers, plusThree, test.opts...)
			defer c.Close()
			ctx, cancel := context.WithCancel(t.Context())
			go func() { <-begun; cancel() }()
			_, err := c.Call(ctx, question{Number: 3})
			wantIs(t, "the first call", err, context.Canceled)
			if test.late {
				time.AfterFunc(20*time.Millisecond, func() { close(proceed) })
			} else {
				close(proceed)
				for messages(t, replies) == 0 {
				}
			}
			if a, err := c.Call(ctxWithin(t), question{Number: 5}); err != nil || a != (answer{5, 25}) {
				t.Errorf("%v, %v", a, err)
			}
			if stats := c.Stats(); stats != (serve.BareStats{Calls: 2, Abandoned: 1, Late: 1}) {
				t.Errorf("%+v", stats)
			}
			wantEmpty(t, requests, replies)
		})
	}
}

// TestBareOwedWait: a reply that never comes holds the next call up for a while only.
func TestBareOwedWait(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	c := serve.NewBareClient(requests, replies, 1, questions, answers,
		func(*question, int64) int64 { return 4 }, serve.WithOwedWait[question, answer](time.Millisecond))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error)
	go func() {
		_, err := c.Call(ctx, question{})
		ended <- err
	}()
	untilOne(t, requests)
	cancel()
	wantIs(t, "a call without a server", <-ended, context.Canceled)
	if _, ok, err := requests.TryReceive(chanmq.Any()); !ok || err != nil {
		t.Fatal("no request", err) // it is lost
	}
	s := serve.NewServer(requests, replies)
	serve.HandleBare(s, chanmq.OfType(1), questions, answers, func(question, int64) int64 { return 4 }, square)
	start(t, s)
	if a, err := c.Call(ctxWithin(t), question{Number: 5}); err != nil || a != (answer{5, 25}) {
		t.Errorf("%v, %v", a, err)
	}
	c.Close()
	wantEmpty(t, requests, replies)
}

// TestBareClose: Close ends a call that waits, and takes out late replies.
func TestBareClose(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	c := serve.NewBareClient(requests, replies, 1, questions, answers, func(_ *question, unique int64) int64 { return unique })
	ended := make(chan error)
	go func() {
		_, err := c.Call(context.Background(), question{})
		ended <- err
	}()
	untilOne(t, requests)
	c.Close()
	wantIs(t, "the call", <-ended, serve.ErrClosed)
	for _, c := range []*serve.BareClient[question, answer]{
		serve.NewBareClient(nil, replies, 1, questions, answers, func(*question, int64) int64 { return 1 }),
		serve.NewBareClient(requests, replies, 1, questions, answers, nil),
		serve.NewBareClient(requests, replies, 1, questions, answers, func(*question, int64) int64 { return 1 }, serve.WithOwedWait[question, answer](-1)),
	} {
		if _, err := c.Call(t.Context(), question{}); err == nil {
			t.Error("a bad argument")
		}
		c.Close()
	}
}

func untilOne(t *testing.T, q *chanmq.Queue[[]byte]) {
	t.Helper()
	for messages(t, q) == 0 {
		time.Sleep(time.Millisecond)
	}
}

// TestBareRepliesNobodyTakes: replies to programs that were killed make room for others,
// and are dropped when they are old.
func TestBareRepliesNobodyTakes(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(requests, replies, serve.WithReplyTTL(time.Second))
	serve.HandleBare(s, chanmq.OfType(1), questions, codec.Bytes(), func(q question, _ int64) int64 { return int64(q.ReplyTo) },
		func(context.Context, question) ([]byte, error) { return make([]byte, 1000), nil })
	stop := start(t, s)
	asked := chanmq.As(requests, questions)
	for n := range int32(40) {
		if err := asked.Send(ctxWithin(t), 1, question{ReplyTo: 1000 + n/2}); err != nil {
			t.Fatal(err)
		}
	}
	c := serve.NewBareClient(requests, replies, 1, questions, codec.Bytes(), func(q *question, unique int64) int64 {
		q.ReplyTo = int32(unique)
		return unique
	})
	defer c.Close()
	if _, err := c.Call(ctxWithin(t), question{}); err != nil {
		t.Error(err)
	}
	if stats := s.Stats(); stats.TakenBack == 0 {
		t.Errorf("%+v", stats)
	}
	testkit.Eventually(t, "old replies that are dropped", func() bool { return s.Stats().Swept >= 40-16 })
	if err := stop(); err != nil {
		t.Error(err)
	}
}

// TestBareOrder: where several requests are under way at once, replies of one type come in
// their order, also if some were taken back.
func TestBareOrder(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(requests, replies)
	serve.HandleBare(s, chanmq.OfType(1), questions, codec.Bytes(), func(q question, _ int64) int64 { return int64(q.ReplyTo) },
		func(_ context.Context, q question) ([]byte, error) {
			text := make([]byte, 500)
			text[0] = byte(q.Number)
			return text, nil
		})
	start(t, s)
	asked := chanmq.As(requests, questions)
	const n = 100
	for i := range int32(n) {
		if err := asked.Send(ctxWithin(t), 1, question{ReplyTo: 7, Number: i}); err != nil {
			t.Fatal(err)
		}
	}
	if err := asked.Send(ctxWithin(t), 1, question{ReplyTo: 8}); err != nil {
		t.Fatal(err)
	}
	if _, err := replies.Receive(ctxWithin(t), chanmq.OfType(8)); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		m, err := replies.Receive(ctxWithin(t), chanmq.OfType(7))
		if err != nil || int(m.Value[0]) != i {
			t.Fatalf("got %d, %v, want %d", m.Value[0], err, i)
		}
	}
	if stats := s.Stats(); stats.TakenBack == 0 {
		t.Errorf("%+v", stats)
	}
}
