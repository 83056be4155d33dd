package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const (
	reportFile = "results.md"
	rawFile    = "results.jsonl"
)

// report is the outcome of a run.
type report struct {
	Machine machine       `json:"machine"`
	Date    string        `json:"date"`
	Seed    uint64        `json:"seed"` // of the order of the cases
	Quick   bool          `json:"quick,omitempty"`
	Took    time.Duration `json:"took_ns"`
	Load    []string      `json:"load"` // averages before each round and at the end
	Cases   []*result     `json:"-"`    // the lines that follow in the file

	started time.Time
}

// result is the outcome of a case.
type result struct {
	Family  family            `json:"family"`
	System  string            `json:"system"`
	Params  params            `json:"params"`
	Figures map[string]series `json:"figures"`
	Errors  map[int]string    `json:"errors,omitempty"` // by round
	// Of all rounds, for families whose plot shows it.
	Histogram *histogram `json:"histogram,omitempty"`
}

func newReport(cases []benchmark, quick bool) *report {
	r := &report{
		Machine: thisMachine(),
		Date:    time.Now().UTC().Format("2006-01-02"),
		Seed:    rand.Uint64() >> 11, // a JSON number keeps 53 bits
		Quick:   quick,
		started: time.Now(),
	}
	for _, b := range cases {
		r.Cases = append(r.Cases, &result{
			Family: b.family, System: b.system, Params: b.params,
			Figures: make(map[string]series),
			Errors:  make(map[int]string),
		})
	}
	return r
}

// add notes the outcome of one round of case i.
func (r *report) add(i, round int, f figures, err error) {
	c := r.Cases[i]
	if err != nil {
		c.Errors[round] = err.Error()
		return
	}
	set := func(name string, v float64) {
		if c.Figures[name] == nil {
			c.Figures[name] = make(series)
		}
		c.Figures[name][round] = math.Round(v*100) / 100
	}
	for name, v := range f.values {
		set(name, v)
	}
	for name, samples := range f.samples {
		set(name+"_p50", quantile(samples, 0.5))
		set(name+"_p99", quantile(samples, 0.99))
	}
	if c.Family == idleTime {
		if c.Histogram == nil {
			c.Histogram = new(histogram)
		}
		c.Histogram.add(f.samples["latency"])
	}
	r.Took = time.Since(r.started)
}

// write puts the raw results, the report and its plots into dir.
func (r *report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := writeFile(filepath.Join(dir, rawFile), func(w io.Writer) error {
		e := json.NewEncoder(w)
		err := e.Encode(r)
		for _, c := range r.Cases {
			err = errors.Join(err, e.Encode(c))
		}
		return err
	}); err != nil {
		return err
	}
	plots, err := r.plot(dir)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(dir, reportFile), func(w io.Writer) error {
		_, err := io.WriteString(w, r.markdown(plots))
		return err
	})
}

func writeFile(path string, write func(io.Writer) error) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	return errors.Join(write(w), w.Flush(), f.Close())
}

