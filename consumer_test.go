//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
)

// The specification of Take, Consumer and Delivery. What has to hold of every way to end a
// Consumer is in sim_consumer_test.go, and what has to hold under load, and when processes
// die, in stress_consumer_test.go.

func init() {
	storages["journal"] = func(t testing.TB) []chanmq.Option {
		return []chanmq.Option{chanmq.WithJournal(journalDir(t))}
	}
}

// delivery is what the tests are about most.
type delivery = chanmq.Delivery[[]byte]

// takeNumbers takes from, from+1, ... to-1, and leaves them unacknowledged.
func takeNumbers(t testing.TB, q *chanmq.Queue[[]byte], from, to int) (taken []delivery) {
	t.Helper()
	for n := from; n < to; n++ {
		taken = append(taken, wantTaken(t, q, n, 1))
	}
	return taken
}

// wantTaken takes the number n, at its attempt.
func wantTaken(t testing.TB, q *chanmq.Queue[[]byte], n, attempt int) delivery {
	t.Helper()
	d, err := q.Take(ctxWithin(t), chanmq.Any())
	if err != nil {
		t.Fatalf("taking %d: %v", n, err)
	}
	wantDelivery(t, d, n, attempt)
	return d
}

func wantDelivery(t testing.TB, d delivery, n, attempt int) {
	t.Helper()
	if len(d.Value) < 4 || numberOf(d.Value) != n || d.Attempt != attempt || d.LengthInferred {
		t.Fatalf("the delivery is %v, attempt %d, inferred %v; want %d, attempt %d", d.Value, d.Attempt, d.LengthInferred, n, attempt)
	}
}

// mustSettle is for Ack and Nack where they return nil.
func mustSettle(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("Ack or Nack: %v", err)
	}
}

// settlings are the ways to settle a delivery.
var settlings = map[string]func(delivery) error{"Ack": delivery.Ack, "Nack": delivery.Nack}

// TestInFlight: a pool of workers gets each message once, and a Consumer never has more
// than WithInFlight says that are taken and not acknowledged.
func TestInFlight(t *testing.T) {
	for _, workers := range []int{0, 1, 2, 7, 100} { // 0: the default, which is 1
		for _, buffer := range []int{-1, 0, 3} { // -1: the default
			name := fmt.Sprintf("%d workers, buffer %d", workers, buffer)
			t.Run(name, func(t *testing.T) {
				withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
					testInFlight(t, workers, buffer, opts...)
				})
			})
		}
	}
}

func testInFlight(t *testing.T, workers, buffer int, opts ...chanmq.Option) {
	t.Helper()
	const total = 200 // fits the queue
	q := newQueue(t, opts...)
	sendNumbers(t, q, 1, 0, total)
	var options []chanmq.ConsumerOption
	if workers > 0 {
		options = append(options, chanmq.WithInFlight(workers))
	}
	workers = max(workers, 1)
	if buffer >= 0 {
		options = append(options, chanmq.WithBuffer(buffer))
	}
	c := q.Consumer(ctxWithin(t), chanmq.Any(), options...)
	var acked atomic.Int64
	var seen [total]atomic.Int32
	var pool sync.WaitGroup
	done := make(chan struct{})
	for range workers {
		pool.Go(func() {
			for {
				var d delivery
				select {
				case d = <-c.C():
				case <-done:
					return
				}
				// In this order: what was taken is compared with more than was acknowledged.
				taken := total - must(q.Stat()).Messages
				if inFlight := taken - int(acked.Load()); inFlight > workers {
					t.Errorf("%d in flight, want at most %d", inFlight, workers)
				}
				if seen[numberOf(d.Value)].Add(1) > 1 || d.Attempt != 1 {
					t.Errorf("%d came again, attempt %d", numberOf(d.Value), d.Attempt)
				}
				n := acked.Add(1)
				if err := d.Ack(); err != nil {
					t.Error(err)
				}
				if n == total {
					close(done)
				}
			}
		})
	}
	pool.Wait()
	mustSettle(t, c.Close())
	wantNone(t, q)
}

// TestSettlingFreesAPlace: the next message is taken when one is acknowledged; one that
// was given back comes first.
func TestSettlingFreesAPlace(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		q := newQueue(t, opts...)
		sendNumbers(t, q, 1, 0, 6)
		c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(2))
		a, b := <-c.C(), <-c.C()
		wantDelivery(t, a, 0, 1)
		wantDelivery(t, b, 1, 1)
		if n := countMessages(t, q); n != 4 {
			t.Errorf("%d messages are in the queue, want 4", n)
		}
		mustSettle(t, b.Ack())
		e := <-c.C()
		wantDelivery(t, e, 2, 1)
		mustSettle(t, a.Nack())
		a = <-c.C()
		wantDelivery(t, a, 0, 2)
		mustSettle(t, e.Nack())
		e = <-c.C()
		wantDelivery(t, e, 2, 2)
		if n := countMessages(t, q); n != 3 {
			t.Errorf("%d messages are in the queue, want 3", n)
		}
		mustSettle(t, a.Ack())
		mustSettle(t, e.Ack())
		mustSettle(t, c.Close())
		wantNumbers(t, q, chanmq.Any(), 3, 6)
	})
}

// TestSettledOnce: of several calls of Ack and Nack the first one counts.
func TestSettledOnce(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		for _, first := range []string{"Ack", "Nack"} {
			for _, second := range []string{"Ack", "Nack"} {
				t.Run(first+", "+second, func(t *testing.T) {
					q := newQueue(t, opts...)
					sendNumbers(t, q, 1, 0, 2)
					d := wantTaken(t, q, 0, 1)
					same := d
					mustSettle(t, settlings[first](d))
					for range 3 {
						mustSettle(t, settlings[second](d))
						mustSettle(t, settlings[second](same))
					}
					if first == "Nack" {
						wantNumbers(t, q, chanmq.Any(), 0, 1)
					}
					wantNumbers(t, q, chanmq.Any(), 1, 2)
					wantNone(t, q)
				})
			}
		}
	})
}

