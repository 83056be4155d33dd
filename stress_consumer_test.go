//go:build linux

package chanmq_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
)

// TestOrderThroughNacks: the only consumer of a type sees each message in order, through
// Nacks at random, cancels and new subscriptions at once with any kind of ctx, direct
// calls, Receivers and Consumers in turns.
func TestOrderThroughNacks(t *testing.T) {
	for name, newContext := range contexts {
		t.Run(name, func(t *testing.T) {
			withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
				q := newQueue(t, opts...)
				total := 4 * rounds(20)
				sendInBackground(t, q, total, func(int) int64 { return 1 })
				random := rand.New(rand.NewPCG(3, 4))
				next, attempts := 0, 0
				settle := func(d delivery) {
					t.Helper()
					wantDelivery(t, d, next, attempts+1)
					if random.IntN(3) == 0 {
						attempts++
						mustSettle(t, d.Nack())
					} else {
						next, attempts = next+1, 0
						mustSettle(t, d.Ack())
					}
				}
				received := func(m chanmq.Message[[]byte], err error) {
					t.Helper()
					if err != nil || numberOf(m.Value) != next {
						t.Fatalf("received %v, %v, want %d", m, err, next)
					}
					next, attempts = next+1, 0
				}
				for next < total {
					ctx, cancel := newContext(ctxWithin(t))
					switch random.IntN(5) {
					case 0:
						received(q.Receive(ctx, chanmq.OfType(1)))
					case 1:
						d, err := q.Take(ctx, chanmq.OfType(1))
						if err != nil {
							t.Fatal(err)
						}
						settle(d)
					case 2:
						r := q.Receiver(ctx, chanmq.OfType(1))
						for range min(random.IntN(3), total-next) {
							received(<-r.C(), nil)
						}
					default:
						// What it had in C's buffer would be the program's to read.
						c := q.Consumer(ctx, chanmq.OfType(1), chanmq.WithInFlight(1+random.IntN(4)), chanmq.WithBuffer(0))
						for range random.IntN(4) {
							if next == total {
								break
							}
							d := <-c.C()
							if d.Attempt > attempts+1 || numberOf(d.Value) != next {
								t.Fatalf("delivered %v, attempt %d, want %d, attempt %d", d.Value, d.Attempt, next, attempts+1)
							}
							// One that was given back here would come behind those that it holds.
							next, attempts = next+1, 0
							mustSettle(t, d.Ack())
						}
						if random.IntN(2) == 0 {
							mustSettle(t, c.Close())
						}
					}
					cancel()
				}
				wantNone(t, q)
			})
		})
	}
}

// TestManyNacks: pools of Consumers with Nacks at random, on views of several handles, that
// are closed and begun again all the time. Each message is acknowledged once, and its
// attempts are counted.
func TestManyNacks(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		total := 2 * rounds(3)
		q := newQueue(t)
		sendInBackground(t, q, total, func(n int) int64 { return int64(1 + n%3) })
		var mu sync.Mutex
		acked := make(map[int]int)
		ctx, done := context.WithCancel(ctxWithin(t))
		defer done()
		// handled decides what becomes of a delivery, and notes it before that can be seen.
		handled := func(d delivery) {
			if rand.IntN(4) == 0 {
				if err := d.Nack(); err != nil {
					t.Error(err)
				}
				return
			}
			mu.Lock()
			n := numberOf(d.Value)
			if acked[n]++; acked[n] > 1 {
				t.Errorf("%d came after Ack, attempt %d", n, d.Attempt)
			}
			if len(acked) == total {
				done()
			}
			mu.Unlock()
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
			if rand.IntN(8) == 0 {
				_ = d.Nack() // too late
			}
		}
		var all sync.WaitGroup
		for handle := range 2 {
			h := must(chanmq.Attach(q.ID(), opts...))
			for range 3 {
				all.Go(func() {
					for ctx.Err() == nil {
						options := []chanmq.ConsumerOption{chanmq.WithInFlight(1 + rand.IntN(6)), chanmq.WithBuffer(rand.IntN(4))}
						s := []chanmq.Selector{chanmq.Any(), chanmq.OfType(1), chanmq.Except(1), chanmq.UpTo(3)}[rand.IntN(4)]
						one, cancel := context.WithCancel(ctx)
						c := h.Consumer(one, s, options...)
						var workers sync.WaitGroup
						for range 1 + rand.IntN(3) {
							workers.Go(func() {
								for left := 20; ; left-- {
									select {
									case d, ok := <-c.C():
										if !ok {
											return
										}
										handled(d)
									case <-ctx.Done():
										return
									}
									if left == 0 {
										cancel()
									}
								}
							})
						}
						workers.Wait()
						cancel()
						_ = c.Close()
						if handle == 0 {
							runtime.Gosched()
						}
					}
				})
			}
			all.Go(func() {
				for {
					d, err := h.Take(ctx, chanmq.Any())
					if err != nil {
						if !errors.Is(err, context.Canceled) {
							t.Error(err)
						}
						return
					}
					handled(d)
				}
			})
			defer func() {
				if err := h.Close(); err != nil {
					t.Error(err)
				}
			}()
		}
		all.Wait()
		if len(acked) != total {
			t.Errorf("%d of %d messages were acknowledged", len(acked), total)
		}
	})
}

