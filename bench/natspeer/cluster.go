package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/bench/internal/peer"
	"github.com/chanmq/chanmq/natsmq"
)

// clustered is chanmq's queues on a server: one for each direction, and direct calls. The side with the server
// creates them.
type clustered struct {
	url     string
	in, out *chanmq.Queue[[]byte]
}

const (
	thereKey chanmq.Key = 0x4d51 + iota // to the side with the server
	backKey
)

// clusterBytes is more than a case has in a queue: it shall not wait for room, since the streams that it
// is compared with have no bound.
const clusterBytes = 256 << 20

func openClustered(a peer.Arguments) (*clustered, error) {
	e, err := connect(a)
	if err != nil {
		return nil, err
	}
	cluster, err := joinCluster(e.conn, a)
	if err != nil {
		return nil, err
	}
	c := &clustered{url: e.url}
	in, out := thereKey, backKey
	if a["url"] != "" {
		in, out = backKey, thereKey
	}
	if c.in, err = chanmq.Create(in, 0o600, cluster.Option()); err != nil {
		return nil, err
	}
	if stores(a) {
		out = in
	}
	c.out, err = chanmq.Create(out, 0o600, cluster.Option())
	return c, err
}

func joinCluster(conn *nats.Conn, a peer.Arguments) (*natsmq.Cluster, error) {
	opts := []natsmq.Option{natsmq.WithLimits(chanmq.Limits{MaxMessage: peer.MaxText, MaxBytes: clusterBytes, MaxQueues: 1000})}
	if inMemory(a) {
		opts = append(opts, natsmq.WithMemory())
	}
	return natsmq.New(conn, opts...)
}

func openClusterDirect(a peer.Arguments) (peer.Endpoint, error) { return openClustered(a) }

func (c *clustered) Address() string { return c.url }

func (c *clustered) Reuse() int { return 0 }

func (c *clustered) Send(p []byte) error { return c.out.Send(context.Background(), 1, p) }

func (c *clustered) Receive() ([]byte, error) {
	m, err := c.in.Receive(context.Background(), chanmq.Any())
	return m.Value, err
}

// Empty asks the server.
func (c *clustered) Empty() (bool, error) {
	s, err := c.in.Stat()
	return s.Messages == 0, err
}

// clusterChannels receives from a Receiver's channel and sends into a Sender's.
type clusterChannels struct {
	*clustered
	receiver *chanmq.Receiver[[]byte]
	sender   *chanmq.Sender[[]byte]
}

func openClusterChannels(a peer.Arguments) (peer.Endpoint, error) {
	c, err := openClustered(a)
	if err != nil {
		return nil, err
	}
	return &clusterChannels{
		c, c.in.Receiver(context.Background(), chanmq.Any()), c.out.Sender(context.Background()),
	}, nil
}

// Reuse counts what the pump holds, and what the program is about to put in.
func (c *clusterChannels) Reuse() int { return 2 }

func (c *clusterChannels) Send(p []byte) error {
	select {
	case c.sender.C() <- chanmq.Message[[]byte]{Type: 1, Value: p}:
		return nil
	case <-c.sender.Done():
		return c.sender.Err()
	}
}

func (c *clusterChannels) Receive() ([]byte, error) {
	m, ok := <-c.receiver.C()
	if !ok {
		return nil, c.receiver.Err()
	}
	return m.Value, nil
}

// clusterConsumer receives from a Consumer's channel, and acknowledges each message that it gets.
type clusterConsumer struct {
	*clustered
	inFlight int
	c        *chanmq.Consumer[[]byte] // nil: nothing was received yet
}

func openClusterConsumer(a peer.Arguments) (peer.Endpoint, error) {
	c, err := openClustered(a)
	return &clusterConsumer{clustered: c, inFlight: a.Int("inflight", 1)}, err
}

func (c *clusterConsumer) Receive() ([]byte, error) {
	if c.c == nil {
		c.c = c.in.Consumer(context.Background(), chanmq.Any(), chanmq.WithInFlight(c.inFlight))
	}
	d, ok := <-c.c.C()
	if !ok {
		return nil, c.c.Err()
	}
	return d.Value, d.Ack()
}

// idleCrowd is the role of a client with many receivers that wait, each for a subject or a type of its own.
func idleCrowd(p *peer.Peer) error {
	e, err := dial(p.Args["url"])
	if err != nil {
		return err
	}
	n := p.Args.Int("receivers", 1)
	ended := make(chan error, n)
	wait := func(receive func() error) {
		go func() { ended <- fmt.Errorf("a receiver has ended: %w", receive()) }()
	}
	switch p.Kind {
	case "nats":
		err = idleSubscriptions(e, n, wait)
	case "jetstream-pull":
		err = idlePulls(e, n, wait)
	case "cluster-channels", "cluster-consumer":
		err = idleReceivers(e, p, n, wait)
	default:
		err = fmt.Errorf("no crowd of %q", p.Kind)
	}
	if err != nil {
		return err
	}
	if err := e.conn.FlushTimeout(timeout); err != nil {
		return err
	}
	if err := p.Ready(""); err != nil {
		return err
	}
	p.Idle("client")
	select {
	case err := <-ended:
		return err
	default:
		return nil
	}
}

// errNotIdle is the failure of a receiver that got something.
var errNotIdle = errors.New("it got a message that nobody has sent")

func idleSubscriptions(e *endpoint, n int, wait func(func() error)) error {
	for i := range n {
		s, err := e.conn.SubscribeSync(fmt.Sprintf("%s.idle.%d", subject, i))
		if err != nil {
			return err
		}
		wait(func() error {
			_, err := s.NextMsgWithContext(context.Background())
			if err == nil {
				err = errNotIdle
			}
			return err
		})
	}
	return nil
}

func idleReceivers(e *endpoint, p *peer.Peer, n int, wait func(func() error)) error {
	cluster, err := joinCluster(e.conn, p.Args)
	if err != nil {
		return err
	}
	q, err := chanmq.Create(thereKey, 0o600, cluster.Option())
	if err != nil {
		return err
	}
	for i := range n {
		of := chanmq.OfType(int64(1 + i))
		if p.Kind == "cluster-consumer" {
			c := q.Consumer(context.Background(), of)
			wait(func() error {
				for range c.C() {
					return errNotIdle
				}
				return c.Err()
			})
			continue
		}
		r := q.Receiver(context.Background(), of)
		wait(func() error {
			for range r.C() {
				return errNotIdle
			}
			return r.Err()
		})
	}
	return nil
}

// idleServer is the role of the server that the crowd is connected to.
func idleServer(p *peer.Peer) error {
	e, err := serve(serverOptions(p.Args))
	if err != nil {
		return err
	}
	// Its own connection would cost a ping now and then.
	e.conn.Close()
	if err := p.Ready(e.url); err != nil {
		return err
	}
	p.Idle("server")
	return nil
}
