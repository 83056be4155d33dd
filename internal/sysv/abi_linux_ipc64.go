//go:build linux && (arm || mips64 || mips64le)

package sysv

// ipc64 (IPC_64) asks msgctl for the current structures. On these architectures
// the default is still the old ones (CONFIG_ARCH_WANT_IPC_PARSE_VERSION).
const ipc64 = 0x100
