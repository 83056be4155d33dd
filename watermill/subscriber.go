package watermill

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/chanmq/chanmq"
)

// A Subscriber is Watermill's message.Subscriber: it delivers the messages of the queues of
// its topics. It is safe for concurrent use.
type Subscriber struct {
	o       options
	handles handles
	life

	lostMu sync.Mutex
	lost   []error // of messages that no queue has any more
}

// NewSubscriber returns a Subscriber. Queues are opened when a topic is used.
func NewSubscriber(topics Topics, opts ...Option) *Subscriber {
	return &Subscriber{o: newOptions(opts), handles: handles{topics: topics}, life: newLife()}
}

// Info is what the queue says of a message: see [InfoFrom].
type Info struct {
	Topic string
	Type  int64 // mtype
	// Attempt is how many times the message was delivered, this time included, and
	// LengthInferred that bytes may be missing at its end, as in chanmq.Delivery. With
	// [Frame] none are.
	Attempt        int
	LengthInferred bool
}

type infoKey struct{}

// InfoFrom returns what the queue says of a message, from the ctx of a message that a
// Subscriber has delivered, or that ToPublisher publishes. Of other ctxs it returns false.
func InfoFrom(ctx context.Context) (Info, bool) {
	info, ok := ctx.Value(infoKey{}).(Info)
	return info, ok
}

// SubscribeInitialize opens the queue of the topic, which creates it with [Keys]. Subscribe
// does so, too. After Close it fails with [ErrClosed].
func (s *Subscriber) SubscribeInitialize(topic string) error {
	if !s.begin() {
		return ErrClosed
	}
	defer s.end()
	if _, err := s.handles.get(s.ctx, topic); err != nil {
		return fmt.Errorf("open %q: %w", topic, err)
	}
	return nil
}

// Subscribe returns a channel with the messages of the topic. The next one is delivered when
// Ack or Nack was called for the one before, or sooner with more in flight (WithConsumer). The
// ctx of a message has the values of ctx, and of [InfoFrom]; it ends with ctx, when
// the message's acknowledgement is done, and when the handler's time is over after Close.
//
// The subscription ends, and the channel is closed, when ctx ends, when the Subscriber is
// closed, and when nothing more can be received: the queue was removed (chanmq.WithReopen
// waits for it to come back), its handle was closed, or the permission is gone. That is
// logged. After other errors it takes up receiving again, after pauses.
//
// What nobody has read from the channel goes back to the queue's handle, and is the first that
// the next subscription on that handle gets. What was read stays with its handler, to be
// answered, for as long as [WithCloseTimeout] says: Close waits for that, the end of ctx alone
// does not.
//
// An error is that of Topics, of chanmq's Consumer, of ctx if it has ended already, or
// [ErrClosed].
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	if !s.begin() {
		return nil, ErrClosed
	}
	u, err := s.subscribe(ctx, topic)
	if err != nil {
		s.end()
		return nil, fmt.Errorf("subscribe to %q: %w", topic, err)
	}
	go func() {
		defer s.end()
		u.run()
	}()
	return u.out, nil
}

// Close ends all subscriptions, and waits for them and their handlers, these no longer than
// [WithCloseTimeout] says. Then it closes the queues that are the Subscriber's own ([Topic]),
// with chanmq's Queue.Shutdown: what was not acknowledged goes back to the kernel
// queue, at its tail. What does not fit within the timeout stays in the journal, if there is one,
// or else is in the *chanmq.UndeliveredError that Close returns. Nothing is silent.
//
// Close may be called from several goroutines, and again: then it waits for the first call
// and returns nil. From a handler it waits for that handler, until the timeout.
func (s *Subscriber) Close() error {
	return s.close(func() error {
		err := s.handles.close(func(q *chanmq.Queue[[]byte]) error {
			if s.o.closeTimeout <= 0 {
				return q.Close()
			}
			ctx, cancel := context.WithTimeout(context.Background(), s.o.closeTimeout)
			defer cancel()
			return q.Shutdown(ctx)
		})
		s.lostMu.Lock()
		defer s.lostMu.Unlock()
		return errors.Join(append(s.lost, err)...)
	})
}

// subscription is one call of Subscribe.
type subscription struct {
	s      *Subscriber
	topic  Topic
	name   string
	fields watermill.LogFields
	out    chan *message.Message // sent to and closed by run alone

	ctx      context.Context // of Subscribe
	taking   context.Context // ends with ctx, and with Close
	stop     context.CancelFunc
	consumer *chanmq.Consumer[[]byte]

	settling sync.WaitGroup // goroutines with a delivery
	giveUp   chan struct{}  // closed when handlers have had their time
}

