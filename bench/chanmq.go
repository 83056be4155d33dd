package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// queues are the handles of an endpoint. A side that the role does not use is nil.
type queues struct{ in, out *chanmq.Queue[[]byte] }

func attach(a arguments) (q queues, err error) {
	for name, handle := range map[string]**chanmq.Queue[[]byte]{"in": &q.in, "out": &q.out} {
		id := a.int(name, -1)
		if id < 0 {
			continue
		}
		if *handle, err = chanmq.Attach(id); err != nil {
			return q, err
		}
	}
	return q, nil
}

// channels receives from a Receiver's channel and sends into a Sender's.
type channels struct {
	queues
	receiver *chanmq.Receiver[[]byte]
	sender   *chanmq.Sender[[]byte]
	buffer   int
}

func openChannels(a arguments) (endpoint, error) {
	q, err := attach(a)
	if err != nil {
		return nil, err
	}
	c := &channels{queues: q, buffer: a.int("buffer", 0)}
	if q.in != nil {
		c.receiver = q.in.Receiver(context.Background(), chanmq.Any(), chanmq.WithBuffer(c.buffer))
	}
	if q.out != nil {
		c.sender = q.out.Sender(context.Background(), chanmq.WithBuffer(c.buffer))
	}
	return c, nil
}

// reuse counts C's buffer, what the pump holds, and what the program is about
// to put in.
func (c *channels) reuse() int { return c.buffer + 2 }

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

func openReceiver(a arguments) (endpoint, error) {
	q, err := attach(a)
	if err != nil {
		return nil, err
	}
	r := &receiver{channels{queues: q, buffer: a.int("buffer", 0)}}
	if q.in != nil {
		r.receiver = q.in.Receiver(context.Background(), chanmq.Any(), chanmq.WithBuffer(r.buffer))
	}
	return r, nil
}

func (r *receiver) reuse() int { return 0 }

func (r *receiver) Send(p []byte) error { return r.out.Send(context.Background(), 1, p) }

// direct sends and receives without channels.
type direct struct{ queues }

func openDirect(a arguments) (endpoint, error) {
	q, err := attach(a)
	return &direct{q}, err
}

func (d *direct) reuse() int { return 0 }

func (d *direct) Send(p []byte) error { return d.out.Send(context.Background(), 1, p) }

func (d *direct) Receive() ([]byte, error) {
	m, err := d.in.Receive(context.Background(), chanmq.Any())
	return m.Value, err
}

// into is direct, and receives into the storage of the message before.
type into struct {
	direct
	m chanmq.Message[[]byte]
}

func openInto(a arguments) (endpoint, error) {
	q, err := attach(a)
	return &into{direct: direct{q}}, err
}

func (i *into) Receive() ([]byte, error) {
	err := i.in.ReceiveInto(context.Background(), chanmq.Any(), &i.m)
	return i.m.Value, err
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

func openStruct(a arguments) (endpoint, error) {
	if size := a.int("size", 64); size != int(unsafe.Sizeof(record{})) {
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

func (s *structs) reuse() int { return 0 }

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
var wholeRoles = map[string]func(*peer) error{
	"crowd":  (*peer).crowd,
	"cancel": (*peer).cancel,
}

// crowd is many receivers that wait, each for a type of its own and with a
// goroutine that reads its channel: the CPU they take while nothing comes, the
// threads, and the latency of messages to some of them.
func (p *peer) crowd() error {
	ids, receivers := p.a.ints("queues"), p.a.int("receivers", 1)
	expected := p.a.int("expected", 0)
	latency := make(chan int64, expected)
	failed := make(chan error, 1)
	fail := func(err error) {
		select {
		case failed <- err:
		default:
		}
	}
	switch p.kind {
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
					latency <- now() - stamp(m.Value)
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
				buf := alignedBuffer(typeSize + maxText)
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
					latency <- now() - stamp(m)
				}
			}()
		}
	default:
		return fmt.Errorf("no crowd of %q", p.kind)
	}
	if err := p.ready(""); err != nil {
		return err
	}
	time.Sleep(p.a.duration("settle"))
	start, startCPU := now(), cpuTime()
	time.Sleep(p.a.duration("window"))
	used, elapsed := float64(cpuTime()-startCPU), float64(now()-start)
	p.figure("cpu_ns_per_s", used/elapsed*1e9)
	p.figure("cpu_ns", used)
	n, err := threads()
	if err != nil {
		return err
	}
	p.figure("threads", float64(n))
	if expected == 0 {
		return nil
	}
	if err := p.ready("idle"); err != nil {
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
	p.samples("latency", samples)
	return nil
}

// cancel ends waits that have been going on for idle: how long until the call
// has returned, or the channel is closed.
func (p *peer) cancel() error {
	q, err := chanmq.Attach(p.a.int("in", -1))
	if err != nil {
		return err
	}
	receive := func(ctx context.Context) error {
		_, err := q.Receive(ctx, chanmq.Any())
		return err
	}
	if p.kind == "chanmq" {
		receive = func(ctx context.Context) error {
			r := q.Receiver(ctx, chanmq.Any())
			for range r.C() {
				return nil // reported below: nobody sends
			}
			return r.Err()
		}
	}
	if err := p.ready(""); err != nil {
		return err
	}
	samples := make([]int64, 0, p.a.int("count", 100))
	for len(samples) < cap(samples) {
		ctx, cancel := context.WithCancel(context.Background())
		var returned int64
		var wg sync.WaitGroup
		wg.Go(func() {
			err = receive(ctx)
			returned = now()
		})
		time.Sleep(p.a.duration("idle"))
		start := now()
		cancel()
		wg.Wait()
		if ctx.Err() == nil || err == nil {
			return fmt.Errorf("a receive that was cancelled returned: %w", err)
		}
		samples = append(samples, returned-start)
	}
	p.samples("cancel", samples)
	return q.Close()
}
