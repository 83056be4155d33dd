//go:build linux

package chanmq_test

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"regexp"
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

// since reports whether a time that the kernel returned is not before start and not
// in the future. The kernel counts whole seconds, of a clock that is up to a tick
// behind.
func since(start, at time.Time) bool {
	return !at.Before(start.Add(-time.Second).Truncate(time.Second)) && !at.After(time.Now())
}

func TestStat(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user shows wrong modes, times and process ids")
	}
	limits, err := chanmq.ReadLimits()
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	q := newKeyed(t)
	// check compares the queue with want, and returns what Stat returned.
	check := func(when string, want chanmq.Stat) chanmq.Stat {
		t.Helper()
		got, err := q.Stat()
		if err != nil {
			t.Fatal(err)
		}
		want.ID, want.Key, want.Perm, want.MaxBytes = q.ID(), q.Key(), 0o600, limits.MaxBytes
		want.Owner, want.Creator = os.Geteuid(), os.Geteuid()
		want.Group, want.CreatorGroup = os.Getegid(), os.Getegid()
		want.LastSend, want.LastReceive, want.Changed = got.LastSend, got.LastReceive, got.Changed
		if got != want {
			t.Errorf("%s:\n%+v, want\n%+v", when, got, want)
		}
		if !since(start, got.Changed) {
			t.Errorf("%s: changed at %v, the test began at %v", when, got.Changed, start)
		}
		return got
	}

	got := check("a new queue", chanmq.Stat{})
	if !got.LastSend.IsZero() || !got.LastReceive.IsZero() {
		t.Errorf("a new queue: sent at %v, received at %v; want never", got.LastSend, got.LastReceive)
	}
	pid := os.Getpid()
	for _, text := range []string{"", "five.", "seven.."} {
		if err := q.Send(ctxWithin(t), 1, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	got = check("after three sends", chanmq.Stat{Messages: 3, Bytes: 12, LastSendPID: pid})
	if !since(start, got.LastSend) || !got.LastReceive.IsZero() {
		t.Errorf("after three sends: sent at %v, received at %v; the test began at %v", got.LastSend, got.LastReceive, start)
	}
	for range 2 {
		if _, err := q.Receive(ctxWithin(t), chanmq.Any()); err != nil {
			t.Fatal(err)
		}
	}
	got = check("after two receives", chanmq.Stat{Messages: 1, Bytes: 7, LastSendPID: pid, LastReceivePID: pid})
	if !since(start, got.LastReceive) {
		t.Errorf("after two receives: received at %v; the test began at %v", got.LastReceive, start)
	}
	other := testkit.Start(t, "send", strconv.Itoa(q.ID()), "1", "2")
	testkit.Wait(t, other)
	check("after two sends of another process",
		chanmq.Stat{Messages: 3, Bytes: 15, LastSendPID: other.Process.Pid, LastReceivePID: pid})
}

func TestStatIsWhatIpcsTells(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user shows wrong modes and process ids")
	}
	ipcs, err := exec.LookPath("ipcs")
	if err != nil {
		t.Skip(err)
	}
	q := newKeyed(t)
	sendNumbers(t, q, 1, 0, 3)
	wantNumbers(t, q, chanmq.Any(), 0, 1)
	if err := q.Set(chanmq.Attr{Perm: 0o640, MaxBytes: 5000}); err != nil {
		t.Fatal(err)
	}
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]chanmq.Stat{"Stat": stat, "List": statOf(t, q.ID())} {
		cmd := exec.Command(ipcs, "-q", "-i", strconv.Itoa(q.ID()))
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		tells := make(map[string]string)
		for _, field := range regexp.MustCompile(`(\w+)=(\S+)`).FindAllStringSubmatch(string(out), -1) {
			tells[field[1]] = field[2]
		}
		for field, value := range map[string]string{
			"msqid":  fmt.Sprint(got.ID),
			"uid":    fmt.Sprint(got.Owner),
			"gid":    fmt.Sprint(got.Group),
			"cuid":   fmt.Sprint(got.Creator),
			"cgid":   fmt.Sprint(got.CreatorGroup),
			"mode":   fmt.Sprintf("%#o", uint32(got.Perm)),
			"cbytes": fmt.Sprint(got.Bytes),
			"qbytes": fmt.Sprint(got.MaxBytes),
			"qnum":   fmt.Sprint(got.Messages),
			"lspid":  fmt.Sprint(got.LastSendPID),
			"lrpid":  fmt.Sprint(got.LastReceivePID),
		} {
			if tells[field] != value {
				t.Errorf("%s: %s is %s, and ipcs tells %q:\n%s", name, field, value, tells[field], out)
			}
		}
	}
}

