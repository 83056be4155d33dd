//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

// wantClosed reads C to its end, where it should be already, and checks Err.
func wantClosed[T any](t testing.TB, m *chanmq.Merged[T], err error) {
	t.Helper()
	for v := range m.C() {
		t.Errorf("C yielded %v", v)
	}
	if got := m.Err(); !errors.Is(got, err) {
		t.Errorf("Err: %v, want %v", got, err)
	}
	<-m.Done()
	if err := errors.Join(m.Drain(context.Background()), m.Close(), m.Close()); err != nil {
		t.Error(err)
	}
}

// TestMergeKeepsTheOrderOfEach: several queues, views, selectors and buffers.
func TestMergeKeepsTheOrderOfEach(t *testing.T) {
	const each = 300
	var queues []*chanmq.Queue[[]byte]
	var rs []*chanmq.Receiver[[]byte]
	for i := range 3 {
		q := newQueue(t)
		queues = append(queues, q)
		for typ := range 2 {
			rs = append(rs, q.Receiver(ctxWithin(t), chanmq.OfType(int64(1+10*i+typ)), chanmq.WithBuffer(7*i)))
		}
		sendInBackground(t, q, 2*each, func(n int) int64 { return int64(1 + 10*i + n%2) })
	}
	m := chanmq.Merge(rs...)
	next := make(map[int64]int)
	for range 3 * 2 * each {
		v := <-m.C()
		if got, want := numberOf(v.Value), 2*next[v.Type]+int(v.Type-1)%10; got != want {
			t.Fatalf("type %d: got %d, want %d", v.Type, got, want)
		}
		next[v.Type]++
	}
	if err := m.Drain(ctxWithin(t)); err != nil {
		t.Error(err)
	}
	wantClosed(t, m, nil)
	for _, q := range queues {
		wantNone(t, q)
	}
}

func TestMergeOfNoneAndOfTheSame(t *testing.T) {
	wantClosed(t, chanmq.Merge[string](), nil)

	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 3)
	r := q.Receiver(ctxWithin(t), chanmq.OfType(1), chanmq.WithBuffer(1))
	other := q.Receiver(ctxWithin(t), chanmq.OfType(2))
	twice := chanmq.Merge(r, other, r)
	for range twice.C() {
		t.Error("C yielded something")
	}
	wantError(t, "Err", twice.Err(), nil, "merge", "second time")
	if err := errors.Join(twice.Drain(ctxWithin(t)), twice.Close()); err != nil {
		t.Error(err)
	}
	for n := range 3 { // it goes on
		if got := numberOf((<-r.C()).Value); got != n {
			t.Errorf("got %d, want %d", got, n)
		}
	}
	again := chanmq.Merge(r)
	<-again.Done()
	wantError(t, "Err", again.Err(), nil, "second time")
	if err := errors.Join(r.Close(), other.Close()); err != nil {
		t.Error(err)
	}
}

// TestMergeOfReceiversThatHaveEnded, in each way that leaves values in C or none.
func TestMergeOfReceiversThatHaveEnded(t *testing.T) {
	closed := newQueue(t)
	if err := closed.Close(); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, chanmq.Merge(closed.Receiver(ctxWithin(t), chanmq.Any())), chanmq.ErrClosed)
	var zero chanmq.Queue[[]byte]
	wantClosed(t, chanmq.Merge(zero.Receiver(ctxWithin(t), chanmq.Any())), chanmq.ErrClosed)

	q := newQueue(t)
	r := q.Receiver(ctxWithin(t), chanmq.Any())
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	wantClosed(t, chanmq.Merge(r), nil)

	// What was in C when it ended is still delivered, or handed back.
	for _, read := range []int{0, 1, 3} {
		sendNumbers(t, q, 1, 0, 4)
		r = q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(5))
		untilTaken(t, q, 0)
		if err := r.Drain(ctxWithin(t)); err != nil {
			t.Error(err)
		}
		if n := numberOf((<-r.C()).Value); n != 0 {
			t.Errorf("got %d, want 0", n)
		}
		m := chanmq.Merge(r)
		for n := range read {
			if got := numberOf((<-m.C()).Value); got != 1+n {
				t.Errorf("got %d, want %d", got, 1+n)
			}
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		wantNumbers(t, q, chanmq.Any(), 1+read, 4)
		wantNone(t, q)
		wantClosed(t, m, nil)
	}
}

