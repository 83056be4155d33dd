//go:build linux

package watermill_test

import (
	"context"
	"errors"
	"io"
	"log"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

// features are what Watermill's tests expect of this package.
var features = tests.Features{
	Persistent:      true, // a queue survives its processes
	GuaranteedOrder: true,
	// Several subscriptions, or processes, take messages from one queue, and each deals with
	// its own: whose turn it is does not say who is through first.
	GuaranteedOrderWithSingleSubscriber: true,
	// Receivers of a queue compete, whoever they are: a message is taken once.
	ConsumerGroups: false,
	// A process may die between its work and Ack. In one that lives nothing comes twice
	// without Nack: TestWatermillOnce.
	ExactlyOnceDelivery: false,
	// The kernel keeps nothing that was received.
	NewSubscriberReceivesOldMessages: false,
	// Messages are bytes.
	ContextPreserved: false,
	// The larger numbers take larger queues: TestWatermillFull.
	ForceShort: true,
	// RestartServiceCommand: the kernel is not restarted while its processes live, so there is
	// nothing to reconnect to.
}

// sites are the queues of Watermill's tests, one for each topic.
type sites struct {
	t    *testing.T
	opts []chanmq.Option
	mu   sync.Mutex
	ids  map[string]int // guarded by mu
}

func newSites(t *testing.T, opts ...chanmq.Option) *sites {
	log.SetOutput(io.Discard) // the tests log what they do
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	return &sites{t: t, opts: opts, ids: make(map[string]int)}
}

// Open opens a handle of its own for each Publisher and Subscriber, as in different processes.
func (s *sites) Open(_ context.Context, topic string) (chanmqwatermill.Topic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.ids[topic]
	if !ok {
		id = newQueue(s.t)
		s.ids[topic] = id
	}
	q, err := chanmq.Attach(id, s.opts...)
	return chanmqwatermill.Topic{Queue: q, Owned: true}, err
}

func (s *sites) pubSub(*testing.T) (message.Publisher, message.Subscriber) { return pubSub(s.t, s) }

// pubSub returns a publisher and a subscriber, which are closed when t, of all tests, ends.
func pubSub(t testing.TB, topics chanmqwatermill.Topics) (message.Publisher, message.Subscriber) {
	publisher := chanmqwatermill.NewPublisher(topics)
	subscriber := chanmqwatermill.NewSubscriber(topics,
		quiet, // one of the tests never answers
		chanmqwatermill.WithCloseTimeout(250*time.Millisecond),
		// The tests call Nack for one message up to 300 times.
		chanmqwatermill.WithBackoff(chanmqwatermill.Exponential(time.Millisecond, 2*time.Millisecond)))
	t.Cleanup(func() { // TestPublishSubscribeInOrder closes its subscribers before they are there
		if err := errors.Join(publisher.Close(), subscriber.Close()); err != nil {
			t.Error(err)
		}
	})
	return publisher, subscriber
}

// TestWatermill is Watermill's own test, with its smaller numbers of messages: it publishes
// them before it subscribes, and a queue has room for 16 KiB.
func TestWatermill(t *testing.T) {
	for name, opts := range map[string][]chanmq.Option{
		"plain":   nil,
		"journal": {chanmq.WithJournal(journalDir(t))},
		"packed":  {chanmq.WithPacking()},
		"polling": {chanmq.WithPolling(time.Millisecond, 5*time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) { tests.TestPubSub(t, features, newSites(t, opts...).pubSub, nil) })
	}
}

// TestWatermillOnce: while all processes live, nothing comes twice.
func TestWatermillOnce(t *testing.T) {
	once := features
	once.ExactlyOnceDelivery = true
	tests.TestPubSub(t, once, newSites(t).pubSub, nil)
}

// TestWatermillStress: all of Watermill's tests ten times at once.
func TestWatermillStress(t *testing.T) {
	tests.TestPubSubStressTest(t, features, newSites(t).pubSub, nil)
}

// TestWatermillFull: with all of Watermill's messages, up to 10,000 in a queue, which takes an
// IPC namespace with larger queues.
func TestWatermillFull(t *testing.T) {
	if !testkit.InNamespace(t) {
		return
	}
	testkit.SetLimit(t, "msgmnb", "4194304")
	full := features
	full.ForceShort = false
	s := newSites(t)
	for name, test := range map[string]func(*testing.T, tests.TestContext, tests.PubSubConstructor){
		// Those of TestPubSub that are not skipped.
		"PublishSubscribe":                  tests.TestPublishSubscribe,
		"ConcurrentSubscribe":               tests.TestConcurrentSubscribe,
		"ConcurrentSubscribeMultipleTopics": tests.TestConcurrentSubscribeMultipleTopics,
		"ResendOnError":                     tests.TestResendOnError,
		"NoAck":                             tests.TestNoAck,
		"ContinueAfterSubscribeClose":       tests.TestContinueAfterSubscribeClose,
		"ConcurrentClose":                   tests.TestConcurrentClose,
		"ContinueAfterErrors":               tests.TestContinueAfterErrors,
		"PublishSubscribeInOrder":           tests.TestPublishSubscribeInOrder,
		"PublisherClose":                    tests.TestPublisherClose,
		"Topic":                             tests.TestTopic,
		"MessageCtx":                        tests.TestMessageCtx,
		"SubscribeCtx":                      tests.TestSubscribeCtx,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, tests.TestContext{TestID: tests.NewTestID(), Features: full}, s.pubSub)
		})
	}
}

// journalDir returns a directory for journals, which is removed after the test.
func journalDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-watermill-")
	if err != nil {
		t.Fatal(err)
	}
	testkit.ReapPath(t, dir)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
