package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/bench/internal/peer"
	"github.com/chanmq/chanmq/codec"
)

// queues are the handles of an endpoint. A side that the role does not use is nil.
type queues struct{ in, out *chanmq.Queue[[]byte] }

func attach(a peer.Arguments) (q queues, err error) {
	for name, handle := range map[string]**chanmq.Queue[[]byte]{"in": &q.in, "out": &q.out} {
		id := a.Int(name, -1)
		if id < 0 {
			continue
		}
		if *handle, err = chanmq.Attach(id, options(a)...); err != nil {
			return q, err
		}
	}
	if ahead := a.Int("ahead", 0); ahead > 0 && q.out != nil {
		return q, q.out.Set(chanmq.Attr{MaxBytes: ahead * referenceSize})
	}
	return q, nil
}

// referenceSize is that of a message which refers to a text in a file: docs/envelope.md.
const referenceSize = 56

// options are a journal or texts in files, in a directory of the case's, if it has one, and
// packing.
func options(a peer.Arguments) (opts []chanmq.Option) {
	if dir := a["files"]; dir != "" {
		opts = append(opts, chanmq.WithJournal(dir))
	}
	if dir := a["texts"]; dir != "" {
		opts = append(opts, chanmq.WithLarge(dir))
	}
	if packs(a) {
		opts = append(opts, chanmq.WithPacking())
	}
	return opts
}

func packs(a peer.Arguments) bool { return a.Int("packing", 0) != 0 }

// channels receives from a Receiver's channel and sends into a Sender's.
type channels struct {
	queues
	receiver *chanmq.Receiver[[]byte]
	sender   *chanmq.Sender[[]byte]
	buffer   int
	packing  bool
}

func openChannels(a peer.Arguments) (peer.Endpoint, error) {
	q, err := attach(a)
	if err != nil {
		return nil, err
	}
	c := &channels{queues: q, buffer: a.Int("buffer", 0), packing: packs(a)}
	if q.in != nil {
		c.receiver = q.in.Receiver(context.Background(), chanmq.Any(), chanmq.WithBuffer(c.buffer))
	}
	if q.out != nil {
		c.sender = q.out.Sender(context.Background(), chanmq.WithBuffer(c.buffer))
	}
	return c, nil
}

// Reuse counts C's buffer, what the pump holds, and what the program is about
// to put in.
func (c *channels) Reuse() int {
	if c.packing {
		return c.buffer + 2 + peer.MaxText/minText
	}
	return c.buffer + 2
}

// minText is the size of the smallest texts, of which most fit a pack.
const minText = 16

func (c *channels) Send(p []byte) error {
	select {
	case c.sender.C() <- chanmq.Message[[]byte]{Type: 1, Value: p}:
		return nil
	case <-c.sender.Done():
		return c.sender.Err()
	}
}

func (c *channels) Receive() ([]byte, error) {
	m, ok := <-c.receiver.C()
	if !ok {
		return nil, c.receiver.Err()
	}
	return m.Value, nil
}

// receiver receives from a Receiver's channel and sends directly.
type receiver struct{ channels }

func openReceiver(a peer.Arguments) (peer.Endpoint, error) {
	q, err := attach(a)
	if err != nil {
		return nil, err
	}
	r := &receiver{channels{queues: q, packing: packs(a), buffer: a.Int("buffer", 0)}}
	if q.in != nil {
		r.receiver = q.in.Receiver(context.Background(), chanmq.Any(), chanmq.WithBuffer(r.buffer))
	}
	return r, nil
}

func (r *receiver) Reuse() int { return 0 }

func (r *receiver) Send(p []byte) error { return r.out.Send(context.Background(), 1, p) }

// direct sends and receives without channels.
type direct struct {
	queues
	typ int64 // that it sends
	of  chanmq.Selector
}

func openDirect(a peer.Arguments) (peer.Endpoint, error) {
	d, err := newDirect(a)
	return &d, err
}

