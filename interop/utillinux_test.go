//go:build linux

package interop_test

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
)

// The tests of util-linux, with which administrators list, create and remove queues:
// its programs and Go must agree on them.
var utilLinux = []testCase{
	{"ipcmk", nothing, func(t *testing.T, _ *language) { testIpcmk(t) }},
	{"ipcs", nothing, func(t *testing.T, _ *language) { testIpcs(t) }},
	{"ipcs-after-set", nothing, func(t *testing.T, _ *language) { testIpcsAfterSet(t) }},
	{"ipcs-limits", nothing, func(t *testing.T, _ *language) { testIpcsLimits(t) }},
	{"ipcrm-id", nothing, func(t *testing.T, _ *language) {
		testIpcrm(t, func(q *chanmq.Queue[[]byte]) []string { return []string{"-q", strconv.Itoa(q.ID())} })
	}},
	{"ipcrm-key", nothing, func(t *testing.T, _ *language) {
		testIpcrm(t, func(q *chanmq.Queue[[]byte]) []string { return []string{"-Q", q.Key().String()} })
	}},
	{"umask", nothing, func(t *testing.T, _ *language) { testUmask(t) }},
	{"setpriv", nothing, func(t *testing.T, _ *language) { testSetpriv(t) }},
	{"unshare", nothing, func(t *testing.T, _ *language) { testUnshare(t) }},
	{"nsenter", nothing, func(t *testing.T, _ *language) { testNsenter(t) }},
}

func TestUtilLinux(t *testing.T) {
	(&language{name: "UtilLinux", cases: func() []testCase { return utilLinux }}).test(t)
}

// ipcmk creates a queue and attaches to it by its msqid.
func ipcmk(t *testing.T, command ...string) *chanmq.Queue[[]byte] {
	t.Helper()
	tool(t, "ipcmk", "util-linux")
	out := run(t, command...)
	text, found := strings.CutPrefix(out, "Message queue id: ")
	id, err := strconv.Atoi(text)
	if !found || err != nil {
		t.Fatalf("ipcmk printed %q", out)
	}
	q, err := chanmq.Attach(id)
	if err != nil {
		t.Fatal(err)
	}
	return removed(t, q)
}

func testIpcmk(t *testing.T) {
	q := ipcmk(t, "ipcmk", "-Q", "-p", "0640")
	seenAlike(t, q, 0o640)
	if q.Key() == 0 {
		t.Error("Key is 0 after Attach, but ipcmk creates queues with a key")
	}
	again, err := chanmq.Open(q.Key())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if again.ID() != q.ID() {
		t.Errorf("the key opens msqid %d, want %d", again.ID(), q.ID())
	}
}

func testIpcs(t *testing.T) {
	q := keyedQueue(t, 0o620)
	seenAlike(t, q, 0o620)
	sendThree(t, q)
	seenAlike(t, q, 0o620)
	receive(t, q, chanmq.UpTo(3))
	seenAlike(t, q, 0o620)
	seenAlike(t, privateQueue(t), 0o600)
}

func testIpcsAfterSet(t *testing.T) {
	q := keyedQueue(t, 0o600)
	if err := q.Set(chanmq.Attr{Perm: 0o664, MaxBytes: 1000}); err != nil {
		t.Fatal(err)
	}
	if got := ipcsDetails(t, q.ID())["qbytes"]; got != "1000" {
		t.Errorf("ipcs shows qbytes=%s, want 1000", got)
	}
	if misreadsMode() {
		t.Log("not compared: IPC_SET of qemu-user 7.2 on big-endian machines sets the mode to 0")
		return
	}
	seenAlike(t, q, 0o664)
}

func testIpcsLimits(t *testing.T) {
	tool(t, "ipcs", "util-linux")
	limits, err := chanmq.ReadLimits()
	if err != nil {
		t.Fatal(err)
	}
	out := run(t, "ipcs", "-q", "-l")
	for _, want := range []string{
		fmt.Sprintf("max queues system wide = %d", limits.MaxQueues),
		fmt.Sprintf("max size of message (bytes) = %d", limits.MaxMessage),
		fmt.Sprintf("default max size of queue (bytes) = %d", limits.MaxBytes),
	} {
		if !slices.Contains(strings.Split(out, "\n"), want) {
			t.Errorf("ipcs does not print %q, but\n%s", want, out)
		}
	}
}

