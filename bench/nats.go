package main

import (
	"fmt"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// A NATS server forgets what a subscriber does not take in time, so the sender
// waits for an acknowledgement of every natsAck messages, and is never more
// than natsWindow ahead.
const (
	natsSubject = "bench"
	natsWindow  = 1024
	natsAck     = 256
	natsTimeout = 10 * time.Second
)

// natsPeer is a client of a NATS server. The receiving process embeds the
// server, and talks to it without a socket; the other connects over loopback.
type natsPeer struct {
	conn     *nats.Conn
	url      string
	messages chan *nats.Msg
	last     *nats.Msg
	acks     *nats.Subscription // of the sender
	sent     int
	received int
}

func openNATS(a arguments) (endpoint, error) {
	p := &natsPeer{url: a["url"]}
	if p.url != "" {
		conn, err := nats.Connect(p.url)
		if err != nil {
			return nil, err
		}
		p.conn = conn
		p.acks, err = conn.SubscribeSync(natsSubject + ".ack")
		if err != nil {
			return nil, err
		}
		return p, conn.FlushTimeout(natsTimeout)
	}
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return nil, err
	}
	srv.Start()
	if !srv.ReadyForConnections(natsTimeout) {
		return nil, fmt.Errorf("the NATS server is not ready after %v", natsTimeout)
	}
	p.url = srv.ClientURL()
	if p.conn, err = nats.Connect("", nats.InProcessServer(srv)); err != nil {
		return nil, err
	}
	p.messages = make(chan *nats.Msg, 2*natsWindow)
	if _, err = p.conn.ChanSubscribe(natsSubject, p.messages); err != nil {
		return nil, err
	}
	return p, p.conn.FlushTimeout(natsTimeout)
}

func (p *natsPeer) address() string { return p.url }

func (p *natsPeer) reuse() int { return 0 } // Publish copies

// exchange is the request and reply of NATS.
func (p *natsPeer) exchange(out []byte) ([]byte, error) {
	reply, err := p.conn.Request(natsSubject, out, natsTimeout)
	if err != nil {
		return nil, err
	}
	return reply.Data, nil
}

// Send replies to the message received last, if it was a request.
func (p *natsPeer) Send(out []byte) error {
	if p.last != nil && p.last.Reply != "" {
		return p.last.Respond(out)
	}
	if p.sent++; p.sent >= natsWindow && p.sent%natsAck == 0 {
		if _, err := p.acks.NextMsg(natsTimeout); err != nil {
			return err
		}
	}
	return p.conn.Publish(natsSubject, out)
}

func (p *natsPeer) Receive() ([]byte, error) {
	p.last = <-p.messages
	if p.received++; p.last.Reply == "" && p.received%natsAck == 0 {
		if err := p.conn.Publish(natsSubject+".ack", nil); err != nil {
			return nil, err
		}
	}
	return p.last.Data, nil
}
