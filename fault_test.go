//go:build linux

package chanmq_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

// The tests of this file let go wrong, on the real kernel, what goes wrong on a
// machine: processes are killed, queues removed, limits lowered, descriptors and
// threads used up. What each may lose is counted.
//
// The short forms are part of go test. The long ones of these, of the sweeps
// over every system call, of the histories and of TestStress:
//
//	go test -race -run 'Stress|Fault|Every|History' -stress 200000 -timeout 6h

// stressVariable hands -stress on to the process of a test that runs in a
// namespace of its own.
const stressVariable = "CHANMQ_TEST_STRESS"

// longForm returns how often a test does what it does so often in its short form.
func longForm(short int) int {
	count := *stressCount
	if handed, err := strconv.Atoi(os.Getenv(stressVariable)); err == nil {
		count = handed
	}
	return short * max(1, count/3000)
}

func inNamespaceWithFlags(t *testing.T) bool {
	t.Helper()
	t.Setenv(stressVariable, fmt.Sprint(longForm(3000)))
	return testkit.InNamespace(t)
}

func init() {
	short := sweepCalls()
	sweepCalls = func() int { return longForm(short) }
	roles["fault-send"] = faultSend
	roles["fault-receive"] = faultReceive
	roles["fault-reopen"] = faultReopen
	roles["fault-profiled"] = faultProfiled
	roles["fault-descriptors"] = faultDescriptors
	roles["fault-threads"] = faultThreads
}

// batch is how many messages faultSend gives a Sender between two Flushes.
const batch = 5

// faultSend sends 0, 1, ... for ever, and prints each number, as number makes
// it, when the kernel has it: msqid, type, "direct" or "Sender".
func faultSend(args []string) error {
	q, err := attachArg(args[0])
	if err != nil {
		return err
	}
	typ, _ := strconv.ParseInt(args[1], 10, 64)
	ctx := context.Background()
	if args[2] == "direct" {
		for n := 0; ; n++ {
			if err := q.Send(ctx, typ, number(n)); err != nil {
				return err
			}
			if _, err := os.Stdout.Write(number(n)); err != nil {
				return err
			}
		}
	}
	s := q.Sender(ctx, chanmq.WithBuffer(2))
	for n := 0; ; {
		var sent []byte
		for range batch {
			s.C() <- chanmq.Message[[]byte]{Type: typ, Value: number(n)}
			sent = append(sent, number(n)...)
			n++
		}
		if err := s.Flush(ctx); err != nil {
			return err
		}
		if _, err := os.Stdout.Write(sent); err != nil {
			return err
		}
	}
}

// faultReceive receives for ever, and prints the type and the number of each
// message: msqid, and the Receiver's buffer, -1 for direct calls.
func faultReceive(args []string) error {
	q, err := attachArg(args[0])
	if err != nil {
		return err
	}
	report := func(m chanmq.Message[[]byte]) error {
		_, err := os.Stdout.Write(append(number(int(m.Type)), m.Value...))
		return err
	}
	ctx := context.Background()
	buffer, _ := strconv.Atoi(args[1])
	if buffer < 0 {
		for m, err := range q.Messages(ctx, chanmq.Any()) {
			if err == nil {
				err = report(m)
			}
			if err != nil {
				return err
			}
		}
	}
	r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(buffer))
	for m := range r.C() {
		if err := report(m); err != nil {
			return err
		}
	}
	return r.Err()
}

// victim is a process that is killed, and what it printed.
type victim struct {
	cmd    *exec.Cmd
	began  chan struct{} // closed when it has printed something
	output chan []byte
}

func startVictim(t *testing.T, role string, args ...string) *victim {
	t.Helper()
	cmd := testkit.Process(t, role, args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v := &victim{cmd, make(chan struct{}), make(chan []byte, 1)}
	go func() {
		output := bufio.NewReader(stdout)
		_, _ = output.Peek(1)
		close(v.began)
		all, _ := io.ReadAll(output)
		v.output <- all
	}()
	return v
}

// kill kills it with SIGKILL and returns the numbers that it printed.
func (v *victim) kill(t *testing.T) []int {
	t.Helper()
	if err := v.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	output := <-v.output
	err := v.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("%v ended before it was killed: %v", v.cmd.Args[1:], err)
	}
	var numbers []int
	for len(output) >= 4 { // a write of so few bytes to a pipe is all or nothing
		numbers = append(numbers, numberOf(output[:4]))
		output = output[4:]
	}
	return numbers
}

