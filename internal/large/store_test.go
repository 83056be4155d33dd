//go:build linux

package large

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/sysv"
)

func TestSizes(t *testing.T) {
	before := descriptors(t)
	msqid := newQueue(t)
	s, err := openStore(newDir(t), msqid, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{0, 1, 4095, 4096, 4097, pieceSize - 1, pieceSize, pieceSize + 1, 1<<20 + 1} {
		text := bytes.Repeat([]byte("0123456"), size/7+1)[:size]
		p, err := s.Put(text)
		if err != nil {
			t.Fatal(size, err)
		}
		wantFiles(t, s, 1)
		if p.Ref.Size != uint64(size) || p.Ref.Dir != s.ID() {
			t.Errorf("%+v", p.Ref)
		}
		wantText(t, s, p.Ref, text)
		p.Sent()
		l := s.Begin()
		f := s.Take(p.Ref, l)
		l.End()
		if got, err := f.Read(make([]byte, 3, size+9)); err != nil || !bytes.Equal(got, text) {
			t.Errorf("size %d: read %d, %v", size, len(got), err)
		}
		f.Remove()
		wantFiles(t, s, 0)
	}
	s.Close()
	if now := descriptors(t); now != before {
		t.Errorf("%d descriptors are open, before there were %d", now, before)
	}
	if _, err := s.Put(nil); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("put after Close: %v", err)
	}
}

// TestFilesOutliveTheStore: what a program has after Close can be read, and removed.
func TestFilesOutliveTheStore(t *testing.T) {
	msqid := newQueue(t)
	s, err := openStore(newDir(t), msqid, "")
	if err != nil {
		t.Fatal(err)
	}
	p, err := s.Put([]byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	l := s.Begin()
	f := s.Take(p.Ref, l)
	l.End()
	s.Close()
	p.Sent()
	if text, err := f.Read(nil); string(text) != "text" || err != nil {
		t.Errorf("read %q, %v", text, err)
	}
	f.Remove()
	if names, err := filepath.Glob(s.Path() + "/*"); len(names) > 0 || err != nil {
		t.Errorf("left: %q, %v", names, err)
	}
}

func TestDiscarded(t *testing.T) {
	msqid := newQueue(t)
	s := open(t, newDir(t), msqid)
	p, err := s.Put([]byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	p.Discard()
	wantFiles(t, s, 0)
}

// TestAgain: a message that goes on has a file of another name, and the first one is as it was.
func TestAgain(t *testing.T) {
	dir := newDir(t)
	from, to := open(t, dir, newQueue(t)), open(t, dir, newQueue(t))
	p, err := from.Put([]byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	p.Sent()
	for _, next := range []*Store{from, to} {
		f := from.Look(p.Ref)
		again, err := f.Again(next)
		if err != nil {
			t.Fatal(err)
		}
		if again.Ref.Name == p.Ref.Name || again.Ref.Dir != next.ID() {
			t.Errorf("%x, and again %x", p.Ref, again.Ref)
		}
		again.Sent()
		wantText(t, from, p.Ref, []byte("text"))
		wantText(t, next, again.Ref, []byte("text"))
		f.Release()
	}
	f := to.Look(p.Ref)
	defer f.Release()
	if _, err := f.Read(nil); err == nil || !strings.Contains(err.Error(), "another queue") {
		t.Errorf("read in another queue's directory: %v", err)
	}
}

// TestNoSpace: nothing is left of what there is no room for.
func TestNoSpace(t *testing.T) {
	s := open(t, smallTmpfs(t, 1<<20), newQueue(t))
	for range 3 {
		_, err := s.Put(make([]byte, 2<<20))
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "2097152 bytes are needed") {
			t.Fatalf("got %v", err)
		}
		wantFiles(t, s, 0)
	}
	p, err := s.Put(make([]byte, 512<<10))
	if err != nil {
		t.Fatal(err)
	}
	p.Discard()
}

func TestDirectories(t *testing.T) {
	msqid := newQueue(t)
	for _, test := range []struct {
		name string
		make func(dir string) (path string, err error)
		word string
	}{
		{"open to all", func(dir string) (string, error) { return dir, os.Chmod(dir, 0o777) }, "chmod +t"},
		{"a link", func(dir string) (string, error) {
			return filepath.Join(dir, "link") + "/", os.Symlink(dir, filepath.Join(dir, "link"))
		}, "symbolic link"},
		{"a file", func(dir string) (string, error) {
			path := filepath.Join(dir, "file")
			return path, os.WriteFile(path, nil, 0o600)
		}, "not a directory"},
		{"no directory above", func(dir string) (string, error) { return filepath.Join(dir, "no", "such"), nil }, "no such"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path, err := test.make(newDir(t))
			if err != nil {
				t.Fatal(err)
			}
			if s, err := openStore(path, msqid, ""); err == nil || !strings.Contains(err.Error(), test.word) {
				t.Errorf("got %v, %v", s, err)
			}
		})
	}
	t.Run("open to all, sticky", func(t *testing.T) {
		dir := newDir(t)
		if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
			t.Fatal(err)
		}
		open(t, dir, msqid)
	})
	t.Run("the queue's, open to more than the queue", func(t *testing.T) {
		dir := newDir(t)
		s := open(t, dir, msqid)
		if err := os.Chmod(s.Path(), 0o770); err != nil {
			t.Fatal(err)
		}
		if s, err := openStore(dir, msqid, ""); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("got %v, %v", s, err)
		}
	})
}

