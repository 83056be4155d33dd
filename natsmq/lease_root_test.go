package natsmq

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
)

// Programs lease with Take and Consumer, of handles on two clusters of the same servers.
func TestLeaseTakeAndConsumer(t *testing.T) {
	s := newLeaseServer(t)
	first, second := s.cluster(), s.cluster()
	q, err := chanmq.Private(0o600, first.Option())
	if err != nil {
		t.Fatal(err)
	}
	other, err := chanmq.Attach(q.ID(), second.Option())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	const total = 1000
	for i := range total {
		if err := q.Send(ctx, 1+int64(i%3), []byte(strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	d, err := q.Take(ctx, chanmq.Any())
	if err != nil {
		t.Fatal(err)
	}
	if string(d.Value) != "0" || d.Attempt != 1 {
		t.Fatalf("took %q at attempt %d", d.Value, d.Attempt)
	}

	var mu sync.Mutex
	counts := make(map[string]int)
	all := make(chan struct{})
	count := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		if counts[text]++; len(counts) == total-1 && counts[text] == 1 {
			close(all)
		}
	}
	var running sync.WaitGroup
	consumers := []*chanmq.Consumer[[]byte]{q.Consumer(ctx, chanmq.Any()), other.Consumer(ctx, chanmq.Any()), other.Consumer(ctx, chanmq.Any())}
	for _, c := range consumers {
		running.Go(func() {
			for d := range c.C() {
				count(string(d.Value))
				if err := d.Ack(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	select {
	case <-all:
	case <-ctx.Done():
		mu.Lock()
		t.Fatalf("%d of %d came", len(counts), total-1)
	}
	for _, c := range consumers {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
	running.Wait()
	for text, n := range counts {
		if n != 1 || text == "0" {
			t.Errorf("%q came %d times", text, n)
		}
	}
	if err := d.Ack(); err != nil {
		t.Error(err)
	}
	if err := other.Close(); err != nil {
		t.Error(err)
	}
	// Ack does not wait; Close does.
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	left, err := chanmq.Attach(q.ID(), first.Option())
	if err != nil {
		t.Fatal(err)
	}
	if s, err := left.Stat(); err != nil || s.Messages != 0 {
		t.Errorf("%d messages are left (%v)", s.Messages, err)
	}
	if err := left.Close(); err != nil {
		t.Error(err)
	}
}
