// Package journal receives messages into memory that outlives the process.
//
// A message that msgrcv(2) has taken off a queue exists nowhere but in the memory of
// the process, and dies with it. A [Journal] is a file on tmpfs whose memory a handle
// receives into: its [Slot]s are the buffers. Whatever ends the process, SIGKILL too,
// a slot then either holds the message whole, or is empty, because
//
//   - a message that the kernel has taken off a queue is always copied to the
//     receiver's buffer before a fatal signal acts (ipc/msg.c, do_msgrcv);
//   - the kernel writes the type (mtype, never 0) before the text, and a slot has
//     type 0 before the call;
//   - a shared mapping of a file on tmpfs is the file, and needs no write.
//
// A slot costs memory stores only, no system call. What dies with the process is the
// result of msgrcv, the length of the text: it is found from the byte that the slot
// was filled with before, see [LengthHint].
//
// A journal is locked (flock(2)) by the process that receives into it. The kernel lets
// go of the lock with the process, and any other process of the same user can then
// take it, and with it the messages: [Adopt], [Watch]. It works on the file of the
// dead process until all is acknowledged, so that its own death loses nothing.
//
// docs/journal.md has the format of the file, the order of the stores, and what is
// promised. On systems other than Linux every call returns an error matching
// errors.ErrUnsupported.
package journal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/chanmq/chanmq/internal/sysv"
)

const (
	minRoom = 256 // bytes of text that the smallest slot has room for
	classes = 23  // of slots, each twice as large as the one before: up to 1 GiB
	// maxGrowth is how much a file grows at once, if several slots fit that.
	maxGrowth = 1 << 20
	maxPages  = math.MaxUint32 // of a file
)

// MaxRoom is the number of bytes of text that the largest slot has room for.
const MaxRoom = minRoom << (classes - 1)

// ErrTooLarge is the error of Slot if no slot has so much room.
var ErrTooLarge = errors.New("journal: larger than the largest slot")

// A Journal is the file that one handle receives into. Its methods are safe for
// concurrent use.
type Journal struct {
	dir  *directory
	page int // the size of a page, the unit of the file
	name string
	path string

	mu       sync.Mutex
	fd       int
	header   []byte         // the mapping of the first page; guarded by mu
	used     *atomic.Uint32 // the word of the header with the number of pages
	mappings [][]byte
	free     [classes][]*Slot // least recently released first
	slots    []*Slot          // all of them
	total    [classes]int
	inUse    int  // slots that were handed out
	left     int  // slots that were released with a message
	closed   bool // Close was called

	ends [256]atomic.Uint64 // how many messages of unknown length ended in each byte
	fill atomic.Uint32      // the byte that ended the fewest of them
}

// Open creates a journal for messages of the queue, in a directory on tmpfs; "" is
// one of the user's own in /dev/shm. The directory is created if it does not exist,
// is the user's alone, and is not a symbolic link. A *SpaceError says that there is
// not enough room.
//
// Journals of others in the directory are not touched: see [Adopt]. An emulator of system
// calls that would lose messages is refused, with an error matching
// errors.ErrUnsupported.
func Open(dir string, queue Identity) (*Journal, error) {
	d, err := openDirectory(dir, true)
	if err != nil {
		return nil, err
	}
	if err := probe(); err != nil {
		d.release()
		return nil, err
	}
	j := &Journal{dir: d, fd: -1, page: os.Getpagesize()}
	j.fill.Store(defaultFill)
	if err := j.create(queue); err != nil {
		d.release()
		return nil, err
	}
	return j, nil
}

// probe is emulated, but for tests.
var probe = emulated

// emulated returns an error under qemu-user. That receives into memory of its own, and
// copies from there, and it writes a type even when it has received nothing
// (linux-user/syscall.c, do_msgrcv). The kernel leaves the buffer alone then.
func emulated() error {
	const typ, noQueue = 0x5A5A5A, -1
	buf := sysv.Buffer(0)
	sysv.PutType(buf, typ)
	if _, err := sysv.Host().Receive(noQueue, buf, 0, 0); err == nil || sysv.Type(buf) != typ {
		return fmt.Errorf("journal: msgrcv is emulated (qemu-user?), and does not receive into the journal: %w", errors.ErrUnsupported)
	}
	return nil
}

