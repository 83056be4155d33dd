package bridge

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/nats-io/nuid"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// This file is a bridge's directory:
//
//	lock       locked by the process that has the bridge; its pid, in decimal
//	name       what its ledgers are named after, made once
//	journal/   of the handle that takes messages out of the kernel queue
//	out-<type> the state of a type that goes out
//	in-<type>  the spool of a type that comes in
//
// The process may be killed at any moment: so files are written under another name first, or
// mapped, and then stored to so that each store leaves something that makes sense.

const (
	lockFile   = "lock"
	nameFile   = "name"
	journalDir = "journal"
	outPrefix  = "out-"
	inPrefix   = "in-"
)

// directory is that of a bridge, which this process has.
type directory struct {
	path string
	fd   int
	lock int // locked
}

// directoryName is named after the keys of both queues, or after the msqid where there is none.
func directoryName(key chanmq.Key, id int, there chanmq.Key) string {
	here := fmt.Sprintf("%08x", uint32(key))
	if key == 0 {
		here = fmt.Sprintf("id%d", id)
	}
	return fmt.Sprintf("%s-%08x", here, uint32(there))
}

// openDirectory opens a bridge's directory, and locks it.
func openDirectory(parent, name string) (d *directory, err error) {
	d = &directory{path: filepath.Join(parent, name), fd: -1, lock: -1}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.close()
			d = nil
		}
	}()
	if d.fd, err = sysv.OpenDir(d.path); err != nil {
		return d, d.failed("open", "", err)
	}
	info, err := sysv.StatFile(d.fd)
	if err != nil {
		return d, d.failed("stat", "", err)
	}
	if int(info.UID) != os.Geteuid() || info.Perm&0o077 != 0 {
		return d, fmt.Errorf("others may use %s (mode %#o, user %d): %w", d.path, info.Perm, info.UID, fs.ErrPermission)
	}
	switch tmpfs, _, err := sysv.Space(d.fd); {
	case err != nil:
		return d, d.failed("statfs", "", err)
	case !tmpfs:
		return d, fmt.Errorf("%s is not on a tmpfs, such as /dev/shm", d.path)
	}
	return d, d.takeLock()
}

func (d *directory) failed(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: filepath.Join(d.path, name), Err: err}
}

// takeLock makes the bridge this process's, as long as it lives.
func (d *directory) takeLock() (err error) {
	if d.lock, err = d.open(lockFile); err != nil {
		return err
	}
	locked, err := sysv.TryLock(d.lock)
	if err != nil {
		return d.failed("lock", lockFile, err)
	}
	if !locked {
		pid, _ := os.ReadFile(filepath.Join(d.path, lockFile)) // it only helps to find the process
		return fmt.Errorf("%w: %s, of process %s", ErrInUse, d.path, strings.TrimSpace(string(pid)))
	}
	pid := fmt.Sprintf("%-15d\n", os.Getpid())
	if err := sysv.WriteAt(d.lock, []byte(pid), 0); err != nil {
		return d.failed("write", lockFile, err)
	}
	return nil
}

// open opens a file for writing, and makes it if there is none.
func (d *directory) open(name string) (fd int, err error) {
	for {
		if fd, err = sysv.OpenFile(d.fd, name, true); err != syscall.ENOENT {
			break
		}
		if fd, err = sysv.CreateFile(d.fd, name); err != syscall.EEXIST {
			break
		}
	}
	if err != nil {
		return -1, d.failed("open", name, err)
	}
	return fd, nil
}

func (d *directory) close() {
	for _, fd := range []int{d.fd, d.lock} {
		if fd >= 0 {
			_ = sysv.CloseFile(fd) // what was written is there
		}
	}
}

// name returns what the ledgers of this bridge are named after.
func (d *directory) name() (string, error) {
	path := filepath.Join(d.path, nameFile)
	name, err := os.ReadFile(path)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return string(name), err
	}
	made := nuid.Next()
	if err := os.WriteFile(path+".new", []byte(made), 0o600); err != nil {
		return "", err
	}
	return made, os.Rename(path+".new", path)
}

// awaitWithin is how long the kernel may take to end a process that was killed.
const awaitWithin = 10 * time.Second

// awaitJournals returns the directory of journals, when those of earlier processes can be adopted: a process
// that was killed has given up the bridge's lock before that of its journal.
func (d *directory) awaitJournals() (string, error) {
	path := filepath.Join(d.path, journalDir)
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", err
	}
	dir, err := sysv.OpenDir(path)
	if err != nil {
		return "", d.failed("open", journalDir, err)
	}
	defer sysv.CloseFile(dir) // it is only read
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", err
	}
	deadline := time.Now().Add(awaitWithin)
	for _, entry := range entries {
		for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
			free, err := isFree(dir, entry.Name())
			if err != nil {
				return "", d.failed("lock", filepath.Join(journalDir, entry.Name()), err)
			}
			if free {
				break
			}
			if time.Now().After(deadline) {
				return "", fmt.Errorf("%w: its journal %s is locked; if it was a Bridge of this process, only the next process can have it", ErrInUse, filepath.Join(path, entry.Name()))
			}
			time.Sleep(pause)
		}
	}
	return path, nil
}

// isFree reports whether nobody has a journal.
func isFree(dir int, name string) (bool, error) {
	fd, err := sysv.OpenFile(dir, name, false)
	if err == syscall.ENOENT {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	free, err := sysv.TryLock(fd)
	return free, errors.Join(err, sysv.CloseFile(fd))
}

// lanes returns the types that there are files of.
func (d *directory) lanes() (out, in []int64, err error) {
	entries, err := os.ReadDir(d.path)
	for _, entry := range entries {
		for prefix, list := range map[string]*[]int64{outPrefix: &out, inPrefix: &in} {
			if digits, ok := strings.CutPrefix(entry.Name(), prefix); ok {
				typ, err := strconv.ParseInt(digits, 10, 64)
				if err != nil {
					return nil, nil, fmt.Errorf("%s is not a bridge's", filepath.Join(d.path, entry.Name()))
				}
				*list = append(*list, typ)
			}
		}
	}
	return out, in, err
}

// mapped is a file in memory.
type mapped struct {
	fd  int
	mem []byte
}

// mapFile maps a file of at least size bytes. What is new in it is 0.
func (d *directory) mapFile(name string, size int) (*mapped, error) {
	fd, err := d.open(name)
	if err != nil {
		return nil, err
	}
	m := &mapped{fd: fd}
	info, err := sysv.StatFile(fd)
	if err == nil {
		err = m.grow(max(size, int(info.Size)))
	}
	if err != nil {
		return nil, errors.Join(d.failed("map", name, err), sysv.CloseFile(fd))
	}
	return m, nil
}

// grow makes the file that long. It may move in memory.
func (m *mapped) grow(size int) error {
	page := os.Getpagesize()
	size = (size + page - 1) / page * page
	if size <= len(m.mem) {
		return nil
	}
	if err := sysv.Allocate(m.fd, 0, int64(size)); err != nil {
		return err
	}
	mem, err := sysv.Map(m.fd, 0, size)
	if err != nil {
		return err
	}
	old := m.mem
	m.mem = mem
	if old != nil {
		return sysv.Unmap(old)
	}
	return nil
}

func (m *mapped) close() error {
	err := sysv.Unmap(m.mem)
	m.mem = nil
	return errors.Join(err, sysv.CloseFile(m.fd))
}
