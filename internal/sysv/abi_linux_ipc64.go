//go:build linux && (arm || mips64 || mips64le)

package sysv

// ipc64 (IPC_64) asks for the structures of this century. These architectures
// kept the old ones as msgctl's default (CONFIG_ARCH_WANT_IPC_PARSE_VERSION).
const ipc64 = 0x100
