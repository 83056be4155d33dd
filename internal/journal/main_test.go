//go:build linux

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

// roles are what the test binary does as another process.
var roles = map[string]testkit.Role{}

func TestMain(m *testing.M) {
	if sysvtest.Emulated() {
		// What happens after a kill cannot be tested, the rest can.
		probe = func() error { return nil }
	}
	os.Exit(testkit.Main(m, roles))
}

// newDir returns an empty directory on tmpfs.
func newDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-test-")
	if err != nil {
		t.Skipf("there is no tmpfs to write to: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	d, err := openDirectory(dir, false)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	d.release()
	return dir
}

var kernel = sysv.Host()

// newQueue returns a queue, and its identity.
func newQueue(t testing.TB) (int, Identity) {
	t.Helper()
	msqid, err := kernel.Get(sysv.KeyPrivate, sysv.Create|0o600)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, msqid)
	id, err := Identify(kernel, msqid)
	if err != nil {
		t.Fatal(err)
	}
	return msqid, id
}

func open(t testing.TB, dir string, id Identity) *Journal {
	t.Helper()
	j, err := Open(dir, id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, s := range j.slots {
			s.Release()
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
	return j
}

func slotOf(t testing.TB, j *Journal, room int) *Slot {
	t.Helper()
	s, err := j.Slot(room)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func send(t testing.TB, msqid, typ int, text string) {
	t.Helper()
	msg := sysv.Buffer(len(text))
	sysv.PutType(msg, typ)
	copy(msg[sysv.HeaderSize:], text)
	if err := kernel.Send(msqid, msg); err != nil {
		t.Fatal(err)
	}
}

// receive receives into a slot, and returns msgrcv's result.
func receive(t testing.TB, msqid int, s *Slot) int {
	t.Helper()
	n, err := kernel.Receive(msqid, s.Buffer(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// take sends a message and takes it.
func take(t testing.TB, msqid int, s *Slot, h LengthHint, seq uint64, typ int, text string) {
	t.Helper()
	send(t, msqid, typ, text)
	s.Arm(h)
	s.Took(receive(t, msqid, s), seq)
}

// copyDir copies the files of a directory: the copies are what the files would be if
// all processes that use them were killed now, since nobody has locked them.
func copyDir(t testing.TB, dir string) string {
	t.Helper()
	to := newDir(t)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, entry.Name()), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// message is what is compared of one.
type message struct {
	Type     int
	Text     string
	Attempt  int
	Inferred bool
}

// killed returns the messages that would be adopted if everybody were killed now.
func killed(t testing.TB, dir string, id Identity) []message {
	t.Helper()
	found, err := Adopt(copyDir(t, dir), id)
	if err != nil {
		t.Fatal(err)
	}
	var all []message
	for _, a := range found {
		all = append(all, messages(a)...)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

func messages(a *Adopted) []message {
	var all []message
	for _, s := range a.Slots {
		all = append(all, message{s.Type(), string(s.Text()), s.Attempt(), s.LengthInferred()})
	}
	return all
}

func wantMessages(t testing.TB, what string, got []message, want ...message) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %s, want %s", what, show(got), show(want))
	}
}

func show(messages []message) string {
	var b bytes.Buffer
	for _, m := range messages {
		if len(m.Text) > 40 {
			m.Text = fmt.Sprintf("%.40s... (%d bytes)", m.Text, len(m.Text))
		}
		fmt.Fprintf(&b, "%+q ", m.Text)
		fmt.Fprintf(&b, "(type %d, attempt %d, inferred %t) ", m.Type, m.Attempt, m.Inferred)
	}
	return "[" + b.String() + "]"
}

// files returns the names in a directory.
func files(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

// atEachStep has f called at each step, but not for steps of what f calls.
func atEachStep(t testing.TB, f func(name string)) {
	inside := false
	step = func(name string) {
		if !inside {
			inside = true
			f(name)
			inside = false
		}
	}
	t.Cleanup(func() { step = func(string) {} })
}
