//go:build linux

package large

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

// spares returns the names of the spares in the store.
func spares(t testing.TB, s *Store) []string {
	t.Helper()
	return names(t, s, isSpare)
}

func wantSpares(t testing.TB, s *Store, want int) {
	t.Helper()
	if got := spares(t, s); len(got) != want {
		t.Errorf("%d spares, want %d: %q", len(got), want, got)
	}
}

// textOf returns a text of so many bytes that is like no other.
func textOf(n, size int) []byte {
	return bytes.Repeat(fmt.Appendf(nil, "%8d", n), size/8+1)[:size]
}

// sent puts a text, and says that its message was sent.
func sent(t testing.TB, s *Store, text []byte) *Pending {
	t.Helper()
	p, err := s.Put(text)
	if err != nil {
		t.Fatal(err)
	}
	p.Sent()
	return p
}

// take takes the file of a message.
func take(s *Store, p *Pending) *File {
	l := s.Begin()
	defer l.End()
	return s.Take(p.Ref, l)
}

// inode returns that of the file of a message.
func inode(t testing.TB, s *Store, p *Pending) uint64 {
	t.Helper()
	info, err := sysv.StatName(s.dir, nameOf(p.Ref))
	if err != nil {
		t.Fatal(err)
	}
	return info.Ino
}

// remove takes the message, checks its text, and removes the file.
func remove(t testing.TB, s *Store, p *Pending, want []byte) {
	t.Helper()
	f := take(s, p)
	defer f.Remove()
	if got, err := f.Read(nil); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
}

// newSpare makes one of a text of so many bytes, which is free.
func newSpare(t testing.TB, from, to *Store, size int) (ino uint64) {
	t.Helper()
	text := textOf(0, size)
	remove(t, to, sent(t, from, text), text) // the first one leaves none
	p := sent(t, from, text)
	ino = inode(t, from, p)
	remove(t, to, p, text)
	wantSpares(t, from, 1)
	return ino
}

func TestSpareIsUsedAgain(t *testing.T) {
	dir, msqid := newDir(t), newQueue(t)
	from, to := open(t, dir, msqid), open(t, dir, msqid)
	const size = 40_000
	ino := newSpare(t, from, to, size)
	for n, size := range []int{size, size, size - 1, size / 2, size, size + 1, 2 * size, size} {
		text := textOf(n+1, size)
		p := sent(t, from, text)
		if now := inode(t, from, p); now != ino {
			t.Errorf("text %d is in file %d, want %d", n, now, ino)
		}
		f := take(to, p)
		for range 2 {
			if got, err := f.Borrow(); err != nil || !bytes.Equal(got, text) {
				t.Errorf("text %d: borrowed %d bytes, %v", n, len(got), err)
			}
			if got, err := f.Read(nil); err != nil || !bytes.Equal(got, text) {
				t.Errorf("text %d: read %d bytes, %v", n, len(got), err)
			}
		}
		f.Remove()
		wantFiles(t, from, 0)
		wantSpares(t, from, 1)
	}
	for _, size := range []int{size/2 - 1, 2*size + 2, 0} {
		p := sent(t, from, textOf(1, size))
		if inode(t, from, p) == ino {
			t.Errorf("a text of %d bytes is in the file of one of %d", size, len(textOf(0, size)))
		}
		remove(t, to, p, textOf(1, size))
	}
}

// TestSpareIsNotUsed: whatever somebody has of a file, the next text goes into another one.
func TestSpareIsNotUsed(t *testing.T) {
	const size = 40_000
	text := textOf(7, size)
	for _, test := range []struct {
		name string
		// have has the text of p, and returns how to check and remove it.
		have func(t *testing.T, from, to *Store, p *Pending) (check func())
	}{
		{"message in the queue", func(t *testing.T, _, to *Store, p *Pending) func() {
			return func() { remove(t, to, p, text) }
		}},
		{"message taken", func(t *testing.T, _, to *Store, p *Pending) func() {
			f := take(to, p)
			return func() {
				if got, err := f.Read(nil); err != nil || !bytes.Equal(got, text) {
					t.Errorf("read %d bytes, %v", len(got), err)
				}
				f.Remove()
			}
		}},
		{"message taken, and released", func(t *testing.T, _, to *Store, p *Pending) func() {
			take(to, p).Release() // it is in a journal
			return func() { remove(t, to, p, text) }
		}},
		{"message sent back", func(t *testing.T, _, to *Store, p *Pending) func() {
			f := take(to, p)
			again, err := f.Again(to)
			if err != nil {
				t.Fatal(err)
			}
			again.Sent()
			f.Remove()
			return func() { remove(t, to, again, text) }
		}},
		{"spare removed by hand", func(t *testing.T, from, to *Store, p *Pending) func() {
			for _, name := range spares(t, from) {
				if err := sysv.RemoveFile(from.dir, name); err != nil {
					t.Fatal(err)
				}
			}
			return func() { remove(t, to, p, text) }
		}},
		{"spares dropped", func(t *testing.T, from, to *Store, p *Pending) func() {
			from.dropSpares()
			wantSpares(t, from, 0)
			return func() { remove(t, to, p, text) }
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, msqid := newDir(t), newQueue(t)
			from, to := open(t, dir, msqid), open(t, dir, msqid)
			ino := newSpare(t, from, to, size)
			p := sent(t, from, text)
			if inode(t, from, p) != ino {
				t.Fatal("the spare was not used")
			}
			check := test.have(t, from, to, p)
			for n := range 3 {
				other := sent(t, from, textOf(n, size))
				if inode(t, from, other) == ino {
					t.Error("it was written over")
				}
				remove(t, to, other, textOf(n, size))
			}
			check()
			wantFiles(t, from, 0)
		})
	}
}

