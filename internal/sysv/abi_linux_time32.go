//go:build linux && (386 || arm || mipsle)

package sysv

// seconds is a time in struct msqid64_ds: two C longs, the low one first.
type seconds struct{ low, high uint32 }

func (s seconds) unix() int64 { return int64(s.high)<<32 | int64(s.low) }
