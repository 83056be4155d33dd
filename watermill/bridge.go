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

// ToPublisher publishes the messages of q that s selects to a topic of any publisher of
// Watermill, until ctx ends or the queue fails. It takes a message, publishes it, and
// acknowledges it when Publish has returned nil; otherwise it gives it back to the handle after a
// pause ([WithBackoff]), and takes it again, before newer ones. So messages are published in
// order, unless WithConsumer(chanmq.WithInFlight(n)) has n of them published at once. The
// message's ctx ends with ctx; it has [InfoFrom].
//
// It returns why it ended, never nil: after the end of ctx an error that matches ctx.Err(),
// chanmq.ErrRemoved or chanmq.ErrClosed, and so on. It closes neither the queue nor the
// publisher. Calls of Publish have returned by then, and what was taken and not published is
// in the handle of q: the next receive on it gets that first, and Queue.Shutdown sends it back
// to the kernel. If the handle was closed meanwhile and the kernel has no room, the error has
// it: a *chanmq.UndeliveredError.
//
// Nothing is lost; if the process is killed, that takes chanmq.WithJournal on q. A message
// is published twice, or more often, if Publish has published it and returned an error, as it
// may when ctx ends, or if the process died between Publish and the acknowledgement: at most
// as many as are in flight.
func ToPublisher(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector, publisher message.Publisher, topic string, opts ...Option) error {
	o := newOptions(opts)
	c := o.consume(ctx, q, s, topic)
	var mu sync.Mutex
	var lost []error
	var publishing sync.WaitGroup
	pausing, end := context.WithCancel(ctx)
	for d := range c.C() {
		publishing.Go(func() {
			err := o.publish(ctx, pausing, d, publisher, topic)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			lost = append(lost, err)
		})
	}
	end()
	publishing.Wait()
	err := c.Err()
	if err == nil {
		err = chanmq.ErrClosed // the handle was shut down
	}
	return fmt.Errorf("from %s to a publisher: %w", nameOf(q), errors.Join(append([]error{err}, lost...)...))
}

// publish publishes a delivery and settles it; the end of pausing ends its pause. It returns
// an error if the message is nowhere else.
func (o *options) publish(ctx, pausing context.Context, d chanmq.Delivery[[]byte], publisher message.Publisher, topic string) error {
	if ctx.Err() != nil {
		return d.Nack()
	}
	fields := watermill.LogFields{"topic": topic, "mtype": d.Type, "attempt": d.Attempt}
	msg, err := o.unmarshal(topic, d.Value)
	if err != nil && o.rescued(topic, d, err) {
		err = nil
	} else if err == nil {
		fields["message_uuid"] = msg.UUID
		if o.topicOf != nil {
			topic, err = o.topicOf(d.Type, msg)
		}
		if err == nil {
			fields["topic"] = topic
			msg.SetContext(context.WithValue(ctx, infoKey{}, infoOf(topic, d)))
			err = publisher.Publish(topic, msg)
		}
		if err != nil && ctx.Err() == nil {
			o.logger.Error("A message was not published, and is tried again", err, fields)
		}
	}
	if err != nil {
		o.pause(pausing, d.Attempt)
		return d.Nack()
	}
	if err := d.Ack(); err != nil {
		o.logger.Error("A message is published, and may be published again", err, fields)
	}
	return nil
}

// nameOf returns the key of a queue, or the msqid of a private one.
func nameOf(q *chanmq.Queue[[]byte]) string {
	if q.Key() == 0 {
		return fmt.Sprintf("msqid %d", q.ID())
	}
	return q.Key().String()
}

