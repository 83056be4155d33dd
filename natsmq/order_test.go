package natsmq

import (
	"context"
	"math/rand/v2"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
	"github.com/nats-io/nats.go"
)

// through returns a Cluster that is connected through the proxy.
func (s *leaseServer) through(p *natstest.Proxy, opts ...Option) *Cluster {
	nc, err := nats.Connect(p.URL(), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := New(nc, append([]Option{WithLimits(benchLimits), WithLook(time.Second)}, opts...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(); nc.Close() })
	return c
}

func (s *leaseServer) proxy() *natstest.Proxy {
	return natstest.NewProxy(s.t, strings.TrimPrefix(s.s.ClientURL(), "nats://"))
}

// The messages of a pull that nobody waits for any more are on their way for longer than the pull
// lasts.
func TestOrderOfLateMessages(t *testing.T) {
	s := newLeaseServer(t)
	p := s.proxy()
	a, b := s.through(p).leaser(t), s.cluster().leaser(t)
	id := b.create()
	const total = 100
	next := 0
	want := func(d time.Duration) bool {
		text, l := a.take(id, 0, 0, d)
		if l == nil {
			return false
		}
		if text != strconv.Itoa(next) {
			t.Fatalf("%q came, want %d", text, next)
		}
		next++
		a.ack(l)
		return true
	}
	for i := range total / 2 {
		b.send(id, 1, strconv.Itoa(i))
	}
	for next < total/2 { // fast, so that it pulls many in advance
		if !want(10 * time.Second) {
			t.Fatalf("%d did not come", next)
		}
	}
	p.Delay(natstest.ToClient, 1200*time.Millisecond)
	for i := total / 2; i < total; i++ {
		b.send(id, 1, strconv.Itoa(i))
	}
	time.Sleep(800 * time.Millisecond) // nobody waits: the pull ends
	p.Delay(natstest.ToClient, 0)
	for next < total {
		if !want(10 * time.Second) {
			t.Fatalf("%d did not come", next)
		}
	}
	a.Release()
	b.Release()
}

// What was given back comes before what was not asked for yet, to the same handle and to another
// one, even if the consumer handles it late.
func TestOrderOfGivenBack(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"the same handle", "another handle"} {
		t.Run(who, func(t *testing.T) {
			s := newLeaseServer(t)
			p := s.proxy()
			a, b := s.through(p).leaser(t), s.cluster().leaser(t)
			id := b.create()
			const total, read = 600, 300
			for i := range total {
				b.send(id, 1, strconv.Itoa(i))
			}
			next := 0
			for ; next < read; next++ { // fast, so that it has many in advance
				a.ack(a.want(id, 0, 0, strconv.Itoa(next), 1))
			}
			var mu sync.Mutex
			naks, heard, early := 0, false, false // guarded by mu
			given := make(chan struct{})
			p.SetFilter(func(m *natstest.Message) natstest.Verdict {
				mu.Lock()
				defer mu.Unlock()
				switch {
				case m.Answers("$JS.ACK.") && string(m.Request.Data) == "-NAK":
					heard = true
				case m.Direction == natstest.ToServer && string(m.Data) == "-NAK":
					if naks++; naks == 1 {
						close(given)
						p.Delay(natstest.ToClient, 100*time.Millisecond) // or it is too fast to be seen
					}
				case strings.HasPrefix(m.Subject, "$JS.API.CONSUMER.MSG.NEXT.") && naks > 0 && !heard:
					early = true
				}
				return natstest.Pass
			})
			select {
			case <-given:
			case <-time.After(10 * time.Second):
				t.Fatal("it keeps what nobody asks for")
			}
			h := a
			if who == "another handle" {
				p.Delay(natstest.ToClient, 0)
				h = b
				time.Sleep(100 * time.Millisecond) // until all are given back
			}
			for ; next < total; next++ {
				text, l := h.take(id, 0, 0, 10*time.Second)
				if l == nil || text != strconv.Itoa(next) {
					t.Fatalf("%q came (%v), want %d", text, l, next)
				}
				p.Delay(natstest.ToClient, 0)
				h.ack(l)
			}
			mu.Lock()
			defer mu.Unlock()
			if early {
				t.Error("it asked for more before the server had handled what was given back")
			}
			t.Logf("%d were given back", naks)
			a.Release()
			b.Release()
		})
	}
}

// Whoever gives a message back and asks again gets the same one.
func TestOrderOfReleased(t *testing.T) {
	s := newLeaseServer(t)
	a := s.cluster().leaser(t)
	id := a.create()
	const total = 200
	for i := range total {
		a.send(id, 1, strconv.Itoa(i))
	}
	for i := range total {
		for attempt := 1; attempt <= 2; attempt++ {
			time.Sleep(time.Millisecond)
			l := a.want(id, -1, 0, strconv.Itoa(i), attempt)
			if attempt == 1 {
				l.Release()
			} else {
				a.ack(l)
			}
		}
	}
	a.Release()
}

// One Consumer gets the messages of each type in the order sent, on a machine that is busy.
func TestOrderBusy(t *testing.T) {
	total, rounds := 3000, 1
	if *long {
		total, rounds = 20000, 20
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	for range rounds {
		orderBusy(t, total)
	}
}

func orderBusy(t *testing.T, total int) {
	s := newLeaseServer(t)
	c := s.cluster()
	q, err := chanmq.Private(0o600, c.Option())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Second)
	defer cancel()
	const types = 3
	var sending sync.WaitGroup
	for typ := range types {
		sending.Go(func() {
			for i := range total / types {
				if err := q.Send(ctx, int64(1+typ), []byte(strconv.Itoa(i))); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	sending.Wait()
	var spinning sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		spinning.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(rand.N(10 * time.Millisecond)):
				}
				for began, d := time.Now(), rand.N(40*time.Millisecond); time.Since(began) < d; {
				}
			}
		})
	}
	consumer := q.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(256))
	next := make([]int, 1+types)
	for n := range total {
		d, ok := <-consumer.C()
		if !ok {
			t.Fatalf("%v after %d", consumer.Err(), n)
		}
		if string(d.Value) != strconv.Itoa(next[d.Type]) || d.Attempt != 1 {
			t.Errorf("%q of type %d came at attempt %d, want %d", d.Value, d.Type, d.Attempt, next[d.Type])
			break
		}
		next[d.Type]++
		if n%500 == 499 {
			time.Sleep(150 * time.Millisecond) // a slow reader
		}
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	spinning.Wait()
	if err := consumer.Close(); err != nil {
		t.Error(err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}
