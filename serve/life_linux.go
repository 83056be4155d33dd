package serve

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/chanmq/chanmq/internal/envelope"
)

// ownLife is that of this process. A Go program does not fork, so it never changes.
var ownLife = sync.OnceValue(func() envelope.Life {
	life := envelope.Life{PID: uint32(os.Getpid()), PIDNamespace: namespace("pid"), TimeNamespace: namespace("time")}
	if life.PIDNamespace != 0 {
		_, life.Start = lookAt(os.Getpid())
	}
	return life
})

// namespace returns the inode of one of this process's namespaces, or 0. Those of
// namespaces have 32 bits.
func namespace(kind string) uint32 {
	link, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		return 0
	}
	number := strings.TrimSuffix(strings.TrimPrefix(link, kind+":["), "]")
	inode, err := strconv.ParseUint(number, 10, 64)
	if err != nil || inode > math.MaxUint32 {
		return 0
	}
	return uint32(inode)
}

// procIsOurs reports whether /proc has the pids of this process's own namespace. Under
// unshare --pid without --mount-proc it has those of another one.
var procIsOurs = sync.OnceValue(func() bool {
	link, err := os.Readlink("/proc/self")
	return err == nil && link == strconv.Itoa(os.Getpid())
})

// lookAt reports whether a process exists, and when it started, 0 if that is not known.
func lookAt(pid int) (exists bool, start uint64) {
	// /proc alone does not do: with hidepid=2 it has no processes of other users.
	if syscall.Kill(pid, 0) == syscall.ESRCH {
		return false, 0
	}
	if !procIsOurs() {
		return true, 0
	}
	// The first thread's file has the same, and qemu-user, which makes up a file for the
	// process itself, leaves it alone.
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/stat", pid))
	if err != nil {
		return true, 0
	}
	// The command is in brackets, and may have any characters. See proc_pid_stat(5).
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	const state, threads, starttime = 0, 17, 19 // fields 3, 20 and 22
	if len(fields) <= starttime {
		return true, 0
	}
	// A process that has ended and was not waited for still has its pid. If it has other
	// threads, only the first one has ended.
	if s := fields[state][0]; (s == 'Z' || s == 'X') && (len(fields[threads]) == 1 && fields[threads][0] <= '1') {
		return false, 0
	}
	start, err = strconv.ParseUint(string(fields[starttime]), 10, 64)
	if err != nil {
		return true, 0
	}
	return true, start
}
