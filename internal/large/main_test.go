//go:build linux

package large

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

// roles are what the test binary does as another process.
var roles = map[string]testkit.Role{}

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, roles)) }

var kernel = sysv.Host()

// newDir returns an empty directory on tmpfs.
func newDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-test-")
	if err != nil {
		t.Skipf("there is no tmpfs to write to: %v", err)
	}
	testkit.ReapPath(t, dir)
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// smallTmpfs returns a directory on a tmpfs of so many bytes.
func smallTmpfs(t testing.TB, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("none", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// newQueue returns a kernel queue, which is removed when the test ends.
func newQueue(t testing.TB) (msqid int) {
	t.Helper()
	msqid, err := kernel.Get(sysv.KeyPrivate, sysv.Create|0o600)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, msqid)
	return msqid
}

// openStore opens the store of a queue, as a handle does with a journal of that path.
func openStore(dir string, msqid int, journalPath string) (*Store, error) {
	stat, err := kernel.Stat(msqid)
	if err != nil {
		return nil, err
	}
	queue, err := journal.IdentityOf(kernel, stat)
	if err != nil {
		return nil, err
	}
	return Open(Config{Dir: dir, Queue: queue, Stat: stat, Journal: journalPath})
}

// open is openStore for the test, closed when it ends.
func open(t testing.TB, dir string, msqid int) *Store {
	t.Helper()
	s, err := openStore(dir, msqid, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// send sends a message that refers to the text.
func send(msqid int, p *Pending) error {
	msg := envelope.Append(sysv.Buffer(100)[:sysv.HeaderSize], &envelope.Header{Kind: envelope.Reference, Ref: p.Ref})
	sysv.PutType(msg, 1)
	return kernel.Send(msqid, msg)
}

// receive takes a message, which is a reference, into the buffer.
func receive(msqid int, buf []byte) (envelope.Ref, int, error) {
	n, err := kernel.Receive(msqid, buf, 0, 0)
	if err != nil {
		return envelope.Ref{}, 0, err
	}
	h, _, err := envelope.Parse(buf[sysv.HeaderSize:][:n])
	if err == nil && h.Kind != envelope.Reference {
		err = errors.New("no reference")
	}
	return h.Ref, n, err
}

// browse reads the queue from its end.
func browse(msqid int) Browse {
	return func(f func([]byte)) error {
		stat, err := kernel.Stat(msqid)
		if err != nil {
			return err
		}
		buf := sysv.Buffer(256)
		for i := int(stat.Messages) - 1; i >= 0; i-- {
			n, err := kernel.Receive(msqid, buf, i, sysv.Copy)
			switch err {
			case nil:
				f(buf[sysv.HeaderSize:][:n])
			case sysv.ENOMSG: // taken meanwhile
			default:
				return err
			}
		}
		return nil
	}
}

// collect is what a handle does from time to time.
func collect(t testing.TB, s *Store, msqid int) {
	t.Helper()
	for range 2 {
		s.DropIdle()
		if _, err := s.Collect(browse(msqid)); err != nil {
			t.Fatal(err)
		}
		if err := s.Renew(); err != nil {
			t.Fatal(err)
		}
	}
}

// renew is what the handle of another store does at that, but for collecting.
func renew(t testing.TB, s *Store) {
	t.Helper()
	s.DropIdle()
	if err := s.Renew(); err != nil {
		t.Fatal(err)
	}
}

// put puts a text, and sends its message.
func put(t testing.TB, s *Store, msqid int, text []byte) envelope.Ref {
	t.Helper()
	p, err := s.Put(text)
	if err != nil {
		t.Fatal(err)
	}
	if err := send(msqid, p); err != nil {
		t.Fatal(err)
	}
	p.Sent()
	s.DropIdle() // which unlocks it
	return p.Ref
}

// names returns the names in the store that are asked for.
func names(t testing.TB, s *Store, wanted func(name string) bool) (names []string) {
	t.Helper()
	all, err := sysv.Names(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if wanted(name) {
			names = append(names, name)
		}
	}
	return names
}

// files returns the names in the store, but for leases and spares.
func files(t testing.TB, s *Store) []string {
	t.Helper()
	return names(t, s, func(name string) bool { return !strings.HasSuffix(name, leaseSuffix) && !isSpare(name) })
}

func wantFiles(t testing.TB, s *Store, want int) {
	t.Helper()
	if got := files(t, s); len(got) != want {
		t.Errorf("%d files, want %d: %q", len(got), want, got)
	}
}

// wantText takes the file of a message, and reads it. It is released.
func wantText(t testing.TB, s *Store, r envelope.Ref, want []byte) {
	t.Helper()
	f := s.Look(r)
	defer f.Release()
	if got, err := f.Read(nil); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
	if got, err := f.Borrow(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("borrowed %d bytes, %v; want %d", len(got), err, len(want))
	}
}

// descriptors returns how many are open.
func descriptors(t testing.TB) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
