package sysv

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands of msgctl(2) that x/sys/unix does not define. The last line does not
// compile if noWait differs from its IPC_NOWAIT.
const (
	ipcInfo    = 3
	msgStat    = 11
	msgInfo    = 12
	msgStatAny = 13 // Linux 4.17
	_          = uint(noWait-unix.IPC_NOWAIT) + uint(unix.IPC_NOWAIT-noWait)
)

// Host returns the kernel that the program runs on.
func Host() Kernel { return linux{} }

type linux struct{}

func (linux) UID() int { return unix.Geteuid() }

func (linux) Traits() Traits   { return Traits{} }
func (k linux) Handle() Kernel { return k }
func (linux) Release()         {}

func (linux) Get(key int32, flags int) (int, error) {
	id, _, errno := unix.RawSyscall(unix.SYS_MSGGET, uintptr(key), uintptr(flags), 0)
	if errno != 0 {
		return -1, errno
	}
	return int(id), nil
}

// Send and Receive of linux never sleep (IPC_NOWAIT), so they are raw system
// calls, which do not notify the Go scheduler and cost half as much.

func (linux) Send(id int, msg []byte) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_MSGSND, uintptr(id),
		uintptr(unsafe.Pointer(&msg[0])), // unsafe rule (4): converted in the call
		uintptr(len(msg)-HeaderSize), noWait, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

func (linux) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	n, _, errno := unix.RawSyscall6(unix.SYS_MSGRCV, uintptr(id),
		uintptr(unsafe.Pointer(&buf[0])), // unsafe rule (4): converted in the call
		uintptr(len(buf)-HeaderSize), uintptr(msgtyp), uintptr(flags|noWait), 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// msgctl is the system call, with ipc64 where the architecture needs it.
func msgctl(id, cmd int, arg unsafe.Pointer) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_MSGCTL, uintptr(id), uintptr(cmd|ipc64), uintptr(arg))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// msqidDS is struct msqid64_ds (include/uapi/asm-generic/msgbuf.h and its variants
// for mips and powerpc). It is complete, since IPC_STAT writes all of it.
type msqidDS struct {
	perm                 unix.SysvIpcPerm
	stime, rtime, ctime  seconds
	cbytes, qnum, qbytes uint // C's unsigned long
	sendPID, receivePID  int32
	reserved4, reserved5 uint
}

func (ds *msqidDS) stat(id int) Stat {
	return Stat{
		ID:  id,
		Key: ds.perm.Key,
		Attr: Attr{
			UID:      ds.perm.Uid,
			GID:      ds.perm.Gid,
			Mode:     uint32(ds.perm.Mode) & 0o777,
			MaxBytes: uint64(ds.qbytes),
		},
		CreatorUID:  ds.perm.Cuid,
		CreatorGID:  ds.perm.Cgid,
		Messages:    uint64(ds.qnum),
		Bytes:       uint64(ds.cbytes),
		SendTime:    ds.stime.unix(),
		ReceiveTime: ds.rtime.unix(),
		ChangeTime:  ds.ctime.unix(),
		SendPID:     ds.sendPID,
		ReceivePID:  ds.receivePID,
	}
}

func (linux) Stat(id int) (Stat, error) {
	var ds msqidDS
	if _, err := msgctl(id, unix.IPC_STAT, unsafe.Pointer(&ds)); err != nil {
		return Stat{}, err
	}
	return ds.stat(id), nil
}

func (linux) Set(id int, a Attr) error {
	if uint64(uint(a.MaxBytes)) != a.MaxBytes {
		return EINVAL // more than a C long holds
	}
	ds := msqidDS{qbytes: uint(a.MaxBytes)}
	ds.perm.Uid, ds.perm.Gid = a.UID, a.GID
	setMode(&ds.perm.Mode, a.Mode)
	_, err := msgctl(id, unix.IPC_SET, unsafe.Pointer(&ds))
	return err
}

// setMode exists because C's mode_t is 16 bits on some architectures.
func setMode[M uint16 | uint32](dst *M, mode uint32) { *dst = M(mode & 0o777) }

func (linux) Remove(id int) error {
	_, err := msgctl(id, unix.IPC_RMID, nil)
	return err
}

// msginfo is struct msginfo (include/uapi/linux/msg.h), the same on every
// architecture. IPC_INFO returns the limits in it, MSG_INFO the usage.
type msginfo struct {
	pool, map_, max, mnb, mni, ssz, tql int32
	seg                                 uint16
}

func (linux) List() ([]Stat, error) {
	var info msginfo
	last, err := msgctl(0, msgInfo, unsafe.Pointer(&info))
	if err != nil {
		return nil, err
	}
	stats := make([]Stat, 0, max(info.pool, 0))
	for index := 0; index <= last; index++ {
		var ds msqidDS
		// MSG_STAT_ANY needs no permission on the queue. A kernel before 4.17
		// returns EINVAL for it, the error of an unused index.
		id, err := msgctl(index, msgStatAny, unsafe.Pointer(&ds))
		if err == EINVAL {
			id, err = msgctl(index, msgStat, unsafe.Pointer(&ds))
		}
		switch err {
		case nil:
			stats = append(stats, ds.stat(id))
		case EINVAL, EIDRM, EACCES: // unused, just removed, or not readable by us
		default:
			return nil, err
		}
	}
	return stats, nil
}

func (linux) Limits() (Limits, error) {
	var limits, used msginfo
	if _, err := msgctl(0, ipcInfo, unsafe.Pointer(&limits)); err != nil {
		return Limits{}, err
	}
	if _, err := msgctl(0, msgInfo, unsafe.Pointer(&used)); err != nil {
		return Limits{}, err
	}
	return Limits{
		MaxMessage: int(limits.max),
		MaxBytes:   int(limits.mnb),
		MaxQueues:  int(limits.mni),
		// MSG_INFO uses these fields for the usage: msgctl(2).
		Queues:   int(used.pool),
		Messages: int(used.map_),
		Bytes:    int(used.tql),
	}, nil
}

// FTok derives a key from a file and a project id as ftok(3) of glibc does, from
// the low 8 bits of proj and of the device, and the low 16 bits of the inode.
func FTok(path string, proj byte) (int32, error) {
	var st unix.Stat_t
	for {
		switch err := unix.Stat(path, &st); err {
		case nil:
			return int32(uint32(proj)<<24 | uint32(st.Dev&0xff)<<16 | uint32(st.Ino&0xffff)), nil
		case syscall.EINTR: // a network or FUSE file system: try again
		default:
			return -1, err
		}
	}
}

// Switches returns the number of voluntary context switches of this process so
// far: getrusage(2).
func Switches() int64 {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0 // cannot fail: its arguments are constant
	}
	return int64(usage.Nvcsw)
}
