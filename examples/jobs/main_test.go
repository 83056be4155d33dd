//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) {
	os.Exit(testkit.Main(m, map[string]testkit.Role{
		"jobs": func(args []string) error {
			os.Args = append([]string{"jobs"}, args...)
			main()
			return nil
		},
	}))
}

// TestKilledDaemon sends jobs while the daemon is killed again and again: each job is
// done, and none that it had reported as finished is done again. What it had not finished
// is left to the next one, or to one that is there all the time.
func TestKilledDaemon(t *testing.T) {
	t.Run("alone", func(t *testing.T) { testKilledDaemon(t, false) })
	t.Run("with another", func(t *testing.T) { testKilledDaemon(t, true) })
}

func testKilledDaemon(t *testing.T, another bool) {
	const jobs, kills = 500, 12
	s := newSite(t)
	sender := s.process("send")
	for n := range jobs {
		sender.Args = append(sender.Args, fmt.Sprintf("%dx1", n+1))
	}
	if err := sender.Start(); err != nil { // it waits while the queue is full
		t.Fatal(err)
	}
	testkit.Eventually(t, "a job in the queue", func() bool {
		stat, err := s.q.Stat()
		return err == nil && stat.Messages > 0
	})
	counts := newCounts()
	var last *process
	if another {
		last = s.daemon()
	}
	for n := range kills {
		d := s.daemon()
		if n%4 > 0 { // otherwise it is killed while it starts
			testkit.Eventually(t, "a job, or none is left", func() bool {
				stat, err := s.q.Stat()
				return err != nil || stat.Messages == 0 || d.out.String() != ""
			})
		}
		time.Sleep(rand.N(20 * time.Millisecond))
		if err := d.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = d.Wait() // it was killed
		counts.add(t, d)
	}
	killed := len(counts.finished)
	if !another {
		last = s.daemon()
	}
	patience := time.AfterFunc(time.Minute, func() { _ = sender.Process.Kill() }) // it may have ended
	testkit.Wait(t, sender.Cmd)
	patience.Stop()
	// If there is one daemon at a time, what the others had taken comes before this one.
	if err := s.q.Send(t.Context(), 1, fmt.Appendf(nil, `{"id":%d,"pages":1,"per_sheet":1}`, jobs+1)); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, "the last job is finished", func() bool {
		return strings.Contains(last.out.String(), fmt.Sprintf("finished %d\n", jobs+1))
	})
	if another {
		s.untilJournals(1)
	}
	last.interrupt()
	counts.add(t, last)

	again := 0
	for n := range jobs + 1 {
		id := fmt.Sprint(n + 1)
		if counts.done[id] == 0 {
			t.Errorf("job %s was not done", id)
		}
		again += max(0, counts.done[id]-1)
	}
	t.Logf("%d jobs, %d of them finished by daemons that were killed, %d done again", jobs+1, killed, again)
}

// TestDeadLetters: a job that fails, and one that kills the daemon whenever it is done, end
// in the other queue, and so does what is no job. The others are done.
func TestDeadLetters(t *testing.T) {
	s := newSite(t)
	if text, err := s.process("-workers", "1", "send", "10x2", "-1x2", "7x0", "7x2").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	if err := s.q.Send(t.Context(), 1, []byte("no job")); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	crashes := 0
	for ; ; crashes++ {
		d := s.daemon("-workers", "1", "-attempts", "3")
		ended := make(chan error, 1)
		go func() { ended <- d.Wait() }()
		crashed := false
		testkit.Eventually(t, "nothing to do, or a crash", func() bool {
			select {
			case err := <-ended:
				if !strings.Contains(d.errs.String(), "divide by zero") {
					t.Fatalf("%v: %s", err, d.errs.String())
				}
				crashed = true
			default:
			}
			return crashed || s.dead() == 3
		})
		if !crashed {
			if err := d.Process.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := <-ended; err != nil {
				t.Errorf("%v: %s", err, d.errs.String())
			}
		}
		out.WriteString(d.out.String())
		if !crashed {
			break
		}
	}
	if crashes != 3 {
		t.Errorf("it crashed %d times, want 3", crashes)
	}
	if got, want := out.String(), "printed 1 on 5\nfinished 1\nprinted 4 on 4\nfinished 4\n"; got != want {
		t.Errorf("it printed\n%swant\n%s", got, want)
	}
	text, err := s.process("dead").Output()
	want := `{"id":2,"pages":-1,"per_sheet":2}
{"id":3,"pages":7,"per_sheet":0}
no job
`
	if err != nil || string(text) != want {
		t.Errorf("the dead letters are\n%swant\n%s%v", text, want, err)
	}
}

