package engine

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
)

// This file is what a message is that was leased: it stays in the queue until whoever has the lease
// acknowledges it, which deletes it. The lease is a delivery of the selector's consumer
// (consumer.go); while this process lives it tells the consumer that it has the message still.
//
// A lease keeps the message from those alone who lease with the same selector. Others may lease it
// as well, and Claim takes it from under a lease. So whoever leases gets each message at least once.

// leasing is what an Engine has for leases.
type leasing struct {
	e       *Engine
	keeper  keeper
	acker   acker
	returns returns

	mu     sync.Mutex
	open   map[*Leases]struct{} // guarded by mu
	closed bool                 // guarded by mu
}

func (l *leasing) init(e *Engine) error {
	l.e, l.open = e, make(map[*Leases]struct{})
	l.keeper.init(e)
	if err := l.acker.init(e); err != nil {
		return err
	}
	return l.returns.init(e)
}

// end ends all leases: those that are not acknowledged are for others.
func (l *leasing) end() {
	l.mu.Lock()
	l.closed = true
	var open []*Leases
	for leases := range l.open {
		open = append(open, leases)
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), l.e.Timeout)
	defer cancel()
	for _, leases := range open {
		leases.Close(ctx)
	}
	l.acker.end(ctx)
	l.returns.end()
	l.keeper.end()
}

// reconnected says that the connection is there again: what was asked for before may never come.
func (l *leasing) reconnected() {
	l.acker.again()
	l.returns.forget()
	l.mu.Lock()
	defer l.mu.Unlock()
	for leases := range l.open {
		leases.reconnected()
	}
}

// Lease is a message that is leased.
type Lease struct {
	Message
	from    *origin
	reply   string // where the consumer hears of it
	attempt int
	ended   atomic.Bool // by Ack or Release

	// Guarded by keeper.mu.
	before, behind *Lease    // in the keeper's list; nil: it is not in it
	said           time.Time // when the consumer last heard that somebody has it
}

// origin is what the leases of a handle that are of the same consumer have in common.
type origin struct {
	leases *Leases
	queue  int
	key    consumerKey
	stream string
	told   confirmation // guarded by returns.mu
}

// newLease returns the lease of a message that a consumer has delivered.
func (e *Engine) newLease(o *origin, m *nats.Msg) (*Lease, error) {
	meta, err := m.Metadata()
	if err != nil {
		return nil, err
	}
	typ, err := e.layout.typeOf(m.Subject)
	if err != nil {
		return nil, err
	}
	l := &Lease{
		Message: Message{Seq: meta.Sequence.Stream, Type: typ, Text: m.Data, id: m.Header.Get(nats.MsgIdHdr)},
		from:    o,
		reply:   m.Reply,
		attempt: int(meta.NumDelivered),
	}
	e.leasing.keeper.add(l)
	if l.attempt > 1 {
		e.leasing.acker.redelivered(o.queue)
	}
	return l, nil
}

// Attempt is how many times the message was leased with the selector, this time included. It
// counts those that nobody got, which were given back from a buffer.
func (l *Lease) Attempt() int { return l.attempt }

// errEnded is the error of ending a lease twice.
var errEnded = errors.New("the lease has ended")

// Ack takes the message out of the queue. It does not wait for that. That it is gone is no error.
func (l *Lease) Ack() error {
	if l.ended.Swap(true) {
		return errEnded
	}
	e := l.from.leases.e
	// Before the deletion: whoever asks now shall know that the message was dealt with.
	e.peers.remember(l.from.queue, &l.Message)
	if err := e.leasing.acker.add(l); err != nil {
		e.leasing.keeper.remove(l)
		return err
	}
	return nil
}

// Release leaves the message to others, in its place.
func (l *Lease) Release() {
	if l.ended.Swap(true) {
		return
	}
	giveBack(l)
}

// giveBack leaves messages to others, in their order. They are of one consumer, and their leases have not ended.
func giveBack(list ...*Lease) {
	if len(list) == 0 {
		return
	}
	e := list[0].from.leases.e
	for _, l := range list {
		l.ended.Store(true)
		e.leasing.keeper.remove(l)
	}
	e.leasing.acker.release(list)
}

// nak tells the consumer that the messages are for others.
func nak(list []*Lease) {
	e := list[0].from.leases.e
	e.leasing.returns.nak(list, func() {
		for _, l := range list {
			// Those who wait for the lowest type wait for no consumer. If they asked before, they would wait on.
			_ = e.Conn.Publish(e.layout.wakeOf(l.from.queue, l.Type), nil)
		}
	})
}

// Gone ends the lease of a message that was taken otherwise, by Claim, or by somebody else.
func (l *Lease) Gone() {
	if l.ended.Swap(true) {
		return
	}
	e := l.from.leases.e
	e.leasing.keeper.remove(l)
	_ = e.Conn.Publish(l.reply, []byte("+ACK")) // or the consumer finds out after AckWait
}

// Leases is what one handle leases. It is safe for concurrent use.
type Leases struct {
	e *Engine

	mu      sync.Mutex
	sources map[consumerKey]*source // guarded by mu
	origins map[consumerKey]*origin // guarded by mu
	kept    []*Lease                // taken, and too large for whoever has taken them; guarded by mu
	closed  bool                    // guarded by mu

	unacked int           // guarded by acker.mu
	flushed chan struct{} // closed when there are none; nil: nobody waits for that; guarded by acker.mu
}

