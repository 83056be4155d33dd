//go:build linux && !(arm || mips64 || mips64le)

package sysv

// ipc64 is not needed here: msgctl's structures are the 64-bit ones, always.
const ipc64 = 0
