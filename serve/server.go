package serve

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
)

// A Server takes messages from a queue and has them handled, by type: [Handle], [HandleBare]
// and [Consume] add handlers, and Run works until its ctx ends.
//
// Messages of types that no handler selects stay in the queue; see [WithRejection]. Where
// selectors of several handlers overlap, each message goes to one of them.
type Server struct {
	requests, replies *chanmq.Queue[[]byte]
	o                 serverOptions
	count             counters

	mu      sync.Mutex
	routes  []*route
	running bool
	err     error // the first bad argument
}

// NewServer returns a server that takes messages from the one queue and sends replies to
// the other, which may be the same, or nil for a server that only consumes. It does not
// close them. It always returns a server; if an argument is bad, Run returns the error.
func NewServer(requests, replies *chanmq.Queue[[]byte], opts ...ServerOption) *Server {
	s := &Server{requests: requests, replies: replies, o: newServerOptions(opts)}
	s.err = s.o.err
	if requests == nil && s.err == nil {
		s.err = errors.New("serve: NewServer: the queue of requests is nil")
	}
	return s
}

// Handle adds a handler for the requests of Clients that the selector selects. It must be
// called before Run.
//
// A request that req does not decode is answered with [ErrUndecodable], and reported:
// [WithErrorReport]. A message that is no request has nobody who could be told: it goes to
// the queue of [WithMaxAttempts] if there is one, and is only reported otherwise.
func Handle[Req, Rep any](s *Server, selector chanmq.Selector, req codec.Codec[Req], rep codec.Codec[Rep], h Handler[Req, Rep], opts ...HandlerOption) {
	r := &route{name: "Handle", selector: selector, o: newHandlerOptions(opts), work: (*worker).request}
	if req == nil || rep == nil || h == nil {
		r.o.refuse("a codec or the handler is nil")
	}
	r.answer = func(ctx context.Context, payload, dst []byte) ([]byte, error) {
		var request Req
		if err := req.Decode(payload, &request); err != nil {
			return nil, &failure{CodeUndecodable, err}
		}
		reply, err := h(ctx, request)
		if err != nil {
			return nil, err
		}
		if dst, err = rep.Append(dst, reply); err != nil {
			return nil, &failure{CodeUnencodable, err}
		}
		return dst, nil
	}
	s.add(r, true)
}

// route is a handler with its selector.
type route struct {
	name     string // of the function that added it, for errors
	selector chanmq.Selector
	o        handlerOptions
	work     func(*worker, chanmq.Delivery[[]byte]) // handles a message

	// One of them is set. They decode the payload and call the handler.
	answer     func(ctx context.Context, payload, dst []byte) ([]byte, error)
	answerBare func(ctx context.Context, typ int64, payload, dst []byte) (replyType int64, text []byte, err error)
	consume    func(ctx context.Context, payload []byte) error
}

func (r *route) String() string { return fmt.Sprintf("%s of %v", r.name, r.selector) }

// add adds a route.
func (s *Server) add(r *route, replies bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := r.o.err
	switch {
	case err != nil:
	case replies && s.replies == nil:
		err = errors.New("the server has no queue for replies: pass one to NewServer")
	case s.running:
		err = errors.New("Run has begun: add handlers before")
	case s.shared() && r.selector.Matches(firstReplyTyp):
		err = errors.New("requests and replies have the same queue, and the selector would take replies; use OfType or UpTo, or a queue for each")
	}
	if err != nil && s.err == nil {
		s.err = fmt.Errorf("serve: %v: %w", r, err)
	}
	s.routes = append(s.routes, r)
}

// shared reports whether requests and replies have the same queue.
func (s *Server) shared() bool {
	return s.requests != nil && s.replies != nil && s.requests.ID() == s.replies.ID()
}

// Run takes messages and has them handled until ctx ends. Then it takes no more, waits for
// the handlers, sends their replies, gives what waits for another attempt back to the
// handle of the queue, and returns nil. [WithDrainTime] limits that. The program closes the
// queues afterwards, which sends back what their handles hold: chanmq.Queue.Shutdown.
//
// An error of a queue, such as chanmq.ErrRemoved, ends it the same way, and is returned. If
// replies could not be sent at the end, the error matches [ErrUnsent]. Run may be called
// again when it has returned.
func (s *Server) Run(ctx context.Context) error {
	s.mu.Lock()
	err := s.err
	switch {
	case err != nil:
	case s.running:
		err = errors.New("serve: Run is running already")
	case len(s.routes) == 0:
		err = errors.New("serve: Run: the server has no handlers: call Handle or Consume before")
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	s.running = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.running = false
	}()
	return newRun(s, ctx).wait()
}