// NewLeases returns those of a new handle. Close follows.
func (e *Engine) NewLeases() *Leases {
	l := &Leases{e: e, sources: make(map[consumerKey]*source), origins: make(map[consumerKey]*origin)}
	e.leasing.mu.Lock()
	defer e.leasing.mu.Unlock()
	l.closed = e.leasing.closed
	e.leasing.open[l] = struct{}{}
	return l
}

// Close gives back what nobody has got, and waits, until the end of ctx, for the messages that were
// acknowledged to be gone. Leases that somebody has go on. No Wait may be under way.
func (l *Leases) Close(ctx context.Context) {
	l.mu.Lock()
	l.closed = true
	sources, kept := l.sources, l.kept
	l.sources, l.kept = nil, nil
	l.mu.Unlock()
	for _, lease := range kept {
		lease.Release()
	}
	for _, s := range sources {
		s.end()
	}
	for _, s := range sources {
		s.finish(ctx)
	}
	l.e.leasing.acker.flush(ctx, l)
	l.e.leasing.mu.Lock()
	defer l.e.leasing.mu.Unlock()
	delete(l.e.leasing.open, l)
}

// reconnected needs leasing.mu.
func (l *Leases) reconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.sources {
		s.reconnected()
	}
}

// origin returns that of a consumer. It needs mu.
func (l *Leases) origin(k consumerKey) *origin {
	o := l.origins[k]
	if o == nil {
		o = &origin{leases: l, queue: k.queue, key: k, stream: l.e.layout.stream(k.queue)}
		l.origins[k] = o
	}
	return o
}

// source returns that of a consumer. It returns nil if create is false and there is none.
func (l *Leases) source(k consumerKey, create bool) (*source, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errClosed
	}
	s := l.sources[k]
	if s == nil && create {
		s = newSource(l, k)
		l.sources[k] = s
	}
	return s, nil
}

// Try returns a message that is here. ErrNone: there is none. ErrTooLarge: there is one, and its text is not of at
// most room bytes, but of size; the next call may have it.
func (l *Leases) Try(queue int, sel Selector, room int) (lease *Lease, size int, err error) {
	if sel.Mode == UpTo {
		if l.isClosed() {
			return nil, 0, errClosed
		}
		if lease := l.takeKept(queue, sel); lease != nil {
			return l.fit(lease, room)
		}
		return nil, 0, ErrNone
	}
	s, err := l.source(consumerKey{queue, sel}, false)
	if err != nil {
		return nil, 0, err
	}
	if s == nil {
		return nil, 0, ErrNone
	}
	return s.try(room)
}

// Wait is Try, but waits for a message until ctx ends, while the servers are away too.
func (l *Leases) Wait(ctx context.Context, queue int, sel Selector, room int) (lease *Lease, size int, err error) {
	if sel.Mode == UpTo {
		lease, err := l.waitLowest(ctx, queue, sel)
		if err != nil {
			return nil, 0, err
		}
		return l.fit(lease, room)
	}
	s, err := l.source(consumerKey{queue, sel}, true)
	if err != nil {
		return nil, 0, err
	}
	return s.wait(ctx, room)
}

// Ask is Try, but asks the servers if none is here. It does not wait for a message.
func (l *Leases) Ask(ctx context.Context, queue int, sel Selector, room int) (lease *Lease, size int, err error) {
	if lease := l.takeKept(queue, sel); lease != nil {
		return l.fit(lease, room)
	}
	if sel.Mode == UpTo {
		lease, err = l.lowest(ctx, queue, sel)
	} else {
		if lease, size, err := l.Try(queue, sel, room); err != ErrNone {
			return lease, size, err
		}
		lease, err = l.One(ctx, queue, sel)
	}
	if err != nil {
		return nil, 0, err
	}
	return l.fit(lease, room)
}

// One leases a message that nobody has leased with the selector, not UpTo. It does not wait. ErrNone: there is
// none.
func (l *Leases) One(ctx context.Context, queue int, sel Selector) (*Lease, error) {
	return l.pullOne(ctx, consumerKey{queue, sel})
}

func (l *Leases) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// fit returns the lease, or keeps it if it is too large.
func (l *Leases) fit(lease *Lease, room int) (*Lease, int, error) {
	if len(lease.Text) <= room {
		return lease, len(lease.Text), nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		lease.Release()
		return nil, 0, errClosed
	}
	l.kept = append(l.kept, lease)
	// It is the caller's, who may not come again.
	time.AfterFunc(giveBackAfter, func() {
		if l.dropKept(lease) {
			lease.Release()
		}
	})
	return nil, len(lease.Text), ErrTooLarge
}

func (l *Leases) dropKept(lease *Lease) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.kept, lease)
	if i < 0 {
		return false
	}
	l.kept = slices.Delete(l.kept, i, i+1)
	return true
}

// takeKept returns the lowest that the selector selects of what is kept, nil if there is none.
func (l *Leases) takeKept(queue int, sel Selector) *Lease {
	l.mu.Lock()
	defer l.mu.Unlock()
	var best *Lease
	for _, lease := range l.kept {
		if lease.from.queue == queue && sel.Matches(lease.Type) && (best == nil || lease.Type < best.Type) {
			best = lease
		}
	}
	if best != nil {
		l.kept = slices.DeleteFunc(l.kept, func(lease *Lease) bool { return lease == best })
	}
	return best
}

// Unacked returns how many messages were acknowledged and are in their queues still, for tests.
func (e *Engine) Unacked() int { return e.leasing.acker.unacked() }
