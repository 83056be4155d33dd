//go:build !unix

package testkit

import "os/exec"

// detach does nothing: there are no queues to remove here.
func detach(*exec.Cmd) {}
