package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"chanmq": main, "nats-server": natsServer})
}

// Variables of the process that runs one script in an IPC namespace of its own.
const (
	scriptVariable = "CHANMQ_TEST_SCRIPT" // its file
	peerVariable   = "CHANMQ_TEST_PEER"   // the C program, compiled; empty: there is no compiler
)

// TestScripts runs the scripts in testdata/script, each in an IPC namespace of its own, so
// that it sees no queues but its own and leaves none behind.
func TestScripts(t *testing.T) {
	if script := os.Getenv(scriptVariable); script != "" {
		runScript(t, script)
		return
	}
	t.Parallel()
	peer := compile(t)
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatal("no scripts: ", err)
	}
	// They wait more than they compute, so more of them run at a time than there are
	// processors.
	running := make(chan struct{}, 8)
	var done sync.WaitGroup
	results := make([]result, len(scripts))
	for i, script := range scripts {
		done.Go(func() {
			running <- struct{}{}
			defer func() { <-running }()
			results[i] = inNamespace("TestScripts", scriptVariable+"="+script, peerVariable+"="+peer)
		})
	}
	done.Wait()
	for i, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			results[i].report(t)
		})
	}
}

// compile returns the path of the C program, "" if there is no compiler.
func compile(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("gcc"); err != nil {
		return ""
	}
	peer := filepath.Join(t.TempDir(), "peer")
	out, err := exec.Command("gcc", "-Wall", "-O1", "-o", peer, "testdata/c/peer.c").CombinedOutput()
	if err != nil {
		t.Fatalf("gcc: %v\n%s", err, out)
	}
	return peer
}

// result is how a test in another process has ended.
type result struct {
	skip, failed bool
	text         string
}

func (r result) report(t *testing.T) {
	t.Helper()
	if r.skip {
		t.Skip(r.text)
	}
	if r.failed {
		t.Error(r.text)
	}
}

// inNamespace runs the test in a process of its own, in an IPC namespace of its own, with
// these variables.
func inNamespace(test string, env ...string) result {
	cmd := exec.Command(os.Args[0], "-test.v", "-test.run=^"+test+"$", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWIPC}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	text := strings.TrimSpace(string(out))
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		return result{skip: true, text: fmt.Sprintf("this process may not have an IPC namespace of its own (unshare -i): %v", err)}
	case err != nil:
		return result{failed: true, text: fmt.Sprintf("%v\n%s", err, text)}
	case strings.Contains(text, "--- SKIP"):
		return result{skip: true, text: text}
	case !strings.Contains(text, "--- PASS"):
		return result{failed: true, text: "the test did not run:\n" + text}
	}
	return result{}
}

func runScript(t *testing.T, script string) {
	// Journals have to be on a tmpfs, in a directory that is the user's alone.
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-cmd-test-")
	if err != nil {
		t.Skip("no tmpfs: ", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	testscript.Run(t, testscript.Params{
		Files:              []string{script},
		RequireUniqueNames: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PEER", os.Getenv(peerVariable))
			env.Setenv("JOURNALS", dir)
			env.Setenv("NO_COLOR", "1")
			return nil
		},
		Condition: func(name string) (bool, error) {
			switch name {
			case "peer":
				return os.Getenv(peerVariable) != "", nil
			case "root":
				return isRoot(), nil
			case "tmux":
				_, err := exec.LookPath("tmux")
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", name)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status,
			"await":  await,
			"alike":  alike,
			"scrape": scrape,

			"terminal": terminal,
			"type":     typeKeys,
			"screen":   screen,
		},
	})
}

// isRoot reports whether the process is the machine's root, not that of a user namespace.
func isRoot() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	return os.Geteuid() == 0 && err == nil && strings.Contains(string(text), "4294967295")
}

// status is "status N COMMAND ARG...": the command ends with exit code N.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N COMMAND [ARG...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	case err != nil:
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// await is "await REGEXP COMMAND ARG...": it runs the command until its standard output
// matches. The time only catches a hang.
func await(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: await REGEXP COMMAND [ARG...]")
	}
	pattern := regexp.MustCompile("(?m)" + args[0])
	var out []byte
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(30 * time.Millisecond) {
		cmd := exec.Command(args[1], args[2:]...)
		cmd.Dir = ts.Getenv("WORK")
		cmd.Env = append(os.Environ(), "PATH="+ts.Getenv("PATH"))
		out, _ = cmd.Output() // it may fail at first
		if pattern.Match(out) {
			return
		}
	}
	ts.Fatalf("%q does not print what matches %q, but\n%s", args[1:], args[0], out)
}

// scrape is "scrape LOG FILE": it gets what the exporter exports whose standard error is in
// the file LOG.
func scrape(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: scrape LOG FILE")
	}
	await(ts, false, []string{"http://", "cat", args[0]})
	url := regexp.MustCompile(`http://\S+`).FindString(ts.ReadFile(args[0]))
	response, err := http.Get(url)
	ts.Check(err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	ts.Check(err)
	if response.StatusCode != http.StatusOK {
		ts.Fatalf("%s: %s\n%s", url, response.Status, body)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), body, 0o600))
}

var (
	pids      = regexp.MustCompile(`\[\d+\]`)
	blanks    = regexp.MustCompile(` +`)
	someTimes = regexp.MustCompile(`(?m) (\d+s|\d+m\d\ds)$`)
	prompts   = regexp.MustCompile(`(?m)^\$ .*\n`)
)

// alike is "alike FILE FILE": the files are the same but for pids, ages at the ends of lines,
// the widths of columns, and lines with commands.
func alike(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: alike FILE FILE")
	}
	normal := func(name string) string {
		text := ts.ReadFile(name)
		text = prompts.ReplaceAllString(text, "")
		text = pids.ReplaceAllString(text, "[PID]")
		text = someTimes.ReplaceAllString(text, " AGE")
		return blanks.ReplaceAllString(text, " ")
	}
	if got, want := normal(args[0]), normal(args[1]); got != want {
		ts.Fatalf("%s is\n%s\n%s is\n%s", args[0], got, args[1], want)
	}
}

// TestReadmeExitCodes: the README has the exit codes of the help text.
func TestReadmeExitCodes(t *testing.T) {
	text, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := strings.ReplaceAll(string(text), "`", "")
	entries := regexp.MustCompile(`(?m)^  (\d+) +(.*(?:\n {7}.*)*)`).FindAllStringSubmatch(exitCodes, -1)
	if len(entries) != 12 {
		t.Errorf("%d exit codes", len(entries))
	}
	for _, entry := range entries {
		row := fmt.Sprintf("| %s | %s |", entry[1], strings.Join(strings.Fields(entry[2]), " "))
		if !strings.Contains(readme, row) {
			t.Errorf("the README does not have %s", row)
		}
	}
}

// TestReadmeQuotes: what the README shows is what a script expects of the program.
func TestReadmeQuotes(t *testing.T) {
	testkit.Quotes(t, "../..", "cmd/chanmq/README.md", "console")
}
