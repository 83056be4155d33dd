package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

type linkKind int

const (
	queueLink linkKind = iota
	socketLink
	streamLink
	pipeLink
	natsLink  // over loopback: the peers, a program of their own, see to it
	redisLink // a server that the session starts; the peers are a program of their own
	redisFileLink
	rpcLink    // a Unix socket that the peers, a program of their own, open
	sharedLink // queues, and a file that both map
)

// system is one way to send and receive messages.
type system struct {
	label string
	c     bool
	kind  string // of a Go endpoint
	args  []string
	link  linkKind
	files scratch // of the receiver
	texts scratch // of both sides: for large ones
	placement
}

// scratch is where a system has files.
type scratch int

const (
	noFiles scratch = iota
	onTmpfs
	onDisk // where temporary files are, unless that is a tmpfs
)

// journaled is the system with a journal.
func (sys system) journaled() system {
	sys.label += journalLabel
	sys.files = onTmpfs
	return sys
}

const journalLabel = ", journal"

// large is the system with large texts in files.
func (sys system) large() system {
	sys.texts = onTmpfs
	return sys
}

// placement is which cores the peers of a case may use.
type placement int

const (
	anywhere placement = iota
	sameCore           // both on one
	apart              // one each
)

func (sys system) on(p placement) system {
	sys.placement = p
	switch p {
	case sameCore:
		sys.label += ", both on one core"
	case apart:
		sys.label += ", a core each"
	}
	return sys
}

var (
	// Two that poll hot on one core take turns of milliseconds.
	cHot      = system{label: "C, polled hot", c: true, args: []string{"hot=1"}, placement: apart}
	cBlocking = system{label: "C, blocking", c: true}

	chanmqChannels = system{label: "chanmq, channels", kind: "chanmq"}
	chanmqBuffered = system{label: "chanmq, channels of 64", kind: "chanmq", args: []string{"buffer=64"}}
	chanmqPacking  = system{label: "chanmq, channels, packing", kind: "chanmq", args: []string{"packing=1"}}
	chanmqPacked   = system{label: "chanmq, channels of 256, packing", kind: "chanmq", args: []string{"packing=1", "buffer=256"}}
	chanmqReceiver = system{label: "chanmq, Receiver and direct Send", kind: "chanmq-receive"}
	chanmqDirect   = system{label: "chanmq, Send and Receive", kind: "chanmq-direct"}
	chanmqInto     = system{label: "chanmq, Send and ReceiveInto", kind: "chanmq-into"}
	chanmqConsumer = system{label: "chanmq, Consumer of 64", kind: "chanmq-consumer", args: []string{"inflight=64"}}
	chanmqBorrowed = system{label: "chanmq, Consumer of 64, borrowed values", kind: "chanmq-borrowed", args: []string{"inflight=64"}}
	chanmqStruct   = system{label: "chanmq, Send and ReceiveInto of a Struct", kind: "chanmq-struct"}

	goBlocking        = system{label: "Go, blocking msgsnd and msgrcv", kind: "msgrcv"}
	goBlockingChannel = system{label: "Go, blocking msgrcv + channel", kind: "msgrcv-channel"}
	goUnix            = system{label: "Go, Unix socket", kind: "unix", link: socketLink}
	goUnixChannel     = system{label: "Go, Unix socket + channel", kind: "unix-channel", link: socketLink}
	goUnixBufio       = system{label: "Go, Unix socket, bufio, channels of 256", kind: "unix-bufio", link: streamLink}
	goPipeBufio       = system{label: "Go, pipe, bufio, channels of 256", kind: "pipe-bufio", link: pipeLink}
	goPipe            = system{label: "Go, pipe", kind: "pipe", link: pipeLink}
	goNATS            = system{label: "NATS, embedded server", kind: "nats", link: natsLink}

	// What is in flight of large texts is in memory.
	largeBorrowed = system{label: "chanmq, Consumer of 2, borrowed values", kind: "chanmq-borrowed", args: []string{"inflight=2"}}
	goUnixFramed  = system{label: "Go, Unix socket, length and text", kind: "unix-framed", link: streamLink}
	goPipeFramed  = system{label: "Go, pipe, length and text", kind: "pipe-framed", link: pipeLink}
	goShared      = system{label: "Go, shared memory, notices by msgsnd and msgrcv", kind: "shared", link: sharedLink}
	twoCopies     = system{label: "two copies, no message", kind: "copy"}

	jetStreamMemory = system{label: "NATS JetStream, memory", kind: "jetstream", args: []string{"storage=memory"}, link: natsLink, files: onDisk}
	jetStreamFile   = system{label: "NATS JetStream, file", kind: "jetstream", args: []string{"storage=file"}, link: natsLink, files: onDisk}
	redisMemory     = system{label: "Redis stream", kind: "redis", args: []string{"acks=1"}, link: redisLink}
	redisFile       = system{label: "Redis stream, appendonly", kind: "redis", args: []string{"acks=1"}, link: redisFileLink}
	redisBatched    = system{label: "Redis stream, an XACK for 64", kind: "redis", args: []string{"acks=64"}, link: redisLink}

	callServe  = system{label: "chanmq, serve", kind: "serve"}
	callNetRPC = system{label: "net/rpc, Unix socket", kind: "netrpc", link: rpcLink}
	callGRPC   = system{label: "gRPC, Unix socket", kind: "grpc", link: rpcLink}
	callNATS   = system{label: "NATS, request and reply", kind: "nats", link: natsLink}
)

