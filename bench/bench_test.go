package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chanmq/chanmq/bench/internal/peer"
)

// TestMain plays the peer when the harness starts the test program as one.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "peer" {
		os.Exit(peer.Main(os.Args[2:], endpointKinds, wholeRoles))
	}
	os.Exit(m.Run())
}

func compiled(t *testing.T, cases []benchmark) programs {
	t.Helper()
	// What go build reads is not known to go test, whose cached result would stay.
	for _, dir := range []string{"natspeer", "redispeer", "rpcpeer"} {
		sources, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(sources) == 0 {
			t.Fatalf("no sources of %s: %v", dir, err)
		}
		for _, name := range sources {
			if _, err := os.Stat(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	p, err := compile(t.Context(), t.TempDir(), cases)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// needs are the figures that each family's tables are made of.
var needs = map[family][]string{
	roundTrip: {"rtt_p50", "rtt_p99"},
	oneWay:    {"ns_per_message", "cpu_ns_per_message"},
	acked:     {"ns_per_message", "cpu_ns_per_message"},
	calls:     {"ns_per_call", "cpu_ns_per_call", "call_p50", "call_p99"},
	packing:   {"ns_per_message", "cpu_ns_per_message"},

	clusterRoundTrip: {"rtt_p50", "rtt_p99"},
	clusterOneWay:    {"ns_per_message", "cpu_ns_per_message"},
	clusterDrain:     {"ns_per_message", "cpu_ns_per_message"},
	clusterIdle:      {"client_cpu_ns_per_s", "server_cpu_ns_per_s"},

	large:     {"ns_per_message", "cpu_ns_per_message", "mib_per_s"},
	senders:   {"ns_per_message", "cpu_ns_per_message"},
	paced:     {"cpu_ns_per_s", "cpu_ns_per_message", "latency_p50", "latency_p99"},
	idleTime:  {"latency_p50", "latency_p99"},
	idle:      {"cpu_ns_per_s", "threads"},
	receivers: {"cpu_ns_per_s", "threads", "latency_p50", "latency_p99", "send_p50"},
	foreign:   {"cpu_ns_per_s", "threads"},
	cancelled: {"cancel_p50", "cancel_p99"},
}

// TestEveryCaseYieldsItsFigures runs all cases once in their shortest form, and
// makes the report of them.
func TestEveryCaseYieldsItsFigures(t *testing.T) {
	cases := benchmarks(smokeScale)
	programs := compiled(t, cases)
	r := newReport(cases, true)
	var seen []family
	for i := range cases {
		b := &cases[i]
		if !slices.Contains(seen, b.family) {
			seen = append(seen, b.family)
		}
		t.Run(b.name(), func(t *testing.T) {
			f, err := b.execute(t.Context(), programs)
			r.add(i, 1, f, err)
			if errors.Is(err, errNotInstalled) {
				t.Skip(err)
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range needs[b.family] {
				v, ok := r.Cases[i].Figures[name][1]
				if !ok || math.IsNaN(v) || v < 0 {
					t.Errorf("%s = %v, measured: %v", name, v, ok)
				}
			}
		})
	}
	if len(seen) != len(needs) {
		t.Errorf("cases of %v, want one of each of %d families", seen, len(needs))
	}

	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, reportFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range r.Cases {
		if !bytes.Contains(text, []byte("| "+c.System+" |")) {
			t.Errorf("%s is in no table", c.System)
		}
	}
	for _, link := range regexp.MustCompile(`!\[.*\]\((.*)\)`).FindAllSubmatch(text, -1) {
		if svg, err := os.ReadFile(filepath.Join(dir, string(link[1]))); err != nil || !bytes.Contains(svg, []byte("</svg>")) {
			t.Errorf("plot %s: %v", link[1], err)
		}
	}

	again, err := readReport(dir)
	if err != nil {
		t.Fatal(err)
	}
	if again.markdown(nil) != r.markdown(nil) {
		t.Error("the report made of the raw results differs from the one of the run")
	}
}

// A session must leave nothing behind, however its case ended.
func TestSessionLeavesNothingBehind(t *testing.T) {
	programs := compiled(t, nil)
	broken := errors.New("broken")
	cancelled, cancel := context.WithCancel(t.Context())
	for _, c := range []struct {
		name string
		ctx  context.Context
		run  func(*session) error
		want string
	}{
		{"success", t.Context(), func(*session) error { return nil }, ""},
		{"failure", t.Context(), func(*session) error { return broken }, "broken"},
		{"interrupt", cancelled, func(s *session) error {
			cancel()
			return s.running[0].result(s.ctx, &figures{})
		}, "canceled"},
		{"peer that dies", t.Context(), func(s *session) error {
			if err := s.running[1].cmd.Process.Kill(); err != nil {
				return err
			}
			return s.running[0].result(s.ctx, &figures{})
		}, "C, blocking, source: ended too early"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var queue, pid int
			b := benchmark{run: func(s *session, _ *figures) error {
				l, err := s.connect(queueLink)
				if err != nil {
					return err
				}
				queue = s.queues[0]
				// The sink waits for messages that the source was not told to send.
				sink, err := s.start(chanmqChannels, "sink", 0, nil, l.args[1]...)
				if err != nil {
					return err
				}
				pid = sink.cmd.Process.Pid
				if _, err := s.start(cBlocking, "source", 0, nil, l.args[0]...); err != nil {
					return err
				}
				if err := sink.begin(); err != nil {
					return err
				}
				return c.run(s)
			}}
			_, err := b.execute(c.ctx, programs)
			if (err == nil) != (c.want == "") || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("err = %v, want %q", err, c.want)
			}
			if err := unix.Kill(pid, 0); err != unix.ESRCH {
				t.Errorf("the process is still there: %v", err)
			}
			if _, err := msgctl(queue, unix.IPC_RMID); err == nil {
				t.Error("the queue was still there")
			}
		})
	}
}

// What a run that was killed has left is removed, and what others use is not.
func TestAbandonedFilesAreRemoved(t *testing.T) {
	var s session
	used, err := s.scratch(onTmpfs)
	if err != nil {
		t.Fatal(err)
	}
	abandoned := filepath.Join(shmDir, scratchPrefix+"abandoned")
	if err := os.MkdirAll(filepath.Join(abandoned, "queue"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := removeAbandoned(shmDir); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(used); err != nil {
		t.Errorf("what a session uses: %v", err)
	}
	if _, err := os.Stat(abandoned); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what nobody uses: %v, want %v", err, os.ErrNotExist)
	}
	if err := s.close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(used); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what a session has used: %v, want %v", err, os.ErrNotExist)
	}
}

// A sender that is killed in the middle of large texts leaves none.
func TestLargeTextsOfTheKilledAreRemoved(t *testing.T) {
	programs := compiled(t, nil)
	const size = 1 << 20
	for _, w := range []way{ownLarge[0], wayShared} {
		t.Run(w.label, func(t *testing.T) {
			var dirs []string
			b := benchmark{run: func(s *session, f *figures) error {
				peers, err := s.largePeers(w, 0, largeAhead(size), []string{pair("size", size), pair("window", int(time.Hour))})
				if err != nil {
					return err
				}
				dirs = s.dirs
				if err := errors.Join(peers[0].begin(), peers[1].begin(), peers[1].cmd.Process.Kill()); err != nil {
					return err
				}
				return peers[0].result(s.ctx, f)
			}}
			if _, err := b.execute(t.Context(), programs); !errors.Is(err, errEarly) {
				t.Errorf("err = %v, want %v", err, errEarly)
			}
			for _, dir := range dirs {
				if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s: %v", dir, err)
				}
			}
			if w.receiver.texts != noFiles && len(dirs) == 0 {
				t.Error("the texts were in no directory of the session")
			}
		})
	}
}

// A case that fails is in the report, and the others run.
func TestAFailedCaseIsReported(t *testing.T) {
	fails := benchmark{family: roundTrip, system: "that fails", run: func(*session, *figures) error {
		return errors.New("on purpose")
	}}
	works := benchmark{family: roundTrip, system: "that works", run: func(_ *session, f *figures) error {
		f.samples["rtt"] = []int64{1000, 2000, 3000}
		return nil
	}}
	cases := []benchmark{fails, works}
	sc := smokeScale
	sc.rounds = 2
	r := newReport(cases, true)
	if err := runAll(t.Context(), sc, cases, programs{}, r, &progress{w: io.Discard}); err != nil {
		t.Fatal(err)
	}
	text := r.markdown(nil)
	for _, want := range []string{
		"| that fails | default | failed | failed |",
		"| that works | default | 2.00 us (2.00 us..2.00 us) |",
		"round 2: `on purpose`",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the report lacks %q:\n%s", want, text)
		}
	}
}

// Who has no NATS, since go cannot build it, still has the other cases.
func TestWithoutNATSOnlyItsCasesFail(t *testing.T) {
	t.Setenv("GOFLAGS", "-unknown") // go build fails
	var with, without *benchmark
	cases := benchmarks(smokeScale)
	for i := range cases {
		switch cases[i].system {
		case goNATS.label:
			with = &cases[i]
		case chanmqDirect.label:
			without = &cases[i]
		}
	}
	programs := compiled(t, cases)
	if _, err := without.execute(t.Context(), programs); err != nil {
		t.Errorf("%s: %v", without.name(), err)
	}
	const want = "compiling natspeer: "
	if _, err := with.execute(t.Context(), programs); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%s: %v, want %q", with.name(), err, want)
	}
	if built := compiled(t, []benchmark{*without}).others; len(built) != 0 {
		t.Errorf("peers of other programs were compiled, and no case needs them: %v", built)
	}
}

// Who has no Redis server still has the other cases.
func TestWithoutARedisServerItsCasesSaySo(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	cases := slices.DeleteFunc(benchmarks(smokeScale), func(b benchmark) bool { return b.link.peerPackage() != "redispeer" })
	if len(cases) == 0 {
		t.Fatal("no cases")
	}
	for _, b := range cases {
		if _, err := b.execute(t.Context(), programs{}); !errors.Is(err, errNotInstalled) {
			t.Errorf("%s: %v, want %v", b.name(), err, errNotInstalled)
		}
	}
}
