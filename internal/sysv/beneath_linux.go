package sysv

import (
	"errors"
	"os"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// This file is what internal/large needs besides: files that have no name until they are
// complete, and that are opened beneath a directory and nowhere else.

// OpenDirAt opens a directory in a directory. ENOTDIR, ELOOP: it is something else.
func OpenDirAt(dir int, name string) (fd int, err error) {
	return openat(dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
}

// MakeDir creates a directory, of mode 0700, in a directory.
func MakeDir(dir int, name string) error {
	return again(func() error { return unix.Mkdirat(dir, name, 0o700) })
}

// RemoveDir removes an empty directory in a directory.
func RemoveDir(dir int, name string) error {
	return again(func() error { return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR) })
}

// Names returns the names in an open directory.
func Names(dir int) ([]string, error) {
	fd, err := openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY) // with a position of its own
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), ".")
	defer f.Close()
	return f.Readdirnames(-1)
}

// CreateUnnamed creates a file, of mode 0600, in a directory, without a name: it is gone
// with its last descriptor unless NameFile has named it. EOPNOTSUPP, EISDIR: the file system,
// or the kernel, cannot do that.
func CreateUnnamed(dir int) (fd int, err error) {
	return openat(dir, ".", unix.O_TMPFILE|unix.O_RDWR)
}

// NameFile gives a file of CreateUnnamed a name in a directory. EEXIST: it is taken.
func NameFile(fd, dir int, name string) error {
	// By /proc, since AT_EMPTY_PATH takes CAP_DAC_READ_SEARCH.
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	return again(func() error { return unix.Linkat(unix.AT_FDCWD, path, dir, name, unix.AT_SYMLINK_FOLLOW) })
}

// LinkName gives a file in a directory a second name, there or in another directory.
func LinkName(from int, name string, to int, second string) error {
	return again(func() error { return unix.Linkat(from, name, to, second, 0) })
}

// noOpenat2 is set where the kernel, or a sandbox, has no openat2(2).
var noOpenat2 atomic.Bool

// OpenBeneath opens a file in a directory for reading, and nothing that is outside of it or
// reached by a link of any kind. It does not wait for the other end of a FIFO. The name is
// one without a slash.
func OpenBeneath(dir int, name string) (fd int, err error) {
	const flags = unix.O_RDONLY | unix.O_NONBLOCK
	if !noOpenat2.Load() {
		how := unix.OpenHow{
			Flags:   flags | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		}
		for {
			fd, err = unix.Openat2(dir, name, &how)
			if err != unix.EINTR && err != unix.EAGAIN { // EAGAIN: something was renamed meanwhile
				break
			}
		}
		if err != unix.ENOSYS && err != unix.EPERM {
			return fd, err
		}
		noOpenat2.Store(err == unix.ENOSYS)
	}
	return openat(dir, name, flags)
}

// SetPerm sets the permission bits of an open file.
func SetPerm(fd int, perm uint32) error {
	return again(func() error { return unix.Fchmod(fd, perm) })
}

// SetOwner sets the user and the group of an open file, -1: not.
func SetOwner(fd, uid, gid int) error {
	return again(func() error { return unix.Fchown(fd, uid, gid) })
}

// A file has two locks, each a range of it: that of its text, and, behind all that a file can
// have, that of who keeps it. They belong to a descriptor, and those duplicated from it
// (fcntl(2), open file description locks). The kernel unlocks them when the last of these is
// closed, however the process ends.
type Lock int

const (
	TextLock Lock = iota
	KeptLock
)

// keptFrom is where the range of KeptLock begins.
const keptFrom = 1 << 62

func (l Lock) flock(how int16) *unix.Flock_t {
	if l == TextLock {
		return &unix.Flock_t{Type: how, Len: keptFrom}
	}
	return &unix.Flock_t{Type: how, Start: keptFrom, Len: 1}
}

func setLock(fd int, lock *unix.Flock_t) error {
	return again(func() error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_SETLK, lock) })
}

// Share locks both, beside others that do so.
func Share(fd int) error { return setLock(fd, &unix.Flock_t{Type: unix.F_RDLCK}) }

// Unlock ends TextLock of this descriptor.
func Unlock(fd int) error { return setLock(fd, TextLock.flock(unix.F_UNLCK)) }

// Locked reports whether somebody has the lock with another descriptor.
func (l Lock) Locked(fd int) (bool, error) {
	lock := l.flock(unix.F_WRLCK)
	err := again(func() error { return unix.FcntlFlock(uintptr(fd), unix.F_OFD_GETLK, lock) })
	return err == nil && lock.Type != unix.F_UNLCK, err
}

// Truncate sets the length of a file.
func Truncate(fd int, n int64) error {
	return again(func() error { return unix.Ftruncate(fd, n) })
}

// MaxFiles returns how many descriptors this process may have.
func MaxFiles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return int(min(limit.Cur, 1<<30))
}

// WriteAllAt writes b, of any length, at an offset of a file.
func WriteAllAt(fd int, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, offset)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return unix.EIO
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

// MapRead maps the first n bytes of a file for reading, n > 0.
func MapRead(fd, n int) ([]byte, error) { return mapFile(fd, n, unix.PROT_READ) }

// MapWrite maps the first n bytes of a file for reading and writing, n > 0. The file must be
// allocated.
func MapWrite(fd, n int) ([]byte, error) { return mapFile(fd, n, unix.PROT_READ|unix.PROT_WRITE) }

func mapFile(fd, n, prot int) (mem []byte, err error) {
	err = again(func() (err error) {
		mem, err = unix.Mmap(fd, 0, n, prot, unix.MAP_SHARED|unix.MAP_POPULATE)
		return err
	})
	return mem, err
}

// NoUnnamedFiles reports whether an error of CreateUnnamed says that there are none here.
func NoUnnamedFiles(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || err == unix.EISDIR || err == unix.EINVAL
}