// family is a table of the report: cases that are compared with each other.
type family string

const (
	roundTrip family = "roundtrip"
	oneWay    family = "oneway"
	acked     family = "acknowledged"
	calls     family = "calls"
	packing   family = "packing"
	large     family = "large"
	senders   family = "senders"
	paced     family = "paced"
	idleTime  family = "latency"
	idle      family = "idle"
	receivers family = "receivers"
	foreign   family = "foreign"
	cancelled family = "cancel"
)

// params are what differs between the cases of a family; zero where it is not
// a matter of the family.
type params struct {
	Procs     int           `json:"gomaxprocs,omitempty"` // 0: Go's default, or no matter
	Size      int           `json:"size,omitempty"`       // bytes
	Senders   int           `json:"senders,omitempty"`
	Callers   int           `json:"callers,omitempty"`
	Receivers int           `json:"receivers,omitempty"`
	Queues    int           `json:"queues,omitempty"`
	Rate      int           `json:"rate,omitempty"` // messages/s
	Idle      time.Duration `json:"idle_ns,omitempty"`
	Standing  int           `json:"standing,omitempty"` // foreign messages
}

func (p params) String() string {
	var b strings.Builder
	for _, v := range []struct {
		name  string
		value int
	}{
		{"GOMAXPROCS", p.Procs}, {"size", p.Size}, {"senders", p.Senders}, {"callers", p.Callers}, {"receivers", p.Receivers},
		{"queues", p.Queues}, {"rate", p.Rate}, {"standing", p.Standing},
	} {
		if v.value != 0 {
			fmt.Fprintf(&b, " %s=%d", v.name, v.value)
		}
	}
	if p.Idle != 0 {
		fmt.Fprintf(&b, " idle=%v", p.Idle)
	}
	return b.String()
}

// benchmark is one case.
type benchmark struct {
	family family
	system string // label
	params params
	link   linkKind      // between its processes
	takes  time.Duration // about
	rounds int           // at most; 0: any number
	run    func(*session, *figures) error
}

func (b *benchmark) name() string { return fmt.Sprintf("%s/%s%s", b.family, b.system, b.params) }

