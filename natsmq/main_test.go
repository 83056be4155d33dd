package natsmq

import (
	"os"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

func TestMain(m *testing.M) { os.Exit(natstest.Main(m, roles)) }

// clusters are the kinds of servers that queues are on.
var clusters = []struct {
	name    string
	start   func(testing.TB, jetstream.StorageType) *natstest.Servers
	storage jetstream.StorageType
	opts    []Option
}{
	{"one server, file", natstest.Single, jetstream.FileStorage, nil},
	{"one server, memory", natstest.Single, jetstream.MemoryStorage, []Option{WithMemory()}},
	{"three servers, file", natstest.Three, jetstream.FileStorage, []Option{WithReplicas(3)}},
	{"three servers, memory", natstest.Three, jetstream.MemoryStorage, []Option{WithReplicas(3), WithMemory()}},
}

// onClusters runs a test on each kind.
func onClusters(t *testing.T, test func(t *testing.T, s *natstest.Servers, opts []Option)) {
	for _, c := range clusters {
		t.Run(c.name, func(t *testing.T) { test(t, c.start(t, c.storage), c.opts) })
	}
}

// newCluster returns the queues of the servers. It is closed when the test ends.
func newCluster(t testing.TB, nc *nats.Conn, opts ...Option) *Cluster {
	t.Helper()
	c, err := New(nc, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// embedded starts a server in this process, and connects to it.
func embedded(t sysvtest.TB, dir string) *nats.Conn {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close(); s.Shutdown(); s.WaitForShutdown() })
	return nc
}
