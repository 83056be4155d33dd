// Package large keeps texts that are too large for a message in files: a [Store] has those of
// one queue, and the message is a reference, [envelope.Ref].
//
// A file lives as long as its message. It is complete before it has a name, and has the name
// before the message is sent; who has dealt with the message removes it. What processes leave
// that are killed in between is found by [Store.Collect], which removes what nobody refers to:
// the rules that make this provable are in collect.go.
//
// A reference has no name of a file, but numbers of which the name is made, in the one
// directory of the queue. So there is nothing else that it could reach.
//
// On systems other than Linux every call returns an error matching errors.ErrUnsupported.
package large

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/sysv"
)

const (
	leaseSuffix = ".lease"
	newSuffix   = ".new" // its creator has not finished it; only where files need a name at once
)

// sticky is S_ISVTX: in such a directory only the owner of a file renames or removes it.
const sticky = 0o1000

// castagnoli makes the checksum of texts. Processors have an instruction for it, so that it
// costs little beside the copy, and C and Python programs have it too. It finds damage, and
// is no secret: who may write to the queue is trusted with what is in it.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// pieceSize is what is copied and summed up at once, so that it is still in the cache.
const pieceSize = 64 << 10

// Config says of which queue the texts are.
type Config struct {
	Dir     string           // where the queue has a directory of its own; "": journal.DefaultDir
	Queue   journal.Identity // which queue it is
	Stat    sysv.Stat        // whose it is, and who may use it
	Journal string           // the file that the handle receives into; "": none
}

// A Store has the files of one queue, for one handle. Its methods are safe for concurrent use.
type Store struct {
	path     string // of the queue's directory
	id       [16]byte
	root     int // descriptor of Config.Dir
	dir      int // descriptor of the queue's directory
	perm     perm
	uid, gid int
	own      bool // files are as they should be when they are created
	journal  string

	mu      sync.Mutex
	current *Lease // nil: closed; guarded by mu
	gone    bool   // the queue does not exist any more; guarded by mu
	users   int    // who needs the descriptors: the handle, leases, Files, Pendings; guarded by mu

	spares     []*spare // the one that was used longest ago first; guarded by mu
	spareBytes int64    // of all of them; guarded by mu
	mostSpares int      // how many there may be
	mostBytes  int64    // how many bytes
	puts       int      // texts since DropIdle looked; guarded by mu
	kept       chan struct{}

	mappings    map[uint64]*mapping // by inode; guarded by mu
	mappedBytes int                 // of all of them; guarded by mu
	seen        map[uint64]struct{} // inodes of files that were received lately; guarded by mu

	collecting sync.Mutex
	doubts     map[string]bool // names that nothing refers to but what was taken before; guarded by collecting
	before     map[string]bool // the leases that there were then; guarded by collecting
}

// perm are permission bits that follow a queue's: who may read a message may read its file,
// and who may use the queue may create files, and remove those of messages that were received.
type perm struct{ file, dir uint32 }

func permOf(mode uint32) perm {
	p := perm{file: 0o600, dir: 0o700}
	for shift := 0; shift <= 6; shift += 3 {
		class := mode >> shift
		p.file |= class & 4 << shift
		if class&6 != 0 {
			p.dir |= 7 << shift
		}
	}
	return p
}

// ID returns the number that the directory of a queue is named by: the first half is of the
// IPC namespace, then come the msqid, and the key and the creator.
func ID(q journal.Identity) (id [16]byte) {
	be := binary.BigEndian
	var place []byte
	place = append(place, q.Boot[:]...)
	place = be.AppendUint64(place, q.NamespaceDev)
	place = be.AppendUint64(place, q.NamespaceIno)
	place = be.AppendUint64(place, q.NamespaceID)
	sum := sha256.Sum256(place)
	copy(id[:8], sum[:])
	be.PutUint32(id[8:], uint32(q.ID))
	var who []byte
	who = be.AppendUint32(who, uint32(q.Key))
	who = be.AppendUint32(who, q.CreatorUID)
	who = be.AppendUint32(who, q.CreatorGID)
	sum = sha256.Sum256(who)
	copy(id[12:], sum[:])
	return id
}

