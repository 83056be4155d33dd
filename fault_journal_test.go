//go:build linux

package chanmq_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

// A run has processes receive with a journal, and die. Several of them live at a time, so
// that what one leaves is adopted by one that lives, or by the next.
type run struct {
	name string
	way
	processes int  // at a time
	few       bool // a third of them die
	early     bool // most are killed while they start, and adopt
	senders   int  // the test, and processes; 0: the test
	doubles   int  // calls of a process that may be killed between sending a message and acknowledging it
	peers     bool // programs in C send and receive beside them
}

// The short form of a run has three processes and 300 messages, or a few more, and the long
// form as many times that as -stress says. All runs together have 1,000,000 messages and
// 10,000 processes in
//
//	go test -run FaultJournal -stress 300000 -timeout 6h
const (
	shortDeaths   = 3
	shortMessages = 300
)

var journalRuns = []run{
	{name: "Consumer, 1 in flight", way: way{How: "consumer", Values: "bytes", Wait: "block", Readers: 2, Hold: 1}},
	{name: "Consumer, 16 in flight", senders: 2, way: way{How: "consumer", Values: "bytes", Readers: 2, Hold: 16}},
	{name: "Consumer, polling", way: way{How: "consumer", Values: "bytes", Wait: "poll", Readers: 2, Hold: 16}},
	{name: "Consumer, borrowed", way: way{How: "borrowed", Values: "bytes", Wait: "spin", Readers: 2, Hold: 16}},
	{name: "Consumer, in order", processes: 1, way: way{How: "consumer", Values: "bytes", Readers: 1, Hold: 16, Ordered: true}},
	{name: "Consumer, panic", way: way{How: "consumer", Values: "bytes", End: "panic", Readers: 2, Hold: 16}},
	{name: "Consumer, JSON", way: way{How: "consumer", Values: "json", Readers: 2, Hold: 4}},
	{name: "Receiver", way: way{How: "receiver", Values: "recorded", Wait: "block", Readers: 2}},
	{name: "Receiver, buffer 1", way: way{How: "receiver", Values: "recorded", Readers: 1, Buffer: 1}},
	{name: "Receiver, buffer 5", senders: 2, way: way{How: "receiver", Values: "recorded", Readers: 2, Buffer: 5}},
	{name: "Receiver, buffer 16, polling", way: way{How: "receiver", Values: "recorded", Wait: "poll", Readers: 1, Buffer: 16}},
	{name: "Receiver, in order", processes: 1, way: way{How: "receiver", Values: "bytes", Readers: 1, Ordered: true}},
	{name: "Receiver, buffer 5, in order", processes: 1, way: way{How: "receiver", Values: "bytes", Readers: 1, Buffer: 5, Ordered: true}},
	{name: "Receiver, os.Exit", way: way{How: "receiver", Values: "recorded", End: "exit", Readers: 1, Buffer: 5}},
	{name: "Receiver, structs", way: way{How: "receiver", Values: "fixed", Readers: 1}},
	{name: "Take", senders: 2, way: way{How: "take", Values: "bytes", Wait: "block", Readers: 3, Hold: 5}},
	{name: "Take, spinning", way: way{How: "take", Values: "bytes", Wait: "spin", Readers: 3, Hold: 5}},
	{name: "Take, polling", way: way{How: "take", Values: "bytes", Wait: "poll", Readers: 3, Hold: 5}},
	{name: "Take, none parked", way: way{How: "take", Values: "bytes", Wait: "max parked", Readers: 3, Hold: 5}},
	{name: "Take, return from main", way: way{How: "take", Values: "bytes", End: "return", Readers: 3, Hold: 5}},
	{name: "Take, any end", way: way{How: "take", Values: "bytes", End: "any", Readers: 3, Hold: 5}},
	{name: "Take, in order", processes: 1, way: way{How: "take", Values: "bytes", Readers: 3, Hold: 5, Lanes: 3, Ordered: true}},
	{name: "Take, structs", way: way{How: "take", Values: "fixed", Readers: 2, Hold: 5}},
	{name: "Take, strings", way: way{How: "take", Values: "string", Readers: 2, Hold: 5}},
	{name: "direct", senders: 2, way: way{How: "direct", Values: "recorded", Readers: 3}},
	{name: "direct, in order", processes: 1, way: way{How: "direct", Values: "bytes", Readers: 3, Lanes: 3, Ordered: true}},
	{name: "ReceiveInto", way: way{How: "into", Values: "recorded", Wait: "block", Readers: 2}},
	{name: "ReceiveInto, polling", way: way{How: "into", Values: "bytes", Wait: "poll", Readers: 2}},
	{name: "Forward", doubles: 1, way: way{How: "forward", Values: "bytes"}},
	{name: "Forward, in order", processes: 1, doubles: 1, way: way{How: "forward", Values: "bytes", Wait: "block", Ordered: true}},
	{name: "Merge", way: way{How: "merge", Values: "recorded", Readers: 1, Lanes: 3}},
	{name: "Merge, in order", processes: 1, way: way{How: "merge", Values: "bytes", Readers: 1, Lanes: 3, Ordered: true}},
	{name: "Merge, buffer 4", way: way{How: "merge", Values: "recorded", Readers: 1, Lanes: 3, Buffer: 4}},
	{name: "adoption", processes: 3, early: true, way: way{How: "take", Values: "bytes", Readers: 2, Hold: 40, Hoards: true}},
	{name: "growth", way: way{How: "take", Values: "bytes", Readers: 2, Hold: 100, Hoards: true, Growing: true}},
	{name: "Close and Shutdown", senders: 2, doubles: 2, way: way{How: "close", Values: "recorded", Readers: 2, Hold: 4, Buffer: 4}},
	{name: "packing, Consumer", senders: 2, way: way{How: "consumer", Values: "bytes", Readers: 2, Hold: 16, Packed: true}},
	{name: "packing, Consumer, in order", processes: 1, way: way{How: "consumer", Values: "bytes", Readers: 1, Hold: 40, Packed: true, Ordered: true}},
	{name: "packing, Consumer, borrowed, panic", way: way{How: "borrowed", Values: "bytes", End: "panic", Readers: 2, Hold: 16, Packed: true}},
	{name: "packing, Receiver", way: way{How: "receiver", Values: "recorded", Wait: "block", Readers: 2, Packed: true}},
	{name: "packing, Receiver, buffer 5, in order", processes: 1, way: way{How: "receiver", Values: "bytes", Readers: 1, Buffer: 5, Packed: true, Ordered: true}},
	{name: "packing, Receiver, buffer 100, polling", way: way{How: "receiver", Values: "recorded", Wait: "poll", Readers: 1, Buffer: 100, Packed: true}},
	{name: "packing, Take", senders: 2, way: way{How: "take", Values: "bytes", Readers: 3, Hold: 5, Packed: true}},
	{name: "packing, Take, any end", way: way{How: "take", Values: "bytes", End: "any", Readers: 3, Hold: 5, Packed: true}},
	{name: "packing, direct", way: way{How: "direct", Values: "recorded", Readers: 3, Packed: true}},
	{name: "packing, ReceiveBatch", way: way{How: "batch", Values: "recorded", Readers: 2, Packed: true}},
	{name: "packing, ReceiveBatch, in order", processes: 1, way: way{How: "batch", Values: "bytes", Readers: 1, Packed: true, Ordered: true}},
	// What is sent in one message is acknowledged behind it, here and below.
	{name: "packing, Forward, in order", processes: 1, doubles: 400, way: way{How: "forward", Values: "bytes", Packed: true, Ordered: true}},
	{name: "packing, adoption", processes: 3, early: true, way: way{How: "take", Values: "bytes", Readers: 2, Hold: 40, Hoards: true, Packed: true}},
	{name: "packing, Close and Shutdown", senders: 2, doubles: 2 * 400, way: way{How: "close", Values: "recorded", Readers: 2, Hold: 4, Buffer: 4, Packed: true}},
	{name: "beside C", senders: 2, peers: true, way: way{How: "take", Values: "bytes", Readers: 2, Hold: 5}},
}

