//go:build linux

package serve_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/serve"
)

// replyType is one that no client has.
const replyType = 1<<(strconv.IntSize-2) + 12345

// life returns that of a process.
func life(t testing.TB, pid int) envelope.Life {
	t.Helper()
	l := envelope.Life{PID: uint32(pid), PIDNamespace: inode(t, "pid"), TimeNamespace: inode(t, "time")}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if l.Start, err = strconv.ParseUint(fields[22-3], 10, 64); err != nil {
		t.Fatal(err)
	}
	return l
}

func inode(t testing.TB, namespace string) uint32 {
	t.Helper()
	link, err := os.Readlink("/proc/self/ns/" + namespace)
	if err != nil {
		t.Skip(err)
	}
	var n uint32
	if _, err := fmt.Sscanf(link, namespace+":[%d]", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// sendReply sends a reply to a client that does not exist here.
func sendReply(t testing.TB, q *chanmq.Queue[[]byte], typ int64, h envelope.Header, text []byte) (sent bool) {
	t.Helper()
	h.Kind = envelope.Reply
	sent, err := q.TrySend(typ, append(envelope.Append(nil, &h), text...))
	if err != nil {
		t.Fatal(err)
	}
	return sent
}

// TestSweep: what is taken out is what nobody will take, and nothing else. A pid that is
// used again is another process.
func TestSweep(t *testing.T) {
	here := life(t, os.Getpid())
	again, elsewhere, otherClock := here, here, here
	again.Start--
	elsewhere.PIDNamespace++
	otherClock.TimeNamespace++
	otherClock.Start++
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Skip(err)
	}
	other := life(t, cmd.Process.Pid)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "a process that has ended", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Contains(string(stat), ") Z ")
	})
	past, future := time.Now().Add(-time.Second).UnixNano(), time.Now().Add(time.Hour).UnixNano()
	tests := []struct {
		name  string
		h     envelope.Header
		swept bool
	}{
		{"alive", envelope.Header{Life: here}, false},
		{"alive, expired", envelope.Header{Life: here, Expiry: past}, false},
		{"its pid is used again", envelope.Header{Life: again}, true},
		{"it has ended, and was not waited for", envelope.Header{Life: other}, true},
		{"another pid namespace", envelope.Header{Life: elsewhere}, false},
		{"another pid namespace, to expire", envelope.Header{Life: elsewhere, Expiry: future}, false},
		{"another pid namespace, expired", envelope.Header{Life: elsewhere, Expiry: past}, true},
		{"another time namespace", envelope.Header{Life: otherClock}, false},
		{"unknown", envelope.Header{}, false},
		{"unknown, expired", envelope.Header{Expiry: past}, true},
	}
	fill := func(q *chanmq.Queue[[]byte]) {
		for i, test := range tests {
			for range 2 {
				if !sendReply(t, q, replyType+int64(i), test.h, nil) {
					t.Fatal("the queue is full")
				}
			}
		}
		// Others' messages look similar, and are left alone.
		h := envelope.Header{Kind: envelope.Reply, Life: other}
		if err := q.Send(t.Context(), 1, envelope.Append(nil, &h)); err != nil {
			t.Fatal(err)
		}
		if err := q.Send(t.Context(), replyType-1, []byte("\xFEcmq damaged")); err != nil {
			t.Fatal(err)
		}
	}
	check := func(q *chanmq.Queue[[]byte]) {
		t.Helper()
		left := make(map[int64]int)
		for m, err := range q.Browse() {
			if err != nil {
				t.Skip(err)
			}
			left[m.Type]++
		}
		for i, test := range tests {
			want := 2
			if test.swept {
				want = 0
			}
			if got := left[replyType+int64(i)]; got != want {
				t.Errorf("%s: %d of 2 are left", test.name, got)
			}
		}
		if left[1] != 1 || left[replyType-1] != 1 {
			t.Error("messages of others were taken")
		}
	}
	requests, replies := newQueue(t), newQueue(t)
	fill(replies)
	c := newClient(t, requests, replies)
	check(replies)
	if n := c.Stats().Swept; n != 8 {
		t.Errorf("%d were swept", n)
	}
	// After its end a process is gone altogether.
	_ = cmd.Wait()
	sendReply(t, replies, replyType+50, envelope.Header{Life: other}, nil)
	if n := newClient(t, requests, replies).Stats().Swept; n != 1 {
		t.Errorf("%d were swept", n)
	}
}

// TestDeadClientsFill: replies of clients that are dead fill the queue. A server takes them
// out when it needs the room.
func TestDeadClientsFill(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	c := newClient(t, requests, replies)
	gone := life(t, os.Getpid())
	gone.Start--
	for size := 1000; size >= 0; size -= 100 {
		for i := 0; sendReply(t, replies, replyType+int64(i%7), envelope.Header{Life: gone}, make([]byte, size)); i++ {
		}
	}
	s := serve.NewServer(requests, replies)
	handleDouble(s)
	stop := start(t, s)
	wantDouble(t, c, 1)
	if err := stop(); err != nil {
		t.Error(err)
	}
	if stats := s.Stats(); stats.Swept == 0 || stats.TakenBack > 0 {
		t.Errorf("%+v", stats)
	}
	wantEmpty(t, requests, replies)
}

