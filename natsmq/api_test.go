package natsmq

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
	"github.com/chanmq/chanmq/serve"
)

// within returns a ctx for what should take a moment.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestLargestMessage: a message of the limit is sent, one byte more is ErrTooLarge, and the error says which limit it is.
func TestLargestMessage(t *testing.T) {
	const mib = 1 << 20
	for _, test := range []struct {
		name      string
		limits    chanmq.Limits
		fits      int
		refused   int
		wantsText string
	}{
		{"of the Cluster ", chanmq.Limits{MaxMessage: 1000, MaxBytes: mib, MaxQueues: 10}, 1000, 1001, "WithLimits"},
		{"of the queue ", chanmq.Limits{MaxMessage: mib / 2, MaxBytes: 10_000, MaxQueues: 10}, 9000, 10_001, "queue holds 10000"},
		{"of the server ", chanmq.Limits{MaxMessage: 2 * mib, MaxBytes: 8 * mib, MaxQueues: 10}, mib - 1024, mib + 1, "max_payload"},
	} {
		for _, exact := range []bool{false, true} {
			t.Run(fmt.Sprint(test.name, exact), func(t *testing.T) {
				opts := []Option{WithLimits(test.limits)}
				if exact {
					opts = append(opts, WithExactSizes())
				}
				q, _, _ := newQueue(t, opts...)
				ctx := within(t, 10*time.Second)
				if err := q.Send(ctx, 1, make([]byte, test.fits)); err != nil {
					t.Errorf("%d bytes: %v", test.fits, err)
				}
				if m, err := q.Receive(ctx, chanmq.Any()); err != nil || len(m.Value) != test.fits {
					t.Errorf("received %d bytes, error %v", len(m.Value), err)
				}
				large := make([]byte, test.refused)
				_, sendAllErr := q.SendAll(ctx, 1, [][]byte{large})
				_, trySendErr := q.TrySend(1, large)
				s := q.Sender(ctx)
				s.C() <- chanmq.Message[[]byte]{Type: 1, Value: large}
				<-s.Done()
				if len(s.Unsent()) != 1 {
					t.Errorf("%d unsent", len(s.Unsent()))
				}
				for what, err := range map[string]error{"Send": q.Send(ctx, 1, large), "SendAll": sendAllErr, "TrySend": trySendErr, "Sender": s.Err()} {
					if !errors.Is(err, chanmq.ErrTooLarge) || errors.Is(err, chanmq.ErrUncertain) || !strings.Contains(err.Error(), test.wantsText) || strings.Contains(err.Error(), "sysctl") {
						t.Errorf("%s of %d bytes: %v, want ErrTooLarge that says %q", what, test.refused, err, test.wantsText)
					}
				}
				if st, err := q.Stat(); err != nil || st.Messages != 0 {
					t.Errorf("%+v %v", st, err)
				}
			})
		}
	}
}

// TestFullQueue: TrySend reports false, and Send waits for room: by a receive, or by Set.
func TestFullQueue(t *testing.T) {
	for _, exact := range []bool{false, true} {
		t.Run(fmt.Sprint(exact), func(t *testing.T) {
			opts := []Option{WithLimits(chanmq.Limits{MaxMessage: 500, MaxBytes: 1000, MaxQueues: 10})}
			if exact {
				opts = append(opts, WithExactSizes())
			}
			q, _, _ := newQueue(t, opts...)
			n := 0
			for ; ; n++ {
				sent, err := q.TrySend(1, make([]byte, 100))
				if err != nil {
					t.Fatal(err)
				}
				if !sent {
					break
				}
			}
			ctx, cancel := context.WithTimeoutCause(t.Context(), 300*time.Millisecond, errEnough)
			defer cancel()
			err := q.Send(ctx, 1, make([]byte, 100))
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errEnough) || errors.Is(err, chanmq.ErrUncertain) {
				t.Errorf("%v", err)
			}
			sent := make(chan error, 1)
			go func() { sent <- q.Send(t.Context(), 2, make([]byte, 100)) }()
			time.Sleep(20 * time.Millisecond)
			wantNext(t, q, chanmq.Any(), 1, string(make([]byte, 100)))
			if err := <-sent; err != nil {
				t.Error(err)
			}
			// More room by Set, and less.
			go func() { sent <- q.Send(t.Context(), 2, make([]byte, 100)) }()
			time.Sleep(20 * time.Millisecond)
			if err := q.Set(chanmq.Attr{MaxBytes: 5000}); err != nil {
				t.Fatal(err)
			}
			if err := <-sent; err != nil {
				t.Error(err)
			}
			if err := q.Set(chanmq.Attr{MaxBytes: 500}); err != nil {
				t.Fatal(err)
			}
			if ok, err := q.TrySend(1, make([]byte, 100)); ok || err != nil {
				t.Errorf("%v %v", ok, err)
			}
			st, err := q.Stat()
			if err != nil || st.MaxBytes != 500 || st.Messages != n+1 {
				t.Errorf("%+v %v", st, err)
			}
		})
	}
}

