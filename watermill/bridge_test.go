//go:build linux

package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

// publisherFunc is a publisher of the tests' own.
type publisherFunc func(topic string, msg *message.Message) error

func (f publisherFunc) Publish(topic string, msgs ...*message.Message) error {
	for _, msg := range msgs {
		if err := f(topic, msg); err != nil {
			return err
		}
	}
	return nil
}

func (f publisherFunc) Close() error { return nil }

// goChannel returns Watermill's engine in memory.
func goChannel(t *testing.T) *gochannel.GoChannel {
	g := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: 10}, nil)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g
}

// TestThroughGoChannel: from one queue through Watermill's engine in memory to another one.
func TestThroughGoChannel(t *testing.T) { onEach(t, testThroughGoChannel) }

func testThroughGoChannel(t *testing.T, newQueue func() *chanmq.Queue[[]byte]) {
	const n = 2000
	from, to := newQueue(), newQueue()
	g := goChannel(t)
	ctx, cancel := context.WithCancel(t.Context())
	var moving sync.WaitGroup
	errs := make(chan error, 2)
	subscribed := make(chan struct{})
	moving.Go(func() { errs <- chanmqwatermill.FromSubscriber(ctx, announcing{g, subscribed}, "x", to, 5) })
	<-subscribed
	moving.Go(func() {
		errs <- chanmqwatermill.ToPublisher(ctx, from, chanmq.OfType(3), g, "x")
	})
	moving.Go(func() {
		typed := chanmqwatermill.NewPublisher(chanmqwatermill.Types(from, map[string]int64{"a": 3}))
		if err := typed.Publish("a", numbered(0, n)...); err != nil {
			t.Error(err)
		}
	})
	var came tally
	s := chanmqwatermill.NewSubscriber(chanmqwatermill.Types(to, map[string]int64{"b": 5}))
	msgs, err := s.Subscribe(ctx, "b")
	if err != nil {
		t.Fatal(err)
	}
	for range n {
		msg := receive(t, msgs)
		came.add(msg.UUID)
		msg.Ack()
	}
	came.want(t, n, 1)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	cancel()
	within(t, "moving", moving.Wait)
	for range 2 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}

// announcing is a subscriber that says when it is subscribed to: gochannel discards what is
// published before.
type announcing struct {
	message.Subscriber
	subscribed chan struct{}
}

func (a announcing) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	defer close(a.subscribed)
	return a.Subscriber.Subscribe(ctx, topic)
}

// TestToPublisherFails: the publisher fails, before or after it has published, and ctx ends again
// and again. Nothing is lost, and only what failed after it was published comes twice.
func TestToPublisherFails(t *testing.T) { onEach(t, testToPublisherFails) }

func testToPublisherFails(t *testing.T, newQueue func() *chanmq.Queue[[]byte]) {
	for _, inFlight := range []int{1, 8} {
		t.Run(strconv.Itoa(inFlight), func(t *testing.T) {
			const n = 1000
			q := newQueue()
			var mu sync.Mutex
			var order []int
			var published, failed tally
			publisher := publisherFunc(func(topic string, msg *message.Message) error {
				if topic != "out" {
					t.Errorf("topic %q", topic)
				}
				fate := rand.N(20)
				if fate == 0 {
					return errors.New("before")
				}
				mu.Lock()
				defer mu.Unlock()
				published.add(msg.UUID)
				id, _ := strconv.Atoi(msg.UUID)
				order = append(order, id)
				if fate == 1 {
					failed.add(msg.UUID)
					return errors.New("after")
				}
				return nil
			})
			var sending sync.WaitGroup
			sending.Go(func() {
				if err := chanmqwatermill.NewPublisher(topicOf(q)).Publish("", numbered(0, n)...); err != nil {
					t.Error(err)
				}
			})
			for round := 0; published.different() < n; round++ {
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(round)*time.Millisecond)
				err := chanmqwatermill.ToPublisher(ctx, q, chanmq.Any(), publisher, "out", quick, quiet,
					chanmqwatermill.WithConsumer(chanmq.WithInFlight(inFlight)))
				cancel()
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
			}
			// What has failed after it was published may be in the handle still.
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_ = chanmqwatermill.ToPublisher(ctx, q, chanmq.Any(), publisher, "out", quick, quiet)
			sending.Wait()
			for id, times := range published.times {
				if times > 1+failed.times[id] {
					t.Errorf("%s came %d times and failed %d times", id, times, failed.times[id])
				}
			}
			published.want(t, n, 100)
			for i := 1; inFlight == 1 && i < len(order); i++ {
				if order[i] != order[i-1]+1 && order[i] != order[i-1] {
					t.Errorf("%d behind %d", order[i], order[i-1])
				}
			}
			for {
				_, ok, err := q.TryReceive(chanmq.Any())
				if err != nil {
					t.Error(err)
				}
				if !ok {
					break
				}
			}
		})
	}
}

