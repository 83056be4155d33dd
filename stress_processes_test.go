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
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
)

// The stress test counts: sender processes send numbers, a receiver process
// takes them in every way there is, changing at random and under a rain of
// signals, and none may be missing, delivered twice, or out of order.

const stressSenders = 4

func init() {
	roles["stress-send"] = stressSend
	roles["stress-ordered"] = func(args []string) error { return stressReceive(args, receiveOrdered) }
	roles["stress-shared"] = func(args []string) error { return stressReceive(args, receiveShared) }
}

func TestStress(t *testing.T) {
	for _, c := range []struct{ kind, packing string }{
		{"ordered", unpacked}, {"shared", unpacked}, {"ordered", packed}, {"shared", packed},
	} {
		t.Run(c.kind+", "+c.packing, func(t *testing.T) {
			t.Parallel()
			q := newQueue(t, packingArg(c.packing)...)
			seed := fmt.Sprint(rand.Uint64())
			t.Logf("seed %s", seed)
			id, count := fmt.Sprint(q.ID()), fmt.Sprint(*stressCount)
			var processes []*exec.Cmd
			for typ := range stressSenders {
				packing := c.packing
				if typ == 0 {
					packing = unpacked // what it sends is what programs in C send
				}
				cmd, _ := startReady(t, "stress-send", id, fmt.Sprint(typ+1), count, seed, packing)
				processes = append(processes, cmd)
			}
			receiver, output := startReady(t, "stress-"+c.kind, id, count, seed, c.packing)
			stop := rain(append(processes, receiver))
			defer stop()
			// The receiver first: if it fails, the senders wait forever for space.
			result, _ := io.ReadAll(output)
			testkit.Wait(t, receiver)
			if t.Failed() {
				return
			}
			for _, cmd := range processes {
				testkit.Wait(t, cmd)
			}
			t.Logf("%s", result)
			wantNone(t, q)
		})
	}
}

// Whether a role has handles with packing.
const (
	packed   = "packing"
	unpacked = "without packing"
)

func packingArg(arg string) []chanmq.Option {
	if arg == packed {
		return []chanmq.Option{chanmq.WithPacking()}
	}
	return nil
}

// startReady starts a role that prints "ready" first: before the runtime has its
// handlers in place, SIGPROF would kill the process.
func startReady(t *testing.T, role string, args ...string) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	cmd := testkit.Process(t, role, args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	output := bufio.NewReader(stdout)
	if line, err := output.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%s: %q, %v", role, line, err)
	}
	return cmd, output
}

// rain sends signals that are usual, at a rate that is not.
func rain(processes []*exec.Cmd) (stop func()) {
	stopped, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		signals := []syscall.Signal{syscall.SIGURG, syscall.SIGCHLD, syscall.SIGPROF}
		for n := 0; ; n++ {
			select {
			case <-stopped:
				return
			case <-time.After(200 * time.Microsecond):
				// An error means that it has ended, and Wait returns why.
				_ = processes[n%len(processes)].Process.Signal(signals[n%len(signals)])
				_ = processes[len(processes)-1].Process.Signal(signals[n%len(signals)])
			}
		}
	}()
	return func() { close(stopped); <-ended }
}

// stressSend sends the numbers 0 to count-1 as messages of one type, in texts of
// all sizes, by all means: msqid, type, count, seed, packing.
func stressSend(args []string) error {
	fmt.Println("ready")
	id, _ := strconv.Atoi(args[0])
	q, err := chanmq.Attach(id, packingArg(args[4])...)
	if err != nil {
		return err
	}
	typ, _ := strconv.ParseInt(args[1], 10, 64)
	count, _ := strconv.Atoi(args[2])
	seed, _ := strconv.ParseUint(args[3], 10, 64)
	random := rand.New(rand.NewPCG(seed, uint64(typ)))
	text := func(n int) []byte {
		size := 0
		if random.IntN(10) == 0 {
			size = random.IntN(3000)
		}
		return append(number(n), make([]byte, size)...)
	}
	ctx := context.Background()
	for n := 0; n < count; {
		some := min(1+random.IntN(50), count-n)
		switch random.IntN(4) {
		case 3: // all at once
			var values [][]byte
			for range some {
				values = append(values, text(n))
				n++
			}
			if _, err := q.SendAll(ctx, typ, values); err != nil {
				return err
			}
		case 0: // direct
			for range some {
				if err := q.Send(ctx, typ, text(n)); err != nil {
					return err
				}
				n++
			}
		case 1: // a Sender that is flushed by closing C
			s := q.Sender(ctx, chanmq.WithBuffer(random.IntN(10)))
			for range some {
				s.C() <- chanmq.Message[[]byte]{Type: typ, Value: text(n)}
				n++
			}
			close(s.C())
			<-s.Done()
			if err := s.Err(); err != nil {
				return err
			}
		case 2: // a Sender that is stopped anywhere, and whose rest is sent by hand
			s := q.Sender(ctx, chanmq.WithBuffer(random.IntN(10)))
			for range some {
				s.C() <- chanmq.Message[[]byte]{Type: typ, Value: text(n)}
				n++
			}
			_ = s.Close() // what it says is what Unsent has
			for _, m := range s.Unsent() {
				if err := q.Send(ctx, m.Type, m.Value); err != nil {
					return err
				}
			}
		}
	}
	return q.Close()
}