// TestForwardKinds: messages are moved between the kernel's queues and a cluster's, each once, and a queue is not
// forwarded to itself, whatever the connection.
func TestForwardKinds(t *testing.T) {
	s := natstest.Embedded(t, jetstream.FileStorage)
	elsewhere := natstest.Embedded(t, jetstream.FileStorage)
	kernel := chanmqtest.New(t)
	a := private(t, newCluster(t, s.Connect(t)))
	b := private(t, newCluster(t, s.Connect(t)))
	far := private(t, newCluster(t, elsewhere.Connect(t)))
	for _, pair := range []struct {
		name     string
		to, from *chanmq.Queue[[]byte]
	}{{"cluster to cluster", b, a}, {"kernel to cluster", a, kernel}, {"cluster to kernel", kernel, a}, {"one cluster to another", far, a}, {"back", a, far}} {
		t.Run(pair.name, func(t *testing.T) {
			count := newIDs()
			ctx, cancel := context.WithCancelCause(within(t, 20*time.Second))
			ended := make(chan error, 1)
			go func() { ended <- chanmq.Forward(ctx, pair.to, pair.from, chanmq.UpTo(3)) }()
			var sending sync.WaitGroup
			const n = 100
			sending.Go(func() {
				for id := range uint64(n) {
					count.sentOne(id)
					if err := pair.from.Send(ctx, int64(1+id%3), text(id)); err != nil {
						t.Error(err)
					}
				}
			})
			for range n {
				m, err := pair.to.Receive(ctx, chanmq.Any())
				if err != nil {
					t.Fatal(err)
				}
				count.gotOne(m.Value)
			}
			sending.Wait()
			cancel(errEnough)
			if err := <-ended; !errors.Is(err, context.Canceled) || !errors.Is(err, errEnough) {
				t.Error(err)
			}
			count.check(t)
		})
	}
	again := attach(t, s, a.ID())
	if err := chanmq.Forward(within(t, time.Second), again, a, chanmq.Any()); err == nil || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("to itself: %v", err)
	}
}

// TestManyCancels at once, in the middle of receives, sends and takes: errors match, and messages are counted.
func TestManyCancels(t *testing.T) {
	q, _, s := newQueue(t)
	count := newIDs()
	ctx, cancel := context.WithCancelCause(t.Context())
	var calls, sending sync.WaitGroup
	bad := func(err error) bool {
		return !errors.Is(err, context.Canceled) || !errors.Is(err, errEnough)
	}
	var next atomic.Uint64
	for i := range 500 {
		calls.Go(func() {
			sel := []chanmq.Selector{chanmq.Any(), chanmq.OfType(1), chanmq.UpTo(2), chanmq.Except(3)}[i%4]
			for {
				m, err := q.Receive(ctx, sel)
				if err != nil {
					if bad(err) {
						t.Errorf("Receive: %v", err)
					}
					return
				}
				count.gotOne(m.Value)
			}
		})
	}
	other := attach(t, s, q.ID())
	var uncertain atomic.Int64
	var maybe sync.Map
	for range 16 {
		sending.Go(func() {
			for {
				id := next.Add(1)
				err := other.Send(ctx, int64(1+id%3), text(id))
				if err == nil {
					count.sentOne(id)
					continue
				}
				if bad(err) {
					t.Errorf("Send: %v", err)
				}
				if errors.Is(err, chanmq.ErrUncertain) {
					uncertain.Add(1)
					maybe.Store(id, true)
				}
				return
			}
		})
	}
	began := time.Now()
	for count.n.Load() < 10 && time.Since(began) < 20*time.Second {
		time.Sleep(time.Millisecond)
	}
	t.Logf("%d messages in %v", count.n.Load(), time.Since(began))
	began = time.Now()
	cancel(errEnough)
	sending.Wait()
	calls.Wait()
	t.Logf("all ended within %v, %d uncertain", time.Since(began), uncertain.Load())
	for {
		m, ok, err := q.TryReceive(chanmq.Any())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		count.gotOne(m.Value)
	}
	maybe.Range(func(id, _ any) bool {
		if count.got[id.(uint64)] > 0 {
			count.sentOne(id.(uint64))
		}
		return true
	})
	count.check(t)
	// A ctx that has ended does nothing.
	send(t, q, 1, "stays")
	if _, err := q.Receive(ctx, chanmq.Any()); bad(err) {
		t.Error(err)
	}
	if _, err := q.Take(ctx, chanmq.Any()); bad(err) {
		t.Error(err)
	}
	if err := q.Send(ctx, 1, nil); bad(err) {
		t.Error(err)
	}
	for _, err := range q.Messages(ctx, chanmq.Any()) {
		if bad(err) {
			t.Error(err)
		}
	}
	wantNext(t, q, chanmq.Any(), 1, "stays")
}

