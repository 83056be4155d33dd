//go:build linux

package interop_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq"
)

// The programs in examples/ that talk to other languages, run to the end and
// interrupted. Each uses a queue of its own, and leaves none.
var examples = []testCase{
	{"phpworkers", noEmulator, func(t *testing.T, _ *language) { testPHPWorkers(t) }},
	{"phpworkers-interrupted", noEmulator, func(t *testing.T, _ *language) {
		phpCommand(t, "")
		interrupted(t, "phpworkers", "-jobs", "100000000")
	}},
	{"pidreply", noEmulator, func(t *testing.T, _ *language) { testPIDReply(t) }},
	{"pidreply-interrupted", noEmulator, func(t *testing.T, _ *language) {
		tool(t, "cc", "gcc libc6-dev")
		interrupted(t, "pidreply", "-questions", "100000000")
	}},
	{"priority", nothing, func(t *testing.T, _ *language) { testPriority(t) }},
	{"priority-interrupted", nothing, func(t *testing.T, _ *language) {
		interrupted(t, "priority", "-pause", "1h")
	}},
}

func TestExamples(t *testing.T) {
	(&language{name: "Examples", cases: func() []testCase { return examples }}).test(t)
}

// example builds examples/NAME and returns the command that runs it.
func example(t *testing.T, name string, args ...string) []string {
	t.Helper()
	program := filepath.Join(binaries, "example-"+name)
	if _, err := os.Stat(program); err != nil {
		build := exec.Command(tool(t, "go", "golang"), "build", "-o", program, "../examples/"+name)
		build.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+runtime.GOARCH, "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	return append(native(t, program), args...)
}

func testPHPWorkers(t *testing.T) {
	phpCommand(t, "") // skips where there is no PHP
	lines := strings.Split(run(t, example(t, "phpworkers", "-jobs", "50", "-workers", "4")...), "\n")
	if last := lines[len(lines)-1]; last != "50 jobs done" {
		t.Errorf("the last line is %q", last)
	}
	// Each job is done once, by whichever worker.
	job := regexp.MustCompile(`^worker [1-4]: job (\d+): (resize|mail)$`)
	var done []int
	for _, line := range lines[1 : len(lines)-1] {
		m := job.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %q", line)
		}
		id, _ := strconv.Atoi(m[1])
		done = append(done, id)
	}
	slices.Sort(done)
	if len(done) != 50 || done[0] != 1 || done[49] != 50 || len(slices.Compact(done)) != 50 {
		t.Errorf("jobs done: %v", done)
	}
	leavesNoQueue(t, lines[0])
}

func testPIDReply(t *testing.T) {
	tool(t, "cc", "gcc libc6-dev")
	lines := strings.Split(run(t, example(t, "pidreply", "-clients", "3", "-servers", "2", "-questions", "4")...), "\n")
	if last := lines[len(lines)-1]; last != "12 questions answered" {
		t.Errorf("the last line is %q", last)
	}
	answers := map[string][]string{} // of each client
	for _, line := range lines[1 : len(lines)-1] {
		client, answer, _ := strings.Cut(line, ": ")
		answers[client] = append(answers[client], answer)
	}
	if len(answers) != 3 {
		t.Errorf("%d clients, want 3", len(answers))
	}
	want := []string{"1 squared is 1", "2 squared is 4", "3 squared is 9", "4 squared is 16"}
	for client, got := range answers {
		if !slices.Equal(got, want) {
			t.Errorf("%s got the answers %v", client, got)
		}
	}
	leavesNoQueue(t, lines[0])
}

func testPriority(t *testing.T) {
	lines := strings.Split(run(t, example(t, "priority", "-pause", "0s")...), "\n")
	want := []string{
		"sent 3: newsletter 1",
		"sent 3: newsletter 2",
		"sent 4: spring cleaning",
		"sent 2: invoice",
		"sent 1: disk full",
		"received 1: disk full",
		"received 2: invoice",
		"received 3: newsletter 1",
		"sent 1: disk still full",
		"received 1: disk still full",
		"received 3: newsletter 2",
		"left for others: 1",
	}
	if !slices.Equal(lines[1:], want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines[1:], "\n"), strings.Join(want, "\n"))
	}
	leavesNoQueue(t, lines[0])
}

// interrupted sends SIGINT to an example in the middle of its work.
func interrupted(t *testing.T, name string, args ...string) {
	t.Helper()
	p := start(t, example(t, name, args...)...)
	first := p.line()
	defer leavesNoQueue(t, first)
	p.line() // it is working
	if err := p.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	out, err := p.result()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("it ended with %v, want exit status 1; it printed %.200s", err, out)
	}
	if complaint := p.stderr.String(); !strings.HasPrefix(complaint, name+": ") {
		t.Errorf("it printed %q to standard error, want the reason why it ended", complaint)
	}
}

// leavesNoQueue checks that the queues in the first line of an example are removed.
func leavesNoQueue(t *testing.T, first string) {
	t.Helper()
	ids := regexp.MustCompile(`msqid (\d+)`).FindAllStringSubmatch(first, -1)
	if ids == nil {
		t.Errorf("the first line names no queue: %q", first)
	}
	for _, m := range ids {
		id, err := strconv.Atoi(m[1])
		if err != nil {
			t.Fatal(err)
		}
		if q, err := chanmq.Attach(id); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("msqid %d is still there (%v)", id, err)
			if err == nil {
				removed(t, q)
			}
		}
	}
}
