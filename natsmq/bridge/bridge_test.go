//go:build linux

package bridge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/natsmq"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

func TestMain(m *testing.M) {
	os.Exit(natstest.Main(m, map[string]testkit.Role{"bridge": func(args []string) error { return new(victim).run(args[0]) }}))
}

// victim is the process of a bridge.
type victim struct {
	URLs, Dir string
	Queue     int
	Key       chanmq.Key
	Out, In   []int64
	Step      string // where it is killed; "": nowhere
	Times     int64  // the how manieth time
}

func (v *victim) run(config string) error {
	if err := json.Unmarshal([]byte(config), v); err != nil {
		return err
	}
	var times atomic.Int64
	if v.Step != "" {
		atStep = func(step string) {
			if step == v.Step && times.Add(1) == v.Times {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // it is the last thing that it does
				select {}
			}
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	nc, err := nats.Connect(v.URLs, nats.RetryOnFailedConnect(true), nats.ReconnectBufSize(-1), nats.MaxReconnects(-1),
		nats.ReconnectWait(20*time.Millisecond), nats.ReconnectJitter(10*time.Millisecond, 10*time.Millisecond), nats.Timeout(time.Second))
	if err != nil {
		return err
	}
	defer nc.Close()
	cluster, err := natsmq.New(nc)
	if err != nil {
		return err
	}
	defer cluster.Close()
	q, err := chanmq.Attach(v.Queue)
	if err != nil {
		return err
	}
	defer q.Close()
	var b *Bridge
	for {
		b, err = New(q, cluster, v.Key, WithDir(v.Dir), WithOut(v.Out...), WithIn(v.In...))
		if !errors.Is(err, chanmq.ErrUnavailable) || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return err
	}
	fmt.Println("runs")
	return errors.Join(b.Run(ctx), b.Close())
}

// side is a machine: its kernel queue, and its bridge.
type side struct {
	t *testing.T
	victim
	q   *chanmq.Queue[[]byte]
	cmd *exec.Cmd
	out io.Reader // of cmd
}

// newSide returns a machine. The cluster's queue with the key must exist.
func newSide(t *testing.T, s *natstest.Servers, key chanmq.Key, out, in []int64) *side {
	t.Helper()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, q.ID())
	t.Cleanup(func() { _ = q.Close() }) // with what is left
	return &side{t: t, q: q, victim: victim{URLs: s.URLs(), Dir: bridgeDir(t), Queue: q.ID(), Key: key, Out: out, In: in}}
}

func bridgeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-bridge-test-")
	if err != nil {
		t.Fatal(err)
	}
	testkit.ReapPath(t, dir)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// start starts the bridge.
func (s *side) start(step string, times int64) {
	s.t.Helper()
	s.Step, s.Times = step, times
	config, err := json.Marshal(s.victim)
	if err != nil {
		s.t.Fatal(err)
	}
	s.cmd = testkit.Process(s.t, "bridge", string(config))
	if s.out, err = s.cmd.StdoutPipe(); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
}

// died waits until the bridge has been killed.
func (s *side) died() {
	s.t.Helper()
	timer := time.AfterFunc(30*time.Second, func() { _ = s.cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	err := s.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		s.t.Fatalf("the bridge was not killed at %s: %v", s.Step, err)
	}
}

// kill kills it.
func (s *side) kill() {
	_ = s.cmd.Process.Kill() // it may have ended
	_ = s.cmd.Wait()
}

// stop ends it well.
func (s *side) stop() {
	s.t.Helper()
	_, _ = s.out.Read(make([]byte, 1)) // it runs, or Wait says why not
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	timer := time.AfterFunc(30*time.Second, func() { _ = s.cmd.Process.Signal(syscall.SIGQUIT) })
	defer timer.Stop()
	if err := s.cmd.Wait(); err != nil {
		s.t.Fatalf("the bridge ended with %v", err)
	}
}

const key = 0x4d51

// clusterQueue creates the cluster's queue.
func clusterQueue(t *testing.T, s *natstest.Servers, opts ...natsmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	cluster, err := natsmq.New(s.Connect(t), append([]natsmq.Option{natsmq.WithReplicas(s.Len())}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cluster.Close() })
	q, err := chanmq.Create(key, 0o600, cluster.Option())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return q
}

// within bounds a test.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// textOf is the text of message n: every third one is the same as others.
func textOf(n int) []byte {
	if n%3 == 2 {
		return []byte("the same")
	}
	return fmt.Appendf(nil, "message %d", n)
}

func send(t *testing.T, q *chanmq.Queue[[]byte], typ int64, from, to int) {
	t.Helper()
	ctx := within(t, time.Minute)
	for n := from; n < to; n++ {
		if err := q.Send(ctx, typ, textOf(n)); err != nil {
			t.Errorf("message %d: %v", n, err)
			return
		}
	}
}

// wantAll receives n messages in order, and then none.
func wantAll(t *testing.T, q *chanmq.Queue[[]byte], typ int64, n int, twice bool) {
	t.Helper()
	ctx := within(t, time.Minute)
	repeated := 0
	for i := 0; i < n; i++ {
		m, err := q.Receive(ctx, chanmq.OfType(typ))
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if !bytes.Equal(m.Value, textOf(i)) {
			if twice && i > 0 && repeated == 0 && bytes.Equal(m.Value, textOf(i-1)) {
				repeated++
				i--
				continue
			}
			t.Fatalf("message %d is %q, want %q", i, m.Value, textOf(i))
		}
	}
	none, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	if m, err := q.Receive(none, chanmq.OfType(typ)); err == nil {
		t.Fatalf("one more message: %q", m.Value)
	}
	if twice != (repeated == 1) {
		t.Errorf("%d messages came twice", repeated)
	}
}

// Messages go both ways between two machines.
func TestBridge(t *testing.T) {
	s := natstest.Single(t, jetstream.FileStorage)
	there := clusterQueue(t, s)
	a := newSide(t, s, key, []int64{1}, []int64{2})
	b := newSide(t, s, key, []int64{2}, []int64{1})
	a.start("", 0)
	b.start("", 0)
	const n = 500
	go send(t, a.q, 1, 0, n)
	go send(t, b.q, 2, 0, n)
	wantAll(t, b.q, 1, n, false)
	wantAll(t, a.q, 2, n, false)
	a.stop()
	b.stop()
	stat, err := there.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if stat.Messages != 0 || stat.Bytes != 0 {
		t.Errorf("the cluster's queue has %d messages, %d bytes", stat.Messages, stat.Bytes)
	}
}

// A bridge is killed at each step of the way out: nothing is lost, nothing comes twice.
func TestKilledOut(t *testing.T) {
	s := natstest.Single(t, jetstream.FileStorage)
	there := clusterQueue(t, s)
	for _, step := range []string{"out: taken", "out: begun", "out: published", "out: acknowledged one", "out: acknowledged"} {
		for _, times := range []int64{1, 2} {
			t.Run(fmt.Sprintf("%s %d", step, times), func(t *testing.T) {
				const n = 3 * MaxHeld
				a := newSide(t, s, key, []int64{1}, nil)
				send(t, a.q, 1, 0, n)
				a.start(step, times)
				a.died()
				if step == "out: published" || step == "out: acknowledged one" {
					// Again while it deals with that.
					a.start("out: resolved", 1)
					a.died()
				}
				a.start("", 0)
				wantAll(t, there, 1, n, false)
				a.stop()
			})
		}
	}
}

// A bridge is killed at each step of the way in: nothing is lost, and only a message that was
// sent and not noted comes twice.
func TestKilledIn(t *testing.T) {
	s := natstest.Single(t, jetstream.FileStorage)
	there := clusterQueue(t, s)
	for _, step := range []string{"in: spooled", "in: taken", "in: claimed", "in: sending", "in: sent", "in: noted"} {
		for _, times := range []int64{1, 3} {
			t.Run(fmt.Sprintf("%s %d", step, times), func(t *testing.T) {
				const n = 20
				b := newSide(t, s, key, nil, []int64{1})
				send(t, there, 1, 0, n)
				b.start(step, times)
				b.died()
				b.start("", 0)
				wantAll(t, b.q, 1, n, step == "in: sent")
				b.stop()
			})
		}
	}
}

// While the other side does not receive, the sender waits.
func TestBackPressure(t *testing.T) {
	s := natstest.Single(t, jetstream.FileStorage)
	there := clusterQueue(t, s, natsmq.WithExactSizes(), natsmq.WithLimits(chanmq.Limits{MaxMessage: 8192, MaxBytes: 4000, MaxQueues: 10}))
	a := newSide(t, s, key, []int64{1}, nil)
	b := newSide(t, s, key, nil, []int64{1})
	a.start("", 0)
	b.start("", 0)
	text := bytes.Repeat([]byte("x"), 1000)
	sent := 0
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		err := a.q.Send(ctx, 1, append(fmt.Appendf(nil, "%06d", sent), text...))
		cancel()
		if err != nil {
			break
		}
		sent++
	}
	// 16 in each kernel queue, one in the spool, 3 in the cluster, and what the bridge holds.
	if most := 16 + 1 + 3 + MaxHeld + 16; sent > most || sent < 30 {
		t.Errorf("%d messages were sent before the sender had to wait, want %d at most", sent, most)
	}
	a.kill()
	b.stop()
	a.start("", 0)
	b.start("", 0)
	ctx := within(t, time.Minute)
	for i := range sent {
		m, err := b.q.Receive(ctx, chanmq.OfType(1))
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("%06d", i); !strings.HasPrefix(string(m.Value), want) {
			t.Fatalf("got %.6s, want %s", m.Value, want)
		}
	}
	a.stop()
	b.stop()
	if stat, err := there.Stat(); err != nil || stat.Bytes != 0 || stat.Messages != 0 {
		t.Errorf("the cluster's queue: %+v, %v", stat, err)
	}
}

// What the server counts is what Stat says, whoever has sent it.
func TestSizes(t *testing.T) {
	for _, opts := range [][]natsmq.Option{nil, {natsmq.WithExactSizes()}} {
		for _, storage := range []jetstream.StorageType{jetstream.FileStorage, jetstream.MemoryStorage} {
			t.Run(fmt.Sprint(len(opts), storage), func(t *testing.T) {
				s := natstest.Embedded(t, storage)
				if storage == jetstream.MemoryStorage {
					opts = append(opts, natsmq.WithMemory())
				}
				there := clusterQueue(t, s, opts...)
				a := newSide(t, s, key, []int64{1, 70000}, nil)
				bytes := 0
				for n := range 20 {
					bytes += len(textOf(n))
				}
				send(t, a.q, 1, 0, 20)
				send(t, a.q, 70000, 0, 20)
				send(t, there, 5, 0, 20)
				a.start("", 0)
				for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
					stat, err := there.Stat()
					if err != nil {
						t.Fatal(err)
					}
					if stat.Messages == 60 && stat.Bytes == 3*bytes {
						break
					}
					if time.Now().After(deadline) {
						t.Fatalf("%d messages, %d bytes, want 60, %d", stat.Messages, stat.Bytes, 3*bytes)
					}
				}
				a.stop()
			})
		}
	}
}

func TestNew(t *testing.T) {
	s := natstest.Embedded(t, jetstream.MemoryStorage)
	cluster, err := natsmq.New(s.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	a := newSide(t, s, key, []int64{1}, nil)
	for _, c := range []struct {
		what string
		opts []Option
		want string
	}{
		{"no types", nil, "no type"},
		{"both ways", []Option{WithOut(1, 2), WithIn(3, 2)}, "type 2 would go out and come in"},
		{"type 0", []Option{WithOut(0)}, "types are 1 and more"},
		{"no queue", []Option{WithOut(1), WithDir(a.Dir)}, "no queue of the cluster has the key"},
	} {
		if _, err := New(a.q, cluster, key, c.opts...); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.what, err, c.want)
		}
	}
	clusterQueue(t, s)
	b, err := New(a.q, cluster, key, WithDir(a.Dir), WithOut(1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(a.q, cluster, key, WithDir(a.Dir), WithOut(1)); !errors.Is(err, ErrInUse) {
		t.Errorf("the second bridge: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := b.Run(context.Background()); err == nil {
		t.Error("it runs after Close")
	}
	if files, _ := filepath.Glob(a.Dir + "/*/journal/*"); len(files) != 0 {
		t.Errorf("left: %v", files)
	}
}