// TestPumpsEnd in all ways, again and again, and each message comes once.
func TestPumpsEnd(t *testing.T) {
	for _, buffer := range []int{0, 64} {
		t.Run(fmt.Sprint(buffer), func(t *testing.T) {
			q, _, s := newQueue(t, WithLimits(chanmq.Limits{MaxMessage: 100, MaxBytes: 8000, MaxQueues: 10}))
			other := attach(t, s, q.ID())
			count := newIDs()
			const n = 500
			ctx := within(t, time.Minute)
			var sending sync.WaitGroup
			sending.Go(func() {
				pending := make([]chanmq.Message[[]byte], n)
				for id := range pending {
					count.sentOne(uint64(id))
					pending[id] = chanmq.Message[[]byte]{Type: 1, Value: text(uint64(id))}
				}
				for round := 0; len(pending) > 0; round++ {
					ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
					s := other.Sender(ctx, chanmq.WithBuffer(buffer))
					i := 0
				accepting:
					for ; i < len(pending); i++ {
						select {
						case s.C() <- pending[i]:
						case <-s.Done():
							break accepting
						}
					}
					if round%2 == 0 {
						_ = s.Flush(ctx)
					}
					if err := s.Close(); err != nil && s.Unsent() == nil {
						t.Error(err)
					}
					if err := s.Err(); err != nil && !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("sender: %v", err)
					}
					rest := s.Unsent()
					if errors.Is(s.Err(), chanmq.ErrUncertain) {
						t.Logf("uncertain: %v", s.Err())
					}
					pending = append(rest, pending[i:]...)
					cancel()
				}
			})
			read := func(r *chanmq.Receiver[[]byte], most int) {
				for m := range r.C() {
					count.gotOne(m.Value)
					if most--; most == 0 {
						return
					}
				}
			}
			for round := 0; count.n.Load() < n; round++ {
				rctx, cancel := context.WithTimeoutCause(ctx, time.Duration(20+round%7*20)*time.Millisecond, errEnough)
				r := q.Receiver(rctx, chanmq.OfType(1), chanmq.WithBuffer(buffer))
				switch round % 4 {
				case 0:
					read(r, 0)
					if err := r.Err(); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errEnough) {
						t.Errorf("receiver: %v", err)
					}
				case 1:
					read(r, 7)
					var closing sync.WaitGroup
					for range 3 {
						closing.Go(func() { r.Close() })
					}
					closing.Wait()
				case 2:
					go r.Drain(ctx)
					read(r, 0)
				case 3:
					for m, err := range q.Messages(rctx, chanmq.OfType(1)) {
						if err != nil {
							break
						}
						count.gotOne(m.Value)
					}
					read(r, 0)
				}
				cancel()
				r.Close()
			}
			sending.Wait()
			count.check(t)
		})
	}
}

