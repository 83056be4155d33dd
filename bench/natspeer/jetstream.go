package main

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq/bench/internal/peer"
)

// streamed is an endpoint whose messages go through a stream, from which each is removed
// when the receiver has acknowledged it.
type streamed struct {
	*endpoint
	js       jetstream.JetStream
	messages jetstream.MessagesContext
	last     jetstream.Msg // not acknowledged
}

func openJetStream(a peer.Arguments) (peer.Endpoint, error) {
	e, err := connect(a)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(e.conn)
	if err != nil || a["url"] != "" {
		return &streamed{endpoint: e, js: js}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "bench", Subjects: []string{subject}, Storage: storage(a), Retention: jetstream.WorkQueuePolicy,
	})
	if err != nil {
		return nil, err
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: "sink", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		return nil, err
	}
	messages, err := consumer.Messages()
	return &streamed{endpoint: e, js: js, messages: messages}, err
}

// Send does not wait for the stream's own acknowledgement: a message that the stream
// lacks is noticed by the receiver.
func (s *streamed) Send(out []byte) error {
	if err := s.keepPace(); err != nil {
		return err
	}
	_, err := s.js.PublishMsgAsync(&nats.Msg{Subject: subject, Data: out})
	return err
}

func (s *streamed) Receive() ([]byte, error) {
	if s.last != nil {
		if err := s.last.Ack(); err != nil {
			return nil, err
		}
	}
	m, err := s.messages.Next()
	if err != nil {
		return nil, err
	}
	s.last = m
	return m.Data(), s.reportPace()
}

func inMemory(a peer.Arguments) bool { return a["storage"] == "memory" }

func storage(a peer.Arguments) jetstream.StorageType {
	if inMemory(a) {
		return jetstream.MemoryStorage
	}
	return jetstream.FileStorage
}

// stores reports whether an endpoint receives what it sends itself.
func stores(a peer.Arguments) bool { return a.Int("stores", 0) != 0 }

// pulled is JetStream as chanmq's queues on it are compared with: a stream for each direction, publishes
// that wait until the message is stored, and a pull consumer. It is safe for several
// goroutines that send.
type pulled struct {
	url          string
	js           jetstream.JetStream
	out          string // subject
	stream       jetstream.Stream
	consumer     jetstream.Consumer
	inFlight     int
	fetch        bool                      // ask for each message, when it is wanted
	keeps        bool                      // the stream keeps what was acknowledged
	messages     jetstream.MessagesContext // nil: nothing was received yet
	acknowledged func(jetstream.Msg) error // with or without an answer of the server
}

// The streams are "there", to the side with the server, and "back".
func openPulled(a peer.Arguments) (peer.Endpoint, error) {
	e, err := connect(a)
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(e.conn)
	if err != nil {
		return nil, err
	}
	u := &pulled{url: e.url, js: js, inFlight: a.Int("inflight", 1), fetch: a.Int("fetch", 0) != 0, keeps: a["retention"] == "limits"}
	u.acknowledged = jetstream.Msg.Ack
	if a.Int("double", 0) != 0 {
		u.acknowledged = func(m jetstream.Msg) error {
			ctx, cancel := context.WithTimeout(context.Background(), timeout)
			defer cancel()
			return m.DoubleAck(ctx)
		}
	}
	in, out := "there", "back"
	if a["url"] != "" {
		in, out = out, in
	}
	if stores(a) {
		out = in
	}
	u.out = subject + "." + out
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for _, name := range []string{in, out} {
		stream, err := js.CreateOrUpdateStream(ctx, u.streamConfig(name, a))
		if err != nil {
			return nil, fmt.Errorf("stream %s: %w", name, err)
		}
		if name == in {
			u.stream = stream
		}
	}
	u.consumer, err = u.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: "sink", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1,
	})
	return u, err
}

func (u *pulled) streamConfig(name string, a peer.Arguments) jetstream.StreamConfig {
	retention := jetstream.WorkQueuePolicy
	if u.keeps {
		retention = jetstream.LimitsPolicy
	}
	return jetstream.StreamConfig{Name: name, Subjects: []string{subject + "." + name}, Storage: storage(a), Retention: retention}
}

func (u *pulled) Address() string { return u.url }

func (u *pulled) Reuse() int { return 0 } // Publish copies

func (u *pulled) Send(out []byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	_, err := u.js.PublishMsg(ctx, &nats.Msg{Subject: u.out, Data: out})
	return err
}

func (u *pulled) Receive() ([]byte, error) {
	m, err := u.next()
	if err != nil {
		return nil, err
	}
	return m.Data(), u.acknowledged(m)
}

func (u *pulled) next() (jetstream.Msg, error) {
	if u.fetch {
		return u.consumer.Next()
	}
	if u.messages == nil {
		messages, err := u.consumer.Messages(jetstream.PullMaxMessages(u.inFlight))
		if err != nil {
			return nil, err
		}
		u.messages = messages
	}
	return u.messages.Next()
}

// Empty asks the server: whether all was acknowledged, or is gone.
func (u *pulled) Empty() (bool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if u.keeps {
		info, err := u.consumer.Info(ctx)
		return err == nil && info.NumPending == 0 && info.NumAckPending == 0, err
	}
	info, err := u.stream.Info(ctx)
	return err == nil && info.State.Msgs == 0, err
}

// idlePulls waits with a pull consumer for each of many subjects.
func idlePulls(e *endpoint, n int, wait func(func() error)) error {
	js, err := jetstream.New(e.conn)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "idle", Subjects: []string{subject + ".idle.*"}, Retention: jetstream.WorkQueuePolicy,
	})
	if err != nil {
		return err
	}
	for i := range n {
		c, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: fmt.Sprint("sink", i), AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: fmt.Sprintf("%s.idle.%d", subject, i),
		})
		if err != nil {
			return err
		}
		messages, err := c.Messages(jetstream.PullMaxMessages(1))
		if err != nil {
			return err
		}
		wait(func() error {
			_, err := messages.Next()
			if err == nil {
				err = errNotIdle
			}
			return err
		})
	}
	return nil
}