// mergeEnds are the ways in which a Merged of two Receivers ends, or the first of
// them. All return without a reader of C.
var mergeEnds = map[string]func(*merging){
	"cancel both":    func(m *merging) { m.cancel() },
	"cancel one":     func(m *merging) { m.cancelOne() },
	"Close":          func(m *merging) { _ = m.Close() },
	"Drain":          func(m *merging) { _ = m.Drain(m.within()) },
	"Receiver.Close": func(m *merging) { _ = m.rs[0].Close() },
	"Receiver.Drain": func(m *merging) { _ = m.rs[0].Drain(m.within()) },
	"Queue.Close":    func(m *merging) { _ = m.qs[0].Close() },
	"Shutdown":       func(m *merging) { _ = m.qs[0].Shutdown(m.within()) },
	"removal":        func(m *merging) { _ = m.peer.Remove(m.qs[0].ID()) },
}

type merging struct {
	*chanmq.Merged[[]byte]
	*machine
	qs                []*chanmq.Queue[[]byte]
	rs                []*chanmq.Receiver[[]byte]
	cancel, cancelOne context.CancelFunc
	within            func() context.Context
}

// TestEndsOfAMerged is the matrix of what a Merged holds and how it ends, one way
// alone and two at once. All that was read of a queue comes before all that was not;
// each message is in one place; and nothing waits for a reader who has left.
func TestEndsOfAMerged(t *testing.T) {
	const count = 6
	for _, buffer := range []int{0, 1, 3} {
		for _, read := range []int{0, 1, 5, 2 * count} {
			for first, one := range mergeEnds {
				for second, other := range mergeEnds {
					if second < first {
						continue
					}
					for way, opts := range ways {
						name := fmt.Sprintf("buffer %d, %d read, %s and %s, %s", buffer, read, first, second, way)
						t.Run(name, func(t *testing.T) {
							onMachine(t, func(t *testing.T, machine *machine) {
								m := &merging{machine: machine}
								m.within = func() context.Context {
									ctx, cancel := context.WithTimeout(context.Background(), time.Second)
									t.Cleanup(cancel)
									return ctx
								}
								var ctx context.Context
								ctx, m.cancel = context.WithCancel(context.Background())
								defer m.cancel()
								var ctxOne context.Context
								ctxOne, m.cancelOne = context.WithCancel(ctx)
								for i := range 2 {
									q := m.private(t, opts...)
									for n := range count {
										m.puts(t, q.ID(), 1+i, n)
									}
									ctx := ctx
									if i == 0 {
										ctx = ctxOne
									}
									m.qs = append(m.qs, q)
									m.rs = append(m.rs, q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer)))
								}
								m.Merged = chanmq.Merge(m.rs...)
								seen := map[int64][]int{}
								get := func() bool {
									select {
									case v, open := <-m.C():
										if open {
											seen[v.Type] = append(seen[v.Type], numberIn(v.Value))
										}
										return open
									default:
										return false
									}
								}
								synctest.Wait()
								for range read {
									get()
									synctest.Wait()
								}
								var ends sync.WaitGroup
								ends.Go(func() { one(m) })
								ends.Go(func() { other(m) })
								synctest.Wait()
								for get() {
									synctest.Wait()
								}
								// A Drain that was cut short waits for its ctx.
								ends.Wait()
								for get() {
									synctest.Wait()
								}
								if err := m.Close(); err != nil {
									t.Error(err)
								}
								wantClosed(t, m.Merged, m.Err())
								removed := first == "removal" || second == "removal"
								for i, q := range m.qs {
									got := seen[int64(1+i)]
									for {
										v, ok, err := q.TryReceive(chanmq.Any())
										if !ok || err != nil {
											break
										}
										got = append(got, numberIn(v.Value))
									}
									if !slices.IsSorted(got) {
										t.Errorf("queue %d: received in the order %v", i, got)
									}
									// What a closed handle has given back is at the tail.
									for text, ok := m.take(q.ID()); ok; text, ok = m.take(q.ID()) {
										for _, value := range valuesOf(text) {
											got = append(got, numberIn(value))
										}
									}
									slices.Sort(got)
									if len(slices.Compact(got)) != len(got) || len(got) != count && !(removed && i == 0) {
										t.Errorf("queue %d: messages %v, want each of %d", i, got, count)
									}
								}
								if m.Asleep() != 0 {
									t.Errorf("%d calls are still asleep", m.Asleep())
								}
								m.cancelOne()
							})
						})
					}
				}
			}
		}
	}
}