// TestAcknowledging in all ways: what was acknowledged never comes again, what was not comes again.
func TestAcknowledging(t *testing.T) {
	q, _, s := newQueue(t)
	other := attach(t, s, q.ID())
	const n = 300
	for id := range uint64(n) {
		if err := other.Send(t.Context(), 1, text(id)); err != nil {
			t.Fatal(err)
		}
	}
	count := newIDs()
	for id := range uint64(n) {
		count.sentOne(id)
	}
	ctx := within(t, 30*time.Second)
	var working sync.WaitGroup
	deal := func(d chanmq.Delivery[[]byte], i int) {
		if i%5 == 0 {
			if err := d.Nack(); err != nil {
				t.Errorf("Nack: %v", err)
			}
			return
		}
		if err := d.Ack(); err != nil {
			t.Errorf("Ack: %v", err)
		}
		if err := d.Nack(); err != nil { // the first one counts
			t.Errorf("Nack: %v", err)
		}
		count.gotOne(d.Value)
	}
	for k, h := range []*chanmq.Queue[[]byte]{q, other, q, other} {
		working.Go(func() {
			for i := 0; count.n.Load() < n && ctx.Err() == nil; i++ {
				if k < 2 {
					c := h.Consumer(ctx, chanmq.OfType(1), chanmq.WithInFlight(10))
					for range 20 {
						select {
						case d := <-c.C():
							if d.Type == 0 {
								t.Error(c.Err())
								return
							}
							deal(d, i)
							i++
						case <-time.After(100 * time.Millisecond):
						}
					}
					c.Close()
					continue
				}
				if d, ok, err := h.TryTake(chanmq.OfType(1)); err != nil {
					t.Errorf("TryTake: %v", err)
				} else if ok {
					deal(d, i)
				}
				tctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				d, err := h.Take(tctx, chanmq.OfType(1))
				cancel()
				if err == nil {
					deal(d, i)
				} else if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Take: %v", err)
				}
			}
		})
	}
	working.Wait()
	count.check(t)
	deadline := time.Now().Add(10 * time.Second)
	for {
		st, err := q.Stat()
		if err == nil && st.Messages == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d are left, error %v", st.Messages, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// TestCodecsFail: what a codec cannot do is an error, or a panic, of the call, and no message is lost.
func TestCodecsFail(t *testing.T) {
	q, _, _ := newQueue(t)
	type order struct {
		ID    int32
		Price float64
	}
	ctx := within(t, 20*time.Second)
	structs := chanmq.As(q, codec.Struct[order]())
	if err := structs.Send(ctx, 1, order{7, 2.5}); err != nil {
		t.Fatal(err)
	}
	if m, err := structs.Receive(ctx, chanmq.Any()); err != nil || m.Value != (order{7, 2.5}) {
		t.Errorf("%+v %v", m, err)
	}
	orders := chanmq.As(q, codec.JSON[order]())
	send(t, q, 1, "no JSON")
	send(t, q, 1, `{"ID":3}`)
	var failed *chanmq.DecodeError
	if _, err := orders.Receive(ctx, chanmq.Any()); !errors.As(err, &failed) || string(failed.Message.Value) != "no JSON" {
		t.Errorf("%v", err)
	}
	if m, err := orders.Receive(ctx, chanmq.Any()); err != nil || m.Value.ID != 3 {
		t.Errorf("%v %v", m, err)
	}
	for i := range 20 {
		send(t, q, 1, []string{"no JSON", `{"ID":3}`}[i%2])
	}
	var bad atomic.Int64
	r := orders.Receiver(ctx, chanmq.Any(), chanmq.WithDecodeError(func(*chanmq.DecodeError) { bad.Add(1) }))
	for range 10 {
		<-r.C()
	}
	r.Close()
	if bad.Load() != 10 {
		t.Errorf("%d did not decode", bad.Load())
	}
	// Take: a message that does not decode is not delivered again.
	send(t, q, 1, "no JSON")
	if _, err := orders.Take(ctx, chanmq.Any()); !errors.As(err, &failed) {
		t.Errorf("%v", err)
	}
	panics := chanmq.As(q, codecFunc(func(b []byte) (string, error) { panic("codec") }))
	for _, call := range []func(){
		func() { panics.Receive(ctx, chanmq.Any()) },
		func() { panics.Take(ctx, chanmq.Any()) },
		func() { panics.TryReceive(chanmq.Any()) },
	} {
		send(t, q, 2, "stays")
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			call()
		}()
		wantNext(t, q, chanmq.Any(), 2, "stays")
	}
	// A codec that writes to what it decodes harms nobody else's message.
	scribbles := chanmq.As(q, codecFunc(func(b []byte) (string, error) {
		s := string(b)
		clear(b)
		return s, nil
	}))
	for i := range 10 {
		send(t, q, 1, fmt.Sprint("text", i))
	}
	for i := range 10 {
		var v string
		if i%2 == 0 {
			m, err := scribbles.Receive(ctx, chanmq.Any())
			if err != nil {
				t.Fatal(err)
			}
			v = m.Value
		} else {
			d, err := scribbles.Take(ctx, chanmq.Any())
			if err != nil {
				t.Fatal(err)
			}
			v = d.Value
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
		}
		if v != fmt.Sprint("text", i) {
			t.Errorf("got %q, want text%d", v, i)
		}
	}
	if m, ok, err := q.TryReceive(chanmq.Any()); ok || err != nil {
		t.Errorf("%q is left, error %v", m.Value, err)
	}
}

