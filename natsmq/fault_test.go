package natsmq

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

// long makes the fault tests as long as docs/cluster.md says.
var long = flag.Bool("long", false, "run the fault tests in their long form")

// faults is how many of something a fault test has, in its short and in its long form.
func faults(short, inLong int) int {
	if *long {
		return inLong
	}
	return short
}

// ids counts messages by id.
type ids struct {
	mu   sync.Mutex
	sent map[uint64]bool
	got  map[uint64]int
	n    atomic.Int64 // of got, with those that came twice
}

func newIDs() *ids { return &ids{sent: make(map[uint64]bool), got: make(map[uint64]int)} }

func text(id uint64) []byte { return binary.BigEndian.AppendUint64(nil, id) }

func (x *ids) sentOne(id uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sent[id] = true
}

func (x *ids) gotOne(v []byte) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.got[binary.BigEndian.Uint64(v)]++
	x.n.Add(1)
}

// check fails the test if a message is lost, or came twice, or was never sent.
func (x *ids) check(t *testing.T) {
	t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	lost, twice, foreign := 0, 0, 0
	for id := range x.sent {
		if x.got[id] == 0 {
			lost++
		}
	}
	for id, n := range x.got {
		if n > 1 {
			twice++
		}
		if !x.sent[id] {
			foreign++
		}
	}
	t.Logf("%d sent: %d lost, %d twice, %d that were not sent", len(x.sent), lost, twice, foreign)
	if lost+twice+foreign > 0 {
		t.Fail()
	}
}

// traffic sends messages through one queue, by several clients, each with a connection of its own.
type traffic struct {
	senders, receivers int
	each               int // by each sender
	opts               []Option
}

// run sends all, while disturb runs, which ends when its ctx does, and counts.
func (tr traffic) run(t *testing.T, s *natstest.Servers, disturb func(ctx context.Context, stream string, done *atomic.Int64)) {
	t.Helper()
	// A small queue, so that senders are at it to the end.
	opts := append([]Option{WithLimits(chanmq.Limits{MaxMessage: 8192, MaxBytes: 16384, MaxQueues: 10})}, tr.opts...)
	first := newCluster(t, s.Connect(t), opts...)
	q, err := chanmq.Private(0o600, first.Option())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	open := func() *chanmq.Queue[[]byte] {
		c := newCluster(t, s.Connect(t), opts...)
		q, err := chanmq.Attach(q.ID(), c.Option())
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

	count := newIDs()
	total := int64(tr.senders * tr.each)
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(faults(10, 90))*time.Minute)
	defer cancel()
	receiving, stop := context.WithCancel(ctx)
	var sending, taking, disturbing sync.WaitGroup
	for range tr.receivers {
		q := open()
		taking.Go(func() {
			for {
				m, err := q.Receive(receiving, chanmq.Any())
				if err != nil {
					if receiving.Err() == nil {
						t.Errorf("receive: %v", err)
					}
					return
				}
				count.gotOne(m.Value)
			}
		})
	}
	for n := range tr.senders {
		q := open()
		sending.Go(func() {
			for i := range tr.each {
				id := uint64(n*tr.each + i)
				count.sentOne(id)
				if err := q.Send(ctx, int64(1+id%7), text(id)); err != nil {
					t.Errorf("send: %v", err)
					return
				}
			}
		})
	}
	faulty, calm := context.WithCancel(ctx)
	disturbing.Go(func() { disturb(faulty, fmt.Sprintf("CHANMQ_Q%d", q.ID()), &count.n) })
	sending.Wait()
	for end := time.Now().Add(2 * time.Minute); count.n.Load() < total && time.Now().Before(end) && !t.Failed(); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Second) // for those that come twice
	stop()
	taking.Wait()
	calm()
	disturbing.Wait()
	count.check(t)
}

// TestServersAreKilled: of three servers, one after the other is killed, at random or the one that
// leads, and started again. Nothing is lost, and nothing comes twice.
func TestServersAreKilled(t *testing.T) {
	t.Parallel()
	s := natstest.Three(t, jetstream.FileStorage)
	kills := 0
	most := faults(3, 50)
	tr := traffic{senders: 4, receivers: 4, each: faults(1000, 20_000), opts: []Option{WithReplicas(3)}}
	tr.run(t, s, func(ctx context.Context, stream string, done *atomic.Int64) {
		for kills < most {
			// Spread over all messages.
			for due := int64(kills+1) * int64(tr.senders*tr.each) / int64(most+1); done.Load() < due; {
				if ctx.Err() != nil {
					return
				}
				time.Sleep(time.Millisecond)
			}
			victim := s.Leader(stream)
			if rand.IntN(3) == 0 {
				victim = rand.IntN(3)
			}
			s.Kill(victim)
			kills++
			time.Sleep(time.Duration(rand.IntN(1500)) * time.Millisecond)
			s.Restart(victim)
		}
	})
	t.Logf("%d servers were killed", kills)
	if kills < most {
		t.Errorf("only %d servers were killed: it was over too soon", kills)
	}
}

// TestLeaderIsStopped: a leader that is stopped for some time believes that it still leads.
func TestLeaderIsStopped(t *testing.T) {
	t.Parallel()
	s := natstest.Three(t, jetstream.FileStorage)
	stops := 0
	most := faults(1, 10)
	tr := traffic{senders: 2, receivers: 6, each: faults(500, 10_000), opts: []Option{WithReplicas(3)}}
	tr.run(t, s, func(ctx context.Context, stream string, done *atomic.Int64) {
		for stops < most && ctx.Err() == nil {
			for due := int64(stops+1) * int64(tr.senders*tr.each) / int64(most+1); done.Load() < due && ctx.Err() == nil; {
				time.Sleep(time.Millisecond)
			}
			leader := s.Leader(stream)
			s.Stop(leader)
			stops++
			time.Sleep(time.Duration(2000+rand.IntN(6000)) * time.Millisecond)
			s.Continue(leader)
		}
	})
	t.Logf("a leader was stopped %d times", stops)
}

