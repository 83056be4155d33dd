package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
)

// storages are where a handle keeps what it has taken: options that open it so. On Linux
// there is another one, in consumer_test.go.
var storages = map[string]func(testing.TB) []chanmq.Option{
	"no journal": func(testing.TB) []chanmq.Option { return nil },
}

// withAndWithoutJournal runs a test for each of the storages: as long as no process dies,
// a program cannot tell them apart.
func withAndWithoutJournal(t *testing.T, test func(t *testing.T, opts ...chanmq.Option)) {
	t.Helper()
	for name, options := range storages {
		t.Run(name, func(t *testing.T) { test(t, options(t)...) })
	}
}

// TestConsumerTakesNoMoreThanInFlight: what it has taken is what WithInFlight says, however
// messages arrive, and whatever room C has. It may be less only where C has room for less:
// then a batch waits for its reader.
func TestConsumerTakesNoMoreThanInFlight(t *testing.T) {
	const messages = 150
	for _, inFlight := range []int{1, 2, 7, 64, 65, 100} {
		for _, buffer := range []int{0, 3, 200} {
			for way, come := range map[string]func(t *testing.T, m *machine, id int){
				"at once": func(t *testing.T, m *machine, id int) {
					for n := range messages {
						m.puts(t, id, 1, n)
					}
				},
				"one by one": func(t *testing.T, m *machine, id int) {
					for n := range messages {
						m.puts(t, id, 1, n)
						synctest.Wait()
					}
				},
				"when it looks": func(t *testing.T, m *machine, id int) {
					sent := 0
					m.faults(func(_ int, c simq.Call) error {
						if c.Op == simq.Receive && sent < messages {
							m.puts(t, id, 1, sent)
							sent++
						}
						return nil
					})
					synctest.Wait()
					m.faults(nil)
					for ; sent < messages; sent++ {
						m.puts(t, id, 1, sent)
					}
				},
			} {
				t.Run(fmt.Sprintf("%d, buffer %d, messages %s", inFlight, buffer, way), func(t *testing.T) {
					onMachine(t, func(t *testing.T, m *machine) {
						q := m.private(t)
						c := q.Consumer(t.Context(), chanmq.Any(), chanmq.WithInFlight(inFlight), chanmq.WithBuffer(buffer))
						synctest.Wait()
						come(t, m, q.ID())
						acked := 0
						check := func() {
							t.Helper()
							synctest.Wait()
							stat, err := q.Stat()
							if err != nil {
								t.Fatal(err)
							}
							taken, want := messages-stat.Messages, min(acked+inFlight, messages)
							if taken > want || taken < want && buffer >= inFlight-1 {
								t.Fatalf("with %d acknowledged, %d are taken, want %d", acked, taken, want)
							}
						}
						var held []chanmq.Delivery[[]byte]
						for next := 0; acked < messages; {
							for len(held) < inFlight && next < messages {
								d := <-c.C()
								if n := numberIn(d.Value); n != next || d.Attempt != 1 {
									t.Fatalf("%d came as number %d, attempt %d", n, next, d.Attempt)
								}
								next++
								held = append(held, d)
								check()
							}
							last := len(held) - 1
							_ = held[last].Ack()
							held = held[:last]
							acked++
							check()
						}
					})
				})
			}
		}
	}
}

// TestEndsOfAConsumer is the matrix of what a Consumer holds and how it ends, one way
// alone and two at once. What the program had and gives back later, and what it had not, is
// in the handle afterwards, in order, and nothing else is.
func TestEndsOfAConsumer(t *testing.T) {
	withAndWithoutJournal(t, testEndsOfAConsumer)
}