// TestFaultJournal: no message is lost with a process, however that ends, and what is
// delivered again is what was not acknowledged.
func TestFaultJournal(t *testing.T) {
	var mu sync.Mutex
	var all outcome
	t.Cleanup(func() { t.Logf("all: %v", all) })
	for _, r := range journalRuns {
		t.Run(r.name, func(t *testing.T) {
			t.Parallel()
			o := r.run(t, nil)
			mu.Lock()
			defer mu.Unlock()
			all.add(o)
		})
	}
}

// TestFaultJournalOutOfMemory: the OOM killer is one of the ways to end.
func TestFaultJournalOutOfMemory(t *testing.T) {
	limit := 64 << 20
	if raceEnabled {
		limit = 256 << 20 // it needs several times the memory
	}
	// One for each process at a time, or the OOM killer would choose.
	groups := []*testkit.Group{testkit.MemoryGroup(t, limit), testkit.MemoryGroup(t, limit)}
	r := run{processes: len(groups), few: true, way: way{How: "consumer", Values: "bytes", End: "memory", Readers: 2, Hold: 16}}
	o := r.run(t, groups)
	killed := 0
	for _, g := range groups {
		killed += g.Killed(t)
	}
	if killed != o.deaths {
		t.Errorf("the kernel says that it has killed %d processes, and not %d", killed, o.deaths)
	}
}

