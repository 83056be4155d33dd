package peer

import (
	"fmt"
	"time"
)

// Store is an endpoint that may keep any number of messages, whose Send is safe for concurrent use.
// With the argument stores it receives what it sends itself.
type Store interface {
	Endpoint
	// Empty reports whether all that was sent has been received and acknowledged.
	Empty() (bool, error)
}

// sendAll sends n messages, or without end if n is 0, from several goroutines, each of which is a sender
// and waits until its message is stored before it sends the next one.
func (p *Peer) sendAll(n int) error {
	size, senders := p.Args.Int("size", 64), p.Args.Int("senders", 1)
	errs := make(chan error, senders)
	for i := range senders {
		go func() {
			out := Text(size)
			putSender(out, int64(i))
			// Of n, the i-th of each round.
			for number := int64(0); n == 0 || number*int64(senders)+int64(i) < int64(n); number++ {
				putStamp(out, number)
				if err := p.ep.Send(out); err != nil {
					errs <- fmt.Errorf("message %d of sender %d: %w", number, i, err)
					return
				}
			}
			errs <- nil
		}()
	}
	for range senders {
		if err := <-errs; err != nil {
			return err
		}
	}
	return nil
}

// sources is source, of several senders at the same time.
func (p *Peer) sources() error {
	if _, ok := p.ep.(Store); !ok {
		return fmt.Errorf("%q has one sender alone", p.Kind)
	}
	return p.sendAll(0)
}

// drain receives what was sent before. It takes the time from the first messages, which do not count, until
// the store is empty: what was acknowledged without waiting is a part of it.
func (p *Peer) drain() error {
	store, ok := p.ep.(Store)
	if !ok {
		return fmt.Errorf("%q stores nothing", p.Kind)
	}
	count := p.Args.Int("count", 1000)
	if err := p.sendAll(count); err != nil {
		return err
	}
	arrived := arrivals{size: p.Args.Int("size", 64), next: make([]int64, p.Args.Int("senders", 1))}
	skip := count / 5
	var start, startCPU int64
	var startAllocated uint64
	for i := range count {
		if i == skip {
			startAllocated, startCPU = allocated(), CPUTime()
			start = Now()
		}
		in, err := p.ep.Receive()
		if err == nil {
			err = arrived.check(in)
		}
		if err != nil {
			return fmt.Errorf("message %d of %d: %w", i, count, err)
		}
	}
	for {
		empty, err := store.Empty()
		if err != nil {
			return err
		}
		if empty {
			break
		}
		time.Sleep(200 * time.Microsecond)
	}
	n := float64(count - skip)
	p.Figure("ns_per_message", float64(Now()-start)/n)
	p.Figure("cpu_ns_per_message", float64(CPUTime()-startCPU)/n)
	p.Figure("allocs_per_message", float64(allocated()-startAllocated)/n)
	return nil
}

// Idle measures the CPU time of this process while it does nothing.
func (p *Peer) Idle(name string) {
	time.Sleep(p.Args.Duration("settle"))
	start, startCPU := Now(), CPUTime()
	time.Sleep(p.Args.Duration("window"))
	used, elapsed := float64(CPUTime()-startCPU), float64(Now()-start)
	p.Figure(name+"_cpu_ns_per_s", used/elapsed*1e9)
}
