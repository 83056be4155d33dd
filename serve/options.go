package serve

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/chanmq/chanmq"
)

// A ClientOption changes how a [Client] works: [WithTTL].
type ClientOption interface{ applyClient(*clientOptions) }

// A CallOption changes one call of a [Client]: [WithTTL].
type CallOption interface{ applyCall(*callOptions) }

type clientOptions struct {
	ttl time.Duration
	err error
}

type callOptions struct {
	ttl time.Duration
	err error
}

// A TTLOption is what [WithTTL] returns, for a client and for a call.
type TTLOption time.Duration

// WithTTL limits how long a request may wait until a worker takes it, from the moment when
// it is sent. Later it is not handled: servers count it, and a Call ends with [ErrExpired]
// when a server finds it. It is for all requests of a client, or for one call. The default
// is no limit but the deadline of the call's ctx. The clock is the machine's, so a change of
// its time changes what is left of a TTL.
func WithTTL(d time.Duration) TTLOption { return TTLOption(d) }

func (d TTLOption) validate() error {
	if d <= 0 {
		return fmt.Errorf("serve: WithTTL(%v): the duration must be greater than 0", time.Duration(d))
	}
	return nil
}

func (d TTLOption) applyClient(o *clientOptions) { o.ttl, o.err = time.Duration(d), d.validate() }
func (d TTLOption) applyCall(o *callOptions)     { o.ttl, o.err = time.Duration(d), d.validate() }

// A ServerOption changes how a [Server] works.
type ServerOption func(*serverOptions)

type serverOptions struct {
	drain    time.Duration
	outbox   int
	replyTTL time.Duration
	reject   bool
	report   func(error)
	err      error // the first bad argument
}

func newServerOptions(opts []ServerOption) serverOptions {
	o := serverOptions{
		drain:    5 * time.Second,
		outbox:   4096,
		replyTTL: 10 * time.Minute,
		report:   logError,
	}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

func (o *serverOptions) refuse(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf("serve: "+format, args...)
	}
}

// WithDrainTime limits how long Run goes on after its ctx has ended. Then the ctx of the
// handlers that still work ends, and replies that the queue has no room for are given up.
// Run waits for the handlers all the same. The default is 5 seconds.
func WithDrainTime(d time.Duration) ServerOption {
	return func(o *serverOptions) {
		if d <= 0 {
			o.refuse("WithDrainTime(%v): the duration must be greater than 0", d)
		}
		o.drain = d
	}
}

// WithOutbox limits how many replies wait in the server's memory because the queue has no
// room for them. When there are n, a client that has most of them loses the oldest: it is
// dropped, counted and reported. The default is 4,096.
func WithOutbox(n int) ServerOption {
	return func(o *serverOptions) {
		if n < 1 {
			o.refuse("WithOutbox(%d): at least 1 reply must have room", n)
		}
		o.outbox = n
	}
}

// WithReplyTTL sets how long a reply is kept for a client whose life this process cannot
// see, and that waits without a deadline: one in another pid namespace, or a client of
// [HandleBare]. After that time, it may be dropped to make room for others. The default is
// 10 minutes.
func WithReplyTTL(d time.Duration) ServerOption {
	return func(o *serverOptions) {
		if d <= 0 {
			o.refuse("WithReplyTTL(%v): the duration must be greater than 0", d)
		}
		o.replyTTL = d
	}
}

// WithRejection makes the server answer requests with [ErrNoHandler] whose type none of its
// handlers selects. Otherwise they stay in the queue, since another server may handle them:
// so it is for queues with one kind of servers. It looks for them every 250 ms. Those of
// [Client.Send], which nobody waits for, are reported: [WithErrorReport].
func WithRejection() ServerOption { return func(o *serverOptions) { o.reject = true } }

// WithErrorReport sets what is done with errors that no caller is told of, or that a caller
// can do nothing about: mostly a [*RequestError]. f is called from the goroutine that
// handles the message, so it should return soon; it must be safe for concurrent use. By
// default they are logged with package log/slog, at level Warn.
func WithErrorReport(f func(error)) ServerOption {
	return func(o *serverOptions) {
		if f == nil {
			o.refuse("WithErrorReport: the function is nil")
			return
		}
		o.report = f
	}
}

func logError(err error) { slog.Warn("chanmq: serve", "error", err) }

// A HandlerOption changes how the messages of one handler are treated.
type HandlerOption func(*handlerOptions)

type handlerOptions struct {
	concurrency int
	maxAttempts int // 0: no limit
	dead        *chanmq.Queue[[]byte]
	pauseMin    time.Duration
	pauseMax    time.Duration
	pending     int
	err         error // the first bad argument
}

func newHandlerOptions(opts []HandlerOption) handlerOptions {
	o := handlerOptions{
		concurrency: 1,
		pauseMin:    100 * time.Millisecond,
		pauseMax:    time.Minute,
		pending:     64,
	}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

func (o *handlerOptions) refuse(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf(format, args...)
	}
}

// WithConcurrency sets how many messages a handler works on at once, each in a goroutine of
// its own that takes the next message itself. The default is 1: one after the other, in the
// order of the queue.
func WithConcurrency(n int) HandlerOption {
	return func(o *handlerOptions) {
		if n < 1 {
			o.refuse("WithConcurrency(%d): at least 1 worker is needed", n)
		}
		o.concurrency = n
	}
}

// WithMaxAttempts gives a message up that was delivered n times and not dealt with: because
// the handler of [Consume] returned an error each time, or, with a journal, because the
// server died with it each time. It goes to the queue dead, with the reason, as a
// [DeadLetter] of the type that it had. If there is no room in dead, that is tried again
// after a pause. A request that is given up is answered with [ErrAttempts].
//
// dead may be nil: then the message is reported only, see [WithErrorReport]. Attempts are
// counted by the handle of the queue, and by its journal: without one, they begin at 1
// again in the next process.
func WithMaxAttempts(n int, dead *chanmq.Queue[[]byte]) HandlerOption {
	return func(o *handlerOptions) {
		if n < 1 {
			o.refuse("WithMaxAttempts(%d): a message has to be delivered at least once", n)
		}
		o.maxAttempts, o.dead = n, dead
	}
}

// WithRetryPause sets how long a message of [Consume] waits after its handler returned an
// error, until it is delivered again: min after the first attempt, and twice as long after
// each further one, up to max. The defaults are 100 ms and a minute.
func WithRetryPause(min, max time.Duration) HandlerOption {
	return func(o *handlerOptions) {
		if min <= 0 || max < min {
			o.refuse("WithRetryPause(%v, %v): want 0 < min <= max", min, max)
		}
		o.pauseMin, o.pauseMax = min, max
	}
}

// WithMaxPending limits how many messages of a handler of [Consume] wait for their next
// attempt. When there are n, a worker waits with the next one that failed, and takes no
// other meanwhile. The default is 64.
func WithMaxPending(n int) HandlerOption {
	return func(o *handlerOptions) {
		if n < 1 {
			o.refuse("WithMaxPending(%d): at least 1 message must be able to wait", n)
		}
		o.pending = n
	}
}
