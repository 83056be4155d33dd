package large

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/sysv"
)

// This file is how files are found whose message is lost: their process was killed after it
// had made the file and before it had sent the message, or after it had taken the message and
// before it had removed the file.
//
// The rules for all who use the directory:
//
//  1. A name goes one way: it is made, its message is sent at most once, and taken at most
//     once. A message that goes back to a queue has another name ([File.Again]).
//  2. The file is locked, shared, by its sender from before it has the name until the kernel has
//     the message or the name is removed, or longer; and by its receiver until the name is
//     removed, or the message is in the journal of the dead, unless he has a lease for it. The
//     lock is the kernel's, and ends with the process.
//  3. A lease is a locked file. Who receives begins with the lease of his handle before the
//     call that may take a message, and keeps that for the message until its file is locked or
//     let go. A lease names the journal that the handle receives into, and stays as long as
//     there is one.
//
// The collector, of any process, has a name for garbage if, in this order,
//
//	a. the file is not locked: its sender is through with it, so the message is in the queue
//	   now, or it was taken, or it will never be sent;
//	b. the queue is read from its end to its beginning, and no message refers to it: messages
//	   move towards the beginning only, so none is missed that was there all the time. What
//	   was taken meanwhile was taken by a call under a lease that there is after that;
//	c. all leases that there were after b have ended. Who has taken the message has locked the
//	   file by then, or removed it, or is dead;
//	d. the file is not locked (again): nobody has it;
//	e. no journal of a dead lease refers to it. Who dies between d and e did not have it at d.
//
// By rule 1 nobody can get the message any more, and the name is removed. What is not known (a
// file that may not be read, a queue that may not be read) is taken for in use.
//
// Leases end because handles change theirs when they see files that nobody has locked
// ([Store.Renew]): then they lock what was taken under the old one, and wake the calls that
// sleep in the kernel under it.

// A Lease is what calls hold that may take a message.
type Lease struct {
	store   *Store
	name    string
	fd      int                // locked
	retired bool               // it ends with the last of these; guarded by store.mu
	calls   int                // calls that hold it; guarded by store.mu
	files   map[*File]struct{} // taken under it, and not locked; guarded by store.mu
}

// newLease makes one, of which nobody knows yet. The descriptors must be held.
func (s *Store) newLease() (*Lease, error) {
	l := &Lease{store: s, files: make(map[*File]struct{})}
	s.retain()
	err := s.create(&l.fd, leaseSuffix, func() error {
		return sysv.WriteAllAt(l.fd, []byte(s.journal), 0)
	}, func() string {
		l.name = randomName()
		return l.name
	})
	l.name += leaseSuffix
	if err != nil {
		s.release()
		return nil, err
	}
	return l, nil
}

// Begin returns the lease of the handle, nil after Close. It must be followed by End.
func (s *Store) Begin() *Lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return nil
	}
	s.current.calls++
	return s.current
}

// End ends what Begin has begun. Of nil it does nothing.
func (l *Lease) End() {
	if l == nil {
		return
	}
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.calls--
	l.dropUnused()
}

// add keeps a lease for a file that was taken under it.
func (l *Lease) add(f *File) {
	l.store.mu.Lock()
	defer l.store.mu.Unlock()
	l.files[f] = struct{}{}
}

// let closes a file, and ends its use of the lease.
func (s *Store) let(f *File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.fd >= 0 {
		_ = sysv.CloseFile(f.fd) // it was only read
	}
	if l := f.lease; l != nil {
		delete(l.files, f)
		l.dropUnused()
	}
	s.forget()
}

// retire makes it end when nothing holds it. It needs store.mu.
func (l *Lease) retire() {
	l.retired = true
	for f := range l.files {
		if f.fd >= 0 && sysv.Share(f.fd) == nil {
			delete(l.files, f)
			f.lease = nil
		} // else it has the lease for as long as the program has it
	}
	l.dropUnused()
}

// dropUnused needs store.mu.
func (l *Lease) dropUnused() {
	if l.retired && l.calls == 0 && len(l.files) == 0 {
		l.drop()
	}
}