// TestMergedEndsWithADeadReceiver: one Receiver of four fails, and nobody reads C.
// The others end, and hand back what they hold, all by themselves.
func TestMergedEndsWithADeadReceiver(t *testing.T) {
	for name, c := range map[string]struct {
		kill func(t *testing.T, m *machine, q *chanmq.Queue[[]byte], cancel func())
		want error
	}{
		"ctx":          {func(_ *testing.T, _ *machine, _ *chanmq.Queue[[]byte], cancel func()) { cancel() }, context.Canceled},
		"removal":      {func(_ *testing.T, m *machine, q *chanmq.Queue[[]byte], _ func()) { _ = m.peer.Remove(q.ID()) }, chanmq.ErrRemoved},
		"Queue.Close":  {func(_ *testing.T, _ *machine, q *chanmq.Queue[[]byte], _ func()) { _ = q.Close() }, chanmq.ErrClosed},
		"decode error": {func(t *testing.T, m *machine, q *chanmq.Queue[[]byte], _ func()) { m.puts(t, q.ID(), 1, -1) }, errNotDecoded},
		"permission": {func(t *testing.T, m *machine, q *chanmq.Queue[[]byte], _ func()) {
			if err := m.peer.Set(q.ID(), sysv.Attr{UID: 500, GID: 500, Mode: 0o200, MaxBytes: 100}); err != nil {
				t.Error(err)
			}
		}, syscall.EACCES},
	} {
		for way, opts := range ways {
			t.Run(name+", "+way, func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					var queues []*chanmq.Queue[[]byte]
					var rs []*chanmq.Receiver[[]byte]
					mortal, cancel := context.WithCancel(t.Context())
					defer cancel()
					for i := range 4 {
						q := m.private(t, opts...)
						queues = append(queues, q)
						ctx := t.Context()
						if i == 0 {
							ctx = mortal
						} else {
							m.puts(t, q.ID(), 1, 0, 1, 2, 3)
						}
						rs = append(rs, chanmq.As(q, refusing{}).Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(i)))
					}
					merged := chanmq.Merge(rs...)
					synctest.Wait()
					if err := merged.Err(); err != nil {
						t.Errorf("Err is %v already", err)
					}
					c.kill(t, m, queues[0], cancel)
					time.Sleep(time.Second) // polling sees it, too
					synctest.Wait()
					wantClosed(t, merged, c.want)
					for _, q := range queues[1:] {
						wantMessages(t, q, 0, 1, 2, 3)
					}
				})
			})
		}
	}
}

var errNotDecoded = errors.New("a negative number")

// refusing is a codec of bytes that does not decode a negative number.
type refusing struct{}

func (refusing) Append(dst []byte, v []byte) ([]byte, error) { return append(dst, v...), nil }

func (refusing) Decode(src []byte, v *[]byte) error {
	if len(src) > 0 && src[0] == '-' {
		return errNotDecoded
	}
	*v = append((*v)[:0], src...)
	return nil
}

