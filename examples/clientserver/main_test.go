//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) {
	os.Exit(testkit.Main(m, map[string]testkit.Role{
		"clientserver": func(args []string) error {
			os.Args = append([]string{"clientserver"}, args...)
			main()
			return nil
		},
	}))
}

// deadline ends a test that hangs. It is far longer than any test needs.
const deadline = time.Minute

// program returns the command with these arguments. If it hangs, it is killed, with
// the processes that it has started.
func program(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := testkit.Process(t, "clientserver", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	kill := func() {
		if cmd.Process != nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // some may have ended
		}
	}
	timer := time.AfterFunc(deadline, kill)
	t.Cleanup(func() {
		if !timer.Stop() || t.Failed() {
			kill()
		}
	})
	return cmd
}

// key is an ftok key with its file and project id.
type key struct {
	chanmq.Key
	file string
	proj int
}

func (k key) flags() []string { return []string{"-file", k.file, "-proj", strconv.Itoa(k.proj)} }

// newKey returns a key that no queue has.
func newKey(t *testing.T) key {
	t.Helper()
	k := key{file: filepath.Join(t.TempDir(), "key")}
	if err := os.WriteFile(k.file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for k.proj = 1; k.proj < 256; k.proj++ {
		var err error
		if k.Key, err = chanmq.FTok(k.file, byte(k.proj)); err != nil {
			t.Fatal(err)
		}
		if !k.exists(t) {
			return k
		}
	}
	t.Fatalf("every key of %s is taken", k.file)
	panic("unreachable")
}

// exists reports whether a queue has the key.
func (k key) exists(t *testing.T) bool {
	t.Helper()
	q, err := chanmq.Open(k.Key)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	return true
}

// startServer starts a server, and returns when it has created the queue.
func startServer(t *testing.T, k key, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a queue", func() bool { return k.exists(t) })
	q, err := chanmq.Open(k.Key)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, q.ID())
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// interrupt ends a server in the regular way.
func interrupt(t *testing.T, server *exec.Cmd) {
	t.Helper()
	if err := server.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	testkit.Wait(t, server)
}

// wantReplies checks the output of a client.
func wantReplies(t *testing.T, id int, out string, numbers ...int32) {
	t.Helper()
	var want strings.Builder
	for _, n := range numbers {
		fmt.Fprintf(&want, "client %d sent %d, got %d\n", id, n, n+8)
	}
	if out != want.String() {
		t.Errorf("client %d printed:\n%swant:\n%s", id, out, want.String())
	}
}

// language is a language with a program for each role.
type language struct {
	name   string
	server func(t *testing.T, k key, requests int) *exec.Cmd
	client func(t *testing.T, k key, id int) *exec.Cmd
}

var inGo = language{
	"Go",
	func(t *testing.T, k key, _ int) *exec.Cmd {
		return program(t, append(k.flags(), "-role", "server")...)
	},
	func(t *testing.T, k key, id int) *exec.Cmd {
		return program(t, append(k.flags(), "-role", "client", "-id", strconv.Itoa(id))...)
	},
}

var inC = language{
	"C",
	func(t *testing.T, k key, requests int) *exec.Cmd {
		return exec.CommandContext(t.Context(), compile(t, "server"), k.file, strconv.Itoa(k.proj), strconv.Itoa(requests))
	},
	func(t *testing.T, k key, id int) *exec.Cmd {
		return exec.CommandContext(t.Context(), compile(t, "client"), strconv.Itoa(id), k.file, strconv.Itoa(k.proj))
	},
}

// compile builds testdata/NAME.c for the architecture of this test.
func compile(t *testing.T, name string) string {
	t.Helper()
	if sysvtest.Emulated() {
		t.Skip("the C compiler is for this machine, not for the emulated one")
	}
	out := filepath.Join(t.TempDir(), name)
	args := []string{"-Wall", "-Wextra", "-Werror", "-o", out, filepath.Join("testdata", name+".c")}
	if runtime.GOARCH == "386" {
		args = append(args, "-m32", "-static")
	}
	text, err := exec.CommandContext(t.Context(), "cc", args...).CombinedOutput()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		t.Skip(err)
	case err != nil && runtime.GOARCH == "386":
		t.Skipf("cc -m32 (gcc-multilib): %v\n%s", err, text)
	case err != nil:
		t.Fatalf("cc: %v\n%s", err, text)
	}
	return out
}

