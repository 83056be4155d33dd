package natsmq

import (
	"context"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// fillQueue sends n messages of 64 bytes to the queue, many at a time.
func fillQueue(b *testing.B, cluster *Cluster, id, n int) {
	b.Helper()
	var failed atomic.Int64
	const senders = 256
	done := make(chan struct{})
	for i := range senders {
		go func() {
			defer func() { done <- struct{}{} }()
			for j := i; j < n; j += senders {
				ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
				if err := cluster.engine.Publish(ctx, id, engine.NewOutgoing(1+int64(j%4), make([]byte, 64))); err != nil {
					failed.Add(1)
				}
				cancel()
			}
		}()
	}
	for range senders {
		<-done
	}
	if failed.Load() > 0 {
		b.Fatalf("%d of %d were not sent", failed.Load(), n)
	}
}

// benchQueue returns a handle of a new queue with n messages.
func benchQueue(b *testing.B, n int) (*nats.Conn, *Cluster, *handle, int) {
	b.Helper()
	cluster := newLeaseServer(b).cluster()
	nc := cluster.engine.Conn
	h := cluster.kernel().Handle().(*handle)
	b.Cleanup(h.Release)
	id, err := h.Get(sysv.KeyPrivate, 0o600)
	if err != nil {
		b.Fatal(err)
	}
	fillQueue(b, cluster, id, n)
	return nc, cluster, h, id
}

// reportCPU reports the processor's time, of the server and of the client, which is what can be
// compared on a machine that does other things.
func reportCPU(b *testing.B) func() {
	now := func() int64 {
		var u syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
			b.Fatal(err)
		}
		return u.Utime.Nano() + u.Stime.Nano()
	}
	began := now()
	return func() { b.ReportMetric(float64(now()-began)/float64(b.N), "cpu-ns/op") }
}

// BenchmarkLease receives with a lease and acknowledges, until the messages are gone.
func BenchmarkLease(b *testing.B) {
	_, _, h, id := benchQueue(b, b.N)
	t := h.NewThread().(sysv.LeasingThread)
	buf := make([]byte, 8192)
	defer reportCPU(b)()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		_, l, err := h.ReceiveLeased(id, buf, 0, 0)
		if err == sysv.ENOMSG {
			_, l, err = t.ReceiveLeased(id, buf, 0, 0)
		}
		if err != nil {
			b.Fatal(err)
		}
		if err := l.Ack(); err != nil {
			b.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	cluster := h.c
	for cluster.engine.Unacked() > 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	b.StopTimer()
	if s, err := h.Stat(id); err != nil || s.Messages != 0 {
		b.Fatalf("%d messages left (%v)", s.Messages, err)
	}
}

// BenchmarkPlainPull is the same with a consumer of JetStream alone, whose messages stay.
func BenchmarkPlainPull(b *testing.B) {
	nc, _, _, id := benchQueue(b, b.N)
	js, err := jetstream.New(nc)
	if err != nil {
		b.Fatal(err)
	}
	c, err := js.CreateConsumer(b.Context(), streamName(id), jetstream.ConsumerConfig{
		Durable: "plain", AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: -1,
	})
	if err != nil {
		b.Fatal(err)
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(256))
	if err != nil {
		b.Fatal(err)
	}
	defer messages.Stop()
	defer reportCPU(b)()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		m, err := messages.Next()
		if err != nil {
			b.Fatal(err)
		}
		if err := m.Ack(); err != nil {
			b.Fatal(err)
		}
	}
	for {
		info, err := c.Info(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		if info.NumAckPending == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
}
