package natsmq

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

var benchLimits = chanmq.Limits{MaxMessage: 8192, MaxBytes: 1 << 30, MaxQueues: 10}

func streamName(id int) string { return fmt.Sprintf("%s_Q%d", defaultPrefix, id) }

// leaseServer is a server that can be stopped and started again.
type leaseServer struct {
	t    testing.TB
	dir  string
	port int
	s    *server.Server
}

func newLeaseServer(t testing.TB) *leaseServer {
	s := &leaseServer{t: t, dir: filepath.Join(t.TempDir(), "js"), port: -1}
	s.start()
	t.Cleanup(s.stop)
	return s
}

func (s *leaseServer) start() {
	opts := &server.Options{Host: "127.0.0.1", Port: s.port, JetStream: true, StoreDir: s.dir, NoLog: true, NoSigs: true}
	for range 100 {
		running, err := server.NewServer(opts)
		if err != nil {
			s.t.Fatal(err)
		}
		running.Start()
		if running.ReadyForConnections(time.Second) {
			s.s = running
			s.port, _ = strconv.Atoi(portOf(running))
			return
		}
		running.Shutdown()
	}
	s.t.Fatal("the server does not start")
}

func portOf(s *server.Server) string {
	u := s.ClientURL()
	return u[len("nats://127.0.0.1:"):]
}

func (s *leaseServer) stop() {
	s.s.Shutdown()
	s.s.WaitForShutdown()
}

func (s *leaseServer) connect() *nats.Conn {
	nc, err := nats.Connect(fmt.Sprintf("nats://127.0.0.1:%d", s.port),
		nats.ReconnectBufSize(-1), nats.MaxReconnects(-1), nats.ReconnectWait(20*time.Millisecond))
	if err != nil {
		s.t.Fatal(err)
	}
	return nc
}

// cluster returns a Cluster with a connection of its own, as another process has it.
func (s *leaseServer) cluster(opts ...Option) *Cluster {
	nc := s.connect()
	c, err := New(nc, append([]Option{WithLimits(benchLimits), WithLook(time.Second)}, opts...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close(); nc.Close() })
	return c
}

// leaser is a handle for tests.
type leaser struct {
	t *testing.T
	*handle
}

func (c *Cluster) leaser(t *testing.T) leaser {
	return leaser{t, c.kernel().Handle().(*handle)}
}

func (h leaser) create() int {
	h.t.Helper()
	id, err := h.Get(sysv.KeyPrivate, 0o600)
	if err != nil {
		h.t.Fatal(err)
	}
	return id
}

func (h leaser) send(id, typ int, text string) {
	h.t.Helper()
	msg := sysv.Buffer(len(text))
	sysv.PutType(msg, typ)
	copy(msg[sysv.HeaderSize:], text)
	if err := h.Send(id, msg); err != nil {
		h.t.Fatal(err)
	}
}

// take waits for a message, and returns "" if none comes within d.
func (h leaser) take(id, msgtyp, flags int, d time.Duration) (string, sysv.Lease) {
	h.t.Helper()
	text, l, err := h.receive(id, msgtyp, flags, d)
	if err == sysv.EINTR {
		return "", nil
	}
	if err != nil {
		h.t.Fatal(err)
	}
	return text, l
}

func (h leaser) receive(id, msgtyp, flags int, d time.Duration) (string, sysv.Lease, error) {
	thread := h.NewThread().(sysv.LeasingThread)
	thread.Enter()
	defer thread.Leave()
	done := make(chan struct{})
	var stopping sync.WaitGroup
	stopping.Go(func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		for {
			select {
			case <-done:
				return
			case <-timer.C:
				thread.Interrupt()
				timer.Reset(10 * time.Millisecond)
			}
		}
	})
	defer stopping.Wait()
	defer close(done)
	buf := sysv.Buffer(8192)
	n, l, err := thread.ReceiveLeased(id, buf, msgtyp, flags)
	if err != nil {
		return "", nil, err
	}
	return string(buf[sysv.HeaderSize : sysv.HeaderSize+n]), l, nil
}

func (h leaser) messages(id int) int {
	h.t.Helper()
	s, err := h.Stat(id)
	if err != nil {
		h.t.Fatal(err)
	}
	return int(s.Messages)
}

