package chanmq

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/sysv"
)

// An Option changes how a queue is opened. See the functions that return one.
type Option func(*options)

type options struct {
	kernel    sysv.Kernel
	exclusive bool
	remove    bool
	reopen    bool
	wait      context.Context // how long Open waits; nil: not at all
	owners    []int           // nil: anybody
	spin      time.Duration
	polling   bool
	pollMin   time.Duration
	pollMax   time.Duration
	maxParked int
	err       error // the first bad argument
}

// Defaults of the options.
const (
	defaultSpin      = 20 * time.Microsecond
	defaultPollMin   = time.Millisecond
	defaultPollMax   = 15 * time.Millisecond
	defaultMaxParked = 128
)

// For package chanmqtest, which opens queues on a simulated kernel.
func init() {
	inject.Kernel = func(k sysv.Kernel) any { return Option(func(o *options) { o.kernel = k }) }
}

func newOptions(opts []Option) options {
	o := options{
		kernel:    sysv.Host(),
		spin:      defaultSpin,
		pollMin:   defaultPollMin,
		pollMax:   defaultPollMax,
		maxParked: defaultMaxParked,
	}
	for _, opt := range opts {
		opt(&o)
	}
	return o
}

func (o *options) refuse(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf(format, args...)
	}
}

// WithExclusive makes [Create] fail with an error matching fs.ErrExist when the
// queue exists already (IPC_EXCL).
func WithExclusive() Option { return func(o *options) { o.exclusive = true } }

// WithRemoveOnClose makes Close remove the queue, for every process, with all
// messages that are in it. What the handle holds itself comes back in
// [*UndeliveredError] all the same. A program that ends without calling Close
// leaves the queue behind.
func WithRemoveOnClose() Option { return func(o *options) { o.remove = true } }

// WithOwner refuses to open a queue unless its creator and its owner are both
// among the user ids. Keys are free for all: without it, a queue planted under
// the key by another user would be taken for the real one. The error matches
// fs.ErrPermission.
func WithOwner(uid ...int) Option {
	return func(o *options) {
		if len(uid) == 0 {
			o.refuse("WithOwner: no user id given")
		}
		o.owners = append(o.owners, uid...)
	}
}

// WithReopen makes receives and sends survive the removal of the queue: instead
// of ending with [ErrRemoved], they repeat the call that opened it, [Open] or
// [Create], with pauses that grow from 10 ms to 1 s and vary at random, until
// the queue is there again or their ctx ends. What the handle holds is kept.
// [Queue.Remove] on the handle itself ends them still. TryReceive and TrySend
// look the key up once.
//
// A queue without a key cannot be found again, so [Private] refuses it, and so
// does [Attach] for a private queue. A queue that does not exist yet when the
// program starts is what [WithWait] is for; the two go together.
func WithReopen() Option { return func(o *options) { o.reopen = true } }

// WithWait makes [Open] wait for a queue that does not exist yet, for a program that
// starts before the one that creates it. Open looks for the key again, with the
// pauses of [WithReopen], until the queue is there or ctx ends; it looks once if ctx
// has ended already. Then the error is an [*OpError] that matches ctx.Err() and
// fs.ErrNotExist. Any other error, such as fs.ErrPermission, is returned at once.
//
// ctx is of no further use once Open has returned. [Create] makes the queue itself,
// and [Private] and [Attach] have no key to look for: they refuse WithWait.
func WithWait(ctx context.Context) Option {
	return func(o *options) {
		if ctx == nil {
			o.refuse("WithWait: the ctx is nil")
		}
		o.wait = ctx
	}
}

// WithSpin sets how long a call that has to wait polls the queue before it lets
// its thread sleep in the kernel. The default is 20 microseconds, about what
// sleeping and waking costs; spinning that keeps failing becomes rare by itself.
// Zero turns it off.
func WithSpin(d time.Duration) Option {
	return func(o *options) {
		if d < 0 {
			o.refuse("WithSpin(%v): the duration is negative", d)
		}
		o.spin = d
	}
}

