package procinfo

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// fakeProc makes a /proc that booted at 1,000,000 and has one process.
func fakeProc(t *testing.T, pid int, stat string) string {
	t.Helper()
	proc := t.TempDir()
	dir := filepath.Join(proc, fmt.Sprint(pid))
	for name, text := range map[string]string{
		filepath.Join(proc, "stat"): "cpu 1 2 3\nbtime 1000000\nprocesses 5\n",
		filepath.Join(proc, "self"): "",
		filepath.Join(dir, "stat"):  stat,
	} {
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return proc
}

// line is /proc/PID/stat of a process that has started 500 s after the boot.
func line(name, state string) string {
	return fmt.Sprintf("7 (%s) %s 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 50000 1 2 3", name, state)
}

func TestLook(t *testing.T) {
	const noPID = 1 << 30
	later, before := time.Unix(1000600, 0), time.Unix(1000400, 0)
	for _, test := range []struct {
		name string
		stat string
		pid  int
		at   time.Time
		want Process
	}{
		{"lives", line("worker", "S"), 7, later, Process{7, "worker", Alive}},
		{"a name with parentheses", line("a) (b", "R"), 7, later, Process{7, "a) (b", Alive}},
		{"a zombie", line("worker", "Z"), 7, later, Process{7, "", Dead}},
		{"another's pid", line("worker", "S"), 7, before, Process{7, "", Dead}},
		{"at no time", line("worker", "S"), 7, time.Time{}, Process{7, "worker", Alive}},
		{"gone", line("worker", "S"), noPID, later, Process{noPID, "", Dead}},
		{"nobody", line("worker", "S"), 0, later, Process{0, "", Unknown}},
		{"what is that", "7 worker", 7, later, Process{7, "", Unknown}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := look(fakeProc(t, 7, test.stat), test.pid, test.at); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
	if got := look(t.TempDir(), 7, later); got.State != Unknown {
		t.Errorf("without /proc: %+v", got)
	}
}
