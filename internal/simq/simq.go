// Package simq simulates a machine with System V message queues in memory. It
// implements the Linux kernel's ipc/msg.c and ipc/util.c in Go, for tests that need
// faults, several users, or the clock of testing/synctest.
//
// [New] creates the machine, and [Kernel.Process] a process on it, which is a
// [sysv.Kernel]. Blocking calls wait on a channel, so synctest sees them as durably
// blocked.
//
// Differences from Linux that a program could notice:
//   - Ids count up and are never reused. Linux derives them from an index and a
//     sequence number, which wraps after some 32,000 rounds.
//   - A sender that is woken sends at once. In Linux it has to run first:
//     meanwhile another sender may use the free space, or a signal may arrive,
//     so that it returns EINTR.
//   - IPC_SET keeps the order of waiting receivers. Linux wakes them all, and
//     they wait again in the order in which they happen to run.
//   - A process has one group; user 0 has every capability, the others none.
//   - Memory never runs out: ENOMEM comes from [Hooks] only.
package simq

import (
	"cmp"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// Kernel is the machine: its queues, limits and processes.
type Kernel struct {
	id    uint64 // random
	hooks atomic.Pointer[Hooks]

	// mu guards the fields below, and the queues, sleepers and threads that are
	// reachable through them. It is never held by a call that waits, nor while
	// a hook runs.
	mu      sync.Mutex
	limits  sysv.Limits // the three maxima only
	queues  map[int]*queue
	nextID  int
	nextPID int32
}

// New returns a machine without queues, with the default limits of Linux.
func New() *Kernel {
	k := &Kernel{
		id:      1 + rand.Uint64N(math.MaxUint64),
		limits:  sysv.Limits{MaxMessage: 8192, MaxBytes: 16384, MaxQueues: 32000},
		queues:  make(map[int]*queue),
		nextPID: 1000,
	}
	k.hooks.Store(new(Hooks))
	return k
}

// SetLimits changes msgmax, msgmnb and msgmni as writing to /proc/sys/kernel does:
// for future calls and queues. Fields that are zero leave the limit as it is; the
// usage is ignored.
func (k *Kernel) SetLimits(l sysv.Limits) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.limits = sysv.Limits{
		MaxMessage: cmp.Or(l.MaxMessage, k.limits.MaxMessage),
		MaxBytes:   cmp.Or(l.MaxBytes, k.limits.MaxBytes),
		MaxQueues:  cmp.Or(l.MaxQueues, k.limits.MaxQueues),
	}
}

// Asleep returns the number of calls that are blocked in the kernel.
func (k *Kernel) Asleep() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	n := 0
	for _, q := range k.queues {
		n += len(q.receivers) + len(q.senders)
	}
	return n
}

// Process starts a process of a user and a group, with a new pid.
func (k *Kernel) Process(uid, gid uint32) *Process {
	k.mu.Lock()
	defer k.mu.Unlock()
	return &Process{k: k, pid: k.newPID(), uid: uid, gid: gid}
}

func (k *Kernel) newPID() int32 {
	k.nextPID++
	return k.nextPID
}

// Process is a process on the machine: the kernel as one user sees it. It
// implements [sysv.Kernel].
type Process struct {
	k        *Kernel
	pid      int32
	uid, gid uint32
	dead     bool // see Remote.Kill; guarded by k.mu
}

var _ sysv.Kernel = (*Process)(nil)

// PID returns the process id, which Stat returns after a send or a receive. As in
// Linux, Stat returns the id of the thread instead if the receive was asleep when its
// message arrived (pipelined_send).
func (p *Process) PID() int32 { return p.pid }

// SameMachine is what [sysv.SameMachine] asks.
func (p *Process) SameMachine(other sysv.Kernel) bool {
	o, ok := other.(*Process)
	return ok && o.k == p.k
}

// MachineID tells machines apart, in this process and in others.
func (p *Process) MachineID() uint64 { return p.k.id }

// privileged reports whether the process has the capabilities that ipc/ checks:
// CAP_IPC_OWNER, CAP_SYS_ADMIN and CAP_SYS_RESOURCE.
func (p *Process) privileged() bool { return p.uid == 0 }

// Permission bits that a call needs, in all classes (S_IRUGO, S_IWUGO).
const (
	mayRead  = 0o444
	mayWrite = 0o222
)

