package natstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/chanmq/chanmq/internal/testkit"
)

// reservePort returns a port that no other test is given until this one ends, even if it is in
// another process. It is below those that the kernel chooses by default (ip(7),
// ip_local_port_range), so that none is taken for a connection while its server restarts.
func reservePort(t testing.TB) int {
	t.Helper()
	const lowest, highest = 10000, 32767
	for range 1000 {
		port := lowest + rand.N(highest-lowest+1)
		// An abstract address (unix(7)) is free again when the process ends, however it ends,
		// and belongs to the network namespace, as the port does.
		lock, err := net.Listen("unix", fmt.Sprintf("@chanmq-natstest-%d", port))
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", address(port))
		if err != nil {
			lock.Close()
			continue
		}
		l.Close()
		t.Cleanup(func() { lock.Close() })
		return port
	}
	t.Fatal("no port is free")
	panic("unreachable")
}

// process is a server in a process of its own.
type process struct {
	config config

	mu      sync.Mutex
	cmd     *exec.Cmd     // guarded by mu; nil if it does not run
	done    chan struct{} // guarded by mu; closed when the process has been waited for
	stopped bool          // guarded by mu
}

func newProcess(c config) *process { return &process{config: c} }

func (p *process) start(t testing.TB) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		t.Fatalf("%s runs already", p.config.Name)
	}
	arg, err := json.Marshal(p.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(p.config.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(p.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := testkit.Process(t, serverRole, string(arg))
	cmd.Stderr = log
	// The group is its own, because an interrupt from the terminal is for the tests.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	started := make(chan error)
	done := make(chan struct{})
	go func() {
		// PR_SET_PDEATHSIG (prctl(2)) is about the thread: it lives as long as the process.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // it was killed
		}
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	p.cmd, p.done, p.stopped = cmd, done, false
	// Before testkit's, which looks whether the process has been waited for.
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-done
	})
}

func (p *process) logPath() string { return filepath.Join(p.config.Dir, "log") }

func (p *process) log() string {
	text, err := os.ReadFile(p.logPath())
	if err != nil {
		return err.Error()
	}
	return string(text)
}

func (p *process) signal(t testing.TB, s signal) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		t.Fatalf("%s does not run", p.config.Name)
	}
	if p.stopped && (s == signalTerminate || s == signalStop) {
		t.Fatalf("%s is stopped already", p.config.Name)
	}
	signals := map[signal]os.Signal{
		signalKill:      syscall.SIGKILL,
		signalTerminate: syscall.SIGTERM,
		signalStop:      syscall.SIGSTOP,
		signalContinue:  syscall.SIGCONT,
	}
	if err := p.cmd.Process.Signal(signals[s]); err != nil {
		t.Fatalf("%s: %v", p.config.Name, err)
	}
	switch s {
	case signalStop:
		p.stopped = true
		if err := untilStopped(p.cmd.Process.Pid); err != nil {
			t.Fatalf("%s: %v", p.config.Name, err)
		}
	case signalContinue:
		p.stopped = false
	default:
		<-p.done
		p.cmd = nil
	}
}

// untilStopped waits until all threads of a child have stopped: after kill(2) they may run on
// for a while.
func untilStopped(pid int) error {
	const byPID = 1 // P_PID
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, byPID, uintptr(pid), 0, syscall.WSTOPPED, 0, 0)
		switch errno {
		case 0:
			return nil
		case syscall.EINTR:
		default:
			return os.NewSyscallError("waitid", errno)
		}
	}
}

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cmd != nil && !p.stopped
}

func (p *process) ended() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return nil
	}
	select {
	case <-p.done:
		return errors.New(p.cmd.ProcessState.String())
	default:
		return nil
	}
}

// monitor keeps no connection, which would be a goroutine that is left.
var monitor = &http.Client{
	Timeout:   5 * time.Second,
	Transport: &http.Transport{DisableKeepAlives: true},
}

func (p *process) status() (status, error) {
	var (
		health server.HealthStatus
		js     server.JSInfo
		routes server.Routez
	)
	err := errors.Join(
		p.get("healthz", &health),
		p.get("jsz?consumers=true", &js),
		p.get("routez", &routes),
	)
	return statusOf(p.config.Name, health, js, routes), err
}

// get reads what the server has for monitoring. That it is not healthy is no error.
func (p *process) get(path string, v any) error {
	response, err := monitor.Get("http://" + address(p.config.HTTP) + "/" + path)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