// TestZeroDelivery is acknowledged.
func TestZeroDelivery(t *testing.T) {
	var d delivery
	mustSettle(t, d.Ack())
	mustSettle(t, d.Nack())
	q := newQueue(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	d, err := q.Take(ctx, chanmq.Any())
	wantError(t, "Take", err, context.Canceled, "receive")
	mustSettle(t, d.Nack())
	wantNone(t, q)
}

// TestSettledAtOnce: Ack and Nack from many goroutines, on copies. The message is gone, or
// comes again, once.
func TestSettledAtOnce(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		q := newQueue(t, opts...)
		const marker = 1 << 30 // is behind what comes again
		// One that waits in the kernel already might get a newer message first.
		c := q.Consumer(ctxWithin(t), chanmq.OfType(2), chanmq.WithInFlight(1))
		for round := range rounds(30) {
			mustSettle(t, q.Send(ctxWithin(t), 1, number(round)))
			mustSettle(t, q.Send(ctxWithin(t), 2, number(round)))
			d, err := q.Take(ctxWithin(t), chanmq.OfType(1))
			if err != nil {
				t.Fatal(err)
			}
			e := <-c.C()
			wantDelivery(t, e, round, 1)
			var acked, nacked [2]atomic.Int32
			var all sync.WaitGroup
			for n := range 6 {
				all.Go(func() {
					for i, d := range []delivery{d, e} {
						// Which call counts is not said.
						if (n+i+round)%3 == 0 {
							acked[i].Add(1)
							mustSettle(t, d.Ack())
						} else {
							nacked[i].Add(1)
							mustSettle(t, d.Nack())
						}
					}
				})
			}
			all.Wait()
			if m, ok, err := q.TryReceive(chanmq.OfType(1)); err != nil || ok && numberOf(m.Value) != round {
				t.Fatalf("round %d: %v, %v", round, m, err)
			}
			mustSettle(t, q.Send(ctxWithin(t), 2, number(marker)))
			for attempt := 1; ; attempt++ {
				d := <-c.C()
				mustSettle(t, d.Ack())
				if d.Attempt == 1 {
					wantDelivery(t, d, marker, 1)
					break
				}
				wantDelivery(t, d, round, 2)
				if attempt > 1 {
					t.Fatalf("round %d: it came %d times again", round, attempt)
				}
			}
			wantNone(t, q)
		}
	})
}

// TestStaleCopies: a copy of a delivery that was settled long ago touches no other message,
// though what copies share is used for one message after another.
func TestStaleCopies(t *testing.T) {
	const total = 400
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		for name, next := range map[string]func(q *chanmq.Queue[[]byte]) func() delivery{
			"Take": func(q *chanmq.Queue[[]byte]) func() delivery {
				return func() delivery { return must(q.Take(ctxWithin(t), chanmq.Any())) }
			},
			"Consumer": func(q *chanmq.Queue[[]byte]) func() delivery {
				c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(3))
				return func() delivery { return <-c.C() }
			},
		} {
			t.Run(name, func(t *testing.T) {
				q := newQueue(t, opts...)
				sendInBackground(t, q, total, func(int) int64 { return 1 })
				next := next(q)
				random := rand.New(rand.NewPCG(1, 2))
				var stale []delivery
				var flying []delivery
				for n := range total {
					d := next()
					wantDelivery(t, d, n, 1)
					flying = append(flying, d)
					for range min(len(stale), 5) {
						old := stale[random.IntN(len(stale))]
						mustSettle(t, old.Ack())
						mustSettle(t, old.Nack())
					}
					if len(flying) == 3 || n == total-1 {
						for len(flying) > 0 {
							i := random.IntN(len(flying))
							mustSettle(t, flying[i].Ack())
							stale = append(stale, flying[i])
							flying = slices.Delete(flying, i, i+1)
						}
					}
				}
				for _, old := range stale {
					mustSettle(t, old.Nack())
				}
				wantNone(t, q)
			})
		}
	})
}

// TestNackKeepsTheOrder: what is given back comes again in the order in which it was taken,
// before newer messages, in whatever order it is given back.
func TestNackKeepsTheOrder(t *testing.T) {
	orders := [][]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		q := newQueue(t, opts...)
		sendNumbers(t, q, 1, 0, 4)
		attempt := 1
		for _, order := range orders {
			var taken []delivery
			for n := range 3 {
				taken = append(taken, wantTaken(t, q, n, attempt))
			}
			for _, n := range order {
				mustSettle(t, taken[n].Nack())
			}
			attempt++
		}
		wantNumbers(t, q, chanmq.Any(), 0, 4)
	})
}

// TestNackAgainAndAgain: a Consumer with one message in flight delivers that one until it
// is acknowledged, and nothing newer meanwhile.
func TestNackAgainAndAgain(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		q := newQueue(t, opts...)
		const total, attempts = 20, 5
		sendNumbers(t, q, 1, 0, total)
		c := q.Consumer(ctxWithin(t), chanmq.Any())
		for n := range total {
			for attempt := range attempts {
				d := <-c.C()
				wantDelivery(t, d, n, attempt+1)
				if attempt < attempts-1 {
					mustSettle(t, d.Nack())
				} else {
					mustSettle(t, d.Ack())
				}
			}
		}
	})
}

// TestNackReachesOtherViews: what one view gives back, another one receives, also if it
// waits in the kernel already.
func TestNackReachesOtherViews(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		raws := newQueue(t, opts...)
		texts := chanmq.As(raws, codec.String())
		if err := texts.Send(ctxWithin(t), 1, "hello"); err != nil {
			t.Fatal(err)
		}
		d := must(raws.Take(ctxWithin(t), chanmq.Any()))
		got := make(chan string, 1)
		background(t, func() {
			d, err := texts.Take(ctxWithin(t), chanmq.OfType(1))
			got <- fmt.Sprint(d.Value, d.Attempt, err, d.Ack())
		})
		untilAsleep(t, 1)
		mustSettle(t, d.Nack())
		if got := <-got; got != "hello2 <nil> <nil>" {
			t.Errorf("the other view got %s", got)
		}
		mustSettle(t, texts.Send(ctxWithin(t), 1, "again"))
		d = must(raws.Take(ctxWithin(t), chanmq.Any()))
		r := texts.Receiver(ctxWithin(t), chanmq.Any())
		untilAsleep(t, 1)
		mustSettle(t, d.Nack())
		if m := <-r.C(); m.Value != "again" {
			t.Errorf("the other view got %v", m)
		}
		mustSettle(t, r.Close())
		wantNone(t, raws)
	})
}

