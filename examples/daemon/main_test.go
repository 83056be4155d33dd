//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/serve"
)

func TestMain(m *testing.M) {
	os.Exit(testkit.Main(m, map[string]testkit.Role{
		"daemon": func(args []string) error {
			os.Args = append([]string{"daemon"}, args...)
			main()
			return nil
		},
	}))
}

const key = 0x2a02

// start starts the daemon, and waits until it works. log waits for its end, and returns
// what it has logged.
func start(t *testing.T, dir string) (cmd *exec.Cmd, log func() string) {
	t.Helper()
	cmd = testkit.Process(t, "daemon", "-key", fmt.Sprint(key), "-journal", dir)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd.Stderr = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	lines := bufio.NewReader(r)
	first, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return cmd, func() string {
		rest, err := io.ReadAll(lines) // less than a pipe holds
		if err != nil {
			t.Error(err)
		}
		return first + string(rest)
	}
}

func ask(t *testing.T, args ...string) string {
	t.Helper()
	cmd := testkit.Process(t, "daemon", append([]string{"-key", fmt.Sprint(key), "-ask"}, args...)...)
	out, err := cmd.Output()
	if err != nil {
		t.Errorf("%v: %v", args, err)
	}
	return string(out)
}

// TestDaemon: it answers, survives SIGKILL, ends by SIGTERM without an error, and goes on
// where it was. It runs in an IPC namespace of its own, for the keys.
func TestDaemon(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user receives into memory of its own, so that journals are refused")
	}
	if !testkit.InNamespace(t) {
		return
	}
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-test-")
	if err != nil {
		t.Skipf("no tmpfs for journals: %v", err)
	}
	defer os.RemoveAll(dir)
	daemon, _ := start(t, dir)
	if got := ask(t, "greet", "World"); got != "Hello, World!\n" {
		t.Errorf("%q", got)
	}
	if got := ask(t, "count", "to be or not to be"); got != "6 words\n" {
		t.Errorf("%q", got)
	}
	if err := daemon.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	ask(t, "log", "while nobody listens")
	ask(t, "fail", "it never works")

	daemon, log := start(t, dir)
	dead, err := chanmq.Open(key + 2)
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	m, err := chanmq.As(dead, serve.DeadLetterCodec()).Receive(t.Context(), chanmq.Any())
	if err != nil || string(m.Value.Text) != "it never works" || m.Value.Reason != "as it always does" || m.Value.Attempts != 3 {
		t.Errorf("%+v, %v", m, err)
	}
	if got := ask(t, "greet", "again"); got != "Hello, again!\n" {
		t.Errorf("%q", got)
	}
	if err := daemon.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := daemon.Wait(); err != nil {
		t.Error(err)
	}
	if text := log(); !strings.Contains(text, "while nobody listens") || !strings.Contains(text, "ended") {
		t.Errorf("it logged\n%s", text)
	}
	for _, k := range []chanmq.Key{key, key + 1, key + 2} {
		q, err := chanmq.Open(k)
		if err != nil {
			t.Fatal(err)
		}
		if stat, err := q.Stat(); err != nil || stat.Messages > 0 {
			t.Errorf("queue %v: %+v, %v", k, stat, err)
		}
		if err := errors.Join(q.Remove(), q.Close()); err != nil {
			t.Error(err)
		}
	}
}