// TestMergedDeliversWhatAFailedReceiverHadTaken, in front of the closed C, as a
// Receiver does, and takes it back when it is closed.
func TestMergedDeliversWhatAFailedReceiverHadTaken(t *testing.T) {
	for _, read := range []int{0, 1, 3} {
		onMachine(t, func(t *testing.T, m *machine) {
			q, other := m.private(t), m.private(t)
			m.puts(t, q.ID(), 1, 0, 1, 2, -1, 3)
			m.puts(t, other.ID(), 1, 7)
			merged := chanmq.Merge(chanmq.As(q, refusing{}).Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(5)))
			synctest.Wait()
			var undecoded *chanmq.DecodeError
			if err := merged.Err(); !errors.As(err, &undecoded) {
				t.Errorf("Err: %v, want the error of the message that is to come", err)
			}
			for n := range read {
				if got := numberIn((<-merged.C()).Value); got != n {
					t.Errorf("got %d, want %d", got, n)
				}
			}
			if read < 3 {
				if err := merged.Close(); err != nil {
					t.Error(err)
				}
			}
			wantClosed(t, merged, errNotDecoded)
			var rest []int
			for n := read; n < 3; n++ {
				rest = append(rest, n)
			}
			wantMessages(t, q, append(rest, 3)...)
		})
	}
}

// TestMergedDrains everything that was taken, with WithDrain at the end of ctx and
// under Shutdown; and neither ends before it is read.
func TestMergedDrains(t *testing.T) {
	for name, end := range map[string]func(q *chanmq.Queue[[]byte], m *chanmq.Merged[[]byte], cancel func()){
		"ctx": func(_ *chanmq.Queue[[]byte], _ *chanmq.Merged[[]byte], cancel func()) { cancel() },
		"Shutdown": func(q *chanmq.Queue[[]byte], _ *chanmq.Merged[[]byte], _ func()) {
			_ = q.Shutdown(context.Background())
		},
		"Drain": func(_ *chanmq.Queue[[]byte], m *chanmq.Merged[[]byte], _ func()) { _ = m.Drain(context.Background()) },
	} {
		for _, buffer := range []int{0, 2} {
			t.Run(fmt.Sprintf("%s, buffer %d", name, buffer), func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					opts := []chanmq.ReceiverOption{chanmq.WithDrain(), chanmq.WithBuffer(buffer)}
					merged := chanmq.Merge(
						q.Receiver(ctx, chanmq.OfType(1), opts...),
						q.Receiver(ctx, chanmq.OfType(2), opts...))
					m.puts(t, q.ID(), 1, 0, 1, 2, 3, 4, 5, 6, 7)
					m.puts(t, q.ID(), 2, 100, 101, 102, 103, 104, 105, 106, 107)
					synctest.Wait()
					ended := make(chan struct{})
					go func() {
						defer close(ended)
						end(q, merged, cancel)
					}()
					time.Sleep(time.Hour)
					select {
					case <-merged.Done():
						t.Error("it has ended before anybody read")
					case <-ended:
						if name != "ctx" {
							t.Error("it returned before anybody read")
						}
					default:
					}
					got := map[int64]int{}
					for v := range merged.C() {
						if n := numberIn(v.Value) - 100*int(v.Type-1); n != got[v.Type] {
							t.Errorf("type %d: %d came, want %d", v.Type, n, got[v.Type])
						}
						got[v.Type]++
						time.Sleep(time.Second)
					}
					// Each holds one, and the Receiver one and C's buffer.
					if got[1] != buffer+2 || got[2] != buffer+2 {
						t.Errorf("delivered %v, want %d of each type", got, buffer+2)
					}
					<-ended
					if name != "ctx" && merged.Err() != nil {
						t.Errorf("Err: %v", merged.Err())
					}
					cancel()
				})
			})
		}
	}
}

// TestMergedDrainsTheOthers: when one Receiver fails, those with WithDrain drain, and
// the others hand back.
func TestMergedDrainsTheOthers(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		dead, draining, other := m.private(t), m.private(t), m.private(t)
		m.puts(t, draining.ID(), 1, 0, 1, 2, 3)
		m.puts(t, other.ID(), 1, 10, 11, 12)
		merged := chanmq.Merge(
			dead.Receiver(t.Context(), chanmq.Any()),
			draining.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(1), chanmq.WithDrain()),
			other.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(1)))
		synctest.Wait()
		if err := m.peer.Remove(dead.ID()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for n := range 3 {
			if got := numberIn((<-merged.C()).Value); got != n {
				t.Errorf("got %d, want %d", got, n)
			}
		}
		wantClosed(t, merged, chanmq.ErrRemoved)
		wantMessages(t, draining, 3)
		wantMessages(t, other, 10, 11, 12)
	})
}

