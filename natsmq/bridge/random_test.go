//go:build linux

package bridge

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/natsmq"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

// count is what has come, by text.
type count struct {
	ids      map[string]int
	messages int
}

// receiveAll receives n messages of the type, and what comes then.
func receiveAll(t *testing.T, q *chanmq.Queue[[]byte], typ int64, n int) count {
	c := count{ids: make(map[string]int)}
	for {
		wait := 20 * time.Second
		if c.messages >= n {
			wait = 2 * time.Second
		}
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		m, err := q.Receive(ctx, chanmq.OfType(typ))
		cancel()
		if err != nil {
			return c
		}
		c.messages++
		c.ids[string(m.Value)]++
	}
}

// check compares it with what was sent. It returns how many came twice.
func (c *count) check(t *testing.T, what string, n int) (twice int) {
	t.Helper()
	same := 0
	for i := range n {
		text := string(textOf(i))
		if text == "the same" {
			same++
			continue
		}
		switch got := c.ids[text]; {
		case got == 0:
			t.Errorf("%s: %s is lost", what, text)
		case got > 1:
			twice += got - 1
		}
	}
	if got := c.ids["the same"]; got < same {
		t.Errorf("%s: %d of %d equal messages are lost", what, same-got, same)
	} else {
		twice += got - same
	}
	return twice
}

// Both bridges are killed at random, and so is the server, while messages go both ways.
func TestKilledAtRandom(t *testing.T) {
	n := 3000
	if testing.Short() {
		n = 600
	}
	s := natstest.Single(t, jetstream.FileStorage)
	there := clusterQueue(t, s)
	a := newSide(t, s, key, []int64{1}, []int64{2})
	b := newSide(t, s, key, []int64{2}, []int64{1})
	done := make(chan struct{})
	var killers, work sync.WaitGroup
	var mu sync.Mutex
	kills, serverKills := 0, 0
	for _, x := range []*side{a, b} {
		killers.Go(func() {
			for {
				x.start("", 0)
				select {
				case <-done:
					x.stop()
					return
				case <-time.After(300*time.Millisecond + rand.N(2*time.Second)): // a claim that is uncertain takes half a second
					x.kill()
					mu.Lock()
					kills++
					mu.Unlock()
				}
			}
		})
	}
	killers.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(2*time.Second + rand.N(2*time.Second)):
				s.Kill(0)
				s.Restart(0)
				serverKills++
			}
		}
	})
	var counts [2]count
	work.Go(func() { sendSlowly(t, a.q, 1, n) })
	work.Go(func() { sendSlowly(t, b.q, 2, n) })
	work.Go(func() { counts[0] = receiveAll(t, b.q, 1, n) })
	work.Go(func() { counts[1] = receiveAll(t, a.q, 2, n) })
	work.Wait()
	close(done)
	killers.Wait()
	twice := counts[0].check(t, "from a to b", n) + counts[1].check(t, "from b to a", n)
	t.Logf("%d messages each way, %d kills of bridges and %d of the server: %d came twice", n, kills, serverKills, twice)
	// A kill between msgsnd and its note is rare: the window is some instructions.
	if twice > 1+kills/20 {
		t.Errorf("%d messages came twice", twice)
	}
	if stat, err := there.Stat(); err != nil || stat.Messages != 0 || stat.Bytes != 0 {
		t.Errorf("the cluster's queue: %+v, %v", stat, err)
	}
}

// Three servers, of which the stream's leader is killed again and again while messages go through.
func TestLeaderKilled(t *testing.T) {
	const n = 1500
	s := natstest.Three(t, jetstream.FileStorage)
	there := clusterQueue(t, s)
	a := newSide(t, s, key, []int64{1}, nil)
	b := newSide(t, s, key, nil, []int64{1})
	a.start("", 0)
	b.start("", 0)
	done := make(chan struct{})
	var killer, work sync.WaitGroup
	kills := 0
	stream := fmt.Sprintf("CHANMQ_Q%d", there.ID())
	killer.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-time.After(time.Second + rand.N(time.Second)):
				leader := s.Leader(stream)
				s.Kill(leader)
				time.Sleep(rand.N(500 * time.Millisecond))
				s.Restart(leader)
				s.WaitReady()
				kills++
			}
		}
	})
	var c count
	work.Go(func() { sendSlowly(t, a.q, 1, n) })
	work.Go(func() { c = receiveAll(t, b.q, 1, n) })
	work.Wait()
	close(done)
	killer.Wait()
	if twice := c.check(t, "from a to b", n); twice != 0 {
		t.Errorf("%d messages came twice", twice)
	}
	t.Logf("%d messages, %d kills of the leader", n, kills)
	a.stop()
	b.stop()
	if stat, err := there.Stat(); err != nil || stat.Messages != 0 || stat.Bytes != 0 {
		t.Errorf("the cluster's queue: %+v, %v", stat, err)
	}
}

// sendSlowly sends all messages within about ten seconds.
func sendSlowly(t *testing.T, q *chanmq.Queue[[]byte], typ int64, n int) {
	ctx := within(t, time.Minute)
	for i := range n {
		if err := q.Send(ctx, typ, textOf(i)); err != nil {
			t.Errorf("message %d: %v", i, err)
			return
		}
		if i%10 == 9 {
			time.Sleep(rand.N(60 * time.Millisecond))
		}
	}
}

// What cannot be moved stays where it is, and ends Run with an error that says so; with a queue for dead
// letters it goes there.
func TestUndeliverable(t *testing.T) {
	s := natstest.Embedded(t, jetstream.MemoryStorage)
	limits := natsmq.WithLimits(chanmq.Limits{MaxMessage: 1000, MaxBytes: 100000, MaxQueues: 10})
	there := clusterQueue(t, s, limits)
	cluster, err := natsmq.New(s.Connect(t), limits)
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	a := newSide(t, s, key, nil, nil)
	large := strings.Repeat("x", 1001)
	for _, text := range []string{"first", large, "second"} {
		if err := a.q.Send(within(t, time.Second), 1, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := New(a.q, cluster, key, WithDir(a.Dir), WithOut(1))
	if err != nil {
		t.Fatal(err)
	}
	var undeliverable *UndeliverableError
	for range 2 { // it stays
		if err := b.Run(within(t, 10*time.Second)); !errors.As(err, &undeliverable) || undeliverable.Type != 1 || undeliverable.Size != 1001 {
			t.Fatalf("Run: %v", err)
		}
	}
	if m, err := there.Receive(within(t, time.Second), chanmq.Any()); err != nil || string(m.Value) != "first" {
		t.Fatalf("got %q, %v", m.Value, err)
	}
	dead, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, dead.ID())
	defer dead.Close()
	b.dead = dead
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx) }()
	if m, err := there.Receive(within(t, 10*time.Second), chanmq.Any()); err != nil || string(m.Value) != "second" {
		t.Errorf("got %q, %v", m.Value, err)
	}
	if m, err := dead.Receive(within(t, 10*time.Second), chanmq.Any()); err != nil || string(m.Value) != large {
		t.Errorf("dead: got %d bytes, %v", len(m.Value), err)
	}
	cancel()
	if err := errors.Join(<-ended, b.Close()); err != nil {
		t.Error(err)
	}
	if c := b.Counters().Out; c.Messages != 2 || c.Bytes != 11 || c.Dead != 1 || c.Held != 0 {
		t.Errorf("counters: %+v", c)
	}
}
