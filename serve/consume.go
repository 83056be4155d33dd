package serve

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
)

// Consume adds a handler for messages that have no reply: those of any program, as they
// are, and those of [Client.Send]. It must be called before Run.
//
// If h returns nil, the message is acknowledged. If it returns an error or panics, the
// message is delivered again after a pause that grows with each attempt: [WithRetryPause],
// [WithMaxAttempts]. Meanwhile it is in the handle of the queue, and in its journal if there
// is one; the end of Run ends the pause. The order of the queue is lost for such messages.
//
// A message that c does not decode will never be: it is given up at once. A request of
// [Client.Call] is answered with [ErrNoHandler].
func Consume[T any](s *Server, selector chanmq.Selector, c codec.Codec[T], h func(ctx context.Context, v T) error, opts ...HandlerOption) {
	r := &route{name: "Consume", selector: selector, o: newHandlerOptions(opts), work: (*worker).consume}
	if c == nil || h == nil {
		r.o.refuse("the codec or the handler is nil")
	}
	r.consume = func(ctx context.Context, payload []byte) error {
		var v T
		if err := c.Decode(payload, &v); err != nil {
			return &failure{CodeUndecodable, err}
		}
		return h(ctx, v)
	}
	s.add(r, false)
}

// consume handles a message that has no reply.
func (w *worker) consume(d chanmq.Delivery[[]byte]) {
	s := w.run.s
	payload := d.Value
	if envelope.Begins(payload) {
		h, text, err := envelope.Parse(payload)
		switch now := time.Now().UnixNano(); {
		case err != nil:
			s.count.undecodable.Add(1)
			w.bury(d, payload, &failure{CodeUndecodable, err})
			return
		case h.Kind == envelope.Request && h.ReplyType != 0 && s.replies != nil:
			s.count.rejected.Add(1)
			w.refuse(d, &h, now, &failure{CodeNoHandler, fmt.Errorf("messages of type %d have no reply; use Send", d.Type)})
			return
		case h.Kind == envelope.Request && h.Expiry != 0 && h.Expiry < now:
			s.count.expired.Add(1)
			_ = d.Ack() // at worst it comes again
			return
		case h.Kind == envelope.Request || h.Kind == envelope.Plain:
			payload = text
		}
		// A dead letter is passed on as it is, for DeadLetterCodec.
	}
	most := w.route.o.maxAttempts
	if most > 0 && d.Attempt > most {
		w.bury(d, payload, &failure{CodeAttempts, fmt.Errorf("%d attempts", most)})
		return
	}
	ctx, cancel := handlerCtx(w.run.handling, MessageInfo{d.Type, d.Attempt, true}, 0)
	defer cancel()
	failed := func(err error) {
		s.count.failed.Add(1)
		w.report(d, err)
		switch {
		case codeOf(err) == CodeUndecodable:
			w.bury(d, payload, err)
		case most > 0 && d.Attempt >= most:
			w.bury(d, payload, err)
		default:
			s.count.retried.Add(1)
			w.later(d, func() { _ = d.Nack() })
		}
	}
	err := w.contain(func() error { return w.route.consume(ctx, payload) }, failed)
	if err != nil {
		failed(err)
		return
	}
	s.count.handled.Add(1)
	_ = d.Ack() // at worst it comes again, as promised
}

// bury gives a message up. payload is what its codec was to decode.
func (w *worker) bury(d chanmq.Delivery[[]byte], payload []byte, reason error) {
	s, dead := w.run.s, w.route.o.dead
	if dead == nil {
		s.count.dead.Add(1)
		s.o.report(&RequestError{Message: d.Message, Attempt: d.Attempt, Err: fmt.Errorf("given up: %w", reason)})
		_ = d.Ack() // it is in the report
		return
	}
	h := envelope.Header{Kind: envelope.DeadLetter, Type: d.Type, Attempts: uint32(d.Attempt), Reason: reason.Error()}
	sent, err := dead.TrySend(d.Type, append(envelope.Append(nil, &h), payload...))
	if errors.Is(err, chanmq.ErrTooLarge) {
		// The message is more important than the reason, which is reported.
		s.o.report(&RequestError{Message: d.Message, Attempt: d.Attempt, Err: fmt.Errorf("given up, and sent to the queue of dead letters without the reason, which does not fit: %w", reason)})
		sent, err = dead.TrySend(d.Type, payload)
	}
	switch {
	case sent:
		s.count.dead.Add(1)
		_ = d.Ack()
	case err != nil && !errors.Is(err, chanmq.ErrTooLarge):
		_ = d.Nack() // nothing is lost: the next server gives it up
		w.run.fail(fmt.Errorf("serve: %v: sending a dead letter: %w", w.route, err))
	case err != nil:
		s.count.dead.Add(1)
		s.o.report(&RequestError{Message: d.Message, Attempt: d.Attempt, Err: fmt.Errorf("given up: %w; and the queue of dead letters does not take it: %w", reason, err)})
		_ = d.Ack() // it is in the report
	default: // it is full
		w.later(d, func() { w.bury(d, payload, reason) })
	}
}

// later does something about a delivery after the pause that its attempt asks for, or gives
// it back when the run ends before. If too many wait already, it waits for one of them.
func (w *worker) later(d chanmq.Delivery[[]byte], do func()) {
	select {
	case w.pending <- struct{}{}:
	default:
		select {
		case w.pending <- struct{}{}:
		case <-w.run.taking.Done():
			_ = d.Nack()
			return
		}
	}
	pause := w.route.o.pauseMin
	for n := 1; n < d.Attempt && pause < w.route.o.pauseMax; n++ {
		pause *= 2
	}
	w.run.retries.add(&retry{d: d, do: do, pending: w.pending}, min(pause, w.route.o.pauseMax))
}

// retries are the messages of a run that wait for their next attempt. Each has a timer, and
// no goroutine.
type retries struct {
	run *run

	mu      sync.Mutex
	all     map[*retry]struct{}
	ended   bool
	running sync.WaitGroup // the timers' functions
}

type retry struct {
	d       chanmq.Delivery[[]byte]
	do      func()
	pending chan struct{} // an element of which is this one's
	timer   *time.Timer
}

func (rs *retries) init(r *run) { rs.run, rs.all = r, make(map[*retry]struct{}) }

func (rs *retries) add(r *retry, pause time.Duration) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.ended {
		_ = r.d.Nack()
		return
	}
	rs.run.s.count.pending.Add(1)
	rs.all[r] = struct{}{}
	r.timer = time.AfterFunc(pause, func() {
		if rs.take(r) {
			r.do()
			rs.running.Done()
		}
	})
}

// take takes one out that is due. It reports false if the run has ended.
func (rs *retries) take(r *retry) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.ended {
		return false
	}
	rs.running.Add(1)
	rs.forget(r)
	return true
}

// forget needs mu.
func (rs *retries) forget(r *retry) {
	delete(rs.all, r)
	rs.run.s.count.pending.Add(-1)
	<-r.pending
}

// end gives all of them back to the handle.
func (rs *retries) end() {
	rs.mu.Lock()
	rs.ended = true
	for r := range rs.all {
		r.timer.Stop() // its function does nothing any more
		rs.forget(r)
		_ = r.d.Nack()
	}
	rs.mu.Unlock()
	rs.running.Wait()
}