// TestSettledAfterClose: a delivery can be acknowledged, or given back, when its handle is
// closed. Nothing is lost, whatever the state of the queue.
func TestSettledAfterClose(t *testing.T) {
	type state struct {
		name    string
		prepare func(t *testing.T, other *chanmq.Queue[[]byte])
		opts    []chanmq.Option
		words   []string // of the error of Nack without a journal; nil: the queue has it
		is      error
		orphan  bool // with a journal, Orphans returns it
	}
	states := []state{
		{name: "room"},
		{name: "full", prepare: func(t *testing.T, other *chanmq.Queue[[]byte]) { fill(t, other) }, words: []string{"full", "1 message"}, is: syscall.EAGAIN},
		{name: "removed", prepare: func(t *testing.T, other *chanmq.Queue[[]byte]) {
			if err := other.Remove(); err != nil {
				t.Fatal(err)
			}
		}, words: []string{"removed"}, is: chanmq.ErrRemoved, orphan: true},
		{name: "removed on Close", opts: []chanmq.Option{chanmq.WithRemoveOnClose()}, words: []string{"removed"}, is: chanmq.ErrRemoved, orphan: true},
	}
	type source struct {
		name string
		take func(t *testing.T, q *chanmq.Queue[[]byte]) []delivery
	}
	sources := []source{
		{"Take", func(t *testing.T, q *chanmq.Queue[[]byte]) []delivery { return takeNumbers(t, q, 0, 3) }},
		{"Consumer", func(t *testing.T, q *chanmq.Queue[[]byte]) []delivery {
			c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(3))
			return []delivery{<-c.C(), <-c.C(), <-c.C()}
		}},
	}
	for _, journal := range []bool{false, true} {
		for _, source := range sources {
			for _, state := range states {
				t.Run(fmt.Sprintf("%s, %s, journal %v", source.name, state.name, journal), func(t *testing.T) {
					opts := state.opts
					var dir string
					if journal {
						dir = journalDir(t)
						opts = append(slices.Clone(opts), chanmq.WithJournal(dir))
					}
					q := newQueue(t, opts...)
					other := attach(t, q.ID())
					sendNumbers(t, q, 1, 0, 3)
					d := source.take(t, q)
					if state.prepare != nil {
						state.prepare(t, other)
					}
					if err := q.Close(); err != nil {
						t.Errorf("Close: %v", err)
					}
					mustSettle(t, d[0].Ack())
					mustSettle(t, d[0].Nack())
					for n := 1; n < 3; n++ {
						err := d[n].Nack()
						mustSettle(t, d[n].Nack())
						if journal || state.words == nil {
							mustSettle(t, err)
							continue
						}
						wantError(t, "Nack", err, state.is, state.words...)
						var left *chanmq.UndeliveredError
						if !errors.As(err, &left) || len(left.Messages) != 1 || left.Messages[0].Type != 1 ||
							numberOf(left.Messages[0].Value) != n || left.ID != q.ID() {
							t.Errorf("Nack: %v, want the message in it", err)
						}
					}
					switch {
					case state.words == nil:
						wantNumbers(t, other, chanmq.Any(), 1, 3)
						wantNone(t, other)
					case journal && state.orphan:
						orphans := must(chanmq.Orphans(dir))
						if len(orphans) != 1 || len(orphans[0].Deliveries) != 2 {
							t.Fatalf("%d orphans", len(orphans))
						}
						for i, d := range orphans[0].Deliveries {
							wantDelivery(t, d, i+1, 1)
							mustSettle(t, d.Ack())
						}
						mustSettle(t, orphans[0].Close())
					case journal:
						heir := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir)))
						defer heir.Close()
						for n := 1; n < 3; n++ {
							d, err := heir.Take(ctxWithin(t), chanmq.OfType(1))
							if err != nil {
								t.Fatal(err)
							}
							wantDelivery(t, d, n, 2)
							mustSettle(t, d.Ack())
						}
					}
				})
			}
		}
	}
}

// TestNackAndCloseAtOnce: each message is in the queue, or in one of the errors.
func TestNackAndCloseAtOnce(t *testing.T) {
	const total = 6
	for _, full := range []bool{false, true} {
		t.Run(fmt.Sprintf("full %v", full), func(t *testing.T) {
			for range rounds(60) {
				q := newQueue(t)
				other := attach(t, q.ID())
				sendNumbers(t, q, 1, 0, total)
				taken := takeNumbers(t, q, 0, total)
				if full {
					fill(t, q)
				}
				var mu sync.Mutex
				came := make(map[int]int)
				note := func(err error) {
					mu.Lock()
					defer mu.Unlock()
					var left *chanmq.UndeliveredError
					if errors.As(err, &left) {
						for _, m := range left.Messages {
							came[numberOf(m.Value)]++
						}
					} else if err != nil {
						t.Error(err)
					}
				}
				var all sync.WaitGroup
				for _, d := range taken {
					all.Go(func() { note(d.Nack()) })
				}
				all.Go(func() { note(q.Close()) })
				all.Wait()
				for ok := true; ok; {
					var m chanmq.Message[[]byte]
					var err error
					if m, ok, err = other.TryReceive(chanmq.OfType(1)); err != nil {
						t.Fatal(err)
					} else if ok {
						came[numberOf(m.Value)]++
					}
				}
				for n := range total {
					if came[n] != 1 {
						t.Fatalf("message %d is in %d places", n, came[n])
					}
				}
				_ = other.Remove()
			}
		})
	}
}

// TestMaxAttempts: a message that was given back n times goes to the function, and counts
// as acknowledged when that returns.
func TestMaxAttempts(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		for _, n := range []int{1, 3} {
			t.Run(fmt.Sprintf("%d attempts", n), func(t *testing.T) {
				q := newQueue(t, opts...)
				sendNumbers(t, q, 1, 0, 3)
				dead := make(chan delivery, 1)
				var kept delivery
				c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithMaxAttempts(n, func(d delivery) {
					kept = d
					dead <- d
				}))
				d := <-c.C()
				wantDelivery(t, d, 0, 1)
				mustSettle(t, d.Ack())
				for attempt := 1; attempt <= n; attempt++ {
					d := <-c.C()
					wantDelivery(t, d, 1, attempt)
					mustSettle(t, d.Nack())
				}
				wantDelivery(t, <-dead, 1, n)
				d = <-c.C()
				wantDelivery(t, d, 2, 1)
				mustSettle(t, kept.Nack()) // too late
				mustSettle(t, d.Ack())
				mustSettle(t, c.Close())
				wantNone(t, q)
			})
		}
	})
}

