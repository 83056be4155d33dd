package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/chanmq/chanmq/internal/sysv"
)

const (
	suffix           = ".journal"
	unfinishedSuffix = ".new" // behind suffix: the creator has not finished it
)

var processID = os.Getpid()

// SpaceError says that the file system of the directory has no room for a journal. It
// is syscall.ENOSPC.
type SpaceError struct {
	Dir        string
	Need, Free uint64 // bytes
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("journal: %d bytes are needed in %s, and %d are free in its file system (df %s)", e.Need, e.Dir, e.Free, e.Dir)
}

func (e *SpaceError) Unwrap() error { return syscall.ENOSPC }

// UnreadableError says that a file in the directory cannot be read as a journal: it is
// damaged, of another version, or of another architecture, or not a file of the user's
// own. It was left where it is.
type UnreadableError struct {
	Path   string
	Reason string
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("journal %s is not used: %s", e.Path, e.Reason)
}

// directory is an open directory, which several users share.
type directory struct {
	path string // absolute
	fd   int
	info sysv.FileInfo
	refs atomic.Int32
}

// DefaultDir is the directory that is meant by "".
func DefaultDir() string {
	return "/dev/shm/chanmq-" + strconv.Itoa(os.Geteuid())
}

// openDirectory opens a directory that is the user's alone. Everything in it is then
// opened relative to the descriptor.
func openDirectory(path string, create bool) (*directory, error) {
	if path == "" {
		path = DefaultDir()
	}
	path, err := filepath.Abs(path) // a slash at the end would follow a symbolic link
	if err != nil {
		return nil, err
	}
	fd, err := sysv.OpenDir(path)
	if err == syscall.ENOENT && create {
		// Whoever creates it first, it is checked below.
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("journal: %w", err)
		}
		fd, err = sysv.OpenDir(path)
	}
	if err != nil {
		if info, lstatErr := os.Lstat(path); lstatErr == nil && info.Mode()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("journal: %s is a symbolic link: %w", path, fs.ErrPermission)
		}
		return nil, &fs.PathError{Op: "open journal directory", Path: path, Err: err}
	}
	d := &directory{path: path, fd: fd}
	d.refs.Store(1)
	if err := d.check(); err != nil {
		d.release()
		return nil, err
	}
	return d, nil
}

func (d *directory) check() (err error) {
	if d.info, err = sysv.StatFile(d.fd); err != nil {
		return &fs.PathError{Op: "stat journal directory", Path: d.path, Err: err}
	}
	if uid := uint32(os.Geteuid()); d.info.UID != uid {
		return fmt.Errorf("journal: directory %s belongs to user %d, not to user %d: %w", d.path, d.info.UID, uid, fs.ErrPermission)
	}
	if d.info.Perm&0o077 != 0 {
		return fmt.Errorf("journal: directory %s has mode %#o, others may use it (chmod 0700): %w", d.path, d.info.Perm, fs.ErrPermission)
	}
	tmpfs, _, err := sysv.Space(d.fd)
	if err != nil {
		return &fs.PathError{Op: "statfs journal directory", Path: d.path, Err: err}
	}
	if !tmpfs {
		// Another file system writes pages back, and makes them read-only meanwhile:
		// the kernel would have to wait in the middle of a message, or could not
		// write at all.
		return fmt.Errorf("journal: directory %s is not on a tmpfs, such as /dev/shm: %w", d.path, errors.ErrUnsupported)
	}
	return nil
}

func (d *directory) join(name string) string { return filepath.Join(d.path, name) }

func (d *directory) retain() { d.refs.Add(1) }

func (d *directory) release() {
	if d.refs.Add(-1) == 0 {
		_ = sysv.CloseFile(d.fd) // nothing was written with it
	}
}

// names returns the files that may be journals, or unfinished ones.
func (d *directory) names() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if isJournal(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

func isJournal(name string) bool {
	return strings.HasSuffix(strings.TrimSuffix(name, unfinishedSuffix), suffix)
}

func isUnfinished(name string) bool { return strings.HasSuffix(name, unfinishedSuffix) }
