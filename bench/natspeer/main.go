// Command natspeer is the Go peer over NATS, over NATS JetStream, and with chanmq's queues on it. It is a program of its own because
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
	os.Exit(peer.Main(os.Args[1:], peer.Kinds{
		"nats":             open,
		"jetstream":        openJetStream,
		"jetstream-pull":   openPulled,
		"cluster-direct":   openClusterDirect,
		"cluster-channels": openClusterChannels,
		"cluster-consumer": openClusterConsumer,
	}, peer.Roles{
		"answer":      answer,
		"bridge":      runBridge,
		"call":        call,
		"idle-crowd":  idleCrowd,
		"idle-server": idleServer,
	}))
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
	if a["url"] != "" {
		return dial(a["url"])
	}
	e, err := serve(&server.Options{})
	if err != nil {
		return nil, err
	}
	e.messages = make(chan *nats.Msg, 2*window)
	if _, err = e.conn.ChanSubscribe(subject, e.messages); err != nil {
		return nil, err
	}
	return e, e.conn.FlushTimeout(timeout)
}

// connect returns the endpoint with the server, or that which has its address. The server has JetStream.
func connect(a peer.Arguments) (*endpoint, error) {
	if a["url"] != "" {
		return dial(a["url"])
	}
	return serve(serverOptions(a))
}

func serverOptions(a peer.Arguments) *server.Options {
	return &server.Options{JetStream: true, StoreDir: a["files"]}
}

// unbuffered is what natsmq wants of a connection. While it is connected it makes no difference.
var unbuffered = nats.ReconnectBufSize(-1)

// dial returns the endpoint that sends to a server.
func dial(url string) (*endpoint, error) {
	conn, err := nats.Connect(url, unbuffered)
	if err != nil {
		return nil, err
	}
	e := &endpoint{url: url, conn: conn}
	if e.acks, err = conn.SubscribeSync(subject + ".ack"); err != nil {
		return nil, err
	}
	return e, conn.FlushTimeout(timeout)
}

// serve returns the endpoint with a server.
func serve(o *server.Options) (*endpoint, error) {
	o.Host, o.Port, o.NoLog, o.NoSigs = "127.0.0.1", server.RANDOM_PORT, true, true
	srv, err := server.NewServer(o)
	if err != nil {
		return nil, err
	}
	srv.Start()
	if !srv.ReadyForConnections(timeout) {
		return nil, fmt.Errorf("the NATS server is not ready after %v", timeout)
	}
	conn, err := nats.Connect("", nats.InProcessServer(srv), unbuffered)
	return &endpoint{url: srv.ClientURL(), conn: conn}, err
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
	if err := e.keepPace(); err != nil {
		return err
	}
	return e.conn.Publish(subject, out)
}

// keepPace is called for each message, before it is sent.
func (e *endpoint) keepPace() error {
	if e.sent++; e.sent >= window && e.sent%ackEvery == 0 {
		_, err := e.acks.NextMsg(timeout)
		return err
	}
	return nil
}

func (e *endpoint) Receive() ([]byte, error) {
	e.last = <-e.messages
	if e.last.Reply == "" {
		if err := e.reportPace(); err != nil {
			return nil, err
		}
	}
	return e.last.Data, nil
}

// reportPace is called for each message that was received.
func (e *endpoint) reportPace() error {
	if e.received++; e.received%ackEvery == 0 {
		return e.conn.Publish(subject+".ack", nil)
	}
	return nil
}

// answer is the role of a server that sends back what it is asked.
func answer(p *peer.Peer) error {
	e, err := serve(&server.Options{})
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	if _, err = e.conn.Subscribe(subject, func(m *nats.Msg) {
		if err := m.Respond(m.Data); err != nil {
			select {
			case failed <- err:
			default:
			}
		}
	}); err != nil {
		return err
	}
	if err := e.conn.FlushTimeout(timeout); err != nil {
		return err
	}
	if err := p.Ready(e.url); err != nil {
		return err
	}
	return <-failed
}

// call is the role of the client: all callers share one connection.
func call(p *peer.Peer) error {
	e, err := dial(p.Args["url"])
	if err != nil {
		return err
	}
	if err := p.Ready(""); err != nil {
		return err
	}
	return p.Calls(e.Exchange)
}