func (h leaser) want(id int, msgtyp, flags int, text string, attempt int) sysv.Lease {
	h.t.Helper()
	got, l := h.take(id, msgtyp, flags, 10*time.Second)
	if l == nil || got != text || l.Attempt() != attempt {
		h.t.Fatalf("leased %q (%v), want %q at attempt %d", got, l, text, attempt)
	}
	return l
}

func (h leaser) ack(l sysv.Lease) {
	h.t.Helper()
	if err := l.Ack(); err != nil {
		h.t.Fatal(err)
	}
}

const shortly = 300 * time.Millisecond

func TestLeaseKeepsFromOthers(t *testing.T) {
	t.Parallel()
	for _, sel := range []struct {
		name          string
		msgtyp, flags int
	}{{"any", 0, 0}, {"type", 7, 0}, {"except", 6, sysv.Except}, {"up to", -9, 0}} {
		t.Run(sel.name, func(t *testing.T) {
			s := newLeaseServer(t)
			a, b := s.cluster().leaser(t), s.cluster().leaser(t)
			id := a.create()
			a.send(id, 7, "x")
			l := a.want(id, sel.msgtyp, sel.flags, "x", 1)
			if got, other := b.take(id, sel.msgtyp, sel.flags, shortly); other != nil {
				t.Fatalf("%q is leased twice", got)
			}
			if n := a.messages(id); n != 1 {
				t.Fatalf("%d messages, want 1: it stays until Ack", n)
			}
			l.Release()
			l = b.want(id, sel.msgtyp, sel.flags, "x", 2)
			b.ack(l)
			if l.Ack() == nil {
				t.Error("a lease was ended twice")
			}
			b.Release()
			if n := a.messages(id); n != 0 {
				t.Fatalf("%d messages, want 0", n)
			}
			if got, l := a.take(id, sel.msgtyp, sel.flags, shortly); l != nil {
				t.Fatalf("%q came again", got)
			}
			a.Release()
		})
	}
}

// A process that dies says nothing any more. What it has leased, and what it has in its buffer, comes
// after AckWait.
func TestLeaseOfTheDead(t *testing.T) {
	s := newLeaseServer(t)
	const wait = 500 * time.Millisecond
	dying := s.connect()
	c, err := New(dying, WithLimits(benchLimits), WithAckWait(wait))
	if err != nil {
		t.Fatal(err)
	}
	a, b := c.leaser(t), s.cluster(WithAckWait(wait)).leaser(t)
	id := a.create()
	for i := range 20 {
		a.send(id, 1, strconv.Itoa(i))
	}
	for i := range 10 {
		a.want(id, 0, 0, strconv.Itoa(i), 1)
	}
	dying.Close()
	began := time.Now()
	got := make(map[string]bool)
	for len(got) < 20 {
		text, l := b.take(id, 0, 0, 10*time.Second)
		if l == nil || got[text] {
			t.Fatalf("%q came (%v) after %d", text, l, len(got))
		}
		if n, _ := strconv.Atoi(text); n < 10 && l.Attempt() != 2 {
			t.Errorf("%q is at attempt %d, want 2", text, l.Attempt())
		}
		got[text] = true
		b.ack(l)
	}
	t.Logf("all came within %v; AckWait is %v", time.Since(began), wait)
	b.Release()
	a.Release()
	_ = c.Close()
}

func TestLeaseGoesOn(t *testing.T) {
	s := newLeaseServer(t)
	const wait = 300 * time.Millisecond
	a, b := s.cluster(WithAckWait(wait)).leaser(t), s.cluster(WithAckWait(wait)).leaser(t)
	id := a.create()
	a.send(id, 1, "x")
	l := a.want(id, 0, 0, "x", 1)
	if got, other := b.take(id, 0, 0, 6*wait); other != nil {
		t.Fatalf("%q is leased twice while its process lives", got)
	}
	a.ack(l)
	a.Release()
	b.Release()
	if n := a.messages(id); n != 0 {
		t.Fatalf("%d messages, want 0", n)
	}
}