// readReport reads the raw results that write left in dir.
func readReport(dir string) (*report, error) {
	f, err := os.Open(filepath.Join(dir, rawFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d := json.NewDecoder(f)
	r := new(report)
	if err := d.Decode(r); err != nil {
		return nil, err
	}
	for d.More() {
		c := new(result)
		if err := d.Decode(c); err != nil {
			return nil, err
		}
		r.Cases = append(r.Cases, c)
	}
	return r, nil
}

// find returns a case of the run, or nil.
func (r *report) find(f family, sys string, p params) *result {
	for _, c := range r.Cases {
		if c.Family == f && c.System == sys && c.Params == p {
			return c
		}
	}
	return nil
}

// of returns a figure by round: empty where the case or the figure is missing.
func (c *result) of(figure string) series {
	if c == nil {
		return nil
	}
	return c.Figures[figure]
}

// cell is a figure as the tables show it.
func (c *result) cell(figure string, f func(float64) string) string {
	switch {
	case c == nil:
		return ""
	case len(c.Figures[figure]) == 0 && len(c.Errors) > 0:
		return "failed"
	case len(c.Figures[figure]) == 0:
		return "-"
	}
	return c.Figures[figure].summarize().format(f)
}

// ratio is a figure divided by that of another case, round by round.
func (c *result) ratio(figure string, base *result) string {
	ratios := c.of(figure).over(base.of(figure))
	if len(ratios) == 0 {
		return "-"
	}
	return ratios.summarize().format(times)
}

func times(v float64) string { return digits(v) + "x" }

func count(v float64) string { return fmt.Sprintf("%.0f", v) }

// perSecond writes CPU time per second of elapsed time as a share of a core.
func perSecond(ns float64) string { return digits(ns/1e7) + " %" }

func (p params) procs() string {
	if p.Procs == 0 {
		return "default"
	}
	return fmt.Sprint(p.Procs)
}

func (r *report) markdown(plots map[family]string) string {
	var w strings.Builder
	fmt.Fprintf(&w, "# Results\n\n%s, %s.\n\n", r.Date, r.Machine)
	if r.Quick {
		fmt.Fprint(&w, "A quick run: its figures tell whether the cases work, not how fast they are.\n\n")
	}
	fmt.Fprintf(&w, "Figures are medians over rounds, with their range in brackets. Ratios are made round by round.\n"+
		"[What the cases are](../README.md). The run took %v; load average before the rounds\n"+
		"and at the end: %s. Much more than the number of cores is a machine that did other things.\n\n",
		r.Took.Round(time.Second), strings.Join(r.Load, ", "))
	r.reaches(&w)
	for _, section := range []struct {
		family family
		title  string
		write  func(*strings.Builder, []*result)
	}{
		{roundTrip, "Round trip, 64 bytes", r.roundTripTable},
		{oneWay, "One way, one sender", r.oneWayTable},
		{acked, "One way, acknowledged", r.ackedTable},
		{calls, "Request and reply, 64 bytes", r.callsTable},
		{clusterRoundTrip, "Cluster: round trip, 64 bytes", r.clusterRoundTripTable},
		{clusterDrain, "Cluster: one way, messages that wait", r.clusterOneWayTables},
		{clusterOneWay, "Cluster: one way, sent at the same time", r.clusterOneWayTables},
		{clusterIdle, "Cluster: receivers of one process, idle", r.clusterIdleTable},
		{packing, "One way, channel to channel, with packing", func(w *strings.Builder, cases []*result) { r.oneWayTables(w, cases, packing) }},
		{large, "One way, large texts", r.largeTable},
		{senders, "One way, several sender processes, 64 bytes", r.sendersTable},
		{idleTime, "Latency after the receiver has been idle", r.idleTimeTable},
		{paced, "Evenly spread messages", r.pacedTable},
		{idle, "100 receivers, idle", r.crowdTable},
		{receivers, "Receivers of one process on one queue", r.crowdTable},
		{foreign, "Idle, with messages for others in the queue", r.crowdTable},
		{cancelled, "Cancelling a receive that sleeps", r.cancelTable},
	} {
		var cases []*result
		for _, c := range r.Cases {
			if c.Family == section.family {
				cases = append(cases, c)
			}
		}
		if len(cases) == 0 {
			continue
		}
		fmt.Fprintf(&w, "## %s\n\n", section.title)
		section.write(&w, cases)
		if name, ok := plots[section.family]; ok {
			fmt.Fprintf(&w, "![%s](%s)\n\n", section.title, name)
		}
	}
	r.failures(&w)
	return strings.TrimRight(w.String(), "\n") + "\n"
}

func row(w *strings.Builder, cells ...string) {
	fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | "))
}

// head writes the first row of a table; the first left columns are texts.
func head(w *strings.Builder, left int, cells ...string) {
	row(w, cells...)
	for i := range cells {
		cells[i] = "---:"
		if i < left {
			cells[i] = "---"
		}
	}
	row(w, cells...)
}

func (r *report) roundTripTable(w *strings.Builder, cases []*result) {
	p := params{Size: 64}
	hot, blocking := r.find(roundTrip, cHot.label, p), r.find(roundTrip, cBlocking.label, p)
	head(w, 2, "system", "GOMAXPROCS", "p50", "p99", "p50, of C polled hot", "p50, of C blocking")
	for _, c := range cases {
		row(w, c.System, c.procs(), c.cell("rtt_p50", duration), c.cell("rtt_p99", duration),
			c.ratio("rtt_p50", hot), c.ratio("rtt_p50", blocking))
	}
	fmt.Fprintln(w)
}

// procs is GOMAXPROCS as the tables show it.
func (c *result) procs() string {
	if strings.HasPrefix(c.System, "C, ") || strings.HasPrefix(c.System, "C -> C") {
		return ""
	}
	return c.Params.procs()
}

// values returns the different values that cases have, smallest first.
func values[V int | time.Duration](cases []*result, of func(params) V) (vs []V) {
	for _, c := range cases {
		vs = append(vs, of(c.Params))
	}
	slices.Sort(vs)
	return slices.Compact(vs)
}

// grid writes a row for each system, and a column for each value of a parameter.
func grid[V int | time.Duration](w *strings.Builder, cases []*result, columns []V, title func(V) string, set func(*params, V), cell func(*result) string) {
	titles := []string{"system", "GOMAXPROCS"}
	for _, v := range columns {
		titles = append(titles, title(v))
	}
	head(w, 2, titles...)
	type key struct {
		system string
		procs  int
	}
	written := make(map[key]bool)
	for _, c := range cases {
		k := key{c.System, c.Params.Procs}
		if written[k] {
			continue
		}
		written[k] = true
		cells := []string{c.System, c.procs()}
		for _, v := range columns {
			p := c.Params
			set(&p, v)
			var found *result
			for _, other := range cases {
				if other.System == c.System && other.Params == p {
					found = other
				}
			}
			cells = append(cells, cell(found))
		}
		row(w, cells...)
	}
	fmt.Fprintln(w)
}

func perMessage(c *result) string { return c.cell("ns_per_message", duration) }

func (r *report) oneWayTable(w *strings.Builder, cases []*result) { r.oneWayTables(w, cases, oneWay) }

// oneWayTables writes the tables of a family with a C loop.
func (r *report) oneWayTables(w *strings.Builder, cases []*result, in family) {
	sizes := values(cases, func(p params) int { return p.Size })
	title := func(v int) string { return fmt.Sprintf("%d B", v) }
	set := func(p *params, v int) { p.Size = v }
	fmt.Fprint(w, "Time per message:\n\n")
	grid(w, cases, sizes, title, set, perMessage)
	fmt.Fprint(w, "Messages per second, of C's blocking loop (more is faster; `C -> X` has the same C sender):\n\n")
	grid(w, cases, sizes, title, set, func(c *result) string {
		if c == nil {
			return ""
		}
		loop := r.find(in, cLoop, params{Size: c.Params.Size})
		return loop.ratio("ns_per_message", c)
	})
}

func (r *report) ackedTable(w *strings.Builder, cases []*result) {
	r.oneWayTables(w, cases, acked)
	sizes := values(cases, func(p params) int { return p.Size })
	title := func(v int) string { return fmt.Sprintf("%d B", v) }
	set := func(p *params, v int) { p.Size = v }
	fmt.Fprint(w, "Time with a journal, of that without:\n\n")
	journaled := slices.DeleteFunc(slices.Clone(cases), func(c *result) bool { return !strings.HasSuffix(c.System, journalLabel) })
	grid(w, journaled, sizes, title, set, func(c *result) string {
		if c == nil {
			return ""
		}
		return c.ratio("ns_per_message", r.find(acked, strings.TrimSuffix(c.System, journalLabel), c.Params))
	})
	fmt.Fprint(w, "Objects that the receiving process, with a broker that it embeds, allocates for a message:\n\n")
	grid(w, slices.DeleteFunc(slices.Clone(cases), func(c *result) bool { return c.System == cLoop }), sizes, title, set,
		func(c *result) string { return c.cell("allocs_per_message", digits) })
}

func (r *report) callsTable(w *strings.Builder, cases []*result) {
	head(w, 2, "system", "GOMAXPROCS", "callers", "time per call, all callers together", "calls/s, of the fastest other", "p50", "p99", "CPU per call, the client's")
	for _, c := range cases {
		others := "-"
		if c.System == callServe.label {
			others = r.callsOfFastest(c.Params).summarize().format(times)
		}
		row(w, c.System, c.procs(), fmt.Sprint(c.Params.Callers), c.cell("ns_per_call", duration), others,
			c.cell("call_p50", duration), c.cell("call_p99", duration), c.cell("cpu_ns_per_call", duration))
	}
	fmt.Fprintln(w)
}

// callsOfFastest is how many calls package serve makes in the time of one of the fastest other
// system, by round: that whose median is least, with the same GOMAXPROCS.
func (r *report) callsOfFastest(p params) series {
	own := r.find(calls, callServe.label, p).of("ns_per_call")
	var fastest series
	for _, sys := range calling[1:] {
		s := r.find(calls, sys.label, p).of("ns_per_call")
		if len(s) > 0 && (len(fastest) == 0 || s.summarize().Median < fastest.summarize().Median) {
			fastest = s
		}
	}
	return fastest.over(own)
}

func (r *report) largeTable(w *strings.Builder, cases []*result) {
	sizes := values(cases, func(p params) int { return p.Size })
	set := func(p *params, v int) { p.Size = v }
	fmt.Fprint(w, "MiB of texts per second (more is faster):\n\n")
	grid(w, cases, sizes, binarySize, set, func(c *result) string { return c.cell("mib_per_s", digits) })
	for _, base := range []way{wayUnixFramed, wayCopies} {
		fmt.Fprintf(w, "The same, of `%s`:\n\n", base.label)
		grid(w, cases, sizes, binarySize, set, func(c *result) string {
			if c == nil {
				return ""
			}
			return c.ratio("mib_per_s", r.find(large, base.label, c.Params))
		})
	}
}

// binarySize writes a number of KiB or MiB.
func binarySize(bytes int) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}

// largeOfFastest is the MiB/s of chanmq's fastest way, the one whose median is the highest.
func (r *report) largeOfFastest(p params) (fastest series) {
	for _, w := range ownLarge {
		s := r.find(large, w.label, p).of("mib_per_s")
		if len(s) > 0 && (len(fastest) == 0 || s.summarize().Median > fastest.summarize().Median) {
			fastest = s
		}
	}
	return fastest
}

// reachesLarge compares chanmq's fastest way to move large texts with a socket, and with the
// two copies that its texts are made of.
func (r *report) reachesLarge(line func(what, reach string, s series, f func(float64) string, reached func(spread) bool)) {
	for _, procs := range []int{1, 2} {
		for _, goal := range []struct {
			size  int
			base  way
			least float64
		}{
			{64 << 10, wayUnixFramed, 1},
			{1 << 20, wayUnixFramed, 1},
			{64 << 20, wayUnixFramed, 1},
			{64 << 20, wayCopies, 0.7},
		} {
			p := params{Size: goal.size, Procs: procs}
			line(fmt.Sprintf("MiB/s, chanmq's fastest way, %s, GOMAXPROCS=%d, of %s", binarySize(goal.size), procs, goal.base.label),
				fmt.Sprintf(">= %.1fx", goal.least), r.largeOfFastest(p).over(r.find(large, goal.base.label, p).of("mib_per_s")),
				times, func(s spread) bool { return s.Median >= goal.least })
		}
	}
}

func (r *report) sendersTable(w *strings.Builder, cases []*result) {
	fmt.Fprint(w, "Time per message:\n\n")
	grid(w, cases, values(cases, func(p params) int { return p.Senders }),
		func(v int) string { return fmt.Sprintf("%d senders", v) },
		func(p *params, v int) { p.Senders = v }, perMessage)
}

func (r *report) idleTimeTable(w *strings.Builder, cases []*result) {
	times := values(cases, func(p params) time.Duration { return p.Idle })
	for _, q := range []string{"p50", "p99"} {
		fmt.Fprintf(w, "One way, from a C sender, %s:\n\n", q)
		grid(w, cases, times, func(v time.Duration) string { return shortDuration(float64(v)) },
			func(p *params, v time.Duration) { p.Idle = v },
			func(c *result) string { return c.cell("latency_"+q, duration) })
	}
}

func (r *report) pacedTable(w *strings.Builder, cases []*result) {
	head(w, 2, "receiver", "GOMAXPROCS", "messages/s", "CPU, of a core", "CPU per message", "CPU, of C", "thread switches per message", "latency p50", "latency p99")
	for _, c := range cases {
		p := c.Params
		p.Procs = 0
		base := r.find(paced, cBlocking.label, p)
		row(w, c.System, c.procs(), fmt.Sprint(p.Rate), c.cell("cpu_ns_per_s", perSecond), c.cell("cpu_ns_per_message", duration),
			c.ratio("cpu_ns_per_s", base), c.cell("switches_per_message", digits), c.cell("latency_p50", duration), c.cell("latency_p99", duration))
	}
	fmt.Fprintln(w)
}

func (r *report) crowdTable(w *strings.Builder, cases []*result) {
	titles := []string{"system", "receivers", "queues", "foreign messages", "CPU idle, of a core", "threads"}
	delivery := slices.ContainsFunc(cases, func(c *result) bool { return len(c.of("latency_p50")) > 0 })
	if delivery {
		titles = append(titles, "delivery p50", "delivery p99", "send p50 (C)")
	}
	head(w, 1, titles...)
	for _, c := range cases {
		cells := []string{c.System, fmt.Sprint(c.Params.Receivers), fmt.Sprint(c.Params.Queues), fmt.Sprint(c.Params.Standing),
			c.cell("cpu_ns_per_s", perSecond), c.cell("threads", count)}
		if delivery {
			cells = append(cells, c.cell("latency_p50", duration), c.cell("latency_p99", duration), c.cell("send_p50", duration))
		}
		row(w, cells...)
	}
	fmt.Fprintln(w)
}

func (r *report) cancelTable(w *strings.Builder, cases []*result) {
	head(w, 2, "system", "GOMAXPROCS", "p50", "p99")
	for _, c := range cases {
		row(w, c.System, c.procs(), c.cell("cancel_p50", duration), c.cell("cancel_p99", duration))
	}
	fmt.Fprintln(w)
}

// failures lists the rounds that have no figure, and why.
func (r *report) failures(w *strings.Builder) {
	first := true
	for _, c := range r.Cases {
		for _, round := range slices.Sorted(maps.Keys(c.Errors)) {
			if first {
				fmt.Fprint(w, "## Failed\n\n")
				first = false
			}
			text := strings.Join(strings.Fields(c.Errors[round]), " ")
			fmt.Fprintf(w, "- %s/%s%s, round %d: `%s`\n", c.Family, c.System, c.Params, round, strings.ReplaceAll(text, "`", "'"))
		}
	}
}

// reaches compares the run with what the project wants to reach. Nothing
// depends on the verdict: a busy machine may miss what a quiet one reaches.
func (r *report) reaches(w *strings.Builder) {
	rows := 0
	line := func(what, reach string, s series, f func(float64) string, reached func(spread) bool) {
		if len(s) == 0 {
			return
		}
		if rows++; rows == 1 {
			fmt.Fprint(w, "## What is to be reached\n\n")
			head(w, 2, "what", "reach", "measured", "")
		}
		sum, verdict := s.summarize(), "missed"
		if reached(sum) {
			verdict = "reached"
		}
		row(w, what, reach, sum.format(f), verdict)
	}
	atMost := func(limit float64) func(spread) bool {
		return func(s spread) bool { return s.Median <= limit }
	}
	below := func(limit float64) func(spread) bool {
		return func(s spread) bool { return s.Median < limit }
	}

	p := params{Size: 64}
	hot, blocking := r.find(roundTrip, cHot.label, p).of("rtt_p50"), r.find(roundTrip, cBlocking.label, p).of("rtt_p50")
	for _, procs := range []int{0, 1} {
		p.Procs = procs
		what := fmt.Sprintf("round trip, 64 B, p50, GOMAXPROCS=%s: ", p.procs())
		channels, direct := r.find(roundTrip, chanmqChannels.label, p).of("rtt_p50"), r.find(roundTrip, chanmqDirect.label, p).of("rtt_p50")
		line(what+"channels, of C polled hot", "<= 1.4x", channels.over(hot), times, atMost(1.4))
		line(what+"channels, of C blocking", "< 1x in every round", channels.over(blocking), times,
			func(s spread) bool { return s.Max < 1 })
		line(what+"Send and Receive, of C polled hot", "<= 1.1x", direct.over(hot), times, atMost(1.1))
	}

	for _, sys := range []string{"C -> chanmq, channel of 64", "C -> chanmq, channel"} {
		for _, size := range []int{64, 4096} {
			for _, goal := range []struct {
				procs int
				least float64
			}{{1, 1.0}, {2, 0.8}} {
				loop := r.find(oneWay, cLoop, params{Size: size}).of("ns_per_message")
				c := r.find(oneWay, sys, params{Size: size, Procs: goal.procs}).of("ns_per_message")
				line(fmt.Sprintf("messages/s, %s, %d B, GOMAXPROCS=%d, of the C loop", sys, size, goal.procs),
					fmt.Sprintf(">= %.1fx", goal.least), loop.over(c), times,
					func(s spread) bool { return s.Median >= goal.least })
			}
		}
	}

	for _, procs := range []int{1, 2} {
		p := params{Size: 64, Procs: procs}
		for _, w := range []way{wayBuffered, wayInto, wayConsumer, wayBorrowed} {
			line(fmt.Sprintf("time, %s, 64 B, GOMAXPROCS=%d: with a journal, of that without", w.label, procs), "<= 1.1x",
				r.find(acked, w.journaled().label, p).of("ns_per_message").over(r.find(acked, w.label, p).of("ns_per_message")),
				times, atMost(1.1))
		}
	}
	for _, procs := range []int{1, 2} {
		const size = 4096
		label := wayBorrowed.journaled().label
		c := r.find(acked, label, params{Size: size, Procs: procs})
		line(fmt.Sprintf("messages/s, %s, %d B, GOMAXPROCS=%d, of the C loop", label, size, procs), ">= 0.8x",
			r.find(acked, cLoop, params{Size: size}).of("ns_per_message").over(c.of("ns_per_message")), times,
			func(s spread) bool { return s.Median >= 0.8 })
		line(fmt.Sprintf("allocations for a message, %s, %d B, GOMAXPROCS=%d", label, size, procs), "0, but for its start",
			c.of("allocs_per_message"), digits, below(0.05)) // 0.05 is a few hundred in the window
	}

	for _, procs := range []int{1, 2} {
		for _, goal := range []struct {
			callers int
			least   float64
		}{{1, 2}, {50, 1.5}} {
			line(fmt.Sprintf("calls/s, serve, %d callers, GOMAXPROCS=%d, of the fastest of net/rpc, gRPC and NATS", goal.callers, procs),
				fmt.Sprintf(">= %.1fx", goal.least), r.callsOfFastest(params{Procs: procs, Callers: goal.callers, Size: 64}), times,
				func(s spread) bool { return s.Median >= goal.least })
		}
	}
	for _, goal := range []struct {
		procs int
		least float64
	}{{1, 5}, {2, 3}} {
		p := params{Size: 64, Procs: goal.procs}
		line(fmt.Sprintf("messages/s, %s, 64 B, GOMAXPROCS=%d, of the C loop", wayPacked.label, goal.procs),
			fmt.Sprintf(">= %.0fx", goal.least),
			r.find(packing, cLoop, params{Size: 64}).of("ns_per_message").over(r.find(packing, wayPacked.label, p).of("ns_per_message")),
			times, func(s spread) bool { return s.Median >= goal.least })
	}
	for _, procs := range []int{0, 1} {
		p := params{Size: 64, Procs: procs}
		line(fmt.Sprintf("round trip, 64 B, p50, GOMAXPROCS=%s: channels, with packing, of that without", p.procs()), "<= 1.05x",
			r.find(roundTrip, chanmqPacking.label, p).of("rtt_p50").over(r.find(roundTrip, chanmqChannels.label, p).of("rtt_p50")),
			times, atMost(1.05))
	}

	r.reachesCluster(line)

	r.reachesLarge(line)

	for _, queues := range []int{1, 100} {
		s := r.find(idle, chanmqChannels.label, params{Receivers: 100, Queues: queues}).of("cpu_ns_per_s")
		line(fmt.Sprintf("CPU of 100 idle receivers over 10 s, queues: %d", queues), "< 10 ms", s,
			func(v float64) string { return duration(10 * v) }, below(10e6/10))
	}

	for _, sys := range []system{chanmqChannels, chanmqDirect} {
		for _, procs := range []int{0, 1} {
			p := params{Rate: 1000, Size: 64}
			base := r.find(paced, cBlocking.label, p).of("cpu_ns_per_s")
			p.Procs = procs
			line(fmt.Sprintf("CPU at 1,000 messages/s, %s, GOMAXPROCS=%s, of C blocking", sys.label, p.procs()), "<= 2x",
				r.find(paced, sys.label, p).of("cpu_ns_per_s").over(base), times, atMost(2))
		}
	}

	for _, sys := range []system{chanmqDirect, chanmqChannels} {
		for _, procs := range []int{0, 1} {
			p := params{Procs: procs}
			line(fmt.Sprintf("cancel of a parked wait, p99, %s, GOMAXPROCS=%s", sys.label, p.procs()), "< 200 us",
				r.find(cancelled, sys.label, p).of("cancel_p99"), duration, below(200e3))
		}
	}

	crowd := r.find(receivers, chanmqChannels.label, params{Receivers: 10000, Queues: 1})
	line("10,000 receivers on one queue: CPU idle, of a core", "< 1 %", crowd.of("cpu_ns_per_s"), perSecond, below(1e7))
	line("10,000 receivers on one queue: threads", fmt.Sprintf("<= %d", maxParked+20), crowd.of("threads"), count, atMost(maxParked+20))
	line("10,000 receivers on one queue: delivery, p99", "< 20 ms", crowd.of("latency_p99"), duration, below(20e6))
	if rows > 0 {
		fmt.Fprintln(w)
	}
}

// maxParked is chanmq's default of WithMaxParked.
const maxParked = 128
