//go:build linux

package serve_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/serve"
)

// The tests of this file have clients and servers in other processes, and kill them.

func init() {
	roles["double"] = doubleRole
	roles["hang"] = hangRole
	roles["call"] = callRole
}

// doubleRole is a server: requests, replies, and a directory for its journal or "".
func doubleRole(args []string) error {
	queues, err := openRequests(args)
	if err != nil {
		return err
	}
	s := serve.NewServer(queues[0], queues[1])
	handleDouble(s, serve.WithConcurrency(2))
	return s.Run(context.Background())
}

func openRequests(args []string) ([]*chanmq.Queue[[]byte], error) {
	var opts []chanmq.Option
	if args[2] != "" {
		opts = append(opts, chanmq.WithJournal(args[2]))
	}
	requests, err := attachArgs(args[:1], opts...)
	if err != nil {
		return nil, err
	}
	replies, err := attachArgs(args[1:2])
	return append(requests, replies...), err
}

// hangRole is doubleRole, but prints a line when it has a request, and never answers it.
func hangRole(args []string) error {
	queues, err := openRequests(args)
	if err != nil {
		return err
	}
	s := serve.NewServer(queues[0], queues[1])
	serve.Handle(s, chanmq.OfType(1), number, number, func(ctx context.Context, n int32) (int32, error) {
		fmt.Println(n)
		for {
			time.Sleep(time.Hour) // with select alone the runtime could find that nothing will ever happen
		}
	})
	return s.Run(context.Background())
}

// callRole is a client that makes calls until it is killed, and prints how many replies it
// has got: requests, replies, callers.
func callRole(args []string) error {
	queues, err := attachArgs(args[:2])
	if err != nil {
		return err
	}
	callers, _ := strconv.Atoi(args[2])
	c := serve.NewClient(queues[0], queues[1], 1, number, number)
	failed := make(chan error)
	for range callers {
		go func() {
			for {
				n := rand.Int32N(1 << 30)
				got, err := c.Call(context.Background(), n)
				if err == nil && got != 2*n {
					err = fmt.Errorf("the reply to %d is %d", n, got)
				}
				if err != nil {
					failed <- err
					return
				}
				os.Stdout.Write([]byte{'.'})
			}
		}()
	}
	return <-failed
}

// process is one that was started, and what it prints.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	stdout *bufio.Reader
}

func startProcess(t *testing.T, role string, args ...string) *process {
	t.Helper()
	cmd := testkit.Process(t, role, args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &process{t, cmd, bufio.NewReader(stdout)}
}

// began waits until the process has printed something.
func (p *process) began() {
	p.t.Helper()
	if _, err := p.stdout.ReadByte(); err != nil {
		p.t.Fatalf("%v printed nothing: %v", p.cmd.Args[1:], err)
	}
}

// kill kills the process, and returns how much more it had printed.
func (p *process) kill() int {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	rest, _ := io.ReadAll(p.stdout)
	err := p.cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		p.t.Fatalf("%v ended before it was killed: %v", p.cmd.Args[1:], err)
	}
	return len(rest)
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// stopped stops the process, and waits until it is.
func (p *process) stop() {
	p.t.Helper()
	p.signal(syscall.SIGSTOP)
	testkit.Eventually(p.t, "a process that is stopped", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			p.t.Fatal(err)
		}
		return strings.Contains(string(stat), ") T ")
	})
}

// TestKilledClients is the third way to wedge what is written by hand: clients that are
// killed leave replies that nobody takes, until the queue is full. Others get theirs all the
// time, and in the end nothing is left.
func TestKilledClients(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(attach(t, requests), attach(t, replies))
	handleDouble(s, serve.WithConcurrency(2))
	stop := start(t, s)
	witness := newClient(t, requests, replies)
	kills, got := 8, 0
	for n := range kills {
		p := startProcess(t, "call", id(requests), id(replies), "64")
		p.began()
		time.Sleep(rand.N(10 * time.Millisecond))
		if n%2 == 0 {
			p.stop() // replies come meanwhile
			wantDouble(t, witness, int32(n))
		}
		got += p.kill()
		wantDouble(t, witness, int32(n))
	}
	untilEmpty(t, requests)
	if err := stop(); err != nil {
		t.Error(err)
	}
	next := newClient(t, requests, replies)
	t.Logf("%d clients killed after %d replies; %+v; the next client took out %d",
		kills, got, s.Stats(), next.Stats().Swept)
	wantEmpty(t, requests, replies)
}

// TestPIDNamespaces: clients in containers that share the queues but not pids, all of which
// have pid 1, get their own replies. Nobody outside can tell whether they live, so what they
// leave goes when it expires.
func TestPIDNamespaces(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(attach(t, requests), attach(t, replies), serve.WithReplyTTL(time.Second))
	handleDouble(s, serve.WithConcurrency(2))
	stop := start(t, s)
	var clients []*process
	for range 3 {
		cmd := testkit.Process(t, "call", id(requests), id(replies), "16")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
		if os.Geteuid() != 0 {
			cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
		}
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Skipf("this process may not start another one in a pid namespace of its own: %v", err)
		}
		clients = append(clients, &process{t, cmd, bufio.NewReader(stdout)})
	}
	for range 100 {
		for _, c := range clients {
			c.began() // a wrong reply would have ended it
		}
	}
	for _, c := range clients {
		c.stop() // with replies to come
	}
	untilEmpty(t, requests)
	for _, c := range clients {
		c.kill()
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	left := messages(t, replies)
	testkit.Eventually(t, "expired replies are taken out", func() bool {
		newClient(t, requests, replies)
		return messages(t, replies) == 0
	})
	t.Logf("%d replies were left; %+v", left, s.Stats())
	wantEmpty(t, requests, replies)
}