// TestSingleServerIsRestarted: all who send and receive wait until it is there again.
func TestSingleServerIsRestarted(t *testing.T) {
	t.Parallel()
	s := natstest.Single(t, jetstream.FileStorage)
	restarts, most := 0, faults(2, 10)
	tr := traffic{senders: 2, receivers: 2, each: faults(1000, 10_000)}
	tr.run(t, s, func(ctx context.Context, _ string, done *atomic.Int64) {
		for restarts < most && ctx.Err() == nil {
			for due := int64(restarts+1) * int64(tr.senders*tr.each) / int64(most+1); done.Load() < due && ctx.Err() == nil; {
				time.Sleep(time.Millisecond)
			}
			s.Kill(0)
			restarts++
			time.Sleep(200 * time.Millisecond)
			s.Restart(0)
		}
	})
	if restarts < most {
		t.Errorf("only %d restarts: it was over too soon", restarts)
	}
}

// TestOneOfManyCreates: of many who create a queue at the same time one wins, and the
// others have that one.
func TestOneOfManyCreates(t *testing.T) {
	t.Parallel()
	onClusters(t, func(t *testing.T, s *natstest.Servers, opts []Option) {
		const creators = 20
		var clients []*Cluster
		for range creators {
			// The servers may have to share two cores with other tests.
			clients = append(clients, newCluster(t, s.Connect(t), append(opts, WithTimeout(time.Minute))...))
		}
		for round := range 3 {
			key := chanmq.Key(100 + round)
			var winners, losers atomic.Int64
			msqids := make([]int, creators)
			var all sync.WaitGroup
			for i, c := range clients {
				all.Go(func() {
					q, err := chanmq.Create(key, 0o600, c.Option(), chanmq.WithExclusive())
					if err == nil {
						winners.Add(1)
						defer q.Close()
					} else if errors.Is(err, fs.ErrExist) {
						losers.Add(1)
					}
					if q, err = chanmq.Create(key, 0o600, c.Option()); err != nil {
						t.Error(err)
						return
					}
					msqids[i] = q.ID()
					if err := q.Close(); err != nil {
						t.Error(err)
					}
				})
			}
			all.Wait()
			if winners.Load() != 1 || losers.Load() != creators-1 {
				t.Errorf("%d creators have won, %d have lost", winners.Load(), losers.Load())
			}
			if slices.Min(msqids) != slices.Max(msqids) {
				t.Errorf("they have different queues: %v", msqids)
			}
		}
	})
}

// TestAnswersAreLost: a server does what it was asked for, and says that it is not available,
// or nothing, every time but some. Who has a message is found out by asking the others.
func TestAnswersAreLost(t *testing.T) {
	t.Parallel()
	unavailable := []byte(`{"error":{"code":503,"err_code":10008,"description":"JetStream system temporarily unavailable"}}`)
	for _, test := range []struct {
		name  string
		about string // the request
		each  int    // of so many answers one gets through
		data  []byte // nil: the answer is dropped
	}{
		{"10008 for claims", "$JS.API.STREAM.MSG.DELETE.", 3, unavailable},
		{"no answer to claims", "$JS.API.STREAM.MSG.DELETE.", 2, nil},
		{"10008 for messages", "CHANMQ.q.", 3, unavailable},
		{"no answer to messages", "CHANMQ.q.", 2, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			s := natstest.Single(t, jetstream.FileStorage)
			count := newIDs()
			var handles []*chanmq.Queue[[]byte]
			var id int
			for n := range 4 {
				proxy := natstest.NewProxy(t, s.Addr(0))
				c := newCluster(t, natstest.Connect(t, proxy.URL()), WithTimeout(2*time.Second))
				var q *chanmq.Queue[[]byte]
				var err error
				if n == 0 {
					if q, err = chanmq.Private(0o600, c.Option()); err == nil {
						id = q.ID()
					}
				} else {
					q, err = chanmq.Attach(id, c.Option())
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() {
					if err := q.Close(); err != nil {
						t.Error(err)
					}
				})
				handles = append(handles, q)
				answers := 0
				proxy.SetFilter(func(m *natstest.Message) natstest.Verdict {
					if !m.Answers(test.about) {
						return natstest.Pass
					}
					answers++
					switch {
					case answers%test.each == 0:
						return natstest.Pass
					case test.data == nil:
						return natstest.Drop
					}
					m.Header, m.Data = nil, test.data
					return natstest.Replace
				})
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			total := faults(12, 200)
			var all sync.WaitGroup
			all.Go(func() {
				for i := range total {
					count.sentOne(uint64(i))
					if err := handles[0].Send(ctx, 1, text(uint64(i))); err != nil {
						t.Errorf("send: %v", err)
						return
					}
				}
			})
			receiving, stop := context.WithCancel(ctx)
			for _, q := range handles[1:] {
				all.Go(func() {
					for {
						m, err := q.Receive(receiving, chanmq.Any())
						if err != nil {
							return
						}
						count.gotOne(m.Value)
					}
				})
			}
			for count.n.Load() < int64(total) && ctx.Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
			time.Sleep(time.Second) // for those that come twice
			stop()
			all.Wait()
			count.check(t)
		})
	}
}
