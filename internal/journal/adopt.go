package journal

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/chanmq/chanmq/internal/sysv"
)

// Adopted is the journal of a dead process, which this process has locked. Its
// messages are the slots. Each is freed when it is acknowledged, or released to be left
// to the next process that adopts the journal. With the last of them this process lets go
// of the file, and removes it if all were freed. models/adoption.pml is this protocol.
type Adopted struct {
	Queue Identity
	Slots []*Slot // in the order in which they were taken; at least one
	// Elsewhere is set by Orphans if the queue was in another IPC namespace of this
	// boot. It may exist there, and be used by processes that can adopt the journal
	// themselves.
	Elsewhere bool

	created int64
	dir     *directory
	name    string

	mu        sync.Mutex
	lock      int // the descriptor that has the lock; guarded by mu
	fd        int // to write to; guarded by mu
	unfreed   int // slots that were not freed; guarded by mu
	undecided int // slots that were neither freed nor released; guarded by mu
	closed    bool
	errs      []error
}

// Path returns the name of the file.
func (a *Adopted) Path() string { return a.dir.join(a.name) }

// free acknowledges a message.
func (a *Adopted) free(s *Slot) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.freed {
		return nil
	}
	if s.released || a.closed {
		return fmt.Errorf("journal %s: %w", a.Path(), fs.ErrClosed) // another process may have it
	}
	s.freed = true
	err := a.write(s.offset+int64(slotMtype), emptyType[:])
	step("freed")
	a.unfreed--
	a.decide()
	return err
}

// release leaves a message to the next process.
func (a *Adopted) release(s *Slot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.freed || s.released || a.closed {
		return
	}
	s.released = true
	a.decide()
}

// decide lets go of the file when there is nothing left to decide. It needs mu.
func (a *Adopted) decide() {
	if a.undecided--; a.undecided == 0 {
		a.finish()
	}
}

// delivered writes the number of attempts.
func (a *Adopted) delivered(s *Slot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return
	}
	var b [4]byte
	native.PutUint32(b[:], uint32(s.attempt))
	_ = a.write(s.offset+slotAttempts, b[:]) // Close returns it
}

// emptyType is what a slot is freed with.
var emptyType [sysv.HeaderSize]byte

// write needs mu. The file is not mapped: if somebody truncates it, that is an error
// and not a SIGBUS. A word is never half written: the kernel copies it before it looks
// at signals (generic_perform_write).
func (a *Adopted) write(offset int64, b []byte) error {
	err := sysv.WriteAt(a.fd, b, offset)
	if err != nil {
		err = &fs.PathError{Op: "write journal", Path: a.Path(), Err: err}
		a.errs = append(a.errs, err)
	}
	return err
}

// finish lets go of the file. It needs mu.
func (a *Adopted) finish() {
	a.closed = true
	if a.unfreed == 0 && len(a.errs) == 0 {
		// Before it is unlocked: nobody else adopts it.
		if err := sysv.RemoveFile(a.dir.fd, a.name); err != nil && err != syscall.ENOENT {
			a.errs = append(a.errs, &fs.PathError{Op: "remove journal", Path: a.Path(), Err: err})
		}
		step("removed")
	}
	// First the lock, as others look at the file when the other one is closed.
	for _, fd := range []int{a.lock, a.fd} {
		if err := sysv.CloseFile(fd); err != nil {
			a.errs = append(a.errs, &fs.PathError{Op: "close journal", Path: a.Path(), Err: err})
		}
	}
	a.dir.release()
}

// Close leaves what was not freed to the next process that adopts the journal. Slots can
// still be read, but not be freed any more. It returns the errors of all writes to the
// file: a message whose Free failed is delivered again. Close may be called again.
func (a *Adopted) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.closed {
		a.finish()
	}
	return errors.Join(a.errs...)
}

