//go:build linux

package watermill_test

import (
	"context"
	"errors"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/natsmq"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

// servers is a JetStream server in this process, for a test.
type servers struct {
	t   testing.TB
	url string
}

// newServers starts the server. It and its files are gone when the test ends.
func newServers(t testing.TB) *servers {
	t.Helper()
	s, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
		// By default they depend on the memory and the disk of the machine.
		JetStreamMaxMemory: 1 << 30, JetStreamMaxStore: 8 << 30,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not listen")
	}
	return &servers{t, s.ClientURL()}
}

// cluster returns the server's queues over a connection of its own, as a process has it.
func (s *servers) cluster(opts ...natsmq.Option) *natsmq.Cluster {
	s.t.Helper()
	nc, err := nats.Connect(s.url, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	c, err := natsmq.New(nc, opts...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := c.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return c
}

// kernelLimits has a queue fill up as one of the kernel does.
var kernelLimits = chanmq.Limits{MaxMessage: 8192, MaxBytes: 16384, MaxQueues: 10}

// queue returns a queue that has to be empty when the test ends.
func (s *servers) queue(opts ...natsmq.Option) *chanmq.Queue[[]byte] {
	s.t.Helper()
	q, err := chanmq.Private(0o600, s.cluster(opts...).Option())
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		// What was acknowledged is deleted in the background.
		testkit.Eventually(s.t, "the queue is empty", func() bool {
			stat, err := q.Stat()
			return err != nil || stat.Messages == 0
		})
		if err := q.Close(); err != nil {
			s.t.Error(err)
		}
	})
	return q
}

// clusterSites are the queues of Watermill's tests on a cluster, one for each topic.
type clusterSites struct {
	servers *servers
	opts    []natsmq.Option

	mu   sync.Mutex
	keys map[string]chanmq.Key // guarded by mu
}

func newClusterSites(t *testing.T, opts ...natsmq.Option) *clusterSites {
	newSites(t) // the tests log what they do
	return &clusterSites{servers: newServers(t), opts: opts, keys: make(map[string]chanmq.Key)}
}

func (s *clusterSites) key(topic string) chanmq.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.keys[topic]; !ok {
		s.keys[topic] = chanmq.Key(len(s.keys) + 1)
	}
	return s.keys[topic]
}

// pubSub returns a publisher and a subscriber of a process of their own.
func (s *clusterSites) pubSub(*testing.T) (message.Publisher, message.Subscriber) {
	option := s.servers.cluster(s.opts...).Option()
	return pubSub(s.servers.t, chanmqwatermill.TopicFunc(func(ctx context.Context, topic string) (chanmqwatermill.Topic, error) {
		return chanmqwatermill.Keys(map[string]chanmq.Key{topic: s.key(topic)}, 0o600, option).Open(ctx, topic)
	}))
}

// TestWatermillCluster is Watermill's own test on a cluster, with the features that it has on the kernel. Some
// of those that are off have other reasons there:
//
//   - ConsumerGroups, NewSubscriberReceivesOldMessages: a message is deleted when it is
//     acknowledged.
//   - ExactlyOnceDelivery: the servers deliver a message again where a process has died, or is not
//     heard for the time of WithAckWait. Where all live nothing comes twice:
//     TestWatermillClusterOnce.
//   - RestartServiceCommand: the tests of natsmq kill and restart servers.
//
// CHANMQ_WATERMILL=full has it with all of Watermill's messages, up to 10,000 in a queue, whose
// deadlines are short for a busy machine.
func TestWatermillCluster(t *testing.T) {
	f := features
	f.ForceShort = os.Getenv("CHANMQ_WATERMILL") != "full"
	large := natsmq.WithLimits(chanmq.Limits{MaxMessage: 8192, MaxBytes: 16 << 20, MaxQueues: 1000})
	tests.TestPubSub(t, f, newClusterSites(t, large).pubSub, nil)
}

// TestWatermillClusterOnce: while all processes and the server live, nothing comes twice.
func TestWatermillClusterOnce(t *testing.T) {
	once := features
	once.ExactlyOnceDelivery = true
	tests.TestPubSub(t, once, newClusterSites(t, natsmq.WithMemory()).pubSub, nil)
}

// TestClusterRouter: the handler of a Router on one process's connection gets each message of another one's.
func TestClusterRouter(t *testing.T) {
	const n = 200
	s := newServers(t)
	keys := map[string]chanmq.Key{"orders": 1, "bills": 2}
	publisher := chanmqwatermill.NewPublisher(chanmqwatermill.Keys(keys, 0o600, s.cluster().Option()))
	topics := chanmqwatermill.Keys(keys, 0o600, s.cluster().Option())
	bills, subscriber := chanmqwatermill.NewPublisher(topics), chanmqwatermill.NewSubscriber(topics, quick)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	var failed sync.Map
	var billed tally
	router.AddHandler("billing", "orders", subscriber, "bills", bills, func(order *message.Message) ([]*message.Message, error) {
		if i, _ := strconv.Atoi(order.UUID); i%10 == 0 {
			if _, again := failed.LoadOrStore(i, true); !again {
				return nil, errors.New("it comes again")
			}
		}
		return message.Messages{order.Copy()}, nil
	})
	all := make(chan struct{})
	end := sync.OnceFunc(func() { close(all) })
	router.AddConsumerHandler("printer", "bills", subscriber, func(bill *message.Message) error {
		wantPayload(t, bill)
		if billed.add(bill.UUID); billed.different() == n {
			end()
		}
		return nil
	})
	stopped := make(chan error)
	go func() { stopped <- router.Run(t.Context()) }()
	if err := publisher.Publish("orders", numbered(0, n)...); err != nil {
		t.Error(err)
	}
	within(t, "the Router", func() { <-all })
	if err := errors.Join(router.Close(), <-stopped, publisher.Close(), bills.Close(), subscriber.Close()); err != nil {
		t.Error(err)
	}
	billed.want(t, n, 1)
}

// onEach runs a test with queues of the kernel, and of a cluster.
func onEach(t *testing.T, test func(t *testing.T, newQueue func() *chanmq.Queue[[]byte])) {
	t.Run("kernel", func(t *testing.T) {
		test(t, func() *chanmq.Queue[[]byte] { return reaped(t) })
	})
	t.Run("cluster", func(t *testing.T) {
		s := newServers(t)
		test(t, func() *chanmq.Queue[[]byte] { return s.queue(natsmq.WithLimits(kernelLimits)) })
	})
}