func TestClientsAndServers(t *testing.T) {
	numbers := []int32{0, 1, -1, -8, 12345678, 2147483639, -2147483648}
	var input strings.Builder
	for _, n := range numbers {
		fmt.Fprintln(&input, n)
	}
	for _, tt := range []struct{ server, client language }{{inGo, inGo}, {inGo, inC}, {inC, inGo}} {
		t.Run(tt.server.name+" server, "+tt.client.name+" clients", func(t *testing.T) {
			k := newKey(t)
			server := tt.server.server(t, k, clients*len(numbers))
			stdin, err := server.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			startServer(t, k, server)
			// All of them run at once, each waiting for replies of its own type.
			var running [clients]*exec.Cmd
			var outputs [clients]bytes.Buffer
			for i := range running {
				cmd := tt.client.client(t, k, i+1)
				cmd.Stdin, cmd.Stdout = strings.NewReader(input.String()), &outputs[i]
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				running[i] = cmd
			}
			for i, cmd := range running {
				testkit.Wait(t, cmd)
				wantReplies(t, i+1, outputs[i].String(), numbers...)
			}
			if tt.server.name == "Go" {
				interrupt(t, server)
			} else if err := stdin.Close(); err != nil { // which tells the server to end
				t.Error(err)
			} else {
				testkit.Wait(t, server)
			}
			if k.exists(t) {
				t.Error("the queue is still there")
			}
		})
	}
}

func TestServerSurvivesABadMessage(t *testing.T) {
	k := newKey(t)
	server := inGo.server(t, k, 0)
	var messages bytes.Buffer
	server.Stderr = &messages
	startServer(t, k, server)
	q, err := chanmq.Open(k.Key)
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Send(t.Context(), 2, []byte("bad")); err != nil {
		t.Error(err)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	client := inGo.client(t, k, 2)
	client.Stdin = strings.NewReader("5")
	out, err := client.Output()
	if err != nil {
		t.Error(err)
	}
	wantReplies(t, 2, string(out), 5)
	interrupt(t, server)
	if text := messages.String(); !strings.Contains(text, "message of type 2, 3 bytes") {
		t.Errorf("the server reported a bad message as %q", text)
	}
}

func TestBadInput(t *testing.T) {
	k := newKey(t)
	missing := filepath.Join(t.TempDir(), "missing")
	q, err := chanmq.Private(0o600)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, q.ID())
	defer q.Close()
	msqid := strconv.Itoa(q.ID())
	for _, tt := range []struct {
		name  string
		input string
		args  []string
		words []string // of the error
	}{
		{"a word for a number", "five", []string{"-role", "client", "-id", "1", "-msqid", msqid}, []string{"client 1", `"five"`, "not an integer of 32 bits"}},
		{"a number with a fraction", "5.0", []string{"-role", "client", "-id", "1", "-msqid", msqid}, []string{`"5.0"`, "not an integer"}},
		{"a number that is too large", "2147483648", []string{"-role", "client", "-id", "3", "-msqid", msqid}, []string{"client 3", `"2147483648"`, "not an integer of 32 bits"}},
		{"a number that is too small", "-2147483649", []string{"-role", "client", "-id", "3", "-msqid", msqid}, []string{`"-2147483649"`, "not an integer of 32 bits"}},
		{"id 0", "1", []string{"-role", "client", "-id", "0", "-msqid", msqid}, []string{"-id 0", "1 to 3"}},
		{"id 4", "1", []string{"-role", "client", "-id", "4", "-msqid", msqid}, []string{"-id 4", "1 to 3"}},
		{"id -1", "1", []string{"-role", "client", "-id", "-1", "-msqid", msqid}, []string{"-id -1", "1 to 3"}},
		{"no id", "1", append(k.flags(), "-role", "client"), []string{"-id 0", "1 to 3"}},
		{"an unknown role", "", append(k.flags(), "-role", "broker"), []string{`-role "broker"`, "server or client"}},
		{"no file for a client", "1", []string{"-role", "client", "-id", "1"}, []string{"-file is missing"}},
		{"no file for a server", "", []string{"-role", "server"}, []string{"-file is missing"}},
		{"a missing file", "", []string{"-role", "server", "-file", missing}, []string{missing, "no such file"}},
		{"a missing file, for a client", "1", []string{"-role", "client", "-id", "1", "-file", missing}, []string{missing, "no such file"}},
		{"project id 0", "", []string{"-role", "server", "-file", k.file, "-proj", "0"}, []string{"-proj 0", "1 to 255"}},
		{"project id 256", "", []string{"-role", "server", "-file", k.file, "-proj", "256"}, []string{"-proj 256", "1 to 255"}},
		{"a client without a server", "1", append(k.flags(), "-role", "client", "-id", "1"), []string{k.String(), "no queue has this key"}},
		{"an unknown msqid", "1", []string{"-role", "client", "-id", "1", "-msqid", "2147483647"}, []string{"2147483647", "no queue has this msqid"}},
		{"an argument that is not a flag", "", append(k.flags(), "-role", "server", "more"), []string{`"more"`, "standard input"}},
		{"an argument that is not a flag, alone", "", []string{"more"}, []string{`"more"`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := program(t, tt.args...)
			var out, text bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(tt.input), &out, &text
			err := cmd.Run()
			if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("%v, want exit code 1", err)
			}
			if !strings.HasPrefix(text.String(), "clientserver: ") || strings.Count(text.String(), "\n") != 1 {
				t.Errorf("the error is %q, want one line", text.String())
			}
			for _, word := range tt.words {
				if !strings.Contains(text.String(), word) {
					t.Errorf("the error is %q, which does not say %q", text.String(), word)
				}
			}
			if out.Len() > 0 {
				t.Errorf("it printed %q", out.String())
			}
			if k.exists(t) {
				t.Error("a queue has the key now")
			}
			if stat, err := q.Stat(); err != nil || stat.Messages != 0 {
				t.Errorf("%d messages were sent, %v", stat.Messages, err)
			}
		})
	}
}