// may is ipcperms. Only one class applies: an owner without a permission does not
// get it from the bits of the group.
func (p *Process) may(q *queue, flags int) bool {
	granted := int(q.Mode)
	switch {
	case p.uid == q.UID || p.uid == q.CreatorUID:
		granted >>= 6
	case p.gid == q.GID || p.gid == q.CreatorGID:
		granted >>= 3
	}
	wanted := flags>>6 | flags>>3 | flags
	return wanted&^granted&0o7 == 0 || p.privileged()
}

// owns is the check of ipcctl_obtain_check.
func (p *Process) owns(q *queue) bool {
	return p.uid == q.UID || p.uid == q.CreatorUID || p.privileged()
}

// lookup is ipc_obtain_object_check. Linux returns EINVAL for the id of a removed
// queue, as for an id that never existed; EIDRM is for calls that were asleep.
func (k *Kernel) lookup(id int) (*queue, error) {
	q, ok := k.queues[id]
	if !ok {
		return nil, sysv.EINVAL
	}
	return q, nil
}

// Get implements [sysv.Kernel].
func (p *Process) Get(key int32, flags int) (id int, err error) {
	id = -1
	err = p.call(Call{Op: Get, Key: key, Flags: flags}, func() (err error) {
		id, err = p.k.get(p, key, flags)
		return err
	})
	return id, err
}

// get is ipcget.
func (k *Kernel) get(p *Process, key int32, flags int) (int, error) {
	if key != sysv.KeyPrivate {
		for _, q := range k.queues {
			switch {
			case q.Key != key:
				continue
			case flags&sysv.Create != 0 && flags&sysv.Exclusive != 0:
				return -1, sysv.EEXIST
			case !p.may(q, flags):
				return -1, sysv.EACCES
			}
			return q.ID, nil
		}
		if flags&sysv.Create == 0 {
			return -1, sysv.ENOENT
		}
	}
	if len(k.queues) >= k.limits.MaxQueues {
		return -1, sysv.ENOSPC
	}
	q := &queue{Stat: sysv.Stat{
		ID:         k.nextID,
		Key:        key,
		CreatorUID: p.uid,
		CreatorGID: p.gid,
		ChangeTime: time.Now().Unix(),
		Attr: sysv.Attr{
			UID:      p.uid,
			GID:      p.gid,
			Mode:     uint32(flags) & 0o777,
			MaxBytes: uint64(k.limits.MaxBytes),
		},
	}}
	k.nextID++
	k.queues[q.ID] = q
	return q.ID, nil
}

// Send implements [sysv.Kernel].
func (p *Process) Send(id int, msg []byte) error {
	return p.call(sendCall(id, msg, false), func() error {
		_, err := p.k.send(p, nil, id, msg)
		return err
	})
}

// send is do_msgsnd. If it has to wait, it returns the sleeper to wait for, or
// EAGAIN if there is no thread to sleep on.
func (k *Kernel) send(p *Process, t *thread, id int, msg []byte) (*sleeper, error) {
	if textSize(msg) < 0 || textSize(msg) > k.limits.MaxMessage || sysv.Type(msg) < 1 {
		return nil, sysv.EINVAL
	}
	m := message{typ: sysv.Type(msg), text: slices.Clone(msg[sysv.HeaderSize:])}
	q, err := k.lookup(id)
	switch {
	case err != nil:
		return nil, err
	case !p.may(q, mayWrite):
		return nil, sysv.EACCES
	case q.fits(m):
		q.put(m, p)
		return nil, nil
	case t == nil:
		return nil, sysv.EAGAIN
	}
	s := t.newSleeper(q)
	s.msg = m
	q.senders = append(q.senders, s)
	return s, nil
}

// Receive implements [sysv.Kernel].
func (p *Process) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	m, err := p.receive(id, buf, msgtyp, flags)
	if err != nil {
		return 0, err
	}
	return m.fill(buf), nil
}

// receive takes a message. E2BIG: it is the message.
func (p *Process) receive(id int, buf []byte, msgtyp, flags int) (m message, err error) {
	err = p.call(receiveCall(id, buf, msgtyp, flags, false), func() (err error) {
		m, _, err = p.k.receive(p, nil, id, textSize(buf), msgtyp, flags, false)
		return err
	})
	return m, err
}

