//go:build linux && !(arm || mips64 || mips64le)

package sysv

// ipc64 is not needed here: msgctl always uses the current structures.
const ipc64 = 0