// newDirect sends one type and receives another where both directions share a queue.
func newDirect(a peer.Arguments) (direct, error) {
	q, err := attach(a)
	d := direct{queues: q, typ: int64(a.Int("sends", 1)), of: chanmq.Any()}
	if typ := a.Int("receives", 0); typ > 0 {
		d.of = chanmq.OfType(int64(typ))
	}
	return d, err
}

func (d *direct) Reuse() int { return 0 }

func (d *direct) Send(p []byte) error { return d.out.Send(context.Background(), d.typ, p) }

func (d *direct) Receive() ([]byte, error) {
	m, err := d.in.Receive(context.Background(), d.of)
	return m.Value, err
}

// into is direct, and receives into the storage of the message before.
type into struct {
	direct
	m chanmq.Message[[]byte]
}

func openInto(a peer.Arguments) (peer.Endpoint, error) {
	d, err := newDirect(a)
	return &into{direct: d}, err
}

func (i *into) Receive() ([]byte, error) {
	err := i.in.ReceiveInto(context.Background(), i.of, &i.m)
	return i.m.Value, err
}

// consumer receives from a Consumer's channel, and acknowledges each message when it
// wants the next one.
type consumer struct {
	queues
	c    *chanmq.Consumer[[]byte]
	last chanmq.Delivery[[]byte]
}

func openConsumer(a peer.Arguments, opts ...chanmq.ConsumerOption) (peer.Endpoint, error) {
	q, err := attach(a)
	if err != nil {
		return nil, err
	}
	opts = append(opts, chanmq.WithInFlight(a.Int("inflight", 1)))
	return &consumer{queues: q, c: q.in.Consumer(context.Background(), chanmq.Any(), opts...)}, nil
}

func (c *consumer) Reuse() int { return 0 }

func (c *consumer) Send(p []byte) error { return c.out.Send(context.Background(), 1, p) }

func (c *consumer) Receive() ([]byte, error) {
	if err := c.last.Ack(); err != nil {
		return nil, err
	}
	d, ok := <-c.c.C()
	if !ok {
		return nil, c.c.Err()
	}
	c.last = d
	return d.Value, nil
}

// record is a struct as C lays it out, of 64 bytes.
type record struct {
	Stamp, Sender int64
	Rest          [48]byte
}

// structs sends and receives records, without channels.
type structs struct {
	queues
	sendTo, receiveFrom *chanmq.Queue[record]
	m                   chanmq.Message[record]
}

func openStruct(a peer.Arguments) (peer.Endpoint, error) {
	if size := a.Int("size", 64); size != int(unsafe.Sizeof(record{})) {
		return nil, fmt.Errorf("a record has %d bytes, not %d", unsafe.Sizeof(record{}), size)
	}
	q, err := attach(a)
	if err != nil {
		return nil, err
	}
	s := &structs{queues: q}
	if q.out != nil {
		s.sendTo = chanmq.As(q.out, codec.Struct[record]())
	}
	if q.in != nil {
		s.receiveFrom = chanmq.As(q.in, codec.Struct[record]())
	}
	return s, nil
}

func (s *structs) Reuse() int { return 0 }

// bytes is a record as the roles see texts, for the price of a copy.
func (r *record) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r))
}

func (s *structs) Send(p []byte) error {
	var r record
	copy(r.bytes(), p)
	return s.sendTo.Send(context.Background(), 1, r)
}

func (s *structs) Receive() ([]byte, error) {
	err := s.receiveFrom.ReceiveInto(context.Background(), chanmq.Any(), &s.m)
	return s.m.Value.bytes(), err
}

// wholeRoles are those with more than one receiver, or with none of the calls
// that all endpoints have.
var wholeRoles = peer.Roles{
	"crowd":  playCrowd,
	"cancel": playCancel,
	"answer": playAnswer,
	"call":   playCall,
	"copy":   playCopy,
}

