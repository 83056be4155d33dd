//go:build linux

package watermill_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

var (
	_ message.Publisher            = (*chanmqwatermill.Publisher)(nil)
	_ message.Subscriber           = (*chanmqwatermill.Subscriber)(nil)
	_ message.SubscribeInitializer = (*chanmqwatermill.Subscriber)(nil)
)

// TestPublishError: what was wrong, and how much was sent.
func TestPublishError(t *testing.T) {
	q := reaped(t)
	chanmqtest.AllowLeftover(q)
	p := chanmqwatermill.NewPublisher(chanmqwatermill.Types(q, map[string]int64{"orders": 1}))
	large := message.NewMessage("large", make([]byte, 8192))
	msgs := append(numbered(0, 2), large, numbered(3, 4)[0])
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	late := message.NewMessageWithContext(ended, "late", nil)
	for _, test := range []struct {
		name, topic string
		msgs        []*message.Message
		sent        int
		err         error
		text        string
	}{
		{"nothing", "orders", nil, 0, nil, ""},
		{"too large", "orders", msgs, 2, chanmq.ErrTooLarge, `publish to "orders": 2 of 4 messages sent, then UUID "large": `},
		{"canceled", "orders", append(numbered(0, 1), late), 1, context.Canceled, `1 of 2 messages sent, then UUID "late"`},
		{"unknown topic", "order", msgs, 0, chanmqwatermill.ErrUnknownTopic, `publish to "order": 0 of 4 messages sent, then UUID "0": unknown topic`},
		{"a marshaler's", "orders", append(numbered(0, 1), message.NewMessage(strings.Repeat("u", 70000), nil)), 0, nil, "0 of 2 messages sent"},
	} {
		t.Run(test.name, func(t *testing.T) {
			err := p.Publish(test.topic, test.msgs...)
			if test.text == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var e *chanmqwatermill.PublishError
			if !errors.As(err, &e) || e.Sent != test.sent || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %.300q", err)
			}
			if test.err != nil && !errors.Is(err, test.err) {
				t.Errorf("%v does not match %v", err, test.err)
			}
		})
	}
	if stat, err := q.Stat(); err != nil || stat.Messages != 3 {
		t.Errorf("%d messages in the queue, %v", stat.Messages, err)
	}
	if err := errors.Join(p.Close(), p.Close()); err != nil {
		t.Error(err)
	}
	if err := p.Publish("orders", msgs...); !errors.Is(err, chanmqwatermill.ErrClosed) || !errors.Is(err, os.ErrClosed) {
		t.Error("after Close:", err)
	}
	if err := q.Send(t.Context(), 1, nil); err != nil {
		t.Error("the queue of the program was closed:", err)
	}
}

// TestPublishWaits: for room, until the message's ctx ends or the Publisher is closed.
func TestPublishWaits(t *testing.T) {
	for name, own := range map[string]bool{"background": false, "ctx": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k := chanmqtest.Simulated(t)
				q := k.New(t)
				chanmqtest.AllowLeftover(q)
				p := chanmqwatermill.NewPublisher(topicOf(q))
				full := message.NewMessage("full", make([]byte, 8000))
				if err := p.Publish("", full, full); err != nil {
					t.Fatal(err)
				}
				msg := full.Copy()
				if own {
					ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
					defer cancel()
					msg.SetContext(ctx)
					if err := p.Publish("", msg); !errors.Is(err, context.DeadlineExceeded) {
						t.Error(err)
					}
					ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
					defer cancel()
					msg.SetContext(ctx)
				}
				go func() {
					time.Sleep(time.Minute)
					if _, err := q.Receive(t.Context(), chanmq.Any()); err != nil {
						t.Error(err)
					}
				}()
				if err := p.Publish("", msg); err != nil {
					t.Error(err)
				}
				var closing sync.WaitGroup
				for range 2 {
					closing.Go(func() {
						time.Sleep(time.Minute)
						if err := p.Close(); err != nil {
							t.Error(err)
						}
					})
				}
				if err := p.Publish("", msg); !errors.Is(err, chanmqwatermill.ErrClosed) {
					t.Error(err)
				}
				closing.Wait()
			})
		})
	}
}