// TestEverythingEndsWithDeliveries: Consumer.Close, Queue.Close, Shutdown, the ctx and the
// program's Acks and Nacks at once leave each message in one place.
func TestEverythingEndsWithDeliveries(t *testing.T) {
	withAndWithoutJournal(t, func(t *testing.T, opts ...chanmq.Option) {
		q := newQueue(t)
		const messages = 12
		for round := range rounds(40) {
			h := must(chanmq.Attach(q.ID(), opts...))
			ctx, cancel := context.WithCancel(ctxWithin(t))
			c := h.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(2+round%7), chanmq.WithBuffer(round%4))
			sendNumbers(t, q, 1, 0, messages)
			var mu sync.Mutex
			var came []int
			at := func(n int) {
				mu.Lock()
				defer mu.Unlock()
				came = append(came, n)
			}
			note := func(err error) {
				var left *chanmq.UndeliveredError
				if errors.As(err, &left) {
					for _, m := range left.Messages {
						at(numberOf(m.Value))
					}
				} else if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			}
			var all sync.WaitGroup
			for range 2 {
				all.Go(func() {
					for d := range c.C() {
						if rand.IntN(2) == 0 {
							at(numberOf(d.Value))
							note(d.Ack())
						} else {
							note(d.Nack())
						}
					}
				})
			}
			ends := []func(){
				cancel,
				func() { _ = c.Close() },
				func() { note(h.Close()) },
				func() { note(h.Shutdown(ctx)) },
				func() { _ = c.Drain(ctx) },
			}
			rand.Shuffle(len(ends), func(i, j int) { ends[i], ends[j] = ends[j], ends[i] })
			time.Sleep(rand.N(200 * time.Microsecond))
			for _, end := range ends {
				all.Go(end)
			}
			all.Wait()
			takeAll(t, q, func(m chanmq.Message[[]byte]) { at(numberOf(m.Value)) })
			slices.Sort(came)
			for n := range messages {
				if len(came) != messages || came[n] != n {
					t.Fatalf("round %d: there are %v, want 0 to %d", round, came, messages-1)
				}
			}
		}
	})
}

func init() {
	roles["consume"] = consumeRole
}

// consumeRole consumes, and prints the number and the attempt of each message before it
// acknowledges it; now and then it gives one back: msqid, directory, in flight.
func consumeRole(args []string) error {
	id, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	inFlight, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	q, err := chanmq.Attach(id, chanmq.WithJournal(args[1]))
	if err != nil {
		return err
	}
	numbers := chanmq.As(q, codec.Func(
		func(dst []byte, n int) ([]byte, error) { return append(dst, number(n)...), nil },
		func(src []byte, n *int) error { *n = numberOf(src); return nil }))
	c := numbers.Consumer(context.Background(), chanmq.Any(), chanmq.WithInFlight(inFlight))
	var workers sync.WaitGroup
	for range inFlight {
		workers.Go(func() {
			for d := range c.C() {
				nack := rand.IntN(5) == 0
				if _, err := fmt.Printf("%d %d %v\n", d.Value, d.Attempt, nack); err != nil {
					return // nobody listens
				}
				if nack {
					_ = d.Nack()
				} else {
					_ = d.Ack()
				}
			}
		})
	}
	workers.Wait()
	return c.Err()
}

// kept counts the times that a message was not given back.
func kept(before []bool) (n int) {
	for _, nack := range before {
		if !nack {
			n++
		}
	}
	return n
}

// TestFaultKilledConsumers kills the consumers of a queue at any moment. Every message is
// acknowledged by one of them, none comes again that was acknowledged before the next one
// was read, and the only consumer sees them in order.
func TestFaultKilledConsumers(t *testing.T) {
	for _, inFlight := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d in flight", inFlight), func(t *testing.T) {
			dir := journalDir(t)
			q := newQueue(t)
			total, kills := 40*rounds(300), rounds(300)
			sendInBackground(t, q, total, func(int) int64 { return 1 })
			lines := make(map[int][]bool) // of a message, in order: was it given back?
			last, count := -1, 0
			for died := 0; count < total; died++ {
				cmd := testkit.Process(t, "consume", fmt.Sprint(q.ID()), dir, fmt.Sprint(inFlight))
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				patience := 1 + rand.IntN(2*total/kills)
				first := true
				for lineScanner := bufio.NewScanner(out); lineScanner.Scan(); patience-- {
					var n, attempt int
					var nack bool
					if _, err := fmt.Sscan(lineScanner.Text(), &n, &attempt, &nack); err != nil {
						t.Fatalf("%q: %v", lineScanner.Text(), err)
					}
					before := lines[n]
					if attempt <= len(before)-1 || attempt < 1 {
						t.Errorf("message %d came %d times before, and says attempt %d", n, len(before), attempt)
					}
					if inFlight == 1 {
						again := n == last && (first || before[len(before)-1])
						next := n == last+1 && (last < 0 || !lines[last][len(lines[last])-1])
						if !again && !next {
							t.Errorf("%d came after %d (%v), first of its process: %v", n, last, lines[last], first)
						}
					} else if kept := kept(before); kept > died {
						t.Errorf("message %d was not given back %d times, and comes again after %d deaths", n, kept, died)
					}
					if !nack && !slices.Contains(before, false) {
						count++
					}
					lines[n] = append(before, nack)
					last, first = n, false
					if patience == 0 || count == total {
						if err := cmd.Process.Kill(); err != nil {
							t.Fatal(err)
						}
						// What it wrote before it died is read to its end.
					}
				}
				_ = cmd.Wait() // it was killed
			}
			// The last one may have died before its last Ack.
			heir := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir)))
			defer heir.Close()
			left := 0
			takeAll(t, heir, func(m chanmq.Message[[]byte]) {
				if left++; lines[numberOf(m.Value)] == nil {
					t.Errorf("%d was never delivered", numberOf(m.Value))
				}
			})
			if left > inFlight {
				t.Errorf("%d messages came again in the end, want at most %d", left, inFlight)
			}
			for n := range total {
				if !slices.Contains(lines[n], false) {
					t.Errorf("%d was never acknowledged", n)
				}
			}
		})
	}
}
