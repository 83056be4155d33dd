package wait

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// poller serves the waits of a handle that may not park: those beyond MaxParked,
// all of them under Polling, and where no signal can interrupt a thread. One
// goroutine looks at the queue at intervals and does the operations of all of
// them, so that ten thousand cost no more than one while nothing comes.
//
// The goroutine lives while there are waits. A wait is in waiting, or claimed: the
// goroutine is trying its operation. It leaves by getting an answer, always
// exactly one, or by being removed unclaimed. models/poller.pml is this protocol.
type poller struct {
	lot   *Lot
	alarm sysv.Alarm // ends the goroutine's sleep

	mu      sync.Mutex
	running chan struct{} // closed when the goroutine has ended; guarded by mu
	waiting waiters       // guarded by mu
	added   bool          // a wait was added since the last look; guarded by mu
}

// polled is a Waiter's part in the poller.
type polled struct {
	answer chan error // has room for the one answer

	key       Key  // of the operation; guarded by poller.mu
	claimed   bool // the goroutine is trying the operation; guarded by poller.mu
	abandoned bool // claimed, and to be answered also if the try fails; guarded by poller.mu
}

func (p *polled) init() { p.answer = make(chan error, 1) }

func (p *poller) init(l *Lot) {
	p.lot = l
	p.alarm = l.config.NewAlarm()
}

// wait lets the poller do w's operation, until ctx ends.
func (p *poller) wait(ctx context.Context, w *Waiter) error {
	w.op.Suspend()
	p.add(w)
	select {
	case err := <-w.polled.answer:
		return p.answered(w, err)
	case <-ctx.Done():
		if p.remove(w) {
			return p.answered(w, errRetry)
		}
		return p.answered(w, <-w.polled.answer) // what was done is done
	}
}

// answered returns the answer. The goroutine has resumed the operation if it was
// done.
func (p *poller) answered(w *Waiter, err error) error {
	if err == errRetry {
		w.op.Resume()
	}
	return err
}

func (p *poller) add(w *Waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	w.polled.key = w.op.Key()
	w.polled.claimed, w.polled.abandoned = false, false
	if w.op.Pending() {
		w.polled.answer <- errRetry // whoever made it so may have looked before
		return
	}
	p.waiting.add(w.polled.key, w)
	p.added = true
	if p.running == nil {
		p.running = make(chan struct{})
		go p.run(p.running)
	}
}

// remove takes w out. It reports false if w is claimed or has its answer; then
// an answer comes soon.
func (p *poller) remove(w *Waiter) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.polled.claimed {
		w.polled.abandoned = true
		return false
	}
	return p.drop(w)
}

// drop takes w out of waiting, and ends the goroutine's sleep if it was the last.
// It needs p.mu.
func (p *poller) drop(w *Waiter) bool {
	dropped := p.waiting.remove(w.polled.key, w)
	if dropped && p.waiting.len() == 0 {
		p.alarm.Ring()
	}
	return dropped
}

// wake makes those of the waits that choose returns try by themselves.
func (p *poller) wake(choose func(*waiters) []*Waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range choose(&p.waiting) {
		if w.polled.claimed {
			// The try under way may have begun before the wait was pending.
			w.polled.abandoned = true
			continue
		}
		p.drop(w)
		w.polled.answer <- errRetry
	}
}

// join returns when the goroutine has ended. The handle is closed, so that
// every wait has its answer and no new one stays.
func (p *poller) join() {
	for {
		p.mu.Lock()
		running := p.running
		p.mu.Unlock()
		if running == nil {
			return
		}
		p.alarm.Ring()
		<-running
	}
}

// maxShare bounds the part of a P that rounds may take, however many waits there
// are: the pause after a round is at least so many times as long.
const maxShare = 4

func (p *poller) run(ended chan struct{}) {
	defer close(ended)
	c := &p.lot.config
	interval := c.PollMin
	pause := interval
	var changes changeDetector
	for {
		p.alarm.Sleep(pause)
		if p.finished() {
			return
		}
		start := time.Now()
		interval = min(2*interval, c.PollMax)
		if p.round(changes.check(p, start)) {
			interval = c.PollMin
		}
		if p.lot.canPark() {
			p.promote()
		}
		work := time.Since(start)
		pause = max(interval-work, maxShare*work)
	}
}

// finished ends the goroutine's life if there are no waits.
func (p *poller) finished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting.len() > 0 {
		return false
	}
	p.running = nil
	return true
}

// round tries the operations of waits, and reports whether any was done.
func (p *poller) round(waits []*Waiter) bool {
	done := false
	refused := math.MaxInt // the smallest send that had no room
	for _, w := range waits {
		key, ok := p.claim(w, refused)
		if !ok {
			continue
		}
		err := p.serve(w)
		done = done || err != ErrWait
		if err == ErrWait && key.Send {
			refused = key.Size
		}
	}
	return done
}

// promote lets one wait go and park, which is better: there is a space again.
func (p *poller) promote() {
	p.mu.Lock()
	defer p.mu.Unlock()
	// None is claimed: only this goroutine claims.
	for _, w := range p.waiting.receives {
		p.drop(w)
		w.polled.answer <- errRetry
		return
	}
	if len(p.waiting.sends) > 0 {
		w := p.waiting.sends[0]
		p.drop(w)
		w.polled.answer <- errRetry
	}
}

// claim reports whether w still waits and is worth a try. It stays where it is:
// remove and wake leave a claimed wait alone. Sends that are not worth a try are not
// even looked for, as there may be thousands.
func (p *poller) claim(w *Waiter, refused int) (key Key, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	key = w.polled.key
	ok = !(key.Send && key.Size >= refused) && p.waiting.has(key, w)
	if ok {
		w.polled.claimed = true
	}
	return key, ok
}

// serve tries the operation of w, which is claimed, and answers it if it need not
// wait any longer. It returns what came of the try.
func (p *poller) serve(w *Waiter) error {
	w.op.Resume()
	err := w.op.Try()
	if err == ErrWait {
		w.op.Suspend()
	}

	p.mu.Lock()
	defer p.mu.Unlock()
	w.polled.claimed = false
	answer := err
	if err == ErrWait {
		if !w.polled.abandoned {
			return err
		}
		answer = errRetry
	}
	p.drop(w)
	w.polled.answer <- answer
	return err
}
