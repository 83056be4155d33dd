package natsmq

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

// newQueue returns a queue of a new cluster with a server in this process.
func newQueue(t *testing.T, opts ...Option) (*chanmq.Queue[[]byte], *Cluster, *natstest.Servers) {
	t.Helper()
	s := natstest.Embedded(t, jetstream.FileStorage)
	c := newCluster(t, s.Connect(t), opts...)
	return private(t, c), c, s
}

// private creates a queue without a key. Its handle is closed when the test ends.
func private(t testing.TB, c *Cluster) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Private(0o600, c.Option())
	return closing(t, q, err)
}

// attach opens a queue once more, over a connection of its own, as another process does.
func attach(t testing.TB, s *natstest.Servers, id int, opts ...Option) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Attach(id, newCluster(t, s.Connect(t), opts...).Option())
	return closing(t, q, err)
}

func closing(t testing.TB, q *chanmq.Queue[[]byte], err error) *chanmq.Queue[[]byte] {
	t.Helper()
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

func send(t testing.TB, q *chanmq.Queue[[]byte], typ int64, text string) {
	t.Helper()
	if err := q.Send(t.Context(), typ, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func wantNext(t testing.TB, q *chanmq.Queue[[]byte], s chanmq.Selector, typ int64, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := q.Receive(ctx, s)
	if err != nil || m.Type != typ || string(m.Value) != text {
		t.Fatalf("%v: got message %d %q, error %v, want message %d %q", s, m.Type, m.Value, err, typ, text)
	}
}

// TestCounts: Stat counts the messages, and the bytes of their texts, whatever is stored with them.
func TestCounts(t *testing.T) {
	for _, storage := range []Option{nil, WithMemory()} {
		for _, exact := range []bool{false, true} {
			t.Run(fmt.Sprint(storage != nil, exact), func(t *testing.T) {
				var opts []Option
				if storage != nil {
					opts = append(opts, storage)
				}
				if exact {
					opts = append(opts, WithExactSizes())
				}
				q, _, _ := newQueue(t, opts...)
				bytes := 0
				for i, typ := range []int64{1, 15, 16, 1 << 20, 1<<63 - 1} {
					send(t, q, typ, string(make([]byte, 100*i)))
					bytes += 100 * i
					if s, err := q.Stat(); err != nil || s.Messages != i+1 || s.Bytes != bytes {
						t.Errorf("Stat: %+v, error %v, want %d messages, %d bytes", s, err, i+1, bytes)
					}
				}
			})
		}
	}
}

// TestManyTypes: with 10,000 types in the queue each selector finds its message by a few reads.
func TestManyTypes(t *testing.T) {
	q, c, _ := newQueue(t, WithLimits(chanmq.Limits{MaxMessage: 100, MaxBytes: 16 << 20, MaxQueues: 1}))
	const types, first = 10_000, 5
	var sending sync.WaitGroup
	for n := range 8 {
		sending.Go(func() {
			for typ := first + n; typ < first+types; typ += 8 {
				if err := q.Send(t.Context(), int64(typ), fmt.Append(nil, typ)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	sending.Wait()
	took := func(s chanmq.Selector, typ int) {
		t.Helper()
		before := c.engine.Conn.Stats().OutMsgs
		wantNext(t, q, s, int64(typ), fmt.Sprint(typ))
		if n := c.engine.Conn.Stats().OutMsgs - before; n > 200 {
			t.Errorf("%v took %d requests", s, n)
		}
	}
	took(chanmq.OfType(7000), 7000)
	for _, typ := range []int{5, 6, 7} {
		took(chanmq.UpTo(9999), typ)
	}
	took(chanmq.UpTo(8), 8)
	for typ := 9; typ < 40; typ++ {
		took(chanmq.OfType(int64(typ)), typ)
	}
	took(chanmq.UpTo(1<<62), 40)
	if _, ok, err := q.TryReceive(chanmq.UpTo(40)); ok || err != nil {
		t.Errorf("a message, %v, error %v, and none is left up to 40", ok, err)
	}
}

// TestOverlap: receives of one process and of others, whose selectors overlap, share the messages, and
// each type comes in order to one who receives it alone.
func TestOverlap(t *testing.T) {
	q, _, s := newQueue(t)
	two, upTo := attach(t, s, q.ID()), attach(t, s, q.ID())
	const each = 300
	var mu sync.Mutex
	got := make(map[string]int)
	note := func(last map[int64]int, m chanmq.Message[[]byte]) {
		var n int
		if _, err := fmt.Sscan(string(m.Value), &n); err != nil || n <= last[m.Type] {
			t.Errorf("message %d of type %d behind %d, error %v", n, m.Type, last[m.Type], err)
		}
		last[m.Type] = n
		mu.Lock()
		defer mu.Unlock()
		got[fmt.Sprint(m.Type, " ", n)]++
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for _, r := range []struct {
		q *chanmq.Queue[[]byte]
		s chanmq.Selector
	}{{two, chanmq.OfType(2)}, {upTo, chanmq.UpTo(3)}} {
		all.Go(func() {
			last := make(map[int64]int)
			for {
				m, err := r.q.Receive(ctx, r.s)
				if err != nil {
					return
				}
				note(last, m)
			}
		})
	}
	for n := 1; n <= each; n++ {
		for typ := int64(1); typ <= 3; typ++ {
			send(t, q, typ, fmt.Sprint(n))
		}
	}
	for {
		mu.Lock()
		n := len(got)
		mu.Unlock()
		if n == 3*each || ctx.Err() != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	all.Wait()
	for id, n := range got {
		if n != 1 {
			t.Errorf("message %s came %d times", id, n)
		}
	}
	if len(got) != 3*each {
		t.Errorf("%d messages, want %d", len(got), 3*each)
	}
}

// TestEight: eight programs that receive one type get each message once, and are faster than one,
// which the log shows.
func TestEight(t *testing.T) {
	s := natstest.Single(t, jetstream.FileStorage)
	q := private(t, newCluster(t, s.Connect(t), WithLimits(chanmq.Limits{MaxMessage: 8192, MaxBytes: 64 << 20, MaxQueues: 1})))
	messages := faults(1000, 20_000)
	var handles []*chanmq.Queue[[]byte]
	for range 8 {
		handles = append(handles, attach(t, s, q.ID()))
	}
	for _, receivers := range []int{1, 8, 1, 8} {
		count := newIDs()
		var sending, receiving sync.WaitGroup
		for n := range 16 {
			sending.Go(func() {
				for i := n; i < messages; i += 16 {
					count.sentOne(uint64(i))
					if err := q.Send(t.Context(), 1, text(uint64(i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		sending.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		began := time.Now()
		for _, h := range handles[:receivers] {
			receiving.Go(func() {
				for {
					m, err := h.Receive(ctx, chanmq.OfType(1))
					if err != nil {
						return
					}
					if count.gotOne(m.Value); count.n.Load() >= int64(messages) {
						cancel()
					}
				}
			})
		}
		receiving.Wait()
		cancel()
		t.Logf("%d: %.0f messages a second", receivers, float64(messages)/time.Since(began).Seconds())
		count.check(t)
	}
}

// TestRemoval ends every wait, and a key that is used again never leads to an old handle.
func TestRemoval(t *testing.T) {
	s := natstest.Embedded(t, jetstream.FileStorage)
	const key = 77
	owner := newCluster(t, s.Connect(t))
	create := func() *chanmq.Queue[[]byte] {
		q, err := chanmq.Create(key, 0o600, owner.Option())
		return closing(t, q, err)
	}
	q := create()
	other := attach(t, s, q.ID())
	waits := make(chan error, 8)
	for _, h := range []*chanmq.Queue[[]byte]{q, other} {
		for _, sel := range []chanmq.Selector{chanmq.Any(), chanmq.OfType(3), chanmq.UpTo(2)} {
			go func() {
				_, err := h.Receive(t.Context(), sel)
				waits <- err
			}()
		}
		go func() {
			r := h.Receiver(t.Context(), chanmq.Except(5))
			for range r.C() {
			}
			waits <- r.Err()
		}()
	}
	for owner.engine.Waiting() < 4 {
		time.Sleep(time.Millisecond)
	}
	if err := q.Remove(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for range cap(waits) {
		if err := <-waits; !errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("a wait ended with %v, want ErrRemoved", err)
		}
	}
	t.Logf("all waits ended within %v", time.Since(began))
	anew := create()
	send(t, anew, 1, "new")
	for _, h := range []*chanmq.Queue[[]byte]{q, other} {
		if m, ok, err := h.TryReceive(chanmq.Any()); ok || !errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("an old handle got %v %v, error %v", m, ok, err)
		}
		if err := h.Send(t.Context(), 1, nil); !errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("an old handle sends with error %v, want ErrRemoved", err)
		}
	}
	wantNext(t, anew, chanmq.Any(), 1, "new")
}

// TestWakeUpIsLost: a wait ends, within WithLook, although nobody has told it of the message.
func TestWakeUpIsLost(t *testing.T) {
	t.Parallel()
	s := natstest.Single(t, jetstream.FileStorage)
	proxy := natstest.NewProxy(t, s.Addr(0))
	proxy.SetFilter(func(m *natstest.Message) natstest.Verdict {
		if m.Direction == natstest.ToClient && len(m.Subscription) > 9 && (m.Subscription[:9] == "CHANMQ.w." || m.Subscription[:9] == "CHANMQ.p." || m.Subscription[:9] == "CHANMQ.r.") {
			return natstest.Drop
		}
		return natstest.Pass
	})
	c := newCluster(t, natstest.Connect(t, proxy.URL()), WithLook(300*time.Millisecond),
		WithLimits(chanmq.Limits{MaxMessage: 100, MaxBytes: 250, MaxQueues: 1}))
	q := private(t, c)
	other := attach(t, s, q.ID())
	for n := range 5 {
		got := make(chan string)
		go func() {
			m, err := q.Receive(t.Context(), chanmq.OfType(int64(1+n)))
			if err != nil {
				t.Error(err)
			}
			got <- string(m.Value)
		}()
		for c.engine.Waiting() == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(700 * time.Millisecond) // it looks from time to time only
		began := time.Now()
		send(t, other, int64(1+n), "x")
		if v := <-got; v != "x" {
			t.Errorf("got %q", v)
		}
		t.Logf("after %v", time.Since(began))
	}
	// The same with room.
	for {
		if ok, err := q.TrySend(1, make([]byte, 50)); err != nil {
			t.Fatal(err)
		} else if !ok {
			break
		}
	}
	sent := make(chan error)
	go func() { sent <- q.Send(t.Context(), 2, make([]byte, 50)) }()
	for c.engine.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	wantNext(t, other, chanmq.Any(), 1, string(make([]byte, 50)))
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// TestServerIsAway: calls without a ctx fail, those with a ctx end with it, and what waits goes on when
// the server is there again.
func TestServerIsAway(t *testing.T) {
	t.Parallel()
	s := natstest.Single(t, jetstream.FileStorage)
	c := newCluster(t, s.Connect(t), WithTimeout(500*time.Millisecond))
	q := private(t, c)
	received := make(chan error, 1)
	go func() {
		m, err := q.Receive(t.Context(), chanmq.Any())
		if err == nil && string(m.Value) != "later" {
			err = fmt.Errorf("got %q", m.Value)
		}
		received <- err
	}()
	for c.engine.Waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	s.Kill(0)
	if _, err := q.Stat(); !errors.Is(err, chanmq.ErrUnavailable) {
		t.Errorf("Stat: %v, want ErrUnavailable", err)
	}
	if _, _, err := q.TryReceive(chanmq.OfType(9)); !errors.Is(err, chanmq.ErrUnavailable) {
		t.Errorf("TryReceive: %v, want ErrUnavailable", err)
	}
	if _, err := chanmq.Open(5, c.Option()); !errors.Is(err, chanmq.ErrUnavailable) {
		t.Errorf("Open: %v, want ErrUnavailable", err)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, errEnough)
	defer cancel()
	if _, err := q.Receive(ctx, chanmq.OfType(9)); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, errEnough) {
		t.Errorf("Receive: %v, want that its ctx ended", err)
	}
	if err := q.Send(ctx, 9, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Send: %v, want that its ctx ended", err)
	}
	sent := make(chan error, 1)
	go func() { sent <- q.Send(t.Context(), 1, []byte("later")) }()
	time.Sleep(100 * time.Millisecond)
	s.Restart(0)
	for _, done := range []chan error{sent, received} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

var errEnough = errors.New("enough")

// TestNewRefuses what cannot work.
func TestNewRefuses(t *testing.T) {
	s := natstest.Embedded(t, jetstream.FileStorage)
	buffering, err := nats.Connect(s.URLs())
	if err != nil {
		t.Fatal(err)
	}
	defer buffering.Close()
	for _, test := range []struct {
		name string
		nc   *nats.Conn
		opt  Option
	}{
		{"no connection", nil, nil},
		{"a connection that buffers", buffering, nil},
		{"no replicas", s.Connect(t), WithReplicas(0)},
		{"a prefix with a dot", s.Connect(t), WithPrefix("a.b")},
		{"no limit", s.Connect(t), WithLimits(chanmq.Limits{})},
		{"no time", s.Connect(t), WithTimeout(0)},
		{"no look", s.Connect(t), WithLook(-1)},
	} {
		t.Run(test.name, func(t *testing.T) {
			var opts []Option
			if test.opt != nil {
				opts = append(opts, test.opt)
			}
			c, err := New(test.nc, opts...)
			if err == nil {
				c.Close()
				t.Fatal("no error")
			}
			t.Log(err)
		})
	}
}

// TestPriorities: the lowest type first, and the oldest of it, as TestKernel has it, with types of
// different lengths.
func TestPriorities(t *testing.T) {
	q, _, _ := newQueue(t)
	types := []int64{4096, 1, 255, 17, 16, 2, 65535, 15, 256, 1}
	for i, typ := range types {
		send(t, q, typ, fmt.Sprint(i))
	}
	slices.Sort(types)
	for _, typ := range types {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		m, err := q.Receive(ctx, chanmq.UpTo(1<<40))
		cancel()
		if err != nil || m.Type != typ {
			t.Fatalf("got type %d, error %v, want %d", m.Type, err, typ)
		}
	}
}

// TestManyWaitForOneType: each of many handles that wait for the same gets one message, and they do not all
// reach for the same one.
func TestManyWaitForOneType(t *testing.T) {
	q, c, _ := newQueue(t)
	const handles = 300
	count := newIDs()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var waiting sync.WaitGroup
	for range handles {
		other, err := chanmq.Attach(q.ID(), c.Option())
		h := closing(t, other, err)
		waiting.Go(func() {
			m, err := h.Receive(ctx, chanmq.OfType(1))
			if err != nil {
				t.Error(err)
				return
			}
			count.gotOne(m.Value)
		})
	}
	for c.engine.Waiting() < handles && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	before := c.engine.Conn.Stats().OutMsgs
	for i := range handles {
		count.sentOne(uint64(i))
		if err := q.Send(ctx, 1, text(uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	waiting.Wait()
	count.check(t)
	if n := c.engine.Conn.Stats().OutMsgs - before; n > 20*handles {
		t.Errorf("%d requests for %d messages", n, handles)
	}
}
