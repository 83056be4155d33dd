// Package peer is one side of a case: a process that plays a role over an
// endpoint, and tells the harness the outcome on standard output. The C program
// plays the same roles; the protocol is described in c/peer.c.
package peer

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	warmUp = 200 // exchanges before they count, in a quarter of the window at most
	batch  = 64  // messages between two looks at the clock, if there is no argument of that name
)

// MaxText is the size of the longest text that a peer receives.
const MaxText = 8192

// Stamp is the first of the two C longs at the start of a text, sender the other.
func Stamp(p []byte) int64  { return int64(binary.NativeEndian.Uint64(p)) }
func sender(p []byte) int64 { return int64(binary.NativeEndian.Uint64(p[8:])) }

func putStamp(p []byte, v int64)  { binary.NativeEndian.PutUint64(p, uint64(v)) }
func putSender(p []byte, v int64) { binary.NativeEndian.PutUint64(p[8:], uint64(v)) }

// Arguments are the key=value pairs of a peer's command line.
type Arguments map[string]string

// Int returns a number, or otherwise where there is none.
func (a Arguments) Int(name string, otherwise int) int {
	if v, err := strconv.Atoi(a[name]); err == nil {
		return v
	}
	return otherwise
}

// Ints returns numbers that commas separate.
func (a Arguments) Ints(name string) (values []int) {
	for field := range strings.SplitSeq(a[name], ",") {
		if v, err := strconv.Atoi(field); err == nil {
			values = append(values, v)
		}
	}
	return values
}

// Duration returns a number of nanoseconds, or 0.
func (a Arguments) Duration(name string) time.Duration {
	return time.Duration(a.Int(name, 0))
}

// Endpoint is one side of a connection between two processes. Send may keep p
// until Reuse later calls have returned; what Receive returns is valid until
// the next call of it.
type Endpoint interface {
	Send(p []byte) error
	Receive() ([]byte, error)
	Reuse() int
}

// Exchanger is an endpoint with a call of its own for a request and its reply.
type Exchanger interface {
	Exchange(p []byte) ([]byte, error)
}

// Addressed is an endpoint that others must know the address of before they
// connect.
type Addressed interface {
	Address() string
}

// Kinds are the endpoints that a program can open.
type Kinds map[string]func(Arguments) (Endpoint, error)

// Roles are what a peer can play.
type Roles map[string]func(*Peer) error

// Main plays the role that the command line of a program names, KIND ROLE
// key=value..., and returns the exit status. The program's own roles do not get
// an endpoint; all others do, and are the same for every kind.
func Main(args []string, kinds Kinds, own Roles) int {
	if len(args) < 2 {
		return 2
	}
	a := make(Arguments)
	for _, arg := range args[2:] {
		name, value, _ := strings.Cut(arg, "=")
		a[name] = value
	}
	p := &Peer{Args: a, Kind: args[0], out: bufio.NewWriter(os.Stdout)}
	err := p.play(args[1], kinds, own)
	p.out.Flush()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s %s: %v\n", args[0], args[1], err)
		return 1
	}
	return 0
}

// Peer is a process while it plays a role.
type Peer struct {
	Args Arguments
	Kind string
	out  *bufio.Writer
	ep   Endpoint
}

func (p *Peer) play(name string, kinds Kinds, own Roles) error {
	if role, ok := own[name]; ok {
		if err := role(p); err != nil {
			return err
		}
		return p.done()
	}
	role, ok := endpointRoles[name]
	if !ok {
		return fmt.Errorf("no role %q", name)
	}
	open, ok := kinds[p.Kind]
	if !ok {
		return fmt.Errorf("no endpoint %q", p.Kind)
	}
	ep, err := open(p.Args)
	if err != nil {
		return err
	}
	p.ep = ep
	address := ""
	if ep, ok := ep.(Addressed); ok {
		address = ep.Address()
	}
	if err := p.Ready(address); err != nil {
		return err
	}
	if err := role(p); err != nil {
		return err
	}
	return p.done()
}

// endpointRoles are those that every kind of endpoint can play, and C as well, but sources and drain: those
// are for a Store.
var endpointRoles = Roles{
	"echo":    (*Peer).echo,
	"ping":    (*Peer).ping,
	"source":  (*Peer).source,
	"sources": (*Peer).sources,
	"sink":    (*Peer).sink,
	"drain":   (*Peer).drain,
	"meter":   (*Peer).meter,
	"latency": (*Peer).latency,
}

