package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

// benchCase is something that bench measures, between this process and a peer.
type benchCase struct {
	name    string
	role    string // of the peer
	size    int
	channel int // room in the channel; -1: direct calls
	trips   bool
}

var benchCases = []benchCase{
	{"round trip, direct calls", "echo", 64, -1, true},
	{"round trip, channels", "echo-channels", 64, 0, true},
	{"one way, 64 B, direct calls", "flood", 64, -1, false},
	{"one way, 64 B, channel of 64", "flood", 64, 64, false},
	{"one way, 4 KiB, direct calls", "flood", 4096, -1, false},
	{"one way, 4 KiB, channel of 64", "flood", 4096, 64, false},
}

// benchResult is what was measured, per message or per round trip.
type benchResult struct {
	Name      string        `json:"name"`
	Size      int           `json:"bytes"`
	Count     int           `json:"count"`
	PerSecond float64       `json:"per_second"`
	P50       time.Duration `json:"p50_ns,omitempty"` // round trips only
	P99       time.Duration `json:"p99_ns,omitempty"`
	trips     []time.Duration
}

func (a *app) benchCommand() *cobra.Command {
	var duration time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure how fast queues are on this machine",
		Long: `Measure messages between two processes on queues of their own, which are removed again:
round trips of 64 bytes, and messages one way, with direct calls and through Go channels.
Let the machine rest meanwhile. The bench directory of the library compares with C and with
other ways to pass messages.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if duration <= 0 {
				return usage("--duration %v: give more than 0", duration)
			}
			var results []benchResult
			for _, c := range benchCases {
				if !asJSON {
					a.progressf("%s ...", c.name)
				}
				r, err := a.bench(&c, duration)
				if a.ctx.Err() != nil {
					return a.interrupted("interrupted")
				}
				if err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
				results = append(results, *r)
			}
			if asJSON {
				return a.writeJSON(results)
			}
			return writeAll(a.out, []byte(benchText(results)))
		},
	}
	cmd.Flags().DurationVarP(&duration, "duration", "d", time.Second, "measure each case for this `DURATION`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as a JSON array")
	return cmd
}

// bench runs a case. Its queues are removed whatever happens, but for kill -9.
func (a *app) bench(c *benchCase, duration time.Duration) (r *benchResult, err error) {
	there, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		return nil, err
	}
	defer there.Close() // nothing is worth keeping
	back, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		return nil, err
	}
	defer back.Close() // nothing is worth keeping
	peer, err := startSelf(a.ctx, "bench-peer", c.role, strconv.Itoa(there.ID()), strconv.Itoa(back.ID()), strconv.Itoa(c.size))
	if err != nil {
		return nil, err
	}
	defer peer.stop()
	ctx, cancel := context.WithTimeout(a.ctx, duration+20*time.Second) // catches a peer that hangs
	defer cancel()
	if err := peer.ready(ctx); err != nil {
		return nil, err
	}
	if c.trips {
		return c.roundTrips(ctx, there, back, duration)
	}
	return c.oneWay(ctx, back, duration)
}

// warmUp is the part of the time that is not measured.
func warmUp(duration time.Duration) time.Duration { return duration / 5 }

func (c *benchCase) roundTrips(ctx context.Context, there, back *chanmq.Queue[[]byte], duration time.Duration) (*benchResult, error) {
	text := make([]byte, c.size)
	send := func() error { return there.Send(ctx, 1, text) }
	var m message
	receive := func() error { return back.ReceiveInto(ctx, chanmq.Any(), &m) }
	if c.channel >= 0 {
		sender := there.Sender(ctx, chanmq.WithBuffer(c.channel))
		receiver := back.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(c.channel))
		send = func() error {
			select {
			case sender.C() <- message{Type: 1, Value: text}:
				return nil
			case <-sender.Done():
				return sender.Err()
			}
		}
		receive = func() error {
			if _, ok := <-receiver.C(); !ok {
				return receiver.Err()
			}
			return nil
		}
	}
	trips := make([]time.Duration, 0, 1<<18)
	begin := time.Now()
	warm := begin.Add(warmUp(duration))
	end := warm.Add(duration)
	for now := begin; now.Before(end) || len(trips) == 0; {
		if err := errors.Join(send(), receive()); err != nil {
			return nil, err
		}
		after := time.Now()
		if now.After(warm) {
			trips = append(trips, after.Sub(now))
		}
		now = after
	}
	return tripResult(c, trips), nil
}

func tripResult(c *benchCase, trips []time.Duration) *benchResult {
	r := &benchResult{Name: c.name, Size: c.size, Count: len(trips), trips: trips}
	if len(trips) == 0 {
		return r
	}
	slices.Sort(trips)
	var sum time.Duration
	for _, t := range trips {
		sum += t
	}
	r.PerSecond = float64(len(trips)) / sum.Seconds()
	r.P50, r.P99 = trips[len(trips)/2], trips[len(trips)*99/100]
	return r
}

func (c *benchCase) oneWay(ctx context.Context, from *chanmq.Queue[[]byte], duration time.Duration) (*benchResult, error) {
	var m message
	receive := func() error { return from.ReceiveInto(ctx, chanmq.Any(), &m) }
	if c.channel >= 0 {
		receiver := from.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(c.channel))
		defer receiver.Close() // always nil
		receive = func() error {
			if _, ok := <-receiver.C(); !ok {
				return receiver.Err()
			}
			return nil
		}
	}
	const look = 64 // messages between two looks at the clock
	begin := time.Now()
	warm := begin.Add(warmUp(duration))
	var since time.Time
	for count := 0; ; count++ {
		if count%look == 0 {
			now := time.Now()
			switch {
			case since.IsZero() && now.After(warm):
				since, count = now, 0
			case !since.IsZero() && now.Sub(since) >= duration:
				return &benchResult{Name: c.name, Size: c.size, Count: count, PerSecond: float64(count) / now.Sub(since).Seconds()}, nil
			}
		}
		if err := receive(); err != nil {
			return nil, err
		}
	}
}

// benchText is the table and the plots.
func benchText(results []benchResult) string {
	t := format.Table{Right: []bool{false, true, true, true, true}}
	t.Row("CASE", "PER SECOND", "MiB/s", "P50", "P99", "")
	most := 0.0
	for _, r := range results {
		most = max(most, r.PerSecond)
	}
	for _, r := range results {
		p50, p99 := "", ""
		if r.P50 > 0 {
			p50, p99 = micro(r.P50), micro(r.P99)
		}
		width := 1
		if most > 0 {
			width = max(1, int(r.PerSecond/most*24+0.5))
		}
		t.Row(r.Name, fmt.Sprintf("%.0f", r.PerSecond), fmt.Sprintf("%.1f", r.PerSecond*float64(r.Size)/(1<<20)), p50, p99, strings.Repeat("#", width))
	}
	var b strings.Builder
	b.WriteString(t.String())
	for _, r := range results {
		if len(r.trips) > 0 {
			fmt.Fprintf(&b, "\n%s: how many took how long\n%s", r.Name, histogram(r.trips))
		}
	}
	fmt.Fprintf(&b, "\n%s, %d processors, GOMAXPROCS %d\n", runtime.Version(), runtime.NumCPU(), runtime.GOMAXPROCS(0))
	return b.String()
}

func micro(d time.Duration) string {
	return fmt.Sprintf("%.1f us", float64(d)/float64(time.Microsecond))
}

// histogram draws how many of the sorted times are below each power of two.
func histogram(times []time.Duration) string {
	const width = 50
	var b strings.Builder
	from := 0
	for limit := time.Microsecond; from < len(times); limit *= 2 {
		to, _ := slices.BinarySearch(times, limit)
		if n := to - from; n > 0 {
			share := float64(n) / float64(len(times))
			fmt.Fprintf(&b, "  < %6d us  %5.1f%%  %s\n", limit/time.Microsecond, 100*share, strings.Repeat("#", max(1, int(share*width+0.5))))
		}
		from = to
	}
	return b.String()
}

// peerCommand is the other process of bench. It ends with its standard input.
func (a *app) benchPeerCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "bench-peer ROLE THERE BACK SIZE",
		Short:  "The other process of bench",
		Hidden: true,
		Args:   cobra.ExactArgs(4),
		RunE: func(_ *cobra.Command, args []string) error {
			var numbers [3]int
			for i := range numbers {
				n, err := strconv.Atoi(args[i+1])
				if err != nil {
					return err
				}
				numbers[i] = n
			}
			there, err := chanmq.Attach(numbers[0])
			if err != nil {
				return err
			}
			defer there.Close() // nothing is worth keeping
			back, err := chanmq.Attach(numbers[1])
			if err != nil {
				return err
			}
			defer back.Close() // nothing is worth keeping
			ctx, cancel := context.WithCancel(a.ctx)
			defer cancel()
			go func() {
				_, _ = io.Copy(io.Discard, a.in) // bench closes it, or dies
				cancel()
			}()
			if err := writeAll(a.out, []byte("ready\n")); err != nil {
				return err
			}
			_ = peerRole(ctx, args[0], there, back, numbers[2]) // bench has removed the queues
			return nil
		},
	}
}

func peerRole(ctx context.Context, role string, there, back *chanmq.Queue[[]byte], size int) error {
	switch role {
	case "echo":
		for {
			var m message
			if err := there.ReceiveInto(ctx, chanmq.Any(), &m); err != nil {
				return err
			}
			if err := back.Send(ctx, m.Type, m.Value); err != nil {
				return err
			}
		}
	case "echo-channels":
		receiver, sender := there.Receiver(ctx, chanmq.Any()), back.Sender(ctx)
		for m := range receiver.C() {
			select {
			case sender.C() <- m:
			case <-sender.Done():
				return sender.Err()
			}
		}
		return receiver.Err()
	default:
		text := make([]byte, size)
		for {
			if err := back.Send(ctx, 1, text); err != nil {
				return err
			}
		}
	}
}

// self is another process of this program.
type self struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stdout *bufio.Reader
}

// startSelf starts this program with other arguments.
func startSelf(ctx context.Context, args ...string) (*self, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = os.Args[0] // the tests tell commands by this name
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &self{cmd, stdin, bufio.NewReader(stdout)}, nil
}

// ready waits until the process says that it is.
func (s *self) ready(ctx context.Context) error {
	line := make(chan error, 1)
	go func() {
		_, err := s.stdout.ReadString('\n')
		line <- err
	}()
	select {
	case err := <-line:
		if err != nil {
			return fmt.Errorf("the other process has ended: %w", err)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop ends the process.
func (s *self) stop() {
	_ = s.stdin.Close() // that is what it waits for
	done := make(chan struct{})
	go func() {
		_ = s.cmd.Wait() // how it ended does not matter
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		_ = s.cmd.Process.Kill()
		<-done
	}
}