// aWhile passes, so that the next kill hits anything.
func aWhile() { time.Sleep(rand.N(20 * time.Millisecond)) }

// TestFaultKilledSenders kills senders. What they were told is in the kernel is
// received, once and in order, and at most what they had under way beside.
func TestFaultKilledSenders(t *testing.T) {
	for mode, underWay := range map[string]int{"direct": 1, "Sender": batch} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			q := newQueue(t)
			kills := longForm(15)
			next := make([]int, kills+1) // by type
			received := make(chan struct{})
			ctx, cancel := context.WithCancel(ctxLong(t))
			defer cancel()
			go func() {
				defer close(received)
				for m := range q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(3)).C() {
					if n := numberOf(m.Value); n != next[m.Type] {
						t.Errorf("sender %d: received %d, want %d", m.Type, n, next[m.Type])
					}
					next[m.Type]++
				}
			}()
			told := make([]int, kills+1)
			sum := 0
			for typ := 1; typ <= kills; typ++ {
				v := startVictim(t, "fault-send", fmt.Sprint(q.ID()), fmt.Sprint(typ), mode)
				<-v.began
				aWhile()
				told[typ] = len(v.kill(t))
				sum += told[typ]
			}
			testkit.Eventually(t, "an empty queue", func() bool {
				stat, err := q.Stat()
				return err == nil && stat.Messages == 0
			})
			cancel()
			<-received
			// What the Receiver held when it was cancelled.
			takeAll(t, q, func(m chanmq.Message[[]byte]) { next[m.Type]++ })
			for typ := 1; typ <= kills; typ++ {
				if next[typ] < told[typ] || next[typ] > told[typ]+underWay {
					t.Errorf("sender %d was told of %d messages, %d were received", typ, told[typ], next[typ])
				}
			}
			t.Logf("%d senders killed, %d messages", kills, sum)
		})
	}
}

// takeAll takes what the queue and the handle hold.
func takeAll(t *testing.T, q *chanmq.Queue[[]byte], took func(chanmq.Message[[]byte])) {
	t.Helper()
	for {
		m, ok, err := q.TryReceive(chanmq.Any())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return
		}
		took(m)
	}
}

