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

// start runs a program, which is killed if it is still there when the test is
// over, or at the deadline.
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
			_ = p.cmd.Wait() // reaps it; that it was killed is no news
		}
	})
	return p
}

// run runs a program to its end and returns what it printed.
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

// result waits for the program and returns what it printed but not yet read,
// and whether it failed.
func (p *peer) result() (string, error) {
	p.t.Helper()
	out, err := io.ReadAll(p.stdout)
	if err != nil {
		p.t.Fatalf("%s: %v", p, err)
	}
	p.waited = true
	return strings.TrimSuffix(string(out), "\n"), p.cmd.Wait()
}

// wait is result of a program that must not fail, nor complain.
func (p *peer) wait() string {
	p.t.Helper()
	out, err := p.result()
	if err != nil || p.stderr.Len() > 0 {
		p.t.Fatalf("%s: %v\n%s%s", p, err, out, &p.stderr)
	}
	return out
}

// blocked returns when the program has said that it will wait, and sleeps.
func (p *peer) blocked() {
	p.t.Helper()
	if line := p.line(); line != "waiting" {
		p.t.Fatalf("%s says %q, want %q", p, line, "waiting")
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

// context returns a ctx that ends at the deadline.
func deadlineContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// removed sees to it that a queue does not outlive the test.
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

// privateQueue makes a queue that other programs reach by its msqid.
func privateQueue(t *testing.T) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Private(0o600)
	if err != nil {
		t.Fatal(err)
	}
	return removed(t, q)
}

// keyedQueue makes a queue under a key that nobody has.
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

// receive takes a message, and fails the test when none comes.
func receive[T any](t *testing.T, q *chanmq.Queue[T], s chanmq.Selector) chanmq.Message[T] {
	t.Helper()
	m, err := q.Receive(deadlineContext(t), s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// send puts a message into the queue, and fails the test when it cannot.
func send[T any](t *testing.T, q *chanmq.Queue[T], typ int64, v T) {
	t.Helper()
	if err := q.Send(deadlineContext(t), typ, v); err != nil {
		t.Fatal(err)
	}
}

// fill sends messages until the queue has no room for one byte.
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

// messages is how many the queue holds.
func messages(t *testing.T, q *chanmq.Queue[[]byte]) int {
	t.Helper()
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return stat.Messages
}
