//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

func init() {
	roles["fault-descriptors"] = faultDescriptors
	roles["fault-threads"] = faultThreads
}

// TestFaultLimitsLowered lowers and raises every limit under load. A message is
// refused or it arrives, in order.
func TestFaultLimitsLowered(t *testing.T) {
	if !inNamespaceWithFlags(t) {
		return
	}
	q := newQueue(t)
	const senders, largest = 3, 4000
	each := longForm(1000)
	ctx := ctxLong(t)

	stop, stopped := make(chan struct{}), make(chan struct{})
	lowerings := 0
	go func() {
		defer close(stopped)
		for {
			for _, size := range []int{800, 8192} {
				testkit.SetLimit(t, "msgmax", fmt.Sprint(size))
				testkit.SetLimit(t, "msgmnb", fmt.Sprint(2*size))
				testkit.SetLimit(t, "msgmni", fmt.Sprint(size/100))
				if err := q.Set(chanmq.Attr{MaxBytes: 2 * size}); err != nil {
					t.Errorf("Set: %v", err)
				}
				aWhile()
			}
			lowerings++
			select {
			case <-stop:
				return
			default:
			}
		}
	}()

	var refused atomic.Int64
	var sending sync.WaitGroup
	counts := make([]int, senders+1) // sent, by type; of its own goroutine each
	for typ := 1; typ <= senders; typ++ {
		sending.Go(func() {
			for range each {
				text := append(number(counts[typ]), make([]byte, rand.IntN(largest))...)
				err := q.Send(ctx, int64(typ), text)
				switch {
				case err == nil:
					counts[typ]++
				case errors.Is(err, chanmq.ErrTooLarge):
					refused.Add(1)
				default:
					t.Errorf("Send: %v", err)
					return
				}
			}
		})
	}
	var receiving sync.WaitGroup
	came := make([]int, senders+1)
	receivers, cancel := context.WithCancel(ctx)
	for typ := 1; typ <= senders; typ++ {
		receiving.Go(func() {
			for m, err := range q.Messages(receivers, chanmq.OfType(int64(typ))) {
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Errorf("Receive: %v", err)
					}
					return
				}
				if n := numberOf(m.Value[:4]); n != came[typ] {
					t.Errorf("type %d: received %d, want %d", typ, n, came[typ])
				}
				came[typ]++
			}
		})
	}
	sending.Wait()
	close(stop)
	<-stopped
	testkit.Eventually(t, "an empty queue", func() bool {
		stat, err := q.Stat()
		return err == nil && stat.Messages == 0
	})
	cancel()
	receiving.Wait()
	for typ := range counts {
		if came[typ] != counts[typ] {
			t.Errorf("type %d: %d received, %d sent", typ, came[typ], counts[typ])
		}
	}
	t.Logf("limits lowered %d times, %d messages sent, %d refused", lowerings, senders*each-int(refused.Load()), refused.Load())
}

// TestFaultDescriptorsExhausted runs a process that has no file descriptor left.
func TestFaultDescriptorsExhausted(t *testing.T) {
	q := newQueue(t)
	testkit.Wait(t, testkit.Start(t, "fault-descriptors", fmt.Sprint(q.ID()), fmt.Sprint(longForm(200))))
	wantNone(t, q)
}

// faultDescriptors uses every part of the package without descriptors: msqid,
// rounds.
func faultDescriptors(args []string) error {
	id, _ := strconv.Atoi(args[0])
	rounds, _ := strconv.Atoi(args[1])
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	// The Go runtime ends a program whose first timer finds no descriptor for
	// epoll. That is not what this is about.
	time.Sleep(time.Microsecond)
	limit.Cur = min(limit.Cur, 64)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	for {
		_, err := syscall.Open("/dev/null", syscall.O_RDONLY, 0)
		if err == syscall.EMFILE {
			break
		}
		if err != nil {
			return err
		}
	}
	if _, err := os.Open("/dev/null"); !errors.Is(err, syscall.EMFILE) {
		return fmt.Errorf("there are descriptors left: %v", err)
	}
	for n := range rounds {
		if err := passSome(id, n); err != nil {
			return err
		}
	}
	return nil
}