// ctxLong is ctxWithin for tests with a long form.
func ctxLong(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(longForm(1))*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// TestFaultKilledReceivers kills receivers, one after the other. The next one
// begins where the last one ended, but for what that held: what stood in C, what
// the pump held, and what the program had read and not yet reported.
func TestFaultKilledReceivers(t *testing.T) {
	for buffer, most := range map[int]int{-1: 1, 0: 0 + 1 + 1, 4: 4 + 1 + 1, 32: 32 + 1 + 1} {
		t.Run(fmt.Sprint("buffer ", buffer), func(t *testing.T) {
			t.Parallel()
			q := newQueue(t)
			ctx, cancel := context.WithCancel(ctxLong(t))
			sent := make(chan struct{})
			total := 0
			go func() {
				defer close(sent)
				for q.Send(ctx, 1, number(total)) == nil {
					total++
				}
			}()
			next, lost, worst := 0, 0, 0
			held := 0 // at most, by those that were killed since the last number
			came := func(n int) {
				gap := n - next
				if gap < 0 || gap > held {
					t.Errorf("received %d, want %d, or up to %d more", n, next, held)
				}
				lost, worst = lost+gap, max(worst, gap)
				next, held = n+1, 0
			}
			kills := longForm(10)
			for n := range kills {
				v := startVictim(t, "fault-receive", fmt.Sprint(q.ID()), fmt.Sprint(buffer))
				if n%5 > 0 {
					<-v.began
				}
				aWhile()
				numbers := v.kill(t)
				for i := 1; i < len(numbers); i += 2 { // behind their types
					came(numbers[i])
				}
				held += most
			}
			cancel()
			<-sent
			takeAll(t, q, func(m chanmq.Message[[]byte]) { came(numberOf(m.Value)) })
			if gap := total - next; gap > held {
				t.Errorf("the last %d of %d messages are missing, %d were held", gap, total, held)
			} else {
				lost, worst = lost+gap, max(worst, gap)
			}
			t.Logf("%d receivers killed, %d messages, %d lost with them, %d at once", kills, total, lost, worst)
		})
	}
}

// TestFaultKilledBoth kills senders and receivers that compete. Nothing comes
// twice, and no more is missing than the killed receivers held.
func TestFaultKilledBoth(t *testing.T) {
	const buffer, receivers, senders = 2, 3, 2
	q := newQueue(t)
	// By type and number. This has to be quick: the traffic goes on meanwhile, and
	// makes more work than a slow test gets done.
	came := make(map[int][]bool)
	total := 0
	report := func(typ, n int) {
		if missing := n + 1 - len(came[typ]); missing > 0 {
			came[typ] = append(came[typ], make([]bool, missing)...)
		}
		if came[typ][n] {
			t.Errorf("message %d of type %d came twice", n, typ)
		}
		came[typ][n] = true
		total++
	}
	told := make(map[int]int) // how many messages of each type a sender was told of
	type process struct {
		*victim
		typ int // of a sender
	}
	var processes []process
	types := 0
	start := func(sender bool) process {
		if !sender {
			return process{startVictim(t, "fault-receive", fmt.Sprint(q.ID()), fmt.Sprint(buffer)), 0}
		}
		types++
		return process{startVictim(t, "fault-send", fmt.Sprint(q.ID()), fmt.Sprint(types), "direct"), types}
	}
	killed := 0 // receivers
	end := func(p process) {
		numbers := p.kill(t)
		if p.typ > 0 {
			told[p.typ] = len(numbers)
			return
		}
		killed++
		for i := 0; i+1 < len(numbers); i += 2 {
			report(numbers[i], numbers[i+1])
		}
	}
	for n := range receivers + senders {
		processes = append(processes, start(n >= receivers))
	}
	for range longForm(20) {
		aWhile()
		i := rand.IntN(len(processes))
		sender := processes[i].typ > 0
		end(processes[i])
		processes[i] = start(sender)
	}
	for _, p := range processes {
		end(p)
	}
	takeAll(t, q, func(m chanmq.Message[[]byte]) { report(int(m.Type), numberOf(m.Value)) })
	sum := 0
	for typ, n := range told {
		sum += n
		if len(came[typ]) > n+1 { // one may have been under way
			t.Errorf("sender %d was told of %d messages, number %d came", typ, n, len(came[typ])-1)
		}
	}
	if missing := sum - total; missing > killed*(buffer+1+1) {
		t.Errorf("%d of %d messages are missing with %d receivers killed", missing, sum, killed)
	}
	t.Logf("%d senders and %d receivers killed, %d messages, %d lost with them", len(told), killed, sum, sum-total)
}

// lastNumber ends what a sender of faultReopen sends.
const lastNumber = 1<<31 - 1

// faultReopen sends 0, 1, ... until its input ends, and then lastNumber, to a
// queue that may be away: key, type.
func faultReopen(args []string) error {
	key, _ := strconv.Atoi(args[0])
	typ, _ := strconv.ParseInt(args[1], 10, 64)
	q, err := chanmq.Create(chanmq.Key(key), 0o600, chanmq.WithReopen())
	if err != nil {
		return err
	}
	var ended atomic.Bool
	go func() {
		_, _ = io.ReadAll(os.Stdin)
		ended.Store(true)
	}()
	text := make([]byte, sizeOfReopen)
	for n := 0; !ended.Load(); n++ {
		copy(text, number(n))
		if err := q.Send(context.Background(), typ, text); err != nil {
			return err
		}
	}
	copy(text, number(lastNumber))
	return errors.Join(q.Send(context.Background(), typ, text), q.Close())
}

// sizeOfReopen makes a queue hold few messages.
const sizeOfReopen = 1000

// TestFaultQueueRemoved removes the queue of several processes again and again,
// each of which makes it again. What stood in it is gone, and nothing else.
func TestFaultQueueRemoved(t *testing.T) {
	if !inNamespaceWithFlags(t) { // where the queues go whatever becomes of the test
		return
	}
	const key, senders = 42, 3
	q, err := chanmq.Create(key, 0o600, chanmq.WithReopen())
	if err != nil {
		t.Fatal(err)
	}
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	holds := stat.MaxBytes / sizeOfReopen
	var inputs []io.Closer
	var processes []*exec.Cmd
	for typ := range senders {
		cmd := testkit.Process(t, "fault-reopen", fmt.Sprint(key), fmt.Sprint(typ+1))
		input, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		inputs, processes = append(inputs, input), append(processes, cmd)
	}
	removals := longForm(20)
	go func() {
		for range removals {
			aWhile()
			other, err := chanmq.Open(key)
			if err != nil {
				continue // it is away already
			}
			_ = other.Remove() // somebody may have been faster: nobody is
			_ = other.Close()
		}
		for _, input := range inputs {
			input.Close()
		}
	}()
	// By turns parked, polled, and behind a Receiver that is closed meanwhile.
	next := make(map[int64]int)
	lost, sum, ended := 0, 0, 0
	came := func(m chanmq.Message[[]byte]) {
		n := numberOf(m.Value[:4])
		if n == lastNumber {
			ended++
			return
		}
		if n < next[m.Type] {
			t.Errorf("type %d: received %d, want %d or more", m.Type, n, next[m.Type])
		}
		lost += n - next[m.Type]
		next[m.Type] = n + 1
		sum++
	}
	for ended < senders && !t.Failed() {
		r := q.Receiver(ctxLong(t), chanmq.Any(), chanmq.WithBuffer(2))
		for range 50 {
			m, ok := <-r.C()
			if !ok {
				t.Fatalf("the Receiver has ended: %v", r.Err())
			}
			if came(m); ended == senders {
				break
			}
		}
		_ = r.Close()
		for range 50 {
			if ended == senders {
				break
			}
			m, err := q.Receive(ctxLong(t), chanmq.Any())
			if err != nil {
				t.Fatal(err)
			}
			came(m)
		}
	}
	for _, cmd := range processes {
		testkit.Wait(t, cmd)
	}
	if most := removals * holds; lost > most {
		t.Errorf("%d messages lost, %d removals take %d at most", lost, removals, most)
	}
	if err := errors.Join(q.Remove(), q.Close()); err != nil {
		t.Error(err)
	}
	t.Logf("%d removals, %d messages received, %d removed with their queue", removals, sum, lost)
}

// TestFaultNoQueueToReopen lets no queue be made (ENOSPC) while one that was
// removed is looked for.
func TestFaultNoQueueToReopen(t *testing.T) {
	if !inNamespaceWithFlags(t) {
		return
	}
	q, err := chanmq.Create(42, 0o600, chanmq.WithReopen())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for range longForm(5) {
		testkit.SetLimit(t, "msgmni", "1")
		other, err := chanmq.Attach(q.ID())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(other.Remove(), other.Close()); err != nil {
			t.Fatal(err)
		}
		inTheWay, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(ctxLong(t), 20*time.Millisecond)
		_, err = q.Receive(ctx, chanmq.Any())
		wantError(t, "Receive", err, context.DeadlineExceeded, "msgmni is 1")
		cancel()
		received := make(chan error, 1)
		go func() {
			_, err := q.Receive(ctxLong(t), chanmq.Any())
			received <- err
		}()
		if err := inTheWay.Close(); err != nil {
			t.Fatal(err)
		}
		if err := q.Send(ctxLong(t), 1, nil); err != nil {
			t.Fatal(err)
		}
		if err := <-received; err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Remove(); err != nil {
		t.Error(err)
	}
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

// TestFaultStrangersMessages lets traffic pass through a queue in which messages
// of other programs stand: none is taken, or moved.
func TestFaultStrangersMessages(t *testing.T) {
	q := newQueue(t)
	var strangers []string
	put := func(typ int64, text string) {
		if err := q.Send(ctxWithin(t), typ, []byte(text)); err != nil {
			t.Fatal(err)
		}
		strangers = append(strangers, fmt.Sprint(typ, " ", text))
	}
	put(1000, "a")
	put(5, strings.Repeat("large", 600)) // larger than a buffer is at first
	put(4, "")
	put(1<<31-1, "b")
	put(5, "c")

	ctx := ctxLong(t)
	count := longForm(3000)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for n := range count {
			if err := q.Send(ctx, int64(1+n%3), number(n)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	var receiving sync.WaitGroup
	for i := range 3 {
		typ := int64(i + 1)
		// A handle for each, which is closed with what it holds, that goes back
		// to the tail; so it comes, but not in order.
		receiving.Go(func() {
			came := make(map[int]bool)
			for n := 0; len(came) < (count-i+2)/3; n++ {
				handle, err := chanmq.Attach(q.ID(), [][]chanmq.Option{nil, {chanmq.WithMaxParked(0)}}[n%2]...)
				if err != nil {
					t.Error(err)
					return
				}
				r := handle.Receiver(ctx, chanmq.OfType(typ), chanmq.WithBuffer(3))
				some := 200
				for m := range r.C() {
					if number := numberOf(m.Value); m.Type != typ || came[number] {
						t.Errorf("received %d of type %d, want type %d and no number twice", number, m.Type, typ)
					}
					came[numberOf(m.Value)] = true
					if some--; some == 0 || len(came) == (count-i+2)/3 {
						break
					}
				}
				var left *chanmq.UndeliveredError
				if err := handle.Close(); errors.As(err, &left) {
					for _, m := range left.Messages { // the queue was full
						came[numberOf(m.Value)] = true
					}
				}
				if ctx.Err() != nil {
					t.Error(ctx.Err())
					return
				}
			}
		})
	}
	receiving.Wait()
	<-sent
	var standing []string
	for m, err := range q.Browse() {
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		standing = append(standing, fmt.Sprint(m.Type, " ", string(m.Value)))
	}
	if got, want := fmt.Sprint(standing), fmt.Sprint(strangers); got != want {
		t.Errorf("the queue holds %s, want %s", got, want)
	}
	t.Logf("%d messages passed by %d", count, len(strangers))
}

// TestFaultCollectorAndProfiler lets the collector, the profiler and dumps of
// all stacks run as often as they can while messages come.
func TestFaultCollectorAndProfiler(t *testing.T) {
	q := newQueue(t)
	count := longForm(3000)
	cmd := testkit.Start(t, "fault-profiled", fmt.Sprint(q.ID()), fmt.Sprint(count))
	for n := range count {
		if err := q.Send(ctxLong(t), 1, number(n)); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Wait(t, cmd)
	wantNone(t, q)
}

// faultProfiled demands the numbers from 0 in order, from calls and Receivers
// that end all the time: msqid, count.
func faultProfiled(args []string) error {
	q, err := attachArg(args[0])
	if err != nil {
		return err
	}
	count, _ := strconv.Atoi(args[1])
	debug.SetGCPercent(1)
	runtime.SetCPUProfileRate(2000)
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
				_ = pprof.Lookup("goroutine").WriteTo(io.Discard, 2)
				_ = pprof.Lookup("threadcreate").WriteTo(io.Discard, 1)
			}
		}
	}()
	c := consumer{q: q, typ: 1, random: rand.New(rand.NewPCG(1, 2))}
	err = c.consume(count)
	close(stop)
	<-stopped
	runtime.SetCPUProfileRate(0)
	return errors.Join(err, q.Close())
}

// TestFaultDescriptorsExhausted leaves a process no file descriptor.
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
// waits: the Go runtime ends a program that cannot have a thread, so they must
// get by with what WithMaxParked grants them.
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

// TestFaultHostileSender lets somebody with write permission send texts of any
// size and kind among those that a program expects, under the same type and
// others. The program gets its own, in order, and is told of the rest.
func TestFaultHostileSender(t *testing.T) {
	type order struct {
		Number int32
		Name   [12]byte
	}
	q := newQueue(t)
	ctx, cancel := context.WithCancel(ctxLong(t))
	background(t, func() {
		text := make([]byte, largest(t))
		for n := 0; ; n++ {
			for i := range text[:min(64, len(text))] {
				text[i] = byte(rand.Uint32())
			}
			typ := int64(1)
			if n%4 == 0 {
				typ = 1 + rand.Int64N(sysv.MaxType)
			}
			size := rand.IntN(100)
			if n%50 == 0 {
				size = rand.IntN(len(text))
			}
			if size == 16 {
				continue // what the program cannot tell from its own
			}
			if q.Send(ctx, typ, text[:size]) != nil {
				return
			}
		}
	})
	count := longForm(2000)
	orders := chanmq.As(attach(t, q.ID()), codec.Struct[order]())
	background(t, func() {
		for n := range count {
			if orders.Send(ctx, 1, order{Number: int32(n)}) != nil {
				return
			}
		}
	})
	refused := 0
	r := orders.Receiver(ctx, chanmq.Any(), chanmq.WithDecodeError(func(*chanmq.DecodeError) { refused++ }))
	for next := range count {
		m, ok := <-r.C()
		if !ok {
			t.Fatal(r.Err())
		}
		if m.Value.Number != int32(next) {
			t.Fatalf("received %d, want %d", m.Value.Number, next)
		}
	}
	cancel()
	<-r.Done()
	t.Logf("%d orders among %d other messages", count, refused)
}