// TestMaxAttemptsFunction: what the function may do.
func TestMaxAttemptsFunction(t *testing.T) {
	tests := []struct {
		name string
		dead func(t *testing.T, q *chanmq.Queue[[]byte], d delivery, cancel context.CancelFunc)
		left []int // what comes after the Consumer's end
		err  error
		text string
	}{
		{name: "acknowledge", dead: func(t *testing.T, _ *chanmq.Queue[[]byte], d delivery, _ context.CancelFunc) {
			mustSettle(t, d.Ack())
			mustSettle(t, d.Nack())
		}, left: []int{1}},
		{name: "give it back", dead: func(t *testing.T, _ *chanmq.Queue[[]byte], d delivery, cancel context.CancelFunc) {
			cancel() // or it is called again at once
			mustSettle(t, d.Nack())
			mustSettle(t, d.Ack())
		}, left: []int{0, 1}, err: context.Canceled},
		{name: "receive from the handle, and send to it", dead: func(t *testing.T, q *chanmq.Queue[[]byte], d delivery, _ context.CancelFunc) {
			wantNumbers(t, q, chanmq.Any(), 1, 2) // nothing is held meanwhile
			mustSettle(t, q.Send(ctxWithin(t), 1, number(7)))
		}, left: []int{7}},
		{name: "end the goroutine", dead: func(*testing.T, *chanmq.Queue[[]byte], delivery, context.CancelFunc) {
			runtime.Goexit()
		}, left: []int{0, 1}, text: "runtime.Goexit"},
	}
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		for _, test := range tests {
			t.Run(test.name, func(t *testing.T) {
				q := newQueue(t, opts...)
				ctx, cancel := context.WithCancel(ctxWithin(t))
				defer cancel()
				sendNumbers(t, q, 1, 0, 2)
				mustSettle(t, wantTaken(t, q, 0, 1).Nack())
				called := make(chan struct{})
				c := q.Consumer(ctx, chanmq.Any(), chanmq.WithMaxAttempts(1, func(d delivery) {
					close(called)
					wantDelivery(t, d, 0, 1)
					test.dead(t, q, d, cancel)
				}))
				<-called
				if test.err == nil && test.text == "" {
					d := <-c.C()
					wantDelivery(t, d, test.left[0], 1)
					mustSettle(t, c.Close())
					mustSettle(t, d.Nack())
				} else {
					<-c.Done()
					wantError(t, "Err", c.Err(), test.err, test.text)
				}
				for _, n := range test.left {
					wantNumbers(t, q, chanmq.Any(), n, n+1)
				}
				wantNone(t, q)
			})
		}
	})
}

func init() {
	roles["poisoned"] = poisonedRole
}

// poisonedRole consumes, at most two attempts each, and prints what it does: msqid,
// directory, what kills it: the message "poison", where it is handled so.
func poisonedRole(args []string) error {
	dir, how := args[1], args[2]
	var id int
	fmt.Sscan(args[0], &id)
	raws, err := chanmq.Attach(id, chanmq.WithJournal(dir))
	if err != nil {
		return err
	}
	die := func(at string) {
		if how == at {
			if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
				panic(err)
			}
			select {}
		}
	}
	q := chanmq.As(raws, decodes(func(src []byte, v *string) error {
		*v = string(src)
		switch {
		case *v != "poison":
			return nil
		case how == "panic in the codec":
			panic("as the test wants it")
		case how == "decode error function":
			return errors.New("it is poison")
		}
		die("codec")
		return nil
	}))
	c := q.Consumer(context.Background(), chanmq.Any(),
		chanmq.WithMaxAttempts(2, func(d delivery) { fmt.Printf("dead %s %d\n", d.Value, d.Attempt) }),
		chanmq.WithDecodeError(func(*chanmq.DecodeError) { die(how) }))
	for d := range c.C() {
		fmt.Printf("%s %d\n", d.Value, d.Attempt)
		if d.Value == "poison" {
			die("reader")
		}
		if err := d.Ack(); err != nil {
			return err
		}
		if d.Value == "after" {
			return raws.Close()
		}
	}
	return c.Err()
}

// TestMessageThatKillsItsProcess: it does so as often as WithMaxAttempts permits; then the
// next process does without it. The messages around it are handled once.
func TestMessageThatKillsItsProcess(t *testing.T) {
	for how, read := range map[string]bool{ // whether the program sees the message
		"reader": true, "codec": false, "panic in the codec": false, "decode error function": false,
	} {
		t.Run(how, func(t *testing.T) {
			dir := journalDir(t)
			q := newQueue(t)
			for _, text := range []string{"before", "poison", "after"} {
				mustSettle(t, q.Send(ctxWithin(t), 1, []byte(text)))
			}
			run := func() (string, error) {
				cmd := testkit.Process(t, "poisoned", fmt.Sprint(q.ID()), dir, how)
				cmd.Stderr = nil
				out, err := cmd.Output()
				return string(out), err
			}
			want := []string{"before 1\n", "", "dead poison 2\nafter 1\n"}
			if read {
				want[0] += "poison 1\n"
				want[1] += "poison 2\n"
			}
			for n, want := range want {
				out, err := run()
				var exit *exec.ExitError
				if died := errors.As(err, &exit); died != (n < 2) {
					t.Errorf("process %d: %v", n, err)
				}
				if out != want {
					t.Errorf("process %d: %q, want %q", n, out, want)
				}
			}
		})
	}
}

func init() {
	roles["hold, two handles"] = func(args []string) error {
		var id int
		fmt.Sscan(args[0], &id)
		kept, err := chanmq.Attach(id, chanmq.WithJournal(args[1]))
		if err != nil {
			return err
		}
		plain, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
		if err != nil {
			return err
		}
		for n := range 20 {
			if err := plain.Send(context.Background(), 1, number(n)); err != nil {
				return err
			}
			d, err := plain.Take(context.Background(), chanmq.Any())
			if err != nil {
				return err
			}
			if err := d.Ack(); err != nil {
				return err
			}
			if _, err := kept.Take(context.Background(), chanmq.Any()); err != nil {
				return err
			}
		}
		return plain.Close() // and then the process ends
	}
}

