// Command bench measures chanmq against C and against other ways to pass
// messages between processes of one machine, in one run: see README.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chanmq/chanmq/bench/internal/peer"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "peer" {
		os.Exit(peer.Main(os.Args[2:], endpointKinds, wholeRoles))
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	quick := flag.Bool("quick", false, "measure less, in under a minute")
	only := flag.String("only", "", "run the cases whose name the regular `expression` matches")
	rounds := flag.Int("rounds", 0, "run each case `n` times (default 5, with -quick 1)")
	out := flag.String("out", defaultOut(), "write the results into the `directory`")
	list := flag.Bool("list", false, "list the cases and end")
	render := flag.Bool("render", false, "write report and plots anew from the results.json of an earlier run")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if *render {
		r, err := readReport(*out)
		if err != nil {
			return err
		}
		return r.write(*out)
	}

	sc := fullScale
	if *quick {
		sc = quickScale
	}
	if *rounds > 0 {
		sc.rounds = *rounds
	}
	pattern, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	cases := slices.DeleteFunc(benchmarks(sc), func(b benchmark) bool { return !pattern.MatchString(b.name()) })
	if len(cases) == 0 {
		return fmt.Errorf("no case matches %q", *only)
	}
	if *list {
		var takes time.Duration
		for _, b := range cases {
			fmt.Println(b.name())
			takes += b.takes * time.Duration(b.roundsOf(sc))
		}
		fmt.Printf("%d cases, about %v\n", len(cases), takes.Round(time.Second))
		return nil
	}

	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	if err := removeAbandoned(shmDir); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "chanmq-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	programs, err := compile(ctx, dir, cases)
	if err != nil {
		return err
	}
	r := newReport(cases, *quick)
	if err := runAll(ctx, sc, cases, programs, r, newProgress(os.Stderr)); err != nil {
		return err
	}
	if err := r.write(*out); err != nil {
		return err
	}
	fmt.Println(filepath.Join(*out, reportFile))
	return nil
}

// defaultOut is results beside this file, from here or from the repository's root.
func defaultOut() string {
	if _, err := os.Stat(filepath.Join("bench", "go.mod")); err == nil {
		return filepath.Join("bench", "results")
	}
	return "results"
}

func (b *benchmark) roundsOf(sc scale) int {
	if b.rounds > 0 {
		return min(b.rounds, sc.rounds)
	}
	return sc.rounds
}

// runAll runs every case once per round, each round in an order of its own, so
// that whatever the machine does meanwhile does not always meet the same case.
// A case that fails is noted and does not stop the others.
func runAll(ctx context.Context, sc scale, cases []benchmark, programs programs, r *report, progress *progress) error {
	for i := range cases {
		progress.total += cases[i].takes * time.Duration(cases[i].roundsOf(sc))
	}
	random := rand.New(rand.NewPCG(r.Seed, 0))
	for round := 1; round <= sc.rounds; round++ {
		r.Load = append(r.Load, loadAverage())
		for _, i := range random.Perm(len(cases)) {
			b := &cases[i]
			if round > b.roundsOf(sc) {
				continue
			}
			progress.show(round, sc.rounds, b)
			f, err := b.execute(ctx, programs)
			if ctx.Err() != nil {
				progress.end()
				return errors.New("interrupted; nothing is written")
			}
			if err != nil {
				progress.note(fmt.Sprintf("%s: %v", b.name(), err))
			}
			r.add(i, round, f, err)
			progress.done += b.takes
		}
	}
	r.Load = append(r.Load, loadAverage())
	progress.end()
	return nil
}

// progress is one line that tells how far a run is.
type progress struct {
	w           io.Writer
	line        bool // a terminal: the line is written over
	started     time.Time
	total, done time.Duration // as expected before
	shown       int           // round
}

func newProgress(f *os.File) *progress {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &progress{w: f, line: err == nil, started: time.Now()}
}

func (p *progress) show(round, rounds int, b *benchmark) {
	left := p.total - p.done
	if p.done > 0 {
		left = time.Duration(float64(time.Since(p.started)) * float64(left) / float64(p.done))
	}
	if p.line {
		fmt.Fprintf(p.w, "\r\x1b[K%3.0f%%, %v left: round %d of %d, %s",
			100*float64(p.done)/float64(p.total), left.Round(time.Second), round, rounds, b.name())
	} else if p.shown != round {
		p.shown = round // a log gets one line per round
		fmt.Fprintf(p.w, "round %d of %d, %v left\n", round, rounds, left.Round(time.Second))
	}
}

func (p *progress) note(text string) {
	p.end()
	fmt.Fprintln(p.w, text)
}

func (p *progress) end() {
	if p.line {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}
