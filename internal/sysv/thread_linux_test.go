package sysv_test

import (
	"encoding/binary"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

// bitOf returns the position of a signal in a set of signals.
func bitOf(set *unix.Sigset_t, sig syscall.Signal) (word int, bit uint) {
	bits := 8 * binary.Size(set.Val[0])
	return (int(sig) - 1) / bits, uint(int(sig)-1) % uint(bits)
}

// blocks reports whether the calling thread blocks a signal.
func blocks(t *testing.T, sig syscall.Signal) bool {
	t.Helper()
	var mask unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &mask); err != nil {
		t.Fatal(err)
	}
	word, bit := bitOf(&mask, sig)
	return mask.Val[word]>>bit&1 != 0
}

// block blocks signals for the calling thread until the test ends.
func block(t *testing.T, sigs ...syscall.Signal) {
	t.Helper()
	runtime.LockOSThread()
	var set, old unix.Sigset_t
	for _, sig := range sigs {
		word, bit := bitOf(&set, sig)
		set.Val[word] |= 1 << bit
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &old); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil); err != nil {
			t.Error(err)
		}
		runtime.UnlockOSThread()
	})
}

func TestThreadUnblocksTheSignal(t *testing.T) {
	for _, c := range []struct {
		name    string
		blocked []syscall.Signal
	}{
		{"blocked before", []syscall.Signal{syscall.SIGURG}},
		{"blocked with others", []syscall.Signal{syscall.SIGURG, syscall.SIGUSR1, syscall.SIGWINCH}},
		{"not blocked", []syscall.Signal{syscall.SIGUSR1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			block(t, c.blocked...)
			check := func(when string, want func(syscall.Signal) bool) {
				t.Helper()
				for _, sig := range []syscall.Signal{syscall.SIGURG, syscall.SIGUSR1, syscall.SIGWINCH} {
					if got := blocks(t, sig); got != want(sig) {
						t.Errorf("%s: %v blocked: %v, want %v", when, sig, got, !got)
					}
				}
			}
			before := func(sig syscall.Signal) bool {
				for _, b := range c.blocked {
					if b == sig {
						return true
					}
				}
				return false
			}
			th := sysv.Host().NewThread()
			for range 2 { // a Thread is reused
				check("before Enter", before)
				if !th.Enter() {
					t.Fatal("Enter reports false")
				}
				check("after Enter", func(sig syscall.Signal) bool { return sig != syscall.SIGURG && before(sig) })
				th.Leave()
			}
			check("after Leave", before)
		})
	}
}

// Interrupting works whatever a program does with the signal.
func TestSignalOfTheProcess(t *testing.T) {
	for _, c := range []struct {
		name          string
		act           string // what signalChild does first
		interruptible bool
		godebug       string
		start         func(*testing.T, *exec.Cmd) // starts and ends the child
	}{
		{name: "as Go leaves it", interruptible: true},
		{name: "ignored by the program", act: "ignore"},
		{name: "ignored, then caught again", act: "ignore notify", interruptible: true},
		{name: "ignored while the receive waits", act: "wait ignore", interruptible: true},
		{name: "caught by the program", act: "notify", interruptible: true},
		{name: "caught, then released", act: "notify stop", interruptible: true},
		{name: "ignored by the parent", interruptible: true, start: func(t *testing.T, child *exec.Cmd) {
			shell := need(t, "sh")
			child.Args = append([]string{"sh", "-c", `trap "" URG; exec "$@"`, "sh", child.Path}, child.Args[1:]...)
			child.Path = shell
			run(t, child)
		}},
		{name: "blocked by the parent", interruptible: true, start: startBlocked},
		// The Go runtime unblocks the signal on every thread, unless asynchronous
		// preemption is turned off.
		{name: "without preemption", godebug: "asyncpreemptoff=1", interruptible: true},
		{name: "without preemption, blocked by the parent", godebug: "asyncpreemptoff=1",
			act: "inherit", interruptible: true, start: startBlocked},
	} {
		t.Run(c.name, func(t *testing.T) {
			child := sysvtest.Command(t, "-test.run=^TestSignalChild$", "-test.v")
			want := "interrupted"
			if !c.interruptible {
				want = "not interruptible"
			}
			child.Env = append(os.Environ(), signalChild+"="+c.act, signalWant+"="+want, "GODEBUG="+c.godebug)
			if c.start == nil {
				c.start = run
			}
			c.start(t, child)
		})
	}
}

// startBlocked starts a child from a thread that blocks the signal, so that the
// child inherits that.
func startBlocked(t *testing.T, child *exec.Cmd) {
	t.Helper()
	block(t, syscall.SIGURG)
	run(t, child)
}

func run(t *testing.T, child *exec.Cmd) {
	t.Helper()
	out, err := child.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestSignalChild") {
		t.Errorf("%v: %v\n%s", child.Args, err, out)
	}
}

// Environment variables of the process that TestSignalOfTheProcess starts.
const (
	signalChild = "CHANMQ_TEST_SIGNAL_ACT"
	signalWant  = "CHANMQ_TEST_SIGNAL_WANT"
)

// TestSignalChild is that process.
func TestSignalChild(t *testing.T) {
	acts, ok := os.LookupEnv(signalChild)
	if !ok {
		t.Skip("runs in a process of its own, started by TestSignalOfTheProcess")
	}
	caught := make(chan os.Signal, 1)
	var r *sysvtest.Call
	for _, act := range strings.Fields(acts) {
		switch act {
		case "wait":
			r = sysvtest.WaitingReceive(t, sysvtest.Host(t))
		case "ignore":
			signal.Ignore(syscall.SIGURG)
		case "notify":
			signal.Notify(caught, syscall.SIGURG)
		case "stop":
			signal.Stop(caught)
		case "inherit":
			if !blocks(t, syscall.SIGURG) {
				t.Fatal("SIGURG is not blocked: the mask was not inherited")
			}
		default:
			t.Fatal(act)
		}
	}
	got := "not interruptible"
	if r == nil && interruptible() {
		r = sysvtest.WaitingReceive(t, sysvtest.Host(t))
	}
	if r != nil {
		r.Interrupt()
		got = "interrupted"
		if result := r.Result(); result.Err != sysv.EINTR {
			got = result.String()
		}
	}
	if got != os.Getenv(signalWant) {
		t.Errorf("a receive was %s, want %s", got, os.Getenv(signalWant))
	}
}

// interruptible returns the result of Enter.
func interruptible() bool {
	th := sysv.Host().NewThread()
	if !th.Enter() {
		return false
	}
	th.Leave()
	return true
}