// TestMergedGivesBackToShutdown: a Shutdown whose ctx ends takes back what nobody
// reads, and returns what the kernel has no room for.
func TestMergedGivesBackToShutdown(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q, other := m.private(t), m.private(t)
		m.puts(t, q.ID(), 1, 0, 1, 2, 3)
		merged := chanmq.Merge(
			q.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(2)),
			other.Receiver(t.Context(), chanmq.Any()))
		synctest.Wait() // 0 is in Merged's hand, 1 and 2 in C's buffer, 3 in the Receiver's
		if err := q.Set(chanmq.Attr{MaxBytes: 1}); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var left *chanmq.UndeliveredError
		if err := q.Shutdown(ctx); !errors.As(err, &left) {
			t.Fatalf("Shutdown: %v", err)
		}
		if text, ok := m.take(q.ID()); !ok || numberIn(text) != 0 {
			t.Errorf("the queue has %q, %v", text, ok)
		}
		var got []int
		for _, message := range left.Messages {
			got = append(got, numberIn(message.Value))
		}
		if !slices.Equal(got, []int{1, 2, 3}) {
			t.Errorf("undelivered: %v, want 1, 2, 3", got)
		}
		// Its Receiver was not drained: that is an end for all.
		m.puts(t, other.ID(), 1, 7)
		wantClosed(t, merged, chanmq.ErrClosed)
		wantMessages(t, other, 7)
	})
}

// TestMergedHandsBackAtOnce cancels ctx and receives without waiting: what Merged
// holds is older than anything else, and comes first. So it is too for Receivers that
// are in line behind another one, that poll, and that are in the program's own code.
func TestMergedHandsBackAtOnce(t *testing.T) {
	for way, opts := range ways {
		for _, receivers := range []int{1, 2, 3} {
			for _, buffer := range []int{0, 1, 4} {
				for _, blocked := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s, %d receivers, buffer %d, decoding: %v", way, receivers, buffer, blocked), func(t *testing.T) {
						onMachine(t, func(t *testing.T, m *machine) {
							q := m.private(t, opts...)
							ctx, cancel := context.WithCancel(t.Context())
							defer cancel()
							release := make(chan struct{})
							var rs []*chanmq.Receiver[[]byte]
							for range receivers {
								rs = append(rs, chanmq.As(q, refusing{}).Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer),
									chanmq.WithDecodeError(func(*chanmq.DecodeError) { <-release })))
							}
							merged := chanmq.Merge(rs...)
							synctest.Wait()
							count := 2 * receivers
							for n := range count {
								m.puts(t, q.ID(), 1, n)
								synctest.Wait()
								time.Sleep(pollMax)
							}
							if blocked {
								for range receivers {
									m.puts(t, q.ID(), 1, -1)
									time.Sleep(pollMax)
									synctest.Wait()
								}
							}
							cancel()
							for n := range count {
								v, err := q.Receive(t.Context(), chanmq.Any())
								if err != nil || numberIn(v.Value) != n {
									t.Fatalf("received %q, %v, want %d", v.Value, err, n)
								}
							}
							close(release)
							wantClosed(t, merged, context.Canceled)
						})
					})
				}
			}
		}
	}
}

