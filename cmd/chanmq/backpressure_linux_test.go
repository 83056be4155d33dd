package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/natsmq"
	"github.com/chanmq/chanmq/natsmq/bridge"
)

// machineScript is a machine: a bridge with the arguments up to --, and behind that a program beside it. The bridge goes on when the program
// is done: it may hold what that has sent.
const machineScript = `
trap : TERM
args=
while [ "$1" != -- ]; do args="$args $1"; shift; done
shift
chanmq bridge 0x4d51 --create $args &
until chanmq stat 0x4d51 >/dev/null 2>&1; do sleep 0.1; done
"$@"
wait`

// machine is a process group in an IPC namespace of its own.
type machine struct {
	cmd    *exec.Cmd
	output bytes.Buffer // to be read behind end
	ended  bool
}

func startMachine(t *testing.T, args ...string) *machine {
	t.Helper()
	m := &machine{cmd: exec.Command("sh", append([]string{"-c", machineScript, "sh"}, args...)...)}
	m.cmd.Stdout, m.cmd.Stderr = &m.output, &m.output
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWIPC}
	if os.Geteuid() != 0 {
		m.cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWUSER
		m.cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		m.cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	if err := m.cmd.Start(); errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOSYS) || errors.Is(err, syscall.EINVAL) {
		t.Skipf("no IPC namespace: %v", err)
	} else if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.end() })
	return m
}

// end ends what runs there, and returns what was said.
func (m *machine) end() string {
	if !m.ended {
		m.ended = true
		_ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGTERM) // it may have ended
		timer := time.AfterFunc(20*time.Second, func() { _ = syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL) })
		defer timer.Stop()
		_ = m.cmd.Wait() // the output says more
	}
	return m.output.String()
}

// noted returns the i-th number of a file that a program notes numbers in, 0 if there is none yet.
func noted(file string, i int) int {
	b, err := os.ReadFile(file)
	if err != nil || len(b) < 8*(i+1) {
		return 0
	}
	return int(binary.NativeEndian.Uint64(b[8*i:]))
}