// WithPolling makes calls wait by polling alone, never by a msgsnd or msgrcv that
// blocks: the queue is looked at after min, and after pauses that double up to
// max while nothing comes. One goroutine, on one thread, polls for all of the
// handle's calls. It is for programs that cannot spare threads; a message waits
// up to max.
func WithPolling(min, max time.Duration) Option {
	return func(o *options) {
		if min <= 0 || max < min {
			o.refuse("WithPolling(%v, %v): want 0 < min <= max", min, max)
		}
		o.polling, o.pollMin, o.pollMax = true, min, max
	}
}

// WithMaxParked sets how many calls on the handle may sleep in the kernel at
// once, each of which takes an operating system thread. The default is 128.
// Receives with the same selector share one of them, since only the first of them
// needs to sleep in the kernel. The rest share one goroutine that polls, at least
// every 15 ms if it has little to do. Zero is polling alone. All handles of a process
// together park at most 2,048.
func WithMaxParked(n int) Option {
	return func(o *options) {
		if n < 0 {
			o.refuse("WithMaxParked(%d): the number is negative", n)
		}
		o.maxParked = n
	}
}

// A ReceiverOption changes how a [Receiver] works: [WithBuffer],
// [WithDecodeError], [WithDrain].
type ReceiverOption interface{ applyReceiver(*receiverOptions) }

// A SenderOption changes how a [Sender] works: [WithBuffer].
type SenderOption interface{ applySender(*senderOptions) }

// A BufferOption is what [WithBuffer] returns, for receivers and senders.
type BufferOption int

type receiverOptions struct {
	buffer        int
	onDecodeError func(*DecodeError)
	drain         bool
}

type senderOptions struct{ buffer int }

// WithBuffer gives C room for n values. The default is 0: the kernel queue is
// the buffer. What is in C is lost when the process ends without [Queue.Close] or
// [Queue.Shutdown], and kept from other receivers of the queue meanwhile. A buffer
// makes a stream of messages faster, since the pump and the program then switch less
// often: where messages come one behind the other, a Receiver takes up to 64, as far
// as C has room, before it delivers the first of them.
func WithBuffer(n int) BufferOption { return BufferOption(n) }

func (n BufferOption) applyReceiver(o *receiverOptions) { o.buffer = int(n) }
func (n BufferOption) applySender(o *senderOptions)     { o.buffer = int(n) }

type decodeErrorOption func(*DecodeError)

func (f decodeErrorOption) applyReceiver(o *receiverOptions) { o.onDecodeError = f }

// WithDecodeError makes a Receiver go on after a message that its codec cannot
// decode: f is called with it, from the Receiver's own goroutine, and the
// message is f's from then on. Without it such a message ends the Receiver. f
// must not call Close or Drain of that Receiver, nor Close of the queue, since
// they wait for it to return; it may cancel the ctx.
func WithDecodeError(f func(*DecodeError)) ReceiverOption { return decodeErrorOption(f) }

type drainOption struct{}

func (drainOption) applyReceiver(o *receiverOptions) { o.drain = true }

// WithDrain makes the end of a Receiver's ctx drain it, as [Receiver.Drain] does,
// instead of handing back what it holds: it stops taking messages, delivers those
// that it has taken, and closes C. For programs that range over C until it is
// closed, and handle every message that was taken. While nobody reads C it does
// not end; Close still hands back what it holds.
func WithDrain() ReceiverOption { return drainOption{} }

func newReceiverOptions(opts []ReceiverOption) (receiverOptions, error) {
	var o receiverOptions
	for _, opt := range opts {
		opt.applyReceiver(&o)
	}
	return o, validateBuffer(&o.buffer)
}

func newSenderOptions(opts []SenderOption) (senderOptions, error) {
	var o senderOptions
	for _, opt := range opts {
		opt.applySender(&o)
	}
	return o, validateBuffer(&o.buffer)
}

// validateBuffer makes a bad size 0, so that C exists to be closed.
func validateBuffer(n *int) error {
	if *n < 0 {
		err := fmt.Errorf("WithBuffer(%d): the number is negative", *n)
		*n = 0
		return err
	}
	return nil
}

// ownerList is the text of WithOwner's ids in an error.
func (o *options) ownerList() string {
	list := make([]string, len(o.owners))
	for i, uid := range o.owners {
		list[i] = strconv.Itoa(uid)
	}
	return strings.Join(list, ", ")
}
