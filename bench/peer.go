package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A peer is one side of a case: this program run again in a process of its own,
// or the C program. It plays a role over an endpoint, and tells the harness the
// outcome on standard output; the protocol is described in c/peer.c.

const (
	warmUp    = 200 // exchanges before they count, in a quarter of the window at most
	batch     = 64  // messages between two looks at the clock
	headBytes = 16  // stamp and sender, at the start of every text
	maxText   = 8192
)

// stamp and sender are the two C longs at the start of a text.
func stamp(p []byte) int64  { return int64(binary.NativeEndian.Uint64(p)) }
func sender(p []byte) int64 { return int64(binary.NativeEndian.Uint64(p[8:])) }

func putStamp(p []byte, v int64)  { binary.NativeEndian.PutUint64(p, uint64(v)) }
func putSender(p []byte, v int64) { binary.NativeEndian.PutUint64(p[8:], uint64(v)) }

// arguments are the key=value pairs of a peer's command line.
type arguments map[string]string

func (a arguments) int(name string, otherwise int) int {
	if v, err := strconv.Atoi(a[name]); err == nil {
		return v
	}
	return otherwise
}

func (a arguments) ints(name string) (values []int) {
	for field := range strings.SplitSeq(a[name], ",") {
		if v, err := strconv.Atoi(field); err == nil {
			values = append(values, v)
		}
	}
	return values
}

func (a arguments) duration(name string) time.Duration {
	return time.Duration(a.int(name, 0))
}

// endpoint is one side of a connection between two processes. Send may keep p
// until reuse later calls have returned; what Receive returns is valid until
// the next call of it.
type endpoint interface {
	Send(p []byte) error
	Receive() ([]byte, error)
	reuse() int
}

// exchanger is an endpoint with a call of its own for a request and its reply.
type exchanger interface {
	exchange(p []byte) ([]byte, error)
}

// An endpoint that others must know the address of before they connect.
type addressed interface {
	address() string
}

// peerMain plays the role that the command line names: peer KIND ROLE key=value...
func peerMain(args []string) int {
	if len(args) < 2 {
		return 2
	}
	a := make(arguments)
	for _, arg := range args[2:] {
		name, value, _ := strings.Cut(arg, "=")
		a[name] = value
	}
	p := &peer{a: a, kind: args[0], out: bufio.NewWriter(os.Stdout)}
	err := p.play(args[1])
	p.out.Flush()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s %s: %v\n", args[0], args[1], err)
		return 1
	}
	return 0
}

type peer struct {
	a    arguments
	kind string
	out  *bufio.Writer
	ep   endpoint
}

func (p *peer) play(name string) error {
	if role, ok := wholeRoles[name]; ok {
		if err := role(p); err != nil {
			return err
		}
		return p.done()
	}
	role, ok := endpointRoles[name]
	if !ok {
		return fmt.Errorf("no role %q", name)
	}
	ep, err := openEndpoint(p.kind, p.a)
	if err != nil {
		return err
	}
	p.ep = ep
	address := ""
	if ep, ok := ep.(addressed); ok {
		address = ep.address()
	}
	if err := p.ready(address); err != nil {
		return err
	}
	if err := role(p); err != nil {
		return err
	}
	return p.done()
}

// endpointRoles are those that every kind of endpoint can play, and C as well.
var endpointRoles = map[string]func(*peer) error{
	"echo":    (*peer).echo,
	"ping":    (*peer).ping,
	"source":  (*peer).source,
	"sink":    (*peer).sink,
	"meter":   (*peer).meter,
	"latency": (*peer).latency,
}

// ready tells the harness that the peer is, and waits to be told to start.
func (p *peer) ready(address string) error {
	fmt.Fprintln(p.out, "ready", address)
	if err := p.out.Flush(); err != nil {
		return err
	}
	return p.wait()
}

