// Package watermill has a publisher and a subscriber of Watermill
// (github.com/ThreeDotsLabs/watermill) whose topics are queues of chanmq, and two functions
// that put any other engine of Watermill (Kafka, Redis, AMQP, SQL) at the end of a queue.
//
//	topics := chanmqwatermill.Keys(map[string]chanmq.Key{"orders": 0x2a01, "bills": 0x2a02}, 0o600)
//	publisher := chanmqwatermill.NewPublisher(topics)
//	subscriber := chanmqwatermill.NewSubscriber(topics)
//	router.AddHandler("billing", "orders", subscriber, "bills", publisher, bill)
//
//	go chanmqwatermill.ToPublisher(ctx, q, chanmq.OfType(1), kafka, "readings")
//	go chanmqwatermill.FromSubscriber(ctx, kafka, "setpoints", q, 2)
//
// The programs at the other end of the queue need not use Watermill, nor be written in Go:
// with [Plain] the text of a message is its payload.
//
// # Topics
//
// A topic is a queue, opened by key ([Keys]) or by the program ([Queues]), or one type of a
// queue ([Types]), or what a function says ([TopicFunc]). Queues are opened with any options, and
// everything that these do holds here: a journal (chanmq.WithJournal), packs (WithPacking),
// texts of any size (WithLarge).
//
// The queues may be those of a cluster as well, which any number of machines share: with the option
// that a natsmq.Cluster has, wherever queues are opened. See below for what is different.
//
// Topics that share a queue share its room. One that nobody subscribes to fills it for all. And a
// handler must not publish to the queue from which its message came: while that is full of
// messages for the handler, both wait for each other. So the topics of a Router's handlers
// are queues of their own.
//
// Subscriptions to a topic, of all processes, compete for its messages, as receivers of a
// queue do: each message goes to one of them.
//
// # What may be lost, and what may come twice
//
// When Publish returns nil, the kernel has the messages. A message that a subscription has
// taken is in the handler's hands until Ack; Nack gives it back, to be delivered again, after
// a pause ([WithBackoff]) and before newer messages. Whatever ends a subscription, the end of
// its ctx, Close or the removal of the queue, what it holds goes back to the handle, and with
// Close of a queue that the subscriber owns, to the kernel.
//
// With chanmq.WithJournal on the subscriber's queue the end of the process, by SIGKILL too,
// loses nothing that was taken. Without it, that loses what is in the handlers' hands and what
// the handle holds.
//
// Twice, and more often, comes:
//
//   - what was given back, by Nack or because a handler did not answer in time when its
//     subscription ended ([WithCloseTimeout]);
//   - with a journal, what was not acknowledged when the process died: of each subscription at
//     most as many messages as may be in flight (chanmq.WithInFlight, 1 by default). The
//     acknowledgement follows Message.Ack at once, in another goroutine; Message.Context ends
//     when it is done;
//   - what a handler had published before it failed and its message came again.
//
// Nothing else does. [ToPublisher] and [FromSubscriber] say what holds for them.
//
// # On a cluster
//
// With the queues of a natsmq.Cluster all of this holds, the features below too, but for what
// docs/cluster.md says of its queues, of which this matters here:
//
//   - A message stays in its queue until Ack, so no journal is needed. WithJournal, WithPacking and
//     WithLarge are refused, so that Publish and Subscribe fail. A text has up to 8,192 bytes,
//     with what [Frame] adds, and a queue 1 MiB, unless natsmq.WithLimits says otherwise.
//   - What a process had that has died comes again after natsmq.WithAckWait, 30 seconds by
//     default. That may be more than was in flight, what it had got in advance too: these are not
//     handled twice, and Attempt counts them.
//   - What Close gives back stays in its place. It comes before newer messages, but in any order
//     with others that were given back.
//   - Each queue is a stream, which takes the servers milliseconds to create and stays until it is
//     removed: thousands of topics should be types of one queue ([Types]).
//   - Publish may fail with chanmq.ErrUncertain: the message that PublishError names may be sent.
//
// # Watermill's features
//
// Watermill's tests for engines (pubsub/tests) run against this package with real queues, of the
// kernel and of a cluster.
// These are the features of theirs:
//
//   - Persistent: yes. A queue survives every process, but not a reboot; on a cluster it survives
//     that of the servers.
//   - GuaranteedOrder: with a single subscription (GuaranteedOrderWithSingleSubscriber) that
//     has one message in flight, the default. What Close sends back to the kernel goes to
//     the tail.
//   - ConsumerGroups: no, since receivers of a queue compete, and a message is taken once.
//     Publish to a topic for each group instead (gochannel.FanOut does that).
//   - ExactlyOnceDelivery: no, since a process may die between its work and Ack, and since a
//     message comes again after Nack. Where neither happens the tests find no duplicates.
//   - NewSubscriberReceivesOldMessages: no, since the kernel keeps nothing that was received.
//   - RequireSingleInstance: no. ContextPreserved: no, a message is bytes.
//
// # Format
//
// [Frame], the default, carries the UUID, the metadata and the payload. Numbers are
// little-endian:
//
//	offset  bytes
//	0       4      magic and version: FD 77 6D 01 (\xFD, "wm", 1)
//	4       2      length of the UUID
//	6       2      number of metadata pairs
//	8              the UUID
//	               for each pair: length of the key 2, length of the value 4, key, value
//	               the payload, up to the last byte
//	last    1      0
//
// The last byte tells a journal where the text ends. Pairs are in the order of their keys;
// readers take any order. A text with a wrong number is refused as a whole. None begins as an
// envelope of chanmq does (docs/envelope.md), so it can be in one, or in a pack.
package watermill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/chanmq/chanmq"
)