func (s *Subscriber) subscribe(ctx context.Context, name string) (*subscription, error) {
	taking, stop := s.within(ctx)
	t, err := s.handles.get(taking, name)
	if err == nil && taking.Err() != nil {
		err = ctxError(taking)
	}
	if err != nil {
		stop()
		return nil, err
	}
	u := &subscription{
		s: s, topic: t, name: name,
		fields: watermill.LogFields{"topic": name},
		out:    make(chan *message.Message),
		ctx:    ctx, taking: taking, stop: stop,
		giveUp: make(chan struct{}),
	}
	u.consumer = u.consume()
	select {
	case <-u.consumer.Done(): // a bad option, a closed handle
		if err := u.consumer.Err(); err != nil {
			stop()
			return nil, err
		}
	default:
	}
	return u, nil
}

func (u *subscription) consume() *chanmq.Consumer[[]byte] {
	return u.s.o.consume(u.taking, u.topic.Queue, u.topic.Selector, u.name)
}

// run is the goroutine.
func (u *subscription) run() {
	for failures := 1; ; failures++ {
		if u.deliverAll() {
			failures = 1
		}
		_ = u.consumer.Close() // always nil
		err := u.consumer.Err()
		if u.taking.Err() != nil {
			break
		}
		if err == nil {
			err = chanmq.ErrClosed // the handle was shut down
		}
		if fatal(err) {
			u.s.o.logger.Error("The subscription has ended", err, u.fields)
			break
		}
		u.s.o.logger.Error("Receiving has failed, and is tried again", err, u.fields)
		u.s.o.pause(u.taking, failures)
		u.consumer = u.consume()
	}
	u.stop()
	close(u.out)
	patience := time.AfterFunc(u.s.o.closeTimeout, func() { close(u.giveUp) })
	u.settling.Wait()
	patience.Stop()
}

// deliverAll delivers until the Consumer or the subscription has ended. It reports whether
// there was anything to deliver.
func (u *subscription) deliverAll() (any bool) {
	for {
		select {
		case d, ok := <-u.consumer.C():
			if !ok {
				return any
			}
			any = true
			u.deliver(d)
		case <-u.taking.Done():
			return any
		}
	}
}

// deliver offers a message to the handler. A goroutine waits for the answer.
func (u *subscription) deliver(d chanmq.Delivery[[]byte]) {
	msg, err := u.s.o.unmarshal(u.name, d.Value)
	if err != nil {
		u.settling.Go(func() { u.undecoded(d, err) })
		return
	}
	ctx, cancel := context.WithCancel(context.WithValue(u.ctx, infoKey{}, infoOf(u.name, d)))
	msg.SetContext(ctx)
	select {
	case u.out <- msg:
		u.settling.Go(func() {
			defer cancel()
			u.settle(d, msg, cancel)
		})
	case <-u.taking.Done():
		cancel()
		u.nack(d)
	}
}

func infoOf(topic string, d chanmq.Delivery[[]byte]) Info {
	return Info{Topic: topic, Type: d.Type, Attempt: d.Attempt, LengthInferred: d.LengthInferred}
}

// settle waits for the handler's answer.
func (u *subscription) settle(d chanmq.Delivery[[]byte], msg *message.Message, cancel context.CancelFunc) {
	select {
	case <-msg.Acked():
		u.ack(d)
	case <-msg.Nacked():
		cancel()
		u.s.o.pause(u.taking, d.Attempt)
		u.nack(d)
	case <-u.giveUp:
		if !msg.Nack() { // so that Ack returns false from now on
			u.ack(d)
			return
		}
		u.s.o.logger.Error("A handler has not answered in time, its message will be delivered again", context.DeadlineExceeded,
			u.fields.Add(watermill.LogFields{"message_uuid": msg.UUID}))
		cancel()
		u.nack(d)
	}
}

// undecoded deals with a message that the Marshaler refuses.
func (u *subscription) undecoded(d chanmq.Delivery[[]byte], err error) {
	if u.s.o.rescued(u.name, d, err) {
		u.ack(d)
		return
	}
	u.s.o.pause(u.taking, d.Attempt)
	u.nack(d)
}

// rescued reports whether the program has the message that the Marshaler refuses.
func (o *options) rescued(topic string, d chanmq.Delivery[[]byte], err error) bool {
	if o.undecoded != nil {
		o.undecoded(topic, d.Message, err)
		return true
	}
	o.logger.Error("A message cannot be decoded, and will be delivered again", err,
		watermill.LogFields{"topic": topic, "mtype": d.Type, "attempt": d.Attempt})
	return false
}

func (u *subscription) ack(d chanmq.Delivery[[]byte]) {
	if err := d.Ack(); err != nil {
		u.s.o.logger.Error("A message is acknowledged, and may be delivered again", err, u.fields)
	}
}

func (u *subscription) nack(d chanmq.Delivery[[]byte]) {
	err := d.Nack()
	if err == nil {
		return
	}
	// The program has closed the handle, and the kernel has no room: it is nowhere else.
	u.s.o.logger.Error("A message could not be given back", err, u.fields)
	u.s.lostMu.Lock()
	defer u.s.lostMu.Unlock()
	u.s.lost = append(u.s.lost, fmt.Errorf("topic %q: %w", u.name, err))
}
