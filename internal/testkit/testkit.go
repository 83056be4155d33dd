// Package testkit has helpers for the tests of this module: other processes, which
// run the test binary again, queues that are removed even if the test binary is
// killed, and checks for leaks after all tests.
//
// A test package calls it in TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(testkit.Main(m, map[string]testkit.Role{...})) }
package testkit

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/chanmq/chanmq/internal/sysv"
)

// A Role is what the test binary does as another process. If it returns an error,
// the process prints it and fails.
type Role func(args []string) error

const (
	roleVariable = "CHANMQ_TEST_ROLE"
	reaperRole   = "reaper"
)

// Main runs a role if this process was started for one, and the tests otherwise. It
// returns the exit code. After the tests it fails if goroutines, threads in a message
// queue call, or queues passed to Reap are left.
func Main(m *testing.M, roles map[string]Role) int {
	switch name := os.Getenv(roleVariable); name {
	case "":
		return runTests(m)
	case reaperRole:
		return report(reap(os.Stdin))
	default:
		role, ok := roles[name]
		if !ok {
			return report(fmt.Errorf("no role %q", name))
		}
		return report(role(os.Args[1:]))
	}
}

func report(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func runTests(m *testing.M) int {
	code := m.Run()
	if code != 0 {
		return code // leaks of a failed test are not worth reporting
	}
	reaper.stop()
	if err := goleak.Find(); err != nil {
		return report(err)
	}
	if tids := ThreadsInCalls(); len(tids) > 0 {
		return report(fmt.Errorf("threads left in a message queue call: %v", tids))
	}
	if ids := reaper.left(); len(ids) > 0 {
		return report(fmt.Errorf("queues left: msqid %v", ids))
	}
	return 0
}

// Process returns the command that runs the test binary in a role. It inherits
// standard error. When the test ends, the process is killed, if it has not ended,
// and waited for.
func Process(t testing.TB, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := again(args...)
	cmd.Env = append(cmd.Env, roleVariable+"="+role)
	cmd.Stderr = os.Stderr
	t.Cleanup(func() {
		if cmd.Process != nil && cmd.ProcessState == nil {
			_ = cmd.Process.Kill() // it may have ended just now
			_ = cmd.Wait()         // how it ended no longer matters
		}
	})
	return cmd
}

// again returns the command that runs the test binary again, under the same emulator
// if there is one: without binfmt_misc the kernel would not use it.
func again(args ...string) *exec.Cmd {
	command := append([]string{os.Args[0]}, args...)
	if emulator := emulator(); emulator != "" {
		command = append([]string{emulator}, command...)
	}
	cmd := exec.Command(command[0], command[1:]...)
	// With the race detector, a process sleeps for a second before it exits, which
	// is not needed for short roles.
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0 "+os.Getenv("GORACE"))
	return cmd
}

// emulator returns the path of the qemu-user that runs this process, or "".
// qemu-user emulates the link /proc/self/exe, but not the same link of a thread.
func emulator() string {
	threads, _ := filepath.Glob("/proc/self/task/*/exe") // none but on Linux
	for _, thread := range threads {
		path, err := os.Readlink(thread)
		if err == nil && strings.HasPrefix(filepath.Base(path), "qemu-") {
			return path
		}
	}
	return ""
}

// Output is what a process has written so far, as the Stdout or Stderr of its command.
type Output struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

// Write appends to it.
func (o *Output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

// String returns it.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Start starts the command of Process. It fails the test if that fails.
func Start(t testing.TB, role string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := Process(t, role, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd
}

// Wait waits for a process, and fails the test if the process failed.
func Wait(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Wait(); err != nil {
		t.Errorf("process %v: %v", cmd.Args[1:], err)
	}
}

// Reap makes sure that the queue is removed when the test ends, or when the test
// binary ends in any other way, including SIGKILL.
func Reap(t testing.TB, msqid int) {
	t.Helper()
	if err := reaper.add(msqid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = sysv.Host().Remove(msqid) // most tests have removed it themselves
		reaper.done(msqid)
	})
}

// ReapPath makes sure that a file or directory is removed when the test binary ends in
// any way, including SIGKILL. The test removes it itself.
func ReapPath(t testing.TB, path string) {
	t.Helper()
	if err := reaper.send(path); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reaper.send("-" + path) }) // at worst it is removed once more
}

// reaperProcess is another process that outlives the tests, and then removes those
// queues, files and directories passed to it that still exist.
type reaperProcess struct {
	mu    sync.Mutex
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ids   []int // all ids ever added
}

var reaper reaperProcess

func (r *reaperProcess) add(msqid int) error {
	r.mu.Lock()
	r.ids = append(r.ids, msqid)
	r.mu.Unlock()
	return r.send(msqid)
}

// send sends a line to the process, and starts it before the first one.
func (r *reaperProcess) send(line any) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd == nil {
		cmd := again()
		cmd.Env = append(cmd.Env, roleVariable+"="+reaperRole)
		cmd.Stderr = os.Stderr
		detach(cmd)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		r.cmd, r.stdin = cmd, stdin
	}
	_, err := fmt.Fprintln(r.stdin, line)
	return err
}

func (r *reaperProcess) done(msqid int) {
	_ = r.send(-1 - msqid) // at worst it looks for the queue once more
}

func (r *reaperProcess) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.cmd != nil {
		r.stdin.Close()
		report(r.cmd.Wait())
		r.cmd = nil
	}
}

// left returns the queues that exist although their tests have ended. The reaper
// removed only those whose tests did not end.
func (r *reaperProcess) left() []int {
	stats, err := sysv.Host().List()
	if err != nil {
		return nil
	}
	var ids []int
	for _, stat := range stats {
		for _, id := range r.ids {
			if stat.ID == id {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// reap runs in the reaper process. It reads the ids of queues to remove, and -1-id
// for those that are already removed; and the paths of files, and with a - before them
// when they are removed.
func reap(in io.Reader) error {
	ids := make(map[int]bool)
	paths := make(map[string]bool)
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		if path, removed := strings.CutPrefix(lines.Text(), "-"); filepath.IsAbs(path) {
			if removed {
				delete(paths, path)
			} else {
				paths[path] = true
			}
			continue
		}
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		if n >= 0 {
			ids[n] = true
		} else {
			delete(ids, -1-n)
		}
	}
	for id := range ids {
		_ = sysv.Host().Remove(id)
	}
	// A process that uses them ends when it finds its queue removed.
	for try := 0; len(paths) > 0 && try < 100; try++ {
		for path := range paths {
			if os.RemoveAll(path) == nil {
				delete(paths, path)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	return nil
}

// ThreadsInCalls returns the threads of this process that are inside msgsnd or
// msgrcv, if /proc shows that.
func ThreadsInCalls() []string {
	var tids []string
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return nil
	}
	for _, task := range tasks {
		channel, err := os.ReadFile("/proc/self/task/" + task.Name() + "/wchan")
		if err == nil && strings.HasPrefix(string(channel), "do_msg") {
			tids = append(tids, task.Name())
		}
	}
	return tids
}

// Threads returns the number of threads of this process, or 0 if it is not known.
func Threads() int {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0
	}
	return len(tasks)
}

// Eventually waits until a condition holds. It fails the test if that takes longer
// than any correct program needs.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	const patience = 30 * time.Second
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(100 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}