// Adopt takes over the journals in a directory whose processes are dead and whose
// messages came from the queue, in the order in which the journals were created. It
// removes those that are empty, of any queue, and leaves those of living processes,
// and of other queues, alone. Errors, one for each journal that cannot be read
// (*UnreadableError), do not keep it from adopting the others. A directory that does
// not exist has no journals.
func Adopt(dir string, queue Identity) ([]*Adopted, error) {
	d, err := openDirectory(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.release()
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	found, _, errs := d.adoptAll(names, func() (Identity, error) { return queue, nil })
	return found, errors.Join(errs...)
}

// adoptAll adopts those of the files that can be, and returns the names of those that
// are locked. Nothing is adopted for a queue that has no identity (any more).
func (d *directory) adoptAll(names []string, queue func() (Identity, error)) (found []*Adopted, locked []string, errs []error) {
	now, queueErr := queue()
	for _, name := range names {
		a, busy, err := d.adopt(name, func(then Identity) bool { return queueErr == nil && now.Is(then) })
		var unreadable *UnreadableError
		switch {
		case errors.As(err, &unreadable) && !mayBeOf(name, now):
			// Not ours to report.
		case err != nil:
			errs = append(errs, err)
		}
		if busy {
			locked = append(locked, name)
		}
		if a != nil {
			found = append(found, a)
		}
	}
	sortAdopted(found)
	return found, locked, errs
}

func sortAdopted(found []*Adopted) {
	slices.SortFunc(found, func(a, b *Adopted) int {
		return cmp.Or(cmp.Compare(a.created, b.created), cmp.Compare(a.name, b.name))
	})
}

// mayBeOf reports whether the name of a file is one of a journal of the queue.
func mayBeOf(name string, queue Identity) bool {
	var id int
	n, err := fmt.Sscanf(name, "%d-", &id)
	return n != 1 || err != nil || id == queue.ID
}

// Orphans takes over the journals in a directory whose processes are dead and whose
// messages came from no queue that this process could receive from: it was removed, or
// was one before the system was started again, or is in another IPC namespace
// (Elsewhere). The caller frees their messages, or closes them to leave them there.
// Errors are as Adopt's, of all files but those of queues that exist.
func Orphans(dir string, k sysv.Kernel) ([]*Adopted, error) {
	d, err := openDirectory(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer d.release()
	namespace, err := here(k)
	if err != nil {
		return nil, err
	}
	names, err := d.names()
	if err != nil {
		return nil, err
	}
	var found []*Adopted
	var errs []error
	for _, name := range names {
		a, _, err := d.adopt(name, func(then Identity) bool {
			if same, _ := namespace.sameNamespace(then); !same {
				return true
			}
			now, err := Identify(k, then.ID)
			switch err {
			case nil:
				return !now.Is(then)
			case sysv.EINVAL, sysv.EIDRM:
				return true
			}
			return false // it exists
		})
		if err != nil {
			errs = append(errs, err)
		}
		if a != nil {
			same, _ := namespace.sameNamespace(a.Queue)
			a.Elsewhere = !same && a.Queue.Boot == namespace.Boot
			found = append(found, a)
		}
	}
	sortAdopted(found)
	return found, errors.Join(errs...)
}

// smallJournal is how many bytes are read of a journal of another queue, to see
// whether it is empty, before it is locked.
const smallJournal = 256 << 10

// descriptor is an open file as an io.ReaderAt.
type descriptor int

func (fd descriptor) ReadAt(b []byte, at int64) (int, error) {
	if err := sysv.ReadAt(int(fd), b, at); err != nil {
		return 0, err
	}
	return len(b), nil
}

// adopt takes over one journal, if its process is dead, it holds messages, and wanted
// says that they are. It removes one that is empty, or was not finished. It reports
// whether the file is locked by another.
func (d *directory) adopt(name string, wanted func(Identity) bool) (a *Adopted, busy bool, err error) {
	// For reading only: when a file that was open for writing is closed, every process
	// that watches the directory looks at it.
	lock, err := sysv.OpenFile(d.fd, name, false)
	switch err {
	case nil:
	case syscall.ENOENT:
		return nil, false, nil
	case syscall.ELOOP:
		return nil, false, d.unreadable(name, "it is a symbolic link")
	default:
		return nil, false, &fs.PathError{Op: "open journal", Path: d.join(name), Err: err}
	}
	defer func() {
		if a == nil {
			_ = sysv.CloseFile(lock) // it was only read
		}
	}()
	info, err := sysv.StatFile(lock)
	if err != nil {
		return nil, false, &fs.PathError{Op: "stat journal", Path: d.join(name), Err: err}
	}
	switch {
	case info.Links == 0:
		return nil, false, nil // removed just now
	case !info.Regular || info.Links != 1:
		return nil, false, d.unreadable(name, "it is not a file of its own")
	case info.UID != uint32(os.Geteuid()) || info.Perm&0o077 != 0:
		return nil, false, d.unreadable(name, fmt.Sprintf("it belongs to user %d and has mode %#o", info.UID, info.Perm))
	}
	ours := false
	if !isUnfinished(name) {
		// What says which queue it is never changes. The rest does, as long as the file is
		// not locked: its size too.
		h, err := readHeader(descriptor(lock), math.MaxInt64)
		if err != nil {
			return nil, false, d.unreadable(name, err.Error())
		}
		ours = wanted(h.queue)
		if !ours && h.used <= smallJournal {
			// Somebody else may be about to adopt it, and must not find it locked.
			if slots, _, err := readSlots(descriptor(lock), h); err != nil || len(slots) > 0 {
				return nil, false, nil
			}
		}
	}
	locked, err := sysv.TryLock(lock)
	if err != nil {
		return nil, false, &fs.PathError{Op: "lock journal", Path: d.join(name), Err: err}
	}
	if !locked {
		return nil, true, nil
	}
	step("adopt: locked")
	// Whoever had the lock before may have removed the file, or renamed it.
	if now, err := sysv.StatName(d.fd, name); err != nil || now.Dev != info.Dev || now.Ino != info.Ino {
		return nil, false, nil
	}
	// While it is locked nobody else changes it, except for a program that respects
	// nothing.
	if info, err = sysv.StatFile(lock); err != nil {
		return nil, false, &fs.PathError{Op: "stat journal", Path: d.join(name), Err: err}
	}
	if isUnfinished(name) {
		_ = sysv.RemoveFile(d.fd, name) // if not now, then with the next scan
		return nil, false, nil
	}
	h, err := readHeader(descriptor(lock), info.Size)
	if err != nil {
		return nil, false, d.unreadable(name, err.Error())
	}
	if info.Allocated < h.used {
		return nil, false, d.unreadable(name, fmt.Sprintf("it has storage for %d of %d bytes", info.Allocated, h.used))
	}
	slots, twice, err := readSlots(descriptor(lock), h)
	if err != nil {
		return nil, false, d.unreadable(name, err.Error())
	}
	step("adopt: read")
	if len(slots) == 0 {
		if err := sysv.RemoveFile(d.fd, name); err != nil && err != syscall.ENOENT {
			return nil, false, &fs.PathError{Op: "remove journal", Path: d.join(name), Err: err}
		}
		return nil, false, nil
	}
	if !ours {
		return nil, false, nil
	}
	fd, err := sysv.OpenFile(d.fd, name, true)
	if err != nil {
		return nil, false, &fs.PathError{Op: "open journal", Path: d.join(name), Err: err}
	}
	if now, err := sysv.StatFile(fd); err != nil || now.Dev != info.Dev || now.Ino != info.Ino {
		_ = sysv.CloseFile(fd) // nothing was written to it
		return nil, false, d.unreadable(name, "somebody replaced it")
	}
	if slots, err = unpack(fd, h, slots, twice); err != nil {
		_ = sysv.CloseFile(fd)
		return nil, false, &fs.PathError{Op: "unpack journal", Path: d.join(name), Err: err}
	}
	a = &Adopted{Queue: h.queue, Slots: slots, created: h.created, dir: d, name: name, lock: lock, fd: fd, unfreed: len(slots), undecided: len(slots)}
	for _, s := range slots {
		s.a = a
	}
	d.retain()
	step("adopt: done")
	return a, false, nil
}

func (d *directory) unreadable(name, reason string) error {
	return &UnreadableError{Path: d.join(name), Reason: reason}
}

var _ io.ReaderAt = descriptor(0)