// TestJournalBesideAHandleWithout: deliveries of a handle without a journal lend their
// buffers to no message of one that has a journal.
func TestJournalBesideAHandleWithout(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 20)
	testkit.Wait(t, testkit.Start(t, "hold, two handles", fmt.Sprint(q.ID()), dir))
	heir := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir)))
	defer heir.Close()
	for n := range 20 {
		d, ok, err := heir.TryReceive(chanmq.Any())
		if err != nil || !ok || numberOf(d.Value) != n {
			t.Fatalf("received %v, %v, %v, want %d", d, ok, err, n)
		}
	}
}

// TestBorrowedValues: a value is the message, and stays so until it is acknowledged,
// whatever else comes meanwhile.
func TestBorrowedValues(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		for _, size := range []int{0, 1, 255, 256, 257, 4096, 8000} {
			t.Run(fmt.Sprintf("%d bytes", size), func(t *testing.T) {
				q := newQueue(t, opts...)
				const total = 60
				content := func(n int) []byte { return bytes.Repeat([]byte{byte(n)}, size+n%2) }
				background(t, func() {
					for n := range total {
						if err := q.Send(ctxWithin(t), 1, content(n)); err != nil {
							t.Error(err)
						}
					}
				})
				c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(3), chanmq.WithBorrowedValues())
				check := func(d delivery, n int) {
					t.Helper()
					if !bytes.Equal(d.Value, content(n)) || cap(d.Value) != len(d.Value) {
						t.Fatalf("message %d is %.20v, %d bytes, cap %d", n, d.Value, len(d.Value), cap(d.Value))
					}
				}
				old, again := <-c.C(), <-c.C()
				for n := 2; n < total; n++ {
					d := <-c.C()
					check(d, n)
					check(old, 0)
					if n%7 == 0 { // the same message, in its place
						mustSettle(t, again.Nack())
						again = <-c.C()
					}
					check(again, 1)
					mustSettle(t, d.Ack())
				}
				mustSettle(t, c.Close())
				if err := q.Close(); err != nil {
					t.Error(err)
				}
				check(old, 0)
				check(again, 1)
				mustSettle(t, old.Ack())
				mustSettle(t, again.Ack())
			})
		}
	})
}

// TestBorrowedValuesAreRefused for values that a codec makes, and leave the queue alone.
func TestBorrowedValuesAreRefused(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 1)
	texts := chanmq.As(q, codec.String()).Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithBorrowedValues())
	if d, ok := <-texts.C(); ok {
		t.Errorf("delivered %v", d)
	}
	wantError(t, "strings", texts.Err(), nil, "WithBorrowedValues", "codec.Bytes", "receive")
	others := chanmq.As(q, codec.Func(codec.Bytes().Append, codec.Bytes().Decode)).Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithBorrowedValues())
	if d, ok := <-others.C(); ok {
		t.Errorf("delivered %v", d)
	}
	wantError(t, "another codec", others.Err(), nil, "WithBorrowedValues", "codec.Bytes")
	same := chanmq.As(q, codec.Bytes()).Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithBorrowedValues())
	d := <-same.C()
	wantDelivery(t, d, 0, 1)
	mustSettle(t, d.Ack())
}

// TestAllocationsOfDeliveries: only a value of its own costs an allocation.
func TestAllocationsOfDeliveries(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector sync.Pool drops values at random, which costs allocations")
	}
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		q := newQueue(t, opts...)
		points := chanmq.As(q, codec.Struct[point]())
		ctx := t.Context()
		check := func(err error) {
			if err != nil {
				t.Fatal(err)
			}
		}
		small, large := make([]byte, 64), make([]byte, 4096)
		borrowed := q.Consumer(ctx, chanmq.OfType(2), chanmq.WithBorrowedValues())
		borrowedPool := q.Consumer(ctx, chanmq.OfType(3), chanmq.WithBorrowedValues(), chanmq.WithInFlight(8))
		structs := points.Consumer(ctx, chanmq.OfType(4))
		own := q.Consumer(ctx, chanmq.OfType(5))
		consume := func(c *chanmq.Consumer[[]byte], typ int64, text []byte) func() {
			return func() {
				check(q.Send(ctx, typ, text))
				check((<-c.C()).Ack())
			}
		}
		for _, test := range []struct {
			name string
			do   func()
			want float64
		}{
			{"Take of a struct", func() {
				check(points.Send(ctx, 1, point{}))
				d, err := points.Take(ctx, chanmq.OfType(1))
				check(err)
				check(d.Ack())
			}, 0},
			{"Take of []byte", func() {
				check(q.Send(ctx, 1, small))
				d, err := q.Take(ctx, chanmq.OfType(1))
				check(err)
				check(d.Ack())
			}, 1},
			{"borrowed, 64 bytes", consume(borrowed, 2, small), 0},
			{"borrowed, 4 KiB", consume(borrowed, 2, large), 0},
			{"borrowed, 8 in flight, 64 bytes", consume(borrowedPool, 3, small), 0},
			{"borrowed, 8 in flight, 4 KiB", consume(borrowedPool, 3, large), 0},
			{"Consumer of a struct", func() {
				check(points.Send(ctx, 4, point{}))
				check((<-structs.C()).Ack())
			}, 0},
			{"Consumer of []byte", consume(own, 5, small), 1},
		} {
			t.Run(test.name, func(t *testing.T) {
				for range 20 {
					test.do() // each buffer grows once
				}
				if got := testing.AllocsPerRun(1000, test.do); got > test.want {
					t.Errorf("%v allocations, want %v", got, test.want)
				}
			})
		}
	})
}

// badTexts is a codec that does not decode "bad".
var badTexts = decodes(func(src []byte, v *string) error {
	if *v = string(src); *v == "bad" {
		return errors.New("it is bad")
	}
	return nil
})

