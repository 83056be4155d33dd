//go:build linux

package watermill_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	"github.com/chanmq/chanmq/internal/testkit"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

var roles = map[string]testkit.Role{}

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, roles)) }

// newQueue returns the msqid of a queue that is removed after the test, whatever happens.
func newQueue(t testing.TB) int {
	t.Helper()
	q, err := chanmq.Private(0o600)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, q.ID())
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	return q.ID()
}

// reaped returns a queue of chanmqtest.New, which is removed even if the tests are killed.
func reaped(t testing.TB, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	q := chanmqtest.New(t, opts...)
	testkit.Reap(uncleaned{t}, q.ID())
	return q
}

// uncleaned leaves the cleanup to chanmqtest, which looks for messages that are left before it
// removes the queue.
type uncleaned struct{ testing.TB }

func (uncleaned) Cleanup(func()) {}

// attach returns a handle, which is closed after the test.
func attach(t testing.TB, id int, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Attach(id, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// topicOf returns topics of which one queue has all messages, of the type 1.
func topicOf(q *chanmq.Queue[[]byte]) chanmqwatermill.Topics {
	return chanmqwatermill.TopicFunc(func(context.Context, string) (chanmqwatermill.Topic, error) {
		return chanmqwatermill.Topic{Queue: q}, nil
	})
}

// attached returns topics whose handles belong to whoever opens them.
func attached(id int, opts ...chanmq.Option) chanmqwatermill.Topics {
	return chanmqwatermill.TopicFunc(func(context.Context, string) (chanmqwatermill.Topic, error) {
		q, err := chanmq.Attach(id, opts...)
		return chanmqwatermill.Topic{Queue: q, Owned: true}, err
	})
}

var quick = chanmqwatermill.WithBackoff(chanmqwatermill.Exponential(time.Millisecond, 4*time.Millisecond))

// quiet keeps errors that a test makes on purpose out of its output.
var quiet = chanmqwatermill.WithLogger(watermill.NopLogger{})

// numbered returns messages whose UUIDs are numbers.
func numbered(from, to int) []*message.Message {
	var msgs []*message.Message
	for i := from; i < to; i++ {
		msgs = append(msgs, message.NewMessage(strconv.Itoa(i), payload(i)))
	}
	return msgs
}

// payload is that of a numbered message. It ends as the empty room of a journal does.
func payload(i int) []byte { return bytes.Repeat([]byte{0xFF}, i%50) }

// wantPayload fails the test if a numbered message has another payload.
func wantPayload(t testing.TB, msg *message.Message) {
	t.Helper()
	if i, err := strconv.Atoi(msg.UUID); err != nil || !bytes.Equal(msg.Payload, payload(i)) {
		t.Errorf("message %s has the payload %q", msg.UUID, msg.Payload)
	}
}

// tally counts messages by UUID.
type tally struct {
	mu    sync.Mutex
	times map[string]int // guarded by mu
}

func (c *tally) add(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.times == nil {
		c.times = make(map[string]int)
	}
	c.times[id]++
}

func (c *tally) different() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.times)
}

// want fails the test unless all of numbered(0, n) were counted, each at most so many times.
func (c *tally) want(t testing.TB, n, most int) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range n {
		if times := c.times[fmt.Sprint(i)]; times < 1 || times > most {
			t.Errorf("message %d came %d times", i, times)
		}
	}
	if len(c.times) != n {
		t.Errorf("%d different messages came, want %d", len(c.times), n)
	}
}

// empty fails the test if there is a message in the queue.
func empty(t testing.TB, id int) {
	t.Helper()
	q, err := chanmq.Attach(id)
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	stat, err := q.Stat()
	if err != nil || stat.Messages > 0 {
		t.Errorf("%d messages are left, %v", stat.Messages, err)
	}
}

// receive reads a message, or fails the test.
func receive(t testing.TB, msgs <-chan *message.Message) *message.Message {
	t.Helper()
	select {
	case msg, ok := <-msgs:
		if !ok {
			t.Fatal("the channel is closed")
		}
		return msg
	case <-time.After(30 * time.Second):
		t.Fatal("no message")
		return nil
	}
}

// within fails the test if f takes too long.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Fatalf("%s does not end", what)
	}
}