var (
	// ErrClosed is the error of calls on a Publisher or a Subscriber after Close, and of a
	// Publish that Close has ended. It matches os.ErrClosed.
	ErrClosed = fmt.Errorf("the publisher or subscriber is closed: %w", os.ErrClosed)

	// ErrUnknownTopic is the error of a topic that [Keys], [Queues] or [Types] was not given.
	ErrUnknownTopic = errors.New("unknown topic")

	// ErrSubscriptionEnded is the error of [FromSubscriber] when the subscriber has closed
	// its channel of messages by itself.
	ErrSubscriptionEnded = errors.New("the subscriber has closed its channel")
)

// A Topic is where the messages of a topic are.
type Topic struct {
	Queue *chanmq.Queue[[]byte]
	// Type is the mtype that a Publisher sends with; 0 is 1.
	Type int64
	// Selector selects what a Subscriber receives. The zero value is chanmq.Any.
	Selector chanmq.Selector
	// Owned says that the Publisher or Subscriber which got this Topic closes the queue's
	// handle, in its own Close. Otherwise the program does, after that Close: what a
	// subscription was not acknowledged for is in the handle then, see Queue.Shutdown.
	Owned bool
}

// Topics finds the queue of a topic. Implementations must be safe for concurrent use.
type Topics interface {
	// Open is called by each Publisher and Subscriber when it uses the topic for the first
	// time, and again if it has failed. The Topic is kept until Close, so a program with
	// topics without number gives them types of one queue. ctx is that of the Publish or
	// Subscribe which was the first to need the topic, and ends with Close too; see
	// chanmq.WithWait.
	Open(ctx context.Context, topic string) (Topic, error)
}

// A TopicFunc is a function that is [Topics].
type TopicFunc func(ctx context.Context, topic string) (Topic, error)

// Open calls the function.
func (f TopicFunc) Open(ctx context.Context, topic string) (Topic, error) { return f(ctx, topic) }