// Open opens the directory of a queue, and creates it if there is none.
func Open(c Config) (*Store, error) {
	s := &Store{
		id:      ID(c.Queue),
		root:    -1,
		dir:     -1,
		perm:    permOf(c.Stat.Mode),
		uid:     int(c.Stat.UID),
		gid:     int(c.Stat.GID),
		journal: c.Journal,
		users:   1,

		kept:     make(chan struct{}, 1),
		mappings: make(map[uint64]*mapping),
		seen:     make(map[uint64]struct{}),
	}
	s.mostSpares, s.mostBytes = min(maxSpares, sysv.MaxFiles()/spareFiles), maxSpareBytes
	s.own = s.perm.file == 0o600 && s.uid == os.Geteuid() && s.gid == os.Getegid()
	err := s.openRoot(c)
	if err == nil {
		err = s.openDir(c)
	}
	if err == nil {
		s.current, err = s.newLease()
	}
	if err == nil {
		err = s.checkReadable()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Path returns the name of the directory.
func (s *Store) Path() string { return s.path }

// ID returns what references to its texts have as Dir.
func (s *Store) ID() [16]byte { return s.id }

func (s *Store) openRoot(c Config) error {
	path := c.Dir
	if path == "" {
		path = journal.DefaultDir()
	}
	path, err := filepath.Abs(path) // a slash at the end would follow a symbolic link
	if err != nil {
		return err
	}
	s.path = filepath.Join(path, hex.EncodeToString(s.id[:]))
	s.root, err = sysv.OpenDir(path)
	if err == syscall.ENOENT {
		// Whoever creates it first, it is checked below.
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		s.root, err = sysv.OpenDir(path)
	}
	if err != nil {
		if info, lstatErr := os.Lstat(path); lstatErr == nil && info.Mode()&fs.ModeSymlink != 0 {
			return fmt.Errorf("%s is a symbolic link: %w", path, fs.ErrPermission)
		}
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	info, err := sysv.StatFile(s.root)
	switch {
	case err != nil:
		return &fs.PathError{Op: "stat", Path: path, Err: err}
	case !s.trusts(info.UID, c):
		return fmt.Errorf("directory %s belongs to user %d, who is neither this one, nor root, nor the queue's owner: %w", path, info.UID, fs.ErrPermission)
	case info.Perm&0o002 != 0 && info.Perm&sticky == 0:
		return fmt.Errorf("directory %s has mode %#o, so that anybody can replace what is in it (chmod +t): %w", path, info.Perm, fs.ErrPermission)
	}
	return nil
}

// trusts reports whether a directory of the user cannot be a trap.
func (s *Store) trusts(uid uint32, c Config) bool {
	return uid == uint32(os.Geteuid()) || uid == 0 || uid == c.Stat.UID || uid == c.Stat.CreatorUID
}

// How long another process may take to make a directory accessible that it creates.
const (
	dirTries = 200
	dirPause = time.Millisecond
)

func (s *Store) openDir(c Config) (err error) {
	name := filepath.Base(s.path)
	for range dirTries {
		err = sysv.MakeDir(s.root, name)
		created := err == nil
		if err != nil && err != syscall.EEXIST {
			return &fs.PathError{Op: "mkdir", Path: s.path, Err: err}
		}
		s.dir, err = sysv.OpenDirAt(s.root, name)
		switch {
		case err == nil && created:
			if err := s.give(s.dir, s.perm.dir); err != nil {
				return err
			}
			return s.checkDir(c)
		case err == nil:
			return s.checkDir(c)
		case err != syscall.EACCES && err != syscall.ENOENT:
			return &fs.PathError{Op: "open", Path: s.path, Err: err}
		}
		time.Sleep(dirPause)
	}
	return &fs.PathError{Op: "open", Path: s.path, Err: err}
}

func (s *Store) checkDir(c Config) error {
	info, err := sysv.StatFile(s.dir)
	ours := s.trusts(info.UID, c) || c.Stat.Mode&0o060 != 0 && info.GID == c.Stat.GID || c.Stat.Mode&0o006 != 0
	switch {
	case err != nil:
		return &fs.PathError{Op: "stat", Path: s.path, Err: err}
	case !ours:
		return fmt.Errorf("directory %s belongs to user %d, who may not use the queue: %w", s.path, info.UID, fs.ErrPermission)
	case info.Perm&0o777&^s.perm.dir != 0:
		return fmt.Errorf("directory %s has mode %#o, which lets in more than the queue does, %#o: %w", s.path, info.Perm, s.perm.dir, fs.ErrPermission)
	}
	return nil
}

// give makes a file, or directory, one of the queue's owner and group, as far as this
// process may.
func (s *Store) give(fd int, perm uint32) error {
	if sysv.SetOwner(fd, s.uid, s.gid) != nil {
		_ = sysv.SetOwner(fd, -1, s.gid) // see checkReadable
	}
	if err := sysv.SetPerm(fd, perm); err != nil {
		return &fs.PathError{Op: "chmod", Path: s.path, Err: err}
	}
	return nil
}

// checkReadable finds out whether the queue's owner can read what this process sends.
func (s *Store) checkReadable() error {
	info, err := sysv.StatFile(s.current.fd)
	if err != nil {
		return &fs.PathError{Op: "stat", Path: s.path, Err: err}
	}
	if info.UID == uint32(s.uid) || info.Perm&0o040 != 0 && info.GID == uint32(s.gid) || info.Perm&0o004 != 0 {
		return nil
	}
	return fmt.Errorf("a file of this process would belong to user %d, group %d, with mode %#o, so that the queue's owner, user %d, group %d, could not read it: %w",
		info.UID, info.GID, info.Perm, s.uid, s.gid, fs.ErrPermission)
}

// hold keeps the descriptors open, until release. It reports false if they are closed.
func (s *Store) hold() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users == 0 {
		return false
	}
	s.users++
	return true
}

// retain is hold where something holds them already.
func (s *Store) retain() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

func (s *Store) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget()
}

// forget needs mu.
func (s *Store) forget() {
	if s.users--; s.users > 0 {
		return
	}
	if s.gone {
		_ = sysv.RemoveDir(s.root, filepath.Base(s.path)) // somebody else's, or collected
	}
	for _, fd := range []int{s.dir, s.root} {
		if fd >= 0 {
			_ = sysv.CloseFile(fd) // nothing was written with it
		}
	}
}

// Close ends the lease of the handle. Files that are held can still be read and removed.
func (s *Store) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.current
	s.current = nil
	s.removeSpares(func(*spare) bool { return true })
	s.removeMappings(func(*mapping) bool { return true })
	if l != nil {
		l.retire()
	}
	s.forget()
}