// create makes the file under a name that Adopt does not look at, locks it, and gives
// it its own name when it is complete: so no other process finds one that is not
// locked yet, or that is not written yet.
func (j *Journal) create(queue Identity) error {
	for range 100 {
		var random [8]byte
		_, _ = rand.Read(random[:]) // it does not fail
		j.name = fmt.Sprintf("%d-%x%s", queue.ID, random, suffix)
		j.path = j.dir.join(j.name)
		unfinished := j.name + unfinishedSuffix
		created, err := j.createAs(unfinished, queue)
		if err == nil && !created {
			continue
		}
		if err != nil {
			j.discard(unfinished)
			return err
		}
		return nil
	}
	return fmt.Errorf("journal: cannot create a file in %s", j.dir.path)
}

// createAs reports false if another process has removed the file as one whose creator
// is dead.
func (j *Journal) createAs(unfinished string, queue Identity) (bool, error) {
	fd, err := sysv.CreateFile(j.dir.fd, unfinished)
	if err == syscall.EEXIST {
		return false, nil
	}
	if err != nil {
		return false, &fs.PathError{Op: "create journal", Path: j.path, Err: err}
	}
	j.fd = fd
	step("created")
	locked, err := sysv.TryLock(fd)
	if err != nil {
		return false, &fs.PathError{Op: "lock journal", Path: j.path, Err: err}
	}
	info, err := sysv.StatFile(fd)
	if err != nil {
		return false, &fs.PathError{Op: "stat journal", Path: j.path, Err: err}
	}
	if !locked || info.Links == 0 {
		j.discard(unfinished)
		return false, nil
	}
	step("locked")
	mem, err := j.allocate(0, j.page)
	if err != nil {
		return false, err
	}
	j.header = mem
	putHeader(mem, queue, j.page)
	j.used = sysv.Uint32(mem, headerUsed)
	j.used.Store(1)
	if err := j.grow(0); err != nil {
		return false, err
	}
	step("written")
	if err := sysv.RenameFile(j.dir.fd, unfinished, j.name); err != nil {
		return false, &fs.PathError{Op: "rename journal", Path: j.path, Err: err}
	}
	step("named")
	return true, nil
}

// discard undoes create.
func (j *Journal) discard(unfinished string) {
	if j.fd < 0 {
		return
	}
	// Whatever fails here leaves a file that the next scan removes.
	_ = sysv.RemoveFile(j.dir.fd, unfinished)
	_ = j.unmap()
	_ = sysv.CloseFile(j.fd)
	j.fd = -1
}

// allocate gets storage for a part of the file, and maps it. The order matters: a
// store to a page that the file system has no room for would be a SIGBUS, and
// msgrcv into it would lose the message.
func (j *Journal) allocate(offset int64, size int) ([]byte, error) {
	if err := sysv.Allocate(j.fd, offset, int64(size)); err != nil {
		if err == syscall.ENOSPC {
			_, free, _ := sysv.Space(j.fd) // 0 if that is unknown
			return nil, &SpaceError{Dir: j.dir.path, Need: uint64(size), Free: free}
		}
		return nil, &fs.PathError{Op: "allocate journal", Path: j.path, Err: err}
	}
	step("allocated")
	mem, err := sysv.Map(j.fd, offset, size)
	if err != nil {
		return nil, &fs.PathError{Op: "map journal", Path: j.path, Err: err}
	}
	j.mappings = append(j.mappings, mem)
	step("mapped")
	return mem, nil
}

// SetChanged records the queue's change time (Stat.ChangeTime) after IPC_SET by this
// process: part of its identity.
func (j *Journal) SetChanged(seconds int64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.header != nil {
		sysv.Uint32(j.header, headerChanged).Store(uint32(seconds))
	}
}

// Path returns the name of the file.
func (j *Journal) Path() string { return j.path }

// Slot returns an empty slot with room for at least that many bytes of text. The file
// grows if there is none. If that fails, nothing has changed: the error is then a
// *SpaceError, ErrTooLarge, or one of the kernel. After Close it is fs.ErrClosed.
func (j *Journal) Slot(room int) (*Slot, error) {
	class := 0
	for minRoom<<class < room {
		if class++; class == classes {
			return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, room)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, fmt.Errorf("journal %s: %w", j.path, fs.ErrClosed)
	}
	if len(j.free[class]) == 0 {
		if err := j.grow(class); err != nil {
			return nil, err
		}
	}
	last := len(j.free[class]) - 1
	s := j.free[class][last]
	j.free[class] = j.free[class][:last]
	j.inUse++
	s.released = false
	return s, nil
}