// scale is how much is measured.
type scale struct {
	rounds     int
	window     time.Duration // of one measurement at full speed
	sizes      []int         // of messages
	ackedSizes []int         // of those that are acknowledged
	packSizes  []int         // of values that are packed
	largeSizes []int         // of texts that are in files
	senders    []int
	callers    []int
	rates      []int
	pacedFor   time.Duration
	idleTimes  []time.Duration
	idleFor    time.Duration // waits at each idle time, in all
	idleMost   int           // and messages at most
	settle     time.Duration // before idle CPU is measured
	idleCPU    time.Duration // while 100 receivers idle
	crowdCPU   time.Duration // while a crowd idles
	crowds     []int
	delivered  int
	cancels    int
	longMost   int // rounds of cases that take seconds
}

var (
	fullScale = scale{
		rounds:     5,
		window:     200 * time.Millisecond,
		sizes:      []int{16, 64, 256, 1024, 4096, 8192},
		ackedSizes: []int{64, 4096},
		packSizes:  []int{16, 64, 512},
		largeSizes: []int{64 << 10, 1 << 20, 64 << 20},
		senders:    []int{1, 2, 4, 8},
		callers:    []int{1, 50},
		rates:      []int{100, 1000, 10000},
		pacedFor:   1500 * time.Millisecond,
		idleTimes:  []time.Duration{10 * time.Microsecond, 100 * time.Microsecond, time.Millisecond, 10 * time.Millisecond, 100 * time.Millisecond},
		idleFor:    time.Second,
		idleMost:   1000,
		settle:     1500 * time.Millisecond,
		idleCPU:    10 * time.Second,
		crowdCPU:   3 * time.Second,
		crowds:     []int{1, 10, 100, 1000, 10000},
		delivered:  300,
		cancels:    200,
		longMost:   3,
	}
	quickScale = scale{
		rounds:     1,
		window:     50 * time.Millisecond,
		sizes:      []int{64, 4096},
		ackedSizes: []int{64, 4096},
		packSizes:  []int{16, 64, 512},
		largeSizes: []int{64 << 10, 1 << 20, 64 << 20},
		senders:    []int{1, 4},
		callers:    []int{1, 50},
		rates:      []int{1000},
		pacedFor:   500 * time.Millisecond,
		idleTimes:  []time.Duration{10 * time.Microsecond, time.Millisecond, 10 * time.Millisecond},
		idleFor:    200 * time.Millisecond,
		idleMost:   200,
		settle:     500 * time.Millisecond,
		idleCPU:    time.Second,
		crowdCPU:   500 * time.Millisecond,
		crowds:     []int{1, 100, 10000},
		delivered:  50,
		cancels:    50,
		longMost:   1,
	}
	// smokeScale is for the test that each case works.
	smokeScale = scale{
		rounds:     1,
		window:     2 * time.Millisecond,
		sizes:      []int{64},
		ackedSizes: []int{64},
		packSizes:  []int{16, 64, 512},
		largeSizes: []int{64 << 10, 1 << 20},
		senders:    []int{2},
		callers:    []int{3},
		rates:      []int{1000},
		pacedFor:   10 * time.Millisecond,
		idleTimes:  []time.Duration{time.Millisecond},
		idleFor:    5 * time.Millisecond,
		idleMost:   5,
		settle:     time.Millisecond,
		idleCPU:    5 * time.Millisecond,
		crowdCPU:   5 * time.Millisecond,
		crowds:     []int{10},
		delivered:  5,
		cancels:    5,
		longMost:   1,
	}
)

// settleOf grows with the crowd, which takes its time to start.
func (sc scale) settleOf(receivers int) time.Duration {
	return sc.settle + sc.settle*time.Duration(receivers)/10000
}

const processStart = 60 * time.Millisecond // of two processes