// TestLookedAtWhileItIsWrittenOver: who looks at a message that is taken meanwhile gets an error
// that says so, and no other text.
func TestLookedAtWhileItIsWrittenOver(t *testing.T) {
	const size = 40_000
	dir, msqid := newDir(t), newQueue(t)
	from, to := open(t, dir, msqid), open(t, dir, msqid)
	newSpare(t, from, to, size)
	for _, next := range []int{size, size - 9, size + 9} {
		p := sent(t, from, textOf(1, size))
		f := to.Look(p.Ref)
		remove(t, to, p, textOf(1, size))
		q := sent(t, from, textOf(2, next))
		if _, err := f.Read(nil); !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "does not exist any more") {
			t.Errorf("read after it was written over: %v", err)
		}
		if _, err := f.Borrow(); !errors.Is(err, syscall.ENOENT) {
			t.Errorf("borrowed after it was written over: %v", err)
		}
		f.Release()
		remove(t, to, q, textOf(2, next))
	}
}

// TestIdleIsGivenUp: spares and mappings live for as long as they are used.
func TestIdleIsGivenUp(t *testing.T) {
	const size = 40_000
	before := descriptors(t)
	msqid := newQueue(t)
	s, err := openStore(newDir(t), msqid, "")
	if err != nil {
		t.Fatal(err)
	}
	text := textOf(1, size)
	remove(t, s, sent(t, s, text), text)
	wantSpares(t, s, 0) // of one text by itself
	s.DropIdle()
	remove(t, s, sent(t, s, text), text)
	wantSpares(t, s, 0)
	select {
	case <-s.Kept():
		t.Error("something is kept")
	default:
	}
	newSpare(t, s, s, size)
	<-s.Kept()
	for range 3 {
		remove(t, s, sent(t, s, text), text)
		if len(s.mappings) != 1 {
			t.Errorf("%d mappings", len(s.mappings))
		}
		if !s.DropIdle() {
			t.Error("nothing is left that is in use")
		}
		wantSpares(t, s, 1)
	}
	p := sent(t, s, text)
	f := take(s, p)
	borrowed, err := f.Borrow()
	if err != nil {
		t.Fatal(err)
	}
	s.DropIdle()
	s.DropIdle()
	wantSpares(t, s, 0)
	if !bytes.Equal(borrowed, text) {
		t.Error("a borrowed text has changed")
	}
	f.Remove()
	s.DropIdle()
	if s.DropIdle() || len(s.mappings) > 0 || s.mappedBytes != 0 || s.spareBytes != 0 {
		t.Errorf("%d bytes of %d mappings and %d of %d spares are kept", s.mappedBytes, len(s.mappings), s.spareBytes, len(s.spares))
	}
	newSpare(t, s, s, size)
	pending, err := s.Put(text)
	if err != nil {
		t.Fatal(err)
	}
	s.Close() // with a spare in use
	pending.Discard()
	if names, err := os.ReadDir(s.Path()); len(names) > 0 || err != nil {
		t.Errorf("left: %v, %v", names, err)
	}
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors are open, before there were %d", now, before)
	}
}

// TestMappingEndsWithItsFile: a file that is no spare is gone when it is removed.
func TestMappingEndsWithItsFile(t *testing.T) {
	dir, msqid := newDir(t), newQueue(t)
	from, to := open(t, dir, msqid), open(t, dir, msqid)
	text := textOf(1, borrowMin)
	for range 3 {
		p := sent(t, from, text)
		from.dropSpares()
		f := take(to, p)
		if got, err := f.Borrow(); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("borrowed %d bytes, %v", len(got), err)
		}
		if len(to.mappings) != 1 {
			t.Errorf("%d mappings", len(to.mappings))
		}
		f.Remove()
		if len(to.mappings) != 0 || to.mappedBytes != 0 {
			t.Errorf("%d mappings of %d bytes", len(to.mappings), to.mappedBytes)
		}
	}
}