// drain receives and acknowledges until so many came, and counts each.
func drain(t *testing.T, id, total int, handles []leaser, count func(text string) int) {
	t.Helper()
	var receiving sync.WaitGroup
	var mu sync.Mutex
	came := 0
	done := make(chan struct{})
	for _, h := range handles {
		thread := h.NewThread().(sysv.LeasingThread)
		var mine sync.WaitGroup
		over := make(chan struct{})
		mine.Go(func() {
			<-done
			for {
				select {
				case <-over:
					return
				case <-time.After(10 * time.Millisecond):
					thread.Interrupt()
				}
			}
		})
		receiving.Go(func() {
			defer mine.Wait()
			defer close(over)
			buf := sysv.Buffer(8192)
			for {
				n, l, err := h.ReceiveLeased(id, buf, 0, 0)
				if err == sysv.ENOMSG {
					n, l, err = thread.ReceiveLeased(id, buf, 0, 0)
				}
				select {
				case <-done:
					if l != nil {
						l.Release()
					}
					return
				default:
				}
				if err == sysv.EINTR {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				text := string(buf[sysv.HeaderSize : sysv.HeaderSize+n])
				mu.Lock()
				if count(text) == 1 {
					came++
					if came == total {
						close(done)
					}
				}
				mu.Unlock()
				if err := l.Ack(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	finished := make(chan struct{})
	go func() { receiving.Wait(); close(finished) }()
	select {
	case <-finished:
	case <-time.After(100 * time.Second):
		mu.Lock()
		defer mu.Unlock()
		t.Fatalf("%d of %d came", came, total)
	}
}

func TestLeaseCount(t *testing.T) {
	s := newLeaseServer(t)
	total := 20000
	if testing.Short() {
		total = 2000
	}
	a := s.cluster().leaser(t)
	id := a.create()
	handles := []leaser{a, a.c.leaser(t), s.cluster().leaser(t), s.cluster().leaser(t)}
	counts := make(map[string]int)
	var sending sync.WaitGroup
	const senders = 64
	for i := range senders {
		sending.Go(func() {
			for j := i; j < total; j += senders {
				a.send(id, 1+j%5, strconv.Itoa(j))
			}
		})
	}
	drain(t, id, total, handles, func(text string) int { counts[text]++; return counts[text] })
	sending.Wait()
	for _, h := range handles {
		h.Release()
	}
	for text, n := range counts {
		if n != 1 {
			t.Errorf("%s came %d times", text, n)
		}
	}
	if n := a.messages(id); n != 0 || len(counts) != total {
		t.Errorf("%d messages are left, %d came", n, len(counts))
	}
}

// A server that is restarted loses no message. Those that were leased may come again.
func TestLeaseServerRestart(t *testing.T) {
	s := newLeaseServer(t)
	total := 5000
	if testing.Short() {
		total = 1000
	}
	a, b := s.cluster(WithAckWait(2*time.Second)).leaser(t), s.cluster(WithAckWait(2*time.Second)).leaser(t)
	id := a.create()
	const senders = 32
	var sending sync.WaitGroup
	for i := range senders {
		sending.Go(func() {
			for j := i; j < total; j += senders {
				a.send(id, 1, strconv.Itoa(j))
			}
		})
	}
	sending.Wait()
	counts := make(map[string]int)
	restart := total / 3
	var restarting sync.WaitGroup
	drain(t, id, total, []leaser{a, b}, func(text string) int {
		counts[text]++
		if len(counts) == restart && counts[text] == 1 {
			restarting.Go(func() { s.stop(); s.start() })
		}
		return counts[text]
	})
	restarting.Wait()
	a.Release()
	b.Release()
	again := 0
	for _, n := range counts {
		again += n - 1
	}
	if n := a.messages(id); n != 0 || len(counts) != total {
		t.Errorf("%d messages are left, %d of %d came", n, len(counts), total)
	}
	t.Logf("%d came again", again)
}

func TestLeaseUpToOrder(t *testing.T) {
	s := newLeaseServer(t)
	a, b := s.cluster().leaser(t), s.cluster().leaser(t)
	id := a.create()
	types := []int{300, 2, 40, 2, 7, 1, 300, 5000}
	for i, typ := range types {
		a.send(id, typ, fmt.Sprintf("%d/%d", typ, i))
	}
	two := b.want(id, 2, 0, "2/1", 1) // UpTo leaves it alone
	var got []string
	for range 6 {
		text, l := a.take(id, -300, 0, 5*time.Second)
		if l == nil {
			t.Fatalf("only %v came", got)
		}
		got = append(got, text)
		a.ack(l)
	}
	if want := []string{"1/5", "2/3", "7/4", "40/2", "300/0", "300/6"}; !slices.Equal(got, want) {
		t.Errorf("leased %v, want %v", got, want)
	}
	if text, l := a.take(id, -300, 0, shortly); l != nil {
		t.Errorf("%q came, which is leased or too high", text)
	}
	// Whoever waits hears of a message that is left.
	var waiting sync.WaitGroup
	waiting.Go(func() {
		began := time.Now()
		a.ack(a.want(id, -300, 0, "2/1", 2))
		if waited := time.Since(began); waited > 900*time.Millisecond {
			t.Errorf("it was noticed after %v that the message was left", waited)
		}
	})
	time.Sleep(100 * time.Millisecond)
	two.Release()
	waiting.Wait()
	a.Release()
	b.Release()
}

func TestLeaseInterrupt(t *testing.T) {
	s := newLeaseServer(t)
	a := s.cluster().leaser(t)
	id := a.create()
	for _, msgtyp := range []int{0, 3, -3} {
		began := time.Now()
		if _, _, err := a.receive(id, msgtyp, 0, 200*time.Millisecond); err != sysv.EINTR {
			t.Errorf("type %d: %v, want EINTR", msgtyp, err)
		}
		if d := time.Since(began); d > 2*time.Second {
			t.Errorf("type %d: the interrupt took %v", msgtyp, d)
		}
	}
	a.send(id, 3, "x") // a pull request of the first receive waits for it
	a.ack(a.want(id, 0, 0, "x", 1))
	a.Release()
}

func TestLeaseRemoval(t *testing.T) {
	s := newLeaseServer(t)
	a, b := s.cluster().leaser(t), s.cluster().leaser(t)
	id := a.create()
	a.send(id, 9, "x")
	l := a.want(id, 9, 0, "x", 1)
	var waiting sync.WaitGroup
	for _, msgtyp := range []int{0, 3, -3} {
		waiting.Go(func() {
			began := time.Now()
			for {
				_, l, err := a.receive(id, msgtyp, 0, 30*time.Second)
				if err == nil && msgtyp == 0 {
					l.Release()
					continue
				}
				if err != sysv.EIDRM {
					t.Errorf("type %d: %v, want EIDRM", msgtyp, err)
				}
				break
			}
			if d := time.Since(began); d > 5*time.Second {
				t.Errorf("type %d: the removal was noticed after %v", msgtyp, d)
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	if err := b.Remove(id); err != nil {
		t.Fatal(err)
	}
	waiting.Wait()
	a.ack(l) // it is gone
	a.Release()
	b.Release()
	if n := a.e.Unacked(); n != 0 {
		t.Errorf("%d messages of a queue that was removed wait to be deleted", n)
	}
}

func TestLeaseTooLarge(t *testing.T) {
	s := newLeaseServer(t)
	a := s.cluster().leaser(t)
	id := a.create()
	for _, msgtyp := range []int{0, 2, -2} {
		a.send(id, 2, "longer")
		a.send(id, 2, "y")
		thread := a.NewThread().(sysv.LeasingThread)
		small, large := sysv.Buffer(3), sysv.Buffer(6)
		if n, _, err := thread.ReceiveLeased(id, small, msgtyp, 0); err != sysv.E2BIG || n != 6 {
			t.Fatalf("type %d: %d, %v, want 6, E2BIG", msgtyp, n, err)
		}
		n, l, err := thread.ReceiveLeased(id, large, msgtyp, 0)
		if err != nil || string(large[sysv.HeaderSize:sysv.HeaderSize+n]) != "longer" || l.Attempt() != 1 {
			t.Fatalf("type %d: %d, %v", msgtyp, n, err)
		}
		a.ack(l)
		a.ack(a.want(id, msgtyp, 0, "y", 1))
	}
	a.Release()
}

// What nobody has asked for goes back, and is there for others.
func TestLeaseGivenBack(t *testing.T) {
	t.Parallel()
	s := newLeaseServer(t)
	a, b := s.cluster().leaser(t), s.cluster().leaser(t)
	id := a.create()
	const total = 400
	for i := range total {
		a.send(id, 1, strconv.Itoa(i))
	}
	for i := range total / 2 { // fast, so that it pulls many
		a.ack(a.want(id, 0, 0, strconv.Itoa(i), 1))
	}
	began := time.Now()
	for n := total / 2; n < total; n++ {
		_, l := b.take(id, 0, 0, 10*time.Second)
		if l == nil {
			t.Fatalf("%d are left with a handle that does not ask for them", total-n)
		}
		b.ack(l)
	}
	t.Logf("all came within %v", time.Since(began))
	a.Release()
	b.Release()
}

// What a handle has in advance when it is closed goes to others at once, however many messages it has
// acknowledged: a purge of these would make the server forget what was given back.
func TestLeaseGivenBackBehindPurges(t *testing.T) {
	s := newLeaseServer(t)
	q := private(t, s.cluster())
	const total, each = 3000, 500
	for i := range total {
		send(t, q, 1, strconv.Itoa(i))
	}
	came := make(map[string]int)
	for len(came) < total {
		h, err := chanmq.Attach(q.ID(), s.cluster().Option())
		if err != nil {
			t.Fatal(err)
		}
		consumer := h.Consumer(t.Context(), chanmq.Any())
		for n := 0; n < each && len(came) < total; n++ {
			select {
			case d := <-consumer.C():
				came[string(d.Value)]++
				if err := d.Ack(); err != nil {
					t.Fatal(err)
				}
			case <-time.After(defaultAckWait / 2):
				t.Fatalf("nothing comes, after %d messages", len(came))
			}
		}
		if err := errors.Join(consumer.Close(), h.Close()); err != nil {
			t.Fatal(err)
		}
	}
	for text, n := range came {
		if n > 1 {
			t.Errorf("%s came %d times", text, n)
		}
	}
}

func TestLeaseAfterRelease(t *testing.T) {
	s := newLeaseServer(t)
	c := s.cluster()
	a := c.leaser(t)
	id := a.create()
	a.send(id, 1, "x")
	a.send(id, 1, "y")
	x, y := a.want(id, 0, 0, "x", 1), a.want(id, 0, 0, "y", 1)
	a.Release()
	a.ack(x)
	for began := time.Now(); a.messages(id) != 1; time.Sleep(time.Millisecond) {
		if time.Since(began) > 5*time.Second {
			t.Fatal("the message is there still")
		}
	}
	if _, _, err := a.ReceiveLeased(id, sysv.Buffer(9), 0, 0); err == nil || errors.Is(err, sysv.ENOMSG) {
		t.Errorf("a handle that was released says %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := y.Ack(); err == nil {
		t.Error("Ack works after Cluster.Close")
	}
}

// On each kind of servers every message comes once, and none is left.
func TestLeaseOnClusters(t *testing.T) {
	onClusters(t, func(t *testing.T, s *natstest.Servers, opts []Option) {
		opts = append(opts, WithLimits(benchLimits))
		a := newCluster(t, s.Connect(t), opts...).leaser(t)
		b := newCluster(t, s.Connect(t), opts...).leaser(t)
		id := a.create()
		const total, senders = 1000, 64
		var sending sync.WaitGroup
		for i := range senders {
			sending.Go(func() {
				for j := i; j < total; j += senders {
					a.send(id, 1+j%5, strconv.Itoa(j))
				}
			})
		}
		sending.Wait()
		counts := make(map[string]int)
		// One alone first, so that many are acknowledged one behind the other.
		drain(t, id, total/2, []leaser{a}, func(text string) int { counts[text]++; return counts[text] })
		came := len(counts)
		drain(t, id, total-came, []leaser{a, b}, func(text string) int { counts[text]++; return counts[text] })
		a.Release()
		b.Release()
		for text, n := range counts {
			if n != 1 {
				t.Errorf("%s came %d times", text, n)
			}
		}
		if n := a.messages(id); n != 0 || len(counts) != total {
			t.Errorf("%d messages are left, %d came", n, len(counts))
		}
	})
}

// Whoever is slow does not keep messages from others.
func TestLeaseSlow(t *testing.T) {
	s := newLeaseServer(t)
	a, b := s.cluster().leaser(t), s.cluster().leaser(t)
	id := a.create()
	const total = 20
	for i := range total {
		a.send(id, 1, strconv.Itoa(i))
	}
	var slow []sysv.Lease
	for i := range 3 {
		slow = append(slow, a.want(id, 0, 0, strconv.Itoa(i), 1))
		time.Sleep(50 * time.Millisecond)
	}
	for i := 3; i < total; i++ {
		b.ack(b.want(id, 0, 0, strconv.Itoa(i), 1))
	}
	for _, l := range slow {
		a.ack(l)
	}
	a.Release()
	b.Release()
	if n := a.messages(id); n != 0 {
		t.Errorf("%d messages are left", n)
	}
}
