package sysv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// again calls f until it is not interrupted by a signal, such as those that the Go
// runtime sends to its own threads.
func again(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

func openat(dir int, name string, flags int) (fd int, err error) {
	err = again(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		return err
	})
	return fd, err
}

// OpenDir opens a directory that is not a symbolic link (ENOTDIR, ELOOP).
func OpenDir(path string) (fd int, err error) {
	return openat(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY)
}

// CreateFile creates a file, of mode 0600, in a directory. EEXIST: there is one.
func CreateFile(dir int, name string) (fd int, err error) {
	return openat(dir, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL)
}

// OpenFile opens a file in a directory, and does not wait for the other end if it is
// a FIFO. ELOOP: it is a symbolic link.
func OpenFile(dir int, name string, write bool) (fd int, err error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_RDWR
	}
	return openat(dir, name, flags|unix.O_NONBLOCK)
}

// CloseFile closes a descriptor. It is not called again after EINTR: close(2).
func CloseFile(fd int) error { return unix.Close(fd) }

// StatFile returns what is known of an open file.
func StatFile(fd int) (FileInfo, error) {
	var st unix.Stat_t
	err := again(func() error { return unix.Fstat(fd, &st) })
	return fileInfo(&st), err
}

// StatName returns what is known of a file in a directory. It does not follow a
// symbolic link.
func StatName(dir int, name string) (FileInfo, error) {
	var st unix.Stat_t
	err := again(func() error { return unix.Fstatat(dir, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return fileInfo(&st), err
}

func fileInfo(st *unix.Stat_t) FileInfo {
	return FileInfo{
		Dev:       uint64(st.Dev),
		Ino:       st.Ino,
		Links:     uint64(st.Nlink),
		UID:       st.Uid,
		GID:       st.Gid,
		Perm:      uint32(st.Mode) & 0o7777,
		Regular:   st.Mode&unix.S_IFMT == unix.S_IFREG,
		Dir:       st.Mode&unix.S_IFMT == unix.S_IFDIR,
		Size:      st.Size,
		Allocated: st.Blocks * 512, // stat(2): in these units on any file system
	}
}

// RenameFile gives a file in a directory another name there.
func RenameFile(dir int, from, to string) error {
	return again(func() error { return unix.Renameat(dir, from, dir, to) })
}

// RemoveFile removes a name in a directory.
func RemoveFile(dir int, name string) error {
	return again(func() error { return unix.Unlinkat(dir, name, 0) })
}

// TryLock locks a file for this descriptor, and those duplicated from it (flock(2)).
// The kernel unlocks it when the last of them is closed, and no mapping of the file
// made with them is left, however the process ends. It reports false if the file is
// locked by another.
func TryLock(fd int) (bool, error) {
	switch err := again(func() error { return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) }); err {
	case nil:
		return true, nil
	case unix.EWOULDBLOCK:
		return false, nil
	default:
		return false, err
	}
}

// Allocate makes sure that n bytes from offset on have storage, and makes the file
// that long. ENOSPC: there is not as much.
func Allocate(fd int, offset, n int64) error {
	// A file over the limit would end the process by SIGXFSZ.
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err == nil && uint64(offset+n) > limit.Cur {
		return unix.EFBIG
	}
	// In pieces: tmpfs begins again after a signal, and must come to an end.
	for n > 0 {
		piece := min(n, 1<<20)
		if err := again(func() error { return unix.Fallocate(fd, 0, offset, piece) }); err != nil {
			return err
		}
		offset, n = offset+piece, n-piece
	}
	return nil
}

// Space reports whether a file is on a tmpfs, and how many bytes are free there.
func Space(fd int) (tmpfs bool, free uint64, err error) {
	var st unix.Statfs_t
	if err := again(func() error { return unix.Fstatfs(fd, &st) }); err != nil {
		return false, 0, err
	}
	// The types of the fields depend on the architecture.
	return int64(st.Type) == unix.TMPFS_MAGIC, uint64(st.Bavail) * uint64(st.Bsize), nil
}

// Map maps a part of a file, which must be allocated, for reading and writing, with
// its pages present. offset must be a multiple of the page size.
func Map(fd int, offset int64, n int) ([]byte, error) {
	var mem []byte
	err := again(func() (err error) {
		mem, err = unix.Mmap(fd, offset, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		return err
	})
	if err != nil {
		return nil, err
	}
	// So that the pages stay present. It may be denied (RLIMIT_MEMLOCK).
	_ = unix.Mlock(mem)
	return mem, nil
}

// Unmap ends a mapping. Nothing may use its memory from then on.
func Unmap(mem []byte) error { return unix.Munmap(mem) }

// ReadAt fills b from an offset of a file. io.ErrUnexpectedEOF: it is shorter.
func ReadAt(fd int, b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := unix.Pread(fd, b, offset)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return io.ErrUnexpectedEOF
		}
		b, offset = b[n:], offset+int64(n)
	}
	return nil
}

// WriteAt writes b, a few bytes inside one page, at an offset of a file.
func WriteAt(fd int, b []byte, offset int64) error {
	return again(func() error {
		n, err := unix.Pwrite(fd, b, offset)
		if err == nil && n < len(b) {
			err = unix.EIO
		}
		return err
	})
}

// initialIPC is the inode of the first IPC namespace (PROC_IPC_INIT_INO of
// include/uapi/linux/nsfs.h), which is never given to another.
const initialIPC = 0xEFFFFFFF

// IPCNamespace identifies the IPC namespace of this process. The inode of one that is
// gone is given to the next: only with a unique id, which is 0 before Linux 6.18,
// or in the first namespace, does the answer identify one for good.
func IPCNamespace() (dev, ino, id uint64, initial bool, err error) {
	const path = "/proc/thread-self/ns/ipc"
	var fd int
	err = again(func() error {
		fd, err = unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return 0, 0, 0, false, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	st, err := StatFile(fd)
	if err != nil {
		return 0, 0, 0, false, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.NS_GET_ID,
		uintptr(unsafe.Pointer(&id))) // unsafe rule (4): converted in the call
	if errno != 0 {
		id = 0
	}
	return st.Dev, st.Ino, id, st.Ino == initialIPC, nil
}

// BootTime returns the nanoseconds since the system was started.
func BootTime() int64 {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // it exists since Linux 2.6.39
	return ts.Nano()
}

// Watch reports files of a directory that a process closed, for whatever reason,
// after it had opened them for writing (inotify(7)).
type Watch struct {
	file *os.File
	buf  []byte
}

// WatchDir begins to watch a directory.
func WatchDir(path string) (*Watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, &os.PathError{Op: "inotify_init", Path: path, Err: err}
	}
	const mask = unix.IN_CLOSE_WRITE | unix.IN_ONLYDIR | unix.IN_DONT_FOLLOW
	if _, err := unix.InotifyAddWatch(fd, path, mask); err != nil {
		return nil, errors.Join(&os.PathError{Op: "inotify_add_watch", Path: path, Err: err}, unix.Close(fd))
	}
	// As the descriptor does not block, the runtime's poller waits for it, and no thread.
	return &Watch{os.NewFile(uintptr(fd), "inotify"), make([]byte, 4096)}, nil
}

// Events waits for events. os.ErrDeadlineExceeded: there was none until the
// deadline, if that is not zero. os.ErrClosed: Close was called.
func (w *Watch) Events(deadline time.Time) ([]Event, error) {
	if err := w.file.SetReadDeadline(deadline); errors.Is(err, os.ErrNoDeadline) {
		return nil, err // it cannot be waited for
	}
	n, err := w.file.Read(w.buf)
	if err != nil {
		return nil, err
	}
	var events []Event
	for b := w.buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		// struct inotify_event: wd, mask, cookie, len, name.
		mask := binary.NativeEndian.Uint32(b[4:])
		length := int(binary.NativeEndian.Uint32(b[12:]))
		b = b[unix.SizeofInotifyEvent:]
		if length < 0 || length > len(b) {
			return events, syscall.EINVAL
		}
		name, _, _ := bytes.Cut(b[:length], []byte{0})
		b = b[length:]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			events = append(events, Event{Lost: true})
		case mask&unix.IN_CLOSE_WRITE != 0:
			events = append(events, Event{Name: string(name)})
		}
	}
	return events, nil
}

// Close ends the watch. A call of Events returns.
func (w *Watch) Close() error { return w.file.Close() }