// run is one call of Run.
type run struct {
	s        *Server
	taking   context.Context // ends when no more is to be taken
	stop     context.CancelFunc
	handling context.Context // of the handlers
	abort    context.CancelFunc
	outbox   *outbox
	retries  retries
	workers  sync.WaitGroup

	mu  sync.Mutex
	err error // the first one
}

func newRun(s *Server, ctx context.Context) *run {
	r := &run{s: s}
	r.taking, r.stop = context.WithCancel(ctx)
	r.handling, r.abort = context.WithCancel(context.WithoutCancel(ctx))
	r.outbox = newOutbox(s, r.handling)
	r.retries.init(r)
	return r
}

// wait does the work, and waits until it is done.
func (r *run) wait() error {
	defer r.abort()
	defer r.stop()
	sent := make(chan error, 1)
	if r.s.replies != nil {
		go func() {
			err := r.outbox.run()
			if err != nil {
				r.stop()
			}
			sent <- err
		}()
	} else {
		sent <- nil
	}
	for _, rt := range r.s.routes {
		pending := make(chan struct{}, rt.o.pending)
		for range rt.o.concurrency {
			r.workers.Add(1)
			go (&worker{run: r, route: rt, pending: pending}).loop()
		}
	}
	if r.s.o.reject && r.s.replies != nil {
		r.workers.Add(1)
		go func() {
			defer r.workers.Done()
			r.rejectOthers()
		}()
	}
	<-r.taking.Done()
	timer := time.AfterFunc(r.s.o.drain, r.abort)
	defer timer.Stop()
	r.workers.Wait()
	r.retries.end()
	r.outbox.close()
	err := <-sent
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.err, err)
}

// fail ends the run with an error.
func (r *run) fail(err error) {
	r.mu.Lock()
	if r.err == nil {
		r.err = err
	}
	r.mu.Unlock()
	r.stop()
}

// worker is a goroutine that takes messages of a route, one after the other, and handles
// them.
type worker struct {
	run     *run
	route   *route
	pending chan struct{} // has an element for each message of the route that waits to be retried
	text    []byte        // a reply that is being encoded; its storage is used again

	exited func() // what is to be done if the handler ends the goroutine; nil: nothing
}

func (w *worker) loop() {
	clean := false
	defer func() {
		if !clean {
			// The handler called runtime.Goexit, as t.FailNow does in a test.
			if w.exited != nil {
				w.exited()
			}
			go (&worker{run: w.run, route: w.route, pending: w.pending}).loop()
			return
		}
		w.run.workers.Done()
	}()
	for {
		d, err := w.run.s.requests.Take(w.run.taking, w.route.selector)
		if err != nil {
			if w.run.taking.Err() == nil {
				w.run.fail(fmt.Errorf("serve: %v: %w", w.route, err))
			}
			break
		}
		w.run.s.count.taken.Add(1)
		w.route.work(w, d)
	}
	clean = true
}

// contain calls a handler, and turns its panic into an error. exited is called if it ends
// the goroutine.
func (w *worker) contain(f func() error, exited func(error)) (err error) {
	w.exited = func() { exited(w.panicked(nil)) }
	defer func() {
		if w.exited == nil {
			return
		}
		if v := recover(); v != nil {
			w.exited = nil
			err = w.panicked(v)
		}
	}()
	err = f()
	w.exited = nil
	return err
}

func (w *worker) panicked(v any) error {
	w.run.s.count.panics.Add(1)
	return &PanicError{Value: v, Stack: debug.Stack()}
}

