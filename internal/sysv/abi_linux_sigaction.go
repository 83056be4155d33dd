//go:build linux && !(mips || mipsle || mips64 || mips64le)

package sysv

// sigactionHandler is the word of struct sigaction that holds the handler, and
// kernelSigsetSize the size of its mask in bytes: 64 signals.
const (
	sigactionHandler = 0
	kernelSigsetSize = 8
)
