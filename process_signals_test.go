//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

// Waits end early by a signal. Whatever a program, its parent or the machine does
// to the signals of a process, no wait may hang, fail or lose a message because of
// it. Each case runs in a process of its own.

func init() {
	roles["waits"] = waitsRole
	roles["ignoring meanwhile"] = ignoringRole
}

// signalStates are the states that the signals of a process may be in.
var signalStates = map[string]struct {
	polls   bool                         // waits cannot park
	blocked bool                         // the process inherits that SIGURG is blocked
	env     string                       // what it is started with
	prepare func() (finish func() error) // what it does before its waits, and after them
}{
	"as Go leaves them":                     {},
	"SIGURG ignored":                        {polls: true, prepare: ignore},
	"SIGURG ignored, and no more":           {prepare: ignoreForAWhile},
	"SIGURG caught":                         {prepare: catch},
	"SIGURG blocked":                        {blocked: true},
	"without preemption":                    {env: "GODEBUG=asyncpreemptoff=1"},
	"without preemption and SIGURG blocked": {env: "GODEBUG=asyncpreemptoff=1", blocked: true},
	"rain":                                  {prepare: rainOnThreads},
	"rain without preemption":               {env: "GODEBUG=asyncpreemptoff=1", prepare: rainOnThreads},
	"rain, SIGURG blocked":                  {blocked: true, prepare: rainOnThreads},
	"rain, SIGURG ignored": {polls: true, prepare: func() func() error {
		ignore()
		return rainOnThreads()
	}},
	"profiled": {prepare: profile},
}

func TestWaitsInEveryStateOfSignals(t *testing.T) {
	for name, state := range signalStates {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			cmd := testkit.Process(t, "waits", fmt.Sprint(q.ID()), name)
			if state.env != "" {
				cmd.Env = append(cmd.Env, state.env)
			}
			start := cmd.Start
			if state.blocked {
				start = func() error { return withBlocked(syscall.SIGURG, cmd.Start) }
			}
			if err := start(); err != nil {
				t.Fatal(err)
			}
			testkit.Wait(t, cmd)
			wantNone(t, q)
		})
	}
}

// waitsRole waits in every way that there is: msqid, state.
func waitsRole(args []string) error {
	state := signalStates[args[1]]
	finish := func() error { return nil }
	if state.prepare != nil {
		if f := state.prepare(); f != nil {
			finish = f
		}
	}
	w := trial{parks: !state.polls}
	for _, way := range []struct {
		name string
		run  func(*trial) error
	}{
		{"a message comes", (*trial).message},
		{"the ctx ends", (*trial).cancel},
		{"Receivers", (*trial).receivers},
		{"a full queue", (*trial).fullQueue},
		{"a message is handed back", (*trial).handBack},
		{"messages and cancels", (*trial).everythingArrives},
		{"the handle is closed", (*trial).closes},
	} {
		var err error
		if w.q, err = attachArg(args[0]); err != nil {
			return err
		}
		for range 5 {
			if err = way.run(&w); err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
		}
		if err := w.q.Close(); err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
	}
	return finish()
}

// ignore makes the program ignore the signal, so that nothing interrupts its calls.
func ignore() func() error {
	signal.Ignore(syscall.SIGURG)
	return nil
}

func ignoreForAWhile() func() error {
	signal.Ignore(syscall.SIGURG)
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGURG)
	signal.Stop(caught)
	return nil
}

// catch makes the program catch the signal. It then sees those that end waits too.
func catch() func() error {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGURG)
	return func() error {
		_, err := soon("SIGURG to reach the program as well", caught)
		return err
	}
}

// rainOnThreads sends signals to every thread of the process, those that sleep in
// the kernel among them: the ones that every process gets, and one of the program's.
func rainOnThreads() func() error {
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGUSR1)
	var stopped atomic.Bool
	ended := make(chan error, 1)
	go func() {
		signals := []syscall.Signal{syscall.SIGURG, syscall.SIGCHLD, syscall.SIGPROF, syscall.SIGUSR1}
		for n := 0; !stopped.Load(); n++ {
			threads, err := os.ReadDir("/proc/self/task")
			if err != nil {
				ended <- err
				return
			}
			for i, thread := range threads {
				tid, _ := strconv.Atoi(thread.Name())
				// ESRCH: the thread has ended meanwhile.
				if err := unix.Tgkill(os.Getpid(), tid, signals[(n+i)%len(signals)]); err != nil && err != syscall.ESRCH {
					ended <- err
					return
				}
			}
			time.Sleep(100 * time.Microsecond)
		}
		ended <- nil
	}()
	return func() error {
		stopped.Store(true)
		if err := <-ended; err != nil {
			return err
		}
		_, err := soon("a SIGUSR1", caught)
		return err
	}
}