// FromSubscriber sends the messages of a topic of any subscriber of Watermill to q, with the
// mtype typ, until ctx ends, the queue fails, or the subscriber closes its channel. It sends
// one message after the other, in the order in which the subscriber delivers them, and calls
// its Ack when the kernel has it. While the queue is full it waits, and takes no other
// message.
//
// A message that could not be sent is logged, and answered with Nack after a pause
// ([WithBackoff]): the subscriber delivers it again. That is so for ever with one that is too
// large, or has an invalid type: see [WithUnsendable]. So it is when the message's own ctx
// ends.
//
// It returns why it ended, never nil: after the end of ctx an error that matches ctx.Err();
// chanmq.ErrRemoved, chanmq.ErrClosed or a missing permission; [ErrSubscriptionEnded]; what
// Subscribe returned; or chanmq.ErrInvalidType at once if typ is no mtype. The message that it
// had was answered with Nack by then, and the subscription has ended, or had the time of
// [WithCloseTimeout] to end.
//
// Nothing is lost that the subscriber delivers again after Nack, and after the end of its ctx
// or process: that is the engine's promise, and not one of gochannel, which discards what is
// under way when a subscription ends. A message is in the queue twice if the process died, or
// the subscriber lost its engine, between the send and the engine's knowledge of Ack, and also
// if the engine itself delivers it twice.
func FromSubscriber(ctx context.Context, subscriber message.Subscriber, topic string, q *chanmq.Queue[[]byte], typ int64, opts ...Option) error {
	o := newOptions(opts)
	if typ <= 0 && o.typeOf == nil { // no message could be sent
		return fmt.Errorf("from %q to %s: type %d: %w", topic, nameOf(q), typ, chanmq.ErrInvalidType)
	}
	subscribed, unsubscribe := context.WithCancel(ctx)
	defer unsubscribe()
	messages, err := subscriber.Subscribe(subscribed, topic)
	if err == nil {
		err = o.sendAll(ctx, messages, topic, q, typ)
		unsubscribe()
		o.refuse(messages)
	}
	return fmt.Errorf("from %q to %s: %w", topic, nameOf(q), err)
}

// sendAll sends messages until that has come to an end.
func (o *options) sendAll(ctx context.Context, messages <-chan *message.Message, topic string, q *chanmq.Queue[[]byte], typ int64) error {
	failures := 0
	for {
		var msg *message.Message
		var ok bool
		select {
		case msg, ok = <-messages:
		case <-ctx.Done():
			return ctxError(ctx)
		}
		if !ok {
			if ctx.Err() != nil {
				return ctxError(ctx)
			}
			return ErrSubscriptionEnded
		}
		unsendable, err := o.send(ctx, msg, topic, q, typ)
		if unsendable && o.unsendable != nil {
			err = o.unsendable(msg, err)
		}
		switch {
		case err == nil:
			failures = 0
			msg.Ack()
			continue
		case ctx.Err() != nil:
			msg.Nack()
			return ctxError(ctx)
		case !unsendable && fatal(err):
			msg.Nack()
			return err
		}
		failures++
		o.logger.Error("A message was not sent, and is given back", err, watermill.LogFields{"topic": topic, "message_uuid": msg.UUID})
		o.pause(ctx, failures)
		msg.Nack()
	}
}

// send sends a message. unsendable says that it can never be sent.
func (o *options) send(ctx context.Context, msg *message.Message, topic string, q *chanmq.Queue[[]byte], typ int64) (unsendable bool, err error) {
	if o.typeOf != nil {
		if typ, err = o.typeOf(msg); err != nil {
			return true, err
		}
	}
	text, err := o.marshal(topic, msg)
	if err != nil {
		return true, err
	}
	sending, cancel := endedBy(msg.Context(), ctx)
	defer cancel()
	err = q.Send(sending, typ, text)
	return errors.Is(err, chanmq.ErrTooLarge) || errors.Is(err, chanmq.ErrInvalidType), err
}

// refuse gives back what comes until the subscriber closes the channel.
func (o *options) refuse(messages <-chan *message.Message) {
	patience := time.NewTimer(o.closeTimeout)
	defer patience.Stop()
	for {
		select {
		case msg, ok := <-messages:
			if !ok {
				return
			}
			msg.Nack()
		case <-patience.C:
			return
		}
	}
}