// The other tests run the program without arguments. It starts itself then.
func needSelf(t *testing.T) {
	t.Helper()
	if sysvtest.Emulated() {
		t.Skip("the program starts itself, which needs binfmt_misc under qemu-user")
	}
}

func TestFifteenReplies(t *testing.T) {
	needSelf(t)
	out, err := program(t).Output()
	if err != nil {
		t.Fatal(err)
	}
	got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	var want []string
	for id := 1; id <= clients; id++ {
		var own []string
		for n := 100 * id; n < 100*id+5; n++ {
			own = append(own, fmt.Sprintf("client %d sent %d, got %d", id, n, n+8))
		}
		prefix := fmt.Sprintf("client %d ", id)
		mine := slices.DeleteFunc(slices.Clone(got), func(line string) bool { return !strings.HasPrefix(line, prefix) })
		if !slices.Equal(mine, own) { // in this order
			t.Errorf("client %d printed %q, want %q", id, mine, own)
		}
		want = append(want, own...)
	}
	if len(got) != len(want) {
		t.Errorf("%d lines, want %d:\n%s", len(got), len(want), out)
	}
}

// No queue is left, however the program ends.
func TestNoQueueIsLeft(t *testing.T) {
	needSelf(t)
	if !testkit.InNamespace(t) {
		return
	}
	const none = syscall.Signal(0)
	for _, tt := range []struct {
		name   string
		signal syscall.Signal // sent while all processes run and none can end
		to     func(run, server int, clients []int) int
		stay   int      // clients that survive the signal
		words  []string // of the error
	}{
		{"undisturbed", none, nil, clients, nil},
		{"interrupted", syscall.SIGINT, func(run, _ int, _ []int) int { return run }, 0, []string{"client 1", "client 2", "client 3"}},
		{"terminated", syscall.SIGTERM, func(run, _ int, _ []int) int { return run }, 0, []string{"client 1", "client 2", "client 3"}},
		{"its server killed", syscall.SIGKILL, func(_, server int, _ []int) int { return server }, 0, []string{"server: signal: killed"}},
		{"a client killed", syscall.SIGKILL, func(_, _ int, clients []int) int { return clients[1] }, clients - 1, []string{"signal: killed"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := program(t)
			out, in := fullPipe(t)
			var text bytes.Buffer
			cmd.Stdout, cmd.Stderr = in, &text
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			in.Close() // the processes that write to it have it
			run := cmd.Process.Pid
			server := children(t, run, "server", 1)[0]
			clients := children(t, run, "client", clients)
			if tt.signal != none {
				if err := syscall.Kill(tt.to(run, server, clients), tt.signal); err != nil {
					t.Error(err)
				}
			}
			children(t, run, "client", tt.stay)
			if _, err := io.Copy(io.Discard, out); err != nil { // now the clients can print
				t.Error(err)
			}
			err := cmd.Wait()
			if tt.signal == none {
				if err != nil {
					t.Errorf("%v: %s", err, text.String())
				}
			} else if cmd.ProcessState.ExitCode() != 1 {
				t.Errorf("%v, want exit code 1", err)
			}
			for _, word := range tt.words {
				if !strings.Contains(text.String(), word) {
					t.Errorf("the error is %q, which does not say %q", text.String(), word)
				}
			}
			if queues, err := chanmq.List(); err != nil || len(queues) > 0 {
				t.Errorf("queues left: %+v, %v", queues, err)
			}
		})
	}
}

// fullPipe returns a pipe that is full: a write to it blocks until the test reads.
func fullPipe(t *testing.T) (out, in *os.File) {
	t.Helper()
	out, in, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close(); in.Close() })
	conn, err := in.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	page := make([]byte, os.Getpagesize())
	if waitErr := conn.Write(func(fd uintptr) bool {
		for err == nil || err == syscall.EINTR {
			_, err = syscall.Write(int(fd), page)
		}
		return true
	}); waitErr != nil || err != syscall.EAGAIN {
		t.Fatalf("filling a pipe: %v, %v", waitErr, err)
	}
	return out, in
}

// children returns the process ids of the n children that have a role, once they
// run.
func children(t *testing.T, parent int, role string, n int) (pids []int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d processes of role %s", n, role), func() bool {
		pids = nil
		stats, _ := filepath.Glob("/proc/[0-9]*/stat")
		for _, file := range stats {
			stat, _ := os.ReadFile(file) // nothing if the process has ended
			// The parent is the second field after the name, which is in ().
			fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
			if len(fields) < 2 || fields[1] != strconv.Itoa(parent) {
				continue
			}
			dir := filepath.Dir(file)
			line, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
			if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil && bytes.Contains(line, []byte("-role\x00"+role+"\x00")) {
				pids = append(pids, pid)
			}
		}
		return len(pids) == n
	})
	return pids
}
