// Package serve is request and reply over two message queues, and the loop that services
// write around a queue: handlers by message type, with bounded concurrency, retries and a
// clean end.
//
// A [Client] sends requests and gets the reply to each, from any number of goroutines and
// processes at once:
//
//	add := serve.NewClient(requests, replies, 1, codec.JSON[Terms](), codec.JSON[Sum]())
//	sum, err := add.Call(ctx, Terms{2, 3})
//
// A [Server] takes them, by type, as an http.ServeMux does by path:
//
//	s := serve.NewServer(requests, replies)
//	serve.Handle(s, chanmq.OfType(1), codec.JSON[Terms](), codec.JSON[Sum](), add)
//	serve.Consume(s, chanmq.OfType(2), codec.String(), writeLog)
//	err := s.Run(ctx) // until ctx ends: then it answers what it took
//
// The queues are opened by the program, with its own permissions, and closed by it. Any
// number of servers, in any processes, may share them.
//
// # One queue or two
//
// Requests and replies have a queue each, unless the program passes one queue for both. Two
// are the default because a queue has one amount of room: where requests and replies share
// it, clients that send faster than servers answer leave none for replies, and a program
// that waits for room to reply while its clients wait for replies waits forever. Here that
// does not happen with one queue either: no worker ever waits for room. It takes the next
// request, which makes room, and the reply waits in memory until there is some. But then the
// bound of the server's memory ([WithOutbox]) limits how many calls can be under way, and
// not the kernel. With one queue, handlers must select types that are below those of
// replies, so Any and Except are refused.
//
// # What is left behind
//
// A call whose ctx has ended drops its reply when it comes. A client that was killed leaves
// replies that nobody takes. Each reply carries what proves the end of its client: pid, pid
// namespace and start time of the process; and it may have an expiry. Clients look for such
// replies when they start; servers do so every 10 seconds while they answer, and when the
// queue is full. A client that is stopped, but lives, loses nothing while the server's
// outbox has room.
//
// They look with MSG_COPY, as chanmq.Queue.Browse does. A kernel built without
// CONFIG_CHECKPOINT_RESTORE does not have that: calls work there too, but what a killed client
// leaves stays, and a client that takes no replies can fill the queue for others. Give each
// client a queue for its replies there.
//
// # At most once, at least once
//
// Without a journal, a request that a server took is lost if the server is killed before it
// has replied: the caller's ctx ends. If the handle of the requests has a journal
// (chanmq.WithJournal), the request is handled again, by another server, or by the next one:
// so handlers should do no harm if they run twice. It is acknowledged when the reply is in
// the kernel. The handles of replies need no journal: a reply that a client was killed with
// is of no use to the next one, which would drop it.
//
// # Requests and replies of any size
//
// Handles with chanmq.WithLarge, of clients and servers alike, carry requests and replies
// that are larger than a message. Replies that nobody takes are found and taken out as all
// others, with their files. To find them servers read what is in the queue, texts in files
// too, so a queue for replies of many megabytes should have clients that take them. A reply that
// the file system has no space for is answered with [CodeTooLarge].
//
// # With programs in other languages
//
// The messages of Client and Handle begin with a header; docs/envelope.md has its layout.
// C programs that know nothing of it are served by [HandleBare], and called by
// [BareClient]. [Consume] takes messages as they are.
package serve

import (
	"context"
	"errors"
	"time"
)

// A Handler answers a request. Its ctx ends when the caller's ctx reaches its deadline, or
// when the server has to end ([WithDrainTime]); it does not end with the ctx of
// [Server.Run], so that what was taken is answered. [Info] returns what is known of the
// message.
//
// An error goes to the caller, as a [*RemoteError]. A panic is contained: the caller gets
// [ErrPanicked]. A handler must be safe for concurrent use if [WithConcurrency] is more
// than 1.
type Handler[Req, Rep any] func(ctx context.Context, request Req) (Rep, error)

// Discard is the handler as one for [Consume]: its replies are dropped.
func (h Handler[Req, Rep]) Discard(ctx context.Context, request Req) error {
	_, err := h(ctx, request)
	return err
}

// NoReply makes a Handler of a function for [Consume], so that middleware can be put
// around it:
//
//	serve.Consume(s, selector, codec, serve.Log(logger, serve.NoReply(f)).Discard)
func NoReply[T any](f func(ctx context.Context, v T) error) Handler[T, struct{}] {
	return func(ctx context.Context, v T) (struct{}, error) { return struct{}{}, f(ctx, v) }
}

// MessageInfo is what [Info] returns.
type MessageInfo struct {
	Type    int64 // the message's type
	Attempt int   // how many times the message was delivered, this time included
	OneWay  bool  // nobody waits for a reply
}

// Info returns what is known of the message that a handler was called with. ok is false if
// ctx is not that of a handler.
func Info(ctx context.Context) (info MessageInfo, ok bool) {
	info, ok = ctx.Value(infoKey{}).(MessageInfo)
	return info, ok
}

type infoKey struct{}

// handlerContext is the ctx of a handler. It is a type of its own because most handlers
// never ask.
type handlerContext struct {
	context.Context
	info MessageInfo
}

func (c *handlerContext) Value(key any) any {
	if _, ok := key.(infoKey); ok {
		return c.info
	}
	return c.Context.Value(key)
}

// handlerCtx returns the ctx for a message, and what ends it.
func handlerCtx(ctx context.Context, info MessageInfo, until int64) (context.Context, context.CancelFunc) {
	c := &handlerContext{ctx, info}
	if until == 0 {
		return c, func() {}
	}
	return context.WithDeadlineCause(c, time.Unix(0, until), errCallerGone)
}

var errCallerGone = errors.New("the caller waits no longer")