// request handles a message that was sent by a Client.
func (w *worker) request(d chanmq.Delivery[[]byte]) {
	s := w.run.s
	h, payload, err := envelope.Parse(d.Value)
	if err == nil && h.Kind != envelope.Request {
		err = fmt.Errorf("the message is a %v", h.Kind)
	}
	if err != nil {
		s.count.undecodable.Add(1)
		w.bury(d, d.Value, &failure{CodeUndecodable, fmt.Errorf("it is no request of a Client: %w", err)})
		return
	}
	now := time.Now().UnixNano()
	switch most := w.route.o.maxAttempts; {
	case h.WaitsUntil != 0 && h.WaitsUntil < now:
		s.count.expired.Add(1)
		_ = d.Ack() // at worst it comes again
		return
	case h.Expiry != 0 && h.Expiry < now:
		s.count.expired.Add(1)
		w.refuse(d, &h, now, &failure{code: CodeExpired})
		return
	case most > 0 && d.Attempt > most:
		err := &failure{CodeAttempts, fmt.Errorf("%d attempts", most)}
		if h.ReplyType != 0 {
			w.refuse(chanmq.Delivery[[]byte]{}, &h, now, err) // d is acknowledged as a dead letter
		}
		w.bury(d, payload, err)
		return
	}

	ctx, cancel := handlerCtx(w.run.handling, MessageInfo{d.Type, d.Attempt, h.ReplyType == 0}, h.WaitsUntil)
	defer cancel()
	reply := w.replyHeader(&h, now)
	w.text = envelope.Append(w.text[:0], &reply)
	var text []byte
	failed := func(err error) {
		s.count.failed.Add(1)
		w.report(d, err)
		w.refuse(d, &h, now, err)
	}
	err = w.contain(func() (err error) {
		text, err = w.route.answer(ctx, payload, w.text)
		return err
	}, failed)
	if err != nil {
		failed(err)
		return
	}
	s.count.handled.Add(1)
	w.text = text
	if h.ReplyType == 0 {
		_ = d.Ack()
		return
	}
	w.post(d, &h, text, reply.Expiry, now)
}

// report reports an error that is not the handler's.
func (w *worker) report(d chanmq.Delivery[[]byte], err error) {
	var panicked *PanicError
	var failed *failure
	switch {
	case errors.As(err, &failed) && failed.code == CodeUndecodable:
		w.run.s.count.undecodable.Add(1)
	case errors.As(err, &failed):
	case errors.As(err, &panicked):
		if panicked.Stack != nil {
			err = fmt.Errorf("%w\n%s", err, panicked.Stack)
		}
	default:
		return // the caller's to deal with
	}
	w.run.s.o.report(&RequestError{Message: d.Message, Attempt: d.Attempt, Err: err})
}

// replyHeader returns the header of the reply to a request.
func (w *worker) replyHeader(request *envelope.Header, now int64) envelope.Header {
	h := envelope.Header{Kind: envelope.Reply, CallID: request.CallID, Expiry: request.WaitsUntil, Life: request.Life}
	if h.Expiry == 0 && (h.Life.PIDNamespace == 0 || h.Life.PIDNamespace != ownLife().PIDNamespace) {
		h.Expiry = now + int64(w.run.s.o.replyTTL)
	}
	return h
}

// refuse answers a request with an error.
func (w *worker) refuse(d chanmq.Delivery[[]byte], request *envelope.Header, now int64, err error) {
	if request.ReplyType == 0 {
		_ = d.Ack()
		return
	}
	remote := asRemote(err)
	h := w.replyHeader(request, now)
	h.Kind, h.Code = envelope.Error, uint32(remote.Code)
	text := append(envelope.Append(nil, &h), remote.Text...)
	w.post(d, request, text, h.Expiry, now)
}

// post sends a reply, which acknowledges the request.
func (w *worker) post(d chanmq.Delivery[[]byte], request *envelope.Header, text []byte, expiry, now int64) {
	if request.WaitsUntil != 0 && request.WaitsUntil <= time.Now().UnixNano() {
		w.run.s.count.unwanted.Add(1)
		_ = d.Ack()
		return
	}
	p := parcel{text: text, expiry: expiry, life: request.Life, request: d}
	err := w.run.outbox.post(request.ReplyType, p, now)
	switch {
	case err == nil:
	case isTooLarge(err) && len(text) > 2*maxErrorText:
		w.report(d, &failure{CodeTooLarge, err})
		w.refuse(d, request, now, &failure{CodeTooLarge, err})
	case isTooLarge(err), errors.Is(err, chanmq.ErrInvalidType):
		w.report(d, &failure{CodeTooLarge, err}) // not even an error fits
		_ = d.Ack()
	default:
		_ = d.Nack() // it is handled again when the queue of replies works again
		w.run.fail(fmt.Errorf("serve: %v: sending a reply: %w", w.route, err))
	}
}

