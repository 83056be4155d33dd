package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
)

// TestReceiverTakesNoMoreThanItHasRoomFor: it takes cap(C)+1 messages, however they
// arrive: at once, one by one, or whenever the Receiver asks for another.
func TestReceiverTakesNoMoreThanItHasRoomFor(t *testing.T) {
	const messages = 150
	for _, buffer := range []int{0, 1, 5, 63, 64, 100} {
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
			t.Run(fmt.Sprintf("buffer %d, messages %s", buffer, way), func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t)
					r := q.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(buffer))
					synctest.Wait()
					come(t, m, q.ID())
					for read := 0; read < messages; read++ {
						synctest.Wait()
						stat, err := q.Stat()
						if err != nil {
							t.Fatal(err)
						}
						want := min(read+buffer+1, messages)
						if taken := messages - stat.Messages; taken != want {
							t.Fatalf("when %d messages have been read, %d are taken, want %d", read, taken, want)
						}
						if m := <-r.C(); numberIn(m.Value) != read {
							t.Fatalf("message %d came as number %d", numberIn(m.Value), read)
						}
					}
				})
			})
		}
	}
}

// TestHandBackWakesTheOneWhoWaits: what a Receiver held goes at once to a call that
// is parked already.
func TestHandBackWakesTheOneWhoWaits(t *testing.T) {
	for way, opts := range ways {
		t.Run(way, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, opts...)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				m.puts(t, q.ID(), 2, 0)
				r := q.Receiver(ctx, chanmq.Any())
				synctest.Wait() // it holds the message
				ended := receiving(t.Context(), q, chanmq.Except(1))
				start := time.Now()
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if took := time.Since(start); took > 0 {
					t.Errorf("it took %v of a clock that need not move", took)
				}
				<-r.Done()
			})
		})
	}
}

// TestEndsOfAReceiver is the matrix of what a Receiver holds and how it ends, one
// way alone and two at once. What was not read comes next, in order.
func TestEndsOfAReceiver(t *testing.T) {
	type receiver struct {
		q      *chanmq.Queue[[]byte]
		r      *chanmq.Receiver[[]byte]
		cancel context.CancelFunc
	}
	ends := map[string]func(receiver){
		"cancel": func(r receiver) { r.cancel() },
		"Close":  func(r receiver) { _ = r.r.Close() },
		"Drain":  func(r receiver) { _ = r.r.Drain(context.Background()) },
	}
	const count = 6
	for _, buffer := range []int{0, 1, 3, 10} {
		for _, read := range []int{0, 1, 2, count} {
			for first, one := range ends {
				for second, other := range ends {
					for way, opts := range ways {
						name := fmt.Sprintf("buffer %d, %d read, %s and %s, %s", buffer, read, first, second, way)
						t.Run(name, func(t *testing.T) {
							onMachine(t, func(t *testing.T, m *machine) {
								q := m.private(t, opts...)
								for n := range count {
									m.puts(t, q.ID(), 1, n)
								}
								ctx, cancel := context.WithCancel(t.Context())
								r := receiver{q, q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer)), cancel}
								next := 0
								get := func() bool {
									message, ok := <-r.r.C()
									if ok {
										if n := numberIn(message.Value); n != next {
											t.Errorf("C: %d, want %d", n, next)
										}
										next++
									}
									return ok
								}
								for range read {
									get()
								}
								synctest.Wait()
								go one(r)
								go other(r)
								synctest.Wait()
								for get() {
								}
								<-r.r.Done()
								synctest.Wait()
								var rest []int
								for n := next; n < count; n++ {
									rest = append(rest, n)
								}
								wantMessages(t, q, rest...)
								if m.Asleep() != 0 {
									t.Errorf("%d calls are still asleep", m.Asleep())
								}
								cancel()
							})
						})
					}
				}
			}
		}
	}
}

// TestEndsOfAHandle closes or removes a queue on which everything waits.
func TestEndsOfAHandle(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(*machine, *chanmq.Queue[[]byte])
		want error
	}{
		"Close":  {func(_ *machine, q *chanmq.Queue[[]byte]) { _ = q.Close() }, chanmq.ErrClosed},
		"Remove": {func(_ *machine, q *chanmq.Queue[[]byte]) { _ = q.Remove() }, chanmq.ErrRemoved},
		"ipcrm":  {func(m *machine, q *chanmq.Queue[[]byte]) { _ = m.peer.Remove(q.ID()) }, chanmq.ErrRemoved},
	} {
		for way, opts := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t, opts...)
					if err := q.Set(chanmq.Attr{MaxBytes: 1}); err != nil {
						t.Fatal(err)
					}
					m.puts(t, q.ID(), 9, 0) // it is full
					var errs []func() error
					for range 3 {
						received := receiving(t.Context(), q, chanmq.OfType(1))
						sent := make(chan error, 1)
						go func() { sent <- q.Send(t.Context(), 1, text(1)) }()
						r, s := q.Receiver(t.Context(), chanmq.OfType(2)), q.Sender(t.Context())
						s.C() <- chanmq.Message[[]byte]{Type: 1, Value: text(2)}
						errs = append(errs,
							func() error { return <-received },
							func() error { return <-sent },
							func() error { <-r.Done(); return r.Err() },
							func() error { <-s.Done(); _ = s.Unsent(); return s.Err() })
					}
					synctest.Wait()
					start := time.Now()
					c.end(m, q)
					for _, err := range errs {
						if err := err(); !errors.Is(err, c.want) {
							t.Errorf("%v, want %v", err, c.want)
						}
					}
					// Removal is seen by the next poll, the rest at once.
					if took := time.Since(start); took > pollMax {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
}