// sendTexts sends them as type 7.
func sendTexts(t testing.TB, q *chanmq.Queue[[]byte], texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := q.Send(ctxWithin(t), 7, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
}

// wantTexts receives them, and nothing else.
func wantTexts(t testing.TB, q *chanmq.Queue[[]byte], texts ...string) {
	t.Helper()
	for _, text := range texts {
		m, ok, err := q.TryReceive(chanmq.Any())
		if err != nil || !ok || string(m.Value) != text {
			t.Errorf("TryReceive: %q, %v, %v, want %q", m.Value, ok, err, text)
		}
	}
	wantNone(t, q)
}

// TestDeliveryThatDoesNotDecode: it is in the error, or the function's, and is not
// delivered.
func TestDeliveryThatDoesNotDecode(t *testing.T) {
	wantUndecoded := func(t *testing.T, err error) {
		t.Helper()
		var undecoded *chanmq.DecodeError
		if !errors.As(err, &undecoded) || string(undecoded.Message.Value) != "bad" || undecoded.Message.Type != 7 {
			t.Errorf("the error is %v", err)
		}
	}
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		t.Run("Take", func(t *testing.T) {
			raws := newQueue(t, opts...)
			sendTexts(t, raws, "bad", "good")
			d, err := chanmq.As(raws, badTexts).Take(ctxWithin(t), chanmq.Any())
			wantUndecoded(t, err)
			mustSettle(t, d.Nack()) // it is the zero Delivery
			wantTexts(t, raws, "good")
		})
		for _, inFlight := range []int{1, 4} {
			t.Run(fmt.Sprintf("ends a Consumer, %d in flight", inFlight), func(t *testing.T) {
				raws := newQueue(t, opts...)
				sendTexts(t, raws, "good", "bad", "better")
				c := chanmq.As(raws, badTexts).Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(inFlight))
				for d := range c.C() {
					if d.Value != "good" {
						t.Errorf("delivered %q", d.Value)
					}
					mustSettle(t, d.Ack())
				}
				wantUndecoded(t, c.Err())
				mustSettle(t, c.Close())
				wantTexts(t, raws, "better")
			})
			t.Run(fmt.Sprintf("goes to the function, %d in flight", inFlight), func(t *testing.T) {
				raws := newQueue(t, opts...)
				sendTexts(t, raws, "bad", "good", "bad", "bad", "better")
				var undecoded atomic.Int32
				c := chanmq.As(raws, badTexts).Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(inFlight),
					chanmq.WithDecodeError(func(e *chanmq.DecodeError) { wantUndecoded(t, e); undecoded.Add(1) }))
				for _, want := range []string{"good", "better"} {
					d := <-c.C()
					if d.Value != want || d.Attempt != 1 {
						t.Errorf("delivered %q, attempt %d, want %q", d.Value, d.Attempt, want)
					}
					mustSettle(t, d.Ack())
				}
				if n := undecoded.Load(); n != 3 {
					t.Errorf("%d went to the function, want 3", n)
				}
				mustSettle(t, c.Close())
				wantNone(t, raws)
			})
		}
		t.Run("the function may receive, and end the ctx", func(t *testing.T) {
			raws := newQueue(t, opts...)
			sendTexts(t, raws, "bad", "good")
			ctx, cancel := context.WithCancel(ctxWithin(t))
			defer cancel()
			c := chanmq.As(raws, badTexts).Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(3), chanmq.WithDecodeError(func(*chanmq.DecodeError) {
				cancel()
				if m, err := raws.Receive(ctxWithin(t), chanmq.Any()); err != nil || string(m.Value) != "good" {
					t.Errorf("received %q, %v", m.Value, err)
				}
			}))
			<-c.Done()
			wantError(t, "Err", c.Err(), context.Canceled)
			wantNone(t, raws)
		})
	})
}

// TestDeliveryCodecThatDoesNotReturn: what it was given is handed back, in its place.
func TestDeliveryCodecThatDoesNotReturn(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		for how, exit := range map[string]func(){"panic": func() { panic("the codec panics") }, "Goexit": runtime.Goexit} {
			t.Run("Take, "+how, func(t *testing.T) {
				raws := newQueue(t, opts...)
				sendTexts(t, raws, "one", "two")
				q := chanmq.As(raws, decodes(func([]byte, *string) error { exit(); return nil }))
				inGoroutine(func() { _, _ = q.Take(context.Background(), chanmq.Any()) })
				wantTexts(t, raws, "one", "two")
			})
		}
		exits := decodes(func(src []byte, v *string) error {
			if *v = string(src); *v == "exit" {
				runtime.Goexit()
			}
			return nil
		})
		for _, inFlight := range []int{1, 8} {
			t.Run(fmt.Sprintf("Consumer, Goexit, %d in flight", inFlight), func(t *testing.T) {
				raws := newQueue(t, opts...)
				sendTexts(t, raws, "exit", "two")
				c := chanmq.As(raws, exits).Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(inFlight))
				<-c.Done()
				wantError(t, "Err", c.Err(), nil, "receive", "runtime.Goexit")
				mustSettle(t, c.Close())
				wantTexts(t, raws, "exit", "two")
			})
		}
		t.Run("the decode error function, Goexit", func(t *testing.T) {
			raws := newQueue(t, opts...)
			sendTexts(t, raws, "bad", "two")
			c := chanmq.As(raws, badTexts).Consumer(ctxWithin(t), chanmq.Any(),
				chanmq.WithDecodeError(func(*chanmq.DecodeError) { runtime.Goexit() }))
			<-c.Done()
			wantError(t, "Err", c.Err(), nil, "receive", "runtime.Goexit")
			wantTexts(t, raws, "bad", "two")
		})
	})
}

