//go:build linux

package serve_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/serve"
)

// TestConsume: messages of any program, with and without a header, are handled once.
func TestConsume(t *testing.T) {
	q := newQueue(t)
	s := serve.NewServer(q, nil)
	got := make(chan string, 10)
	serve.Consume(s, chanmq.UpTo(2), codec.String(), func(ctx context.Context, v string) error {
		info, _ := serve.Info(ctx)
		got <- fmt.Sprint(info.Type, v)
		return nil
	})
	start(t, s)
	text := "\xFEcmq is how an envelope begins"
	c := serve.NewClient(q, q, 2, codec.String(), codec.String())
	defer c.Close()
	for _, err := range []error{
		q.Send(t.Context(), 1, []byte("plain")),
		c.Send(t.Context(), "sent"),
		c.Send(t.Context(), text, serve.WithTTL(time.Hour)),
		q.Send(t.Context(), 1, envelope.Wrap(nil, []byte(text))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]bool{"1plain": true, "2sent": true, "2" + text: true, "1" + text: true}
	for range len(want) {
		if v := <-got; !want[v] {
			t.Errorf("consumed %q", v)
		}
	}
	testkit.Eventually(t, "all acknowledged", func() bool { return s.Stats().Handled == 4 })
	wantEmpty(t, q)
}

// TestRetries: an error gives a message back, others go on meanwhile, and after its last
// attempt the message is in the queue of dead letters, with the reason.
func TestRetries(t *testing.T) {
	q, dead := newQueue(t), newQueue(t)
	var reported reports
	s := serve.NewServer(q, nil, reported.option())
	var mu sync.Mutex
	attempts := make(map[string][]int)
	serve.Consume(s, chanmq.OfType(1), codec.String(), func(ctx context.Context, v string) error {
		info, _ := serve.Info(ctx)
		mu.Lock()
		defer mu.Unlock()
		attempts[v] = append(attempts[v], info.Attempt)
		switch {
		case v == "panics":
			panic("oops")
		case v == "fails", v == "recovers" && info.Attempt < 3:
			return errors.New("not yet")
		}
		return nil
	}, serve.WithMaxAttempts(4, dead), serve.WithRetryPause(time.Millisecond, 2*time.Millisecond))
	serve.Consume(s, chanmq.OfType(2), number, func(context.Context, int32) error { return nil }, serve.WithMaxAttempts(1, dead))
	stop := start(t, s)
	c := serve.NewClient(q, q, 1, codec.String(), codec.String())
	defer c.Close()
	for _, v := range []string{"fails", "recovers", "panics", "works"} {
		if err := c.Send(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Send(t.Context(), 2, []byte("not a number")); err != nil {
		t.Fatal(err)
	}
	if err := q.Send(t.Context(), 2, []byte("\xFEcmq damaged")); err != nil {
		t.Fatal(err)
	}
	want := map[string]serve.DeadLetter{
		"fails":           {Type: 1, Reason: "not yet", Attempts: 4},
		"panics":          {Type: 1, Reason: "the handler panicked: oops", Attempts: 4},
		"not a number":    {Type: 2, Reason: "decode", Attempts: 1},
		"\xFEcmq damaged": {Type: 2, Reason: "unknown version", Attempts: 1},
	}
	letters := chanmq.As(dead, serve.DeadLetterCodec())
	for range len(want) {
		m, err := letters.Receive(ctxWithin(t), chanmq.Any())
		if err != nil {
			t.Fatal(err)
		}
		w := want[string(m.Value.Text)]
		if m.Type != w.Type || m.Value.Type != w.Type || m.Value.Attempts != w.Attempts || !strings.Contains(m.Value.Reason, w.Reason) {
			t.Errorf("type %d: %+v, want %+v", m.Type, m.Value, w)
		}
	}
	testkit.Eventually(t, "nothing waits", func() bool { stats := s.Stats(); return stats.Handled == 2 && stats.Pending == 0 })
	if err := stop(); err != nil {
		t.Error(err)
	}
	for v, want := range map[string]string{"fails": "[1 2 3 4]", "recovers": "[1 2 3]", "panics": "[1 2 3 4]", "works": "[1]"} {
		if got := fmt.Sprint(attempts[v]); got != want {
			t.Errorf("%s: attempts %v", v, got)
		}
	}
	if stats := s.Stats(); stats.Retried != 8 || stats.Dead != 4 || stats.Panics != 4 || stats.Undecodable != 2 {
		t.Errorf("%+v", stats)
	}
	if n := len(reported.take()); n != 4+1 { // the panics, and what does not decode
		t.Errorf("%d reports", n)
	}
	wantEmpty(t, q, dead)
}

// TestRunEndsPauses: the end of Run gives back what waits for another attempt.
func TestRunEndsPauses(t *testing.T) {
	q := newQueue(t)
	s := serve.NewServer(q, nil)
	serve.Consume(s, chanmq.OfType(1), number, func(context.Context, int32) error { return errors.New("no") },
		serve.WithRetryPause(time.Hour, time.Hour), serve.WithMaxPending(2))
	stop := start(t, s)
	for n := range int32(4) {
		if err := chanmq.As(q, number).Send(t.Context(), 1, n); err != nil {
			t.Fatal(err)
		}
	}
	// Two wait, a third one holds the worker up, and the fourth is not taken.
	testkit.Eventually(t, "three attempts", func() bool { return s.Stats().Failed == 3 })
	if stats := s.Stats(); stats.Pending != 2 || messages(t, q) != 1 {
		t.Errorf("%+v", stats)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	seen := make(map[int32]bool)
	for range 4 {
		m, err := chanmq.As(q, number).Receive(ctxWithin(t), chanmq.Any())
		if err != nil {
			t.Fatal(err)
		}
		seen[m.Value] = true
	}
	if len(seen) != 4 {
		t.Errorf("%v", seen)
	}
}

// TestDeadLetterQueueFull: a dead letter waits for room, and then for the reason to fit.
func TestDeadLetterQueueFull(t *testing.T) {
	q, dead := newQueue(t), newQueue(t)
	var reported reports
	s := serve.NewServer(q, nil, reported.option())
	serve.Consume(s, chanmq.OfType(2), codec.Bytes(), func(context.Context, []byte) error { return errors.New("no") },
		serve.WithMaxAttempts(1, dead), serve.WithRetryPause(time.Millisecond, time.Millisecond))
	start(t, s)
	fillUp(t, dead)
	limits, err := chanmq.ReadLimits()
	if err != nil {
		t.Fatal(err)
	}
	large := make([]byte, min(limits.MaxMessage, limits.MaxBytes))
	if err := q.Send(t.Context(), 2, large); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a dead letter that waits", func() bool { return s.Stats().Pending == 1 })
	for {
		if _, ok, _ := dead.TryReceive(chanmq.OfType(1)); !ok {
			break
		}
	}
	m, err := chanmq.As(dead, serve.DeadLetterCodec()).Receive(ctxWithin(t), chanmq.OfType(2))
	if err != nil || len(m.Value.Text) != len(large) || m.Value.Reason != "" {
		t.Errorf("%d bytes, reason %q, %v", len(m.Value.Text), m.Value.Reason, err)
	}
	testkit.Eventually(t, "a dead letter", func() bool { return s.Stats().Dead == 1 })
	if errs := reported.take(); len(errs) == 0 || !strings.Contains(errs[0].Error(), "without the reason") {
		t.Errorf("reported %v", errs)
	}
}

func TestDeadLetterCodec(t *testing.T) {
	c := serve.DeadLetterCodec()
	want := serve.DeadLetter{Type: 5, Reason: "why", Attempts: 3, Text: []byte("text")}
	b, err := c.Append(nil, want)
	if err != nil {
		t.Fatal(err)
	}
	got := serve.DeadLetter{Type: 9, Reason: "old", Text: []byte("older and longer")}
	if err := c.Decode(b, &got); err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%v, %v", got, err)
	}
	if err := c.Decode([]byte("plain"), &got); err != nil || fmt.Sprint(got) != fmt.Sprint(serve.DeadLetter{Text: []byte("plain")}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := c.Append(nil, serve.DeadLetter{Type: -1}); err == nil {
		t.Error("a negative type")
	}
}