func TestPermissionsFollowTheQueue(t *testing.T) {
	for _, test := range []struct{ queue, file, dir uint32 }{
		{0o600, 0o600, 0o700}, {0o660, 0o640, 0o770}, {0o666, 0o644, 0o777},
		{0o622, 0o600, 0o777}, {0o640, 0o640, 0o770}, {0o400, 0o600, 0o700},
	} {
		if got := permOf(test.queue); got != (perm{test.file, test.dir}) {
			t.Errorf("%#o: files %#o, directory %#o", test.queue, got.file, got.dir)
		}
	}
}

// FuzzRef: whatever a reference says, it reaches nothing but files of the queue that are what
// it says. Around these, and among them, others are planted.
func FuzzRef(f *testing.F) {
	msqid := newQueue(f)
	dir := newDir(f)
	s := open(f, dir, msqid)
	good, err := s.Put([]byte("the text"))
	if err != nil {
		f.Fatal(err)
	}
	defer good.Discard()
	ref := func(dir [16]byte, name string, size uint64, sum uint32) []byte {
		h := envelope.Header{Kind: envelope.Reference, Ref: envelope.Ref{Dir: dir, Size: size, Sum: sum}}
		copy(h.Ref.Name[:], name)
		return envelope.Append(nil, &h)
	}
	// What is planted has the name that a reference to it would say.
	planted := func(name string, plant func(path string) error) {
		var b [16]byte
		copy(b[:], name)
		if err := plant(filepath.Join(s.Path(), hex.EncodeToString(b[:]))); err != nil {
			f.Fatal(err)
		}
	}
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, []byte("the text"), 0o600); err != nil {
		f.Fatal(err)
	}
	planted("link", func(path string) error { return os.Symlink(outside, path) })
	planted("relative", func(path string) error { return os.Symlink("../outside", path) })
	planted("magic", func(path string) error { return os.Symlink("/proc/self/exe", path) })
	planted("fifo", func(path string) error { return syscall.Mkfifo(path, 0o600) })
	planted("directory", func(path string) error { return os.Mkdir(path, 0o700) })
	planted("device", func(path string) error {
		err := syscall.Mknod(path, syscall.S_IFCHR|0o600, 1<<8|5) // zero
		if errors.Is(err, fs.ErrPermission) {
			return nil // only root can, and not in every container
		}
		return err
	})
	sum := good.Ref.Sum
	f.Add(envelope.Append(nil, &envelope.Header{Kind: envelope.Reference, Ref: good.Ref}))
	for _, name := range []string{"", "../../outside", "..", "/etc/passwd", "link", "relative", "magic", "fifo", "directory", "device"} {
		f.Add(ref(s.ID(), name, 8, sum))
		f.Add(ref([16]byte{}, name, 8, sum))
		f.Add(ref(s.ID(), name, 1<<62, sum))
		f.Add(ref(s.ID(), name, 0, 0))
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		h, _, err := envelope.Parse(message)
		if err != nil || h.Kind != envelope.Reference {
			return
		}
		l := s.Begin()
		file := s.Take(h.Ref, l)
		l.End()
		defer file.Release()
		if h.Ref.Size > 1<<20 && file.Err() == nil {
			t.Fatalf("opened a text of %d bytes", h.Ref.Size)
		}
		text, err := file.Read(nil)
		if (err == nil) != (h.Ref == good.Ref) {
			t.Fatalf("%+v: read %q, %v", h.Ref, text, err)
		}
	})
}

// TestLinksAreNotFollowed: without openat2 as well, nothing is reached by a link.
func TestLinksAreNotFollowed(t *testing.T) {
	s := open(t, newDir(t), newQueue(t))
	if err := os.Symlink("/etc/passwd", filepath.Join(s.Path(), "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := sysv.OpenBeneath(s.dir, "link"); err != syscall.ELOOP {
		t.Errorf("got %v", err)
	}
	if _, err := sysv.OpenFile(s.dir, "link", false); err != syscall.ELOOP {
		t.Errorf("got %v", err)
	}
}