// codecFunc decodes by a function.
type codecFunc func([]byte) (string, error)

func (f codecFunc) Append(dst []byte, v string) ([]byte, error) { return append(dst, v...), nil }
func (f codecFunc) Decode(src []byte, v *string) (err error)    { *v, err = f(src); return err }

// TestManyReceivers on one handle, each of a type; and many handles. No goroutine is left of them.
func TestManyReceivers(t *testing.T) {
	s := natstest.Single(t, jetstream.FileStorage)
	c, err := New(s.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	q, err := chanmq.Private(0o600, c.Option())
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, time.Minute)
	const n = 300
	var receivers [n]*chanmq.Receiver[[]byte]
	for i := range receivers {
		receivers[i] = q.Receiver(ctx, chanmq.OfType(int64(1+i)))
	}
	began := time.Now()
	var sending sync.WaitGroup
	for k := range 8 {
		sending.Go(func() {
			for i := k; i < n; i += 8 {
				if err := q.Send(ctx, int64(1+i), text(uint64(i))); err != nil {
					t.Error(err)
				}
			}
		})
	}
	count := newIDs()
	for i, r := range receivers {
		count.sentOne(uint64(i))
		select {
		case m := <-r.C():
			count.gotOne(m.Value)
		case <-time.After(20 * time.Second):
			t.Fatalf("receiver %d has nothing", i)
		}
	}
	sending.Wait()
	count.check(t)
	t.Logf("%d receivers, %v, %d goroutines", n, time.Since(began), runtime.NumGoroutine()-before)
	began = time.Now()
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	t.Logf("closed in %v", time.Since(began))

	// Handles of one queue. They compete, so that a message is a few trips for each.
	if q, err = chanmq.Private(0o600, c.Option()); err != nil {
		t.Fatal(err)
	}
	var handles [n]*chanmq.Queue[[]byte]
	for i := range handles {
		if handles[i], err = chanmq.Attach(q.ID(), c.Option()); err != nil {
			t.Fatal(err)
		}
		send(t, q, 1, fmt.Sprint(i))
		wantNext(t, handles[i], chanmq.OfType(1), 1, fmt.Sprint(i))
	}
	for _, h := range append(handles[:], q) {
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines, %d before", now, before)
	}
}

