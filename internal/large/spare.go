package large

import (
	"slices"
	"strings"

	"github.com/chanmq/chanmq/internal/sysv"
)

// This file is storage that is used again. Most of what a new file costs is its memory, which
// the sender's processor allocates and the receiver's frees. So a sender keeps files that it
// has sent: each has a second name, a spare. The receiver removes the name that the message
// refers to, as that of any file, and knows nothing of this. When the spare is the only name
// left, nobody can refer to the file any more, and the next text is written over the last one.
//
// Who looks at a message that is taken meanwhile may find another text in the file then, and
// sees by the checksum, and by the name, what has happened.
//
// One text alone leaves no spare: it takes a second one before the next look for idle ones.
//
// A spare is not needed for anything else: its name may go, and costs its owner a new file. The
// owner has KeptLock from before the file has that name, so that collectors know when he is dead.
// He keeps TextLock as well where messages follow each other, until the next look for idle ones:
// to lock and unlock it for each would cost as much as the copy.

const (
	spareSuffix = ".spare"

	// maxSpares and maxSpareBytes bound what a handle keeps: 512 MiB, and 64 MiB where addresses
	// have 32 bits. A queue of the usual size holds some 270 references.
	maxSpares     = 512
	maxSpareBytes = 64 << 20 << (3 * (^uint(0) >> 63))
	// A handle keeps no more than one part in spareShare of what is free in the file system.
	spareShare = 8
	// spareFiles is which part of the process's descriptors they may be.
	spareFiles = 8
)

// spare is a file that may be used again.
type spare struct {
	store *Store
	name  string
	fd    int
	ino   uint64

	// Of whoever has it busy.
	size   int64  // of the text that it has, or had
	mem    []byte // the file, mapped; nil: not yet
	locked bool   // TextLock

	busy bool // guarded by store.mu
	used bool // since DropIdle looked; guarded by store.mu
}

// keepFile keeps the file of p, which is complete and has its name.
func (s *Store) keepFile(p *Pending) {
	size := int64(p.Ref.Size)
	s.mu.Lock()
	all := s.spareBytes + size
	s.puts++
	room := s.puts > 1 && s.current != nil && len(s.spares) < s.mostSpares && all <= s.mostBytes
	s.mu.Unlock()
	if !room {
		return
	}
	if _, free, err := sysv.Space(p.fd); err != nil || free/spareShare < uint64(all) {
		return
	}
	info, err := sysv.StatFile(p.fd)
	if err != nil {
		return
	}
	sp := &spare{store: s, name: randomName() + spareSuffix, fd: p.fd, ino: info.Ino, size: size, locked: true, busy: true}
	if sysv.LinkName(s.dir, nameOf(p.Ref), s.dir, sp.name) != nil {
		return
	}
	step("kept")
	p.spare = sp
	s.mu.Lock()
	defer s.mu.Unlock()
	s.spares = append(s.spares, sp)
	s.spareBytes += size
	s.keeps()
}

// Kept returns a channel that has a value when the handle keeps something that DropIdle may give
// up.
func (s *Store) Kept() <-chan struct{} { return s.kept }

// keeps needs mu.
func (s *Store) keeps() {
	if len(s.spares)+len(s.mappings) == 1 {
		select {
		case s.kept <- struct{}{}:
		default: // there is one
		}
	}
}

// takeSpare returns one that is free, and fits a text of so many bytes. It returns nil if there
// is none among those that were used longest ago.
func (s *Store) takeSpare(size int) *spare {
	for range 2 {
		sp := s.oldestSpare(int64(size))
		if sp == nil {
			return nil
		}
		switch there, free := sp.look(); {
		case !there:
			s.dropSpare(sp) // somebody has removed it
		case free:
			return sp
		default:
			s.putSpare(sp, false)
		}
	}
	return nil
}

// look reports whether a spare has its name, and no other.
func (sp *spare) look() (there, free bool) {
	info, err := sysv.StatName(sp.store.dir, sp.name)
	there = err == nil && info.Ino == sp.ino
	return there, there && info.Links == 1
}

// oldestSpare returns one for takeSpare to look at, and makes it the newest.
func (s *Store) oldestSpare(size int64) *spare {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.IndexFunc(s.spares, func(sp *spare) bool {
		return !sp.busy && size/2 <= sp.size && sp.size/2 <= size
	})
	if at < 0 || s.current == nil {
		return nil
	}
	sp := s.spares[at]
	s.spares = append(slices.Delete(s.spares, at, at+1), sp)
	sp.busy = true
	return sp
}

