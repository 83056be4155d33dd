//go:build linux && !(mips || mipsle || mips64 || mips64le)

package sysv

// sigactionHandler is the index of the word of struct sigaction that holds the
// handler, and kernelSigsetSize the size in bytes of its mask, for 64 signals.
const (
	sigactionHandler = 0
	kernelSigsetSize = 8
)