func TestSetLeavesTheRestAsItIs(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user shows and sets a wrong mode")
	}
	for _, tt := range []struct {
		attr   chanmq.Attr
		change func(*chanmq.Stat)
		root   bool // only user 0 may
	}{
		{attr: chanmq.Attr{}, change: func(*chanmq.Stat) {}},
		{attr: chanmq.Attr{Owner: -1, Group: -1}, change: func(*chanmq.Stat) {}},
		{attr: chanmq.Attr{Perm: 0o640}, change: func(s *chanmq.Stat) { s.Perm = 0o640 }},
		{attr: chanmq.Attr{MaxBytes: 1000}, change: func(s *chanmq.Stat) { s.MaxBytes = 1000 }},
		{attr: chanmq.Attr{Owner: nobody}, change: func(s *chanmq.Stat) { s.Owner = nobody }, root: true},
		{attr: chanmq.Attr{Group: nobody}, change: func(s *chanmq.Stat) { s.Group = nobody }, root: true},
		{
			attr:   chanmq.Attr{Perm: 0o222, Owner: nobody, Group: nobody - 1, MaxBytes: 1},
			change: func(s *chanmq.Stat) { s.Perm, s.Owner, s.Group, s.MaxBytes = 0o222, nobody, nobody-1, 1 },
			root:   true,
		},
	} {
		t.Run(fmt.Sprintf("%+v", tt.attr), func(t *testing.T) {
			if tt.root && os.Geteuid() != 0 {
				t.Skip("only user 0 may still look at a queue that it gave away")
			}
			q := newKeyed(t)
			sendNumbers(t, q, 1, 0, 1)
			want, err := q.Stat()
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := q.Set(tt.attr); err != nil {
				t.Fatal(err)
			}
			tt.change(&want)
			got, err := q.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if !since(start, got.Changed) {
				t.Errorf("changed at %v, Set was called at %v", got.Changed, start)
			}
			want.Changed = got.Changed
			if got != want {
				t.Errorf("the queue is\n%+v, want\n%+v", got, want)
			}
		})
	}
}

func TestSetErrors(t *testing.T) {
	q := newQueue(t)
	wantUnchanged(t, q)
	for _, tt := range []struct {
		attr  chanmq.Attr
		words []string
	}{
		{chanmq.Attr{Perm: 0o1600}, []string{"Perm 01600", "0777"}},
		{chanmq.Attr{Perm: fs.ModeDir | 0o700}, []string{"Perm", "0777"}},
		{chanmq.Attr{Owner: -2}, []string{"Owner -2", "not negative"}},
		{chanmq.Attr{Group: math.MinInt}, []string{"Group " + strconv.Itoa(math.MinInt), "not negative"}},
		{chanmq.Attr{MaxBytes: -1}, []string{"MaxBytes -1", "negative"}},
	} {
		wantError(t, fmt.Sprintf("Set(%+v)", tt.attr), q.Set(tt.attr), fs.ErrInvalid,
			append(tt.words, "chanmq: set", fmt.Sprintf("msqid %d", q.ID()))...)
	}
}