// profile takes as many samples as the kernel's clock allows, by SIGPROF, of a
// program that is busy, so that there are some.
func profile() func() error {
	runtime.SetCPUProfileRate(1_000_000)
	var stopped atomic.Bool
	go func() {
		for !stopped.Load() {
		}
	}()
	return func() error {
		stopped.Store(true)
		runtime.SetCPUProfileRate(0)
		return nil
	}
}

// withBlocked calls f on a thread that blocks the signal.
func withBlocked(sig syscall.Signal, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var set, before unix.Sigset_t
	set.Val[0] = 1 << (sig - 1) // of those signals that the first word has, whatever its size
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, &before); err != nil {
		return err
	}
	return errors.Join(f(), unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil))
}

// patience is how long to wait for what takes so long only in a broken program.
const patience = 30 * time.Second

// soon receives from c.
func soon[T any](what string, c <-chan T) (v T, err error) {
	select {
	case v = <-c:
	case <-time.After(patience):
		err = fmt.Errorf("after %v still waiting for %s", patience, what)
	}
	return v, err
}

// wantSoon receives an error from c that is another one, or none.
func wantSoon(what string, c <-chan error, is error) error {
	err, late := soon(what, c)
	if late != nil {
		return late
	}
	if !errors.Is(err, is) {
		return fmt.Errorf("%s ended with: %v, want %v", what, err, is)
	}
	return nil
}

// trial is a handle whose waits a process tries.
type trial struct {
	q     *chanmq.Queue[[]byte]
	parks bool // they sleep in the kernel
}

// settle returns when n calls wait: in the kernel, or in no thread at all.
func (w *trial) settle(n int) error {
	if !w.parks {
		time.Sleep(5 * time.Millisecond) // nothing tells that a call has begun to poll
		if asleep := testkit.ThreadsInCalls(); len(asleep) > 0 {
			return fmt.Errorf("threads %v are asleep, and nothing could wake them", asleep)
		}
		return nil
	}
	for end := time.Now().Add(patience); len(testkit.ThreadsInCalls()) != n; time.Sleep(100 * time.Microsecond) {
		if time.Now().After(end) {
			return fmt.Errorf("threads %v are asleep after %v, want %d", testkit.ThreadsInCalls(), patience, n)
		}
	}
	return nil
}

// start starts a Receive that waits for a message of the type.
func (w *trial) start(ctx context.Context, typ int64) (text <-chan string, failed <-chan error, err error) {
	texts, errs := make(chan string, 1), make(chan error, 1)
	go func() {
		m, err := w.q.Receive(ctx, chanmq.OfType(typ))
		if err != nil {
			errs <- err
			return
		}
		texts <- string(m.Value)
	}()
	return texts, errs, w.settle(1)
}

// wantText receives from what start returned.
func wantText(text <-chan string, failed <-chan error, want string) error {
	select {
	case got := <-text:
		if got != want {
			return fmt.Errorf("received %q, want %q", got, want)
		}
		return nil
	case err := <-failed:
		return err
	case <-time.After(patience):
		return fmt.Errorf("%q has not arrived after %v", want, patience)
	}
}

func (w *trial) message() error {
	text, failed, err := w.start(context.Background(), 1)
	if err != nil {
		return err
	}
	if err := w.q.Send(context.Background(), 1, []byte("message")); err != nil {
		return err
	}
	return wantText(text, failed, "message")
}

func (w *trial) cancel() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, failed, err := w.start(ctx, 1)
	if err != nil {
		return err
	}
	cancel()
	if err := wantSoon("a Receive whose ctx ended", failed, context.Canceled); err != nil {
		return err
	}
	return w.nobodyTakes(1)
}

// nobodyTakes sends a message that no call waits for, and takes it itself.
func (w *trial) nobodyTakes(typ int64) error {
	if err := w.q.Send(context.Background(), typ, []byte("left alone")); err != nil {
		return err
	}
	m, ok, err := w.q.TryReceive(chanmq.OfType(typ))
	if err == nil && (!ok || string(m.Value) != "left alone") {
		err = fmt.Errorf("somebody took the message: %v, %q", ok, m.Value)
	}
	return err
}

func (w *trial) receivers() error {
	const receivers = 3
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var all [receivers]*chanmq.Receiver[[]byte]
	for i := range all {
		all[i] = w.q.Receiver(ctx, chanmq.OfType(int64(i+1)))
	}
	for range 3 {
		if err := w.settle(receivers); err != nil {
			return err
		}
		for i, r := range all {
			if err := w.q.Send(ctx, int64(i+1), []byte("message")); err != nil {
				return err
			}
			if _, err := soon("a message on C", r.C()); err != nil {
				return err
			}
		}
	}
	if err := w.settle(receivers); err != nil {
		return err
	}
	cancel()
	for i, r := range all {
		if _, err := soon("the end of a Receiver whose ctx ended", r.Done()); err != nil {
			return err
		}
		if err := r.Err(); !errors.Is(err, context.Canceled) {
			return fmt.Errorf("Err: %v", err)
		}
		if err := w.nobodyTakes(int64(i + 1)); err != nil {
			return err
		}
	}
	return nil
}

