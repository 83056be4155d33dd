package natsmq

import (
	"os"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

func embedded(t sysvtest.TB, dir string) *nats.Conn {
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("not ready")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() })
	return nc
}

func TestKernel(t *testing.T) {
	nc := embedded(t, t.TempDir())
	cluster, err := New(nc, WithExactSizes(), WithLimits(chanmq.Limits{MaxMessage: 8192, MaxBytes: 16384, MaxQueues: 1000}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cluster.Close() })
	sysvtest.Run(t, func(t sysvtest.TB) sysvtest.Machine {
		h := (&handle{c: cluster, e: cluster.engine}).Handle()
		t.Cleanup(h.Release)
		return sysvtest.Machine{
			Kernel: h,
			PID:    int32(os.Getpid()),
			Asleep: func(sysvtest.TB) int { return cluster.engine.Waiting() },
			As: func(t sysvtest.TB, uid, gid uint32) sysvtest.User {
				t.Skip("no users")
				return nil
			},
		}
	})
}
