package serve

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// The bare forms are for programs that know no header: C programs, mostly. A reply finds
// its call by its message type alone.

// HandleBare adds a handler for requests without a header. replyType returns the type of
// the reply from the request and its type; C programs use the type plus a number, their
// pid, or a number that is in the struct. It must be called before Run.
//
// There is no way to tell the caller of an error: what the handler returns is counted and
// reported ([WithErrorReport]), and no reply is sent; nor is one of type 0 or less. A handler
// whose callers expect an error in the reply puts it there. A reply that nobody takes is
// taken out of the queue when it is older than [WithReplyTTL] and the queue is full.
func HandleBare[Req, Rep any](s *Server, selector chanmq.Selector, req codec.Codec[Req], rep codec.Codec[Rep], replyType func(request Req, typ int64) int64, h Handler[Req, Rep], opts ...HandlerOption) {
	r := &route{name: "HandleBare", selector: selector, o: newHandlerOptions(opts), work: (*worker).bare}
	if req == nil || rep == nil || replyType == nil || h == nil {
		r.o.refuse("a codec, the function for the reply type or the handler is nil")
	}
	r.answerBare = func(ctx context.Context, typ int64, payload, dst []byte) (int64, []byte, error) {
		var request Req
		if err := req.Decode(payload, &request); err != nil {
			return 0, nil, &failure{CodeUndecodable, err}
		}
		to := replyType(request, typ) // before the handler, which may change what request refers to
		reply, err := h(ctx, request)
		if err != nil {
			return 0, nil, err
		}
		if dst, err = rep.Append(dst, reply); err != nil {
			return 0, nil, &failure{CodeUnencodable, err}
		}
		return to, dst, nil
	}
	s.add(r, true)
}

// bare handles a request without a header.
func (w *worker) bare(d chanmq.Delivery[[]byte]) {
	s := w.run.s
	if most := w.route.o.maxAttempts; most > 0 && d.Attempt > most {
		w.bury(d, d.Value, &failure{CodeAttempts, fmt.Errorf("%d attempts", most)})
		return
	}
	ctx, cancel := handlerCtx(w.run.handling, MessageInfo{d.Type, d.Attempt, false}, 0)
	defer cancel()
	failed := func(err error) {
		s.count.failed.Add(1)
		if codeOf(err) == CodeUndecodable {
			s.count.undecodable.Add(1)
			w.bury(d, d.Value, err)
			return
		}
		s.o.report(&RequestError{Message: d.Message, Attempt: d.Attempt, Err: err})
		_ = d.Ack() // at worst it is handled again
	}
	var typ int64
	var text []byte
	err := w.contain(func() (err error) {
		typ, text, err = w.route.answerBare(ctx, d.Type, d.Value, w.text[:0])
		return err
	}, failed)
	if err != nil {
		failed(err)
		return
	}
	s.count.handled.Add(1)
	w.text = text
	if typ < 1 {
		_ = d.Ack()
		return
	}
	now := time.Now().UnixNano()
	err = w.run.outbox.post(typ, parcel{text: text, bare: true, expiry: now + int64(s.o.replyTTL), request: d}, now)
	switch {
	case err == nil:
	case isTooLarge(err), errors.Is(err, chanmq.ErrInvalidType):
		s.o.report(&RequestError{Message: d.Message, Attempt: d.Attempt, Err: err})
		_ = d.Ack()
	default:
		_ = d.Nack()
		w.run.fail(fmt.Errorf("serve: %v: sending a reply: %w", w.route, err))
	}
}

// A BareClient calls servers that know no header. It is safe for concurrent use. Replies of
// one type belong to one call after the other: of calls that get the same reply type, one
// is under way at a time, and the others wait. Where the request names its reply type, each
// call has one of its own.
type BareClient[Req, Rep any] struct {
	requests  *chanmq.Queue[Req]
	replies   *chanmq.Queue[[]byte] // only a reply that is wanted is decoded
	rep       codec.Codec[Rep]
	typ       int64
	replyType func(request *Req, unique int64) int64
	match     func(request Req, reply Rep) bool
	wait      time.Duration
	err       error // a bad argument

	closing context.Context
	close   context.CancelFunc
	users   sync.WaitGroup

	mu    sync.Mutex
	types map[int64]*bareType // guarded by mu: those in use, or with a reply to come
	stats BareStats           // guarded by mu
}

