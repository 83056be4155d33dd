package testkit

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A Group is a memory cgroup: a process joins it by writing its pid to cgroup.procs.
type Group struct {
	Dir string
	v2  bool
}

// MemoryGroup creates a cgroup whose processes may use that many bytes of memory
// together, and no swap, below that of the test or beside it. It is removed at the end of
// the test, when its processes have to have ended. The test is skipped where that is not
// allowed.
func MemoryGroup(t testing.TB, limit int) *Group {
	t.Helper()
	var errs []error
	for _, place := range memoryGroups() {
		g, err := place.create(limit)
		if err == nil {
			ReapPath(t, g.Dir)
			t.Cleanup(func() {
				if err := os.Remove(g.Dir); err != nil {
					t.Errorf("the memory cgroup is left: %v", err)
				}
			})
			return g
		}
		errs = append(errs, err)
	}
	t.Skipf("there can be no memory cgroup: %v", errors.Join(errs...))
	panic("unreachable")
}

// memoryGroups returns the cgroups of this process that may get a child with a limit.
func memoryGroups() (places []Group) {
	mounts, _ := os.ReadFile("/proc/self/mountinfo") // without it there are none
	own, _ := os.ReadFile("/proc/self/cgroup")
	for line := range strings.Lines(string(mounts)) {
		// proc_pid_mountinfo(5): ... root mountpoint options ... - type source options
		before, after, found := strings.Cut(line, " - ")
		mount, super := strings.Fields(before), strings.Fields(after)
		if !found || len(mount) < 5 || len(super) < 3 {
			continue
		}
		controller, v2 := "", false
		switch {
		case super[0] == "cgroup2":
			v2 = true
		case super[0] == "cgroup" && strings.Contains(","+super[2]+",", ",memory,"):
			controller = "memory"
		default:
			continue
		}
		for line := range strings.Lines(string(own)) {
			fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
			if len(fields) != 3 || !strings.Contains(","+fields[1]+",", ","+controller+",") || v2 != (fields[0] == "0") {
				continue
			}
			path, err := filepath.Rel(mount[3], fields[2])
			if err != nil || strings.HasPrefix(path, "..") {
				continue
			}
			dir := filepath.Join(mount[4], path)
			places = append(places, Group{Dir: dir, v2: v2})
			if v2 && path != "." {
				// One with processes has no children with limits.
				places = append(places, Group{Dir: filepath.Dir(dir), v2: v2})
			}
		}
	}
	return places
}

// create creates a child of the group.
func (g Group) create(limit int) (*Group, error) {
	dir, err := os.MkdirTemp(g.Dir, "chanmq-test-")
	if err != nil {
		return nil, err
	}
	child := &Group{dir, g.v2}
	settings := [][2]string{{"memory.limit_in_bytes", fmt.Sprint(limit)}, {"memory.swappiness", "0"}}
	if g.v2 {
		settings = [][2]string{{"memory.max", fmt.Sprint(limit)}, {"memory.swap.max", "0"}}
	}
	for _, s := range settings {
		err := os.WriteFile(filepath.Join(dir, s[0]), []byte(s[1]), 0)
		if err != nil && (s[0] != "memory.swap.max" || !errors.Is(err, fs.ErrNotExist)) { // a kernel without swap
			_ = os.Remove(dir) // it is empty
			return nil, err
		}
	}
	return child, nil
}

// Killed returns how many processes of the group the OOM killer has killed.
func (g *Group) Killed(t testing.TB) int {
	t.Helper()
	name := "memory.oom_control"
	if g.v2 {
		name = "memory.events"
	}
	text, err := os.ReadFile(filepath.Join(g.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		if count, ok := bytes.CutPrefix(line, []byte("oom_kill ")); ok {
			n, err := strconv.Atoi(string(bytes.TrimSpace(count)))
			if err != nil {
				t.Fatal(err)
			}
			return n
		}
	}
	t.Skipf("this kernel does not say in %s how many processes it has killed", name)
	panic("unreachable")
}
