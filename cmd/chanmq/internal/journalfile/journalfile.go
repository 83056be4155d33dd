// Package journalfile looks at journals (docs/journal.md of the library) without locking
// them: whose they are, and how many messages they hold. Taking the lock, even for a
// moment, could keep a living program from adopting a journal.
package journalfile

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// A File is a journal.
type File struct {
	Path      string
	Err       error // why it cannot be read; only Path is known then
	Key       int32 // of the queue; 0: private
	ID        int
	PID       int // of the process that made it
	Namespace uint64
	Messages  int
	Locked    Locked
}

// Locked is whether a living process has the journal.
type Locked int

const (
	Unknown Locked = iota
	Yes
	No
)

// DefaultDir is the directory that the library uses if none is named.
func DefaultDir() string { return "/dev/shm/chanmq-" + strconv.Itoa(os.Geteuid()) }

// List looks at the journals of a directory. One that does not exist has none.
func List(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	locks, locksErr := os.ReadFile("/proc/locks")
	var files []File
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".journal") {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		f, locked := look(path, string(locks))
		if os.IsNotExist(f.Err) {
			continue // its owner has removed it just now
		}
		if locksErr == nil && locked != Unknown {
			f.Locked = locked
		}
		files = append(files, f)
	}
	slices.SortFunc(files, func(x, y File) int { return strings.Compare(x.Path, y.Path) })
	return files, nil
}

// LockOf returns whether a living process has a file locked, as far as /proc/locks says.
func LockOf(path string) Locked {
	info, err := os.Stat(path)
	if err != nil {
		return Unknown
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return Unknown
	}
	return lockOf(string(locks), info)
}

func look(path, locks string) (File, Locked) {
	f, err := os.Open(path)
	if err != nil {
		return File{Path: path, Err: err}, Unknown
	}
	defer f.Close() // it is only read
	locked := Unknown
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		return File{Path: path, Err: fmt.Errorf("it is no regular file")}, Unknown
	}
	if err == nil {
		locked = lockOf(locks, info)
	}
	j, err := read(f, info.Size())
	if err != nil {
		return File{Path: path, Err: err}, locked
	}
	j.Path = path
	return j, locked
}

// Offsets in an extent and in a slot, and sizes, from docs/journal.md.
const (
	headerSize  = 104
	extentMagic = 0x4A514D43
	extentSize  = 64
	slotHeader  = 64
	slotLength  = 8
	slotValues  = 24
	slotMoved   = 28
	maxValues   = 1<<16 - 1
	maxFile     = 1 << 40
)

// read reads a journal. Every number in it is checked before it is used.
func read(r io.ReaderAt, size int64) (File, error) {
	header := make([]byte, headerSize)
	if _, err := r.ReadAt(header, 0); err != nil {
		return File{}, fmt.Errorf("it has no header: %w", err)
	}
	order := binary.NativeEndian
	u32 := func(b []byte, at int) uint32 { return order.Uint32(b[at:]) }
	switch {
	case !bytes.HasPrefix(header, []byte("chanmqJ\n")):
		return File{}, fmt.Errorf("it is no journal")
	case u32(header, 8) != 0x01020304:
		return File{}, fmt.Errorf("its byte order is another machine's")
	case u32(header, 12) != 1:
		return File{}, fmt.Errorf("its version is %d, and this program knows 1", u32(header, 12))
	case u32(header, 16) != strconv.IntSize/8:
		return File{}, fmt.Errorf("its C long has %d bytes", u32(header, 16))
	case u32(header, 96) != crc32.ChecksumIEEE(header[:96]):
		return File{}, fmt.Errorf("it is damaged")
	}
	page, long := int64(u32(header, 20)), int64(u32(header, 16))
	if page < 1<<10 || page > 1<<20 {
		return File{}, fmt.Errorf("it has pages of %d bytes", page)
	}
	f := File{
		Namespace: order.Uint64(header[48:]),
		ID:        int(int32(u32(header, 68))),
		Key:       int32(u32(header, 72)),
		PID:       int(u32(header, 84)),
	}
	end := min(int64(u32(header, 100))*page, size, maxFile)
	for at := page; at < end; {
		extent := make([]byte, 20)
		if _, err := r.ReadAt(extent, at); err != nil {
			return File{}, fmt.Errorf("it is damaged: %w", err)
		}
		pages, text, slots := int64(u32(extent, 4)), int64(u32(extent, 8)), int64(u32(extent, 12))
		if u32(extent, 0) != extentMagic || u32(extent, 16) != crc32.ChecksumIEEE(extent[:16]) ||
			pages == 0 || extentSize+slots*(slotHeader+text) > pages*page || at+pages*page > end {
			return File{}, fmt.Errorf("it is damaged")
		}
		slot := make([]byte, slotHeader)
		for i := range slots {
			if _, err := r.ReadAt(slot, at+extentSize+i*(slotHeader+text)); err != nil {
				return File{}, fmt.Errorf("it is damaged: %w", err)
			}
			if typ := slot[slotHeader-long:]; !slices.ContainsFunc(typ, func(b byte) bool { return b != 0 }) {
				continue
			}
			f.Messages++
			// A pack has so many values, of which some have slots of their own.
			if values, moved := u32(slot, slotValues), u32(slot, slotMoved); u32(slot, slotLength) > 0 && moved < values && values <= maxValues {
				f.Messages += int(values-moved) - 1
			}
		}
		at += pages * page
	}
	return f, nil
}

// parseLock reports whether a line of /proc/locks is a flock(2) of the file.
func parseLock(line string, major, minor uint32, inode uint64) bool {
	fields := strings.Fields(line)
	if len(fields) > 1 && fields[1] == "->" { // it only waits
		return false
	}
	return len(fields) >= 6 && fields[1] == "FLOCK" && fields[5] == fmt.Sprintf("%02x:%02x:%d", major, minor, inode)
}