// BareStats counts what a [BareClient] has done.
type BareStats struct {
	Calls     int // calls of Call that began
	Abandoned int // of these, that ended without a reply although the request was sent
	Late      int // replies that came too late, or did not match, and were dropped
}

// bareType is a type of replies.
type bareType struct {
	turn  chan struct{} // has an element while a call uses it
	users int           // calls that use it, or wait for their turn; guarded by BareClient.mu
	owed  int           // replies to come that nobody waits for; guarded by BareClient.mu
	until time.Time     // they most likely never come later than that
}

// bareLinger is how long late replies are looked for whose types no call uses any more.
const bareLinger = time.Minute

// NewBareClient returns a client that sends requests of type typ to the one queue and
// receives replies from the other, which may be the same. replyType returns the type of the
// reply to a request:
//
//	func(*Question, int64) int64 { return typ + 3 }
//	func(*Question, int64) int64 { return int64(os.Getpid()) }
//	func(q *Question, unique int64) int64 { q.ReplyTo = int32(unique); return unique }
//
// unique is a type that no other call of this client has, chosen at random, which fits a C
// int and is more than 2^30. It is the only form with which clients in several processes, or
// pid namespaces, are safe from each other.
//
// It always returns a client; if an argument is bad, Call returns the error.
func NewBareClient[Req, Rep any](requests, replies *chanmq.Queue[[]byte], typ int64, req codec.Codec[Req], rep codec.Codec[Rep], replyType func(request *Req, unique int64) int64, opts ...BareOption[Req, Rep]) *BareClient[Req, Rep] {
	c := &BareClient[Req, Rep]{typ: typ, replyType: replyType, wait: time.Second, types: make(map[int64]*bareType)}
	c.closing, c.close = context.WithCancel(context.Background())
	if requests == nil || replies == nil || req == nil || rep == nil || replyType == nil {
		c.err = errors.New("serve: NewBareClient: a queue, a codec or the function for the reply type is nil")
		return c
	}
	c.requests, c.replies, c.rep = chanmq.As(requests, req), replies, rep
	for _, opt := range opts {
		opt(c)
	}
	return c
}

// A BareOption changes how a [BareClient] works.
type BareOption[Req, Rep any] func(*BareClient[Req, Rep])

// WithMatch makes a BareClient recognise late replies: those for which match reports false
// are dropped. It is for replies that repeat something of their request, such as a number.
func WithMatch[Req, Rep any](match func(request Req, reply Rep) bool) BareOption[Req, Rep] {
	return func(c *BareClient[Req, Rep]) { c.match = match }
}

// WithOwedWait sets for how long a call waits for the reply to an earlier one of the same
// reply type, whose ctx ended before it came, if there is no WithMatch to tell them apart.
// After that, the earlier reply is taken for lost; if it comes all the same, it is taken
// for the reply to a later request. The default is a second.
func WithOwedWait[Req, Rep any](d time.Duration) BareOption[Req, Rep] {
	return func(c *BareClient[Req, Rep]) {
		if d < 0 {
			c.err = fmt.Errorf("serve: WithOwedWait(%v): the duration is negative", d)
		}
		c.wait = d
	}
}

// Call sends a request and waits for the reply. Its errors are those of [Client.Call], but
// for a RemoteError: there are none. It takes replies of the call's type that are in the
// queue already for late ones, and drops them.
func (c *BareClient[Req, Rep]) Call(ctx context.Context, request Req) (reply Rep, err error) {
	if c.err != nil {
		return reply, c.err
	}
	c.mu.Lock()
	if c.closing.Err() != nil {
		c.mu.Unlock()
		return reply, ErrClosed
	}
	c.users.Add(1)
	defer c.users.Done()
	c.stats.Calls++
	unique := c.unique()
	c.mu.Unlock()
	typ := c.replyType(&request, unique)
	t := c.use(typ)
	defer c.leave(typ, t)
	c.collect()

	calling, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.closing, cancel)()
	select {
	case t.turn <- struct{}{}:
		reply, err = c.call(calling, typ, t, request)
	case <-calling.Done():
		err = ctxError(calling)
	}
	if err != nil && ctx.Err() == nil && calling.Err() != nil {
		return reply, ErrClosed
	}
	if err != nil {
		err = fmt.Errorf("serve: call: request of type %d, reply of type %d: %w", c.typ, typ, err)
	}
	return reply, err
}