// receive is do_msgrcv. If it has to wait, it returns the sleeper to wait for, or
// ENOMSG if there is no thread to sleep on.
func (k *Kernel) receive(p *Process, t *thread, id, room, msgtyp, flags int, leases bool) (message, *sleeper, error) {
	copying := flags&sysv.Copy != 0
	if room < 0 || copying && (flags&sysv.Except != 0 || t != nil) {
		return message{}, nil, sysv.EINVAL
	}
	q, err := k.lookup(id)
	if err != nil {
		return message{}, nil, err
	}
	if !p.may(q, mayRead) {
		return message{}, nil, sysv.EACCES
	}
	if copying {
		m, err := q.copyAt(msgtyp, room, min(room, k.limits.MaxMessage))
		return m, nil, err
	}
	sel := selectorOf(msgtyp, flags)
	m, err := q.take(sel, room, p, leases)
	if err != sysv.ENOMSG || t == nil {
		return m, nil, err
	}
	s := t.newSleeper(q)
	s.sel, s.room, s.leases = sel, room, leases
	q.receivers = append(q.receivers, s)
	return message{}, s, nil
}

// Stat implements [sysv.Kernel].
func (p *Process) Stat(id int) (st sysv.Stat, err error) {
	err = p.call(Call{Op: Stat, ID: id}, func() error {
		q, err := p.k.lookup(id)
		if err != nil {
			return err
		}
		if !p.may(q, mayRead) {
			return sysv.EACCES
		}
		st = q.Stat
		return nil
	})
	return st, err
}

// Set implements [sysv.Kernel].
func (p *Process) Set(id int, a sysv.Attr) error {
	return p.call(Call{Op: Set, ID: id}, func() error { return p.k.set(p, id, a) })
}

// set is IPC_SET of msgctl_down.
func (k *Kernel) set(p *Process, id int, a sysv.Attr) error {
	if uint64(uint(a.MaxBytes)) != a.MaxBytes {
		return sysv.EINVAL // more than a C long holds
	}
	// Linux passes the size on as an int, which drops the upper 32 bits, and then
	// compares it as an unsigned number.
	size := int32(a.MaxBytes)
	const nobody = ^uint32(0) // (uid_t)-1 and (gid_t)-1 are invalid
	q, err := k.lookup(id)
	switch {
	case err != nil:
		return err
	case !p.owns(q):
		return sysv.EPERM
	case uint32(size) > uint32(k.limits.MaxBytes) && !p.privileged():
		return sysv.EPERM
	case a.UID == nobody || a.GID == nobody:
		return sysv.EINVAL
	}
	q.Attr = sysv.Attr{UID: a.UID, GID: a.GID, Mode: a.Mode & 0o777, MaxBytes: uint64(uint(size))}
	q.ChangeTime = time.Now().Unix()
	q.recheckReceivers()
	q.wakeSenders()
	return nil
}

// Remove implements [sysv.Kernel].
func (p *Process) Remove(id int) error {
	return p.call(Call{Op: Remove, ID: id}, func() error {
		q, err := p.k.lookup(id)
		if err != nil {
			return err
		}
		if !p.owns(q) {
			return sysv.EPERM
		}
		delete(p.k.queues, id)
		for _, s := range slices.Concat(q.receivers, q.senders) {
			s.wake(sysv.EIDRM)
		}
		return nil
	})
}

// List implements [sysv.Kernel]. Like MSG_STAT_ANY, it needs no permission.
func (p *Process) List() (stats []sysv.Stat, err error) {
	err = p.call(Call{Op: List}, func() error {
		stats = make([]sysv.Stat, 0, len(p.k.queues))
		for _, id := range slices.Sorted(maps.Keys(p.k.queues)) {
			stats = append(stats, p.k.queues[id].Stat)
		}
		return nil
	})
	return stats, err
}

// Limits implements [sysv.Kernel].
func (p *Process) Limits() (l sysv.Limits, err error) {
	err = p.call(Call{Op: Limits}, func() error {
		l = p.k.limits
		l.Queues = len(p.k.queues)
		for _, q := range p.k.queues {
			l.Messages += int(q.Messages)
			l.Bytes += int(q.Bytes)
		}
		return nil
	})
	return l, err
}

// NewThread implements [sysv.Kernel].
func (p *Process) NewThread() sysv.Thread {
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	return &thread{p: p, tid: p.k.newPID()}
}

// NewAlarm implements [sysv.Kernel].
func (p *Process) NewAlarm() sysv.Alarm { return sysv.NewTimerAlarm() }

// UID implements [sysv.Kernel].
func (p *Process) UID() int { return int(p.uid) }

// Traits implements [sysv.Kernel].
func (p *Process) Traits() sysv.Traits { return sysv.Traits{} }

// Handle implements [sysv.Kernel].
func (p *Process) Handle() sysv.Kernel { return p }

// Release implements [sysv.Kernel].
func (p *Process) Release() {}

// textSize returns the size of the text in a message, or the capacity for text of a
// buffer. It is negative if not even the type fits.
func textSize(msg []byte) int { return len(msg) - sysv.HeaderSize }