// TestSweepFromTimeToTime: a server that has room for its replies looks for those of dead
// clients all the same.
func TestSweepFromTimeToTime(t *testing.T) {
	usual := *serve.SweepEvery
	*serve.SweepEvery = time.Millisecond
	requests, replies := newQueue(t), newQueue(t)
	c := newClient(t, requests, replies)
	gone := life(t, os.Getpid())
	gone.Start--
	sendReply(t, replies, replyType, envelope.Header{Life: gone}, nil)
	s := serve.NewServer(requests, replies)
	handleDouble(s)
	stop := start(t, s)
	testkit.Eventually(t, "a sweep", func() bool {
		wantDouble(t, c, 1)
		return s.Stats().Swept == 1
	})
	if err := stop(); err != nil {
		t.Error(err)
	}
	*serve.SweepEvery = usual
	wantEmpty(t, requests, replies)
}

// TestUnknownClientsFill: replies of clients of whom nothing is known fill the queue. They
// are taken back, and wait until there is room again.
func TestUnknownClientsFill(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	c := newClient(t, requests, replies)
	filled := 0
	for size := 100; size >= 0; size -= 100 {
		for ; sendReply(t, replies, replyType+int64(filled%3), envelope.Header{CallID: uint64(filled)}, make([]byte, size)); filled++ {
		}
	}
	s := serve.NewServer(requests, replies)
	handleDouble(s)
	stop := start(t, s)
	for n := range int32(20) {
		wantDouble(t, c, n)
	}
	if stats := s.Stats(); stats.TakenBack == 0 || stats.Dropped > 0 {
		t.Errorf("%+v", stats)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	seen := make(map[uint64]bool)
	for {
		m, ok, err := replies.TryReceive(chanmq.Any())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			break
		}
		h, _, err := envelope.Parse(m.Value)
		if err != nil || m.Type != replyType+int64(h.CallID%3) {
			t.Fatal(h, err)
		}
		seen[h.CallID] = true
	}
	if len(seen) != filled {
		t.Errorf("%d of %d replies are left", len(seen), filled)
	}
	t.Logf("%d replies, %+v", filled, s.Stats())
}

// TestOutboxIsBounded: replies for which there is no room at all do not hold up workers.
// When there are too many, the oldest of the client with most is dropped; at the end, what
// is left is handed back.
func TestOutboxIsBounded(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	fillUp(t, replies)
	var reported reports
	s := serve.NewServer(requests, replies, serve.WithOutbox(10), serve.WithDrainTime(50*time.Millisecond), reported.option())
	handleDouble(s)
	const n = 15
	c := newClient(t, attach(t, requests), attach(t, replies))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, n)
	for i := range int32(n) {
		go func() {
			_, err := c.Call(ctx, i)
			ended <- err
		}()
	}
	running, end := context.WithCancel(t.Context())
	result := make(chan error)
	go func() { result <- s.Run(running) }()
	testkit.Eventually(t, "all requests handled", func() bool { return s.Stats().Handled == n })
	testkit.Eventually(t, "dropped replies", func() bool { return s.Stats().Dropped == n-10 })
	end()
	wantIs(t, "Run", <-result, serve.ErrUnsent)
	if errs := reported.take(); len(errs) != n-10 {
		t.Errorf("reported %v", errs)
	}
	if stats := s.Stats(); stats.WaitingPeak > 11 || stats.Dropped != n {
		t.Errorf("%+v", stats)
	}
	cancel()
	for range n {
		wantIs(t, "a call whose reply was dropped", <-ended, context.Canceled)
	}
	left := 0
	for {
		if _, ok, _ := requests.TryReceive(chanmq.Any()); !ok {
			break
		}
		left++
	}
	if left != 10 {
		t.Errorf("%d requests were handed back", left)
	}
}

// fillUp fills a queue with messages that nobody may take.
func fillUp(t testing.TB, q *chanmq.Queue[[]byte]) {
	t.Helper()
	for {
		if sent, err := q.TrySend(1, make([]byte, 32)); err != nil {
			t.Fatal(err)
		} else if !sent {
			return
		}
	}
}

// TestReplyWaitsForRoom: a reply waits while the queue is full of others' messages, and the
// worker does not.
func TestReplyWaitsForRoom(t *testing.T) {
	requests, replies := newQueue(t), newQueue(t)
	fillUp(t, replies)
	s := serve.NewServer(requests, replies)
	serve.Handle(s, chanmq.OfType(1), codec.Bytes(), codec.Bytes(), func(_ context.Context, b []byte) ([]byte, error) { return b, nil })
	start(t, s)
	c := serve.NewClient(requests, replies, 1, codec.Bytes(), codec.Bytes())
	defer c.Close()
	const n = 5
	answers := make(chan error)
	for range n {
		go func() {
			_, err := c.Call(ctxWithin(t), make([]byte, 4000))
			answers <- err
		}()
	}
	testkit.Eventually(t, "all requests handled", func() bool { return s.Stats().Handled == n })
	for {
		if _, ok, err := replies.TryReceive(chanmq.OfType(1)); !ok || err != nil {
			break
		}
	}
	for range n {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}