// testIpcrm runs ipcrm while Go waits on the queue in several ways.
func testIpcrm(t *testing.T, which func(*chanmq.Queue[[]byte]) []string) {
	tool(t, "ipcrm", "util-linux")
	q := keyedQueue(t, 0o600)
	ctx := deadlineContext(t)
	r := q.Receiver(ctx, chanmq.OfType(1))
	defer r.Close()
	fill(t, q)
	ended := make(chan error, 3)
	go func() {
		_, err := q.Receive(ctx, chanmq.OfType(1))
		ended <- err
	}()
	go func() { ended <- q.Send(ctx, 1, []byte("no room")) }()
	go func() {
		for m := range r.C() {
			t.Errorf("received %v", m)
		}
		ended <- r.Err()
	}()
	run(t, append([]string{"ipcrm"}, which(q)...)...)
	for range cap(ended) {
		if err := <-ended; !errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("got %v, want %v", err, chanmq.ErrRemoved)
		}
	}
	if _, err := chanmq.Open(q.Key()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open: %v, want %v", err, fs.ErrNotExist)
	}
}

// Unlike those of a file, the permissions of a queue do not depend on the umask.
func testUmask(t *testing.T) {
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	seenAlike(t, keyedQueue(t, 0o666), 0o666)
	seenAlike(t, ipcmk(t, "ipcmk", "-Q", "-p", "0666"), 0o666) // it inherits the umask
}

// Everybody may send to a queue with permissions 0622, but only its owner may receive.
func testSetpriv(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("setpriv: only root can become another user")
	}
	tool(t, "perl", "perl")
	q := keyedQueue(t, 0o622)
	nobody := func(code string) string {
		t.Helper()
		return run(t, tool(t, "setpriv", "util-linux"), "--reuid=65534", "--regid=65534", "--clear-groups", "--",
			"perl", "-MIPC::Msg", "-e", code, strconv.Itoa(int(q.Key())))
	}
	// msgget with flags 0 checks no permissions; the calls do.
	out := nobody(`my $q = IPC::Msg->new($ARGV[0], 0) or die $!; $q->snd(7, "from nobody") or die $!; ` +
		`$q->rcv(my $text, 100) or print $!+0;`)
	if want := strconv.Itoa(int(syscall.EACCES)); out != want {
		t.Errorf("receiving fails with errno %s, want %s", out, want)
	}
	if m := receive(t, q, chanmq.Any()); string(m.Value) != "from nobody" {
		t.Errorf("got %q", m.Value)
	}
}

// inNewNamespace returns the command that runs another one in a new IPC namespace, as
// containers do.
func inNewNamespace(t *testing.T, command ...string) []string {
	t.Helper()
	unshare := []string{tool(t, "unshare", "util-linux"), "--ipc"}
	if os.Geteuid() != 0 {
		unshare = append(unshare, "--user", "--map-root-user")
	}
	if out, err := exec.Command(unshare[0], append(unshare[1:], "true")...).CombinedOutput(); err != nil {
		t.Skipf("cannot create an IPC namespace: %s", out)
	}
	return append(unshare, command...)
}

// A queue does not exist outside its IPC namespace: neither msqid nor key.
func testUnshare(t *testing.T) {
	q := keyedQueue(t, 0o666)
	send(t, q, 1, []byte("inside"))
	p := start(t, inNewNamespace(t, "ipcs", "-q", "-i", strconv.Itoa(q.ID()))...)
	out, _ := p.result() // ipcs exits with 0 either way
	if want := fmt.Sprintf("ipcs: id %d not found\n", q.ID()); out != "" || p.stderr.String() != want {
		t.Errorf("another namespace has the msqid:\n%s%s", out, &p.stderr)
	}
	if out := run(t, inNewNamespace(t, "ipcs", "-q")...); strings.Contains(out, q.Key().String()) {
		t.Errorf("another namespace has the key:\n%s", out)
	}
}

