//go:build linux && mips

package sysv

// seconds is a time in struct msqid64_ds: two C longs, the high one first
// (arch/mips/include/uapi/asm/msgbuf.h, __MIPSEB__).
type seconds struct{ high, low uint32 }

func (s seconds) unix() int64 { return int64(s.high)<<32 | int64(s.low) }