// TestMergedDecodeErrorReceives: the function of WithDecodeError may end its ctx and
// receive from the handle, and gets what Merged holds.
func TestMergedDecodeErrorReceives(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		m.puts(t, q.ID(), 1, 0, -1, 1)
		var got []int
		r := chanmq.As(q, refusing{}).Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(3),
			chanmq.WithDecodeError(func(*chanmq.DecodeError) {
				time.Sleep(time.Second)
				cancel()
				for range 2 {
					v, err := q.Receive(t.Context(), chanmq.Any())
					if err != nil {
						t.Error(err)
						return
					}
					got = append(got, numberIn(v.Value))
				}
			}))
		merged := chanmq.Merge(r)
		<-merged.Done()
		if !slices.Equal(got, []int{0, 1}) {
			t.Errorf("received %v, want 0 and 1", got)
		}
		wantClosed(t, merged, context.Canceled)
	})
}

// TestMergeStarvesNobody: a queue that is always full does not keep another one from
// being read.
func TestMergeStarvesNobody(t *testing.T) {
	busy, quiet := newQueue(t), newQueue(t)
	ctx, cancel := context.WithCancel(ctxWithin(t))
	defer cancel()
	for range 2 {
		background(t, func() {
			for busy.Send(ctx, 1, number(0)) == nil {
			}
		})
	}
	merged := chanmq.Merge(busy.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(64)), quiet.Receiver(ctx, chanmq.Any()))
	sendNumbers(t, quiet, 2, 0, 50)
	untilTaken(t, quiet, 48) // one in Merged's hand, one in the Receiver's
	between := 0
	for next := 0; next < 50; {
		v := <-merged.C()
		if v.Type == 1 {
			between++
			continue
		}
		if n := numberOf(v.Value); n != next {
			t.Fatalf("got %d, want %d", n, next)
		}
		next++
	}
	t.Logf("%d messages of the other queue in between", between)
	if between > 50_000 {
		t.Errorf("%d messages of the other queue in between", between)
	}
	cancel()
	<-merged.Done()
	for ok := true; ok; {
		var err error
		if _, ok, err = busy.TryReceive(chanmq.Any()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMergedClosesFromEverySide closes a Merged, its Receivers and its queues from
// several goroutines at once, C's reader among them, at a random moment, also when
// Merge is just being called.
func TestMergedClosesFromEverySide(t *testing.T) {
	const total = 60
	for round := range 40 {
		queues := []*chanmq.Queue[[]byte]{newQueue(t), newQueue(t)}
		var places ledger
		count := 0
		var rs []*chanmq.Receiver[[]byte]
		for i, q := range queues {
			sendNumbers(t, q, 1, i*total, (i+1)*total)
			for range 1 + rand.N(2) {
				rs = append(rs, q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(rand.N(5))))
			}
			count += total
		}
		pause := func() { time.Sleep(rand.N(200 * time.Microsecond)) }
		var merged *chanmq.Merged[[]byte]
		started := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			merged = chanmq.Merge(rs...)
			close(started)
		})
		closeQueue := func(q *chanmq.Queue[[]byte]) {
			var left *chanmq.UndeliveredError
			if err := q.Close(); errors.As(err, &left) {
				for _, m := range left.Messages {
					places.at(numberOf(m.Value), "undelivered")
				}
			}
		}
		wg.Go(func() { pause(); _ = rs[0].Close() })
		if round%3 > 0 {
			wg.Go(func() { pause(); closeQueue(queues[0]) })
		}
		if round%3 > 1 {
			wg.Go(func() { pause(); closeQueue(queues[1]) })
		}
		for range 3 {
			wg.Go(func() { <-started; pause(); _ = merged.Close() })
		}
		wg.Go(func() {
			<-started
			some := rand.N(total)
			for v := range merged.C() {
				places.at(numberOf(v.Value), "read")
				if some--; some == 0 {
					_ = merged.Close()
				}
			}
		})
		wg.Wait()
		<-merged.Done()
		for _, q := range queues {
			closeQueue(q)
			rest := attach(t, q.ID())
			takeAll(t, rest, func(m chanmq.Message[[]byte]) { places.at(numberOf(m.Value), "in the queue") })
		}
		places.check(t, count, false)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
}