// benchmarks returns all cases in the order of the report.
func benchmarks(sc scale) (all []benchmark) {
	add := func(b benchmark) {
		b.takes += processStart
		all = append(all, b)
	}

	for _, sys := range []system{
		cHot, cBlocking, cBlocking.on(sameCore), cBlocking.on(apart),
		chanmqChannels, chanmqChannels.on(sameCore), chanmqChannels.on(apart), chanmqPacking, chanmqReceiver,
		chanmqDirect, chanmqDirect.on(sameCore), chanmqDirect.on(apart), chanmqInto, chanmqStruct,
		goBlocking, goBlockingChannel, goUnix, goUnixChannel, goPipe, goNATS,
	} {
		for _, procs := range procsOf(sys, 0) {
			add(benchmark{
				family: roundTrip, system: sys.label, params: params{Procs: procs, Size: 64}, link: sys.link,
				takes: sc.window,
				run:   func(s *session, f *figures) error { return s.roundTrip(f, sc, sys, procs) },
			})
		}
	}

	for _, w := range []way{
		{cLoop, cBlocking, cBlocking},
		{"C -> C, polled hot", cHot, cHot},
		{"C -> chanmq, channel", cBlocking, chanmqChannels},
		{"C -> chanmq, channel of 64", cBlocking, chanmqBuffered},
		{"C -> chanmq, Receive", cBlocking, chanmqDirect},
		{"C -> chanmq, ReceiveInto", cBlocking, chanmqInto},
		{"C -> Go, blocking msgrcv", cBlocking, goBlocking},
		{"C -> Go, blocking msgrcv + channel", cBlocking, goBlockingChannel},
		{"chanmq, channel -> channel", chanmqChannels, chanmqChannels},
		{"chanmq, channel of 64 -> channel of 64", chanmqBuffered, chanmqBuffered},
		{"chanmq, Send -> Receive", chanmqDirect, chanmqDirect},
		{"Go, Unix socket", goUnix, goUnix},
		{"Go, Unix socket + channel", goUnix, goUnixChannel},
		{"Go, pipe", goPipe, goPipe},
		{"NATS, embedded server", goNATS, goNATS},
	} {
		all := procsOf(w.receiver, 2)
		if w.receiver.link != queueLink {
			all = all[:1] // to keep the run short
		}
		for _, procs := range all {
			for _, size := range sc.sizes {
				add(benchmark{
					family: oneWay, system: w.label, params: params{Procs: procs, Size: size}, link: w.receiver.link,
					takes: sc.window * 6 / 5,
					run:   func(s *session, f *figures) error { return s.oneWay(f, sc, w, procs, size, 1) },
				})
			}
		}
	}

	for _, w := range ackedWays {
		for _, procs := range procsOf(w.receiver, 2) {
			for _, size := range sc.ackedSizes {
				add(benchmark{
					family: acked, system: w.label, params: params{Procs: procs, Size: size}, link: w.receiver.link,
					takes: sc.window * 6 / 5,
					run:   func(s *session, f *figures) error { return s.oneWay(f, sc, w, procs, size, 1) },
				})
			}
		}
	}

	for _, sys := range calling {
		for _, procs := range procsOf(sys, 2) {
			for _, n := range sc.callers {
				add(benchmark{
					family: calls, system: sys.label, params: params{Procs: procs, Callers: n, Size: 64}, link: sys.link,
					takes: sc.window * 5 / 4,
					run:   func(s *session, f *figures) error { return s.calls(f, sc, sys, procs, n) },
				})
			}
		}
	}

	for _, b := range clusterBenchmarks(sc) {
		add(b)
	}

	for _, w := range []way{
		{cLoop, cBlocking, cBlocking},
		wayPacked,
		{"chanmq, channel of 64 -> channel of 64", chanmqBuffered, chanmqBuffered},
		{goUnixBufio.label, goUnixBufio, goUnixBufio},
		{goPipeBufio.label, goPipeBufio, goPipeBufio},
		{goNATS.label, goNATS, goNATS},
	} {
		for _, procs := range procsOf(w.receiver, 2) {
			for _, size := range sc.packSizes {
				add(benchmark{
					family: packing, system: w.label, params: params{Procs: procs, Size: size}, link: w.receiver.link,
					takes: sc.window * 6 / 5,
					run:   func(s *session, f *figures) error { return s.oneWay(f, sc, w, procs, size, 1) },
				})
			}
		}
	}

	for _, w := range slices.Concat(ownLarge, []way{wayUnixFramed, wayPipeFramed, wayShared, wayCopies}) {
		for _, procs := range procsOf(w.receiver, 2) {
			for _, size := range sc.largeSizes {
				add(benchmark{
					family: large, system: w.label, params: params{Procs: procs, Size: size}, link: w.receiver.link,
					takes: sc.largeWindow(size) * 5 / 4,
					run:   func(s *session, f *figures) error { return s.large(f, sc, w, procs, size) },
				})
			}
		}
	}

	for _, w := range []way{
		{cLoop, cBlocking, cBlocking},
		{"C -> chanmq, channel", cBlocking, chanmqChannels},
		{"C -> chanmq, channel of 64", cBlocking, chanmqBuffered},
		{"C -> chanmq, Receive", cBlocking, chanmqDirect},
		{"C -> Go, blocking msgrcv + channel", cBlocking, goBlockingChannel},
		{"chanmq, Send -> channel of 64", chanmqDirect, chanmqBuffered},
	} {
		for _, n := range sc.senders {
			add(benchmark{
				family: senders, system: w.label, params: params{Senders: n, Size: 64},
				takes: sc.window * 6 / 5,
				run:   func(s *session, f *figures) error { return s.oneWay(f, sc, w, 0, 64, n) },
			})
		}
	}

	for _, rate := range sc.rates {
		for _, sys := range []system{cBlocking, chanmqChannels, chanmqDirect, goBlocking, goBlockingChannel} {
			for _, procs := range procsOf(sys, 0) {
				add(benchmark{
					family: paced, system: sys.label, params: params{Procs: procs, Rate: rate, Size: 64},
					takes: sc.pacedFor * 6 / 5, rounds: sc.longMost,
					run: func(s *session, f *figures) error { return s.paced(f, sc, sys, procs, rate) },
				})
			}
		}
	}

	for _, t := range sc.idleTimes {
		count := min(max(int(sc.idleFor/t), 5), sc.idleMost)
		for _, sys := range []system{cHot, cBlocking, chanmqChannels, chanmqDirect, goBlockingChannel} {
			add(benchmark{
				family: idleTime, system: sys.label, params: params{Idle: t, Size: 64},
				takes: t * time.Duration(count),
				run:   func(s *session, f *figures) error { return s.idleTime(f, sys, t, count) },
			})
		}
	}

	for _, queues := range []int{1, 100} {
		c := crowd{sys: chanmqChannels, receivers: 100, queues: queues, idle: sc.idleCPU}
		add(c.benchmark(sc, idle))
	}
	for _, n := range sc.crowds {
		for _, sys := range []system{chanmqChannels, goBlockingChannel} {
			if sys.kind == goBlockingChannel.kind && n > mostThreads {
				continue
			}
			c := crowd{sys: sys, receivers: n, queues: 1, idle: sc.crowdCPU, delivered: sc.delivered}
			add(c.benchmark(sc, receivers))
		}
	}
	largest := slices.Max(sc.crowds)
	for _, n := range slices.Compact([]int{1, largest}) {
		for _, standing := range []int{0, 200} {
			c := crowd{sys: chanmqChannels, receivers: n, queues: 1, standing: standing, idle: sc.crowdCPU}
			add(c.benchmark(sc, foreign))
		}
	}

	for _, sys := range []system{chanmqDirect, chanmqChannels} {
		for _, procs := range procsOf(sys, 0) {
			add(benchmark{
				family: cancelled, system: sys.label, params: params{Procs: procs},
				takes: cancelIdle * time.Duration(sc.cancels),
				run:   func(s *session, f *figures) error { return s.cancel(f, sc, sys, procs) },
			})
		}
	}
	return all
}

// procsOf returns the values of GOMAXPROCS to try: many (0: Go's default), and
// 1 where that is something else. Neither matters to C.
func procsOf(sys system, many int) []int {
	switch {
	case sys.c, sys.placement != anywhere: // Go sees the cores that it may use
		return []int{0}
	case runtime.NumCPU() == 1:
		return []int{1}
	}
	return []int{many, 1}
}

// A Go program that blocks one thread per receiver is ended by its runtime at
// 10,000 threads.
const mostThreads = 1000

func (s *session) roundTrip(f *figures, sc scale, sys system, procs int) error {
	l, err := s.connect(sys.link)
	if err != nil {
		return err
	}
	files, err := s.scratch(sys.files)
	if err != nil {
		return err
	}
	echo, err := s.start(sys, "echo", procs, l.files[1], append(l.args[1], pair("size", 64), "files="+files)...)
	if err != nil {
		return err
	}
	ping, err := s.start(sys, "ping", procs, l.files[0], append(l.args[0],
		pair("size", 64), pair("window", int(sc.window)), "url="+echo.address)...)
	if err != nil {
		return err
	}
	return s.measure(f, ping, echo)
}

// measure starts the peers, the one that measures first, and reads its figures.
func (s *session) measure(f *figures, measuring *process, others ...*process) error {
	for _, p := range append([]*process{measuring}, others...) {
		if err := p.begin(); err != nil {
			return p.failed(err)
		}
	}
	return measuring.result(s.ctx, f)
}

// cLoop is the way that others are compared with.
const cLoop = "C -> C, blocking"

// way is a sender and a receiver.
type way struct {
	label            string
	sender, receiver system
}

// journaled is the way with a journal of the receiver's.
func (w way) journaled() way {
	w.label += journalLabel
	w.receiver = w.receiver.journaled()
	return w
}

// The ways whose messages can be acknowledged, beside the C loop, whose cannot.
var (
	wayBuffered = way{"C -> chanmq, channel of 64", cBlocking, chanmqBuffered}
	wayPacked   = way{"chanmq, channel of 256 -> channel of 256, packing", chanmqPacked, chanmqPacked}
	wayInto     = way{"C -> chanmq, ReceiveInto", cBlocking, chanmqInto}
	wayConsumer = way{"C -> chanmq, Consumer of 64", cBlocking, chanmqConsumer}
	wayBorrowed = way{"C -> chanmq, Consumer of 64, borrowed values", cBlocking, chanmqBorrowed}

	ackedWays = []way{
		{cLoop, cBlocking, cBlocking},
		wayBuffered, wayBuffered.journaled(),
		wayInto, wayInto.journaled(),
		wayConsumer, wayConsumer.journaled(),
		wayBorrowed, wayBorrowed.journaled(),
		{jetStreamMemory.label, jetStreamMemory, jetStreamMemory},
		{jetStreamFile.label, jetStreamFile, jetStreamFile},
		{redisMemory.label, redisMemory, redisMemory},
		{redisFile.label, redisFile, redisFile},
		{redisBatched.label, redisBatched, redisBatched},
	}
)

func (s *session) oneWay(f *figures, sc scale, w way, procs, size, senders int) error {
	l, err := s.connect(w.receiver.link)
	if err != nil {
		return err
	}
	files, err := s.scratch(w.receiver.files)
	if err != nil {
		return err
	}
	sink, err := s.start(w.receiver, "sink", procs, l.files[1], append(l.args[1],
		pair("size", size), pair("senders", senders), pair("window", int(sc.window)), "files="+files)...)
	if err != nil {
		return err
	}
	var sources []*process
	for i := range senders {
		source, err := s.start(w.sender, "source", procs, l.files[0], append(l.args[0],
			pair("size", size), pair("sender", i), "url="+sink.address)...)
		if err != nil {
			return err
		}
		sources = append(sources, source)
	}
	return s.measure(f, sink, sources...)
}

// The ways to move large texts: chanmq's, the others, and what two copies of a text cost.
var (
	ownLarge = []way{
		{"chanmq, channel -> channel", chanmqChannels.large(), chanmqChannels.large()},
		{"chanmq, Send -> ReceiveInto", chanmqInto.large(), chanmqInto.large()},
		{"chanmq, Send -> Consumer, borrowed values", chanmqDirect.large(), largeBorrowed.large()},
	}
	wayUnixFramed = way{goUnixFramed.label, goUnixFramed, goUnixFramed}
	wayPipeFramed = way{goPipeFramed.label, goPipeFramed, goPipeFramed}
	wayShared     = way{goShared.label, goShared, goShared}
	wayCopies     = way{twoCopies.label, twoCopies, twoCopies}
)

// largeWindow is longer for the largest texts, of which few are moved in a window.
func (sc scale) largeWindow(size int) time.Duration {
	if size > largeAheadBytes {
		return 5 * sc.window
	}
	return sc.window
}

// How far a sender of large texts may be ahead of its receiver: they are in memory.
const (
	largeAheadBytes = 16 << 20
	largeAheadLeast = 4 // texts
	largeAheadMost  = 64
)

func largeAhead(size int) int {
	return min(max(largeAheadBytes/size, largeAheadLeast), largeAheadMost)
}

func (s *session) large(f *figures, sc scale, w way, procs, size int) error {
	window := int(sc.largeWindow(size))
	// Until then files, and memory, are new.
	common := []string{pair("size", size), pair("window", window), pair("warm", window)}
	measuring, err := s.largePeers(w, procs, largeAhead(size), common)
	if err != nil {
		return err
	}
	if err := s.measure(f, measuring[0], measuring[1:]...); err != nil {
		return err
	}
	f.values["mib_per_s"] = float64(size) / (1 << 20) / (f.values["ns_per_message"] / 1e9)
	return nil
}

// largePeers starts the peers of a way, the one that measures first.
func (s *session) largePeers(w way, procs, ahead int, common []string) ([]*process, error) {
	if w.label == wayCopies.label {
		p, err := s.start(w.receiver, "copy", procs, nil, common...)
		return []*process{p}, err
	}
	l, err := s.connect(w.receiver.link)
	if err != nil {
		return nil, err
	}
	texts, err := s.scratch(w.receiver.texts)
	if err != nil {
		return nil, err
	}
	// Few messages come in a window, so each of them may end it.
	common = append(common, "texts="+texts, pair("ahead", ahead), pair("ends", 1), pair("batch", 1))
	sink, err := s.start(w.receiver, "sink", procs, l.files[1], append(l.args[1], common...)...)
	if err != nil {
		return nil, err
	}
	source, err := s.start(w.sender, "source", procs, l.files[0], append(l.args[0], common...)...)
	return []*process{sink, source}, err
}

// calling are the systems for requests and replies, package serve first.
var calling = []system{callServe, callNetRPC, callGRPC, callNATS}

func (s *session) calls(f *figures, sc scale, sys system, procs, callers int) error {
	l, err := s.connect(sys.link)
	if err != nil {
		return err
	}
	server, err := s.start(sys, "answer", procs, nil, l.args[1]...)
	if err != nil {
		return err
	}
	client, err := s.start(sys, "call", procs, nil, append(l.args[0],
		pair("size", 64), pair("callers", callers), pair("window", int(sc.window)), "url="+server.address)...)
	if err != nil {
		return err
	}
	// Its output would end its wait: it is told to begin, and says nothing.
	if err := server.begin(); err != nil {
		return server.failed(err)
	}
	return s.measure(f, client)
}

func (s *session) paced(f *figures, sc scale, sys system, procs, rate int) error {
	l, err := s.connect(queueLink)
	if err != nil {
		return err
	}
	count := int(sc.pacedFor.Seconds() * float64(rate))
	meter, err := s.start(sys, "meter", procs, nil, append(l.args[1], pair("skip", count/5), pair("count", count))...)
	if err != nil {
		return err
	}
	source, err := s.start(cBlocking, "source", 0, nil, append(l.args[0], pair("size", 64), pair("rate", rate))...)
	if err != nil {
		return err
	}
	return s.measure(f, meter, source)
}

func (s *session) idleTime(f *figures, sys system, t time.Duration, count int) error {
	l, err := s.connect(queueLink)
	if err != nil {
		return err
	}
	latency, err := s.start(sys, "latency", 0, nil, append(l.args[1], pair("count", count))...)
	if err != nil {
		return err
	}
	delayed, err := s.start(cBlocking, "delayed", 0, nil, append(l.args[0], pair("idle", int(t)), pair("count", count))...)
	if err != nil {
		return err
	}
	return s.measure(f, latency, delayed)
}

// crowd is a process with many receivers that wait.
type crowd struct {
	sys               system
	receivers, queues int
	standing          int // foreign messages in each queue
	idle              time.Duration
	delivered         int // messages afterwards
}

const deliveryGap = 5 * time.Millisecond

func (c crowd) benchmark(sc scale, in family) benchmark {
	return benchmark{
		family: in, system: c.sys.label,
		params: params{Receivers: c.receivers, Queues: c.queues, Standing: c.standing},
		takes:  sc.settleOf(c.receivers) + c.idle + deliveryGap*time.Duration(c.delivered),
		rounds: sc.longMost,
		run:    func(s *session, f *figures) error { return s.crowd(f, sc, c) },
	}
}

func (s *session) crowd(f *figures, sc scale, c crowd) error {
	ids := make([]int, c.queues)
	for i := range ids {
		id, err := s.queue()
		if err != nil {
			return err
		}
		ids[i] = id
		for range c.standing {
			if err := stand(id); err != nil {
				return err
			}
		}
	}
	list := strings.Trim(strings.ReplaceAll(fmt.Sprint(ids), " ", ","), "[]")
	crowd, err := s.start(c.sys, "crowd", 0, nil,
		"queues="+list, pair("receivers", c.receivers), pair("expected", c.delivered),
		pair("settle", int(sc.settleOf(c.receivers))), pair("window", int(c.idle)))
	if err != nil {
		return err
	}
	if err := s.measure(f, crowd); err != nil || c.delivered == 0 {
		return err
	}
	scatter, err := s.start(cBlocking, "scatter", 0, nil,
		pair("out", ids[0]), pair("types", c.receivers), pair("count", c.delivered), pair("gap", int(deliveryGap)))
	if err != nil {
		return err
	}
	if err := s.measure(f, crowd, scatter); err != nil {
		return err
	}
	return scatter.result(s.ctx, f)
}

// stand puts a message into a queue that no receiver of a crowd takes.
func stand(id int) error {
	const text = 64
	msg := alignedBuffer(typeSize + text)
	*(*int)(unsafe.Pointer(&msg[0])) = 1 << 30
	return msgsnd(id, msg, unix.IPC_NOWAIT)
}

// cancelIdle is long enough to be asleep in the kernel.
const cancelIdle = 5 * time.Millisecond

func (s *session) cancel(f *figures, sc scale, sys system, procs int) error {
	id, err := s.queue()
	if err != nil {
		return err
	}
	p, err := s.start(sys, "cancel", procs, nil,
		pair("in", id), pair("count", sc.cancels), pair("idle", int(cancelIdle)))
	if err != nil {
		return err
	}
	return s.measure(f, p)
}

// execute runs the case once. Whatever it started is gone when it returns.
func (b *benchmark) execute(ctx context.Context, p programs) (f figures, err error) {
	ctx, stop := timeout(ctx, b.takes)
	defer stop()
	f = figures{values: make(map[string]float64), samples: make(map[string][]int64)}
	ctx, abort := context.WithCancelCause(ctx)
	defer abort(nil)
	s := &session{ctx: ctx, abort: abort, programs: p}
	defer func() {
		if e := s.close(); err == nil {
			err = e
		}
	}()
	return f, b.run(s, &f)
}