// use begins the use of a reply type by a call.
func (c *BareClient[Req, Rep]) use(typ int64) *bareType {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.types[typ]
	if t == nil {
		t = &bareType{turn: make(chan struct{}, 1)}
		c.types[typ] = t
	}
	t.users++
	return t
}

// leave undoes use.
func (c *BareClient[Req, Rep]) leave(typ int64, t *bareType) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.users--; t.users == 0 && t.owed == 0 {
		delete(c.types, typ)
	}
}

// call is Call by the one that has the turn, which it gives on. The program's functions may
// not return.
func (c *BareClient[Req, Rep]) call(ctx context.Context, typ int64, t *bareType, request Req) (reply Rep, err error) {
	defer func() { <-t.turn }()
	if err := c.awaitOwed(ctx, typ, t); err != nil {
		return reply, err
	}
	if err := c.requests.Send(ctx, c.typ, request); err != nil {
		return reply, err
	}
	for {
		m, err := c.replies.Receive(ctx, chanmq.OfType(typ))
		if err != nil {
			c.mu.Lock()
			t.owed++
			t.until = time.Now().Add(bareLinger)
			c.stats.Abandoned++
			c.mu.Unlock()
			return reply, err
		}
		var got Rep // a new one each time, since a codec may leave fields as they are
		if err := c.rep.Decode(m.Value, &got); err != nil {
			// It is the reply, most likely.
			return reply, &chanmq.DecodeError{Message: m, Err: err, Key: c.replies.Key(), ID: c.replies.ID()}
		}
		if c.match == nil || c.match(request, got) {
			return got, nil
		}
		c.late(t, 1)
	}
}

// awaitOwed takes out replies to earlier calls.
func (c *BareClient[Req, Rep]) awaitOwed(ctx context.Context, typ int64, t *bareType) error {
	c.late(t, c.drain(typ))
	if c.match != nil || c.owed(t) == 0 {
		return ctx.Err()
	}
	waiting, cancel := context.WithTimeout(ctx, c.wait)
	defer cancel()
	for c.owed(t) > 0 {
		_, err := c.replies.Receive(waiting, chanmq.OfType(typ))
		switch {
		case err == nil:
			c.late(t, 1)
		case ctx.Err() != nil:
			return ctxError(ctx)
		case waiting.Err() != nil:
			c.mu.Lock()
			t.owed = 0 // they are lost
			c.mu.Unlock()
		default:
			return err
		}
	}
	return nil
}

func (c *BareClient[Req, Rep]) owed(t *bareType) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return t.owed
}

// drain takes all replies of a type out of the queue, and returns how many there were.
func (c *BareClient[Req, Rep]) drain(typ int64) (n int) {
	for {
		_, ok, _ := c.replies.TryReceive(chanmq.OfType(typ)) // an error comes again in Receive
		if !ok {
			return n
		}
		n++
	}
}

// late counts replies that came too late.
func (c *BareClient[Req, Rep]) late(t *bareType, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Late += n
	t.owed = max(0, t.owed-n)
}

// collectAtOnce bounds for how many types a call looks for late replies.
const collectAtOnce = 8

// collect takes out late replies of types that no call uses any more.
func (c *BareClient[Req, Rep]) collect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	looked := 0
	for typ, t := range c.types {
		if t.users > 0 {
			continue
		}
		n := c.drain(typ)
		c.stats.Late += n
		if t.owed -= n; t.owed <= 0 || time.Now().After(t.until) {
			delete(c.types, typ)
		}
		if looked++; looked == collectAtOnce {
			return
		}
	}
}

// unique returns a type that no call has. It needs mu.
func (c *BareClient[Req, Rep]) unique() int64 {
	for {
		typ := 1<<30 | rand.Int64N(1<<30)
		if c.types[typ] == nil {
			return typ
		}
	}
}

// Close ends the calls under way with [ErrClosed], waits for them, and takes out of the
// queue what late replies there are. It does not close the queues. It may be called several
// times, and always returns nil.
func (c *BareClient[Req, Rep]) Close() error {
	c.mu.Lock()
	c.close()
	c.mu.Unlock()
	c.users.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	for typ, t := range c.types {
		c.stats.Late += c.drain(typ)
		t.owed = 0
	}
	clear(c.types)
	return nil
}

// Stats returns what the client has done so far. It works after Close.
func (c *BareClient[Req, Rep]) Stats() BareStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}
