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
	groups  map[operationKey]*group // all groups; guarded by mu
	wide    map[operationKey]*group // those that no single type stands for; guarded by mu
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
	p.wide = make(map[operationKey]*group)
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
		if key.send || key.sel.mode != ofType {
			p.wide[key] = g
		}
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
	delete(p.wide, g.key)
	if len(p.groups) == 0 {
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
	// A timer with a function, which is started again before anything else, lets
	// the machine rest. The runtime wakes a thread beside the one that runs this,
	// to sleep until the next timer; and wakes it again for a timer that comes
	// later, as one with a channel does: it begins when somebody waits for it.
	// What the function starts ends at once, whatever has become of run.
	tick := make(chan struct{}, 1)
	timer := time.AfterFunc(interval, func() {
		select {
		case tick <- struct{}{}:
		default: // one look is enough
		}
	})
	defer timer.Stop()
	var gate gate
	for {
		kicked := false
		select {
		case <-tick:
		case <-p.kick:
			kicked = true
		}
		if p.finished() {
			return
		}
		start := time.Now()
		interval = min(2*interval, p.q.options.pollMax)
		pause := interval
		timer.Reset(pause)
		var worthTrying []*group
		if kicked {
			worthTrying = p.everyGroup()
		} else {
			worthTrying = gate.look(p, start)
		}
		if p.round(worthTrying) {
			interval = p.q.options.pollMin
		}
		if p.q.room.canPark() {
			p.promote()
		}
		if due := max(interval, maxShare*time.Since(start)); due != pause {
			timer.Reset(due)
		}
	}
}

// finished ends the goroutine's life if there are no waits.
func (p *poller) finished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.groups) > 0 {
		return false
	}
	p.running = nil
	return true
}

// everyGroup returns all groups, in another order each time, as maps have it: so
// none is always served last.
func (p *poller) everyGroup() []*group {
	p.mu.Lock()
	defer p.mu.Unlock()
	groups := make([]*group, 0, len(p.groups))
	for _, g := range p.groups {
		groups = append(groups, g)
	}
	return groups
}

// groupsFor returns the groups that messages of the types may be for.
func (p *poller) groupsFor(types map[int64]bool) []*group {
	p.mu.Lock()
	defer p.mu.Unlock()
	groups := make([]*group, 0, len(p.wide)+len(types))
	for _, g := range p.wide {
		groups = append(groups, g)
	}
	for typ := range types {
		if g := p.groups[operationKey{sel: OfType(typ)}]; g != nil {
			groups = append(groups, g)
		}
	}
	return groups
}

// round tries the operations of groups, and reports whether any was done.
func (p *poller) round(groups []*group) bool {
	done := false
	for _, g := range groups {
		// Those that come back while it is served have their turn next time.
		for n := p.waiting(g); n > 0 && p.serve(g); n-- {
			done = true
		}
	}
	return done
}

// waiting returns the number of waits in g.
func (p *poller) waiting(g *group) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(g.waits)
}

// promote lets one wait go and park, which is better: a place for it is free again.
func (p *poller) promote() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.groups {
		w := g.waits[0] // not claimed: only this goroutine claims
		g.waits = g.waits[1:]
		p.drop(g)
		w.answer <- errRetry
		return
	}
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

// gate tells which groups are worth trying, for the price of one IPC_STAT when
// nothing has happened, and of a look at the messages when something has.
type gate struct {
	seen   sysv.Stat // what the queue looked like
	looked time.Time // when
	copy   raw       // for looking at messages
}

// unsettledPause is the time between looks at a queue in which something
// happened lately that its counts do not show.
const unsettledPause = 50 * time.Millisecond

// look returns the groups for which something may have changed since the last look.
func (g *gate) look(p *poller, now time.Time) []*group {
	p.mu.Lock()
	added, groups := p.added, len(p.groups)
	p.added = false
	_, sends := p.groups[operationKey{send: true}]
	p.mu.Unlock()
	if groups <= 1 {
		return p.everyGroup() // one try costs less than one look
	}
	stat, err := p.q.kernel.Stat(p.q.msqid())
	if err != nil {
		return p.everyGroup() // not ours to read, or removed: the tries will tell
	}
	if stat.Messages == 0 && !sends {
		return nil
	}
	// Times are whole seconds. What happened after the last look, in the same
	// second as what it saw, may have left all counts as they were, with other
	// messages behind them: that is looked at too, but not as often.
	settled := g.looked.Unix() > max(stat.SendTime, stat.ReceiveTime)+1
	if stat == g.seen && !added && (settled || now.Sub(g.looked) < unsettledPause) {
		return nil
	}
	g.seen, g.looked = stat, now
	if types := g.types(p.q, stat.Messages, groups); types != nil {
		return p.groupsFor(types)
	}
	return p.everyGroup()
}

// types returns the types of the messages in the queue, or nil where trying
// everything is cheaper, and where the kernel does not let one look.
func (g *gate) types(q *queue, messages uint64, groups int) map[int64]bool {
	// To copy a message costs about as much as five tries.
	if 5*messages > uint64(groups) {
		return nil
	}
	types := make(map[int64]bool)
	for position := 0; ; {
		if g.copy.buf == nil {
			g.copy.grow()
		}
		_, err := q.kernel.Receive(q.msqid(), g.copy.buf, position, sysv.Copy)
		switch err {
		case nil:
			types[g.copy.typ()] = true
			position++
		case sysv.E2BIG:
			g.copy.grow()
		case sysv.ENOMSG:
			return types
		default:
			return nil
		}
		if position > groups {
			return nil // they come faster than one can look
		}
	}
}
