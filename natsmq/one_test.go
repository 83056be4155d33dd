package natsmq

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq/natsmq/internal/engine"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

// Several receives at the same time, through one connection, each get their own message.
func TestOneOfMany(t *testing.T) {
	s := newLeaseServer(t)
	a := s.cluster().leaser(t)
	id := a.create()
	const total, receivers = 200, 8
	for i := range total {
		a.send(id, 1, strconv.Itoa(i))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second) // AckWait is longer
	defer cancel()
	var mu sync.Mutex
	got := make(map[string]int) // guarded by mu
	var receiving sync.WaitGroup
	for range receivers {
		receiving.Go(func() {
			for {
				l, err := a.leases.One(ctx, id, engine.Selector{})
				if errors.Is(err, engine.ErrNone) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				got[string(l.Text)]++
				mu.Unlock()
				a.ack(l)
			}
		})
	}
	receiving.Wait()
	for text, n := range got {
		if n != 1 {
			t.Errorf("%q came %d times", text, n)
		}
	}
	if len(got) != total {
		t.Errorf("%d of %d came", len(got), total)
	}
	a.Release()
}

// What comes when nobody waits for it any more is given back.
func TestOneTooLate(t *testing.T) {
	s := newLeaseServer(t)
	p := s.proxy()
	a, b := s.through(p).leaser(t), s.cluster().leaser(t)
	id := b.create()
	b.send(id, 1, "x")
	b.ack(b.want(id, 0, 0, "x", 1)) // so that there is the consumer
	for b.messages(id) > 0 {
		time.Sleep(time.Millisecond)
	}
	b.send(id, 1, "y")
	p.Delay(natstest.ToClient, 500*time.Millisecond)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if l, err := a.leases.One(ctx, id, engine.Selector{}); err == nil {
		t.Fatalf("%q came in spite of the delay", l.Text)
	}
	b.ack(b.want(id, 0, 0, "y", 2)) // AckWait is longer
	a.Release()
	b.Release()
}
