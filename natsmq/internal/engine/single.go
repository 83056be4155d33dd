package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// This file is how one message is leased, if there is one, by those who do not wait at a consumer.

// single is a request for one message. It has a subscription of its own: a message of a consumer
// has its own subject, not that of the reply, so that package nats, which has one subscription
// for the answers to all requests, does not know whose it is if there are several.
type single struct {
	from   *origin
	answer chan *nats.Msg // has room for it

	mu   sync.Mutex
	over bool // it was answered, or nobody waits for it; guarded by mu
}

// oneNow asks for a message that is there now.
var oneNow = []byte(`{"batch":1,"no_wait":true}`)

// pullOne leases a message of the consumer, if it has one that nobody has leased. ErrNone: it has none.
func (l *Leases) pullOne(ctx context.Context, k consumerKey) (*Lease, error) {
	l.mu.Lock()
	from := l.origin(k)
	closed := l.closed
	l.mu.Unlock()
	if closed {
		return nil, errClosed
	}
	if unheard := l.e.leasing.returns.unheard(from); unheard != nil {
		select {
		case <-unheard:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	for {
		m, err := l.e.askOne(ctx, from)
		if errors.Is(err, nats.ErrNoResponders) {
			if err := l.e.ensureConsumer(ctx, k); err != nil {
				return nil, err
			}
			if !sleep(ctx, pauseMin) { // it may have no leader yet
				return nil, l.e.because(ctx.Err())
			}
			continue
		}
		if err != nil {
			return nil, l.e.because(err)
		}
		if m.Reply == "" {
			return nil, ErrNone
		}
		return l.e.newLease(from, m)
	}
}

// askOne makes a request, and waits for its answer. A message that comes later is given back.
func (e *Engine) askOne(ctx context.Context, from *origin) (*nats.Msg, error) {
	if e.closed.Load() {
		return nil, errClosed
	}
	within, cancel := context.WithTimeout(ctx, e.patience())
	defer cancel()
	s := &single{from: from, answer: make(chan *nats.Msg, 1)}
	inbox := e.Conn.NewInbox()
	sub, err := e.Conn.Subscribe(inbox, s.answered)
	if err != nil {
		return nil, err
	}
	if err := e.Conn.PublishRequest(e.nextOf(from.key), inbox, oneNow); err != nil {
		_ = sub.Unsubscribe() // the connection may be closed
		return nil, err
	}
	var m *nats.Msg
	select {
	case m = <-s.answer:
	case <-within.Done():
		if s.end() {
			// After AckWait what comes is somebody else's.
			time.AfterFunc(e.AckWait, func() { _ = sub.Unsubscribe() })
			return nil, within.Err()
		}
		m = <-s.answer // it came just now
	}
	_ = sub.Unsubscribe() // the connection may be closed
	if m.Reply == "" && m.Header.Get("Status") == "503" {
		return nil, nats.ErrNoResponders
	}
	return m, nil
}

// end reports whether it was not over.
func (s *single) end() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.over
	s.over = true
	return !was
}

// answered is called with the answer.
func (s *single) answered(m *nats.Msg) {
	if s.end() {
		s.answer <- m
		return
	}
	_ = m.Sub.Unsubscribe() // the connection may be closed
	if m.Reply == "" {
		return
	}
	if l, err := s.from.leases.e.newLease(s.from, m); err == nil {
		l.Release()
	}
}
