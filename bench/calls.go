package main

import (
	"context"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/bench/internal/peer"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/serve"
)

// playAnswer is a server of package serve that sends back what it is asked.
func playAnswer(p *peer.Peer) error {
	q, err := attach(p.Args)
	if err != nil {
		return err
	}
	s := serve.NewServer(q.in, q.out)
	serve.Handle(s, chanmq.OfType(1), codec.Bytes(), codec.Bytes(),
		func(_ context.Context, text []byte) ([]byte, error) { return text, nil })
	if err := p.Ready(""); err != nil {
		return err
	}
	return s.Run(context.Background())
}

// playCall is a client of package serve.
func playCall(p *peer.Peer) error {
	q, err := attach(p.Args)
	if err != nil {
		return err
	}
	client := serve.NewClient(q.out, q.in, 1, codec.Bytes(), codec.Bytes())
	if err := p.Ready(""); err != nil {
		return err
	}
	return p.Calls(func(text []byte) ([]byte, error) { return client.Call(context.Background(), text) })
}