// A Pending is a text whose message is not sent yet.
type Pending struct {
	Ref   envelope.Ref
	store *Store
	fd    int    // locked
	spare *spare // whose the descriptor is; nil: nobody else's
}

// Sent says that the kernel has the message.
func (p *Pending) Sent() {
	if p.spare == nil {
		_ = sysv.CloseFile(p.fd) // all was written, or Put had failed
	} else {
		p.store.putSpare(p.spare, true)
	}
	p.store.release()
}

// Discard says that it was not sent, and removes the file.
func (p *Pending) Discard() {
	_ = sysv.RemoveFile(p.store.dir, nameOf(p.Ref)) // at worst it is collected
	p.Sent()
}

// In reports whether the text is in the store.
func (p *Pending) In(s *Store) bool { return p.store == s }

// Move moves the text to the store of another queue, which the message is sent to instead.
func (p *Pending) Move(to *Store) error {
	l := to.Begin()
	if l == nil {
		return fs.ErrClosed
	}
	defer l.End()
	if err := sysv.LinkName(p.store.dir, nameOf(p.Ref), to.dir, nameOf(p.Ref)); err != nil {
		return &fs.PathError{Op: "link", Path: to.path, Err: err}
	}
	_ = sysv.RemoveFile(p.store.dir, nameOf(p.Ref)) // at worst it is collected
	if p.spare != nil {
		p.spare.disown()
		p.spare = nil
	}
	p.store.release()
	to.retain()
	p.store, p.Ref.Dir = to, to.id
	return nil
}

func nameOf(r envelope.Ref) string { return hex.EncodeToString(r.Name[:]) }

// isName reports whether a name is one that nameOf returns.
func isName(name string) bool {
	b, err := hex.DecodeString(name)
	return err == nil && len(b) == 16 && name == hex.EncodeToString(b)
}