// rejectOthers answers requests of types that no handler selects, until no more is taken.
func (r *run) rejectOthers() {
	w := &worker{run: r, route: &route{name: "WithRejection"}}
	for {
		types := make(map[int64]bool)
		looked := 0
		for m, err := range r.s.requests.Browse() {
			if err != nil {
				break // those who receive find out as well
			}
			if !r.s.selects(m.Type) && envelope.Begins(m.Value) {
				if h, _, err := envelope.Parse(m.Value); err == nil && h.Kind == envelope.Request {
					types[m.Type] = true
				}
			}
			if looked++; looked == maxSweep {
				break
			}
		}
		for typ := range types {
			ctx, cancel := context.WithTimeout(r.taking, time.Millisecond) // another server may have it
			d, err := r.s.requests.Take(ctx, chanmq.OfType(typ))
			cancel()
			if err == nil {
				w.reject(d)
			}
		}
		timer := time.NewTimer(rejectEvery)
		select {
		case <-timer.C:
		case <-r.taking.Done():
			timer.Stop()
			return
		}
	}
}

const rejectEvery = 250 * time.Millisecond

func (w *worker) reject(d chanmq.Delivery[[]byte]) {
	s := w.run.s
	h, _, err := envelope.Parse(d.Value)
	if err != nil || h.Kind != envelope.Request {
		_ = d.Nack() // another one than was seen
		return
	}
	s.count.taken.Add(1)
	var types []string
	for _, rt := range s.routes {
		types = append(types, rt.selector.String())
	}
	err = &failure{CodeNoHandler, fmt.Errorf("type %d; there are handlers for %s", d.Type, strings.Join(types, ", "))}
	if h.ReplyType == 0 {
		w.report(d, err) // nobody else hears of it
	}
	s.count.rejected.Add(1)
	w.refuse(d, &h, time.Now().UnixNano(), err)
}

// selects reports whether a handler takes messages of the type.
func (s *Server) selects(typ int64) bool {
	for _, rt := range s.routes {
		if rt.selector.Matches(typ) {
			return true
		}
	}
	return s.shared() && typ >= firstReplyTyp
}

// counters are those of ServerStats.
type counters struct {
	taken, handled, failed, panics, expired, undecodable, rejected atomic.Int64
	replies, unwanted, takenBack, dropped, swept, waitingPeak      atomic.Int64
	retried, dead                                                  atomic.Int64
	pending                                                        atomic.Int64
}

// ServerStats counts what a [Server] has done, in all calls of Run.
type ServerStats struct {
	Taken       int // messages taken from the queue, each time again
	Handled     int // messages whose handler returned no error
	Failed      int // messages whose handler returned an error, or panicked, or that did not decode
	Panics      int // of these, how many panicked
	Expired     int // requests that were not handled because their time was over
	Undecodable int // messages that are no requests, or that the codec does not decode
	Rejected    int // requests answered because of WithRejection
	Replies     int // replies that the kernel has got, errors included
	Unwanted    int // replies that were not sent because the caller's deadline had passed
	WaitingPeak int // how many replies waited for room, at most
	TakenBack   int // replies taken out of the full queue, to be sent again
	Dropped     int // replies given up for lack of room
	Swept       int // replies taken out because their clients are dead, or they expired
	Retried     int // messages of Consume that were given back for another attempt
	Pending     int // messages of Consume that wait for their next attempt, now
	Dead        int // messages given up by WithMaxAttempts or because they do not decode
}

// Stats returns what the server has done so far. It may be called at any time.
func (s *Server) Stats() ServerStats {
	c := &s.count
	return ServerStats{
		Taken:       int(c.taken.Load()),
		Handled:     int(c.handled.Load()),
		Failed:      int(c.failed.Load()),
		Panics:      int(c.panics.Load()),
		Expired:     int(c.expired.Load()),
		Undecodable: int(c.undecodable.Load()),
		Rejected:    int(c.rejected.Load()),
		Replies:     int(c.replies.Load()),
		Unwanted:    int(c.unwanted.Load()),
		WaitingPeak: int(c.waitingPeak.Load()),
		TakenBack:   int(c.takenBack.Load()),
		Dropped:     int(c.dropped.Load()),
		Swept:       int(c.swept.Load()),
		Retried:     int(c.retried.Load()),
		Pending:     int(c.pending.Load()),
		Dead:        int(c.dead.Load()),
	}
}
