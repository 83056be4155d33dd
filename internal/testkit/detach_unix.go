//go:build unix

package testkit

import (
	"os/exec"
	"syscall"
)

// detach puts the process in its own group, so that an interrupt from the terminal
// does not reach it.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