func (w *trial) fullQueue() error {
	// A text of a size that few fit of, so that the queue is soon full.
	text := make([]byte, 4000)
	sent := 0
	for ; ; sent++ {
		ok, err := w.q.TrySend(1, text)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	send := func(ctx context.Context) <-chan error {
		ended := make(chan error, 1)
		go func() { ended <- w.q.Send(ctx, 1, text) }()
		return ended
	}
	cancelled := send(ctx)
	if err := w.settle(1); err != nil {
		return err
	}
	cancel()
	if err := wantSoon("a Send whose ctx ended", cancelled, context.Canceled); err != nil {
		return err
	}
	waiting := send(context.Background())
	if err := w.settle(1); err != nil {
		return err
	}
	for n := range sent + 1 {
		if _, err := w.q.Receive(context.Background(), chanmq.Any()); err != nil {
			return err
		}
		if n == 0 {
			if err := wantSoon("a Send for which there is room", waiting, nil); err != nil {
				return err
			}
		}
	}
	_, more, err := w.q.TryReceive(chanmq.Any())
	if more {
		err = errors.New("the Send that was cancelled has sent something")
	}
	return err
}

func (w *trial) handBack() error {
	holder, err := w.holder("handed back")
	if err != nil {
		return err
	}
	text, failed, err := w.start(context.Background(), 1)
	if err != nil {
		return err
	}
	if err := holder.Close(); err != nil {
		return err
	}
	return wantText(text, failed, "handed back")
}

// holder returns a Receiver that holds a message, since nobody reads its C.
func (w *trial) holder(text string) (*chanmq.Receiver[[]byte], error) {
	r := w.q.Receiver(context.Background(), chanmq.OfType(1))
	if err := w.q.Send(context.Background(), 1, []byte(text)); err != nil {
		return nil, err
	}
	for end := time.Now().Add(patience); ; time.Sleep(100 * time.Microsecond) {
		stat, err := w.q.Stat()
		if err != nil {
			return nil, err
		}
		if stat.Messages == 0 {
			return r, w.settle(0)
		}
		if time.Now().After(end) {
			return nil, fmt.Errorf("nobody took the message within %v", patience)
		}
	}
}

// everythingArrives receives numbers by calls whose ctx ends at any moment.
func (w *trial) everythingArrives() error {
	const count = 200
	var sending sync.WaitGroup
	defer sending.Wait()
	sent := make(chan error, 1)
	sending.Go(func() {
		var err error
		for n := 0; n < count && err == nil; n++ {
			if n%10 == 0 {
				time.Sleep(200 * time.Microsecond) // so that calls wait
			}
			err = w.q.Send(context.Background(), 1, number(n))
		}
		sent <- err
	})
	for n, calls := 0, 0; n < count; calls++ {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(calls%7)*50*time.Microsecond)
		m, err := w.q.Receive(ctx, chanmq.OfType(1))
		cancel()
		switch {
		case errors.Is(err, context.DeadlineExceeded):
			select {
			case err := <-sent:
				if err != nil {
					return err
				}
				sent <- nil
			default:
			}
		case err != nil:
			return err
		case numberOf(m.Value) != n:
			return fmt.Errorf("received %d, want %d", numberOf(m.Value), n)
		default:
			n++
		}
	}
	return wantSoon("the sends", sent, nil)
}

// closes closes a handle of its own.
func (w *trial) closes() error {
	own, err := chanmq.Attach(w.q.ID())
	if err != nil {
		return err
	}
	other := &trial{q: own, parks: w.parks}
	_, failed, err := other.start(context.Background(), 1)
	if err != nil {
		return err
	}
	if err := own.Close(); err != nil {
		return err
	}
	if err := wantSoon("a Receive whose handle was closed", failed, chanmq.ErrClosed); err != nil {
		return err
	}
	return w.nobodyTakes(1)
}

// TestSignalIgnoredDuringTheWait: a call that sleeps in the kernel already when
// the program begins to ignore SIGURG can still be ended.
func TestSignalIgnoredDuringTheWait(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user 7.2 crashes when a signal arrives while its handler is being changed")
	}
	q := newQueue(t)
	testkit.Wait(t, testkit.Start(t, "ignoring meanwhile", fmt.Sprint(q.ID())))
	wantNone(t, q)
}

