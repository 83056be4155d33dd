//go:build linux && (mips || mipsle || mips64 || mips64le)

package sysv

// On mips struct sigaction begins with its flags, and there are 128 signals.
const (
	sigactionHandler = 1
	kernelSigsetSize = 16
)