// TestConsumerThatCannotStart: its C is closed at once, and Err says why. It takes nothing.
func TestConsumerThatCannotStart(t *testing.T) {
	closed := newQueue(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	open := newQueue(t)
	sendNumbers(t, open, 1, 0, 1)
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	dead := func(delivery) {}
	for _, test := range []struct {
		name  string
		q     *chanmq.Queue[[]byte]
		ctx   context.Context
		s     chanmq.Selector
		opts  []chanmq.ConsumerOption
		is    error
		words []string
	}{
		{name: "closed handle", q: closed, is: chanmq.ErrClosed},
		{name: "zero Queue", q: new(chanmq.Queue[[]byte]), is: chanmq.ErrClosed, words: []string{"zero value"}},
		{name: "type 0", s: chanmq.OfType(0), is: chanmq.ErrInvalidType},
		{name: "negative type", s: chanmq.UpTo(-1), is: chanmq.ErrInvalidType},
		{name: "ctx ended", ctx: ended, is: context.Canceled},
		{name: "ctx ended, WithDrain", ctx: ended, opts: []chanmq.ConsumerOption{chanmq.WithDrain()}, is: context.Canceled},
		{name: "WithBuffer(-1)", opts: []chanmq.ConsumerOption{chanmq.WithBuffer(-1)}, words: []string{"WithBuffer(-1)"}},
		{name: "WithInFlight(0)", opts: []chanmq.ConsumerOption{chanmq.WithInFlight(0)}, words: []string{"WithInFlight(0)"}},
		{name: "WithInFlight(math.MaxInt)", opts: []chanmq.ConsumerOption{chanmq.WithInFlight(math.MaxInt)}, words: []string{"WithInFlight", "16777216"}},
		{name: "WithInFlight(-3)", opts: []chanmq.ConsumerOption{chanmq.WithInFlight(5), chanmq.WithInFlight(-3)}, words: []string{"WithInFlight(-3)"}},
		{name: "WithMaxAttempts(0)", opts: []chanmq.ConsumerOption{chanmq.WithMaxAttempts(0, dead)}, words: []string{"WithMaxAttempts(0)"}},
		{name: "WithMaxAttempts, nil", opts: []chanmq.ConsumerOption{chanmq.WithMaxAttempts(1, nil)}, words: []string{"WithMaxAttempts", "nil"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.q == nil {
				test.q = open
			}
			if test.ctx == nil {
				test.ctx = ctxWithin(t)
			}
			c := test.q.Consumer(test.ctx, test.s, test.opts...)
			if d, ok := <-c.C(); ok {
				t.Errorf("C yielded %v", d)
			}
			wantError(t, "Err", c.Err(), test.is, append(test.words, "receive")...)
			<-c.Done()
			if err := errors.Join(c.Drain(context.Background()), c.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	_, err := new(chanmq.Queue[[]byte]).Take(ctxWithin(t), chanmq.Any())
	wantError(t, "Take of the zero Queue", err, chanmq.ErrClosed, "zero value")
	_, err = closed.Take(ctxWithin(t), chanmq.Any())
	wantError(t, "Take of a closed handle", err, chanmq.ErrClosed)
	_, err = open.Take(ctxWithin(t), chanmq.OfType(0))
	wantError(t, "Take of type 0", err, chanmq.ErrInvalidType)
	_, err = open.Take(ended, chanmq.Any())
	wantError(t, "Take with a ctx that has ended", err, context.Canceled)
	wantNumbers(t, open, chanmq.Any(), 0, 1) // nobody took it
}

// TestConsumerCause: Err matches the cause of its ctx, of whatever kind that is.
func TestConsumerCause(t *testing.T) {
	q := newQueue(t)
	why := errors.New("because")
	ctx, cancel := context.WithCancelCause(ctxWithin(t))
	c := q.Consumer(ctx, chanmq.Any())
	if err := c.Err(); err != nil {
		t.Errorf("Err while C is open: %v", err)
	}
	cancel(why)
	<-c.Done()
	wantError(t, "Err", c.Err(), why)
	wantError(t, "Err", c.Err(), context.Canceled, "receive", "because", "msqid")
	for name, newContext := range contexts {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := newContext(ctxWithin(t))
			c := q.Consumer(ctx, chanmq.Any())
			cancel()
			<-c.Done()
			wantError(t, "Err", c.Err(), context.Canceled)
			if err := c.Err(); c.Close() != nil || c.Err() != err {
				t.Errorf("Err changed from %v to %v", err, c.Err())
			}
		})
	}
}

// TestDrainOfAConsumer: it delivers what it has taken, and does not wait for that to be
// acknowledged.
func TestDrainOfAConsumer(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		for _, buffer := range []int{0, 1, 2} {
			for how, end := range map[string]func(*chanmq.Consumer[[]byte], context.CancelFunc) error{
				"Drain": func(c *chanmq.Consumer[[]byte], cancel context.CancelFunc) error {
					ctx, end := context.WithCancel(context.Background())
					end()
					return c.Drain(ctx)
				},
				"WithDrain": func(_ *chanmq.Consumer[[]byte], cancel context.CancelFunc) error { cancel(); return nil },
			} {
				t.Run(fmt.Sprintf("%s, buffer %d", how, buffer), func(t *testing.T) {
					q := newQueue(t, opts...)
					sendNumbers(t, q, 1, 0, 5)
					ctx, cancel := context.WithCancel(ctxWithin(t))
					defer cancel()
					c := q.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(3), chanmq.WithBuffer(buffer), chanmq.WithDrain())
					untilTaken(t, q, 2)
					if err := end(c, cancel); buffer < 2 && how == "Drain" {
						wantError(t, "Drain while nobody reads", err, context.Canceled, "drain")
					}
					var held []delivery
					for d := range c.C() {
						wantDelivery(t, d, len(held), 1)
						held = append(held, d)
					}
					if len(held) != 3 {
						t.Fatalf("%d were delivered, want 3", len(held))
					}
					if how == "Drain" {
						mustSettle(t, c.Err())
					} else {
						wantError(t, "Err", c.Err(), context.Canceled)
					}
					mustSettle(t, c.Drain(ctxWithin(t)))
					mustSettle(t, held[0].Ack())
					mustSettle(t, held[2].Nack())
					mustSettle(t, held[1].Nack())
					wantNumbers(t, q, chanmq.Any(), 1, 5)
				})
			}
		}
	})
}

