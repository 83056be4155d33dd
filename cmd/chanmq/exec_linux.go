package main

import (
	"os/exec"
	"syscall"
)

// ownGroup gives the command a process group of its own, so that Ctrl-C reaches chanmq
// alone, which lets the command finish. The end of its context terminates the group. If
// chanmq is killed, so is the command: its message comes again, and two would work on it.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
}
