//go:build linux

package interop_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
)

// peer is a process of another program.
type peer struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *bufio.Reader
	stderr bytes.Buffer
	waited bool
}

// start starts a program. It is killed if it still runs at the end of the test, or at
// the deadline.
func start(t *testing.T, command ...string) *peer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	p := &peer{t: t, cmd: exec.CommandContext(ctx, command[0], command[1:]...)}
	p.cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TZ=UTC")
	p.cmd.Stderr = &p.stderr
	p.cmd.WaitDelay = time.Second
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if !p.waited {
			_ = p.cmd.Wait() // it was killed
		}
	})
	return p
}

// run runs a program to the end and returns its output.
func run(t *testing.T, command ...string) string {
	t.Helper()
	return start(t, command...).wait()
}

// line returns the next line that the program prints.
func (p *peer) line() string {
	p.t.Helper()
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		rest, _ := p.result()
		p.t.Fatalf("%s ended after %q%q: %s", p, line, rest, &p.stderr)
	}
	return strings.TrimSuffix(line, "\n")
}

// result waits for the program. It returns the rest of its output, and an error if it
// failed.
func (p *peer) result() (string, error) {
	p.t.Helper()
	out, err := io.ReadAll(p.stdout)
	if err != nil {
		p.t.Fatalf("%s: %v", p, err)
	}
	p.waited = true
	return strings.TrimSuffix(string(out), "\n"), p.cmd.Wait()
}

// wait is result for a program that must not fail, and must not print errors.
func (p *peer) wait() string {
	p.t.Helper()
	out, err := p.result()
	if err != nil || p.stderr.Len() > 0 {
		p.t.Fatalf("%s: %v\n%s%s", p, err, out, &p.stderr)
	}
	return out
}

// blocked returns once the program has printed "waiting" and sleeps.
func (p *peer) blocked() {
	p.t.Helper()
	if line := p.line(); line != "waiting" {
		p.t.Fatalf("%s printed %q, want %q", p, line, "waiting")
	}
	for end := time.Now().Add(deadline); time.Now().Before(end); time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			p.t.Fatal(err)
		}
		// proc(5): pid, command in brackets, state.
		if _, state, _ := bytes.Cut(stat, []byte(") ")); bytes.HasPrefix(state, []byte("S")) {
			return
		}
	}
	p.t.Fatalf("%s does not sleep", p)
}

func (p *peer) String() string { return strings.Join(p.cmd.Args, " ") }

// deadlineContext returns a ctx that ends at the deadline.
func deadlineContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// removed makes sure that a queue does not outlive the test.
func removed(t *testing.T, q *chanmq.Queue[[]byte]) *chanmq.Queue[[]byte] {
	t.Helper()
	t.Cleanup(func() {
		if err := q.Remove(); err != nil && !errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("remove: %v", err)
		}
		if err := q.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return q
}

// privateQueue creates a queue that other programs use by its msqid.
func privateQueue(t *testing.T) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Private(0o600)
	if err != nil {
		t.Fatal(err)
	}
	return removed(t, q)
}

// keyedQueue creates a queue with an unused key.
func keyedQueue(t *testing.T, perm fs.FileMode) *chanmq.Queue[[]byte] {
	t.Helper()
	for {
		q, err := chanmq.Create(chanmq.Key(rand.Int32()|1), perm, chanmq.WithExclusive())
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return removed(t, q)
	}
}

// receive receives a message, and fails the test if none arrives.
func receive[T any](t *testing.T, q *chanmq.Queue[T], s chanmq.Selector) chanmq.Message[T] {
	t.Helper()
	m, err := q.Receive(deadlineContext(t), s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// send sends a message, and fails the test if it cannot.
func send[T any](t *testing.T, q *chanmq.Queue[T], typ int64, v T) {
	t.Helper()
	if err := q.Send(deadlineContext(t), typ, v); err != nil {
		t.Fatal(err)
	}
}

// fill sends messages until not even one byte fits the queue.
func fill(t *testing.T, q *chanmq.Queue[[]byte]) {
	t.Helper()
	for _, size := range []int{8192, 1024, 128, 16, 1} {
		for {
			sent, err := q.TrySend(9, make([]byte, size))
			if err != nil {
				t.Fatal(err)
			}
			if !sent {
				break
			}
		}
	}
}

// messages returns the number of messages in the queue.
func messages(t *testing.T, q *chanmq.Queue[[]byte]) int {
	t.Helper()
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return stat.Messages
}
