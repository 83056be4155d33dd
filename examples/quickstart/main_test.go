//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) {
	os.Exit(testkit.Main(m, map[string]testkit.Role{
		"quickstart": func([]string) error { main(); return nil },
	}))
}

// sendOrder sends an order by a command of the shell.
const sendOrder = `
perl -e 'msgsnd(msgget(0x2a01, 0), pack("l! a*", 1, "two lamps"), 0) or die $!'
`

// TestInterrupt sends messages to the program, and interrupts it at any moment: each
// message is either handled or in the queue again, and the program ends without an
// error.
func TestInterrupt(t *testing.T) {
	if !testkit.InNamespace(t) {
		return
	}
	const rounds, messages = 5, 2000 // few of them orders, whose answers stay in the queue
	for round := range rounds {
		program := start(t)
		q, err := chanmq.Open(0x2a01)
		if err != nil {
			t.Fatal(err)
		}
		sent := make(chan error, 1)
		go func() {
			for n := range messages {
				typ := int64(2)
				if n%10 == 0 {
					typ = 1
				}
				if err := q.Send(t.Context(), typ, fmt.Append(nil, n)); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		time.Sleep(rand.N(10 * time.Millisecond))
		program.interrupt(t)
		if err := <-sent; err != nil {
			t.Fatal(err)
		}

		came := make(map[string]int)
		handled := 0
		for line := range strings.Lines(program.out.String()) {
			_, number, found := strings.Cut(strings.TrimSpace(line), ": ")
			if !found {
				t.Errorf("it printed %q", line)
			}
			came[number]++
			handled++
		}
		for ok := true; ok; {
			var m chanmq.Message[[]byte]
			if m, ok, err = q.TryReceive(chanmq.UpTo(2)); err != nil {
				t.Fatal(err)
			} else if ok {
				came[string(m.Value)]++
			}
		}
		for n := range messages {
			if times := came[fmt.Sprint(n)]; times != 1 {
				t.Errorf("round %d: message %d is %d times in the output or in the queue, want once", round, n, times)
			}
		}
		t.Logf("round %d: %d of %d messages were handled", round, handled, messages)
		if err := errors.Join(q.Remove(), q.Close()); err != nil {
			t.Error(err)
		}
	}
}

// TestOrderFromTheShell sends an order as the README does, and receives the answer.
func TestOrderFromTheShell(t *testing.T) {
	if _, err := exec.LookPath("perl"); err != nil {
		t.Skip(err)
	}
	if !testkit.InNamespace(t) {
		return
	}
	program := start(t)
	if text, err := exec.Command("sh", "-c", sendOrder).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	q, err := chanmq.Open(0x2a01)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	m, err := q.Receive(ctx, chanmq.OfType(11))
	if err != nil || string(m.Value) != "thank you" {
		t.Errorf("the answer is %q, %v", m.Value, err)
	}
	program.interrupt(t)
	if got, want := program.out.String(), "order: two lamps\n"; got != want {
		t.Errorf("it printed %q, want %q", got, want)
	}
	if err := errors.Join(q.Remove(), q.Close()); err != nil {
		t.Error(err)
	}
}

// TestRemovedQueue: the program ends, with an error, when its queue is removed.
func TestRemovedQueue(t *testing.T) {
	if !testkit.InNamespace(t) {
		return
	}
	program := start(t)
	q, err := chanmq.Open(0x2a01)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(q.Remove(), q.Close()); err != nil {
		t.Error(err)
	}
	err = program.Wait()
	if text := program.errs.String(); program.ProcessState.ExitCode() != 1 || !strings.Contains(text, chanmq.ErrRemoved.Error()) {
		t.Errorf("it ended with %v: %s; want exit code 1 and the reason", err, text)
	}
}

// process is the program, and what it prints. That must not be read before its end.
type process struct {
	*exec.Cmd
	out, errs bytes.Buffer
}

// start starts the program, and returns when it has the queue.
func start(t *testing.T) *process {
	t.Helper()
	p := &process{Cmd: testkit.Process(t, "quickstart")}
	p.Stdout, p.Stderr = &p.out, &p.errs
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a queue", func() bool {
		queues, err := chanmq.List()
		return err == nil && len(queues) == 1
	})
	return p
}

// interrupt ends the program in the regular way.
func (p *process) interrupt(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%v: %s", err, p.errs.String())
	}
}