// grow adds slots, as many as there are if the file system has room for so many. It
// needs mu, or to be the only one that knows j.
func (j *Journal) grow(class int) error {
	stride := slotHeader + minRoom<<class
	count := max(1, min(j.total[class], maxGrowth/stride))
	err := j.extend(class, count)
	var full *SpaceError
	if errors.As(err, &full) && count > 1 {
		err = j.extend(class, 1)
	}
	return err
}

// extend adds at least count slots: an extent. It is part of the file when the
// header's number of pages includes it, and not before.
func (j *Journal) extend(class, count int) error {
	room := minRoom << class
	stride := slotHeader + room
	pages := (extentHeader + count*stride + j.page - 1) / j.page
	if used := j.used.Load(); uint64(used)+uint64(pages) > maxPages {
		return fmt.Errorf("journal %s: %w", j.path, ErrTooLarge)
	}
	offset := int64(j.used.Load()) * int64(j.page)
	mem, err := j.allocate(offset, pages*j.page)
	if err != nil {
		return err
	}
	count = (len(mem) - extentHeader) / stride // what else fits the last page
	putExtent(mem, pages, room, count)
	added := make([]*Slot, count)
	for i := range added {
		added[i] = newSlot(j, class, mem[extentHeader+i*stride:][:stride:stride])
	}
	step("extent written")
	j.used.Store(j.used.Load() + uint32(pages))
	step("extent committed")
	j.total[class] += count
	j.slots = append(j.slots, added...)
	slices.Reverse(added) // the first one is the first to be used
	j.free[class] = append(j.free[class], added...)
	return nil
}

// release takes back a slot.
func (j *Journal) release(s *Slot) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if s.released {
		return
	}
	s.released = true
	j.inUse--
	if s.Held() {
		j.left++
	} else {
		j.free[s.class] = append(j.free[s.class], s)
	}
	if j.closed && j.inUse == 0 {
		_ = j.finish() // Close has returned; what is left is found by the next scan
	}
}

// Close ends the journal. The file stays locked, and mapped, until the last slot is
// released, so that messages that the program still has can be acknowledged, and
// their memory stays valid; Close does not wait for that. Then it is removed, or, if
// slots were released with a message, left to whoever adopts it.
// Close may be called again.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil
	}
	j.closed = true
	if j.inUse > 0 {
		return nil
	}
	return j.finish()
}

// finish removes the file, if it is empty, and lets go of it. It needs mu.
func (j *Journal) finish() error {
	var errs []error
	step("closing")
	if j.left == 0 {
		// Before it is unlocked: nobody adopts it.
		if err := sysv.RemoveFile(j.dir.fd, j.name); err != nil && err != syscall.ENOENT {
			errs = append(errs, &fs.PathError{Op: "remove journal", Path: j.path, Err: err})
		}
	}
	step("removed")
	for _, s := range j.slots {
		s.forget()
	}
	errs = append(errs, j.unmap())
	step("unmapped")
	if err := sysv.CloseFile(j.fd); err != nil {
		errs = append(errs, &fs.PathError{Op: "close journal", Path: j.path, Err: err})
	}
	j.dir.release()
	j.slots, j.free = nil, [classes][]*Slot{}
	return errors.Join(errs...)
}

func (j *Journal) unmap() error {
	var errs []error
	for _, mem := range j.mappings {
		if err := sysv.Unmap(mem); err != nil {
			errs = append(errs, &fs.PathError{Op: "unmap journal", Path: j.path, Err: err})
		}
	}
	j.mappings, j.header, j.used = nil, nil, nil
	return errors.Join(errs...)
}

// ended counts the last byte of a message whose length has to be guessed if the
// process dies, and chooses the byte to fill with. A change means that each slot is
// filled anew, so the byte must be clearly worse than the best.
func (j *Journal) ended(b byte) {
	n := j.ends[b].Add(1)
	if uint32(b) != j.fill.Load() {
		return
	}
	best := b
	fewest := n
	for i := range j.ends {
		// From the end: bytes that are common in text and in numbers are low.
		c := byte(len(j.ends) - 1 - i)
		if count := j.ends[c].Load(); count < fewest {
			best, fewest = c, count
		}
	}
	if n > 2*fewest+1 {
		j.fill.Store(uint32(best))
	}
}

// step is called between the steps of everything but receiving. Tests replace it, to
// look at what a kill would leave there.
var step = func(string) {}

var native = binary.NativeEndian
