package chanmq

import (
	"context"
	"sync"
	"sync/atomic"
)

// A pump is a goroutine between the queue and a Go channel: the one of a
// Receiver or of a Sender.
type pump interface {
	// stop tells it to end, with the error that Err then returns.
	stop(err error)
	// collect waits for its end and takes what it still holds: a Receiver's
	// messages go to the slot, a Sender's into left.
	collect(left *UndeliveredError)
	// spent reports whether it has ended and holds nothing any more.
	spent() bool
}

// pumps are the pumps of a handle.
type pumps struct {
	// subscribed is len(subscriptions), so that a receive can pass by
	// when there are none.
	subscribed atomic.Int64

	mu      sync.Mutex
	refused bool              // the handle is closed: no new ones; guarded by mu
	all     map[pump]struct{} // those that run, or hold messages; guarded by mu
	swept   int               // how many there were after the last sweep; guarded by mu

	// subscriptions are the Receivers that may hold a message, by the Done
	// channel of the ctx they were given: programs have few of those. Guarded
	// by mu.
	subscriptions map[<-chan struct{}]map[*subscriber]struct{}
}

// subscriber is a Receiver that may hold a message, or be about to take one.
type subscriber struct {
	sel     Selector
	settled chan struct{} // closed when it holds nothing any more
}

// add takes p in. It reports false when the handle is closed.
func (ps *pumps) add(p pump) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.refused {
		return false
	}
	if ps.all == nil {
		ps.all = make(map[pump]struct{})
	}
	if len(ps.all) >= 2*ps.swept+16 {
		// Receivers that ended with values in C are kept for Close to find.
		// Those that have been read to the end since then may go.
		for old := range ps.all {
			if old.spent() {
				delete(ps.all, old)
			}
		}
		ps.swept = len(ps.all)
	}
	ps.all[p] = struct{}{}
	return true
}

// remove forgets p.
func (ps *pumps) remove(p pump) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.all, p)
}

// refuse takes no more pumps in, and returns those that there are.
func (ps *pumps) refuse() []pump {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.refused = true
	list := make([]pump, 0, len(ps.all))
	for p := range ps.all {
		list = append(list, p)
	}
	return list
}

// subscribe announces that a Receiver with that ctx may take messages.
func (ps *pumps) subscribe(ctx context.Context, sel Selector) *subscriber {
	s := &subscriber{sel: sel, settled: make(chan struct{})}
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.subscriptions == nil {
		ps.subscriptions = make(map[<-chan struct{}]map[*subscriber]struct{})
	}
	if ps.subscriptions[ctx.Done()] == nil {
		ps.subscriptions[ctx.Done()] = make(map[*subscriber]struct{})
	}
	ps.subscriptions[ctx.Done()][s] = struct{}{}
	ps.subscribed.Store(int64(len(ps.subscriptions)))
	return s
}

// unsubscribe says that the Receiver takes and holds nothing any more.
func (ps *pumps) unsubscribe(ctx context.Context, s *subscriber) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.subscriptions[ctx.Done()], s)
	if len(ps.subscriptions[ctx.Done()]) == 0 {
		delete(ps.subscriptions, ctx.Done())
	}
	ps.subscribed.Store(int64(len(ps.subscriptions)))
	close(s.settled)
}

// settle waits until every Receiver whose ctx has ended, and that may hold a
// message which s selects, has handed it back. So a program may cancel a ctx and
// receive again at once, without waiting for the Receiver's end, and still gets
// the messages in order. It is short: a Receiver whose ctx has ended waits for
// nobody.
func (ps *pumps) settle(s Selector) {
	if ps.subscribed.Load() == 0 {
		return
	}
	var ending []*subscriber
	ps.mu.Lock()
	for done, receivers := range ps.subscriptions {
		select {
		case <-done:
			for receiver := range receivers {
				if receiver.sel.overlaps(s) {
					ending = append(ending, receiver)
				}
			}
		default:
		}
	}
	ps.mu.Unlock()
	for _, receiver := range ending {
		<-receiver.settled
	}
}