// playCrowd is many receivers that wait, each for a type of its own and with a
// goroutine that reads its channel: the CPU they take while nothing comes, the
// threads, and the latency of messages to some of them.
func playCrowd(p *peer.Peer) error {
	ids, receivers := p.Args.Ints("queues"), p.Args.Int("receivers", 1)
	expected := p.Args.Int("expected", 0)
	latency := make(chan int64, expected)
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	switch p.Kind {
	case "chanmq":
		handles := make([]*chanmq.Queue[[]byte], len(ids))
		for i, id := range ids {
			q, err := chanmq.Attach(id)
			if err != nil {
				return err
			}
			handles[i] = q
		}
		for i := range receivers {
			r := handles[i%len(handles)].Receiver(context.Background(), chanmq.OfType(int64(1+i)))
			go func() {
				for m := range r.C() {
					latency <- peer.Now() - peer.Stamp(m.Value)
				}
				fail(fmt.Errorf("a receiver ended: %w", r.Err()))
			}()
		}
	case "msgrcv-channel":
		for i := range receivers {
			id := ids[i%len(ids)]
			c := make(chan []byte)
			go func() {
				defer close(c)
				buf := alignedBuffer(typeSize + peer.MaxText)
				for {
					n, err := msgrcvBlocking(id, buf, 1+i)
					if err != nil {
						fail(err)
						return
					}
					c <- slices.Clone(buf[typeSize : typeSize+n])
				}
			}()
			go func() {
				for m := range c {
					latency <- peer.Now() - peer.Stamp(m)
				}
			}()
		}
	default:
		return fmt.Errorf("no crowd of %q", p.Kind)
	}
	if err := p.Ready(""); err != nil {
		return err
	}
	time.Sleep(p.Args.Duration("settle"))
	start, startCPU := peer.Now(), peer.CPUTime()
	time.Sleep(p.Args.Duration("window"))
	used, elapsed := float64(peer.CPUTime()-startCPU), float64(peer.Now()-start)
	p.Figure("cpu_ns_per_s", used/elapsed*1e9)
	p.Figure("cpu_ns", used)
	n, err := threads()
	if err != nil {
		return err
	}
	p.Figure("threads", float64(n))
	if expected == 0 {
		return nil
	}
	if err := p.Ready("idle"); err != nil {
		return err
	}
	samples := make([]int64, 0, expected)
	for len(samples) < expected {
		select {
		case v := <-latency:
			samples = append(samples, v)
		case err := <-failed:
			return err
		}
	}
	p.Samples("latency", samples)
	return nil
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

// playCancel ends waits that have been going on for idle: how long until the call
// has returned, or the channel is closed.
func playCancel(p *peer.Peer) error {
	q, err := chanmq.Attach(p.Args.Int("in", -1))
	if err != nil {
		return err
	}
	receive := func(ctx context.Context) error {
		_, err := q.Receive(ctx, chanmq.Any())
		return err
	}
	if p.Kind == "chanmq" {
		receive = func(ctx context.Context) error {
			r := q.Receiver(ctx, chanmq.Any())
			for range r.C() {
				return nil // reported below: nobody sends
			}
			return r.Err()
		}
	}
	if err := p.Ready(""); err != nil {
		return err
	}
	samples := make([]int64, 0, p.Args.Int("count", 100))
	for len(samples) < cap(samples) {
		ctx, cancel := context.WithCancel(context.Background())
		var returned int64
		var wg sync.WaitGroup
		wg.Go(func() {
			err = receive(ctx)
			returned = peer.Now()
		})
		time.Sleep(p.Args.Duration("idle"))
		start := peer.Now()
		cancel()
		wg.Wait()
		if ctx.Err() == nil || err == nil {
			return fmt.Errorf("a receive that was cancelled returned: %w", err)
		}
		samples = append(samples, returned-start)
	}
	p.Samples("cancel", samples)
	return q.Close()
}
