package natstest_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

// TestSingle kills a server and starts it again.
func TestSingle(t *testing.T) {
	t.Parallel()
	s := natstest.Single(t, jetstream.FileStorage)
	nc := s.Connect(t)
	stream(t, s, nc)
	publish(t, nc, 0, 10)
	s.Kill(0)
	s.Restart(0)
	publish(t, nc, 10, 20) // the connection is made again by itself
	s.WaitReady()
	wantStored(t, nc, 20)
	s.Shutdown(0)
	s.Restart(0)
	s.WaitReady()
	publish(t, nc, 20, 30)
	wantStored(t, nc, 30)
	if leader := s.Leader("stream"); leader != 0 {
		t.Errorf("Leader = %d", leader)
	}
}

// TestConnectBefore connects before there is a server.
func TestConnectBefore(t *testing.T) {
	t.Parallel()
	s := natstest.Single(t, jetstream.MemoryStorage)
	s.Kill(0)
	nc := s.Connect(t)
	if status := nc.Status(); status != nats.RECONNECTING {
		t.Errorf("Status = %v", status)
	}
	if err := nc.Publish("a", nil); !errors.Is(err, nats.ErrReconnectBufExceeded) {
		t.Errorf("Publish without a server: %v", err)
	}
	s.Restart(0)
	natstest.UntilConnected(t, nc)
}

// TestStop stops a server, which then answers nothing, but has what it was sent.
func TestStop(t *testing.T) {
	t.Parallel()
	s := natstest.Single(t, jetstream.MemoryStorage)
	nc := s.Connect(t)
	answers, err := nc.SubscribeSync("answer")
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	s.Stop(0)
	if err := nc.Publish("answer", nil); err != nil {
		t.Fatal(err)
	}
	if err := nc.FlushTimeout(100 * time.Millisecond); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("a stopped server answers: %v", err)
	}
	s.Continue(0)
	if _, err := answers.NextMsg(30 * time.Second); err != nil {
		t.Error(err)
	}
	s.Stop(0)
	s.Kill(0)
}

// TestThree kills the leader of a stream.
func TestThree(t *testing.T) {
	t.Parallel()
	s := natstest.Three(t, jetstream.FileStorage)
	nc := s.Connect(t)
	stream(t, s, nc)
	publish(t, nc, 0, 10)
	leader := s.Leader("stream")
	if info := info(t, nc); info.Cluster.Leader != s.Name(leader) {
		t.Errorf("Leader is %s, want %s", s.Name(leader), info.Cluster.Leader)
	}
	s.Kill(leader)
	publish(t, nc, 10, 20)
	if again := s.Leader("stream"); again == leader {
		t.Errorf("the leader is still %d, which was killed", leader)
	}
	s.WaitReady() // the two
	s.Restart(leader)
	s.WaitReady()
	wantStored(t, nc, 20)
	for _, replica := range info(t, nc).Cluster.Replicas {
		if !replica.Current {
			t.Errorf("%s is not current", replica.Name)
		}
	}
}

// TestThreeKilled kills all servers. There are a consumer and a stream with one replica, too.
func TestThreeKilled(t *testing.T) {
	t.Parallel()
	s := natstest.Three(t, jetstream.FileStorage)
	nc := s.Connect(t)
	three := stream(t, s, nc)
	publish(t, nc, 0, 10)
	consumer := jetstream.ConsumerConfig{Durable: "consumer", Replicas: s.Len()}
	if _, err := three.CreateConsumer(ctxWithin(t), consumer); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	one, err := js.CreateStream(ctxWithin(t), jetstream.StreamConfig{Name: "one", Storage: s.Storage})
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.Len() {
		s.Kill(i)
	}
	for i := range s.Len() {
		s.Restart(i)
	}
	s.WaitReady()
	if leader, want := s.Leader("stream"), info(t, nc).Cluster.Leader; s.Name(leader) != want {
		t.Errorf("Leader is %s, want %s", s.Name(leader), want)
	}
	if leader, want := s.Leader("one"), one.CachedInfo().Cluster.Leader; s.Name(leader) != want {
		t.Errorf("Leader of the other is %s, want %s", s.Name(leader), want)
	}
	s.MetaLeader()
	wantStored(t, nc, 10)
}

// TestThreeStop stops the leader of a stream in memory, which then is led by another.
func TestThreeStop(t *testing.T) {
	t.Parallel()
	s := natstest.Three(t, jetstream.MemoryStorage)
	for i := range s.Len() {
		nc := s.Connect(t)
		if urls := nc.DiscoveredServers(); len(urls) != 0 {
			t.Errorf("%d: servers are advertised: %v", i, urls)
		}
	}
	nc := s.Connect(t)
	stream(t, s, nc)
	publish(t, nc, 0, 10)
	leader := s.Leader("stream")
	s.Stop(leader)
	s.WaitReady()
	other := natstest.Connect(t, s.URL((leader+1)%s.Len()))
	publish(t, other, 10, 20)
	if again := s.Leader("stream"); again == leader {
		t.Errorf("the leader is still %d, which is stopped", leader)
	}
	s.Continue(leader)
	s.WaitReady()
	wantStored(t, other, 20)
}

func info(t testing.TB, nc *nats.Conn) *jetstream.StreamInfo {
	t.Helper()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctxWithin(t), "stream")
	if err != nil {
		t.Fatal(err)
	}
	return stream.CachedInfo()
}

// TestNoneIsLeft looks for the processes of a test that has ended.
func TestNoneIsLeft(t *testing.T) {
	t.Parallel()
	var pids []int
	t.Run("ends", func(t *testing.T) {
		s := natstest.Three(t, jetstream.FileStorage)
		pids = append(pids, s.PIDs()...)
		s.Kill(0)
		s.Restart(0)
		s.Stop(1)
		s.Kill(2)
		pids = append(pids, s.PIDs()...)
	})
	if len(pids) != 5 {
		t.Errorf("processes %v", pids)
	}
	for _, pid := range pids {
		if runs(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
}

// victim is set in the process that TestKilledTest kills.
const victim = "CHANMQ_NATSTEST_VICTIM"

// TestKilledTest kills a process with a test. Its servers end, even one that is stopped.
func TestKilledTest(t *testing.T) {
	if os.Getenv(victim) != "" {
		s := natstest.Three(t, jetstream.FileStorage)
		s.Stop(0)
		fmt.Println("pids", s.PIDs())
		select {} // until it is killed
	}
	t.Parallel()
	cmd := exec.Command(os.Args[0], "-test.run", "^TestKilledTest$", "-test.timeout", "1m")
	cmd.Env = append(os.Environ(), victim+"=1", "TMPDIR="+t.TempDir())
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have been killed
		_ = cmd.Wait()
	})
	pids := make([]int, 3)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if n, _ := fmt.Sscanf(lines.Text(), "pids [%d %d %d]", &pids[0], &pids[1], &pids[2]); n == 3 {
			break
		}
	}
	for _, pid := range pids {
		if !runs(pid) {
			t.Fatalf("process %d of %v does not run", pid, pids)
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		testkit.Eventually(t, fmt.Sprintf("process %d has ended", pid), func() bool { return !runs(pid) })
	}
}

// runs reports whether there is such a process, and it is not one that has ended, but that
// nobody has waited for.
func runs(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	text := string(stat) // proc_pid_stat(5): pid (comm) state
	return !strings.HasPrefix(text[strings.LastIndex(text, ")")+1:], " Z")
}