// A process that joins the namespace finds the queue. The --ipc=host and
// --ipc=container:NAME options of containers do this.
func testNsenter(t *testing.T) {
	tool(t, "nsenter", "util-linux")
	if os.Geteuid() != 0 {
		t.Skip("nsenter: only root can return to the namespace that it left")
	}
	q := keyedQueue(t, 0o600)
	out := run(t, inNewNamespace(t, "nsenter", fmt.Sprintf("--ipc=/proc/%d/ns/ipc", os.Getpid()),
		"ipcs", "-q", "-i", strconv.Itoa(q.ID()))...)
	if !strings.Contains(out, fmt.Sprintf("Message Queue msqid=%d", q.ID())) {
		t.Errorf("ipcs printed\n%s", out)
	}
}

// seenAlike checks that Stat, List and ipcs agree on a queue.
func seenAlike(t *testing.T, q *chanmq.Queue[[]byte], perm fs.FileMode) {
	t.Helper()
	tool(t, "ipcs", "util-linux")
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{
		"uid":         strconv.Itoa(stat.Owner),
		"gid":         strconv.Itoa(stat.Group),
		"cuid":        strconv.Itoa(stat.Creator),
		"cgid":        strconv.Itoa(stat.CreatorGroup),
		"mode":        fmt.Sprintf("%#o", uint32(stat.Perm)),
		"cbytes":      strconv.Itoa(stat.Bytes),
		"qbytes":      strconv.Itoa(stat.MaxBytes),
		"qnum":        strconv.Itoa(stat.Messages),
		"lspid":       strconv.Itoa(stat.LastSendPID),
		"lrpid":       strconv.Itoa(stat.LastReceivePID),
		"send_time":   ctime(stat.LastSend),
		"rcv_time":    ctime(stat.LastReceive),
		"change_time": ctime(stat.Changed),
	}
	want := ipcsDetails(t, q.ID())
	if want["mode"] != fmt.Sprintf("%#o", uint32(perm)) {
		t.Errorf("ipcs shows mode=%s, want %#o", want["mode"], uint32(perm))
	}
	if emulated() {
		// The fields that qemu-user 7.2 gets wrong, as in emulatedStat.
		wrong := []string{"lrpid"}
		if misreadsMode() {
			wrong = []string{"lrpid", "mode", "lspid"}
		}
		for _, name := range wrong {
			delete(got, name)
			delete(want, name)
		}
	}
	if !maps.Equal(got, want) {
		t.Errorf("Stat has %v\nipcs has %v", got, want)
	}

	row := []string{stat.Key.String(), strconv.Itoa(q.ID()), owner(stat.Owner),
		strconv.FormatUint(uint64(perm), 8), strconv.Itoa(stat.Bytes), strconv.Itoa(stat.Messages)}
	if !slices.ContainsFunc(strings.Split(run(t, "ipcs", "-q"), "\n"), func(line string) bool {
		return slices.Equal(strings.Fields(line), row)
	}) {
		t.Errorf("ipcs -q has no line %v", row)
	}

	list, err := chanmq.List()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(list, stat) {
		t.Errorf("List has no %+v", stat)
	}
}

// ipcsDetails returns the fields that ipcs -q -i ID prints.
func ipcsDetails(t *testing.T, id int) map[string]string {
	t.Helper()
	details := map[string]string{}
	for _, line := range strings.Split(run(t, "ipcs", "-q", "-i", strconv.Itoa(id)), "\n") {
		fields := strings.Split(line, "\t")
		for _, field := range fields {
			name, value, ok := strings.Cut(strings.TrimSpace(field), "=")
			if ok && name != "Message Queue msqid" {
				details[name] = value
			}
		}
	}
	return details
}

// ctime formats a time as ipcs -i does.
func ctime(t time.Time) string {
	if t.IsZero() {
		return "Not set"
	}
	return t.UTC().Format(time.ANSIC)
}

// owner formats a user id as ipcs -q does.
func owner(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return strconv.Itoa(uid)
	}
	return u.Username
}