// TestCloseOfAConsumer from every side: what was read is the program's, and the rest comes
// from the handle, in order.
func TestCloseOfAConsumer(t *testing.T) {
	const sent = 12
	type consumer = *chanmq.Consumer[[]byte]
	read := func(t *testing.T, c consumer, n int) (read []delivery) {
		for range n {
			read = append(read, <-c.C())
		}
		return read
	}
	ways := []struct {
		name string
		do   func(t *testing.T, q *chanmq.Queue[[]byte], c consumer) []delivery
	}{
		{"unread", func(_ *testing.T, _ *chanmq.Queue[[]byte], c consumer) []delivery {
			c.Close()
			return nil
		}},
		{"twice", func(t *testing.T, _ *chanmq.Queue[[]byte], c consumer) []delivery {
			got := read(t, c, 3)
			c.Close()
			c.Close()
			return got
		}},
		{"from its reader", func(_ *testing.T, _ *chanmq.Queue[[]byte], c consumer) (got []delivery) {
			for d := range c.C() {
				if got = append(got, d); len(got) == 4 {
					c.Close()
				}
			}
			return got
		}},
		{"from many sides", func(t *testing.T, _ *chanmq.Queue[[]byte], c consumer) []delivery {
			got := read(t, c, 2)
			var all sync.WaitGroup
			for range 8 {
				all.Go(func() { c.Close() })
			}
			all.Wait()
			return got
		}},
		{"while others read", func(_ *testing.T, _ *chanmq.Queue[[]byte], c consumer) (got []delivery) {
			var mu sync.Mutex
			var all sync.WaitGroup
			for range 3 {
				all.Go(func() {
					for d := range c.C() {
						mu.Lock()
						got = append(got, d)
						mu.Unlock()
					}
				})
			}
			c.Close()
			all.Wait()
			return got
		}},
		{"beside that of the queue", func(t *testing.T, q *chanmq.Queue[[]byte], c consumer) []delivery {
			got := read(t, c, 2)
			var all sync.WaitGroup
			all.Go(func() { c.Close() })
			all.Go(func() { q.Close() })
			all.Wait()
			return got
		}},
		{"of the queue", func(t *testing.T, q *chanmq.Queue[[]byte], c consumer) []delivery {
			got := read(t, c, 2)
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			wantError(t, "Err", c.Err(), chanmq.ErrClosed)
			return got
		}},
	}
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		for _, inFlight := range []int{4, 2 * sent} {
			for _, buffer := range []int{0, 1, 2 * sent} {
				for _, way := range ways {
					t.Run(fmt.Sprintf("%s, %d in flight, buffer %d", way.name, inFlight, buffer), func(t *testing.T) {
						q := newQueue(t, opts...)
						other := attach(t, q.ID())
						sendNumbers(t, q, 1, 0, sent)
						c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(inFlight), chanmq.WithBuffer(buffer))
						untilTaken(t, q, max(0, sent-inFlight))
						got := way.do(t, q, c)
						if d, ok := <-c.C(); ok {
							t.Errorf("after Close, C has %v", d)
						}
						// Some are acknowledged, and the rest given back.
						var want []int
						acked := make(map[int]bool)
						for i, d := range got {
							if i%3 == 0 {
								acked[numberOf(d.Value)] = true
								mustSettle(t, d.Ack())
							} else {
								mustSettle(t, d.Nack())
							}
						}
						for n := range sent {
							if !acked[n] {
								want = append(want, n)
							}
						}
						handle, ordered := q, true
						if strings.Contains(way.name, "queue") {
							handle, ordered = other, false // what was sent back is at the tail
						}
						var left []int
						takeAll(t, handle, func(m chanmq.Message[[]byte]) { left = append(left, numberOf(m.Value)) })
						if !ordered {
							slices.Sort(left)
						}
						if !slices.Equal(left, want) {
							t.Errorf("then came %v, want %v", left, want)
						}
					})
				}
			}
		}
	})
}

// TestShutdownLeavesDeliveries: what is not acknowledged when its ctx ends stays the
// program's.
func TestShutdownLeavesDeliveries(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		q := newQueue(t, opts...)
		other := attach(t, q.ID())
		sendNumbers(t, q, 1, 0, 3)
		c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(2))
		taken := []delivery{<-c.C(), <-c.C()}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		err := q.Shutdown(ctx)
		wantError(t, "Shutdown", err, context.Canceled, "shutdown", "msqid")
		var op *chanmq.OpError
		if !errors.As(err, &op) || op.Op != "shutdown" {
			t.Errorf("Shutdown: %#v", err)
		}
		mustSettle(t, taken[0].Ack())
		mustSettle(t, taken[1].Nack())
		for _, n := range []int{2, 1} { // at the tail
			wantNumbers(t, other, chanmq.Any(), n, n+1)
		}
		wantNone(t, other)
	})
}

// TestDeliveriesAcrossReopen: when the queue was removed and re-created, deliveries of the
// one before can be acknowledged, and given back; there is a new journal, and in the end
// none.
func TestDeliveriesAcrossReopen(t *testing.T) {
	for _, made := range []string{"by others", "by the handle"} {
		t.Run(made, func(t *testing.T) {
			withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
				var q *chanmq.Queue[[]byte]
				if made == "by others" {
					q = openReopening(t, opts...)
				} else {
					q = newKeyed(t, append(opts, chanmq.WithReopen())...)
				}
				lost := q.ID()
				sendNumbers(t, q, 1, 0, 4)
				c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(5))
				held := []delivery{<-c.C(), <-c.C(), <-c.C(), <-c.C()}
				removeElsewhere(t, lost)
				var other *chanmq.Queue[[]byte]
				if made == "by others" {
					other = createElsewhere(t, q.Key())
				} else {
					testkit.Eventually(t, "another queue", func() bool { return q.ID() != lost })
					testkit.Reap(t, q.ID())
					other = attach(t, q.ID())
				}
				sendNumbers(t, other, 1, 4, 6)
				d := <-c.C()
				wantDelivery(t, d, 4, 1)
				mustSettle(t, held[1].Ack())
				e := <-c.C()
				wantDelivery(t, e, 5, 1)
				mustSettle(t, d.Ack())
				mustSettle(t, held[2].Nack()) // older than what comes from the new queue
				f := <-c.C()
				wantDelivery(t, f, 2, 2)
				mustSettle(t, c.Close())
				if err := q.Close(); err != nil {
					t.Error(err)
				}
				mustSettle(t, held[0].Ack())
				mustSettle(t, held[3].Nack()) // to the new queue
				mustSettle(t, f.Nack())
				mustSettle(t, e.Ack())
				wantNumbers(t, other, chanmq.Any(), 3, 4)
				wantNumbers(t, other, chanmq.Any(), 2, 3)
				wantNone(t, other)
			})
		})
	}
}

// TestJournalOfDeliveries: the file lives as long as anything is in flight, also without
// the handle, and no longer.
func TestJournalOfDeliveries(t *testing.T) {
	for name, settle := range settlings {
		t.Run(name, func(t *testing.T) {
			dir := journalDir(t)
			q := newQueue(t, chanmq.WithJournal(dir))
			sendNumbers(t, q, 1, 0, 8)
			c := q.Consumer(ctxWithin(t), chanmq.Any(), chanmq.WithInFlight(4), chanmq.WithBorrowedValues())
			taken := []delivery{<-c.C(), <-c.C()}
			taken = append(taken, must(q.Take(ctxWithin(t), chanmq.Any())))
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			for i, d := range taken {
				if files := journals(t, dir); len(files) != 1 || filepath.Ext(files[0]) != ".journal" {
					t.Errorf("with %d in flight there are %v", len(taken)-i, files)
				}
				if n := numberOf(d.Value); n > 4 {
					t.Errorf("delivery %d is %d", i, n)
				}
				mustSettle(t, settle(d))
			}
			if files := journals(t, dir); len(files) != 0 {
				t.Errorf("with none in flight there are %v", files)
			}
		})
	}
}