// TestStoppedClient: a client that is stopped, with more replies to come than the queue
// holds, loses none of them, and others get theirs meanwhile.
func TestStoppedClient(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	s := serve.NewServer(attach(t, requests), attach(t, replies))
	proceed := make(chan struct{})
	serve.Handle(s, chanmq.OfType(1), number, number, func(_ context.Context, n int32) (int32, error) {
		if n >= 0 {
			<-proceed // for those of the process
		}
		return 2 * n, nil
	}, serve.WithConcurrency(400))
	stop := start(t, s)
	handle := sync.OnceFunc(func() { close(proceed) })
	t.Cleanup(handle)   // before that of start, also if the test fails
	const callers = 800 // whose replies take some 40 KiB
	p := startProcess(t, "call", id(requests), id(replies), fmt.Sprint(callers))
	testkit.Eventually(t, "a lot of requests", func() bool { return s.Stats().Taken >= 400 })
	p.stop()
	handle()
	testkit.Eventually(t, "replies that are taken back", func() bool {
		stats := s.Stats()
		return stats.TakenBack > 0 || stats.Handled >= 400
	})
	witness := newClient(t, requests, replies)
	for n := range int32(50) {
		wantDouble(t, witness, -1-n)
	}
	p.signal(syscall.SIGCONT)
	for range 3 * callers { // all callers have got replies, since those that have not do not go on
		p.began()
	}
	p.kill()
	untilEmpty(t, requests)
	if err := stop(); err != nil {
		t.Error(err)
	}
	stats := s.Stats()
	if stats.Dropped > 0 {
		t.Errorf("%+v", stats)
	}
	t.Logf("%+v", stats)
	newClient(t, requests, replies) // takes out what the one that was killed has left
	wantEmpty(t, requests, replies)
}

// TestKilledServer: without a journal, a request is lost with the server that has it, and
// the caller's ctx ends. With a journal, the next server handles it.
func TestKilledServer(t *testing.T) {
	t.Run("without a journal", func(t *testing.T) {
		requests, replies := newQueue(t), newQueue(t)
		c := newClient(t, requests, replies)
		p := startProcess(t, "hang", id(requests), id(replies), "")
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended := make(chan error)
		go func() {
			_, err := c.Call(ctx, 1)
			ended <- err
		}()
		p.began()
		p.kill()
		startProcess(t, "double", id(requests), id(replies), "")
		wantDouble(t, c, 5)
		select {
		case err := <-ended:
			t.Errorf("the call ended: %v", err)
		default:
		}
		cancel()
		wantIs(t, "the call whose request was lost", <-ended, context.Canceled)
		wantEmpty(t, requests, replies)
	})
	t.Run("with a journal", func(t *testing.T) {
		dir := journalDir(t)
		requests, replies := newQueue(t), newQueue(t)
		c := newClient(t, requests, replies)
		p := startProcess(t, "hang", id(requests), id(replies), dir)
		type result struct {
			n   int32
			err error
		}
		ended := make(chan result)
		go func() {
			n, err := c.Call(context.Background(), 21)
			ended <- result{n, err}
		}()
		p.began()
		p.kill()
		next := startProcess(t, "double", id(requests), id(replies), dir)
		if r := <-ended; r.err != nil || r.n != 42 {
			t.Errorf("%+v", r)
		}
		wantDouble(t, c, 5)
		next.kill()
		wantEmpty(t, requests, replies)
	})
}

// TestKilledServers kills servers with journals at any moment. Every call gets its reply.
func TestKilledServers(t *testing.T) {
	dir := journalDir(t)
	requests, replies := newQueue(t), newQueue(t)
	c := newClient(t, requests, replies)
	ctx, cancel := context.WithCancel(ctxWithin(t))
	calls := make(chan int)
	const callers = 20
	for i := range callers {
		go func() {
			made := 0
			defer func() { calls <- made }()
			for n := int32(i); ctx.Err() == nil; n += callers {
				got, err := c.Call(context.WithoutCancel(ctx), n)
				if err != nil || got != 2*n {
					t.Errorf("the reply to %d is %d, %v", n, got, err)
					return
				}
				made++
			}
		}()
	}
	kills := 10
	servers := []*process{startProcess(t, "double", id(requests), id(replies), dir)}
	for range kills {
		servers = append(servers, startProcess(t, "double", id(requests), id(replies), dir))
		time.Sleep(rand.N(20 * time.Millisecond))
		servers[0].kill()
		servers = servers[1:]
	}
	cancel()
	sum := 0
	for range callers {
		sum += <-calls
	}
	servers[0].kill()
	t.Logf("%d servers killed, %d calls, %+v", kills, sum, c.Stats())
	wantEmpty(t, requests) // a server that was killed behind its reply may have left another
	c.Close()
	wantEmpty(t, replies)
}
