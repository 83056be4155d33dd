// Command natspeer is the Go peer over NATS. It is a program of its own because
// the NATS server starts a timer in an init that reads /proc every second, which
// would show in the idle figures of whatever links it.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/chanmq/chanmq/bench/internal/peer"
)

func main() {
	os.Exit(peer.Main(os.Args[1:], peer.Kinds{"nats": open}, nil))
}

// A NATS server forgets what a subscriber does not take in time, so the sender
// waits for an acknowledgement of every ackEvery messages, and is never more
// than window ahead.
const (
	subject  = "bench"
	window   = 1024
	ackEvery = 256
	timeout  = 10 * time.Second
)

// endpoint is a client of a NATS server. The receiving process embeds the
// server, and talks to it without a socket; the other connects over loopback.
type endpoint struct {
	conn     *nats.Conn
	url      string
	messages chan *nats.Msg
	last     *nats.Msg
	acks     *nats.Subscription // of the sender
	sent     int
	received int
}

func open(a peer.Arguments) (peer.Endpoint, error) {
	e := &endpoint{url: a["url"]}
	if e.url != "" {
		conn, err := nats.Connect(e.url)
		if err != nil {
			return nil, err
		}
		e.conn = conn
		e.acks, err = conn.SubscribeSync(subject + ".ack")
		if err != nil {
			return nil, err
		}
		return e, conn.FlushTimeout(timeout)
	}
	srv, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return nil, err
	}
	srv.Start()
	if !srv.ReadyForConnections(timeout) {
		return nil, fmt.Errorf("the NATS server is not ready after %v", timeout)
	}
	e.url = srv.ClientURL()
	if e.conn, err = nats.Connect("", nats.InProcessServer(srv)); err != nil {
		return nil, err
	}
	e.messages = make(chan *nats.Msg, 2*window)
	if _, err = e.conn.ChanSubscribe(subject, e.messages); err != nil {
		return nil, err
	}
	return e, e.conn.FlushTimeout(timeout)
}

func (e *endpoint) Address() string { return e.url }

func (e *endpoint) Reuse() int { return 0 } // Publish copies

// Exchange is the request and reply of NATS.
func (e *endpoint) Exchange(out []byte) ([]byte, error) {
	reply, err := e.conn.Request(subject, out, timeout)
	if err != nil {
		return nil, err
	}
	return reply.Data, nil
}

// Send replies to the message received last, if it was a request.
func (e *endpoint) Send(out []byte) error {
	if e.last != nil && e.last.Reply != "" {
		return e.last.Respond(out)
	}
	if e.sent++; e.sent >= window && e.sent%ackEvery == 0 {
		if _, err := e.acks.NextMsg(timeout); err != nil {
			return err
		}
	}
	return e.conn.Publish(subject, out)
}

func (e *endpoint) Receive() ([]byte, error) {
	e.last = <-e.messages
	if e.received++; e.last.Reply == "" && e.received%ackEvery == 0 {
		if err := e.conn.Publish(subject+".ack", nil); err != nil {
			return nil, err
		}
	}
	return e.last.Data, nil
}
