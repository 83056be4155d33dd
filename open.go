package chanmq

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysv"
)

// Key names a queue for every process of an IPC namespace. Programs agree on a
// number, or on a file and a project id that [FTok] makes one of.
type Key int32

// String returns the key as ipcs(1) prints it, such as "0x2a0100ff".
func (k Key) String() string { return fmt.Sprintf("0x%08x", uint32(k)) }

// FTok makes a key from an existing file and a project id, the same that
// ftok(3) of the C library makes: the low 8 bits of proj and of the file's
// device, and the low 16 bits of its inode. Different files may share a key,
// and a file that is made anew has another one. The results 0 (IPC_PRIVATE) and
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

// Open opens the queue that has the key. It must exist; the error is
// fs.ErrNotExist where it does not. Permissions are looked at by the calls that
// need them, not here.
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

// Create opens the queue that has the key, and makes it if there is none, with
// exactly the permissions perm, whatever the umask (0o600: this user alone; read
// permission receives, write permission sends). The permissions of a queue that
// exists stay as they are, and must grant the caller what perm says. Key 0 is
// refused: see [Private].
func Create(key Key, perm fs.FileMode, opts ...Option) (*Queue[[]byte], error) {
	o := newOptions(opts)
	if key == sysv.KeyPrivate {
		o.refuse("key 0 is IPC_PRIVATE and names no queue; use Private")
	}
	o.validatePerm(perm)
	flags := int(perm) | sysv.Create
	if o.owners != nil && !slices.Contains(o.owners, os.Geteuid()) {
		flags = int(perm) // a queue that it made would be refused, and stay behind
	}
	first := flags
	if o.exclusive {
		first |= sysv.Create | sysv.Exclusive
	}
	return open("create", key, o, func() (int, error) {
		id, err := o.kernel.Get(int32(key), first)
		if err == sysv.ENOENT {
			err = cause([]error{fs.ErrPermission, err}, "no queue has this key, and WithOwner does not allow one that uid %d makes, only %s",
				os.Geteuid(), ownerList(o.owners))
		}
		if err == nil {
			first = flags // a queue that is looked up again may be somebody else's new one
		}
		return id, err
	})
}

// Private makes a queue without a key (IPC_PRIVATE), with exactly the
// permissions perm. Other processes reach it by its [Queue.ID]: see [Attach].
func Private(perm fs.FileMode, opts ...Option) (*Queue[[]byte], error) {
	o := newOptions(opts)
	o.validatePerm(perm)
	o.validateKeyless()
	return open("create", sysv.KeyPrivate, o, func() (int, error) {
		return o.kernel.Get(sysv.KeyPrivate, int(perm)|sysv.Create)
	})
}

// Attach opens a queue by its msqid, of which 0 is one. The error is
// fs.ErrNotExist where there is none.
func Attach(id int, opts ...Option) (*Queue[[]byte], error) {
	o := newOptions(opts)
	if o.exclusive {
		o.refuse("WithExclusive: only Create can be exclusive")
	}
	if o.err != nil {
		return nil, &OpError{Op: "attach", ID: id, Err: o.err}
	}
	var key Key
	stat, err := o.kernel.Stat(id)
	switch {
	case err == nil:
		key = Key(stat.Key)
	case err == sysv.EACCES: // it exists, and may be sent to; its key is not told
	case isRemoved(err):
		return nil, &OpError{Op: "attach", ID: id, Err: cause([]error{fs.ErrNotExist, err}, "no queue has this msqid")}
	default:
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

func (o *options) validatePerm(perm fs.FileMode) {
	if perm&^0o777 != 0 {
		o.refuse("permissions %#o: only the nine bits of 0777 mean something to a queue", uint32(perm))
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

// open makes a handle. get is the call that finds the queue, the first time and,
// under WithReopen, later.
func open(op string, key Key, o options, get func() (int, error)) (*Queue[[]byte], error) {
	q := &queue{
		kernel:  o.kernel,
		options: o,
		key:     key,
		get:     get,
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
		lookup:  make(chan struct{}, 1),
	}
	q.room.init(q)
	id, err := -1, o.err
	if err == nil {
		id, err = q.find()
	}
	if err != nil {
		if id >= 0 && op == "create" && (key == sysv.KeyPrivate || o.exclusive) {
			// It is new, and nobody will ever open it: the caller gets no handle.
			_ = q.kernel.Remove(id)
		}
		return nil, &OpError{Op: op, Key: key, ID: id, Err: err}
	}
	q.id.Store(int64(id))
	return As(&Queue[[]byte]{core: q}, codec.Bytes()), nil
}

// find calls get, and checks whose queue it found.
func (q *queue) find() (int, error) {
	id, err := q.get()
	if err != nil {
		return -1, explainOpen(q.kernel, q.key, err)
	}
	if q.options.owners == nil {
		return id, nil
	}
	stat, err := look(q.kernel, id)
	if err == sysv.EACCES {
		return id, cause([]error{err}, "WithOwner: the kernel does not say whose queue it is")
	}
	if err != nil {
		return id, err
	}
	if !slices.Contains(q.options.owners, int(stat.CreatorUID)) || !slices.Contains(q.options.owners, int(stat.UID)) {
		return id, notPermitted(stat, q.options.owners)
	}
	return id, nil
}

// Pauses of reopen, doubling from one to the other.
const (
	reopenMin = 10 * time.Millisecond
	reopenMax = time.Second
)

// reopening is the state of one call that looks for its queue again.
type reopening struct {
	pause time.Duration
	last  error // why the last look-up failed; nil: it did not
}

// reopen looks the key up again after the queue with the id lost was removed,
// once, and pauses if it is not there. A nil error asks the caller to try its
// operation again, which also finds what was handed back meanwhile. One
// goroutine at a time looks; the others find what it found.
func (q *queue) reopen(ctx context.Context, r *reopening, lost int) error {
	select {
	case q.lookup <- struct{}{}:
	case <-ctx.Done():
		return r.ended(ctx)
	case <-q.closing:
		return ErrClosed
	}
	if q.msqid() != lost {
		<-q.lookup
		r.last = nil
		return nil
	}
	id, err := q.find()
	if err == nil && id != lost {
		q.id.Store(int64(id))
		<-q.lookup
		r.last = nil
		return nil
	}
	<-q.lookup
	r.last = err

	r.pause = min(max(2*r.pause, reopenMin), reopenMax)
	// Half of it at random, so that programs which lost a queue together do
	// not come back together.
	timer := time.NewTimer(r.pause/2 + rand.N(r.pause/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return r.ended(ctx)
	case <-q.closing:
		return ErrClosed
	}
}

// ended is the error of a ctx that ended while the queue was away.
func (r *reopening) ended(ctx context.Context) error {
	err := ctxError(ctx)
	if r.last == nil {
		return err
	}
	return cause([]error{err, ErrRemoved}, "%v, while waiting for the queue to be made again: %v", err, r.last)
}