// passSome opens a queue, sends and receives in every way, cancels a wait, and
// closes it.
func passSome(id, n int) error {
	q, err := chanmq.Attach(id)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := q.Send(ctx, 1, number(n)); err != nil {
		return err
	}
	if m, err := q.Receive(ctx, chanmq.Any()); err != nil || numberOf(m.Value) != n {
		return fmt.Errorf("Receive: %v, %w", m, err)
	}
	r, s := q.Receiver(ctx, chanmq.OfType(2)), q.Sender(ctx)
	s.C() <- chanmq.Message[[]byte]{Type: 2, Value: number(n)}
	if m, ok := <-r.C(); !ok || numberOf(m.Value) != n {
		return fmt.Errorf("C: %v, %w", m, r.Err())
	}
	soon, cancelSoon := context.WithTimeout(ctx, time.Millisecond)
	defer cancelSoon()
	if _, err := q.Receive(soon, chanmq.OfType(3)); !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("a wait that was cancelled: %w", err)
	}
	if _, err := q.Stat(); err != nil {
		return err
	}
	if _, err := chanmq.List(); err != nil {
		return err
	}
	return q.Close()
}

// TestFaultThreadsLimited gives a process few threads (RLIMIT_NPROC), and many
// waits: the Go runtime ends a program that cannot start a thread, so the waits must
// use no more than WithMaxParked allows.
func TestFaultThreadsLimited(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("RLIMIT_NPROC counts all processes of a user, so the test needs to become one who has none: root")
	}
	// For another user. (Not by Set: qemu-user gets its mode wrong on s390x.)
	q, err := chanmq.Private(0o666)
	if err != nil {
		t.Fatal(err)
	}
	adopt(t, q)
	rounds := longForm(5)
	cmd := testkit.Process(t, "fault-threads", fmt.Sprint(q.ID()), fmt.Sprint(rounds))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(describe(err))
	}
	t.Logf("%s", out)
	wantNone(t, q)
}

// faultThreads has many Receivers on few threads: msqid, rounds.
func faultThreads(args []string) error {
	id, _ := strconv.Atoi(args[0])
	rounds, _ := strconv.Atoi(args[1])
	const parked, receivers, rlimitNproc = 4, 300, 6
	if strings.HasPrefix(runtime.GOARCH, "mips") {
		fmt.Print("RLIMIT_NPROC has another number there; not limited")
	} else {
		runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), 4))
		const nobodyElse = 54321 // a user without any other process
		if err := errors.Join(syscall.Setgid(nobodyElse), syscall.Setuid(nobodyElse)); err != nil {
			return err
		}
		const threads = parked + 20
		if err := syscall.Setrlimit(rlimitNproc, &syscall.Rlimit{Cur: threads, Max: threads}); err != nil {
			return err
		}
	}
	most := 0
	for range rounds {
		q, err := chanmq.Attach(id, chanmq.WithMaxParked(parked))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		came := make(chan int64)
		for typ := range receivers {
			r := q.Receiver(ctx, chanmq.OfType(int64(typ+1)))
			go func() {
				for m := range r.C() {
					came <- m.Type
				}
			}()
		}
		for typ := range receivers {
			if err := q.Send(ctx, int64(typ+1), nil); err != nil {
				cancel()
				return err
			}
		}
		for range receivers {
			select {
			case <-came:
			case <-ctx.Done():
				cancel()
				return ctx.Err()
			}
		}
		most = max(most, testkit.Threads())
		cancel()
		if err := q.Close(); err != nil {
			return err
		}
	}
	fmt.Printf("%d waits, %d threads", receivers, most)
	return nil
}
