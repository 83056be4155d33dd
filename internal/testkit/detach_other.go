//go:build !unix

package testkit

import "os/exec"

// detach does nothing where there are no queues to remove.
func detach(*exec.Cmd) {}