// TestPublisherPanic: a Marshaler's panic is the caller's, and nothing is stuck.
func TestPublisherPanic(t *testing.T) {
	q := reaped(t)
	p := chanmqwatermill.NewPublisher(topicOf(q), chanmqwatermill.WithMarshaler(&picky{}))
	func() {
		defer func() {
			if recover() == nil {
				t.Error("no panic")
			}
		}()
		_ = p.Publish("", message.NewMessage("panic", nil))
	}()
	within(t, "Close", func() { _ = p.Close() })
}

// TestKeys: queues of their own, closed by Close.
func TestKeys(t *testing.T) {
	k := chanmqtest.Simulated(t) // it checks that all handles are closed
	keys := map[string]chanmq.Key{"a": 0x2a01, "b": 0x2a02}
	topics := chanmqwatermill.Keys(keys, 0o600, k.Option())
	p, s := chanmqwatermill.NewPublisher(topics), chanmqwatermill.NewSubscriber(topics)
	if err := s.SubscribeInitialize("a"); err != nil {
		t.Fatal(err)
	}
	if _, err := chanmq.Open(0x2a02, k.Option()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("b exists: %v", err)
	}
	if err := s.SubscribeInitialize("c"); !errors.Is(err, chanmqwatermill.ErrUnknownTopic) {
		t.Error(err)
	}
	if _, err := s.Subscribe(t.Context(), "c"); !errors.Is(err, chanmqwatermill.ErrUnknownTopic) {
		t.Error(err)
	}
	for topic := range keys {
		if err := p.Publish(topic, message.NewMessage(topic, nil)); err != nil {
			t.Fatal(err)
		}
	}
	for topic := range keys {
		msgs, err := s.Subscribe(t.Context(), topic)
		if err != nil {
			t.Fatal(err)
		}
		msg := receive(t, msgs)
		info, ok := chanmqwatermill.InfoFrom(msg.Context())
		if want := (chanmqwatermill.Info{Topic: topic, Type: 1, Attempt: 1}); msg.UUID != topic || !ok || info != want {
			t.Errorf("%q in topic %q, %+v", msg.UUID, topic, info)
		}
		msg.Ack()
	}
	if err := errors.Join(p.Close(), s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	if _, err := s.Subscribe(t.Context(), "a"); !errors.Is(err, chanmqwatermill.ErrClosed) {
		t.Error(err)
	}
	if err := s.SubscribeInitialize("a"); !errors.Is(err, chanmqwatermill.ErrClosed) {
		t.Error(err)
	}
}

// TestOpenOnce: a topic is opened once, whoever uses it first, and again after an error; the
// end of the Publisher ends the wait for it.
func TestOpenOnce(t *testing.T) {
	q := reaped(t)
	chanmqtest.AllowLeftover(q)
	var mu sync.Mutex
	opened := 0
	failed := errors.New("not yet")
	topics := chanmqwatermill.TopicFunc(func(ctx context.Context, topic string) (chanmqwatermill.Topic, error) {
		if topic == "never" {
			<-ctx.Done()
			return chanmqwatermill.Topic{}, ctx.Err()
		}
		mu.Lock()
		defer mu.Unlock()
		opened++
		if opened == 1 {
			return chanmqwatermill.Topic{}, failed
		}
		return chanmqwatermill.Topic{Queue: q}, nil
	})
	p := chanmqwatermill.NewPublisher(topics)
	if err := p.Publish("a", numbered(0, 1)...); !errors.Is(err, failed) {
		t.Error(err)
	}
	var calls sync.WaitGroup
	for range 10 {
		calls.Go(func() {
			if err := p.Publish("a", numbered(0, 1)...); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if opened != 2 {
		t.Errorf("opened %d times", opened)
	}
	for range 3 {
		calls.Go(func() {
			if err := p.Publish("never", numbered(0, 1)...); err == nil {
				t.Error("no error")
			}
		})
	}
	time.Sleep(10 * time.Millisecond)
	within(t, "Close", func() { _ = p.Close() })
	calls.Wait()
}
