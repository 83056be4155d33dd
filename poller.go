package chanmq

import (
	"context"
	"sync"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// poller serves the waits of a handle that may not block: those beyond
// WithMaxParked, all of them under WithPolling, and where no signal can
// interrupt a thread. One goroutine looks at the queue at intervals and does
// the operations of all of them, so that ten thousand cost no more than one
// while nothing comes.
//
// The goroutine lives while there are waits. A wait is in one group, or
// claimed: taken out by the goroutine, which is trying its operation. It leaves
// by getting an answer, always exactly one, or by being removed unclaimed.
type poller struct {
	q    *queue
	kick chan struct{} // room for 1: look at once

	mu      sync.Mutex
	running chan struct{}           // closed when the goroutine has ended; guarded by mu
	groups  map[operationKey]*group // guarded by mu
	order   []*group                // the same, in the order of service; guarded by mu
	next    int                     // where in order the next round begins; guarded by mu
	added   bool                    // a wait came since the last look; guarded by mu
}

// group holds the waits that one failed try answers for, oldest first.
type group struct {
	key   operationKey
	waits []*wait
}

// polled is the poller's part of a wait, guarded by poller.mu.
type polled struct {
	claimed   bool // the goroutine is trying the operation
	abandoned bool // claimed, and its owner wants it back
}

func (p *poller) init(q *queue) {
	p.q = q
	p.kick = make(chan struct{}, 1)
	p.groups = make(map[operationKey]*group)
}

// wait lets the poller do w's operation, until ctx ends.
func (p *poller) wait(ctx context.Context, w *wait) error {
	p.add(w)
	select {
	case err := <-w.answer:
		return err
	case <-ctx.Done():
		if p.remove(w) {
			return errRetry
		}
		return <-w.answer // what was done is done
	}
}

func (p *poller) add(w *wait) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.polled = polled{}
	key := w.op.key()
	g := p.groups[key]
	if g == nil {
		g = &group{key: key}
		p.groups[key] = g
		p.order = append(p.order, g)
	}
	g.waits = append(g.waits, w)
	p.added = true
	if p.running == nil {
		p.running = make(chan struct{})
		go p.run(p.running)
	}
	if w.op.pending() {
		p.wake() // whoever made it so may have looked before it was added
	}
}

// remove takes w out. It reports false if w is claimed or has its answer; then
// an answer comes soon.
func (p *poller) remove(w *wait) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.claimed {
		w.abandoned = true
		return false
	}
	g := p.groups[w.op.key()]
	if g == nil {
		return false
	}
	for i, other := range g.waits {
		if other == w {
			g.waits = append(g.waits[:i], g.waits[i+1:]...)
			p.drop(g)
			return true
		}
	}
	return false
}

// drop forgets g if it is empty. It needs p.mu.
func (p *poller) drop(g *group) {
	if len(g.waits) > 0 || p.groups[g.key] != g {
		return
	}
	delete(p.groups, g.key)
	for i, other := range p.order {
		if other == g {
			p.order = append(p.order[:i], p.order[i+1:]...)
			if p.next > i {
				p.next--
			}
			break
		}
	}
	if len(p.order) == 0 {
		p.wake() // the goroutine ends
	}
}

// wake makes the goroutine look at everything at once.
func (p *poller) wake() {
	select {
	case p.kick <- struct{}{}:
	default: // it will
	}
}

// join returns when the goroutine has ended. The handle is closed, so that
// every wait gets its answer and no new one stays.
func (p *poller) join() {
	for {
		p.mu.Lock()
		running := p.running
		p.mu.Unlock()
		if running == nil {
			return
		}
		p.wake()
		<-running
	}
}

// maxShare bounds the part of a processor that rounds may take, however many
// waits there are: the pause after a round is at least so many times as long.
const maxShare = 4

func (p *poller) run(ended chan struct{}) {
	defer close(ended)
	interval := p.q.options.pollMin
	timer := time.NewTimer(interval)
	defer timer.Stop()
	var gate gate
	for {
		kicked := false
		select {
		case <-timer.C:
		case <-p.kick:
			kicked = true
		}
		if p.finished() {
			return
		}
		start := time.Now()
		if kicked || gate.open(p, start) {
			if p.round() {
				interval = 0
			}
		}
		interval = min(max(2*interval, p.q.options.pollMin), p.q.options.pollMax)
		timer.Reset(max(interval, maxShare*time.Since(start)))
	}
}

// finished ends the goroutine's life if there are no waits.
func (p *poller) finished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.order) > 0 {
		return false
	}
	p.running = nil
	return true
}

// round tries the operations of every group, beginning with another group each
// time, so that none is always served last. It reports whether any was done.
func (p *poller) round() bool {
	p.mu.Lock()
	var groups []*group
	if len(p.order) > 0 {
		p.next = (p.next + 1) % len(p.order)
		groups = append(groups, p.order[p.next:]...)
		groups = append(groups, p.order[:p.next]...)
	}
	p.mu.Unlock()
	done := false
	for _, g := range groups {
		for p.serve(g) {
			done = true
		}
	}
	return done
}

// serve tries the operation of g's first wait, and reports whether the next one
// is worth trying.
func (p *poller) serve(g *group) bool {
	p.mu.Lock()
	if len(g.waits) == 0 {
		p.mu.Unlock()
		return false
	}
	w := g.waits[0]
	w.claimed = true // stays where it is: remove leaves a claimed wait alone
	p.mu.Unlock()

	err := w.op.try()
	more := err != errWait
	if !more && p.q.room.canPark() {
		err = errRetry // a place to park is free again, which is better
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	w.claimed = false
	if err == errWait && w.abandoned {
		err = errRetry
	}
	if err != errWait {
		g.waits = g.waits[1:]
		p.drop(g)
		w.answer <- err // has room: one answer for each wait
	}
	return more
}

// gate tells, for the price of one IPC_STAT, that trying everything again would
// be in vain. It remembers what the queue looked like.
type gate struct{ seen sysv.Stat }

// open reports whether some operation may succeed that did not before.
func (g *gate) open(p *poller, now time.Time) bool {
	p.mu.Lock()
	added, groups := p.added, len(p.order)
	p.added = false
	_, sends := p.groups[operationKey{send: true}]
	p.mu.Unlock()
	if groups <= 1 {
		return true // one try costs less than one look
	}
	stat, err := p.q.kernel.Stat(p.q.msqid())
	if err != nil {
		return true // not ours to read, or removed: the tries will tell
	}
	if stat.Messages == 0 && !sends {
		return false
	}
	// Times are whole seconds. What happened in the second of the last look
	// may have left all counts as they were, with other messages behind them.
	settled := now.Unix() > max(stat.SendTime, stat.ReceiveTime)+1
	if stat == g.seen && settled && !added {
		return false
	}
	g.seen = stat
	return true
}