func TestSetOverMsgmnb(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user sets a wrong mode, after which the owner may not look any more")
	}
	limits, err := chanmq.ReadLimits()
	if err != nil {
		t.Fatal(err)
	}
	var id int
	asNobody(t, func() { // who has no CAP_SYS_RESOURCE
		q := must(chanmq.Private(0o600))
		id = q.ID()
		for _, size := range []int{limits.MaxBytes - 1, limits.MaxBytes} {
			if err := q.Set(chanmq.Attr{MaxBytes: size}); err != nil {
				t.Errorf("Set of %d: %v", size, err)
			}
		}
		err := q.Set(chanmq.Attr{MaxBytes: limits.MaxBytes + 1})
		wantError(t, "Set over msgmnb", err, syscall.EPERM, fmt.Sprintf("MaxBytes %d is over msgmnb, %d", limits.MaxBytes+1, limits.MaxBytes),
			"sysctl kernel.msgmnb", "CAP_SYS_RESOURCE")
		wantError(t, "Set over msgmnb", err, fs.ErrPermission)
		if stat, err := q.Stat(); err != nil || stat.MaxBytes != limits.MaxBytes {
			t.Errorf("MaxBytes is %d, %v; want %d", stat.MaxBytes, err, limits.MaxBytes)
		}
		if err := q.Remove(); err != nil {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	if stats := must(chanmq.List()); slices.ContainsFunc(stats, func(s chanmq.Stat) bool { return s.ID == id }) {
		t.Errorf("msqid %d is still there", id)
	}
}

func TestListAndLimits(t *testing.T) {
	if !testkit.InNamespace(t) {
		return
	}
	check := func(stats int, used chanmq.Limits) {
		t.Helper()
		got, err := chanmq.List()
		if err != nil || len(got) != stats {
			t.Errorf("List = %+v, %v; want %d queues", got, err, stats)
		}
		limits, err := chanmq.ReadLimits()
		if err != nil {
			t.Fatal(err)
		}
		used.MaxMessage, used.MaxBytes, used.MaxQueues = sysctl(t, "msgmax"), sysctl(t, "msgmnb"), sysctl(t, "msgmni")
		if limits != used {
			t.Errorf("ReadLimits = %+v, want %+v", limits, used)
		}
	}
	check(0, chanmq.Limits{})
	queues := []*chanmq.Queue[[]byte]{newQueue(t), newKeyed(t), newQueue(t)}
	check(3, chanmq.Limits{Queues: 3})
	sendNumbers(t, queues[0], 1, 0, 2)
	sendNumbers(t, queues[2], 1, 0, 3)
	check(3, chanmq.Limits{Queues: 3, Messages: 5, Bytes: 20})
	for _, q := range queues {
		if got, want := statOf(t, q.ID()), must(q.Stat()); got != want {
			t.Errorf("List tells\n%+v, Stat tells\n%+v", got, want)
		}
	}
	if err := queues[1].Remove(); err != nil {
		t.Fatal(err)
	}
	testkit.SetLimit(t, "msgmax", "1234")
	testkit.SetLimit(t, "msgmnb", "2345")
	testkit.SetLimit(t, "msgmni", "34")
	check(2, chanmq.Limits{Queues: 2, Messages: 5, Bytes: 20})
}

func TestLimitsAreThoseOfTheMachine(t *testing.T) {
	limits, err := chanmq.ReadLimits()
	if err != nil {
		t.Fatal(err)
	}
	for name, got := range map[string]int{"msgmax": limits.MaxMessage, "msgmnb": limits.MaxBytes, "msgmni": limits.MaxQueues} {
		if want := sysctl(t, name); got != want {
			t.Errorf("%s is %d, want %d", name, got, want)
		}
	}
}

// sysctl reads a limit.
func sysctl(t testing.TB, name string) int {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/kernel/" + name)
	if err != nil {
		t.Skip(err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestSetWithoutReadPermission: what Set takes is ownership, and its errors advise
// nothing else.
func TestSetWithoutReadPermission(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user has no MSG_STAT_ANY, by which Set knows a queue that may not be read")
	}
	q := newQueue(t)
	asNobody(t, func() {
		mine, err := chanmq.Private(0o200) // its owner may not read it
		if err != nil {
			t.Fatal(err)
		}
		adopt(t, mine)
		if err := mine.Set(chanmq.Attr{MaxBytes: 1000}); err != nil {
			t.Errorf("Set by the owner: %v", err)
		}
		if stat := statOf(t, mine.ID()); stat.MaxBytes != 1000 || stat.Perm != 0o200 {
			t.Errorf("after Set: %+v", stat)
		}
		other, err := chanmq.Attach(q.ID())
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		err = other.Set(chanmq.Attr{MaxBytes: 1000})
		wantError(t, "Set by somebody else", err, fs.ErrPermission, "only the queue's owner")
		if strings.Contains(err.Error(), "read (to receive)") {
			t.Errorf("%v: read permission would not help", err)
		}
	})
}
