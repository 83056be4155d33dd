package chanmq

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/sysv"
)

// FTok returns the key for an existing file and a project id, the same as
// ftok(3) of the C library: the low 8 bits of proj and of the file's
// device, and the low 16 bits of its inode. Different files may share a key,
// and re-creating the file changes its key. The results 0 (IPC_PRIVATE) and
// -1 (ftok's error) are refused.
func FTok(path string, proj byte) (Key, error) {
	key, err := sysv.FTok(path, proj)
	switch {
	case err != nil:
		return 0, &OpError{Op: "ftok", ID: -1, Err: &fs.PathError{Op: "stat", Path: path, Err: err}}
	case key == 0, key == -1:
		return 0, &OpError{Op: "ftok", ID: -1, Err: fmt.Errorf("%s with project id %d makes the key %v, which does not name a queue; use another project id", path, proj, Key(key))}
	}
	return Key(key), nil
}

// Open opens the queue that has the key. It must exist; the error matches
// fs.ErrNotExist where it does not, and [WithWait] waits for it instead. Permissions
// are checked when a call needs them, not here.
func Open(key Key, opts ...Option) (*Queue[[]byte], error) {
	o := newOptions(opts)
	switch {
	case key == sysv.KeyPrivate:
		o.refuse("key 0 is IPC_PRIVATE and names no queue; use Private or Attach")
	case o.exclusive:
		o.refuse("WithExclusive: only Create can be exclusive")
	}
	return open("open", key, o, func() (int, error) { return o.kernel.Get(int32(key), 0) })
}

// Create opens the queue that has the key, and creates it if there is none, with
// exactly the permissions perm, whatever the umask (0o600: this user alone; read
// permission receives, write permission sends). The permissions of a queue that
// exists stay as they are, and must grant the caller what perm says. Key 0 is
// refused: see [Private].
func Create(key Key, perm fs.FileMode, opts ...Option) (*Queue[[]byte], error) {
	o := newOptions(opts)
	if key == sysv.KeyPrivate {
		o.refuse("key 0 is IPC_PRIVATE and names no queue; use Private")
	}
	o.validateNoWait()
	o.validatePerm(perm)
	flags := int(perm) | sysv.Create
	if o.owners != nil && !slices.Contains(o.owners, o.kernel.UID()) {
		flags = int(perm) // a queue that it created would be refused, and stay behind
	}
	first := flags
	if o.exclusive {
		first |= sysv.Create | sysv.Exclusive
	}
	return open("create", key, o, func() (int, error) {
		id, err := o.kernel.Get(int32(key), first)
		if err == sysv.ENOENT {
			err = cause([]error{fs.ErrPermission, err}, "no queue has this key, and WithOwner does not allow one that uid %d creates, only %s",
				o.kernel.UID(), o.ownerList())
		}
		if err == nil {
			first = flags // a queue that is looked up again may be somebody else's new one
		}
		return id, err
	})
}

// Private creates a queue without a key (IPC_PRIVATE), with exactly the
// permissions perm. Other processes reach it by its [Queue.ID]: see [Attach]. Like
// every queue it outlives the process, and nobody finds it again without its id:
// use [WithRemoveOnClose] for a queue of one program.
func Private(perm fs.FileMode, opts ...Option) (*Queue[[]byte], error) {
	o := newOptions(opts)
	o.validateNoWait()
	o.validatePerm(perm)
	o.validateKeyless()
	return open("create", sysv.KeyPrivate, o, func() (int, error) {
		return o.kernel.Get(sysv.KeyPrivate, int(perm)|sysv.Create)
	})
}

// Attach opens a queue by its msqid, which may be 0. The error matches
// fs.ErrNotExist where there is none.
func Attach(id int, opts ...Option) (*Queue[[]byte], error) {
	o := newOptions(opts)
	if o.exclusive {
		o.refuse("WithExclusive: only Create can be exclusive")
	}
	o.validateNoWait()
	var key Key
	err := o.err
	if err == nil {
		key, err = o.keyOf(id)
	}
	if err != nil {
		o.kernel.Release()
		return nil, &OpError{Op: "attach", ID: id, Err: err}
	}
	if key == sysv.KeyPrivate {
		o.validateKeyless()
	}
	first := true
	return open("attach", key, o, func() (int, error) {
		if first {
			first = false
			return id, nil
		}
		return o.kernel.Get(int32(key), 0)
	})
}

// keyOf returns the key of the queue with the msqid, or 0 to those who may only send to it.
func (o *options) keyOf(id int) (Key, error) {
	stat, err := o.kernel.Stat(id)
	switch {
	case err == sysv.EACCES:
		return 0, nil
	case isRemoved(err):
		return 0, cause([]error{fs.ErrNotExist, err}, "no queue has this msqid")
	case err != nil:
		return 0, err
	}
	return Key(stat.Key), nil
}

func (o *options) validatePerm(perm fs.FileMode) {
	if perm&^0o777 != 0 {
		o.refuse("permissions %#o: only the nine bits of 0777 mean something to a queue", uint32(perm))
	}
}

func (o *options) validateNoWait() {
	if o.wait != nil {
		o.refuse("WithWait: only Open waits for a queue that somebody else creates")
	}
}

func (o *options) validateKeyless() {
	switch {
	case o.exclusive:
		o.refuse("WithExclusive: a queue without a key is always new")
	case o.reopen:
		o.refuse("WithReopen: a queue without a key cannot be found again")
	}
}

// open returns a handle. get is the call that finds the queue, the first time and,
// under WithReopen, later.
func open(op string, key Key, o options, get func() (int, error)) (*Queue[[]byte], error) {
	q := newQueue(key, o, get)
	id, err := -1, o.err
	if err == nil {
		id, err = q.findFirst()
	}
	if err == nil {
		err = q.attach(id)
	}
	if err != nil {
		if id >= 0 && op == "create" && (key == sysv.KeyPrivate || o.exclusive) {
			// It is new, and nobody will ever open it: the caller gets no handle.
			_ = q.kernel.Remove(id)
		}
		q.kernel.Release()
		return nil, &OpError{Op: op, Key: key, ID: id, Err: err}
	}
	q.startCollection()
	if w := inject.Handles.Load(); w != nil {
		w.Opened(q, int32(key), id)
	}
	return As(&Queue[[]byte]{shared: q}, codec.Bytes()), nil
}
