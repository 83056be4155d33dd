package sysv

import (
	"sync/atomic"
	"unsafe"
)

// This file and file_linux.go are what internal/journal needs of the kernel: files
// that are locked, allocated, mapped and watched, by descriptor.

// FileInfo is the part of struct stat that identifies a file and its owner.
type FileInfo struct {
	Dev, Ino, Links uint64
	UID, GID        uint32
	Perm            uint32 // the permission bits
	Regular, Dir    bool
	Size            int64 // in bytes
	Allocated       int64 // bytes of storage, less than Size if there are holes
}

// Event is one that a Watch reports.
type Event struct {
	Name string // of the file that a process closed after it may have written to it
	Lost bool   // events were lost, look at all files
}

// Uint32 returns the word at an offset as one for atomic access. It panics if the
// word is not inside b, or not aligned.
func Uint32(b []byte, offset int) *atomic.Uint32 {
	// unsafe rule (1): an atomic.Uint32 is one uint32, for which word has checked
	// size and alignment.
	return (*atomic.Uint32)(word(b, offset, unsafe.Sizeof(uint32(0))))
}

// Long is Uint32 for a C long: the type of a message.
func Long(b []byte, offset int) *atomic.Uintptr {
	// unsafe rule (1): an atomic.Uintptr is one uintptr, as large as C's long.
	return (*atomic.Uintptr)(word(b, offset, unsafe.Sizeof(uintptr(0))))
}

func word(b []byte, offset int, size uintptr) unsafe.Pointer {
	w := b[offset:][:size]
	p := unsafe.Pointer(&w[0]) // unsafe rule (1): the caller converts it to a word of this size
	if uintptr(p)%size != 0 {
		panic("sysv: a word that is not aligned")
	}
	return p
}