// TestMergeSurvivesCancelAndMergeAgain cancels Merges at random moments and makes new
// ones at once, for as long as messages come. Each arrives once, and those of a queue
// in order, since it has one Receiver at a time.
func TestMergeSurvivesCancelAndMergeAgain(t *testing.T) {
	for way, opts := range map[string][]chanmq.Option{
		"parking": nil,
		"polling": {chanmq.WithPolling(time.Millisecond, 2*time.Millisecond)},
	} {
		t.Run(way, func(t *testing.T) {
			queues := []*chanmq.Queue[[]byte]{newQueue(t, opts...), newQueue(t, opts...), newQueue(t, opts...)}
			const each = 300
			for i, q := range queues {
				sendInBackground(t, q, each, func(int) int64 { return int64(1 + i) })
			}
			next := make([]int, len(queues))
			for got := 0; got < each*len(queues); {
				ctx, cancel := context.WithCancel(ctxWithin(t))
				var rs []*chanmq.Receiver[[]byte]
				for _, q := range queues {
					rs = append(rs, q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(rand.N(4))))
				}
				merged := chanmq.Merge(rs...)
				stop := time.AfterFunc(rand.N(2*time.Millisecond), cancel)
				for v := range merged.C() {
					if n := numberOf(v.Value); n != next[v.Type-1] {
						t.Fatalf("queue %d: got %d, want %d", v.Type-1, n, next[v.Type-1])
					}
					next[v.Type-1]++
					got++
				}
				wantClosed(t, merged, context.Canceled)
				stop.Stop()
			}
		})
	}
}

// TestMergeOfTypedViews merges views of queues on two kernels.
func TestMergeOfTypedViews(t *testing.T) {
	elsewhere := chanmqtest.Simulated(t)
	far, err := chanmq.Private(0o600, elsewhere.Option())
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	near := newQueue(t)
	merged := chanmq.Merge(
		chanmq.As(near, codec.String()).Receiver(ctxWithin(t), chanmq.Any()),
		chanmq.As(far, codec.String()).Receiver(ctxWithin(t), chanmq.Any()))
	defer merged.Close()
	for text, q := range map[string]*chanmq.Queue[[]byte]{"near": near, "far": far} {
		if err := q.Send(ctxWithin(t), 1, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if m := <-merged.C(); m.Value != text {
			t.Errorf("got %q, want %q", m.Value, text)
		}
	}
	testkit.Eventually(t, "two waits", func() bool { return elsewhere.Waiting()+len(testkit.ThreadsInCalls()) == 2 })
}

// Merge is also among the scenarios of the sweeps over every system call.
func init() {
	read := func(w *work, m *chanmq.Merged[[]byte], n int) {
		for range n {
			v, ok := <-m.C()
			if !ok {
				return
			}
			w.at(numberIn(v.Value), "read from C")
		}
	}
	scenarios = append(scenarios, scenario{"Merge", func(w *work) {
		w.puts(1, 5, 0)
		w.puts(2, 5, 0)
		ctx, cancel := context.WithCancel(w.ctx)
		defer cancel()
		m := chanmq.Merge(w.q.Receiver(ctx, chanmq.OfType(1)), w.q.Receiver(ctx, chanmq.OfType(2), chanmq.WithBuffer(2)))
		read(w, m, 3)
		synctest.Wait()
		cancel()
		_ = w.got(w.q.Receive(w.ctx, chanmq.Any()))
		<-m.Done()
		m = chanmq.Merge(w.q.Receiver(w.ctx, chanmq.OfType(1)), w.q.Receiver(w.ctx, chanmq.Except(1), chanmq.WithBuffer(1)))
		read(w, m, 1)
		synctest.Wait()
		_ = m.Close()
		m = chanmq.Merge(w.q.Receiver(w.ctx, chanmq.Any(), chanmq.WithDrain(), chanmq.WithBuffer(1)))
		synctest.Wait()
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			_ = m.Drain(w.ctx)
		}()
		read(w, m, 10)
		<-drained
		w.puts(3, 4, 0)
		read(w, chanmq.Merge(w.q.Receiver(w.ctx, chanmq.OfType(3), chanmq.WithBuffer(1)), w.q.Receiver(w.ctx, chanmq.Any())), 1)
		synctest.Wait() // the rest is for Close of the queue
	}})
}