// Put writes a text to a new file, which is complete before it has its name. If there is an
// error, nothing is left: syscall.ENOSPC and EDQUOT say that there is no space for it.
func (s *Store) Put(text []byte) (*Pending, error) {
	l := s.Begin()
	if l == nil {
		return nil, fs.ErrClosed
	}
	defer l.End()
	p := &Pending{store: s}
	p.Ref.Dir, p.Ref.Size = s.id, uint64(len(text))
	if p.spare = s.takeSpare(len(text)); p.spare != nil {
		if s.rewrite(p, text) == nil {
			s.retain()
			return p, nil
		}
		s.dropSpare(p.spare) // a new file has the same error, or none
		p.spare = nil
	}
	err := s.putNew(p, text)
	if isScarce(err) && s.dropSpares() {
		err = s.putNew(p, text)
	}
	if err != nil {
		return nil, err
	}
	s.keepFile(p)
	s.retain()
	return p, nil
}

// isScarce reports whether an error says that there is too little of what spares keep.
func isScarce(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) ||
		errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// putNew is Put to a file of its own.
func (s *Store) putNew(p *Pending, text []byte) error {
	return s.create(&p.fd, "", func() error {
		if err := s.allocate(p.fd, len(text)); err != nil {
			return err
		}
		sum, err := write(p.fd, text)
		p.Ref.Sum = sum
		return err
	}, p.newName)
}

// newName gives it a name.
func (p *Pending) newName() string {
	_, _ = rand.Read(p.Ref.Name[:]) // it does not fail
	return nameOf(p.Ref)
}

// randomName returns one that is like that of a text.
func randomName() string { return new(Pending).newName() }

// link calls f with names until one is free.
func link(name func() string, f func(name string) error) error {
	for {
		if err := f(name()); err != syscall.EEXIST {
			return err
		}
	}
}

// allocate gets storage before anything is written: what is not there ends as an error of
// this call, and not in the middle of the text.
func (s *Store) allocate(fd, size int) error {
	if size == 0 {
		return nil
	}
	err := sysv.Allocate(fd, 0, int64(size))
	switch {
	case errors.Is(err, errors.ErrUnsupported):
		return nil // the file system cannot, so write says it
	case err == syscall.ENOSPC || err == syscall.EDQUOT:
		_ = sysv.Truncate(fd, 0)     // what was there is not what is missing
		_, free, _ := sysv.Space(fd) // 0 if that is unknown
		return fmt.Errorf("%d bytes are needed in %s, and %d are free in its file system (df %s): %w", size, s.path, free, s.path, err)
	}
	return err
}

// write writes a text, and returns its checksum.
func write(fd int, text []byte) (sum uint32, err error) {
	for at := 0; at < len(text); at += pieceSize {
		piece := text[at:min(at+pieceSize, len(text))]
		sum = crc32.Update(sum, castagnoli, piece)
		if err := sysv.WriteAllAt(fd, piece, int64(at)); err != nil {
			return 0, err
		}
	}
	return sum, nil
}

// copySummed copies a text, and returns its checksum: of each piece when it is in the cache,
// since the checksum of one that is not takes three times as long as the copy.
func copySummed(dst, text []byte) (sum uint32) {
	for at := 0; at < len(text); at += pieceSize {
		n := copy(dst[at:], text[at:min(at+pieceSize, len(text))])
		sum = crc32.Update(sum, castagnoli, dst[at:at+n])
	}
	return sum
}

// sumUp returns the checksum of a text, by a copy of each piece: see copySummed.
func sumUp(text []byte) (sum uint32) {
	own := scratch.Get().(*[pieceSize]byte)
	defer scratch.Put(own)
	for at := 0; at < len(text); at += pieceSize {
		sum = crc32.Update(sum, castagnoli, own[:copy(own[:], text[at:])])
	}
	return sum
}

var scratch = sync.Pool{New: func() any { return new([pieceSize]byte) }}

// create makes a file that is complete, locked, and has the rights it needs before it has
// its name: name is called until it returns one that is free.
func (s *Store) create(fd *int, suffix string, fill func() error, name func() string) error {
	unnamed := true
	unfinished := ""
	var err error
	*fd, err = sysv.CreateUnnamed(s.dir)
	if sysv.NoUnnamedFiles(err) {
		unnamed = false
		unfinished = name() + suffix + newSuffix
		*fd, err = sysv.CreateFile(s.dir, unfinished)
	}
	if err != nil {
		return &fs.PathError{Op: "create", Path: s.path, Err: err}
	}
	if err = sysv.Share(*fd); err == nil {
		step("created")
		if err = fill(); err == nil && !s.own {
			err = s.give(*fd, s.perm.file)
		}
	}
	step("written")
	if err == nil {
		err = link(name, func(name string) error {
			if unnamed {
				return sysv.NameFile(*fd, s.dir, name+suffix)
			}
			return sysv.LinkName(s.dir, unfinished, s.dir, name+suffix)
		})
	}
	if !unnamed {
		_ = sysv.RemoveFile(s.dir, unfinished) // at worst it is collected
	}
	if err != nil {
		_ = sysv.CloseFile(*fd) // nobody will read it
		*fd = -1
		return &fs.PathError{Op: "create", Path: s.path, Err: err}
	}
	step("named")
	return nil
}