// running is a run under way.
type running struct {
	run
	t      *testing.T
	dir    string
	log    string
	q      *chanmq.Queue[[]byte]
	to     *chanmq.Queue[[]byte]
	groups []*testkit.Group // of each process at a time; nil: none

	self    *mortal // the test as one of the processes
	started atomic.Int64
	deaths  atomic.Int64
	startup atomic.Int64 // nanoseconds that a process took to start
	sent    []*atomic.Int64
}

// run runs it, and counts.
func (r run) run(t *testing.T, groups []*testkit.Group) outcome {
	r.Size = min(largest(t), 8192)
	if r.processes == 0 {
		r.processes = 2
	}
	x := &running{run: r, t: t, dir: journalDir(t), q: newQueue(t, r.packing()...), groups: groups}
	// It may be denied: then there is less in the queue.
	_ = x.q.Set(chanmq.Attr{MaxBytes: 256 << 10})
	x.log = filepath.Join(t.TempDir(), "log")
	log, err := os.OpenFile(x.log, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { log.Close() })
	x.self = x.process(0)
	x.self.log, x.self.texts = log, newTexts(r.Size)
	x.self.left.Store(-1)

	stopSenders := x.startSenders()
	stopReceivers := func() {}
	if r.peers {
		stopReceivers = x.startPeer("receive", x.log, fmt.Sprint(x.started.Add(1)))
	}
	arrived := make(chan struct{})
	if r.How == "forward" {
		x.to = newQueue(t, r.packing()...)
		background(t, func() { defer close(arrived); x.arrive() })
	} else {
		close(arrived)
	}
	var slots sync.WaitGroup
	for slot := range r.processes {
		slots.Go(func() {
			for x.goesOn() {
				x.one(slot)
			}
		})
	}
	slots.Wait()
	stopSenders()
	stopReceivers()
	if t.Failed() {
		t.FailNow() // what comes last may not come
	}
	x.drain()
	if x.to != nil {
		if err := x.to.Send(ctxWithin(t), sentinel, nil); err != nil {
			t.Fatal(err)
		}
	}
	<-arrived
	o := x.count()
	t.Log(o)
	return o
}

// goesOn reports whether another process is to die.
func (x *running) goesOn() bool {
	deaths := longForm(shortDeaths)
	if x.few {
		deaths /= 3
	}
	var sent int64
	for _, n := range x.sent {
		sent += n.Load()
	}
	return !x.t.Failed() && (x.deaths.Load() < int64(deaths) || sent < int64(longForm(shortMessages)))
}