// Queues returns topics that are queues which the program has opened. Messages are sent with
// the type 1, and received whatever their type. The handles stay the program's, to be ended,
// by Queue.Shutdown, after all Publishers and Subscribers that use them. Other topics
// are refused with [ErrUnknownTopic].
func Queues(queues map[string]*chanmq.Queue[[]byte]) Topics {
	queues = maps.Clone(queues)
	return TopicFunc(func(_ context.Context, topic string) (Topic, error) {
		q, ok := queues[topic]
		if !ok {
			return Topic{}, ErrUnknownTopic
		}
		return Topic{Queue: q, Type: 1}, nil
	})
}

// Types returns topics that are types of one queue, each with an mtype of its own, > 0. They
// share its room: see the package comment. The handle stays the program's, as with [Queues].
// Other topics are refused with [ErrUnknownTopic].
func Types(q *chanmq.Queue[[]byte], types map[string]int64) Topics {
	types = maps.Clone(types)
	return TopicFunc(func(_ context.Context, topic string) (Topic, error) {
		typ, ok := types[topic]
		if !ok {
			return Topic{}, ErrUnknownTopic
		}
		return Topic{Queue: q, Type: typ, Selector: chanmq.OfType(typ)}, nil
	})
}

// Keys returns topics that are queues of their own. They are opened, or created with the
// permissions perm, as chanmq.Create does it with these options, by each Publisher and
// Subscriber for itself, and closed by its Close. Messages are sent with the type 1, and
// received whatever their type. Other topics are refused with [ErrUnknownTopic].
func Keys(keys map[string]chanmq.Key, perm fs.FileMode, opts ...chanmq.Option) Topics {
	keys = maps.Clone(keys)
	return TopicFunc(func(_ context.Context, topic string) (Topic, error) {
		key, ok := keys[topic]
		if !ok {
			return Topic{}, ErrUnknownTopic
		}
		q, err := chanmq.Create(key, perm, opts...)
		return Topic{Queue: q, Type: 1, Owned: true}, err
	})
}

// A Backoff returns how long to wait before a message is tried again that has failed the
// given number of times, at least once. It must be safe for concurrent use.
type Backoff func(failures int) time.Duration

// Exponential returns pauses that begin with first and double up to most, each of them
// shortened at random by up to a fifth, so that what failed together is not tried together.
func Exponential(first, most time.Duration) Backoff {
	return func(failures int) time.Duration {
		d := first
		for ; failures > 1 && d < most; failures-- {
			d *= 2
		}
		d = min(d, most)
		return d - rand.N(d/5+1)
	}
}

// An Option changes how a Publisher, a Subscriber, ToPublisher or FromSubscriber works.
// Options that do not concern what they are given to have no effect.
type Option func(*options)

type options struct {
	marshaler    Marshaler
	backoff      Backoff
	consumer     []chanmq.ConsumerOption
	closeTimeout time.Duration
	logger       watermill.LoggerAdapter
	undecoded    func(topic string, m chanmq.Message[[]byte], err error)
	unsendable   func(msg *message.Message, err error) error
	topicOf      func(typ int64, msg *message.Message) (string, error)
	typeOf       func(msg *message.Message) (int64, error)
}

func newOptions(opts []Option) options {
	o := options{
		marshaler:    Frame{},
		backoff:      Exponential(10*time.Millisecond, 5*time.Second),
		closeTimeout: 10 * time.Second,
	}
	for _, opt := range opts {
		opt(&o)
	}
	if o.logger == nil {
		o.logger = watermill.NewSlogLogger(nil)
	}
	return o
}

// WithMarshaler sets how messages become text and back, in all four. The default is [Frame].
func WithMarshaler(m Marshaler) Option { return func(o *options) { o.marshaler = m } }

// WithBackoff sets the pauses before a message is given back: one that the handler of a
// Subscriber has answered with Nack, that ToPublisher could not publish, that FromSubscriber
// could not send. The message is in flight meanwhile, so that with the default, of one in
// flight, nothing overtakes it. The end of the subscription ends the pause, not the message.
// The default is Exponential(10*time.Millisecond, 5*time.Second).
func WithBackoff(b Backoff) Option { return func(o *options) { o.backoff = b } }