// TestOpening: the options of opening, and what cannot be opened.
func TestOpening(t *testing.T) {
	s := natstest.Embedded(t, jetstream.FileStorage)
	c := newCluster(t, s.Connect(t), WithLimits(chanmq.Limits{MaxMessage: 100, MaxBytes: 10_000, MaxQueues: 4}))
	for _, id := range []int{0, -1, math.MinInt, math.MaxInt, math.MaxInt32, 1, 999} {
		q, err := chanmq.Attach(id, c.Option())
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Attach(%d): %v", id, err)
		}
		if err == nil {
			q.Close()
		}
	}
	if _, err := chanmq.Open(-5, c.Option()); !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "IPC") {
		t.Errorf("Open: %v", err)
	}
	if _, err := chanmq.Create(0, 0o600, c.Option()); err == nil {
		t.Error("Create of key 0")
	}
	for _, key := range []chanmq.Key{-1, math.MinInt32, math.MaxInt32} {
		q, err := chanmq.Create(key, 0o600, c.Option(), chanmq.WithRemoveOnClose())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := chanmq.Create(key, 0o600, c.Option(), chanmq.WithExclusive()); !errors.Is(err, fs.ErrExist) {
			t.Error(err)
		}
		other, err := chanmq.Open(key, c.Option())
		if err != nil || other.ID() != q.ID() || other.Key() != key {
			t.Fatalf("%v %v", other, err)
		}
		send(t, other, 1, "x")
		list, err := c.List(t.Context())
		if err != nil || len(list) != 1 || list[0].Key != key || list[0].Messages != 1 || list[0].ID != q.ID() {
			t.Errorf("%+v %v", list, err)
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		if _, err := chanmq.Open(key, c.Option()); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
	// WithWait.
	opened := make(chan *chanmq.Queue[[]byte], 1)
	go func() {
		q, err := chanmq.Open(9, c.Option(), chanmq.WithWait(within(t, 10*time.Second)), chanmq.WithReopen())
		if err != nil {
			t.Error(err)
		}
		opened <- q
	}()
	time.Sleep(100 * time.Millisecond)
	q, err := chanmq.Create(9, 0o600, c.Option(), chanmq.WithRemoveOnClose())
	if err != nil {
		t.Fatal(err)
	}
	w := <-opened
	defer w.Close()
	if w.ID() != q.ID() {
		t.Errorf("%d %d", w.ID(), q.ID())
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 100*time.Millisecond, errEnough)
	defer cancel()
	if _, err := chanmq.Open(10, c.Option(), chanmq.WithWait(ctx)); !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	// WithReopen: removed and re-created, again and again.
	count := newIDs()
	rctx, stop := context.WithCancel(within(t, 20*time.Second))
	r := w.Receiver(rctx, chanmq.Any())
	for id := range uint64(5) {
		count.sentOne(id)
		if err := q.Send(t.Context(), 1, text(id)); err != nil {
			t.Fatal(err)
		}
		m, ok := <-r.C()
		if !ok {
			t.Fatal(r.Err())
		}
		count.gotOne(m.Value)
		if err := q.Close(); err != nil { // removes it
			t.Fatal(err)
		}
		if q, err = chanmq.Create(9, 0o600, c.Option(), chanmq.WithRemoveOnClose()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	<-r.Done()
	count.check(t)
	// What a handle holds comes back with WithRemoveOnClose.
	d, err := chanmq.Create(11, 0o600, c.Option(), chanmq.WithRemoveOnClose())
	if err != nil {
		t.Fatal(err)
	}
	send(t, d, 1, "held")
	send(t, d, 2, "in the queue")
	_ = d.Receiver(t.Context(), chanmq.OfType(1), chanmq.WithBuffer(1))
	for st := (chanmq.Stat{Messages: 2}); st.Messages == 2; {
		if st, err = d.Stat(); err != nil {
			t.Fatal(err)
		}
	}
	var undelivered *chanmq.UndeliveredError
	if err := d.Close(); !errors.As(err, &undelivered) || len(undelivered.Messages) != 1 || string(undelivered.Messages[0].Value) != "held" {
		t.Errorf("Close: %v", err)
	}
	// Too many.
	var many []*chanmq.Queue[[]byte]
	for {
		p, err := chanmq.Private(0o600, c.Option(), chanmq.WithRemoveOnClose())
		if err != nil {
			if strings.Contains(err.Error(), "sysctl") || strings.Contains(err.Error(), "ipcs") || !strings.Contains(err.Error(), "WithLimits") {
				t.Errorf("%v", err)
			}
			break
		}
		many = append(many, p)
	}
	for _, p := range append(many, q) {
		p.Close()
	}
}

// TestTextsOfErrors have no word of one machine's kernel.
func TestTextsOfErrors(t *testing.T) {
	q, c, _ := newQueue(t)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	errs := map[string]error{
		"set":  q.Set(chanmq.Attr{MaxBytes: math.MaxInt}),
		"set2": q.Set(chanmq.Attr{MaxBytes: 1}),
		"typ":  q.Send(t.Context(), 0, nil),
		"ctx":  q.Send(ended, 1, nil),
	}
	_, errs["journal"] = chanmq.Open(1, c.Option(), chanmq.WithJournal(""))
	_, errs["packing"] = chanmq.Open(1, c.Option(), chanmq.WithPacking())
	_, errs["large"] = chanmq.Open(1, c.Option(), chanmq.WithLarge(""))
	_, errs["owner"] = chanmq.Attach(q.ID(), c.Option(), chanmq.WithOwner(77))
	if err := q.Remove(); err != nil {
		t.Error(err)
	}
	_, errs["stat"] = q.Stat()
	_, errs["recv"] = q.Receive(t.Context(), chanmq.Any())
	errs["send"] = q.Send(t.Context(), 1, nil)
	errs["remove"] = q.Remove()
	for _, errs["browse"] = range q.Browse() {
	}
	for what, err := range errs {
		for _, word := range []string{"sysctl", "msg_qbytes", "ipcs", "namespace", "kernel"} {
			if err != nil && strings.Contains(err.Error(), word) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
}

// TestTryTakeKeeps: what TryTake has taken stays in the queue until Ack, and a Consumer does not get it meanwhile.
func TestTryTakeKeeps(t *testing.T) {
	for _, sel := range []chanmq.Selector{chanmq.Any(), chanmq.OfType(2), chanmq.UpTo(2), chanmq.Except(1)} {
		t.Run(sel.String(), func(t *testing.T) {
			q, _, s := newQueue(t)
			other := attach(t, s, q.ID())
			if _, ok, err := q.TryTake(sel); ok || err != nil {
				t.Errorf("of an empty queue: %v, error %v", ok, err)
			}
			send(t, q, 2, strings.Repeat("first", 1000)) // larger than the first buffer
			send(t, q, 2, "second")
			d, ok, err := q.TryTake(sel)
			if !ok || err != nil || len(d.Value) != 5000 || d.Attempt != 1 {
				t.Fatalf("%d bytes, attempt %d, %v, error %v", len(d.Value), d.Attempt, ok, err)
			}
			if st, err := q.Stat(); err != nil || st.Messages != 2 {
				t.Errorf("%d messages, error %v, want 2", st.Messages, err)
			}
			ctx := within(t, 20*time.Second)
			e, err := other.Take(ctx, sel)
			if err != nil || string(e.Value) != "second" {
				t.Fatalf("%q, error %v", e.Value, err)
			}
			for _, ack := range []func() error{d.Ack, e.Ack} {
				if err := ack(); err != nil {
					t.Error(err)
				}
			}
			if _, ok, err := q.TryReceive(chanmq.Any()); ok || err != nil {
				// The other process's Ack may be under way; this one's is not.
				t.Logf("a message is there, error %v", err)
			}
		})
	}
}

// TestCloseFromTwoSides, also while the server is away: it ends, and what is in the queue stays there.
func TestCloseFromTwoSides(t *testing.T) {
	for _, away := range []bool{false, true} {
		t.Run(fmt.Sprint("away ", away), func(t *testing.T) {
			s := natstest.Embedded(t, jetstream.FileStorage)
			c := newCluster(t, s.Connect(t), WithTimeout(2*time.Second))
			q, err := chanmq.Private(0o600, c.Option())
			if err != nil {
				t.Fatal(err)
			}
			const n = 20
			count := newIDs()
			for id := range uint64(n) {
				count.sentOne(id)
				if err := q.Send(t.Context(), 1, text(id)); err != nil {
					t.Fatal(err)
				}
			}
			r := q.Receiver(t.Context(), chanmq.OfType(1), chanmq.WithBuffer(4))
			consumer := q.Consumer(t.Context(), chanmq.OfType(2))
			count.gotOne((<-r.C()).Value)
			waiting := make(chan error, 1)
			go func() {
				_, err := q.Receive(t.Context(), chanmq.OfType(3))
				waiting <- err
			}()
			for c.engine.Waiting() == 0 {
				time.Sleep(time.Millisecond)
			}
			if away {
				s.Shutdown(0)
			}
			errs := make(chan error, 2)
			began := time.Now()
			for range 2 {
				go func() { errs <- q.Close() }()
			}
			for range 2 {
				err := <-errs
				var undelivered *chanmq.UndeliveredError
				if errors.As(err, &undelivered) {
					for _, m := range undelivered.Messages {
						count.gotOne(m.Value)
					}
				} else if err != nil {
					t.Error(err)
				}
			}
			t.Logf("closed within %v", time.Since(began))
			for _, err := range []error{r.Err(), consumer.Err(), <-waiting} {
				if !errors.Is(err, chanmq.ErrClosed) {
					t.Errorf("%v, want ErrClosed", err)
				}
			}
			if away {
				s.Restart(0)
				s.WaitReady()
			}
			other := attach(t, s, q.ID())
			for count.n.Load() < n {
				m, err := other.Receive(within(t, 20*time.Second), chanmq.Any())
				if err != nil {
					t.Fatal(err)
				}
				count.gotOne(m.Value)
			}
			count.check(t)
		})
	}
}

// TestServe: package serve works as on one machine. A call whose answer comes is handled once.
func TestServe(t *testing.T) {
	requests, c, s := newQueue(t)
	replies := private(t, c)
	server := serve.NewServer(attach(t, s, requests.ID()), attach(t, s, replies.ID()))
	serve.Handle(server, chanmq.OfType(1), codec.JSON[[2]int](), codec.JSON[int](), func(_ context.Context, terms [2]int) (int, error) {
		return terms[0] + terms[1], nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	client := serve.NewClient(requests, replies, 1, codec.JSON[[2]int](), codec.JSON[int]())
	var calls sync.WaitGroup
	for n := range 8 {
		calls.Go(func() {
			for i := range 10 {
				if sum, err := client.Call(within(t, 20*time.Second), [2]int{n, i}); err != nil || sum != n+i {
					t.Errorf("%d + %d: %d, error %v", n, i, sum, err)
				}
			}
		})
	}
	calls.Wait()
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// roles are programs that the tests start.
var roles = map[string]testkit.Role{"holds": holds, "reads": reads}

// program opens the queue that its arguments name.
func program(args []string, opts ...Option) (*chanmq.Queue[[]byte], error) {
	id, err := strconv.Atoi(args[1])
	if err != nil {
		return nil, err
	}
	nc, err := nats.Connect(args[0], nats.ReconnectBufSize(-1))
	if err != nil {
		return nil, err
	}
	c, err := New(nc, opts...)
	if err != nil {
		return nil, err
	}
	return chanmq.Attach(id, c.Option())
}

// holds takes messages and acknowledges none, until it is killed.
func holds(args []string) error {
	q, err := program(args, WithAckWait(time.Second))
	if err != nil {
		return err
	}
	for d := range q.Consumer(context.Background(), chanmq.OfType(1), chanmq.WithInFlight(5)).C() {
		fmt.Printf("%s\n", d.Value)
	}
	return nil
}

// reads prints messages until SIGTERM, and ends with Shutdown.
func reads(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	q, err := program(args)
	if err != nil {
		return err
	}
	r := q.Receiver(ctx, chanmq.OfType(1), chanmq.WithBuffer(16))
	for m := range r.C() {
		fmt.Printf("%s\n", m.Value)
		time.Sleep(10 * time.Millisecond)
	}
	if err := r.Err(); !errors.Is(err, context.Canceled) {
		return err
	}
	ending, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return q.Shutdown(ending)
}

// TestProgramEnds: by SIGKILL, and what it had not acknowledged comes to another one; by SIGTERM, and each message
// was read by it, or is in the queue.
func TestProgramEnds(t *testing.T) {
	for _, test := range []struct {
		role   string
		signal os.Signal
		others int // that are in the queue behind it, at least
	}{{"holds", syscall.SIGKILL, 60}, {"reads", syscall.SIGTERM, 1}} {
		t.Run(test.role, func(t *testing.T) {
			s := natstest.Single(t, jetstream.FileStorage)
			q := private(t, newCluster(t, s.Connect(t), WithAckWait(time.Second)))
			const n = 60
			for i := range n {
				send(t, q, 1, fmt.Sprint(i))
			}
			cmd := testkit.Process(t, test.role, s.URLs(), fmt.Sprint(q.ID()))
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			seen := make(map[string]int)
			for lines, i := bufio.NewScanner(out), 1; lines.Scan(); i++ {
				if test.others < n {
					seen[lines.Text()]++
				}
				if i == 5 {
					if err := cmd.Process.Signal(test.signal); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := cmd.Wait(); err != nil && test.signal == syscall.SIGTERM {
				t.Error(err)
			}
			others := 0
			for ctx := within(t, 20*time.Second); len(seen) < n; others++ {
				d, err := q.Take(ctx, chanmq.OfType(1))
				if err != nil {
					t.Fatalf("%d messages, then %v", len(seen), err)
				}
				seen[string(d.Value)]++
				if err := d.Ack(); err != nil {
					t.Error(err)
				}
			}
			for id, times := range seen {
				if times != 1 {
					t.Errorf("message %s came %d times", id, times)
				}
			}
			if others < test.others {
				t.Errorf("%d came to the other program, want %d at least", others, test.others)
			}
		})
	}
}

// TestConnectionIsClosed for good, by the program or since it does not reconnect for ever: calls fail, and do not wait.
func TestConnectionIsClosed(t *testing.T) {
	s := natstest.Embedded(t, jetstream.FileStorage)
	nc := s.Connect(t)
	c := newCluster(t, nc)
	q := private(t, c)
	ctx := within(t, 20*time.Second)
	errs := make(chan error, 16)
	calls := []func(){
		func() { _, err := q.Receive(ctx, chanmq.OfType(1)); errs <- err },
		func() { _, err := q.Take(ctx, chanmq.OfType(1)); errs <- err },
		func() { _, err := q.Take(ctx, chanmq.UpTo(3)); errs <- err },
		func() { r := q.Receiver(ctx, chanmq.OfType(2)); <-r.Done(); errs <- r.Err() },
	}
	for _, call := range calls {
		go call()
	}
	for c.engine.Waiting() < 3 {
		time.Sleep(time.Millisecond)
	}
	nc.Close()
	for range calls {
		if err := <-errs; !errors.Is(err, chanmq.ErrUnavailable) {
			t.Errorf("a call under way: %v, want ErrUnavailable", err)
		}
	}
	for _, call := range append(calls, func() { errs <- q.Send(ctx, 1, nil) }) {
		call()
		if err := <-errs; !errors.Is(err, chanmq.ErrUnavailable) {
			t.Errorf("a call: %v, want ErrUnavailable", err)
		}
	}
}
