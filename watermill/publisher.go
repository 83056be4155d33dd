package watermill

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/chanmq/chanmq"
)

// A PublishError is the error of Publisher.Publish.
type PublishError struct {
	Topic string
	// Sent is how many of the messages were sent, those at the beginning: a program that
	// tries again goes on behind them.
	Sent  int
	Total int    // messages that Publish was given
	UUID  string // of the message that failed; "" if it is none of them
	// Err says why. It matches chanmq.ErrTooLarge, chanmq.ErrRemoved, the error of the
	// message's ctx and so on, as errors of chanmq's Send do, or ErrClosed, or is the error
	// of the Marshaler or of Topics.
	Err error
}

// Error says what was wrong, with which message, and how many were sent.
func (e *PublishError) Error() string {
	if e.Total == 0 {
		return fmt.Sprintf("publish to %q: %v", e.Topic, e.Err)
	}
	return fmt.Sprintf("publish to %q: %d of %d messages sent, then UUID %q: %v", e.Topic, e.Sent, e.Total, e.UUID, e.Err)
}

// Unwrap returns Err.
func (e *PublishError) Unwrap() error { return e.Err }

// A Publisher is Watermill's message.Publisher: it sends messages to the queues of their topics.
// It is safe for concurrent use.
type Publisher struct {
	o       options
	handles handles
	life
}

// NewPublisher returns a Publisher. Queues are opened when a topic is used.
func NewPublisher(topics Topics, opts ...Option) *Publisher {
	return &Publisher{o: newOptions(opts), handles: handles{topics: topics}, life: newLife()}
}

// Publish sends the messages, in order, and waits while the queue is full, until the ctx of
// the message that is next ends, or the Publisher is closed. When it returns nil, the kernel
// has all of them. Otherwise it returns a [*PublishError] that says how many it has; if
// the Marshaler refuses one of them, that is none. After Close the error matches
// [ErrClosed].
//
// Messages without a ctx of their own are packed, if the queue has chanmq.WithPacking.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	fail := func(sent, failed int, err error) error {
		e := &PublishError{Topic: topic, Sent: sent, Total: len(messages), Err: err}
		if failed < len(messages) {
			e.UUID = messages[failed].UUID
		}
		return e
	}
	if !p.begin() {
		return fail(0, 0, ErrClosed)
	}
	defer p.end()

	texts := make([][]byte, len(messages))
	own := false // one of the messages has a ctx
	for i, msg := range messages {
		text, err := p.o.marshaler.Marshal(topic, msg)
		if err != nil {
			return fail(0, i, err)
		}
		texts[i] = text
		own = own || msg.Context() != context.Background()
	}
	opening, cancel := p.ctx, context.CancelFunc(func() {})
	if own {
		opening, cancel = p.within(messages[0].Context())
	}
	t, err := p.handles.get(opening, topic)
	cancel()
	if err != nil {
		return fail(0, 0, err)
	}
	if !own {
		if sent, err := t.Queue.SendAll(p.ctx, t.Type, texts); err != nil {
			return fail(sent, sent, err)
		}
		return nil
	}
	for i, msg := range messages {
		ctx, cancel := p.within(msg.Context())
		err := t.Queue.Send(ctx, t.Type, texts[i])
		cancel()
		if err != nil {
			return fail(i, i, err)
		}
	}
	return nil
}

// Close ends calls of Publish that wait, with [ErrClosed], waits for them, and closes the
// queues that are the Publisher's own ([Topic]); it returns the errors of that. It
// may be called from several goroutines, and again: then it waits for the first call and
// returns nil.
func (p *Publisher) Close() error {
	return p.close(func() error {
		return p.handles.close(func(q *chanmq.Queue[[]byte]) error { return q.Close() })
	})
}

// life is what may be closed, while calls are under way.
type life struct {
	ctx    context.Context // ended by close, with ErrClosed
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup // added to while mu is locked and closed is false
	done    chan struct{}  // closed when close is through
}

func newLife() life {
	ctx, cancel := context.WithCancelCause(context.Background())
	return life{ctx: ctx, cancel: cancel, done: make(chan struct{})}
}

// begin reports whether a call may begin. If so, end ends it.
func (l *life) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.running.Add(1)
	return true
}

func (l *life) end() { l.running.Done() }

// within returns ctx, ended by close too.
func (l *life) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return endedBy(ctx, l.ctx)
}

// endedBy returns ctx, which ends with other as well, with the same cause.
func endedBy(ctx, other context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(other, func() { cancel(context.Cause(other)) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// close ends everything, and calls f. A second call waits for the first.
func (l *life) close(f func() error) error {
	l.mu.Lock()
	first := !l.closed
	l.closed = true
	l.mu.Unlock()
	if !first {
		<-l.done // not a sync.Once, whose Mutex is none of testing/synctest's waits
		return nil
	}
	defer close(l.done)
	l.cancel(ErrClosed)
	l.running.Wait()
	return f()
}

// handles are the topics that a Publisher or a Subscriber has used.
type handles struct {
	topics Topics
	mu     sync.Mutex
	opened map[string]*opening
}

// opening is a topic that is open, or that somebody opens.
type opening struct {
	done  chan struct{} // closed when the rest is set
	topic Topic
	err   error
}

// get opens the topic, unless it is open.
func (h *handles) get(ctx context.Context, name string) (Topic, error) {
	for {
		h.mu.Lock()
		o := h.opened[name]
		if o == nil {
			o = &opening{done: make(chan struct{}), err: errors.New("Topics has panicked")}
			if h.opened == nil {
				h.opened = make(map[string]*opening)
			}
			h.opened[name] = o
			h.mu.Unlock()
			h.open(ctx, name, o)
			return o.topic, o.err
		}
		h.mu.Unlock()
		select {
		case <-o.done:
			if o.err == nil {
				return o.topic, nil
			} // whoever opened it may have given up: try again
		case <-ctx.Done():
			return Topic{}, ctxError(ctx)
		}
	}
}

func (h *handles) open(ctx context.Context, name string, o *opening) {
	defer close(o.done)
	defer func() {
		if o.err != nil {
			h.mu.Lock()
			delete(h.opened, name)
			h.mu.Unlock()
		}
	}()
	t, err := h.topics.Open(ctx, name)
	if err == nil && t.Queue == nil {
		err = errors.New("Topics has returned no queue")
	}
	if t.Type == 0 {
		t.Type = 1
	}
	o.topic, o.err = t, err
}

// close closes those that are owned. Nobody uses them any more.
func (h *handles) close(end func(*chanmq.Queue[[]byte]) error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for name, o := range h.opened {
		if !o.topic.Owned {
			continue
		}
		all.Go(func() { // a full queue must not use up the time of the others
			if err := end(o.topic.Queue); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, fmt.Errorf("topic %q: %w", name, err))
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