// Ready tells the harness that the peer is, and waits to be told to start.
func (p *Peer) Ready(address string) error {
	fmt.Fprintln(p.out, "ready", address)
	if err := p.out.Flush(); err != nil {
		return err
	}
	return p.wait()
}

func (p *Peer) wait() error {
	var b [1]byte
	for {
		// One byte at a time: what follows the line is for the next wait.
		if n, err := os.Stdin.Read(b[:]); err != nil {
			return fmt.Errorf("waiting for the start: %w", err)
		} else if n == 1 && b[0] == '\n' {
			return nil
		}
	}
}

// Figure tells the harness a value that was measured.
func (p *Peer) Figure(name string, v float64) { fmt.Fprintf(p.out, "figure %s %g\n", name, v) }

// Samples tells the harness values of which it takes quantiles.
func (p *Peer) Samples(name string, values []int64) {
	fmt.Fprintf(p.out, "sample %s", name)
	line := make([]byte, 0, 16*len(values))
	for _, v := range values {
		line = strconv.AppendInt(append(line, ' '), v, 10)
	}
	p.out.Write(append(line, '\n'))
}

func (p *Peer) done() error {
	fmt.Fprintln(p.out, "done")
	return p.out.Flush()
}

func (p *Peer) echo() error {
	buffers := newRing(p.ep.Reuse(), MaxText)
	for {
		in, err := p.ep.Receive()
		if err != nil {
			return err
		}
		out := buffers.next()[:len(in)]
		copy(out, in)
		if err := p.ep.Send(out); err != nil {
			return err
		}
	}
}

func (p *Peer) ping() error {
	exchange := func(out []byte) ([]byte, error) {
		if err := p.ep.Send(out); err != nil {
			return nil, err
		}
		return p.ep.Receive()
	}
	if ep, ok := p.ep.(Exchanger); ok {
		exchange = ep.Exchange
	}
	size := p.Args.Int("size", 64)
	buffers := newRing(p.ep.Reuse(), size)
	rtt := make([]int64, 0, p.Args.Int("samples", 20000))
	window := int64(p.Args.Duration("window"))
	warm, end, number := Now()+window/4, int64(0), int64(0)
	for len(rtt) < cap(rtt) {
		start := Now()
		if end == 0 && (number == warmUp || start > warm) {
			end = start + window
		} else if end != 0 && start > end {
			break
		}
		number++
		out := buffers.next()
		putStamp(out, number)
		in, err := exchange(out)
		if err != nil {
			return err
		}
		if end != 0 {
			rtt = append(rtt, Now()-start)
		}
		if len(in) != size || Stamp(in) != number {
			return fmt.Errorf("ping %d answered by %d of %d bytes", number, Stamp(in), len(in))
		}
	}
	p.Samples("rtt", rtt)
	return nil
}

func (p *Peer) source() error {
	buffers := newRing(p.ep.Reuse(), p.Args.Int("size", 64))
	sender, ends := int64(p.Args.Int("sender", 0)), p.bothEnds()
	for number := int64(0); ; number++ {
		out := buffers.next()
		putStamp(out, number)
		putSender(out, sender)
		if ends {
			putStamp(end(out), number)
		}
		if err := p.ep.Send(out); err != nil {
			return err
		}
	}
}

// bothEnds reports whether the number of a message is at the end of its text, too: large
// texts move in pieces, of which the last one could be missing.
func (p *Peer) bothEnds() bool { return p.Args.Int("ends", 0) != 0 }

// end is where that is.
func end(p []byte) []byte { return p[len(p)-8:] }

// arrivals checks that messages arrive whole and in order.
type arrivals struct {
	size int
	ends bool
	next []int64 // number, by sender
}

func (a *arrivals) check(in []byte) error {
	if len(in) != a.size {
		return fmt.Errorf("%d bytes, not %d", len(in), a.size)
	}
	s, number := sender(in), Stamp(in)
	if s < 0 || s >= int64(len(a.next)) || number != a.next[s] {
		return fmt.Errorf("message %d of sender %d out of order", number, s)
	}
	if a.ends && Stamp(end(in)) != number {
		return fmt.Errorf("message %d ends as message %d", number, Stamp(end(in)))
	}
	a.next[s]++
	return nil
}

