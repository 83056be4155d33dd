package journalfile

import (
	"io/fs"
	"strings"
	"syscall"
)

// lockOf looks for the file in /proc/locks. Locks of processes in other PID namespaces are
// not there.
func lockOf(locks string, info fs.FileInfo) Locked {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || locks == "" {
		return Unknown
	}
	dev := uint64(stat.Dev)
	major := uint32(dev>>8)&0xfff | uint32(dev>>32)&^0xfff
	minor := uint32(dev)&0xff | uint32(dev>>12)&^0xff
	for line := range strings.Lines(locks) {
		if parseLock(line, major, minor, uint64(stat.Ino)) {
			return Yes
		}
	}
	return No
}

// OwnNamespace returns the inode of this process's IPC namespace, 0 if it is not known.
func OwnNamespace() uint64 { return NamespaceOf("self") }

// NamespaceOf returns the inode of the IPC namespace of a process.
func NamespaceOf(pid string) uint64 {
	var stat syscall.Stat_t
	if err := syscall.Stat("/proc/"+pid+"/ns/ipc", &stat); err != nil {
		return 0
	}
	return uint64(stat.Ino)
}

// OnTmpfs reports whether the directory is on a tmpfs.
func OnTmpfs(dir string) bool {
	const magic = 0x01021994 // TMPFS_MAGIC of linux/magic.h
	var stat syscall.Statfs_t
	return syscall.Statfs(dir, &stat) == nil && uint32(stat.Type) == magic
}

// OwnerOf returns the user id of a file's owner, -1 if it is not known.
func OwnerOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}
