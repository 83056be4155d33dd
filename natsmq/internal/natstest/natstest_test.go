package natstest_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

func TestMain(m *testing.M) { os.Exit(natstest.Main(m, nil)) }

// ctxWithin returns a ctx for what has to happen: it ends only when the test would hang.
func ctxWithin(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// stream creates a stream with as many replicas as there are servers.
func stream(t testing.TB, s *natstest.Servers, nc *nats.Conn) jetstream.Stream {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	created, err := js.CreateStream(ctxWithin(t), jetstream.StreamConfig{
		Name:        "stream",
		Subjects:    []string{"stream.>"},
		Storage:     s.Storage,
		Replicas:    s.Len(),
		AllowDirect: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// publish publishes the messages from, from+1, ... to-1, each until it is stored.
func publish(t testing.TB, nc *nats.Conn, from, to int) {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	ctx := ctxWithin(t)
	for n := from; n < to; n++ {
		id := fmt.Sprint(n)
		var last error
		for {
			// Without a leader a message is lost, and Publish waits as long as ctx has it wait.
			try, cancel := context.WithTimeout(ctx, time.Second)
			_, err := js.Publish(try, "stream.a", []byte(id), jetstream.WithMsgID(id))
			cancel()
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				t.Fatalf("publishing %d: %v", n, last)
			}
			last = err
			time.Sleep(10 * time.Millisecond)
		}
	}
}

// wantStored checks that the messages 0, 1, ... count-1 are there.
func wantStored(t testing.TB, nc *nats.Conn, count int) {
	t.Helper()
	natstest.UntilConnected(t, nc)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctxWithin(t), "stream")
	if err != nil {
		t.Fatal(err)
	}
	for n := range count {
		m, err := stream.GetMsg(ctxWithin(t), uint64(n+1))
		if err != nil {
			t.Fatalf("message %d: %v", n, err)
		}
		if got := string(m.Data); got != fmt.Sprint(n) {
			t.Fatalf("message %d is %s", n, got)
		}
	}
	if _, err := stream.GetMsg(ctxWithin(t), uint64(count+1)); !errors.Is(err, jetstream.ErrMsgNotFound) {
		t.Errorf("after %d messages: %v, which is not %v", count, err, jetstream.ErrMsgNotFound)
	}
}

func TestEmbedded(t *testing.T) {
	s := natstest.Embedded(t, jetstream.FileStorage)
	nc := s.Connect(t)
	stream(t, s, nc)
	publish(t, nc, 0, 10)
	s.Shutdown(0)
	s.Restart(0)
	s.WaitReady()
	wantStored(t, nc, 10)
	if leader := s.Leader("stream"); leader != 0 {
		t.Errorf("Leader = %d", leader)
	}
}

func TestEmbeddedMemory(t *testing.T) {
	s := natstest.Embedded(t, jetstream.MemoryStorage)
	nc := s.Connect(t)
	stream(t, s, nc)
	publish(t, nc, 0, 10)
	wantStored(t, nc, 10)
}
