package serve

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"strconv"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
)

// A Client sends requests of one type to servers, and receives their replies. It is safe
// for concurrent use: each Call gets its own reply, whichever server answers, and in
// whichever order.
//
// A client has a reply type of its own, an mtype chosen at random when it was made, so that
// pids, containers and their pid namespaces do not matter. It has no goroutine while
// nobody calls; one goroutine receives late replies, for at most 5 seconds after a Call has
// ended without its reply.
//
// What a client leaves in the queue of replies when its process is killed, servers and the
// next clients take out.
type Client[Req, Rep any] struct {
	requests *chanmq.Queue[outgoing[Req]]
	replies  *chanmq.Queue[[]byte]
	typ      int64
	rep      codec.Codec[Rep]
	ttl      time.Duration
	err      error // a bad argument
	mailbox  *mailbox

	closing context.Context
	close   context.CancelFunc
	swept   int
}

// NewClient returns a client that sends requests of type typ to the one queue and receives
// replies from the other. They may be the same queue, but two are better: requests cannot
// take the room of replies then. The client does not close the queues.
//
// NewClient takes replies of clients that are dead out of the queue of replies. It always
// returns a client; if an argument is bad, Call and Send return the error.
func NewClient[Req, Rep any](requests, replies *chanmq.Queue[[]byte], typ int64, req codec.Codec[Req], rep codec.Codec[Rep], opts ...ClientOption) *Client[Req, Rep] {
	c := &Client[Req, Rep]{replies: replies, typ: typ, rep: rep}
	c.closing, c.close = context.WithCancel(context.Background())
	if requests == nil || replies == nil || req == nil || rep == nil {
		c.err = fmt.Errorf("serve: NewClient: a queue or a codec is nil")
		return c
	}
	var o clientOptions
	for _, opt := range opts {
		opt.applyClient(&o)
	}
	c.ttl, c.err = o.ttl, o.err
	c.requests = chanmq.As(requests, outgoingCodec(req))
	c.mailbox = newMailbox(replies)
	s := sweeper{queue: replies, keep: c.putBack}
	s.sweep() // at worst a server does it
	c.swept = s.taken
	return c
}

// putBack sends a reply back that another client will take.
func (c *Client[Req, Rep]) putBack(m chanmq.Message[[]byte]) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	_ = c.replies.Send(ctx, m.Type, m.Value) // its client's ctx ends, as when a server dies
}

// Call sends a request and waits for the reply. It returns:
//
//   - a [*RemoteError] if the server answers with an error;
//   - an error matching ctx.Err() if ctx has ended, while the queue had no room for the
//     request, or before the reply came; the request may be handled all the same;
//   - [ErrClosed] after, or because of, Close;
//   - the error of the codec, or of the queue, such as chanmq.ErrTooLarge or
//     chanmq.ErrRemoved.
//
// The deadline of ctx goes with the request: a server does not handle a request that
// nobody waits for any more, and the handler's ctx ends with it. Without a deadline, and
// without a server, Call waits forever. If the server is killed while it has the request,
// Call waits for ctx, unless the server's queue has a journal.
func (c *Client[Req, Rep]) Call(ctx context.Context, request Req, opts ...CallOption) (reply Rep, err error) {
	out := outgoing[Req]{value: request}
	if err := c.prepare(ctx, &out, opts); err != nil {
		return reply, err
	}
	call, err := c.mailbox.register(out.header.WaitsUntil)
	if err != nil {
		return reply, err
	}
	out.header.CallID = call.id
	out.header.ReplyType = c.mailbox.typ
	sent := false
	defer func() {
		if !sent { // or the codec does not return
			c.mailbox.unsent(call)
		}
	}()
	if err := c.send(ctx, out); err != nil {
		return reply, err
	}
	sent = true
	h, payload, err := c.mailbox.await(ctx, call)
	switch {
	case err != nil:
		return reply, fmt.Errorf("serve: call: waiting for the reply to a request of type %d: %w", c.typ, err)
	case h.Kind == envelope.Error:
		return reply, &RemoteError{Code: Code(h.Code), Text: string(payload)}
	}
	if err := c.rep.Decode(payload, &reply); err != nil {
		return reply, fmt.Errorf("serve: call: decoding the reply to a request of type %d, %d bytes: %w", c.typ, len(payload), err)
	}
	return reply, nil
}