// TestToPublisherStuck: the end of ctx reaches a publisher that waits by the message's ctx, and
// the message is in the handle afterwards.
func TestToPublisherStuck(t *testing.T) {
	q := reaped(t)
	if err := chanmqwatermill.NewPublisher(topicOf(q)).Publish("", numbered(0, 1)...); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("enough")
	stuck := publisherFunc(func(_ string, msg *message.Message) error {
		if info, ok := chanmqwatermill.InfoFrom(msg.Context()); !ok || info.Attempt != 1 || info.Type != 1 {
			t.Errorf("%+v", info)
		}
		cancel(cause)
		<-msg.Context().Done()
		return msg.Context().Err()
	})
	err := chanmqwatermill.ToPublisher(ctx, q, chanmq.Any(), stuck, "x")
	if !errors.Is(err, context.Canceled) || !errors.Is(err, cause) {
		t.Error(err)
	}
	if m, ok, err := q.TryReceive(chanmq.Any()); !ok || err != nil {
		t.Error(m, ok, err)
	}
}

// TestToPublisherEnds: with the queue.
func TestToPublisherEnds(t *testing.T) {
	for how, want := range map[string]error{"removed": chanmq.ErrRemoved, "closed": chanmq.ErrClosed, "shut down": chanmq.ErrClosed, "closed before": chanmq.ErrClosed} {
		t.Run(how, func(t *testing.T) {
			q := attach(t, newQueue(t))
			end := map[string]func() error{
				"removed": q.Remove, "closed": q.Close, "closed before": q.Close,
				"shut down": func() error { return q.Shutdown(t.Context()) },
			}[how]
			if how == "closed before" {
				if err := end(); err != nil {
					t.Fatal(err)
				}
			}
			var err error
			within(t, "ToPublisher", func() {
				go func() {
					time.Sleep(10 * time.Millisecond)
					if err := end(); err != nil {
						t.Error(err)
					}
				}()
				err = chanmqwatermill.ToPublisher(t.Context(), q, chanmq.Any(), publisherFunc(nil), "x")
			})
			if !errors.Is(err, want) {
				t.Error(err)
			}
		})
	}
}

// TestToPublisherUndelivered: the handle is closed while Publish has a message, which then fails,
// and the queue is full.
func TestToPublisherUndelivered(t *testing.T) {
	id := newQueue(t)
	q, other := attach(t, id), attach(t, id)
	full := make([]byte, 8000)
	send := func() {
		if err := other.Send(t.Context(), 1, full); err != nil {
			t.Error(err)
		}
	}
	send()
	publisher := publisherFunc(func(string, *message.Message) error {
		send()
		send()
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		return errors.New("no")
	})
	err := chanmqwatermill.ToPublisher(t.Context(), q, chanmq.Any(), publisher, "x", quick, quiet,
		chanmqwatermill.WithMarshaler(chanmqwatermill.Plain{}))
	var undelivered *chanmq.UndeliveredError
	if !errors.Is(err, chanmq.ErrClosed) || !errors.As(err, &undelivered) || len(undelivered.Messages) != 1 {
		t.Error(err)
	}
}