func (x *running) process(number int) *mortal {
	m := &mortal{way: x.way, Number: number, Queue: x.q.ID(), Dir: x.dir, Log: x.log}
	if x.to != nil {
		m.To = x.to.ID()
	}
	return m
}

// one starts a process and has it die.
func (x *running) one(slot int) {
	number := int(x.started.Add(1))
	m := x.process(number)
	if x.groups != nil {
		m.Group = x.groups[slot].Dir
	}
	if x.End == "any" {
		m.End = []string{"", "panic", "exit", "return"}[rand.IntN(4)]
	}
	config := must(json.Marshal(m))
	cmd := testkit.Process(x.t, "journal-receive", string(config))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		x.t.Error(err)
		return
	}
	x.deaths.Add(1)
	if m.End != "" {
		_, _ = io.Copy(io.Discard, stdout) // until it has ended
	} else {
		x.wait(stdout)
		(&mortal{Number: number, log: x.self.log}).record(recDying, 0, 0, 0)
		if err := cmd.Process.Kill(); err != nil {
			x.t.Error(err)
		}
	}
	err = cmd.Wait()
	if !m.endedWell(err, stderr.String()) {
		x.t.Errorf("process %d: %v\n%s", number, err, &stderr)
	}
}

// wait waits until a process is to be killed: at any moment, mostly after it and the others
// have received some messages.
func (x *running) wait(stdout io.Reader) {
	often := 4
	if x.early {
		often = 2
	}
	if took := x.startup.Load(); took > 0 && rand.IntN(often) == 0 {
		time.Sleep(rand.N(time.Duration(2 * took)))
		return
	}
	begin := time.Now()
	if _, err := stdout.Read(make([]byte, 100)); err != nil {
		x.t.Errorf("it ended before it was killed: %v", err)
		return
	}
	x.startup.Store(int64(time.Since(begin)))
	if !x.early || rand.IntN(4) == 0 {
		records := x.records() + rand.Int64N(600)
		for range 200 {
			if x.records() >= records {
				break
			}
			time.Sleep(500 * time.Microsecond)
		}
	}
	time.Sleep(rand.N(2 * time.Millisecond))
}

// records returns how many there are.
func (x *running) records() int64 {
	info, err := x.self.log.Stat()
	if err != nil {
		x.t.Error(err)
		return 0
	}
	return info.Size() / recordSize
}

// endedWell reports whether a process ended as it should.
func (w way) endedWell(err error, stderr string) bool {
	var exit *exec.ExitError
	code, killed := 0, false
	if errors.As(err, &exit) {
		code = exit.ExitCode()
		killed = exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
	} else if err != nil {
		return false
	}
	switch w.End {
	case "", "memory":
		return killed && stderr == ""
	case "panic":
		return code == 2 && strings.HasPrefix(stderr, "panic: "+wanted) && !strings.Contains(stderr, "DATA RACE")
	default:
		return code == 0 && !killed && stderr == ""
	}
}

// startSenders starts what sends, and returns how to stop that.
func (x *running) startSenders() (stop func()) {
	senders := max(1, x.senders)
	x.sent = []*atomic.Int64{new(atomic.Int64)}
	ctx, cancel := context.WithCancel(context.Background())
	x.t.Cleanup(cancel)
	ended := make(chan error, 1)
	go func() { ended <- sendUntil(ctx, x.q, x.way, 0, senders, x.sent[0]) }()
	var stopOthers []func()
	for n := 1; n < senders; n++ {
		start := x.startSender
		if x.peers {
			start = func(args ...string) func() { return x.startPeer("send", args...) }
		}
		stopOthers = append(stopOthers, start(fmt.Sprint(n), fmt.Sprint(senders)))
	}
	return func() {
		cancel()
		if err := <-ended; err != nil {
			x.t.Error(err)
		}
		for _, stop := range stopOthers {
			stop()
		}
	}
}