// rewrite makes the file of a spare that of the text, with a new name.
func (s *Store) rewrite(p *Pending, text []byte) (err error) {
	sp := p.spare
	if size := int64(len(text)); size != sp.size {
		if err := s.resize(sp, size); err != nil {
			return err
		}
	}
	if !sp.locked {
		if err := sysv.Share(sp.fd); err != nil {
			return err
		}
		sp.locked = true
	}
	p.fd = sp.fd
	if p.Ref.Sum, err = sp.write(text); err != nil {
		return err
	}
	step("written")
	err = link(p.newName, func(name string) error { return sysv.LinkName(s.dir, sp.name, s.dir, name) })
	step("named")
	return err
}

// write writes a text over the last one.
func (sp *spare) write(text []byte) (sum uint32, err error) {
	if len(text) < mapMin {
		return write(sp.fd, text)
	}
	if sp.mem == nil {
		if sp.mem, err = sysv.MapWrite(sp.fd, len(text)); err != nil {
			return write(sp.fd, text)
		}
	}
	err = guarded(func() { sum = copySummed(sp.mem, text) })
	return sum, err
}

// unmap ends the mapping.
func (sp *spare) unmap() {
	if sp.mem != nil {
		_ = sysv.Unmap(sp.mem) // it was mapped
		sp.mem = nil
	}
}

func (s *Store) resize(sp *spare, size int64) error {
	s.mu.Lock()
	s.spareBytes += size - sp.size
	sp.size = size
	s.mu.Unlock()
	if int64(len(sp.mem)) < size {
		sp.unmap()
	}
	if err := sysv.Truncate(sp.fd, size); err != nil {
		return err
	}
	return s.allocate(sp.fd, int(size))
}

// putSpare lets a spare be used again, and notes whether it was.
func (s *Store) putSpare(sp *spare, used bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sp.busy, sp.used = false, sp.used || used
	if s.current == nil {
		s.removeSpare(sp)
	}
}

// dropSpare forgets a spare, and closes the file.
func (s *Store) dropSpare(sp *spare) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removeSpare(sp)
}

// disown forgets the spare of a file that stays open.
func (sp *spare) disown() {
	sp.store.mu.Lock()
	defer sp.store.mu.Unlock()
	sp.store.forgetSpare(sp)
	sp.unmap()
}

// removeSpare needs mu.
func (s *Store) removeSpare(sp *spare) {
	if _, free := sp.look(); free {
		_ = sysv.Truncate(sp.fd, 0) // or who has mapped it would keep its memory
	}
	s.forgetSpare(sp)
	sp.unmap()
	_ = sysv.CloseFile(sp.fd) // what was written is somebody else's by now
}

// forgetSpare needs mu.
func (s *Store) forgetSpare(sp *spare) {
	s.spares = slices.DeleteFunc(s.spares, func(other *spare) bool { return other == sp })
	s.spareBytes -= sp.size
	_ = sysv.RemoveFile(s.dir, sp.name) // at worst it is collected
}

// dropSpares gives up those that nobody has, and reports whether there were any.
func (s *Store) dropSpares() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removeSpares(func(*spare) bool { return true })
}

// DropIdle gives up the spares and the mappings that were not used since the last call. It
// reports whether there are others.
func (s *Store) DropIdle() (left bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts = 0
	s.removeSpares(func(sp *spare) bool { return !sp.used })
	for _, sp := range s.spares {
		sp.used = false
		if !sp.busy && sp.locked {
			sp.locked = sysv.Unlock(sp.fd) != nil // its message may have been lost
		}
	}
	s.removeMappings(func(m *mapping) bool { return !m.used })
	for _, m := range s.mappings {
		m.used = false
	}
	return len(s.spares)+len(s.mappings) > 0
}

// removeSpares needs mu.
func (s *Store) removeSpares(which func(*spare) bool) (removed bool) {
	for _, sp := range slices.Clone(s.spares) {
		if !sp.busy && which(sp) {
			s.removeSpare(sp)
			removed = true
		}
	}
	return removed
}

// collectSpare removes the name of a spare whose owner is dead.
func (s *Store) collectSpare(name string) {
	fd, err := sysv.OpenBeneath(s.dir, name)
	if err != nil {
		return
	}
	defer sysv.CloseFile(fd)
	if kept, err := sysv.KeptLock.Locked(fd); err == nil && !kept {
		_ = sysv.RemoveFile(s.dir, name) // at worst the next one does
	}
}

func isSpare(name string) bool { return strings.HasSuffix(name, spareSuffix) }
