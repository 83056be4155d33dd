//go:build linux && !(386 || arm || mips || mipsle)

package sysv

// seconds is a time in struct msqid64_ds: C's long.
type seconds struct{ v int64 }

func (s seconds) unix() int64 { return s.v }
