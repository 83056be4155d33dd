// Package procinfo says which program a pid in the state of a queue belongs to, and
// whether it still lives, from /proc. Where that is not to be had nothing is known.
package procinfo

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// State is whether a process lives.
type State int

const (
	Unknown State = iota
	Alive
	Dead
)

// Process is what is known of the process with a pid.
type Process struct {
	PID   int
	Name  string // "": not known
	State State
}

// Look returns what is known of the process that used the queue at the time. The kernel
// keeps its pid, which may be another process's by now: one that has started since.
func Look(pid int, at time.Time) Process { return look("/proc", pid, at) }

// ticks are the units of start times in /proc: USER_HZ, which is 100 on every
// architecture that Go runs on.
const ticks = 100

func look(proc string, pid int, at time.Time) Process {
	p := Process{PID: pid}
	if pid <= 0 {
		return p
	}
	dir := filepath.Join(proc, strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	switch {
	case err == nil:
	case os.IsNotExist(err) && exists(filepath.Join(proc, "self")):
		if !lives(pid) { // /proc may hide others' processes
			p.State = Dead
		} else {
			p.State = Alive
		}
		return p
	default:
		return p
	}
	name, state, start, ok := parseStat(stat)
	if !ok {
		return p
	}
	if state == 'Z' || state == 'X' {
		p.State = Dead
		return p
	}
	boot, ok := bootTime(proc)
	// The queue's time has whole seconds, and so has the boot's.
	if ok && !at.IsZero() && boot.Add(start).After(at.Add(3*time.Second)) {
		p.State = Dead // this one has another's pid
		return p
	}
	p.Name, p.State = name, Alive
	return p
}

// parseStat reads the name, the state and the start time of /proc/PID/stat. The name is
// in parentheses, and may have some itself.
func parseStat(stat []byte) (name string, state byte, start time.Duration, ok bool) {
	open, end := bytes.IndexByte(stat, '('), bytes.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return "", 0, 0, false
	}
	fields := strings.Fields(string(stat[end+1:]))
	if len(fields) < 20 {
		return "", 0, 0, false
	}
	n, err := strconv.ParseUint(fields[19], 10, 64) // starttime, field 22 of all
	if err != nil {
		return "", 0, 0, false
	}
	return string(stat[open+1 : end]), fields[0][0], time.Duration(n) * (time.Second / ticks), true
}

var boots sync.Map // proc to time.Time

func bootTime(proc string) (time.Time, bool) {
	if t, ok := boots.Load(proc); ok {
		return t.(time.Time), true
	}
	text, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return time.Time{}, false
	}
	for line := range strings.Lines(string(text)) {
		if seconds, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(seconds), 10, 64)
			if err != nil {
				return time.Time{}, false
			}
			t := time.Unix(n, 0)
			boots.Store(proc, t)
			return t, true
		}
	}
	return time.Time{}, false
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
