// Command redispeer is the Go peer over a Redis stream with a consumer group. It is a
// program of its own so that the harness links no client.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/chanmq/chanmq/bench/internal/peer"
)

func main() {
	os.Exit(peer.Main(os.Args[1:], peer.Kinds{"redis": open}, nil))
}

// A stream has no bound of its own, so the sender waits until the receiver has
// reported every reportEvery messages, and is never more than window ahead.
const (
	stream      = "bench"
	group       = "group"
	field       = "text"
	reports     = "bench.received" // a list
	window      = 1024
	reportEvery = 256
	atOnce      = 64 // messages in one call: XADDs that are sent together, the COUNT of XREADGROUP
	timeout     = 10 * time.Second
)

var ctx = context.Background()

// endpoint is a client of a Redis server on a Unix socket.
type endpoint struct {
	client   *redis.Client
	adding   redis.Pipeliner
	sent     int
	unread   []redis.XMessage
	read     []string // IDs of messages that are not acknowledged
	acks     int      // of one XACK
	received int
}

func open(a peer.Arguments) (peer.Endpoint, error) {
	client := redis.NewClient(&redis.Options{
		Network: "unix", Addr: a["socket"],
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	// Both sides create the group: whoever is the second does nothing.
	err := client.XGroupCreateMkStream(ctx, stream, group, "0").Err()
	if redis.HasErrorPrefix(err, "BUSYGROUP") {
		err = nil
	}
	return &endpoint{client: client, adding: client.Pipeline(), acks: a.Int("acks", 1)}, err
}

func (e *endpoint) Reuse() int { return atOnce }

func (e *endpoint) Send(p []byte) error {
	// What was acknowledged stays in a stream until it is cut.
	e.adding.XAdd(ctx, &redis.XAddArgs{Stream: stream, MaxLen: 4 * window, Approx: true, Values: []any{field, p}})
	if e.sent++; e.sent%atOnce != 0 {
		return nil
	}
	if _, err := e.adding.Exec(ctx); err != nil {
		return err
	}
	if e.sent >= window && e.sent%reportEvery == 0 {
		return e.client.BLPop(ctx, timeout, reports).Err()
	}
	return nil
}

func (e *endpoint) Receive() ([]byte, error) {
	if err := e.acknowledge(); err != nil {
		return nil, err
	}
	if len(e.unread) == 0 {
		streams, err := e.client.XReadGroup(ctx, &redis.XReadGroupArgs{
			Group: group, Consumer: "sink", Streams: []string{stream, ">"}, Count: atOnce,
		}).Result()
		if err != nil {
			return nil, err
		}
		e.unread = streams[0].Messages
	}
	m := e.unread[0]
	e.unread = e.unread[1:]
	e.read = append(e.read, m.ID)
	if e.received++; e.received%reportEvery == 0 {
		if err := e.client.RPush(ctx, reports, e.received).Err(); err != nil {
			return nil, err
		}
	}
	text, ok := m.Values[field].(string)
	if !ok {
		return nil, fmt.Errorf("a message without a %s: %v", field, m.Values)
	}
	return []byte(text), nil
}

// acknowledge does it for what was read, if that is enough.
func (e *endpoint) acknowledge() error {
	if len(e.read) == 0 || len(e.read) < e.acks && len(e.unread) > 0 {
		return nil
	}
	err := e.client.XAck(ctx, stream, group, e.read...).Err()
	e.read = e.read[:0]
	return err
}
