package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/chanmq/chanmq"
)

// tmux runs a command of the terminal of a script.
func tmux(ts *testscript.TestScript, args ...string) string {
	cmd := exec.Command("tmux", append([]string{"-S", filepath.Join(ts.Getenv("WORK"), "tmux.sock"), "-f", os.DevNull, "-u"}, args...)...)
	cmd.Dir = ts.Getenv("WORK")
	cmd.Env = []string{
		"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.Getenv("WORK"), "LC_ALL=C.UTF-8", "TERM=xterm-256color", "SHELL=/bin/sh",
		"PS1=$ ",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		ts.Fatalf("tmux %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// terminal is "terminal WIDTH HEIGHT": a shell runs in a terminal of that size, or the
// terminal that there is gets another size.
func terminal(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: terminal WIDTH HEIGHT")
	}
	if _, err := os.Stat(filepath.Join(ts.Getenv("WORK"), "tmux.sock")); err == nil {
		tmux(ts, "resize-window", "-x", args[0], "-y", args[1])
		return
	}
	ts.Defer(func() { tmux(ts, "kill-server") })
	tmux(ts, "new-session", "-d", "-x", args[0], "-y", args[1], "exec /bin/sh")
}

// typeKeys is "type KEY...": the keys are typed, by their names in tmux. Other words are
// typed as they are.
func typeKeys(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: type KEY...")
	}
	tmux(ts, append([]string{"send-keys"}, args...)...)
}

// screen is "screen FILE": the terminal shows what is in the file, at the latest in a while.
// Pids, ages, rates and the
// interval may be others.
func screen(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: screen FILE")
	}
	want := steady(ts.ReadFile(args[0]))
	got := ""
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if got = steady(tmux(ts, "capture-pane", "-p")); got == want {
			return
		}
	}
	ts.Fatalf("the screen is\n%s\n%s is\n%s", got, args[0], want)
}

var (
	commands = regexp.MustCompile(`(?m)^\$ chanmq .*\n`)
	ends     = regexp.MustCompile(`(?m) +$`)
	looks    = regexp.MustCompile(`every \w+`)
	ages     = regexp.MustCompile(` +(\d+s|\d+m\d\ds)\b`)
	rates    = regexp.MustCompile(` +[+-]?\d+\.\d`)
	widePids = regexp.MustCompile(`\[\d+\]( {2,})?`)
	empty    = regexp.MustCompile(`\n{4,}`)
)

// steady makes what varies constant, and keeps the widths of columns. Rows that are empty
// are counted.
func steady(text string) string {
	same := func(pattern *regexp.Regexp, to func(found string) string) {
		text = pattern.ReplaceAllStringFunc(text, to)
	}
	right := func(word string) func(string) string {
		return func(found string) string { return fmt.Sprintf("%*s", utf8.RuneCountInString(found), word) }
	}
	text = commands.ReplaceAllString(text, "")
	text = looks.ReplaceAllString(text, "every TIME")
	same(ages, right("AGE"))
	same(rates, right("RATE"))
	same(widePids, func(found string) string {
		if strings.HasSuffix(found, "]") {
			return "[PID]"
		}
		return fmt.Sprintf("%-*s", len(found), "[PID]")
	})
	text = strings.TrimRight(ends.ReplaceAllString(text, ""), "\n") + "\n"
	same(empty, func(found string) string { return fmt.Sprintf("\n(%d empty rows)\n", len(found)-1) })
	return text
}

// TestNoQueries: no command asks the terminal for its colors, which would delay it, and
// swallow what was typed.
func TestNoQueries(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	defer terminal.Close() // it is only a test's
	fd := int(terminal.Fd())
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	child, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here: ", err)
	}
	cmd := exec.Command(os.Args[0], "--help")
	cmd.Args[0] = "chanmq" // as testscript.Main tells commands
	cmd.Env = append(os.Environ(), "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = child, child, child
	err = cmd.Start()
	_ = child.Close() // the command has it
	if err != nil {
		t.Fatal(err)
	}
	out, _ := io.ReadAll(terminal) // the error is that nobody has the other side any more
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(string(out), "System V message queues") || strings.Contains(string(out), "\x1b") {
		t.Errorf("%.200q", out)
	}
}

// TestTopShowsValues: the values of packs are messages, and what only begins like a pack is one.
func TestTopShowsValues(t *testing.T) {
	const variable = "CHANMQ_TEST_TOP_VALUES"
	if os.Getenv(variable) == "" {
		inNamespace(t.Name(), variable+"=1").report(t) // which removes the queue, whatever happens
		return
	}
	q, err := chanmq.Private(0o600, chanmq.WithPacking())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	if n, err := q.SendAll(t.Context(), 3, [][]byte{[]byte("one"), nil, []byte("three")}); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	plain, err := chanmq.Attach(q.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	damaged := "\xFEcmq\x01\x06\x0e\x00\x02\x00\x05\x00\x00\x00\x03\x00one"
	for _, text := range []string{"alone", damaged} {
		if err := plain.Send(t.Context(), 1, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := (kernelSource{t.Context()}).browse(q.ID())
	if err != nil {
		t.Fatal(err)
	}
	defer b.close()
	messages, _, err := b.read(100, 1<<20)
	if err != nil {
		t.Skip(err)
	}
	got := fmt.Sprintf("%q", messages)
	want := fmt.Sprintf("%q", []message{{Type: 3, Value: []byte("one")}, {Type: 3}, {Type: 3, Value: []byte("three")},
		{Type: 1, Value: []byte("alone")}, {Type: 1, Value: []byte(damaged)}})
	if got != want {
		t.Errorf("shown are\n%s, want\n%s", got, want)
	}
}