func testEndsOfAConsumer(t *testing.T, storage ...chanmq.Option) {
	t.Helper()
	type consumer struct {
		c      *chanmq.Consumer[[]byte]
		cancel context.CancelFunc
	}
	ends := []struct {
		name string
		end  func(consumer)
	}{
		{"cancel", func(c consumer) { c.cancel() }},
		{"Close", func(c consumer) { _ = c.c.Close() }},
		{"Drain", func(c consumer) { _ = c.c.Drain(context.Background()) }},
	}
	const count = 6
	for _, inFlight := range []int{1, 2, 4, 10} {
		for _, buffer := range []int{0, 10} {
			for _, read := range []int{0, 1, 2, count} {
				if read > inFlight {
					continue
				}
				for i, one := range ends {
					for _, other := range ends[i:] {
						for way, opts := range ways {
							if storage != nil && way != "parking" {
								continue // each makes a file, and how it waits has nothing to do with that
							}
							for _, drain := range []bool{false, true} {
								name := fmt.Sprintf("%d in flight, buffer %d, %d read, %s and %s, WithDrain %v, %s",
									inFlight, buffer, read, one.name, other.name, drain, way)
								t.Run(name, func(t *testing.T) {
									onMachine(t, func(t *testing.T, m *machine) {
										q := m.private(t, append(storage, opts...)...)
										for n := range count {
											m.puts(t, q.ID(), 1, n)
										}
										ctx, cancel := context.WithCancel(t.Context())
										defer cancel()
										options := []chanmq.ConsumerOption{chanmq.WithInFlight(inFlight), chanmq.WithBuffer(buffer)}
										if drain {
											options = append(options, chanmq.WithDrain())
										}
										c := consumer{q.Consumer(ctx, chanmq.Any(), options...), cancel}
										var held []chanmq.Delivery[[]byte]
										get := func() bool {
											d, ok := <-c.c.C()
											if ok {
												if n := numberIn(d.Value); n != len(held) || d.Attempt != 1 {
													t.Errorf("C: %d, attempt %d, want %d", n, d.Attempt, len(held))
												}
												held = append(held, d)
											}
											return ok
										}
										for range read {
											get()
										}
										synctest.Wait()
										go one.end(c)
										go other.end(c)
										synctest.Wait()
										for get() {
										}
										<-c.c.Done()
										synctest.Wait()
										var rest []int
										for i, d := range slices.Backward(held) {
											if i%2 == 0 {
												_ = d.Ack()
											} else {
												_ = d.Nack()
												rest = append([]int{i}, rest...)
											}
										}
										for n := len(held); n < count; n++ {
											rest = append(rest, n)
										}
										wantMessages(t, q, rest...)
										if m.Asleep() != 0 {
											t.Errorf("%d calls are still asleep", m.Asleep())
										}
									})
								})
							}
						}
					}
				}
			}
		}
	}
}

// TestEndsOfAHandleWithDeliveries: the queue is removed, or the handle closed, while a
// Consumer waits for a message, for its reader, and for an acknowledgement. Err says why,
// and each message is in one place.
func TestEndsOfAHandleWithDeliveries(t *testing.T) {
	withAndWithoutJournal(t, testEndsOfAHandleWithDeliveries)
}

func testEndsOfAHandleWithDeliveries(t *testing.T, storage ...chanmq.Option) {
	t.Helper()
	states := []struct {
		name           string
		messages, read int
	}{
		{"waits for a message", 0, 0},
		{"waits for its reader", 3, 0},
		{"waits for an acknowledgement", 3, 2},
	}
	ends := []struct {
		name string
		end  func(*machine, *chanmq.Queue[[]byte]) error
		want error
	}{
		{"Close", func(_ *machine, q *chanmq.Queue[[]byte]) error { return q.Close() }, chanmq.ErrClosed},
		{"Remove", func(_ *machine, q *chanmq.Queue[[]byte]) error { return q.Remove() }, chanmq.ErrRemoved},
		{"ipcrm", func(m *machine, q *chanmq.Queue[[]byte]) error { return m.peer.Remove(q.ID()) }, chanmq.ErrRemoved},
	}
	for _, state := range states {
		for _, end := range ends {
			for way, opts := range ways {
				t.Run(fmt.Sprintf("%s, %s, %s", state.name, end.name, way), func(t *testing.T) {
					onMachine(t, func(t *testing.T, m *machine) {
						q := m.private(t, append(storage, opts...)...)
						for n := range state.messages {
							m.puts(t, q.ID(), 1, n)
						}
						c := q.Consumer(t.Context(), chanmq.Any(), chanmq.WithInFlight(2), chanmq.WithBuffer(0))
						var held []chanmq.Delivery[[]byte]
						for range state.read {
							held = append(held, <-c.C())
						}
						synctest.Wait()
						if err := end.end(m, q); err != nil {
							t.Error(err)
						}
						<-c.Done() // in a bubble: or it is a deadlock
						if d, ok := <-c.C(); ok {
							t.Errorf("C has %v", d)
						}
						if err := c.Err(); !errors.Is(err, end.want) {
							t.Errorf("Err: %v, want %v", err, end.want)
						}
						var left []int
						note := func(err error) {
							var undelivered *chanmq.UndeliveredError
							if errors.As(err, &undelivered) {
								for _, m := range undelivered.Messages {
									left = append(left, numberIn(m.Value))
								}
							} else if err != nil {
								t.Error(err)
							}
						}
						for _, d := range slices.Backward(held) {
							note(d.Nack())
						}
						note(q.Close())
						if end.want == chanmq.ErrRemoved {
							want := []int{0, 1}
							if state.messages == 0 {
								want = nil
							}
							if !slices.Equal(left, want) {
								t.Errorf("%v is returned, want %v", left, want)
							}
							return
						}
						if len(left) > 0 {
							t.Errorf("%v is returned, though there is room", left)
						}
						var there []int
						for {
							text, ok := m.take(q.ID())
							if !ok {
								break
							}
							for _, value := range valuesOf(text) {
								there = append(there, numberIn(value))
							}
						}
						slices.Sort(there)
						if len(there) != state.messages {
							t.Errorf("the queue has %v", there)
						}
					})
				})
			}
		}
	}
}