// TestInterruptedDaemon: at the regular end each job is finished, or in the queue again, and
// no journal is left.
func TestInterruptedDaemon(t *testing.T) {
	const jobs = 50
	s := newSite(t)
	args := []string{"send"}
	for n := range jobs {
		args = append(args, fmt.Sprintf("%dx1", n+1))
	}
	if text, err := s.process(args...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	d := s.daemon()
	testkit.Eventually(t, "a job is finished", func() bool { return strings.Contains(d.out.String(), "finished") })
	time.Sleep(rand.N(5 * time.Millisecond))
	d.interrupt()
	stat, err := s.q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	counts := newCounts()
	counts.add(t, d)
	if len(counts.finished)+stat.Messages != jobs || len(counts.done) != len(counts.finished) {
		t.Errorf("%d jobs are done, %d finished, and %d in the queue, of %d", len(counts.done), len(counts.finished), stat.Messages, jobs)
	}
	s.wantNoJournal()
	for ok := true; ok; {
		if _, ok, err = s.q.TryReceive(chanmq.Any()); err != nil {
			t.Fatal(err)
		}
	}
}

// site is where a daemon works: two queues, and a directory for journals. They are empty
// at the end of the test, and then removed.
type site struct {
	t      *testing.T
	q      *chanmq.Queue[[]byte]
	morgue *chanmq.Queue[[]byte]
	dir    string
}

func newSite(t *testing.T) *site {
	t.Helper()
	if sysvtest.Emulated() {
		t.Skip("qemu-user receives into memory of its own, so that journals are refused")
	}
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-example-")
	if err != nil {
		t.Skipf("no tmpfs for journals: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	s := &site{t: t, dir: dir}
	for s.morgue == nil {
		key := chanmq.Key(1 + rand.N[int32](1<<30))
		if s.q = create(t, key); s.q != nil {
			s.morgue = create(t, key+1)
		}
	}
	t.Cleanup(func() {
		if stat, err := s.q.Stat(); err != nil || stat.Messages > 0 {
			t.Errorf("the queue is %+v, %v", stat, err)
		}
		s.wantNoJournal()
	})
	return s
}

// create creates a queue, for this test; nil: the key is taken.
func create(t *testing.T, key chanmq.Key) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Create(key, 0o600, chanmq.WithExclusive())
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, q.ID())
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	return q
}

// wantNoJournal fails the test if a journal is left. Those that are empty, of daemons that
// were killed, are removed by the next one.
func (s *site) wantNoJournal() {
	s.t.Helper()
	if files := s.journals(); len(files) > 0 {
		s.t.Errorf("left: %v", files)
	}
}

// untilJournals waits until there are n of them.
func (s *site) untilJournals(n int) {
	s.t.Helper()
	testkit.Eventually(s.t, fmt.Sprintf("%d journals", n), func() bool { return len(s.journals()) == n })
}

func (s *site) journals() []string {
	s.t.Helper()
	files, err := filepath.Glob(filepath.Join(s.dir, "*"))
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

// dead returns how many dead letters there are.
func (s *site) dead() int {
	s.t.Helper()
	stat, err := s.morgue.Stat()
	if err != nil {
		s.t.Fatal(err)
	}
	return stat.Messages
}

// process is the program, and what it prints.
type process struct {
	*exec.Cmd
	t         *testing.T
	out, errs testkit.Output
}

// process returns the program with these arguments, for the queues of the test.
func (s *site) process(args ...string) *process {
	args = append([]string{"-key", fmt.Sprint(int32(s.q.Key())), "-journal", s.dir, "-pause", "1ms"}, args...)
	p := &process{Cmd: testkit.Process(s.t, "jobs", args...), t: s.t}
	p.Stderr = nil // for CombinedOutput
	return p
}

// daemon starts the program. It gives up only jobs that were tried many times.
func (s *site) daemon(args ...string) *process {
	s.t.Helper()
	p := s.process(append([]string{"-attempts", "1000"}, args...)...)
	p.Stdout, p.Stderr = &p.out, &p.errs
	if err := p.Start(); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// interrupt ends the program in the regular way.
func (p *process) interrupt() {
	p.t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		p.t.Errorf("%v: %s", err, p.errs.String())
	}
}

// counts is what daemons have reported, by job.
type counts struct {
	done     map[string]int
	finished map[string]bool
}

func newCounts() counts { return counts{make(map[string]int), make(map[string]bool)} }

// add counts what a daemon has done.
func (c counts) add(t *testing.T, d *process) {
	t.Helper()
	for line := range strings.Lines(d.out.String()) {
		what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		id, _, _ := strings.Cut(rest, " ")
		switch what {
		case "printed":
			if c.finished[id] {
				t.Errorf("job %s was done after it was finished", id)
			}
			c.done[id]++
		case "finished":
			c.finished[id] = true
		default:
			t.Errorf("it printed %q", line)
		}
	}
	if text := d.errs.String(); text != "" {
		t.Error(text)
	}
}
