package engine

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// This file is how messages are given back to a consumer. It handles what it is told of leases and the
// requests for more in different queues. So whoever asks for more right after it has given a message
// back could get the next one first. What is told to a consumer last is therefore a request, and
// nobody of the same handle asks for more before the answer.

// returns are what was told to consumers, and was not answered yet.
type returns struct {
	e      *Engine
	prefix string // of reply subjects
	sub    *nats.Subscription

	mu     sync.Mutex
	last   uint64             // the last token, which the reply subject ends with; guarded by mu
	open   map[uint64]telling // by token; guarded by mu
	closed bool               // guarded by mu
}

// telling is what a consumer was told.
type telling struct {
	to   *origin
	then func() // when it was answered
}

// confirmation is what an origin's consumer was told last. It is guarded by returns.mu.
type confirmation struct {
	token uint64        // 0: all was answered
	heard chan struct{} // closed when it was answered, or will not be
}

func (r *returns) init(e *Engine) error {
	inbox := e.Conn.NewInbox()
	r.e, r.open, r.prefix = e, make(map[uint64]telling), inbox+"."
	sub, err := e.Conn.Subscribe(inbox+".*", func(m *nats.Msg) {
		if token, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, r.prefix), 36, 64); err == nil {
			r.answered(token)
		}
	})
	r.sub = sub
	return err
}

func (r *returns) end() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.forget()
	_ = r.sub.Unsubscribe() // the connection may be closed
}

// forget waits for no answers any more.
func (r *returns) forget() {
	r.mu.Lock()
	var tokens []uint64
	for token := range r.open {
		tokens = append(tokens, token)
	}
	r.mu.Unlock()
	for _, token := range tokens {
		r.answered(token)
	}
}

// tell tells the consumer of o something that it answers. then is called when it has, or will not.
func (r *returns) tell(o *origin, subject, what string, then func()) {
	if !r.send(telling{o, then}, subject, what) {
		then()
	}
}

// hold is as if the consumer of o had been told something, until its result is called.
func (r *returns) hold(o *origin) func() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return func() {}
	}
	r.last++
	token := r.last
	r.open[token] = telling{o, func() {}}
	o.told.token = token
	if o.told.heard == nil {
		o.told.heard = make(chan struct{})
	}
	return func() { r.answered(token) }
}

// send reports whether answered will be called.
func (r *returns) send(t telling, subject, what string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		_ = r.e.Conn.Publish(subject, []byte(what)) // the answer is of no use any more
		return false
	}
	r.last++
	token := r.last
	// It is published with mu held, so that answers come in the order of tokens.
	if r.e.Conn.PublishRequest(subject, r.prefix+strconv.FormatUint(token, 36), []byte(what)) != nil {
		return false // there is no connection: the lease ends after AckWait
	}
	r.open[token] = t
	t.to.told.token = token
	if t.to.told.heard == nil {
		t.to.told.heard = make(chan struct{})
	}
	// A consumer without a leader answers nothing.
	time.AfterFunc(r.e.patience(), func() { r.answered(token) })
	return true
}

// answered notes that a consumer has handled what it was told with the token, and all before.
func (r *returns) answered(token uint64) {
	r.mu.Lock()
	t, ok := r.open[token]
	delete(r.open, token)
	if !ok {
		r.mu.Unlock()
		return // it is too late
	}
	last := t.to.told.token == token
	if last {
		close(t.to.told.heard)
		t.to.told = confirmation{}
	}
	r.mu.Unlock()
	t.then()
	if !last {
		return // more was told since
	}
	if s, _ := t.to.leases.source(t.to.key, false); s != nil {
		s.look()
	}
}

// unheard returns what is closed when the consumer of o has handled all that it was told; nil: it has.
func (r *returns) unheard(o *origin) <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return o.told.heard
}

// nak gives messages back, which are of one consumer, in their order. then is called when it has them.
func (r *returns) nak(list []*Lease, then func()) {
	for i, l := range list {
		if i < len(list)-1 {
			_ = r.e.Conn.Publish(l.reply, []byte("-NAK")) // if nobody hears it, the lease ends after AckWait
			continue
		}
		r.tell(l.from, l.reply, "-NAK", then)
	}
}

// sync waits for nothing, but unheard does after it until the consumer has sent all that it was about to, and has
// noted what did not arrive, since a subscription has ended.
func (r *returns) sync(o *origin) {
	// The consumer answers in the order in which it sends messages. There is no message
	// with this sequence, so that what it is told has no other effect.
	r.tell(o, fmt.Sprintf("$JS.ACK.%s.%s.1.%d.1.1.0", o.stream, o.key.name(), math.MaxInt64), "+WPI", func() {})
}
