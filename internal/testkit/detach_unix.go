//go:build unix

package testkit

import (
	"os/exec"
	"syscall"
)

// detach keeps an interrupt from the terminal away from the process.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }
