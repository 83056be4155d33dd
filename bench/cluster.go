package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// This file is the cases of chanmq's queues on NATS JetStream, beside plain NATS. All of it is in the peers: this
// program does not link NATS.

const (
	clusterRoundTrip family = "cluster/roundtrip"
	clusterOneWay    family = "cluster/oneway"
	clusterDrain     family = "cluster/drain"
	clusterIdle      family = "cluster/idle"
)

var (
	pullDouble = system{label: "NATS JetStream, publish, Messages, DoubleAck", kind: "jetstream-pull", args: []string{"double=1"}, link: natsLink, files: onDisk}
	pullFetch  = system{label: "NATS JetStream, publish, Consumer.Next, DoubleAck", kind: "jetstream-pull", args: []string{"double=1", "fetch=1"}, link: natsLink, files: onDisk}

	clusterDirect   = system{label: "chanmq, Send and Receive", kind: "cluster-direct", link: natsLink, files: onDisk}
	clusterChannels = system{label: "chanmq, Sender and Receiver", kind: "cluster-channels", link: natsLink, files: onDisk}
	clusterConsumer = system{label: "chanmq, Send and Consumer", kind: "cluster-consumer", link: natsLink, files: onDisk}

	// With as much in flight as the consumers of JetStream.
	clusterConsumerOf256 = system{label: "chanmq, Consumer of 256", kind: "cluster-consumer", args: []string{"inflight=256"}, link: natsLink, files: onDisk}
	clusterReceive       = system{label: "chanmq, Receive", kind: "cluster-direct", link: natsLink, files: onDisk}
	pullOf256            = system{label: "NATS JetStream, pull consumer of 256, work queue", kind: "jetstream-pull", args: []string{"inflight=256"}, link: natsLink, files: onDisk}
	pullLimitsOf256      = system{label: "NATS JetStream, pull consumer of 256, limits", kind: "jetstream-pull", args: []string{"inflight=256", "retention=limits"}, link: natsLink, files: onDisk}

	// The programs at both ends are chanmqDirect on kernel queues; this is what is between them.
	kernelBridges = system{label: "chanmq, kernel queues and bridges", kind: "bridge", link: natsLink, files: onDisk}

	idleSubscriptions = system{label: "NATS, subscriptions", kind: "nats", link: natsLink}
	idlePulls         = system{label: "NATS JetStream, pull consumers", kind: "jetstream-pull", link: natsLink}
	idleReceivers     = system{label: "chanmq, Receivers", kind: "cluster-channels", link: natsLink}
	idleConsumers     = system{label: "chanmq, Consumers", kind: "cluster-consumer", link: natsLink}
)

// clusterBase is what chanmq's round trips are compared with.
var clusterBase = pullDouble

// stored is the system with its messages in memory or in files: how a server stores them.
func (sys system) stored(storage string) system {
	if storage == inFiles {
		return sys
	}
	sys.label += memoryLabel
	sys.args = append(slices.Clone(sys.args), "storage="+storage)
	return sys
}

const (
	inFiles     = "file"
	memoryLabel = ", memory"
)

// storedAs is the label of the system whose messages are stored as those of another one.
func storedAs(label, of string) string {
	if strings.HasSuffix(of, memoryLabel) {
		return label + memoryLabel
	}
	return label
}

// clusterSenders is how many goroutines send, each of which waits until its message is stored: so many that the receiver
// is what limits.
const clusterSenders = 64

// clusterProcs are the values of GOMAXPROCS of these cases.
var clusterProcs = []int{2, 1}

func clusterBenchmarks(sc scale) (all []benchmark) {
	for _, sys := range []system{
		callNATS,
		clusterBase, clusterBase.stored("memory"), pullFetch, pullFetch.stored("memory"),
		clusterDirect, clusterDirect.stored("memory"), clusterChannels, clusterChannels.stored("memory"),
		clusterConsumer, clusterConsumer.stored("memory"),
	} {
		for _, procs := range procsOf(sys, 2) {
			all = append(all, benchmark{
				family: clusterRoundTrip, system: sys.label, params: params{Procs: procs, Size: 64}, link: sys.link,
				takes: sc.window * 5 / 4,
				run:   func(s *session, f *figures) error { return s.roundTrip(f, sc, sys, procs) },
			})
		}
	}
	for _, sys := range []system{kernelBridges, kernelBridges.stored("memory")} {
		for _, procs := range procsOf(sys, 2) {
			all = append(all, benchmark{
				family: clusterRoundTrip, system: sys.label, params: params{Procs: procs, Size: 64}, link: sys.link,
				takes: sc.window*5/4 + processStart,
				run:   func(s *session, f *figures) error { return s.bridgedRoundTrip(f, sc, sys, procs) },
			})
		}
	}
	for _, sys := range []system{
		pullOf256, pullLimitsOf256, clusterConsumerOf256, clusterReceive,
		pullOf256.stored("memory"), pullLimitsOf256.stored("memory"), clusterConsumerOf256.stored("memory"), clusterReceive.stored("memory"),
	} {
		for _, procs := range procsOf(sys, 2) {
			for _, size := range sc.ackedSizes {
				all = append(all, benchmark{
					family: clusterDrain, system: sys.label, params: params{Procs: procs, Size: size}, link: sys.link,
					takes: 5 * sc.window,
					run:   func(s *session, f *figures) error { return s.clusterDrain(f, sc, sys, procs, size) },
				})
			}
		}
	}
	for _, sys := range []system{jetStreamFile, pullOf256, clusterConsumerOf256, clusterReceive} {
		for _, procs := range procsOf(sys, 2) {
			for _, size := range sc.ackedSizes {
				w := way{sys.label, sys, sys}
				all = append(all, benchmark{
					family: clusterOneWay, system: sys.label, params: params{Procs: procs, Size: size}, link: sys.link,
					takes: sc.window * 6 / 5,
					run: func(s *session, f *figures) error {
						if sys.kind == jetStreamFile.kind {
							return s.oneWay(f, sc, w, procs, size, 1)
						}
						return s.clusterOneWay(f, sc, sys, procs, size)
					},
				})
			}
		}
	}
	for _, procs := range procsOf(kernelBridges, 2) {
		for _, size := range sc.ackedSizes {
			all = append(all, benchmark{
				family: clusterOneWay, system: kernelBridges.label, params: params{Procs: procs, Size: size}, link: kernelBridges.link,
				takes: sc.window*6/5 + processStart,
				run:   func(s *session, f *figures) error { return s.bridgedOneWay(f, sc, kernelBridges, procs, size) },
			})
		}
	}
	for _, sys := range []system{idleSubscriptions, idlePulls, idleReceivers, idleConsumers} {
		all = append(all, benchmark{
			family: clusterIdle, system: sys.label, params: params{Receivers: idleCrowd}, link: sys.link,
			takes: sc.settle + sc.idleCPU, rounds: sc.longMost,
			run: func(s *session, f *figures) error { return s.clusterIdle(f, sc, sys) },
		})
	}
	return all
}

// idleCrowd is how many receivers are idle in one process.
const idleCrowd = 100

// drained is how many messages are received that were sent before.
func (sc scale) drained() int { return 50 * int(sc.window/time.Millisecond) }

// clusterDrain has one process, in which the server is as well: it stores the messages, then receives them.
func (s *session) clusterDrain(f *figures, sc scale, sys system, procs, size int) error {
	files, err := s.scratch(sys.files)
	if err != nil {
		return err
	}
	p, err := s.start(sys, "drain", procs, nil, "files="+files,
		"stores=1", pair("size", size), pair("senders", clusterSenders), pair("count", sc.drained()))
	if err != nil {
		return err
	}
	return s.measure(f, p)
}

func (s *session) clusterOneWay(f *figures, sc scale, sys system, procs, size int) error {
	files, err := s.scratch(sys.files)
	if err != nil {
		return err
	}
	common := []string{pair("size", size), pair("senders", clusterSenders)}
	sink, err := s.start(sys, "sink", procs, nil, append(common, pair("window", int(sc.window)), "files="+files)...)
	if err != nil {
		return err
	}
	source, err := s.start(sys, "sources", procs, nil, append(common, "url="+sink.address)...)
	if err != nil {
		return err
	}
	return s.measure(f, sink, source)
}

// Types of the messages between bridges.
const (
	typeThere = 1 + iota
	typeBack
)

// bridged is two machines' worth of kernel queues, one each, and the bridges between them.
type bridged struct {
	bridges []*process
	args    [2][]string // of the programs at the ends; the server is with the second one's bridge
}

func (s *session) bridged(sys system, procs int) (b bridged, err error) {
	files, err := s.scratch(sys.files)
	if err != nil {
		return b, err
	}
	// As it is by default: what a bridge holds is on a tmpfs.
	dir, err := s.scratch(onTmpfs)
	if err != nil {
		return b, err
	}
	var queues [2]int
	for i := range queues {
		if queues[i], err = s.queue(); err != nil {
			return b, err
		}
	}
	address := ""
	for i := 1; i >= 0; i-- { // the server first
		out, in := typeThere, typeBack
		if i == 1 {
			out, in = in, out
		}
		p, err := s.start(sys, "bridge", procs, nil, pair("queue", queues[i]), pair("out", out), pair("in", in),
			"bridges="+dir, "files="+files, "url="+address)
		if err != nil {
			return b, err
		}
		address = p.address
		b.bridges = append(b.bridges, p)
		b.args[i] = []string{pair("out", queues[i]), pair("in", queues[i]), pair("sends", out), pair("receives", in)}
	}
	return b, nil
}

func (s *session) bridgedRoundTrip(f *figures, sc scale, sys system, procs int) error {
	b, err := s.bridged(sys, procs)
	if err != nil {
		return err
	}
	echo, err := s.start(chanmqDirect, "echo", procs, nil, append(b.args[1], pair("size", 64))...)
	if err != nil {
		return err
	}
	ping, err := s.start(chanmqDirect, "ping", procs, nil, append(b.args[0], pair("size", 64), pair("window", int(sc.window)))...)
	if err != nil {
		return err
	}
	return s.measure(f, ping, append(b.bridges, echo)...)
}

func (s *session) bridgedOneWay(f *figures, sc scale, sys system, procs, size int) error {
	b, err := s.bridged(sys, procs)
	if err != nil {
		return err
	}
	sink, err := s.start(chanmqDirect, "sink", procs, nil, append(b.args[1], pair("size", size), pair("window", int(sc.window)))...)
	if err != nil {
		return err
	}
	source, err := s.start(chanmqDirect, "source", procs, nil, append(b.args[0], pair("size", size))...)
	if err != nil {
		return err
	}
	return s.measure(f, sink, append(b.bridges, source)...)
}

// clusterIdle has the server in a process of its own: what receivers that wait cost is a matter of both.
func (s *session) clusterIdle(f *figures, sc scale, sys system) error {
	files, err := s.scratch(onDisk)
	if err != nil {
		return err
	}
	times := []string{pair("settle", int(sc.settle)), pair("window", int(sc.idleCPU))}
	server, err := s.start(sys, "idle-server", 0, nil, append(times, "files="+files)...)
	if err != nil {
		return err
	}
	client, err := s.start(sys, "idle-crowd", 0, nil, append(times, pair("receivers", idleCrowd), "url="+server.address)...)
	if err != nil {
		return err
	}
	if err := s.measure(f, client, server); err != nil {
		return err
	}
	return server.result(s.ctx, f)
}

func (r *report) clusterRoundTripTable(w *strings.Builder, cases []*result) {
	head(w, 2, "system", "GOMAXPROCS", "p50", "p99", "p50, of "+clusterBase.label, "p50, of "+pullFetch.label)
	for _, c := range cases {
		of := func(label string) string {
			return c.ratio("rtt_p50", r.find(clusterRoundTrip, storedAs(label, c.System), c.Params))
		}
		row(w, c.System, c.procs(), c.cell("rtt_p50", duration), c.cell("rtt_p99", duration), of(clusterBase.label), of(pullFetch.label))
	}
	fmt.Fprintln(w)
}

// clusterOneWayTables writes the tables of a family whose messages are acknowledged.
func (r *report) clusterOneWayTables(w *strings.Builder, cases []*result) {
	sizes := values(cases, func(p params) int { return p.Size })
	title := func(v int) string { return fmt.Sprintf("%d B", v) }
	set := func(p *params, v int) { p.Size = v }
	fmt.Fprint(w, "Time per message:\n\n")
	grid(w, cases, sizes, title, set, perMessage)
	fmt.Fprintf(w, "Messages per second, of `%s` with the same storage (more is faster):\n\n", pullOf256.label)
	grid(w, cases, sizes, title, set, func(c *result) string {
		if c == nil {
			return ""
		}
		return r.find(c.Family, storedAs(pullOf256.label, c.System), c.Params).ratio("ns_per_message", c)
	})
	fmt.Fprint(w, "CPU time of the receiving process for a message. The server is in that process, but for the bridges:\n\n")
	grid(w, cases, sizes, title, set, func(c *result) string { return c.cell("cpu_ns_per_message", duration) })
}

func (r *report) clusterIdleTable(w *strings.Builder, cases []*result) {
	head(w, 1, "system", "receivers", "CPU of the client, of a core", "CPU of the server, of a core")
	for _, c := range cases {
		row(w, c.System, fmt.Sprint(c.Params.Receivers), c.cell("client_cpu_ns_per_s", perSecond), c.cell("server_cpu_ns_per_s", perSecond))
	}
	fmt.Fprintln(w)
}

// reachesCluster compares chanmq's calls on JetStream with JetStream alone.
func (r *report) reachesCluster(line func(what, reach string, s series, f func(float64) string, reached func(spread) bool)) {
	for _, procs := range clusterProcs {
		p := params{Size: 64, Procs: procs}
		line(fmt.Sprintf("cluster, round trip, 64 B, p50, GOMAXPROCS=%d: %s, of %s", procs, clusterDirect.label, clusterBase.label), "<= 1.7x",
			r.find(clusterRoundTrip, clusterDirect.label, p).of("rtt_p50").over(r.find(clusterRoundTrip, clusterBase.label, p).of("rtt_p50")),
			times, func(s spread) bool { return s.Median <= 1.7 })
		for _, size := range []int{64, 4096} {
			p.Size = size
			line(fmt.Sprintf("cluster, messages/s, %s, %d B, GOMAXPROCS=%d, of %s", clusterConsumerOf256.label, size, procs, pullOf256.label), ">= 0.8x",
				r.find(clusterDrain, pullOf256.label, p).of("ns_per_message").over(r.find(clusterDrain, clusterConsumerOf256.label, p).of("ns_per_message")),
				times, func(s spread) bool { return s.Median >= 0.8 })
		}
	}
}