// A PHP program that receives slowly holds back a C program on another machine, which waits in msgsnd. Nothing is lost, and the
// order is kept.
func TestBackPressure(t *testing.T) {
	if strconv.IntSize != 64 {
		t.Skip("the programs note numbers of 64 bits")
	}
	needsPHP(t)
	needs(t, "cc")
	t.Parallel()
	const (
		n    = 240
		text = 1000
		// A kernel queue of 16,384 bytes, what a bridge holds on the way out, the cluster's queue, a
		// bridge's spool, the other kernel queue; and the one that the reader has not noted yet.
		kernel, cluster = 16384 / text, 3
		most            = kernel + bridge.MaxHeld + cluster + 1 + kernel + 1
	)
	dir := t.TempDir()
	sender := filepath.Join(dir, "held")
	if out, err := exec.Command("cc", "-Wall", "-O1", "-o", sender, "testdata/c/held.c").CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	url, there := smallClusterQueue(t, cluster*text)
	shm, err := os.MkdirTemp("/dev/shm", "chanmq-back-pressure-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(shm) })

	pace, sentFile, receivedFile := filepath.Join(dir, "pace"), filepath.Join(dir, "sent"), filepath.Join(dir, "received")
	b := startMachine(t, "--nats", url, "--in", "1", "--dir", shm+"/b", "--", "php", "testdata/php/slow.php", strconv.Itoa(n), pace, receivedFile)
	a := startMachine(t, "--nats", url, "--out", "1", "--dir", shm+"/a", "--", sender, strconv.Itoa(n), sentFile)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("%s\nsender's machine: %s\nreader's machine: %s", fmt.Sprintf(format, args...), a.end(), b.end())
	}
	deadline := time.Now().Add(3 * time.Minute)
	// look returns what was sent, then what was received: in this order it can only see fewer on their way than there are.
	samples, furthest := 0, 0
	look := func() (sent, received int) {
		t.Helper()
		sent = noted(sentFile, 1)
		received = noted(receivedFile, 0)
		samples, furthest = samples+1, max(furthest, sent-received)
		if sent > received+most {
			fail("%d were sent and %d received: more than %d are on their way", sent, received, most)
		}
		if time.Now().After(deadline) {
			fail("%d were sent and %d received when the time was over", sent, received)
		}
		time.Sleep(2 * time.Millisecond)
		return sent, received
	}

	// Nobody receives: the sender fills what is between them, and waits.
	held := time.Now()
	for last := 0; time.Since(held) < time.Second; {
		sent, received := look()
		if received != 0 {
			fail("%d were received before any should be", received)
		}
		// Everything but a part of what the bridge holds is full for sure.
		if sent != last || sent < 2*kernel+cluster+1 {
			last, held = sent, time.Now()
		}
	}
	stopped := noted(sentFile, 1)
	wantInMsgsnd(t, noted(sentFile, 0))

	// While it receives slowly, the sender gets on as fast as that.
	setPace(t, pace, 10*time.Millisecond)
	for received := 0; received < 100; {
		_, received = look()
	}
	if sent, received := look(); sent <= stopped || sent == n {
		fail("%d were sent when %d were received: the reader does not hold the sender", sent, received)
	}

	setPace(t, pace, 0)
	for received := 0; received < n; {
		_, received = look()
	}
	if sent := noted(sentFile, 1); sent != n {
		fail("%d were sent, and %d received", sent, n)
	}
	for time.Sleep(time.Second); ; time.Sleep(20 * time.Millisecond) {
		stat, err := there.Stat()
		if err == nil && stat.Messages == 0 && stat.Bytes == 0 {
			break
		}
		if time.Now().After(deadline) {
			fail("the cluster's queue: %+v, %v", stat, err)
		}
	}
	if out := a.end(); !strings.Contains(out, fmt.Sprintf("sent %d\n", n)) || !strings.Contains(out, fmt.Sprintf("%d messages went out", n)) {
		t.Errorf("sender's machine: %s", out)
	}
	if out := b.end(); !strings.Contains(out, fmt.Sprintf("received %d in order\n", n)) || !strings.Contains(out, fmt.Sprintf("%d messages came in", n)) {
		t.Errorf("reader's machine: %s", out)
	}
	t.Logf("%d looks; it stopped after %d; %d were on their way at most, and %d fit", samples, stopped, furthest, most)
}

// smallClusterQueue starts a server with a queue that holds so many bytes, and returns its address.
func smallClusterQueue(t *testing.T, bytes int) (url string, q *chanmq.Queue[[]byte]) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(time.Minute) {
		t.Fatal("the server is not ready")
	}
	nc, err := nats.Connect(s.ClientURL(), nats.ReconnectBufSize(-1))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	c, err := natsmq.New(nc, natsmq.WithExactSizes(), natsmq.WithLimits(chanmq.Limits{MaxMessage: 8192, MaxBytes: bytes, MaxQueues: 10}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if q, err = chanmq.Create(0x4d51, 0o600, c.Option()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = q.Close() })
	return s.ClientURL(), q
}

// setPace says how long the reader shall wait before each message.
func setPace(t *testing.T, file string, d time.Duration) {
	t.Helper()
	next := file + ".next"
	if err := os.WriteFile(next, strconv.AppendInt(nil, d.Microseconds(), 10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, file); err != nil {
		t.Fatal(err)
	}
}

// wantInMsgsnd looks where the process is in the kernel, where that can be told.
func wantInMsgsnd(t *testing.T, pid int) {
	t.Helper()
	msgsnd, ok := map[string]string{"amd64": "69", "arm64": "186"}[runtime.GOARCH]
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
	if !ok || err != nil {
		t.Logf("where the sender waits is not known: %v", err)
		return
	}
	if call, _, _ := strings.Cut(string(b), " "); call != msgsnd {
		t.Errorf("the sender is in system call %q, want msgsnd, %s", strings.TrimSpace(string(b)), msgsnd)
	}
}
