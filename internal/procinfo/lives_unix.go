//go:build unix

package procinfo

import "syscall"

// lives asks the kernel, which says EPERM of others' processes.
func lives(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || err == syscall.EPERM
}