// drop needs store.mu.
func (l *Lease) drop() {
	s := l.store
	if s.current != nil || !exists(s.journal) { // else it says that there is a journal
		_ = sysv.RemoveFile(s.dir, l.name) // at worst it is collected
	}
	_ = sysv.CloseFile(l.fd) // all was written
	s.forget()
}

// Renew gives the handle another lease. The caller then wakes the calls that sleep.
func (s *Store) Renew() error {
	if !s.hold() {
		return nil
	}
	defer s.release()
	l, err := s.newLease()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		l.retire()
		return nil
	}
	old := s.current
	s.current = l
	old.retire()
	return nil
}

// exists reports whether there is a journal of the name, or may be.
func exists(journal string) bool {
	if journal == "" {
		return false
	}
	_, err := os.Lstat(journal)
	return !errors.Is(err, fs.ErrNotExist)
}

// Browse calls f with the text of each message in the queue, from its end to its beginning. It
// fails if it cannot say of all of them.
type Browse func(f func(text []byte)) error

// Collect removes what nobody refers to, as far as that is certain by now. If there are files
// that nobody has locked it reports that: then the handle changes its lease, and calls it
// again some time later.
func (s *Store) Collect(browse Browse) (suspects bool, err error) {
	if !s.hold() {
		return false, nil
	}
	defer s.release()
	s.collecting.Lock()
	defer s.collecting.Unlock()
	if err := s.remove(); err != nil {
		return true, err
	}
	if suspects, err = s.suspect(browse); err != nil {
		return suspects, err
	}
	if len(s.doubts) == 0 {
		return suspects, s.spareJournaled(nil)
	}
	return suspects, s.remove() // if no process had a lease
}

// suspect does steps a to c of the proof, where c begins. It needs collecting.
func (s *Store) suspect(browse Browse) (suspects bool, err error) {
	names, err := sysv.Names(s.dir)
	if err != nil {
		return false, err
	}
	doubts := make(map[string]bool)
	for _, name := range names {
		if isSpare(name) {
			s.collectSpare(name)
		} else if (isName(name) || strings.HasSuffix(name, newSuffix)) && s.unlocked(name) {
			doubts[name] = true
		}
	}
	if len(doubts) == 0 {
		return false, nil
	}
	suspects = true
	err = browse(func(text []byte) { s.spare(doubts, text) })
	if err != nil || len(doubts) == 0 {
		return suspects, err
	}
	leases, err := s.leases()
	if err != nil {
		return suspects, err
	}
	step("suspected")
	for name := range s.doubts {
		if doubts[name] {
			return suspects, nil // first those from before
		}
	}
	s.doubts, s.before = doubts, make(map[string]bool)
	for _, name := range leases {
		s.before[name] = true
	}
	return suspects, nil
}

// spare removes what a text refers to from the doubts.
func (s *Store) spare(doubts map[string]bool, text []byte) {
	h, _, err := envelope.Parse(text)
	if err == nil && h.Kind == envelope.Reference && h.Ref.Dir == s.id {
		delete(doubts, nameOf(h.Ref))
	}
}

// remove does the steps from c on, and removes what is left. It needs collecting.
func (s *Store) remove() error {
	if len(s.doubts) == 0 {
		return nil
	}
	for name := range s.before {
		live, _ := s.look(name)
		if live {
			return nil // not yet
		}
		delete(s.before, name)
	}
	for name := range s.doubts {
		if !s.unlocked(name) {
			delete(s.doubts, name)
		}
	}
	step("unlocked")
	if err := s.spareJournaled(s.doubts); err != nil {
		return err
	}
	step("unreferenced")
	var errs []error
	for name := range s.doubts {
		if err := sysv.RemoveFile(s.dir, name); err != nil && err != syscall.ENOENT {
			errs = append(errs, &fs.PathError{Op: "remove", Path: s.path, Err: err})
		}
		delete(s.doubts, name)
		step("collected")
	}
	return errors.Join(errs...)
}