// WithConsumer adds options for the Consumers of a Subscriber or of ToPublisher:
//
//   - chanmq.WithInFlight lets a subscription, or ToPublisher, have several messages in flight.
//     Then messages may be dealt with in another order.
//   - chanmq.WithMaxAttempts puts messages aside that fail again and again, or that kill
//     their process.
//   - chanmq.WithBorrowedValues takes a Marshaler that is no codec.Ender, such as [Plain]. A
//     payload is valid until Ack or Nack then, and no longer than the message's ctx.
func WithConsumer(opts ...chanmq.ConsumerOption) Option {
	return func(o *options) { o.consumer = append(o.consumer, opts...) }
}

// WithCloseTimeout sets how long a subscription that ends waits for the handlers which have a
// message of it to answer; then it takes Nack for an answer, so that the message is delivered
// again, and a handler's Ack returns false. It is also how long Subscriber.Close waits for
// room in a queue that it owns, and FromSubscriber for its subscriber to close the channel.
// The default is 10 seconds; with 0 nobody waits.
func WithCloseTimeout(d time.Duration) Option { return func(o *options) { o.closeTimeout = d } }

// WithLogger sets where errors go that no call returns. The default is log/slog's default
// logger.
func WithLogger(l watermill.LoggerAdapter) Option { return func(o *options) { o.logger = l } }

// WithUndecoded sets what becomes of messages that the Marshaler of a Subscriber or of
// ToPublisher refuses, or panics at: f is called with such a message, and it counts as
// acknowledged when f returns. So f saves it first, or sends it elsewhere. Without this option
// such a message is given back after a pause, and logged, again and again: nothing is lost,
// and nothing behind it is delivered.
//
// f is also called with what chanmq cannot take out of its envelope (a *chanmq.DecodeError);
// without this option that is logged, with its text, and gone. f may be called by several
// goroutines at once. It must not call Close of the Subscriber.
func WithUndecoded(f func(topic string, m chanmq.Message[[]byte], err error)) Option {
	return func(o *options) { o.undecoded = f }
}

// WithUnsendable sets what becomes of messages that FromSubscriber can never send: they are
// too large (chanmq.ErrTooLarge), have an invalid type (chanmq.ErrInvalidType), or the
// Marshaler refuses them. f is called with such a message and the error. If it returns
// nil, it has saved the message, which is acknowledged; otherwise the message is given back,
// after a pause, as all of them are without this option.
func WithUnsendable(f func(msg *message.Message, err error) error) Option {
	return func(o *options) { o.unsendable = f }
}

// WithTopicOf sets the topic of each message of ToPublisher, by its mtype and what is in it,
// in place of the one that ToPublisher was given. With an error the message is given back,
// as if it could not be published.
func WithTopicOf(f func(typ int64, msg *message.Message) (topic string, err error)) Option {
	return func(o *options) { o.topicOf = f }
}

// WithTypeOf sets the mtype of each message of FromSubscriber, in place of the one that
// FromSubscriber was given. A message with an error can never be sent: see [WithUnsendable].
func WithTypeOf(f func(msg *message.Message) (int64, error)) Option {
	return func(o *options) { o.typeOf = f }
}

// pause waits for the backoff, or for ctx.
func (o *options) pause(ctx context.Context, failures int) {
	t := time.NewTimer(o.backoff(failures))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// ctxError is the error of a ctx that has ended: it matches ctx.Err() and its cause.
func ctxError(ctx context.Context) error {
	err, cause := ctx.Err(), context.Cause(ctx)
	if cause == err {
		return err
	}
	return fmt.Errorf("%w: %w", err, cause)
}

// fatal reports whether an error of a queue is one that trying again does not change.
func fatal(err error) bool {
	for _, target := range []error{chanmq.ErrClosed, chanmq.ErrRemoved, chanmq.ErrInvalidType, fs.ErrPermission, errors.ErrUnsupported} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}
