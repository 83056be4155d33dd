package journal

import (
	"encoding/hex"
	"fmt"
	"math"
	"os"
	"strings"

	"github.com/chanmq/chanmq/internal/sysv"
)

// Identity says which queue a journal's messages came from: [Identity.Is].
type Identity struct {
	Boot [16]byte // of /proc/sys/kernel/random/boot_id

	// The IPC namespace. The kernel gives the inode of one that is gone to the next,
	// so it identifies one only if Initial is set, or with NamespaceID, which is
	// never used again but is 0 before Linux 6.18.
	NamespaceDev, NamespaceIno, NamespaceID uint64
	Initial                                 bool

	ID                     int // msqid
	Key                    int32
	CreatorUID, CreatorGID uint32
	Changed                int64 // seconds, msg_ctime: creation, or the last IPC_SET
}

// Identify returns the identity of a queue that exists. It needs permission to read
// the queue, and /proc.
func Identify(k sysv.Kernel, msqid int) (Identity, error) {
	stat, err := k.Stat(msqid)
	if err != nil {
		return Identity{}, err
	}
	stat.ID = msqid
	return IdentityOf(k, stat)
}

// here returns the part of an identity that all queues of this process share. A machine
// in memory is a namespace by itself.
func here(k sysv.Kernel) (id Identity, err error) {
	if machine, inMemory := machineID(k); inMemory {
		return Identity{NamespaceDev: math.MaxUint64, NamespaceID: machine}, nil
	}
	id.NamespaceDev, id.NamespaceIno, id.NamespaceID, id.Initial, err = sysv.IPCNamespace()
	if err != nil {
		return Identity{}, fmt.Errorf("journal: which IPC namespace this is: %w", err)
	}
	const path = "/proc/sys/kernel/random/boot_id"
	text, err := os.ReadFile(path)
	if err != nil {
		return Identity{}, fmt.Errorf("journal: which boot this is: %w", err)
	}
	boot, err := hex.DecodeString(strings.ReplaceAll(strings.TrimSpace(string(text)), "-", ""))
	if err != nil || len(boot) != len(id.Boot) {
		return Identity{}, fmt.Errorf("journal: %s is %q", path, text)
	}
	copy(id.Boot[:], boot)
	return id, nil
}

// machineID tells machines in memory apart.
func machineID(k sysv.Kernel) (id uint64, inMemory bool) {
	if m, ok := k.(interface{ MachineID() uint64 }); ok {
		return m.MachineID(), true
	}
	return 0, false
}

// sameNamespace reports whether a namespace may be the same, and whether it is sure.
func (id Identity) sameNamespace(then Identity) (same, sure bool) {
	same = id.Boot == then.Boot && id.NamespaceDev == then.NamespaceDev &&
		id.NamespaceIno == then.NamespaceIno && id.Initial == then.Initial
	if id.NamespaceID != 0 && then.NamespaceID != 0 {
		return same && id.NamespaceID == then.NamespaceID, true
	}
	return same, id.Initial
}

// Is reports whether the queue, as it is now, is the one that an identity was noted of
// before.
//
// A msqid is not enough: the first queue of any namespace, after any boot, has msqid 0.
// In one namespace the kernel counts a sequence number into the msqid, so that one is
// used again only after at least 65,536 other queues were created, and it never counts
// a queue's creation time back; the key and the creator never change. In a namespace
// that cannot be told from a later one, the change time must agree as well, although
// IPC_SET changes it: then what is left is an orphan, which is safe, if not
// convenient.
func (id Identity) Is(then Identity) bool {
	same, sure := id.sameNamespace(then)
	if !same || id.ID != then.ID || id.Key != then.Key ||
		id.CreatorUID != then.CreatorUID || id.CreatorGID != then.CreatorGID {
		return false
	}
	if sure {
		return then.Changed <= id.Changed
	}
	return then.Changed == id.Changed
}

func (id Identity) String() string {
	return fmt.Sprintf("msqid %d, key %#x, IPC namespace %d, boot %x", id.ID, uint32(id.Key), id.NamespaceIno, id.Boot)
}