// stressReceive runs a receiver: msqid, count, seed, packing.
func stressReceive(args []string, receive func(id, count int, seed uint64, packing []chanmq.Option) error) error {
	fmt.Println("ready")
	id, _ := strconv.Atoi(args[0])
	count, _ := strconv.Atoi(args[1])
	seed, _ := strconv.ParseUint(args[2], 10, 64)
	start := time.Now()
	if err := receive(id, count, seed, packingArg(args[3])); err != nil {
		return err
	}
	fmt.Printf("%d messages in %v: lost 0, duplicated 0, out of order 0", stressSenders*count, time.Since(start).Round(time.Millisecond))
	return nil
}

// receiveOrdered has one consumer for each type, all on one handle, which
// demands its numbers in order.
func receiveOrdered(id, count int, seed uint64, packing []chanmq.Option) error {
	q, err := chanmq.Attach(id, append(packing, chanmq.WithMaxParked(2))...) // half park, half are polled
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for i := range stressSenders {
		wg.Go(func() {
			c := consumer{
				q:      q,
				typ:    int64(i + 1),
				random: rand.New(rand.NewPCG(seed, uint64(100+i))),
			}
			if err := c.consume(count); err != nil {
				// What it leaves unread would fill the queue, and stop the others.
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		})
	}
	wg.Wait()
	return q.Close()
}

// consumer receives the messages of one type.
type consumer struct {
	q      *chanmq.Queue[[]byte]
	typ    int64
	random *rand.Rand
	next   int
}

func (c *consumer) got(m chanmq.Message[[]byte]) error {
	if n := numberOf(m.Value); n != c.next || m.Type != c.typ {
		return fmt.Errorf("type %d: got number %d of type %d, want %d", c.typ, n, m.Type, c.next)
	}
	c.next++
	return nil
}

func (c *consumer) consume(count int) error {
	s := chanmq.OfType(c.typ)
	for c.next < count {
		ctx, cancel := c.context(time.Duration(c.random.IntN(3000)) * time.Microsecond)
		some := 1 + c.random.IntN(40)
		buffer := chanmq.WithBuffer(c.random.IntN(4) * c.random.IntN(4))
		var err error
		switch c.random.IntN(10) {
		case 9: // several at once
			into := make([]chanmq.Message[[]byte], some)
			var n int
			n, err = c.q.ReceiveBatch(ctx, s, into)
			for _, m := range into[:n] {
				if err == nil {
					err = c.got(m)
				}
			}
		case 0: // direct, until ctx ends
			for err == nil && some > 0 && c.next < count {
				var m chanmq.Message[[]byte]
				if m, err = c.q.Receive(ctx, s); err == nil {
					err = c.got(m)
				}
				some--
			}
		case 1: // never waiting
			for ok := true; ok && err == nil; {
				var m chanmq.Message[[]byte]
				if m, ok, err = c.q.TryReceive(s); ok {
					err = c.got(m)
				}
			}
		case 2: // an iterator that is left, or ends
			for m, iterErr := range c.q.Messages(ctx, s) {
				if err = iterErr; err == nil {
					err = c.got(m)
				}
				if some--; err != nil || some <= 0 {
					break
				}
			}
		case 3: // a Receiver without a buffer, left alone when ctx ends
			r := c.q.Receiver(ctx, s)
			err = c.read(r, some)
			cancel()
		case 4: // a Receiver read to the end that ctx makes
			r := c.q.Receiver(ctx, s, buffer)
			err = c.read(r, 1<<30)
		case 5: // a Receiver closed with what it holds
			r := c.q.Receiver(ctx, s, buffer)
			err = c.read(r, some)
			r.Close()
		case 6: // drained by another goroutine
			r := c.q.Receiver(ctx, s, buffer)
			err = c.read(r, some)
			drained := make(chan struct{})
			go func() { r.Drain(context.Background()); close(drained) }()
			if err == nil {
				err = c.read(r, 1<<30)
			}
			r.Close()
			<-drained
		case 7: // a typed view
			err = c.typed(ctx, s, some, buffer)
		case 8: // drained by the end of ctx
			err = c.read(c.q.Receiver(ctx, s, buffer, chanmq.WithDrain()), 1<<30)
		}
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
			return err
		}
	}
	return nil
}