// ignoringRole ignores SIGURG while it waits: msqid.
func ignoringRole(args []string) error {
	for _, way := range []struct {
		name string
		run  func(*trial) error
	}{
		{"the ctx ends", (*trial).ignoreAndCancel},
		{"a message is handed back", (*trial).ignoreAndHandBack},
		{"the handle is closed", (*trial).ignoreAndClose},
		{"again and again", (*trial).ignoreAgainAndAgain},
	} {
		for range 5 {
			q, err := attachArg(args[0])
			if err != nil {
				return err
			}
			ignoreForAWhile() // calls can park
			if err := way.run(&trial{q: q, parks: true}); err != nil {
				return fmt.Errorf("%s: %w", way.name, err)
			}
			if err := q.Close(); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *trial) ignoreAndCancel() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	_, failed, err := w.start(ctx, 1)
	if err != nil {
		return err
	}
	ignore()
	cancel()
	if err := wantSoon("a Receive whose ctx ended", failed, context.Canceled); err != nil {
		return err
	}
	return w.nobodyTakes(1)
}

func (w *trial) ignoreAndHandBack() error {
	holder, err := w.holder("handed back")
	if err != nil {
		return err
	}
	text, failed, err := w.start(context.Background(), 1)
	if err != nil {
		return err
	}
	ignore()
	if err := holder.Close(); err != nil {
		return err
	}
	return wantText(text, failed, "handed back")
}

func (w *trial) ignoreAndClose() error {
	_, failed, err := w.start(context.Background(), 1)
	if err != nil {
		return err
	}
	ignore()
	if err := w.q.Close(); err != nil {
		return err
	}
	return wantSoon("a Receive whose handle was closed", failed, chanmq.ErrClosed)
}

// ignoreAgainAndAgain changes between ignoring the signal and not, while calls
// are cancelled.
func (w *trial) ignoreAgainAndAgain() error {
	var stopped atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for !stopped.Load() {
			ignore()
			time.Sleep(50 * time.Microsecond)
			ignoreForAWhile()
			time.Sleep(50 * time.Microsecond)
		}
	}()
	defer func() { stopped.Store(true); <-ended }()
	for n := range 200 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(n)*10*time.Microsecond)
		failed := make(chan error, 1)
		go func() {
			_, err := w.q.Receive(ctx, chanmq.OfType(1))
			failed <- err
		}()
		err := wantSoon("a Receive whose ctx ended", failed, context.DeadlineExceeded)
		cancel()
		if err != nil {
			return err
		}
	}
	return w.nobodyTakes(1)
}

// TestCSharedHost waits in a library that a program in C has loaded, whose signals
// are that program's. testdata/cshared has both.
func TestCSharedHost(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it compiles the Go runtime once more, as a C library")
	}
	for _, tool := range []string{"go", "cc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(err)
		}
	}
	goEnv, err := exec.Command("go", "env", "GOHOSTARCH").Output()
	if err != nil {
		t.Fatal(err)
	}
	if host := strings.TrimSpace(string(goEnv)); host != runtime.GOARCH {
		t.Skipf("the tests are compiled for %s, and the C compiler is for %s", runtime.GOARCH, host)
	}
	dir := t.TempDir()
	library, host := filepath.Join(dir, "libwaits.so"), filepath.Join(dir, "host")
	for _, build := range []*exec.Cmd{
		exec.Command("go", "build", "-buildmode=c-shared", "-o", library, "./testdata/cshared"),
		exec.Command("cc", "-o", host, "testdata/cshared/host/host.c", "-ldl", "-lpthread"),
	} {
		build.Env = append(os.Environ(), "CGO_ENABLED=1")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", build, err, out)
		}
	}
	for _, c := range []struct{ state, env string }{
		{"nothing", ""},
		{"ignore-before", ""},
		{"ignore-after", ""},
		{"ignore-waiting", ""},
		{"default-after", ""},
		{"handle-before", ""},
		{"handle-after", ""},
		{"block", ""},
		{"block-no-preemption", "asyncpreemptoff=1"},
	} {
		t.Run(c.state, func(t *testing.T) {
			cmd := exec.Command(host, library, c.state)
			cmd.Env = append(os.Environ(), "GODEBUG="+c.env)
			cmd.Stderr = os.Stderr
			out, err := cmd.Output()
			id, rest, _ := strings.Cut(string(out), "\n")
			if msqid, notNumber := strconv.Atoi(id); notNumber == nil && err != nil {
				testkit.Reap(t, msqid)
			}
			if err != nil || rest != "ok\n" {
				t.Errorf("%v: %v, it printed %q", cmd, err, out)
			}
		})
	}
}
