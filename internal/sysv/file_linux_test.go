package sysv_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

func openDir(t *testing.T) (path string, fd int) {
	t.Helper()
	path = t.TempDir()
	fd, err := sysv.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sysv.CloseFile(fd) })
	return path, fd
}

func TestFiles(t *testing.T) {
	path, dir := openDir(t)
	fd, err := sysv.CreateFile(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer sysv.CloseFile(fd)
	if _, err := sysv.CreateFile(dir, "a"); err != syscall.EEXIST {
		t.Errorf("created twice: %v", err)
	}
	const size = 1<<20 + 4096 // more than one piece
	if err := sysv.Allocate(fd, 0, size); err != nil {
		t.Fatal(err)
	}
	info, err := sysv.StatFile(fd)
	if err != nil || !info.Regular || info.Size != size || info.Allocated < size ||
		info.Links != 1 || info.Perm != 0o600 || info.UID != uint32(os.Geteuid()) {
		t.Errorf("stat: %+v, %v", info, err)
	}
	if err := sysv.RenameFile(dir, "a", "b"); err != nil {
		t.Fatal(err)
	}
	if named, err := sysv.StatName(dir, "b"); err != nil || named.Ino != info.Ino || named.Dev != info.Dev {
		t.Errorf("stat: %+v, %v", named, err)
	}
	mem, err := sysv.Map(fd, 4096, 4096)
	if err != nil {
		t.Fatal(err)
	}
	word, long := sysv.Uint32(mem, 4), sysv.Long(mem, 8)
	word.Store(0x01020304)
	long.Store(5)
	b := make([]byte, 8+sysv.HeaderSize)
	if err := sysv.ReadAt(fd, b, 4096); err != nil || sysv.Type(b[8:]) != 5 {
		t.Errorf("read %x, %v", b, err)
	}
	if err := sysv.WriteAt(fd, make([]byte, 4), 4096+4); err != nil || word.Load() != 0 {
		t.Errorf("the word is %#x, %v", word.Load(), err)
	}
	if err := sysv.Unmap(mem); err != nil {
		t.Error(err)
	}
	if err := sysv.ReadAt(fd, b, size-1); err != io.ErrUnexpectedEOF {
		t.Errorf("read behind the end: %v", err)
	}
	if err := os.Symlink("b", filepath.Join(path, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := sysv.OpenFile(dir, "link", false); err != syscall.ELOOP {
		t.Errorf("opened a symbolic link: %v", err)
	}
	if err := sysv.RemoveFile(dir, "b"); err != nil {
		t.Error(err)
	}
	if info, err := sysv.StatFile(fd); err != nil || info.Links != 0 {
		t.Errorf("removed: %+v, %v", info, err)
	}
}

func TestLocksAreOfDescriptors(t *testing.T) {
	_, dir := openDir(t)
	owner, err := sysv.CreateFile(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := sysv.OpenFile(dir, "a", false)
	if err != nil {
		t.Fatal(err)
	}
	defer sysv.CloseFile(other)
	for _, step := range []struct {
		fd   int
		want bool
	}{{owner, true}, {other, false}, {owner, true}} {
		if got, err := sysv.TryLock(step.fd); got != step.want || err != nil {
			t.Errorf("TryLock = %t, %v, want %t", got, err, step.want)
		}
	}
	if err := sysv.CloseFile(owner); err != nil {
		t.Fatal(err)
	}
	if got, err := sysv.TryLock(other); !got || err != nil {
		t.Errorf("TryLock after the owner's close = %t, %v", got, err)
	}
}

func TestAllocateRespectsTheLimit(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	_, dir := openDir(t)
	fd, err := sysv.CreateFile(dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	defer sysv.CloseFile(fd)
	low := limit
	low.Cur = 1 << 30 // no other file of the tests is as large
	if low.Cur > limit.Cur {
		t.Skip("the limit is lower")
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &low); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit)
	if err := sysv.Allocate(fd, 1<<30-4096, 4097); err != syscall.EFBIG {
		t.Errorf("got %v", err)
	}
}

func TestWatchDir(t *testing.T) {
	path, dir := openDir(t)
	w, err := sysv.WatchDir(path)
	if err != nil {
		t.Skip(err)
	}
	if _, err := w.Events(time.Now().Add(-time.Second)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("no events: %v", err)
	}
	names := []string{"a", strings.Repeat("b", 255)}
	for _, name := range names {
		fd, err := sysv.CreateFile(dir, name)
		if err == nil {
			err = sysv.CloseFile(fd)
		}
		if err == nil { // not reported
			if fd, err = sysv.OpenFile(dir, name, false); err == nil {
				err = sysv.CloseFile(fd)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for len(got) < len(names) {
		events, err := w.Events(time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		for _, event := range events {
			got = append(got, event.Name)
		}
	}
	if got[0] != names[0] || got[1] != names[1] || len(got) != len(names) {
		t.Errorf("events of %q", got)
	}
	ended := make(chan error)
	go func() { _, err := w.Events(time.Time{}); ended <- err }()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	if _, err := sysv.WatchDir(filepath.Join(path, "a")); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("watching a file: %v", err)
	}
}

func TestIPCNamespace(t *testing.T) {
	_, ino, id, initial, err := sysv.IPCNamespace()
	if err != nil {
		t.Fatal(err)
	}
	_, again, idAgain, initialAgain, err := sysv.IPCNamespace()
	if ino == 0 || ino != again || id != idAgain || initial != initialAgain || err != nil {
		t.Errorf("%d %d %t, then %d %d %t, %v", ino, id, initial, again, idAgain, initialAgain, err)
	}
	if sysv.BootTime() <= 0 {
		t.Error("no time since boot")
	}
}

func TestWordsAreChecked(t *testing.T) {
	b := sysv.Buffer(8)
	for name, call := range map[string]func(){
		"behind the end": func() { sysv.Uint32(b, len(b)-3) },
		"before":         func() { sysv.Uint32(b, -4) },
		"not aligned":    func() { sysv.Uint32(b, 2) },
		"long":           func() { sysv.Long(b, sysv.HeaderSize/2) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			call()
		}()
	}
}