// TestToPublisherTopics: topics by mtype, errors of that, and texts that are refused.
func TestToPublisherTopics(t *testing.T) {
	q := reaped(t)
	for typ := int64(1); typ <= 4; typ++ {
		if err := q.Send(t.Context(), typ, fmt.Append(nil, typ)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var got []string
	tries := 0
	err := chanmqwatermill.ToPublisher(ctx, q, chanmq.Any(), publisherFunc(func(topic string, msg *message.Message) error {
		got = append(got, topic+"="+string(msg.Payload))
		if msg.UUID == "" {
			t.Error("no UUID")
		}
		if len(got) == 4 {
			cancel()
		}
		return nil
	}), "", quick, quiet, chanmqwatermill.WithMarshaler(chanmqwatermill.Plain{}),
		chanmqwatermill.WithTopicOf(func(typ int64, _ *message.Message) (string, error) {
			if typ == 2 && tries < 3 {
				tries++
				return "", errors.New("not yet")
			}
			return fmt.Sprint("t", typ), nil
		}))
	if !errors.Is(err, context.Canceled) || fmt.Sprint(got) != "[t1=1 t2=2 t3=3 t4=4]" || tries != 3 {
		t.Error(got, err)
	}

	if err := q.Send(t.Context(), 1, []byte("no frame")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	err = chanmqwatermill.ToPublisher(ctx, q, chanmq.Any(), publisherFunc(nil), "x", quiet,
		chanmqwatermill.WithUndecoded(func(topic string, m chanmq.Message[[]byte], err error) {
			if topic != "x" || m.Type != 1 || string(m.Value) != "no frame" || err == nil {
				t.Error(topic, m, err)
			}
			time.AfterFunc(10*time.Millisecond, cancel)
		}))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestFromSubscriberMoves: from one queue to another that is full, while ctx ends again and
// again, on either side: nothing is lost, nothing comes twice, the order is kept.
func TestFromSubscriberMoves(t *testing.T) { onEach(t, testFromSubscriberMoves) }

func testFromSubscriberMoves(t *testing.T, newQueue func() *chanmq.Queue[[]byte]) {
	const n = 2000
	from, to := newQueue(), newQueue()
	var working sync.WaitGroup
	working.Go(func() {
		if err := chanmqwatermill.NewPublisher(topicOf(from)).Publish("", numbered(0, n)...); err != nil {
			t.Error(err)
		}
	})
	ctx, cancel := context.WithCancel(t.Context())
	working.Go(func() {
		for round := 0; ctx.Err() == nil; round++ {
			// A Subscriber of its own, whose Close waits until everything is given back.
			s := chanmqwatermill.NewSubscriber(topicOf(from), quick)
			moving, stop := context.WithCancel(ctx)
			time.AfterFunc(time.Duration(round%20)*time.Millisecond, func() {
				if round%2 == 0 {
					stop()
				} else if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
			err := chanmqwatermill.FromSubscriber(moving, s, "", to, 7, quick, quiet)
			if !errors.Is(err, context.Canceled) && !errors.Is(err, chanmqwatermill.ErrSubscriptionEnded) && !errors.Is(err, chanmqwatermill.ErrClosed) {
				t.Error(err)
			}
			stop()
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	s := chanmqwatermill.NewSubscriber(topicOf(to))
	msgs, err := s.Subscribe(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		if i%100 == 0 {
			time.Sleep(5 * time.Millisecond) // the queue fills up
		}
		msg := receive(t, msgs)
		if info, _ := chanmqwatermill.InfoFrom(msg.Context()); msg.UUID != strconv.Itoa(i) || info.Type != 7 {
			t.Fatalf("%s, want %d", msg.UUID, i)
		}
		msg.Ack()
	}
	cancel()
	within(t, "working", working.Wait)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// fake is a subscriber of one message at a time, which comes again after Nack.
type fake struct {
	msgs  []*message.Message
	nacks atomic.Int64
	acks  tally
	ctx   context.Context // of messages; nil: that of Subscribe
	after func()          // called when all are acknowledged
	deaf  bool            // it does not close its channel
}

func (f *fake) Subscribe(ctx context.Context, _ string) (<-chan *message.Message, error) {
	out := make(chan *message.Message)
	go func() {
		if !f.deaf {
			defer close(out)
		}
		for i := 0; i < len(f.msgs); {
			msg := f.msgs[i].Copy()
			msg.SetContext(ctx)
			if f.ctx != nil {
				msg.SetContext(f.ctx)
			}
			select {
			case out <- msg:
			case <-ctx.Done():
				return
			}
			select {
			case <-msg.Acked():
				f.acks.add(msg.UUID)
				i++
			case <-msg.Nacked():
				f.nacks.Add(1)
				if ctx.Err() != nil {
					return
				}
			}
		}
		if f.after != nil {
			f.after()
		}
		<-ctx.Done()
	}()
	return out, nil
}

func (f *fake) Close() error { return nil }

// TestUnsendable: what can never be sent.
func TestUnsendable(t *testing.T) {
	q := reaped(t)
	chanmqtest.AllowLeftover(q)
	large := message.NewMessage("large", make([]byte, 9000))
	ctx, cancel := context.WithCancel(t.Context())
	f := &fake{msgs: []*message.Message{
		message.NewMessage("0", nil), large, message.NewMessage("panic", nil), message.NewMessage("error", nil),
		message.NewMessage("typeless", nil), message.NewMessage("negative", nil), message.NewMessage("1", nil),
	}, after: cancel}
	var refused tally
	err := chanmqwatermill.FromSubscriber(ctx, f, "x", q, 1, quick, quiet, chanmqwatermill.WithMarshaler(&picky{}),
		chanmqwatermill.WithTypeOf(func(msg *message.Message) (int64, error) {
			switch msg.UUID {
			case "typeless":
				return 0, errors.New("no type")
			case "negative":
				return -1, nil
			}
			return 4, nil
		}),
		chanmqwatermill.WithUnsendable(func(msg *message.Message, err error) error {
			if msg.UUID == "large" != errors.Is(err, chanmq.ErrTooLarge) || msg.UUID == "negative" != errors.Is(err, chanmq.ErrInvalidType) {
				t.Error(msg.UUID, err)
			}
			refused.add(msg.UUID)
			if refused.times[msg.UUID] < 2 {
				return errors.New("not saved")
			}
			return nil
		}))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if len(refused.times) != 5 || f.nacks.Load() != 5 || f.acks.different() != 7 {
		t.Errorf("refused %v, %d nacks, acks %v", refused.times, f.nacks.Load(), f.acks.times)
	}
	if stat, err := q.Stat(); err != nil || stat.Messages != 2 {
		t.Error(stat.Messages, err)
	}
}

// TestUnsendableStays: without a function for it, such a message is given back after pauses that
// grow, until ctx ends.
func TestUnsendableStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := chanmqtest.Simulated(t).New(t)
		ctx, cancel := context.WithTimeout(t.Context(), 1000*time.Second)
		defer cancel()
		f := &fake{msgs: []*message.Message{message.NewMessage("large", make([]byte, 9000))}}
		err := chanmqwatermill.FromSubscriber(ctx, f, "x", q, 1, quiet)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		if n := f.nacks.Load(); n < 200 || n > 300 || f.acks.different() > 0 {
			t.Errorf("%d nacks, %v acks", n, f.acks.times)
		}
	})
}

// TestFromSubscriberFull: a full queue holds the subscriber up. The end of ctx, or of the
// message's ctx, ends the wait.
func TestFromSubscriberFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := chanmqtest.Simulated(t).New(t)
		chanmqtest.AllowLeftover(q)
		short, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		f := &fake{ctx: short}
		for i := range 3 {
			f.msgs = append(f.msgs, message.NewMessage(strconv.Itoa(i), make([]byte, 8000)))
		}
		ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
		defer cancel()
		go func() {
			time.Sleep(time.Hour - time.Second)
			if f.nacks.Load() != 0 || f.acks.different() != 2 {
				t.Errorf("%d nacks, %d acks", f.nacks.Load(), f.acks.different())
			}
		}()
		err := chanmqwatermill.FromSubscriber(ctx, f, "x", q, 1, quiet)
		if !errors.Is(err, context.DeadlineExceeded) || f.nacks.Load() == 0 || f.acks.different() != 2 {
			t.Errorf("%v, %d nacks, %d acks", err, f.nacks.Load(), f.acks.different())
		}
	})
}

// TestFromSubscriberEnds: with the queue, with the subscriber, and if that does not let go.
func TestFromSubscriberEnds(t *testing.T) {
	q := attach(t, newQueue(t))
	if err := chanmqwatermill.FromSubscriber(t.Context(), &fake{}, "x", q, 0); !errors.Is(err, chanmq.ErrInvalidType) {
		t.Error(err)
	}
	if err := q.Remove(); err != nil {
		t.Fatal(err)
	}
	f := &fake{msgs: numbered(0, 3)}
	err := chanmqwatermill.FromSubscriber(t.Context(), f, "x", q, 1, quiet)
	if !errors.Is(err, chanmq.ErrRemoved) || f.nacks.Load() == 0 || f.acks.different() > 0 {
		t.Errorf("%v, %d nacks", err, f.nacks.Load())
	}

	q = reaped(t)
	g := gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{})
	subscribed := make(chan struct{})
	go func() {
		<-subscribed
		_ = g.Close()
	}()
	if err := chanmqwatermill.FromSubscriber(t.Context(), announcing{g, subscribed}, "x", q, 1); !errors.Is(err, chanmqwatermill.ErrSubscriptionEnded) {
		t.Error(err)
	}
	if err := chanmqwatermill.FromSubscriber(t.Context(), g, "x", q, 1); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	f = &fake{deaf: true, after: cancel}
	err = chanmqwatermill.FromSubscriber(ctx, f, "x", q, 1, chanmqwatermill.WithCloseTimeout(10*time.Millisecond))
	if !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
