package chanmq

import (
	"io/fs"
	"time"

	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/sysv"
)

// Stat is the state of a queue, as msgctl(2) IPC_STAT returns it. It is a
// snapshot: by the time it is looked at, the queue may have changed.
type Stat struct {
	ID  int // msqid
	Key Key // 0: a private queue

	Owner, Group          int         // user and group id of the owner
	Creator, CreatorGroup int         // those of the process that created it
	Perm                  fs.FileMode // read permission receives, write permission sends

	Messages int // messages in the queue
	Bytes    int // bytes of their texts
	MaxBytes int // how many it takes (msg_qbytes); also the most messages it takes

	LastSend, LastReceive time.Time // zero when never; whole seconds
	Changed               time.Time // created, or Set
	LastSendPID           int       // 0 when never
	LastReceivePID        int
}

func newStat(s sysv.Stat) Stat {
	return Stat{
		ID:             s.ID,
		Key:            Key(s.Key),
		Owner:          int(s.UID),
		Group:          int(s.GID),
		Creator:        int(s.CreatorUID),
		CreatorGroup:   int(s.CreatorGID),
		Perm:           fs.FileMode(s.Mode),
		Messages:       int(s.Messages),
		Bytes:          int(s.Bytes),
		MaxBytes:       int(s.MaxBytes),
		LastSend:       unixTime(s.SendTime),
		LastReceive:    unixTime(s.ReceiveTime),
		Changed:        unixTime(s.ChangeTime),
		LastSendPID:    int(s.SendPID),
		LastReceivePID: int(s.ReceivePID),
	}
}

// unixTime keeps the kernel's "never" a zero time.
func unixTime(sec int64) time.Time {
	if sec == 0 {
		return time.Time{}
	}
	return time.Unix(sec, 0)
}

// Attr is what [Queue.Set] changes of a queue. Fields that are zero stay as
// they are; so does an Owner or a Group of -1, as in os.Chown. So Set cannot give
// a queue to root, nor take all permissions away.
type Attr struct {
	Perm         fs.FileMode
	Owner, Group int
	MaxBytes     int // msg_qbytes; more than msgmnb takes CAP_SYS_RESOURCE
}

// Limits are those of System V message queues in this process's IPC namespace,
// and how much of them is in use. They may change at any time.
type Limits struct {
	MaxMessage int // bytes of one message (msgmax)
	MaxBytes   int // bytes of a new queue (msgmnb)
	MaxQueues  int // queues (msgmni)

	Queues   int // queues that exist
	Messages int // messages in all of them
	Bytes    int // bytes of those messages
}

// Stat returns the state of the queue (IPC_STAT). It takes read permission.
// After Close it fails with [ErrClosed].
func (q *Queue[T]) Stat() (Stat, error) {
	stat, err := q.core().stat()
	if err != nil {
		return Stat{}, q.core().opError("stat", err, 0)
	}
	return newStat(stat), nil
}

func (q *queue) stat() (sysv.Stat, error) {
	if q.closed.Load() {
		return sysv.Stat{}, ErrClosed
	}
	return q.kernel.Stat(q.msqid())
}

// Counters returns what the handle has done so far, if it was opened with [WithCounters];
// otherwise it is all zero. The counters are read one after the other, so that they may differ
// by what happens meanwhile. It works after Close.
func (q *Queue[T]) Counters() Counters {
	core := q.core()
	if core.counters == nil {
		return Counters{}
	}
	c := core.counters.read()
	c.InFlight = core.unacked.Load()
	return c
}

// Set changes the queue's permissions, owner or size (IPC_SET), for everyone.
// Only the owner, the creator and root may, whatever the permissions. A MaxBytes over
// msgmnb takes CAP_SYS_RESOURCE. After Close it fails with [ErrClosed].
func (q *Queue[T]) Set(a Attr) error {
	if err := q.core().set(a); err != nil {
		return q.core().opError("set", err, 0)
	}
	return nil
}

func (q *queue) set(a Attr) error {
	switch {
	case a.Perm&^0o777 != 0:
		return cause([]error{fs.ErrInvalid}, "Perm %#o: only the nine permission bits, 0777, mean something to a queue", uint32(a.Perm))
	case a.Owner < -1 || a.Group < -1:
		return cause([]error{fs.ErrInvalid}, "Owner %d, Group %d: an id is not negative", a.Owner, a.Group)
	case a.MaxBytes < 0:
		return cause([]error{fs.ErrInvalid}, "MaxBytes %d: the size is negative", a.MaxBytes)
	}
	if q.closed.Load() {
		return ErrClosed
	}
	// IPC_SET sets all of it, so the rest has to be known, which an owner without
	// read permission learns from the list of queues.
	stat, err := q.subject().statAny()
	if err != nil {
		return err
	}
	attr := stat.Attr
	if a.Perm != 0 {
		attr.Mode = uint32(a.Perm)
	}
	if a.Owner > 0 {
		attr.UID = uint32(a.Owner)
	}
	if a.Group > 0 {
		attr.GID = uint32(a.Group)
	}
	if a.MaxBytes > 0 {
		attr.MaxBytes = uint64(a.MaxBytes)
	}
	err = q.kernel.Set(q.msqid(), attr)
	if err == sysv.EPERM {
		if limits, limitsErr := q.kernel.Limits(); limitsErr == nil && a.MaxBytes > limits.MaxBytes {
			return cause([]error{err}, "MaxBytes %d is over msgmnb, %d (sysctl kernel.msgmnb), which takes CAP_SYS_RESOURCE", a.MaxBytes, limits.MaxBytes)
		}
	}
	if err == nil {
		q.noteChanged()
	}
	return err
}

// Remove destroys the queue (IPC_RMID), for every process, with the messages
// in it: their calls, and those of this handle, end with
// [ErrRemoved], also under [WithReopen]. Only the owner, the creator and root
// may. The handle still has to be closed. After Close it fails with [ErrClosed].
func (q *Queue[T]) Remove() error {
	c := q.core()
	if c.closed.Load() {
		return c.opError("remove", ErrClosed, 0)
	}
	// Before the call, so that no receive that it ends looks the key up again.
	kept := c.removed.Swap(true)
	err := c.kernel.Remove(c.msqid())
	if err != nil {
		c.removed.Store(kept)
	}
	return c.opError("remove", err, 0)
}

// List returns the state of every queue in this process's IPC namespace, in no
// particular order. Linux before 4.17 leaves out those without read permission.
func List() ([]Stat, error) {
	stats, err := inject.Host().List()
	if err != nil {
		return nil, &OpError{Op: "list", ID: -1, Err: err}
	}
	list := make([]Stat, len(stats))
	for i, stat := range stats {
		list[i] = newStat(stat)
	}
	return list, nil
}

// ReadLimits returns the limits of this process's IPC namespace.
func ReadLimits() (Limits, error) {
	limits, err := inject.Host().Limits()
	if err != nil {
		return Limits{}, &OpError{Op: "limits", ID: -1, Err: err}
	}
	return Limits(limits), nil
}