func (p *Peer) sink() error {
	window, batch := int64(p.Args.Duration("window")), p.Args.Int("batch", batch)
	warm := max(window/10, int64(p.Args.Duration("warm")))
	arrived := arrivals{size: p.Args.Int("size", 64), ends: p.bothEnds(), next: make([]int64, p.Args.Int("senders", 1))}
	var n, start, startCPU, end int64
	var startAllocated uint64
	for {
		for range batch {
			in, err := p.ep.Receive()
			if err == nil {
				err = arrived.check(in)
			}
			if err != nil {
				return err
			}
		}
		switch t := Now(); {
		case start == 0:
			start = t + warm
		case end == 0:
			if t >= start {
				startAllocated, startCPU = allocated(), CPUTime()
				start = Now()
				end = start + window
			}
		default:
			n += int64(batch)
			if t >= end {
				p.Figure("ns_per_message", float64(t-start)/float64(n))
				p.Figure("cpu_ns_per_message", float64(CPUTime()-startCPU)/float64(n))
				p.Figure("allocs_per_message", float64(allocated()-startAllocated)/float64(n))
				return nil
			}
		}
	}
}

func (p *Peer) meter() error {
	for range p.Args.Int("skip", 100) {
		if _, err := p.ep.Receive(); err != nil {
			return err
		}
	}
	count := p.Args.Int("count", 1000)
	latency := make([]int64, 0, count)
	start, startCPU, startSwitches := Now(), CPUTime(), switches()
	for range count {
		in, err := p.ep.Receive()
		if err != nil {
			return err
		}
		latency = append(latency, Now()-Stamp(in))
	}
	used, elapsed := float64(CPUTime()-startCPU), float64(Now()-start)
	p.Figure("cpu_ns_per_s", used/elapsed*1e9)
	p.Figure("cpu_ns_per_message", used/float64(count))
	p.Figure("switches_per_message", float64(switches()-startSwitches)/float64(count))
	p.Samples("latency", latency)
	return nil
}

func (p *Peer) latency() error {
	latency := make([]int64, 0, p.Args.Int("count", 100))
	for len(latency) < cap(latency) {
		in, err := p.ep.Receive()
		if err != nil {
			return err
		}
		latency = append(latency, Now()-Stamp(in))
	}
	p.Samples("latency", latency)
	return nil
}

// Text returns a new text, or a buffer for one, whose memory is there: all pages that were
// never written are one page of zeros to a reader, which stays in the cache, and cost the first
// writer the time to get them.
func Text(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}

// ring is buffers in turn, so that one is not written while it is under way.
type ring struct {
	buffers [][]byte
	i       int
}

func newRing(n, size int) *ring {
	r := &ring{buffers: make([][]byte, n+1)}
	for i := range r.buffers {
		r.buffers[i] = Text(size)
	}
	return r
}

func (r *ring) next() []byte {
	if r.i++; r.i == len(r.buffers) {
		r.i = 0
	}
	return r.buffers[r.i]
}

var (
	started = time.Now()
	// startedMonotonic is when that was on CLOCK_MONOTONIC, the clock of all
	// processes of the machine, and the one behind time.Since, which does not
	// tell where it began.
	startedMonotonic = monotonicOf(started)
)

// monotonicOf returns the time on CLOCK_MONOTONIC at t: what the tightest of
// several pairs of readings says, between which little time can hide.
func monotonicOf(t time.Time) int64 {
	best, at := int64(math.MaxInt64), int64(0)
	for range 100 {
		before := int64(time.Since(t))
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
			panic(err) // Linux has had this clock since 2.6
		}
		after := int64(time.Since(t))
		if after-before < best {
			best, at = after-before, ts.Nano()-(before+after)/2
		}
	}
	return at
}

// Now is CLOCK_MONOTONIC in ns, without a system call.
func Now() int64 { return startedMonotonic + int64(time.Since(started)) }

// CPUTime is the user and system time of this process in ns.
func CPUTime() int64 {
	u := usage()
	return u.Utime.Nano() + u.Stime.Nano()
}

// allocated is how many objects this process has allocated.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// switches is how often threads of this process have left a core, to wait or
// because another thread had its turn.
func switches() int64 {
	u := usage()
	return int64(u.Nvcsw) + int64(u.Nivcsw)
}

func usage() (u unix.Rusage) {
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // its arguments are constant
	}
	return u
}