// TestSparesAreBounded: by number and bytes.
func TestSparesAreBounded(t *testing.T) {
	s := open(t, newDir(t), newQueue(t))
	s.mostSpares = 5
	for n := range 10 {
		sent(t, s, textOf(n, 100))
	}
	wantSpares(t, s, 5)
	s = open(t, newDir(t), newQueue(t))
	s.mostBytes = 1000
	for n := range 6 {
		sent(t, s, textOf(n, 300))
	}
	wantSpares(t, s, 3)
}

// TestSparesMakeRoom: in a file system that is nearly full there are none, and where another has
// filled it they go first.
func TestSparesMakeRoom(t *testing.T) {
	dir := smallTmpfs(t, 16<<20)
	msqid := newQueue(t)
	s := open(t, dir, msqid)
	const size = 1 << 20
	newSpare(t, s, s, size)
	for n := range 8 {
		sent(t, s, textOf(n, size))
	}
	if n := len(spares(t, s)); n > 2 {
		t.Errorf("%d spares of %d bytes in a file system of %d", n, size, 16<<20)
	}
	for _, name := range files(t, s) {
		if err := sysv.RemoveFile(s.dir, name); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 8 {
		remove(t, s, sent(t, s, textOf(n, size)), textOf(n, size))
	}
	text := textOf(1, 15<<20+1<<19) // only without the spares
	remove(t, s, sent(t, s, text), text)
	wantSpares(t, s, 0)
}

// TestShortenedWhileItIsMapped: a file that somebody shortens against the rules is an error, and
// ends nobody.
func TestShortenedWhileItIsMapped(t *testing.T) {
	if runtime.GOARCH == "arm" && sysvtest.Emulated() {
		t.Skip("qemu-arm does not tell the address of a SIGBUS, so that it looks like a nil pointer")
	}
	const size = 1 << 20
	dir, msqid := newDir(t), newQueue(t)
	from, to := open(t, dir, msqid), open(t, dir, msqid)
	newSpare(t, from, to, size)
	for n, read := range []func(f *File) error{
		func(f *File) error { _, err := f.Read(nil); return err },
		func(f *File) error { _, err := f.Borrow(); return err },
	} {
		text := textOf(n, size)
		remove(t, to, sent(t, from, text), text) // which maps it
		p := sent(t, from, text)
		f := take(to, p)
		if err := os.Truncate(to.Path()+"/"+nameOf(p.Ref), size/2); err != nil {
			t.Fatal(err)
		}
		if err := read(f); err == nil || !strings.Contains(err.Error(), "shorter") {
			t.Errorf("read of a file that was shortened: %v", err)
		}
		f.Remove()
	}
	text := textOf(9, size)
	remove(t, to, sent(t, from, text), text) // the sender finds out, and takes another file
}

// TestSparesOfManyGoroutines: texts of all sizes are what they were, whoever sends and takes.
func TestSparesOfManyGoroutines(t *testing.T) {
	dir, msqid := newDir(t), newQueue(t)
	from, to := open(t, dir, msqid), open(t, dir, msqid)
	const goroutines, texts = 4, 300
	var g sync.WaitGroup
	for id := range goroutines {
		g.Go(func() {
			random := rand.New(rand.NewPCG(1, uint64(id)))
			type message struct {
				p    *Pending
				text []byte
			}
			var queue []message
			for n := range texts {
				text := textOf(id*texts+n, 1<<random.IntN(19)+random.IntN(100))
				p, err := from.Put(text)
				if err != nil {
					t.Error(err)
					return
				}
				if random.IntN(8) == 0 {
					p.Discard()
					continue
				}
				p.Sent()
				if queue = append(queue, message{p, text}); len(queue) < random.IntN(20) {
					continue
				}
				for range 1 + random.IntN(len(queue)) {
					m := queue[0]
					queue = queue[1:]
					f := take(to, m.p)
					read := f.Borrow
					if random.IntN(2) == 0 {
						read = func() ([]byte, error) { return f.Read(nil) }
					}
					if got, err := read(); err != nil || !bytes.Equal(got, m.text) {
						t.Errorf("got %d bytes, %v; want %d", len(got), err, len(m.text))
					}
					f.Remove()
				}
				if random.IntN(20) == 0 {
					from.DropIdle()
					to.DropIdle()
					if err := to.Renew(); err != nil {
						t.Error(err)
					}
				}
			}
			for _, m := range queue {
				take(to, m.p).Remove()
			}
		})
	}
	g.Wait()
	wantFiles(t, from, 0)
	if leases, err := to.leases(); len(leases) != 2 || err != nil {
		t.Errorf("leases %q, %v; want one of each", leases, err)
	}
}
