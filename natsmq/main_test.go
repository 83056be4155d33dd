package natsmq

import (
	"os"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
	for i, c := range clusters {
		if i == len(clusters)-1 && !*long {
			continue // what it has, one of the others has as well
		}
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // most of the time the servers wait for each other
			test(t, c.start(t, c.storage), c.opts)
		})
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
