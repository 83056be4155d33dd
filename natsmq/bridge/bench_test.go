//go:build linux

package bridge

import (
	"context"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/natsmq"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

// BenchmarkBridge moves messages of 64 bytes from one kernel queue to another, through two bridges and one server.
func BenchmarkBridge(b *testing.B) {
	s := natstest.Embedded(b, jetstream.FileStorage)
	cluster, err := natsmq.New(s.Connect(b))
	if err != nil {
		b.Fatal(err)
	}
	defer cluster.Close()
	there, err := chanmq.Create(key, 0o600, cluster.Option())
	if err != nil {
		b.Fatal(err)
	}
	defer there.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var queues [2]*chanmq.Queue[[]byte]
	for i, opt := range []Option{WithOut(1), WithIn(1)} {
		q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
		if err != nil {
			b.Fatal(err)
		}
		testkit.Reap(b, q.ID())
		defer q.Close()
		br, err := New(q, cluster, key, opt, WithDir(bridgeDir(b)))
		if err != nil {
			b.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- br.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-ended; err != nil {
				b.Error(err)
			}
			_ = br.Close() // what it holds is of no interest
		}()
		queues[i] = q
	}
	text := make([]byte, 64)
	go func() {
		for queues[0].Send(ctx, 1, text) == nil {
		}
	}()
	var m chanmq.Message[[]byte]
	for b.Loop() {
		if err := queues[1].ReceiveInto(ctx, chanmq.Any(), &m); err != nil {
			b.Fatal(err)
		}
	}
}