// context returns a ctx of any kind that ends after d.
func (c *consumer) context(d time.Duration) (context.Context, context.CancelFunc) {
	if c.random.IntN(2) == 0 {
		return context.WithTimeout(context.Background(), d)
	}
	own, end := newOwnContext(context.Background())
	timer := time.AfterFunc(d, end)
	ctx, cancelDerived := own, context.CancelFunc(func() {})
	if c.random.IntN(2) == 0 {
		ctx, cancelDerived = context.WithCancel(own)
	}
	return ctx, func() {
		timer.Stop()
		end()
		cancelDerived()
	}
}

func (c *consumer) read(r *chanmq.Receiver[[]byte], n int) error {
	for m := range r.C() {
		if err := c.got(m); err != nil {
			return err
		}
		if n--; n <= 0 {
			break
		}
	}
	return r.Err()
}

// typed receives through a typed view, which leaves the rest to the others.
func (c *consumer) typed(ctx context.Context, s chanmq.Selector, some int, buffer chanmq.BufferOption) error {
	r := chanmq.As(c.q, textOf).Receiver(ctx, s, buffer)
	defer r.Close()
	for m := range r.C() {
		if err := c.got(chanmq.Message[[]byte]{Type: m.Type, Value: []byte(m.Value)}); err != nil {
			return err
		}
		if some--; some <= 0 {
			break
		}
	}
	return r.Err()
}

// textOf is a codec for a view that keeps the text as a string.
var textOf = codec.String()

// receiveShared has several consumers that compete for all messages, each on a
// handle of its own that is closed and opened again, with whatever it holds.
func receiveShared(id, count int, seed uint64, packing []chanmq.Option) error {
	seen := &numbers{left: stressSenders * count, came: make(map[string]bool)}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	seen.all = cancel
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range errs {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(200+i)))
			for ctx.Err() == nil && errs[i] == nil {
				errs[i] = shareOnce(ctx, id, random, seen, packing)
			}
			if errs[i] != nil {
				cancel()
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if seen.left != 0 {
		return fmt.Errorf("%d messages are missing", seen.left)
	}
	return nil
}

// numbers are the messages that came.
type numbers struct {
	mu   sync.Mutex
	came map[string]bool // by type and number
	left int
	all  func() // called when all have come
}

func (n *numbers) got(m chanmq.Message[[]byte]) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	name := fmt.Sprint(m.Type, " ", numberOf(m.Value))
	if n.came[name] {
		return fmt.Errorf("message %s came twice", name)
	}
	n.came[name] = true
	if n.left--; n.left == 0 {
		n.all()
	}
	return nil
}

// shareOnce opens a handle, receives for a while, and closes it.
func shareOnce(ctx context.Context, id int, random *rand.Rand, seen *numbers, packing []chanmq.Option) error {
	options := [][]chanmq.Option{
		nil,
		{chanmq.WithSpin(0)},
		{chanmq.WithPolling(100*time.Microsecond, time.Millisecond)},
		{chanmq.WithMaxParked(1)},
	}[random.IntN(4)]
	q, err := chanmq.Attach(id, append(options, packing...)...)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(random.IntN(20))*time.Millisecond)
	defer cancel()
	selectors := []chanmq.Selector{chanmq.Any(), chanmq.UpTo(2), chanmq.UpTo(9), chanmq.Except(3), chanmq.OfType(2)}
	var receivers []*chanmq.Receiver[[]byte]
	for range 1 + random.IntN(3) {
		receivers = append(receivers, q.Receiver(ctx, selectors[random.IntN(len(selectors))], chanmq.WithBuffer(random.IntN(20))))
	}
	receivers = append(receivers, q.Receiver(ctx, chanmq.Any()))
	for n := random.IntN(300); n > 0; n-- {
		r := receivers[random.IntN(len(receivers))]
		select {
		case m, ok := <-r.C():
			if !ok {
				n = 0
			} else if err := seen.got(m); err != nil {
				return err
			}
		default:
			m, err := q.Receive(ctx, chanmq.Any())
			if err == nil {
				err = seen.got(m)
			}
			if err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
				return err
			}
		}
	}
	var left *chanmq.UndeliveredError
	if err := q.Close(); errors.As(err, &left) {
		for _, m := range left.Messages {
			if err := seen.got(m); err != nil {
				return err
			}
		}
	} else if err != nil {
		return err
	}
	return nil
}