// spareJournaled removes what the journals of the dead refer to. It removes dead leases
// whose journal is gone.
func (s *Store) spareJournaled(doubts map[string]bool) error {
	leases, err := s.leases()
	if err != nil {
		return err
	}
	for _, name := range leases {
		live, journaled := s.look(name)
		switch {
		case live:
			continue
		case exists(journaled) && len(doubts) == 0:
			continue
		case exists(journaled):
			err := journal.Texts(journaled, func(text []byte) { s.spare(doubts, text) })
			if err == nil || errors.Is(err, fs.ErrNotExist) {
				continue
			}
			return err
		}
		_ = sysv.RemoveFile(s.dir, name) // at worst the next one does
	}
	return nil
}

// leases returns the names of all leases.
func (s *Store) leases() (leases []string, err error) {
	names, err := sysv.Names(s.dir)
	for _, name := range names {
		if strings.HasSuffix(name, leaseSuffix) {
			leases = append(leases, name)
		}
	}
	return leases, err
}

// unlocked reports whether a regular file is there, and certainly not locked.
func (s *Store) unlocked(name string) bool {
	fd, err := sysv.OpenBeneath(s.dir, name)
	if err != nil {
		return false
	}
	defer sysv.CloseFile(fd)
	info, err := sysv.StatFile(fd)
	if err != nil || !info.Regular {
		return false
	}
	locked, err := sysv.TextLock.Locked(fd)
	return err == nil && !locked
}

// maxPath bounds what is read of a lease.
const maxPath = 4096

// look reports whether a lease is held, or may be, and which journal it names.
func (s *Store) look(name string) (live bool, journal string) {
	fd, err := sysv.OpenBeneath(s.dir, name)
	if err == syscall.ENOENT {
		return false, ""
	}
	if err != nil {
		return true, ""
	}
	defer sysv.CloseFile(fd)
	if locked, err := sysv.TextLock.Locked(fd); err != nil || locked {
		return true, ""
	}
	info, err := sysv.StatFile(fd)
	if err != nil || !info.Regular || info.Size > maxPath {
		return true, ""
	}
	path := make([]byte, info.Size)
	if err := sysv.ReadAt(fd, path, 0); err != nil {
		return true, ""
	}
	return false, string(path)
}

// CollectGone removes the files of queues that do not exist any more, in the directory that
// has the one of the store, and their directories. isGone reports that of an [ID] of this IPC
// namespace, and of nothing else.
func (s *Store) CollectGone(isGone func(id [16]byte) bool) error {
	names, err := sysv.Names(s.root)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if !isName(name) {
			continue
		}
		var id [16]byte
		_, _ = hex.Decode(id[:], []byte(name)) // see isName
		if [8]byte(id[:8]) == [8]byte(s.id[:8]) && isGone(id) {
			errs = append(errs, s.collectGone(id, name))
		}
	}
	return errors.Join(errs...)
}

// MsqidOf returns the msqid of an ID.
func MsqidOf(id [16]byte) int { return int(int32(binary.BigEndian.Uint32(id[8:]))) }

// CloseGone is Close for a store whose queue does not exist any more.
func (s *Store) CloseGone() error {
	s.retain()
	defer s.release()
	s.Close()
	s.mu.Lock()
	s.gone = true
	s.mu.Unlock()
	return s.collectGone(s.id, filepath.Base(s.path))
}

func (s *Store) collectGone(id [16]byte, name string) error {
	dir, err := sysv.OpenDirAt(s.root, name)
	if err != nil {
		return nil // another user's, or gone meanwhile
	}
	defer sysv.CloseFile(dir)
	gone := &Store{path: s.path, id: id, root: -1, dir: dir, users: 1} // dir is closed here
	// No message is in the queue, and none will be.
	if _, err := gone.Collect(func(func([]byte)) error { return nil }); err != nil {
		return err
	}
	_ = sysv.RemoveDir(s.root, name) // not empty: somebody has something still
	return nil
}