// startSender starts a process that sends: the first number, and the difference of two.
func (x *running) startSender(args ...string) (stop func()) {
	args = append([]string{string(must(json.Marshal(x.way))), fmt.Sprint(x.q.ID())}, args...)
	cmd := testkit.Process(x.t, "journal-send", args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		x.t.Fatal(err)
	}
	var out bytes.Buffer
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	return func() {
		stdin.Close()
		testkit.Wait(x.t, cmd)
		x.sentBy(out.String())
	}
}

// sentBy notes what a sender says.
func (x *running) sentBy(out string) {
	sent := new(atomic.Int64)
	var n int64
	if _, err := fmt.Sscan(out, &n); err != nil {
		x.t.Errorf("a sender printed %q: %v", out, err)
	}
	sent.Store(n)
	x.sent = append(x.sent, sent)
}

// startPeer starts a program in C.
func (x *running) startPeer(does string, args ...string) (stop func()) {
	program, texts := peerProgram(x.t)
	cmd := exec.Command(program, append([]string{does, fmt.Sprint(x.q.ID()), texts, fmt.Sprint(x.Size)}, args...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		x.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // how it ended no longer matters
		}
	})
	out := bufio.NewReader(stdout)
	if _, err := out.ReadString('\n'); err != nil { // now it has its handlers
		x.t.Fatal(err)
	}
	return func() {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			x.t.Error(err)
		}
		rest, err := io.ReadAll(out)
		if err != nil {
			x.t.Error(err)
		}
		testkit.Wait(x.t, cmd)
		if does == "send" {
			x.sentBy(string(rest))
		}
	}
}

// peerProgram compiles testdata/journal/peer.c, and writes the file that it needs.
func peerProgram(t *testing.T) (program, texts string) {
	t.Helper()
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	program, texts = filepath.Join(dir, "peer"), filepath.Join(dir, "texts")
	compile := exec.Command(compiler, "-std=gnu11", "-Wall", "-o", program, "testdata/journal/peer.c")
	if out, err := compile.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", compile, err, out)
	}
	if err := os.WriteFile(texts, newTexts(min(largest(t), 8192)).bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	return program, texts
}

// sentinel is the type of the message behind all others.
const sentinel = 1<<31 - 1

// drain takes what is left in journals and in the queue.
func (x *running) drain() {
	last, err := x.self.open()
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { last.Close() }) // where the test fails before
	ctx := ctxWithin(x.t)
	background(x.t, func() {
		if err := x.q.Send(ctx, sentinel, nil); err != nil {
			x.t.Errorf("sending the last message: %v", err)
		}
	})
	for {
		d, err := last.Take(ctx, chanmq.Any())
		if err != nil {
			x.t.Fatal(err)
		}
		id := x.idOf(d.Type, d.Value)
		if d.Type != sentinel {
			x.self.got(0, id, d.Type, d.Value, d.Attempt, d.LengthInferred)
		}
		if err := d.Ack(); err != nil {
			x.t.Error(err)
		}
		if d.Type == sentinel {
			break
		}
		x.self.record(recAcknowledged, 0, id, 0)
	}
	wantNone(x.t, last)
	if err := last.Close(); err != nil {
		x.t.Error(err)
	}
	if n := countMessages(x.t, x.q); n > 0 {
		x.t.Errorf("%d messages are left in the queue", n)
	}
}

// arrive receives what is forwarded.
func (x *running) arrive() {
	ctx := ctxLong(x.t)
	// What a process that died had sent and not acknowledged comes again, all values of a pack.
	seen, last := make(map[int]bool), -1
	for {
		m, err := x.to.Receive(ctx, chanmq.Any())
		if err != nil {
			if !x.t.Failed() {
				x.t.Error(err)
			}
			return
		}
		if m.Type == sentinel {
			return
		}
		id := x.idOf(m.Type, m.Value)
		if x.Ordered && id < last && !seen[id] {
			x.t.Errorf("message %d arrives for the first time behind %d", id, last)
		}
		seen[id], last = true, max(last, id)
		x.self.got(0, id, m.Type, m.Value, 0, false)
	}
}