// Send sends a message that no reply is wanted for, to a handler of [Handle] or [Consume].
// When it returns nil, the kernel has the message. Nobody hears whether it was handled;
// with [WithTTL] it is not handled after that time. The deadline of ctx limits the wait for
// room in the queue only.
func (c *Client[Req, Rep]) Send(ctx context.Context, request Req, opts ...CallOption) error {
	out := outgoing[Req]{value: request}
	if err := c.prepare(ctx, &out, opts); err != nil {
		return err
	}
	out.header.WaitsUntil = 0
	if c.closing.Err() != nil {
		return ErrClosed
	}
	return c.send(ctx, out)
}

// prepare fills the header, but for what concerns the reply.
func (c *Client[Req, Rep]) prepare(ctx context.Context, out *outgoing[Req], opts []CallOption) error {
	if c.err != nil {
		return c.err
	}
	o := callOptions{ttl: c.ttl}
	for _, opt := range opts {
		opt.applyCall(&o)
	}
	if o.err != nil {
		return o.err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("serve: nothing was sent: %w", ctxError(ctx))
	}
	h := &out.header
	h.Kind = envelope.Request
	h.Life = ownLife()
	if deadline, ok := ctx.Deadline(); ok {
		h.WaitsUntil = deadline.UnixNano()
	}
	if o.ttl > 0 {
		h.Expiry = time.Now().Add(o.ttl).UnixNano()
	}
	return nil
}

// send sends a request. Close ends it, too.
func (c *Client[Req, Rep]) send(ctx context.Context, out outgoing[Req]) error {
	// Most of the time there is room, and no ctx is needed that ends with either.
	sent, err := c.requests.TrySend(c.typ, out)
	if sent || err != nil {
		return err
	}
	sending, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.closing, cancel)()
	err = c.requests.Send(sending, c.typ, out)
	if err != nil && c.closing.Err() != nil && ctx.Err() == nil && sending.Err() != nil {
		return ErrClosed
	}
	return err
}

// Close ends the calls under way with [ErrClosed], waits for them, and takes out of the
// queue what replies to them there are. If some are still to come, it waits for them, for
// at most a second. It does not close the queues. It may be called several times, and
// always returns nil.
func (c *Client[Req, Rep]) Close() error {
	c.close()
	if c.mailbox != nil {
		c.mailbox.close()
	}
	return nil
}

// Stats returns what the client has done so far. It works after Close.
func (c *Client[Req, Rep]) Stats() ClientStats {
	if c.mailbox == nil {
		return ClientStats{}
	}
	c.mailbox.mu.Lock()
	defer c.mailbox.mu.Unlock()
	stats := c.mailbox.stats
	stats.Swept = c.swept
	return stats
}

// ClientStats counts what a [Client] has done.
type ClientStats struct {
	Calls     int // calls of Call that began
	Unsent    int // of these, whose request was not sent
	Abandoned int // of these, that ended without a reply although the request was sent
	Late      int // replies that were dropped because their call had ended
	Foreign   int // messages of this client's type that are no replies to it, dropped
	Swept     int // replies of other clients, which are dead, taken out by NewClient
}

// outgoing is a request as it is sent.
type outgoing[Req any] struct {
	header envelope.Header
	value  Req
}

func outgoingCodec[Req any](c codec.Codec[Req]) codec.Codec[outgoing[Req]] {
	return codec.Func(
		func(dst []byte, v outgoing[Req]) ([]byte, error) {
			return c.Append(envelope.Append(dst, &v.header), v.value)
		},
		func([]byte, *outgoing[Req]) error { return fmt.Errorf("serve: requests are not received here") },
	)
}

// Reply types have the highest bit of a C long that is not the sign, so that they are never
// the types of requests, and the others are random: 62 of them, or 30 where a long has 32
// bits.
const (
	longBits      = strconv.IntSize // a C long is Go's int, on Linux
	firstReplyTyp = 1 << (longBits - 2)
)

func randomType() int64 { return firstReplyTyp | int64(randomBits(longBits-2)) }

// randomBits returns a random number of n bits. They need not be secret, but must be as
// unique as possible, among processes that start at the same moment, too.
func randomBits(n int) uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // it never fails
	return binary.NativeEndian.Uint64(b[:]) >> (64 - n)
}

// ctxError returns the error of a ctx that has ended: it matches ctx.Err() and the cause.
func ctxError(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); cause != nil && cause != err {
		return fmt.Errorf("%w: %w", err, cause)
	}
	return err
}