// step is called between the steps of what a process may be killed in, for tests.
var step = func(string) {}

// A File is the text of a message that was taken from the queue, and that this process has.
type File struct {
	Ref   envelope.Ref
	store *Store
	fd    int    // -1: it could not be opened
	err   error  // why
	lease *Lease // that it was taken under, until it is locked; nil: it is, or was looked at
	ino   uint64

	mapped bool // there may be a mapping of it

	// What Borrow has returned.
	text []byte   // nil: nothing
	pool *[]byte  // whose storage it has; nil: it is mapped
	mem  *mapping // in which it is
}

// buffers are for texts that are smaller.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// Take opens the file of a message that was taken from the queue, or found in a journal. l is
// the lease that was begun before. If it cannot be opened, Read says why.
func (s *Store) Take(r envelope.Ref, l *Lease) *File {
	f := &File{Ref: r, store: s, lease: l}
	s.retain()
	f.open()
	if f.err == nil || isTransient(f.err) {
		l.add(f)
	} else {
		f.lease = nil // it is no more than a name
	}
	step("taken")
	return f
}

// isTransient reports whether a file may be opened later that cannot be now.
func isTransient(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ENOMEM)
}

// Look opens the file of a message without taking it.
func (s *Store) Look(r envelope.Ref) *File {
	f := &File{Ref: r, store: s}
	s.retain()
	f.open()
	return f
}

func (s *Store) removed(r envelope.Ref, err error) error {
	return fmt.Errorf("the text was in %s, which does not exist any more: another process has removed it: %w", filepath.Join(s.path, nameOf(r)), err)
}

func (f *File) open() { f.fd, f.ino, f.err = f.store.open(f.Ref) }