func (p *peer) wait() error {
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

func (p *peer) figure(name string, v float64) { fmt.Fprintf(p.out, "figure %s %g\n", name, v) }

func (p *peer) samples(name string, values []int64) {
	fmt.Fprintf(p.out, "sample %s", name)
	line := make([]byte, 0, 16*len(values))
	for _, v := range values {
		line = strconv.AppendInt(append(line, ' '), v, 10)
	}
	p.out.Write(append(line, '\n'))
}

func (p *peer) done() error {
	fmt.Fprintln(p.out, "done")
	return p.out.Flush()
}

func (p *peer) echo() error {
	buffers := newRing(p.ep.reuse(), maxText)
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

func (p *peer) ping() error {
	exchange := func(out []byte) ([]byte, error) {
		if err := p.ep.Send(out); err != nil {
			return nil, err
		}
		return p.ep.Receive()
	}
	if ep, ok := p.ep.(exchanger); ok {
		exchange = ep.exchange
	}
	size := p.a.int("size", 64)
	buffers := newRing(p.ep.reuse(), size)
	rtt := make([]int64, 0, p.a.int("samples", 20000))
	window := int64(p.a.duration("window"))
	warm, end, number := now()+window/4, int64(0), int64(0)
	for len(rtt) < cap(rtt) {
		start := now()
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
			rtt = append(rtt, now()-start)
		}
		if len(in) != size || stamp(in) != number {
			return fmt.Errorf("ping %d answered by %d of %d bytes", number, stamp(in), len(in))
		}
	}
	p.samples("rtt", rtt)
	return nil
}

func (p *peer) source() error {
	buffers := newRing(p.ep.reuse(), p.a.int("size", 64))
	sender := int64(p.a.int("sender", 0))
	for number := int64(0); ; number++ {
		out := buffers.next()
		putStamp(out, number)
		putSender(out, sender)
		if err := p.ep.Send(out); err != nil {
			return err
		}
	}
}

func (p *peer) sink() error {
	window := int64(p.a.duration("window"))
	size := p.a.int("size", 64)
	next := make([]int64, p.a.int("senders", 1))
	var n, start, startCPU, end int64
	for {
		for range batch {
			in, err := p.ep.Receive()
			if err != nil {
				return err
			}
			if len(in) != size {
				return fmt.Errorf("%d bytes, not %d", len(in), size)
			}
			if s, number := sender(in), stamp(in); s < 0 || s >= int64(len(next)) || number != next[s] {
				return fmt.Errorf("message %d of sender %d out of order", number, s)
			} else {
				next[s]++
			}
		}
		switch t := now(); {
		case start == 0:
			start = t + window/10
		case end == 0:
			if t >= start {
				start, end, startCPU = t, t+window, cpuTime()
			}
		default:
			n += batch
			if t >= end {
				p.figure("ns_per_message", float64(t-start)/float64(n))
				p.figure("cpu_ns_per_message", float64(cpuTime()-startCPU)/float64(n))
				return nil
			}
		}
	}
}

func (p *peer) meter() error {
	for range p.a.int("skip", 100) {
		if _, err := p.ep.Receive(); err != nil {
			return err
		}
	}
	count := p.a.int("count", 1000)
	latency := make([]int64, 0, count)
	start, startCPU := now(), cpuTime()
	for range count {
		in, err := p.ep.Receive()
		if err != nil {
			return err
		}
		latency = append(latency, now()-stamp(in))
	}
	used, elapsed := float64(cpuTime()-startCPU), float64(now()-start)
	p.figure("cpu_ns_per_s", used/elapsed*1e9)
	p.figure("cpu_ns_per_message", used/float64(count))
	p.samples("latency", latency)
	return nil
}

func (p *peer) latency() error {
	latency := make([]int64, 0, p.a.int("count", 100))
	for len(latency) < cap(latency) {
		in, err := p.ep.Receive()
		if err != nil {
			return err
		}
		latency = append(latency, now()-stamp(in))
	}
	p.samples("latency", latency)
	return nil
}

// ring is buffers in turn, so that one is not written while it is under way.
type ring struct {
	buffers [][]byte
	i       int
}

func newRing(n, size int) *ring {
	r := &ring{buffers: make([][]byte, n+1)}
	for i := range r.buffers {
		r.buffers[i] = make([]byte, size)
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

// now is CLOCK_MONOTONIC in ns, without a system call.
func now() int64 { return startedMonotonic + int64(time.Since(started)) }

// cpuTime is the user and system time of this process in ns.
func cpuTime() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // its arguments are constant
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// threads is the number of threads of this process.
func threads() (int, error) {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(line, "Threads:"); ok {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, errors.New("/proc/self/status: no Threads line")
}
