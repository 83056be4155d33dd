package wait

import (
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// changeDetector finds the waits that are worth trying, for the price of one
// IPC_STAT when nothing has happened, and of a look at the messages when something
// has. It belongs to the poller's goroutine.
type changeDetector struct {
	seen    sysv.Stat // what the queue looked like
	checked time.Time // when
}

// unsettledPause is the time between looks at a queue in which something
// happened lately that its counts do not show.
const unsettledPause = 50 * time.Millisecond

// check returns the waits for which something may have changed since the last check.
func (d *changeDetector) check(p *poller, now time.Time) []*Waiter {
	p.mu.Lock()
	defer p.mu.Unlock()
	added, waits, sends := p.added, p.waiting.len(), len(p.waiting.sends) > 0
	p.added = false
	if waits <= 1 {
		return p.waiting.all() // one try costs less than one look
	}
	types, changed := d.look(p, now, added, waits, sends)
	switch {
	case !changed:
		return nil
	case types == nil:
		return p.waiting.all()
	}
	return append(p.waiting.receiving(types), p.waiting.sends...)
}

// look returns whether anything may have changed, and the types of the messages in
// the queue, or nil where trying everything is cheaper. It releases p.mu meanwhile.
func (d *changeDetector) look(p *poller, now time.Time, added bool, waits int, sends bool) (types map[int64]bool, changed bool) {
	p.mu.Unlock()
	defer p.mu.Lock()
	stat, err := p.lot.config.Stat()
	if err != nil {
		return nil, true // not ours to read, or removed: the tries will show
	}
	if stat.Messages == 0 && !sends {
		return nil, false
	}
	// Times are whole seconds. What happened after the last check, in the same
	// second as what it saw, may have left all counts as they were, with other
	// messages behind them: that is looked at too, but not as often.
	settled := d.checked.Unix() > max(stat.SendTime, stat.ReceiveTime)+1
	if stat == d.seen && !added && (settled || now.Sub(d.checked) < unsettledPause) {
		return nil, false
	}
	d.seen, d.checked = stat, now
	// To copy a message costs about as much as five tries.
	if 5*stat.Messages > uint64(waits) {
		return nil, true
	}
	return p.lot.config.Types(waits), true
}
