//go:build linux

package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/message/router/middleware"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

// picky is a Marshaler that panics at the UUID "panic", and refuses "error" and "none".
type picky struct {
	chanmqwatermill.Frame
	patient atomic.Bool // it does not any more
}

func (p *picky) Marshal(topic string, msg *message.Message) ([]byte, error) {
	if _, err := p.check(msg); err != nil {
		return nil, err
	}
	return p.Frame.Marshal(topic, msg)
}

func (p *picky) Unmarshal(topic string, text []byte) (*message.Message, error) {
	msg, err := p.Frame.Unmarshal(topic, text)
	if err != nil {
		return nil, err
	}
	return p.check(msg)
}

func (p *picky) check(msg *message.Message) (*message.Message, error) {
	switch {
	case p.patient.Load():
		return msg, nil
	case msg.UUID == "panic":
		panic("a panic")
	case msg.UUID == "error":
		return nil, errors.New("an error")
	case msg.UUID == "none":
		return nil, nil
	}
	return msg, nil
}

// TestUndecoded: messages that the Marshaler refuses, or panics at, are given to the program,
// or stay in the queue until the Marshaler takes them.
func TestUndecoded(t *testing.T) {
	for _, saved := range []bool{true, false} {
		t.Run(fmt.Sprintf("saved=%v", saved), func(t *testing.T) {
			q := reaped(t)
			for _, id := range []string{"a", "panic", "error", "none", "b"} {
				if err := chanmqwatermill.NewPublisher(topicOf(q)).Publish("", message.NewMessage(id, nil)); err != nil {
					t.Fatal(err)
				}
			}
			m := &picky{}
			opts := []chanmqwatermill.Option{quick, quiet, chanmqwatermill.WithMarshaler(m)}
			var undecoded tally
			if saved {
				opts = append(opts, chanmqwatermill.WithUndecoded(func(topic string, m chanmq.Message[[]byte], err error) {
					msg, frameErr := chanmqwatermill.Frame{}.Unmarshal("", m.Value)
					if topic != "t" || err == nil || frameErr != nil {
						t.Errorf("%q, %v, %v", topic, err, frameErr)
						return
					}
					undecoded.add(msg.UUID)
				}))
			}
			s := chanmqwatermill.NewSubscriber(topicOf(q), opts...)
			msgs, err := s.Subscribe(t.Context(), "t")
			if err != nil {
				t.Fatal(err)
			}
			next := func(want string) {
				t.Helper()
				msg := receive(t, msgs)
				if msg.UUID != want {
					t.Errorf("%q, want %q", msg.UUID, want)
				}
				msg.Ack()
			}
			next("a")
			if !saved {
				time.Sleep(20 * time.Millisecond)
				m.patient.Store(true)
				next("panic")
				next("error")
				next("none")
			}
			next("b")
			if saved && undecoded.different() != 3 {
				t.Errorf("%v were undecoded", undecoded.times)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestNackPauses: a message comes again after pauses that grow, with nothing in between, and
// not faster than that.
func TestNackPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := chanmqtest.Simulated(t)
		q := k.New(t)
		p := chanmqwatermill.NewPublisher(topicOf(q))
		s := chanmqwatermill.NewSubscriber(topicOf(q), chanmqwatermill.WithBackoff(func(n int) time.Duration { return time.Duration(n) * time.Minute }))
		if err := p.Publish("", numbered(0, 2)...); err != nil {
			t.Fatal(err)
		}
		msgs, err := s.Subscribe(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		last := time.Now()
		for n := range 10 {
			msg := <-msgs
			info, _ := chanmqwatermill.InfoFrom(msg.Context())
			if waited := time.Since(last).Round(time.Second); msg.UUID != "0" || waited != time.Duration(n)*time.Minute || info.Attempt != n+1 {
				t.Errorf("%s after %v, attempt %d of %d", msg.UUID, waited, info.Attempt, n+1)
			}
			last = time.Now()
			if n == 9 {
				msg.Ack()
				break
			}
			msg.Nack()
			synctest.Wait()
			if msg.Context().Err() == nil {
				t.Error("the ctx of the message goes on")
			}
		}
		msg := <-msgs
		msg.Nack() // Close does not wait for its pause
		began := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if waited := time.Since(began); waited > time.Second {
			t.Errorf("Close took %v", waited)
		}
		if m, err := q.Receive(t.Context(), chanmq.Any()); err != nil || len(m.Value) == 0 {
			t.Error(m, err)
		}
	})
}

func TestExponential(t *testing.T) {
	b := chanmqwatermill.Exponential(time.Second, time.Minute)
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 6: 32 * time.Second, 7: time.Minute, 1000: time.Minute} {
		for range 100 {
			if d := b(failures); d > want || d < want*4/5 {
				t.Errorf("%v after %d failures, want about %v", d, failures, want)
			}
		}
	}
	if d := chanmqwatermill.Exponential(0, 0)(5); d != 0 {
		t.Errorf("%v", d)
	}
}

// TestCloseWaits: handlers have their time after Close. One that answers counts; the message of
// one that does not is delivered again, and its late Ack is refused.
func TestCloseWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := chanmqtest.Simulated(t)
		q := k.New(t)
		p := chanmqwatermill.NewPublisher(topicOf(q))
		s := chanmqwatermill.NewSubscriber(topicOf(q), quiet, chanmqwatermill.WithCloseTimeout(time.Minute),
			chanmqwatermill.WithConsumer(chanmq.WithInFlight(3)))
		if err := p.Publish("", numbered(0, 4)...); err != nil {
			t.Fatal(err)
		}
		msgs, err := s.Subscribe(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		answers, nacks, stuck := <-msgs, <-msgs, <-msgs
		go func() {
			time.Sleep(59 * time.Second)
			if answers.Context().Err() != nil {
				t.Error("the ctx of a message ends while its handler has time")
			}
			answers.Ack()
			nacks.Nack()
		}()
		began := time.Now()
		var closing sync.WaitGroup
		for range 3 {
			closing.Go(func() {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if _, ok := <-msgs; ok {
			t.Error("the channel is open")
		}
		closing.Wait()
		if waited := time.Since(began); waited != time.Minute {
			t.Errorf("Close took %v", waited)
		}
		if stuck.Context().Err() == nil || stuck.Ack() {
			t.Error("the handler's time goes on")
		}
		for want := 1; want <= 3; want++ {
			m, err := q.Receive(t.Context(), chanmq.Any())
			if err != nil {
				t.Fatal(err)
			}
			if msg, err := (chanmqwatermill.Frame{}).Unmarshal("", m.Value); err != nil || msg.UUID != fmt.Sprint(want) {
				t.Errorf("%v, %v, want %d", msg, err, want)
			}
		}
	})
}

// TestSubscribeCtx: the end of the ctx ends the subscription, and those of its messages. The
// next subscription on the handle gets the rest, in order.
func TestSubscribeCtx(t *testing.T) {
	q := reaped(t)
	p := chanmqwatermill.NewPublisher(topicOf(q))
	const n = 100
	if err := p.Publish("", numbered(0, n)...); err != nil {
		t.Fatal(err)
	}
	read := 0
	for round := 0; read < n; round++ {
		ctx, cancel := context.WithCancelCause(t.Context())
		s := chanmqwatermill.NewSubscriber(topicOf(q), quick, chanmqwatermill.WithConsumer(chanmq.WithInFlight(4)))
		msgs, err := s.Subscribe(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		for range min(7, n-read) {
			msg := receive(t, msgs)
			if msg.UUID != fmt.Sprint(read) {
				t.Fatalf("%s, want %d", msg.UUID, read)
			}
			read++
			msg.Ack()
		}
		var held *message.Message
		if round%2 == 0 && read < n {
			held = receive(t, msgs)
		}
		cancel(errors.New("enough"))
		if held != nil {
			<-held.Context().Done()
			held.Nack()
		}
		for msg := range msgs { // one may be on its way
			msg.Nack()
		}
		if err := s.Close(); err != nil { // until all is given back
			t.Error(err)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := chanmqwatermill.NewSubscriber(topicOf(q)).Subscribe(ended, ""); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestSubscribeRefused: options and queues that cannot work are errors of Subscribe.
func TestSubscribeRefused(t *testing.T) {
	q := reaped(t)
	closed, err := chanmq.Attach(q.ID())
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	bad := chanmqwatermill.TopicFunc(func(_ context.Context, topic string) (chanmqwatermill.Topic, error) {
		return chanmqwatermill.Topic{Queue: q, Selector: chanmq.OfType(-1)}, nil
	})
	none := chanmqwatermill.TopicFunc(func(context.Context, string) (chanmqwatermill.Topic, error) {
		return chanmqwatermill.Topic{}, nil
	})
	for name, s := range map[string]*chanmqwatermill.Subscriber{
		"in flight": chanmqwatermill.NewSubscriber(topicOf(q), chanmqwatermill.WithConsumer(chanmq.WithInFlight(0))),
		"borrowed":  chanmqwatermill.NewSubscriber(topicOf(q), chanmqwatermill.WithConsumer(chanmq.WithBorrowedValues())),
		"closed":    chanmqwatermill.NewSubscriber(topicOf(closed)),
		"selector":  chanmqwatermill.NewSubscriber(bad),
		"no queue":  chanmqwatermill.NewSubscriber(none),
	} {
		if _, err := s.Subscribe(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), `subscribe to "x": `) {
			t.Errorf("%s: %v", name, err)
		}
		within(t, "Close", func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRemoved: the removal of the queue, and the end of its handle, close the channel.
func TestRemoved(t *testing.T) {
	for _, how := range []string{"removed", "closed", "shut down"} {
		t.Run(how, func(t *testing.T) {
			q := attach(t, newQueue(t))
			s := chanmqwatermill.NewSubscriber(topicOf(q), quiet)
			msgs, err := s.Subscribe(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			switch how {
			case "removed":
				err = q.Remove()
			case "closed":
				err = q.Close()
			case "shut down":
				err = q.Shutdown(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
			within(t, "the channel", func() {
				for range msgs {
					t.Error("a message")
				}
			})
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestReceivingAgain: an error that may pass does not end the subscription.
func TestReceivingAgain(t *testing.T) {
	k := chanmqtest.Simulated(t)
	q := k.New(t)
	s := chanmqwatermill.NewSubscriber(topicOf(q), quick, quiet)
	var failures atomic.Int64
	msgs, err := s.Subscribe(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	k.Fail(func(c chanmqtest.Call) error {
		if c.Op == "Receive" && failures.Add(1) <= 5 {
			return syscall.ENOMEM
		}
		return nil
	})
	p := chanmqwatermill.NewPublisher(topicOf(q))
	for _, msg := range numbered(0, 10) {
		if err := p.Publish("", msg); err != nil {
			t.Fatal(err)
		}
		if got := receive(t, msgs); got.UUID != msg.UUID {
			t.Errorf("%s, want %s", got.UUID, msg.UUID)
		} else {
			got.Ack()
		}
	}
	if failures.Load() < 5 {
		t.Errorf("%d failures", failures.Load())
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestCloseUndelivered: what a full queue does not take back is in the error of Close.
func TestCloseUndelivered(t *testing.T) {
	id := newQueue(t)
	p := chanmqwatermill.NewPublisher(attached(id))
	s := chanmqwatermill.NewSubscriber(attached(id), quiet, chanmqwatermill.WithCloseTimeout(20*time.Millisecond))
	full := message.NewMessage("full", make([]byte, 8000))
	if err := p.Publish("", full, full); err != nil {
		t.Fatal(err)
	}
	msgs, err := s.Subscribe(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	receive(t, msgs)
	if err := errors.Join(p.Publish("", full), p.Close()); err != nil {
		t.Fatal(err)
	}
	var undelivered *chanmq.UndeliveredError
	if err := s.Close(); !errors.As(err, &undelivered) || len(undelivered.Messages) != 1 {
		t.Errorf("%v", err)
	}
}

// TestClosedBeneath: the program closes the handle while a handler has a message. If the
// queue has no room for it, Close of the Subscriber returns it.
func TestClosedBeneath(t *testing.T) {
	for _, room := range []bool{true, false} {
		t.Run(fmt.Sprintf("room=%v", room), func(t *testing.T) {
			id := newQueue(t)
			q, other := attach(t, id), attach(t, id)
			s := chanmqwatermill.NewSubscriber(topicOf(q), quiet, quick)
			p := chanmqwatermill.NewPublisher(topicOf(other))
			full := message.NewMessage("full", make([]byte, 8000))
			if err := p.Publish("", full); err != nil {
				t.Fatal(err)
			}
			msgs, err := s.Subscribe(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			msg := receive(t, msgs)
			if !room {
				if err := p.Publish("", full, full); err != nil {
					t.Fatal(err)
				}
			}
			if err := q.Close(); err != nil {
				t.Fatal(err)
			}
			msg.Nack()
			err = s.Close()
			var undelivered *chanmq.UndeliveredError
			switch {
			case room && err != nil, !room && (!errors.As(err, &undelivered) || len(undelivered.Messages) != 1):
				t.Errorf("%v", err)
			}
			if stat, err := other.Stat(); err != nil || stat.Messages == 0 {
				t.Errorf("%d messages, %v", stat.Messages, err)
			}
		})
	}
}

// TestMany sends 10,000 messages from four Publishers to four Subscribers, with handlers that
// answer late and with Nack, while all Subscribers but one are closed and begun again. (If all
// of them closed their handles at once, nobody would make room in the queue for what
// they send back.)
func TestMany(t *testing.T) {
	const n, publishers, subscribers = 10_000, 4, 4
	id := newQueue(t)
	var publishing, working sync.WaitGroup
	for i := range publishers {
		publishing.Go(func() {
			p := chanmqwatermill.NewPublisher(attached(id))
			for from := i * n / publishers; from < (i+1)*n/publishers; from += 50 {
				if err := p.Publish("", numbered(from, from+50)...); err != nil {
					t.Error(err)
				}
			}
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	var acked tally
	done := make(chan struct{})
	for i := range subscribers {
		working.Go(func() {
			for round := 0; ; round++ {
				s := chanmqwatermill.NewSubscriber(attached(id), quick, quiet,
					chanmqwatermill.WithCloseTimeout(30*time.Second), // longer than any handler takes
					chanmqwatermill.WithConsumer(chanmq.WithInFlight(1+round%8)))
				msgs, err := s.Subscribe(context.Background(), "")
				if err != nil {
					t.Error(err)
					return
				}
				closing := make(chan struct{})
				go func() {
					defer close(closing)
					if i == 0 {
						<-done
					} else {
						time.Sleep(time.Duration(20+round%30) * time.Millisecond)
					}
					if err := s.Close(); err != nil {
						t.Error(err)
					}
				}()
				for handled := 0; ; handled++ {
					msg, ok := <-msgs
					if !ok {
						break
					}
					switch {
					case handled%13 == 5:
						msg.Nack()
					case handled%17 == 3:
						go func() {
							runtime.Gosched()
							if msg.Ack() {
								acked.add(msg.UUID)
							}
						}()
					default:
						if msg.Ack() {
							acked.add(msg.UUID)
						}
					}
				}
				<-closing
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	within(t, "publishing", publishing.Wait)
	for deadline := time.Now().Add(30 * time.Second); acked.different() < n && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	close(done)
	within(t, "working", working.Wait)
	acked.want(t, n, 1)
	empty(t, id)
}

// TestRouter: a Router of Watermill with its middlewares, from one queue to another, with more
// messages than the queues have room for.
func TestRouter(t *testing.T) {
	topics := chanmqwatermill.Queues(map[string]*chanmq.Queue[[]byte]{
		"in": reaped(t), "out": reaped(t), "poison": reaped(t)})
	p := chanmqwatermill.NewPublisher(topics)
	s := chanmqwatermill.NewSubscriber(topics, quick)
	router, err := message.NewRouter(message.RouterConfig{}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	poison, err := middleware.PoisonQueue(p, "poison")
	if err != nil {
		t.Fatal(err)
	}
	router.AddMiddleware(poison, middleware.Retry{MaxRetries: 1, InitialInterval: time.Millisecond}.Middleware, middleware.Recoverer)
	router.AddHandler("h", "in", s, "out", p, func(msg *message.Message) ([]*message.Message, error) {
		if msg.UUID == "7" {
			panic("seven")
		}
		return message.Messages{msg.Copy()}, nil
	})
	running := make(chan error)
	go func() { running <- router.Run(t.Context()) }()
	<-router.Running()
	const n = 2000
	var publishing sync.WaitGroup
	publishing.Go(func() {
		if err := p.Publish("in", numbered(0, n)...); err != nil {
			t.Error(err)
		}
	})
	results := chanmqwatermill.NewSubscriber(topics)
	out, err := results.Subscribe(t.Context(), "out")
	if err != nil {
		t.Fatal(err)
	}
	dead, err := results.Subscribe(t.Context(), "poison")
	if err != nil {
		t.Fatal(err)
	}
	var came tally
	for range n - 1 {
		msg := receive(t, out)
		came.add(msg.UUID)
		msg.Ack()
	}
	msg := receive(t, dead)
	if msg.UUID != "7" || msg.Metadata.Get(middleware.ReasonForPoisonedKey) == "" {
		t.Errorf("%v", msg)
	}
	came.add(msg.UUID)
	msg.Ack()
	came.want(t, n, 1)
	publishing.Wait()
	if err := errors.Join(router.Close(), <-running, results.Close(), s.Close(), p.Close()); err != nil {
		t.Error(err)
	}
}

// TestClosedFromAllSides: the Subscriber, the queue's handle, and the ctx end at the same time,
// in any order, while messages are delivered and the queue is full. Each message is
// acknowledged once, or is in the kernel, or in one of the errors.
func TestClosedFromAllSides(t *testing.T) {
	const n, rounds = 3000, 60
	id := newQueue(t)
	other := attach(t, id)
	ctx, cancel := context.WithCancel(t.Context())
	var working sync.WaitGroup
	working.Go(func() {
		if err := chanmqwatermill.NewPublisher(topicOf(other)).Publish("", numbered(0, n)...); err != nil {
			t.Error(err)
		}
	})
	var acked tally
	returned := make(chan chanmq.Message[[]byte], n) // sent again at the end
	for range rounds {
		if acked.different() == n {
			break
		}
		q, err := chanmq.Attach(id)
		if err != nil {
			t.Fatal(err)
		}
		s := chanmqwatermill.NewSubscriber(topicOf(q), quick, quiet,
			chanmqwatermill.WithConsumer(chanmq.WithInFlight(1+rand.N(4))))
		subscribed, unsubscribe := context.WithCancel(ctx)
		var handling, ending sync.WaitGroup
		for range 2 {
			msgs, err := s.Subscribe(subscribed, "")
			if err != nil {
				t.Fatal(err)
			}
			handling.Go(func() {
				for msg := range msgs {
					if rand.N(10) == 0 {
						msg.Nack()
					} else if msg.Ack() {
						acked.add(msg.UUID)
					}
				}
			})
		}
		end := func(f func() error) {
			ending.Go(func() {
				time.Sleep(rand.N(15 * time.Millisecond))
				err := f()
				var undelivered *chanmq.UndeliveredError
				if err != nil && !errors.As(err, &undelivered) {
					t.Error(err)
				}
				for _, e := range allUndelivered(err) {
					for _, m := range e.Messages {
						returned <- m
					}
				}
			})
		}
		end(s.Close)
		end(s.Close)
		end(q.Close)
		end(func() error { unsubscribe(); return nil })
		within(t, "the end of everything", func() { ending.Wait(); handling.Wait() })
		unsubscribe()
	}
	s := chanmqwatermill.NewSubscriber(topicOf(other))
	msgs, err := s.Subscribe(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	working.Go(func() {
		for len(returned) > 0 {
			m := <-returned
			if err := other.Send(ctx, m.Type, m.Value); err != nil {
				t.Error(err)
			}
		}
	})
	for acked.different() < n {
		msg := receive(t, msgs)
		acked.add(msg.UUID)
		msg.Ack()
	}
	cancel()
	within(t, "working", working.Wait)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	acked.want(t, n, 1)
	empty(t, id)
}

// allUndelivered returns the *chanmq.UndeliveredErrors in the tree of an error.
func allUndelivered(err error) (found []*chanmq.UndeliveredError) {
	switch e := err.(type) {
	case *chanmq.UndeliveredError:
		return append(found, e)
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			found = append(found, allUndelivered(err)...)
		}
	case interface{ Unwrap() error }:
		return allUndelivered(e.Unwrap())
	}
	return found
}
