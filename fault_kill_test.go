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
	"syscall"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

// The tests of the files fault_*_test.go make go wrong, on the real kernel, what
// goes wrong on a machine: processes are killed, queues removed, limits lowered,
// descriptors and threads used up. What each may lose is counted.

func init() {
	roles["fault-send"] = faultSend
	roles["fault-receive"] = faultReceive
}

// batch is how many messages faultSend gives a Sender between two Flushes.
const batch = 5

// faultSend sends 0, 1, ... forever, and prints each number, encoded by number,
// when the kernel has it: msqid, type, "direct" or "Sender".
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

// faultReceive receives forever, and prints the type and the number of each
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

// TestFaultKilledSenders kills senders. Every message whose send had succeeded is
// received, once and in order, and in addition at most those still under way.
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

// TestFaultKilledReceivers kills receivers, one after the other. The next one
// starts where the last one ended, except for what that held: what was in C, what
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

// TestFaultKilledBoth kills senders and receivers that compete. Nothing is delivered
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
