package large

import (
	"fmt"
	"runtime/debug"
	"syscall"

	"github.com/chanmq/chanmq/internal/sysv"
)

// This file is files in memory. Senders use files again, so receivers see the same ones again
// and again, and keep them mapped: to map one costs much more than to copy it, and so does the
// end of a mapping, which takes interrupts of other processors.

const (
	// mapMin is the size from which on texts are mapped, if their file has been seen before.
	mapMin = 16 << 10
	// borrowMin is that from which on a text that is borrowed is mapped the first time.
	borrowMin = 1 << 20
	// maxMappings and maxMappedBytes bound what a handle keeps mapped.
	maxMappings    = maxSpares
	maxMappedBytes = maxSpareBytes
)

// mapping is a file that is mapped for reading.
type mapping struct {
	ino   uint64
	mem   []byte
	users int  // who reads it; guarded by store.mu
	used  bool // since DropIdle looked; guarded by store.mu
	kept  bool // in store.mappings; guarded by store.mu
}

// mapFile returns the file of f, mapped, until unmap. It returns nil where a copy costs less, or
// if it cannot be mapped. If always is set, the text is to be borrowed.
func (s *Store) mapFile(f *File, always bool) *mapping {
	size := int(f.Ref.Size)
	if size < mapMin {
		return nil
	}
	s.mu.Lock()
	f.mapped = true
	m := s.mappings[f.ino]
	if m != nil && len(m.mem) >= size {
		m.users++
		m.used = true
		s.mu.Unlock()
		return m
	}
	if m != nil && m.users == 0 {
		s.removeMapping(m) // the file was shorter then
	}
	_, again := s.seen[f.ino]
	f.mapped = again || always && size >= borrowMin
	if len(s.seen) >= 2*maxMappings {
		clear(s.seen)
	}
	s.seen[f.ino] = struct{}{}
	s.mu.Unlock()
	if !f.mapped {
		return nil
	}
	mem, err := sysv.MapRead(f.fd, size)
	if err != nil {
		return nil
	}
	m = &mapping{ino: f.ino, mem: mem, users: 1, used: true}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mappings[f.ino] == nil && s.current != nil && len(s.mappings) < maxMappings && s.mappedBytes+size <= maxMappedBytes {
		m.kept = true
		s.mappings[f.ino] = m
		s.mappedBytes += size
		s.keeps()
	}
	return m
}

// unmap ends the use of a mapping.
func (s *Store) unmap(m *mapping) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.users--; m.users > 0 {
		return
	}
	switch {
	case !m.kept:
		_ = sysv.Unmap(m.mem) // it was mapped
	case s.current == nil:
		s.removeMapping(m)
	}
}

// dropMapping ends that of a file which nobody will use again.
func (s *Store) dropMapping(ino uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.mappings[ino]; m != nil && m.users == 0 {
		s.removeMapping(m)
	}
}

// removeMapping needs mu, and a mapping that nobody uses.
func (s *Store) removeMapping(m *mapping) {
	delete(s.mappings, m.ino)
	s.mappedBytes -= len(m.mem)
	_ = sysv.Unmap(m.mem) // it was mapped
}

// removeMappings needs mu.
func (s *Store) removeMappings(which func(*mapping) bool) {
	for _, m := range s.mappings {
		if m.users == 0 && which(m) {
			s.removeMapping(m)
		}
	}
}

// guarded calls f, which uses memory of a file, and returns an error if somebody has made the
// file shorter meanwhile, against the rules. The process would end by SIGBUS.
func guarded(f func()) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch fault := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }: // see debug.SetPanicOnFault
			err = fmt.Errorf("somebody has made the file shorter: %w", syscall.EIO)
		default:
			panic(fault)
		}
	}()
	f()
	return nil
}
