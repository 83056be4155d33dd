package engine

import (
	"sync"
	"time"
)

// keeper tells the consumers that leases go on, about three times within AckWait. Its cost is
// for those that are older than that: the list is in the order of when a consumer last heard
// of them.
type keeper struct {
	e *Engine

	mu      sync.Mutex
	list    Lease // the ring's root; guarded by mu
	running bool  // run looks at the list; guarded by mu

	kick chan struct{} // there is something in the list again
	done chan struct{} // closed by end
}

func (k *keeper) init(e *Engine) {
	k.e = e
	k.list.before, k.list.behind = &k.list, &k.list
	k.kick, k.done = make(chan struct{}, 1), make(chan struct{})
	e.running.Go(k.run)
}

func (k *keeper) end() { close(k.done) }

// add begins with a lease.
func (k *keeper) add(l *Lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.push(l, time.Now())
	if !k.running {
		k.running = true
		k.kick <- struct{}{}
	}
}

// push needs mu.
func (k *keeper) push(l *Lease, now time.Time) {
	l.said = now
	l.before, l.behind = k.list.before, &k.list
	l.before.behind, l.behind.before = l, l
}

// remove ends that, if it has not ended.
func (k *keeper) remove(l *Lease) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.drop(l)
}

// drop needs mu.
func (k *keeper) drop(l *Lease) {
	if l.before == nil {
		return
	}
	l.before.behind, l.behind.before = l.behind, l.before
	l.before, l.behind = nil, nil
}

func (k *keeper) run() {
	tick := time.NewTicker(k.e.AckWait / 6)
	defer tick.Stop()
	for {
		select {
		case <-k.kick:
		case <-k.done:
			return
		}
		tick.Reset(k.e.AckWait / 6)
		for k.keep() {
			select {
			case <-tick.C:
			case <-k.done:
				return
			}
		}
	}
}

// keep tells the consumers of those leases that have got old. It returns false if there are none at all.
func (k *keeper) keep() bool {
	if !k.e.Conn.IsConnected() {
		return true
	}
	old := time.Now().Add(-k.e.AckWait / 3)
	for {
		k.mu.Lock()
		first := k.list.behind
		if first == &k.list {
			k.running = false
			k.mu.Unlock()
			return false
		}
		if first.said.After(old) {
			k.mu.Unlock()
			return true
		}
		reply := first.reply
		k.drop(first)
		k.push(first, time.Now())
		k.mu.Unlock()
		_ = k.e.Conn.Publish(reply, []byte("+WPI")) // it is said twice more in time
	}
}
