package main

import (
	"context"

	"github.com/nats-io/nats-server/v2/server"
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
	if a["url"] != "" {
		e, err := dial(a["url"])
		if err != nil {
			return nil, err
		}
		js, err := jetstream.New(e.conn)
		return &streamed{endpoint: e, js: js}, err
	}
	e, err := serve(&server.Options{JetStream: true, StoreDir: a["files"]})
	if err != nil {
		return nil, err
	}
	js, err := jetstream.New(e.conn)
	if err != nil {
		return nil, err
	}
	storage := jetstream.FileStorage
	if a["storage"] == "memory" {
		storage = jetstream.MemoryStorage
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	stream, err := js.CreateStream(ctx, jetstream.StreamConfig{
		Name: "bench", Subjects: []string{subject}, Storage: storage, Retention: jetstream.WorkQueuePolicy,
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