// open opens the file, and checks what it is.
func (s *Store) open(r envelope.Ref) (fd int, ino uint64, err error) {
	if r.Dir != s.id {
		return -1, 0, fmt.Errorf("the text is in directory %x, that of another queue: the message was sent to that one first", r.Dir)
	}
	path := filepath.Join(s.path, nameOf(r))
	if r.Size > math.MaxInt {
		return -1, 0, fmt.Errorf("the text in %s would have %d bytes", path, r.Size)
	}
	fd, err = sysv.OpenBeneath(s.dir, nameOf(r))
	switch err {
	case nil:
	case syscall.ENOENT:
		return -1, 0, s.removed(r, err)
	case syscall.EACCES:
		return -1, 0, fmt.Errorf("the text is in %s, which this process may not read: %w", path, err)
	default:
		return -1, 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	info, err := sysv.StatFile(fd)
	switch {
	case err != nil:
		err = &fs.PathError{Op: "stat", Path: path, Err: err}
	case !info.Regular:
		err = fmt.Errorf("%s is no regular file", path)
	case uint64(info.Size) != r.Size:
		err = fmt.Errorf("%s has %d bytes, and the message says %d", path, info.Size, r.Size)
	}
	if err != nil {
		_ = sysv.CloseFile(fd) // it was only read
		return -1, 0, err
	}
	return fd, info.Ino, nil
}

// Err returns why the file cannot be read, as far as that is known.
func (f *File) Err() error { return f.ready() }

// ready opens the file again if there was no descriptor left for it.
func (f *File) ready() error {
	f.store.mu.Lock()
	defer f.store.mu.Unlock()
	if f.fd < 0 && isTransient(f.err) {
		f.open()
	}
	return f.err
}

// Read reads the text into dst, or into a new slice if that is not large enough. It checks
// size and checksum.
func (f *File) Read(dst []byte) ([]byte, error) {
	if err := f.ready(); err != nil {
		return dst, err
	}
	size := int(f.Ref.Size)
	if cap(dst) < size {
		dst = make([]byte, size)
	}
	dst = dst[:size]
	sum := uint32(0)
	if m := f.store.mapFile(f, false); m != nil {
		defer f.store.unmap(m)
		err := guarded(func() { sum = copySummed(dst, m.mem[:size]) })
		if err != nil {
			return dst, f.exists(&fs.PathError{Op: "read", Path: f.Path(), Err: err})
		}
		return dst, f.check(sum)
	}
	for at := 0; at < size; at += pieceSize {
		piece := dst[at:min(at+pieceSize, size)]
		if err := sysv.ReadAt(f.fd, piece, int64(at)); err != nil {
			return dst, f.exists(&fs.PathError{Op: "read", Path: f.Path(), Err: err})
		}
		sum = crc32.Update(sum, castagnoli, piece)
	}
	return dst, f.check(sum)
}

func (f *File) check(sum uint32) error {
	if sum == f.Ref.Sum {
		return nil
	}
	return f.exists(fmt.Errorf("the text in %s has the checksum %#x, and the message says %#x", f.Path(), sum, f.Ref.Sum))
}

// exists returns the error of reading the file, or, if it has lost its name, that: then it may
// have been written over.
func (f *File) exists(err error) error {
	if _, statErr := sysv.StatName(f.store.dir, nameOf(f.Ref)); statErr == syscall.ENOENT {
		return f.store.removed(f.Ref, statErr)
	}
	return err
}

// Borrow returns the text until the file is removed or released: if it is a long one, in the
// memory of the file. It checks the checksum once; who may write to the file can change it still.
func (f *File) Borrow() (text []byte, err error) {
	if err := f.ready(); err != nil || f.text != nil {
		return f.text, err
	}
	if f.mem = f.store.mapFile(f, true); f.mem != nil {
		f.text = f.mem.mem[:f.Ref.Size:f.Ref.Size]
		var sum uint32
		if err = guarded(func() { sum = sumUp(f.text) }); err == nil {
			err = f.check(sum)
		}
	} else {
		f.pool = buffers.Get().(*[]byte)
		f.text, err = f.Read(*f.pool)
		*f.pool = f.text
	}
	if err != nil {
		f.giveBack()
	}
	return f.text, err
}

// giveBack ends Borrow.
func (f *File) giveBack() {
	switch {
	case f.pool != nil:
		buffers.Put(f.pool)
	case f.mem != nil:
		f.store.unmap(f.mem)
	}
	f.text, f.pool, f.mem = nil, nil, nil
}

// Path returns the name of the file.
func (f *File) Path() string { return filepath.Join(f.store.path, nameOf(f.Ref)) }

// Again gives the text a name for another message, in the store of the queue that this one
// goes to. A reference is sent once and taken once, which the collector relies on. The message
// that was taken stays this process's until Remove or Release.
func (f *File) Again(to *Store) (*Pending, error) {
	if err := f.ready(); err != nil {
		return nil, err
	}
	l := to.Begin()
	if l == nil {
		return nil, fs.ErrClosed
	}
	defer l.End()
	p := &Pending{store: to, Ref: f.Ref}
	p.Ref.Dir = to.id
	err := link(p.newName, func(name string) error {
		return sysv.LinkName(f.store.dir, nameOf(f.Ref), to.dir, name)
	})
	if err == nil {
		if p.fd, _, err = to.open(p.Ref); err == nil {
			if err = sysv.Share(p.fd); err != nil {
				_ = sysv.CloseFile(p.fd) // it was only read
			}
		}
		if err != nil {
			_ = sysv.RemoveFile(to.dir, nameOf(p.Ref)) // at worst it is collected
			return nil, err
		}
		to.retain()
		step("again")
		return p, nil
	}
	// It is another user's, or on another file system: a copy.
	text, err := f.Borrow()
	if err != nil {
		return nil, err
	}
	return to.Put(text)
}

// Remove says that the message is dealt with, and removes the file.
func (f *File) Remove() {
	if f == nil {
		return
	}
	if f.Ref.Dir == f.store.id {
		_ = sysv.RemoveFile(f.store.dir, nameOf(f.Ref)) // at worst it is collected
		step("removed")
	}
	f.giveBack()
	if f.mapped {
		if info, err := sysv.StatFile(f.fd); err == nil && info.Links == 0 {
			f.store.dropMapping(f.ino) // or it would keep the storage
		}
	}
	f.Release()
}

// Release lets go of the file: the message is in a journal still.
func (f *File) Release() {
	if f == nil {
		return
	}
	f.giveBack()
	f.store.let(f)
}