// TestShutdownWaitsForAcknowledgements, until its ctx ends, or somebody closes the handle.
func TestShutdownWaitsForAcknowledgements(t *testing.T) {
	withAndWithoutJournal(t, testShutdownWaitsForAcknowledgements)
}

func testShutdownWaitsForAcknowledgements(t *testing.T, storage ...chanmq.Option) {
	t.Helper()
	sources := map[string]func(t *testing.T, q *chanmq.Queue[[]byte]) []chanmq.Delivery[[]byte]{
		"Take": func(t *testing.T, q *chanmq.Queue[[]byte]) (taken []chanmq.Delivery[[]byte]) {
			for range 2 {
				d, err := q.Take(t.Context(), chanmq.Any())
				if err != nil {
					t.Error(err)
				}
				taken = append(taken, d)
			}
			return taken
		},
		"Consumer": func(t *testing.T, q *chanmq.Queue[[]byte]) []chanmq.Delivery[[]byte] {
			c := q.Consumer(t.Context(), chanmq.Any(), chanmq.WithInFlight(2))
			return []chanmq.Delivery[[]byte]{<-c.C(), <-c.C()}
		},
		"Consumer that was closed": func(t *testing.T, q *chanmq.Queue[[]byte]) []chanmq.Delivery[[]byte] {
			c := q.Consumer(t.Context(), chanmq.Any(), chanmq.WithInFlight(2))
			defer c.Close()
			return []chanmq.Delivery[[]byte]{<-c.C(), <-c.C()}
		},
	}
	type shutdown struct {
		q      *chanmq.Queue[[]byte]
		taken  []chanmq.Delivery[[]byte]
		cancel context.CancelFunc
	}
	tests := []struct {
		name string
		end  func(shutdown)
		want error
		left []int // in the queue
	}{
		{"Ack", func(s shutdown) { _ = s.taken[1].Ack() }, nil, nil},
		{"Nack", func(s shutdown) { _ = s.taken[1].Nack() }, nil, []int{1}},
		{"its ctx", func(s shutdown) { s.cancel() }, context.Canceled, nil},
		{"Close", func(s shutdown) { _ = s.q.Close() }, nil, nil},
	}
	for source, take := range sources {
		for _, test := range tests {
			t.Run(source+", "+test.name, func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t, storage...)
					m.puts(t, q.ID(), 1, 0, 1)
					taken := take(t, q)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					ended := make(chan error, 1)
					go func() { ended <- q.Shutdown(ctx) }()
					time.Sleep(time.Second) // it looks from time to time
					synctest.Wait()
					_ = taken[0].Ack()
					time.Sleep(time.Second) // it looks from time to time
					synctest.Wait()
					select {
					case err := <-ended:
						t.Fatalf("Shutdown has ended with a delivery in flight: %v", err)
					default:
					}
					// The handle works meanwhile.
					if err := q.Send(ctx, 1, text(7)); err != nil {
						t.Error(err)
					}
					if m, err := q.Receive(ctx, chanmq.Any()); err != nil || numberIn(m.Value) != 7 {
						t.Errorf("received %v, %v", m, err)
					}
					test.end(shutdown{q, taken, cancel})
					err := <-ended
					if test.want == nil && err != nil {
						t.Errorf("Shutdown: %v", err)
					}
					var op *chanmq.OpError
					if test.want != nil && (!errors.Is(err, test.want) || !errors.As(err, &op) || op.Op != "shutdown") {
						t.Errorf("Shutdown: %v, want %v", err, test.want)
					}
					if _, err := q.Take(t.Context(), chanmq.Any()); !errors.Is(err, chanmq.ErrClosed) {
						t.Errorf("Take: %v, want ErrClosed", err)
					}
					for _, n := range test.left {
						if text, ok := m.take(q.ID()); !ok || numberIn(text) != n {
							t.Errorf("the queue has %q, %v, want %d", text, ok, n)
						}
					}
					if err := taken[1].Ack(); err != nil {
						t.Errorf("Ack: %v", err)
					}
					if text, ok := m.take(q.ID()); ok {
						t.Errorf("the queue has %q", text)
					}
				})
			})
		}
	}
}
