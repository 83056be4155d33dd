package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// This file is how those are woken who wait for a message, or for room. The server publishes
// each message that it has stored once more, to the wake-up subject of its type. Whoever waits
// subscribes to those of its selector, in a group with all that have the same selector, so
// that each message wakes one of them on all machines. Whoever takes a message says so to the
// room subject, where senders that wait are in a group as well.
//
// A wake-up may be lost: with a server, with a process that was woken and died, or because the
// servers have not heard of the subscription yet. So whoever waits looks at the queue from time to time.

// watch is a queue that somebody of this process waits for.
type watch struct {
	e  *Engine
	id int

	mu      sync.Mutex
	groups  map[Selector]*group // of receives; guarded by mu
	senders group               // guarded by mu
	refs    int                 // Waiters; guarded by mu
	newest  map[int64]uint64    // of each type, the last one that this process has taken, or is about to; guarded by mu
	idle    *time.Timer         // ends the watch when nobody has waited for a while; guarded by mu

	soon    chan struct{}   // makes it look now
	ctx     context.Context // ends with the watch
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// group are those who wait for the same.
type group struct {
	name    string               // of the queue group, and of the subject by which it passes on wake-ups
	waiting []*Waiter            // without an event, the one who has waited longest first
	subs    []*nats.Subscription // nil: none yet

	// empty says that a look has found no message, and that of none since a wake-up has come that
	// nobody was given.
	empty bool
}

// Waiter is somebody who waits. It belongs to one goroutine.
type Waiter struct {
	w     *watch
	group *group
	size  int   // of a send
	last  event // the last one
	armed bool  // in group.waiting, or woken since; guarded by watch.mu
	waits bool  // in Wait; guarded by watch.mu

	events chan event // has room for one
}

// event is why a Waiter is woken.
type event struct {
	message *Message // that may be there; nil: it has to look
	hops    int
	err     error // no waiting will do
}

// linger is how long a process stays subscribed when nobody waits any more: most receive again
// soon, and the servers need time to hear of a subscription.
const linger = 30 * time.Second

// mostHops is how often a wake-up is passed on by processes in which nobody waits at the moment.
const mostHops = 3

const hopsHeader = "Chanmq-Hops"

// WaitForMessage returns a Waiter for messages that the selector selects. Who has got it looks
// whether there are any, and then waits.
func (e *Engine) WaitForMessage(id int, s Selector) (*Waiter, error) {
	return e.waiter(id, func(w *watch) (*Waiter, error) {
		g := w.groups[s]
		if g == nil {
			g = &group{name: fmt.Sprintf("m%d.%d", s.Mode, s.Type)}
			w.groups[s] = g
		}
		return &Waiter{group: g}, w.subscribe(g, w.e.layout.wakesOf(id, s)...)
	})
}

// WaitForRoom returns a Waiter for room in the queue. Who has got it tries, and then waits.
func (e *Engine) WaitForRoom(id, size int) (*Waiter, error) {
	return e.waiter(id, func(w *watch) (*Waiter, error) {
		return &Waiter{group: &w.senders, size: size}, w.subscribe(&w.senders, e.layout.room(id))
	})
}

func (e *Engine) waiter(id int, join func(*watch) (*Waiter, error)) (*Waiter, error) {
	if e.Conn.IsClosed() {
		return nil, e.because(nats.ErrConnectionClosed)
	}
	w, err := e.watch(id)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	waiter, err := join(w)
	if err != nil {
		w.leave()
		return nil, err
	}
	waiter.w, waiter.events = w, make(chan event, 1)
	return waiter, nil
}

// watch returns the watch of a queue, with one more reference.
func (e *Engine) watch(id int) (*watch, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed.Load() {
		return nil, errClosed
	}
	w := e.watches[id]
	if w == nil {
		w = &watch{e: e, id: id, groups: make(map[Selector]*group), newest: make(map[int64]uint64), soon: make(chan struct{}, 1)}
		w.senders.name = "room"
		w.ctx, w.cancel = context.WithCancel(context.Background())
		sub, err := e.Conn.Subscribe(e.layout.removed(id), func(*nats.Msg) { w.lookSoon() })
		if err != nil {
			w.cancel()
			return nil, err
		}
		e.watches[id] = w
		w.running.Go(func() {
			w.run()
			_ = sub.Unsubscribe() // the connection may be closed
		})
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refs++
	if w.idle != nil {
		w.idle.Stop()
		w.idle = nil
	}
	return w, nil
}

var errClosed = errors.New("the cluster is closed")

// leave ends a reference. It needs mu.
func (w *watch) leave() {
	if w.refs--; w.refs > 0 {
		return
	}
	w.idle = time.AfterFunc(linger, func() {
		w.e.mu.Lock()
		w.mu.Lock()
		over := w.refs == 0 && w.e.watches[w.id] == w
		if over {
			delete(w.e.watches, w.id)
		}
		w.mu.Unlock()
		w.e.mu.Unlock()
		if over {
			w.end()
		}
	})
}

// end ends the watch: all who wait get an error.
func (w *watch) end() {
	w.mu.Lock()
	if w.idle != nil {
		w.idle.Stop()
		w.idle = nil
	}
	w.mu.Unlock()
	w.cancel()
	w.running.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail(errClosed)
	for _, g := range w.all() {
		for _, sub := range g.subs {
			_ = sub.Unsubscribe() // the connection may be closed
		}
	}
}

// all returns all groups. It needs mu.
func (w *watch) all() []*group {
	list := []*group{&w.senders}
	for _, g := range w.groups {
		list = append(list, g)
	}
	return list
}

// fail gives all who wait an error. It needs mu.
func (w *watch) fail(err error) {
	for _, g := range w.all() {
		for _, waiter := range g.waiting {
			waiter.events <- event{err: err}
		}
		g.waiting = nil
	}
}

// subscribe makes the group hear of the subjects, if it does not yet. It needs mu.
func (w *watch) subscribe(g *group, subjects ...string) error {
	if g.subs != nil {
		return nil
	}
	for _, subject := range append(subjects, w.e.layout.passedOn(w.id, g.name)) {
		sub, err := w.e.Conn.QueueSubscribe(subject, g.name, func(m *nats.Msg) {
			hops, _ := strconv.Atoi(m.Header.Get(hopsHeader)) // without one it is the first
			w.wake(g, event{w.e.woken(m), hops, nil})
		})
		if err != nil {
			return err
		}
		g.subs = append(g.subs, sub)
	}
	w.lookSoon() // the servers may not have heard of it when the next message comes
	return nil
}

// woken returns the message that a wake-up is about, nil if it does not say.
func (e *Engine) woken(m *nats.Msg) *Message {
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return nil
	}
	typ, err := e.layout.typeOf(m.Header.Get("Nats-Subject"))
	if err != nil {
		return nil
	}
	before, err := strconv.ParseUint(m.Header.Get("Nats-Last-Sequence"), 10, 64)
	if err != nil {
		return nil
	}
	return &Message{Seq: seq, Type: typ, Text: m.Data, id: m.Header.Get(nats.MsgIdHdr), before: before}
}

// mostNewest bounds watch.newest. What is forgotten costs a look.
const mostNewest = 1 << 14

// tookLast notes that this process has taken a message.
func (e *Engine) tookLast(id int, m *Message) {
	e.mu.Lock()
	w := e.watches[id]
	e.mu.Unlock()
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.note(m)
}

// wake gives the event to the one who has waited longest, or passes it on.
func (w *watch) wake(g *group, ev event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(g.waiting) > 0 {
		ev.message = w.next(ev.message)
		g.give(0, ev)
		return
	}
	g.empty = false
	w.passOn(g, ev)
}

// give gives the event to the i-th of those who wait. It needs watch.mu.
func (g *group) give(i int, ev event) {
	waiter := g.waiting[i]
	g.waiting = slices.Delete(g.waiting, i, i+1)
	waiter.events <- ev
}

// next returns the message, nil if an older one of its type may be there that others were told
// of. It needs mu.
func (w *watch) next(m *Message) *Message {
	if m == nil || m.before > w.newest[m.Type] {
		return nil
	}
	w.note(m)
	return m
}

// note says that this process has the message, or is about to. It needs mu.
func (w *watch) note(m *Message) {
	if len(w.newest) >= mostNewest {
		clear(w.newest)
	}
	w.newest[m.Type] = max(w.newest[m.Type], m.Seq)
}

// passOn sends the wake-up to any process of the group, without the message. It needs mu.
func (w *watch) passOn(g *group, ev event) {
	if ev.hops >= mostHops {
		return
	}
	m := nats.NewMsg(w.e.layout.passedOn(w.id, g.name))
	m.Header.Set(hopsHeader, strconv.Itoa(ev.hops+1))
	_ = w.e.Conn.PublishMsg(m) // those who wait look from time to time
}

// Arm makes the Waiter one that is woken from now on. Who looks for a message arms it before, or
// the next one could come in between, and one behind it wake the Waiter.
func (a *Waiter) Arm() {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.arm()
}

// arm needs watch.mu.
func (a *Waiter) arm() {
	if !a.armed {
		a.armed = true
		a.group.waiting = append(a.group.waiting, a)
	}
}

// disarm undoes Arm. It reports whether the Waiter was not woken meanwhile; otherwise there is an event. It
// needs watch.mu.
func (a *Waiter) disarm() bool {
	a.armed = false
	i := slices.Index(a.group.waiting, a)
	if i >= 0 {
		a.group.waiting = slices.Delete(a.group.waiting, i, i+1)
	}
	return i >= 0
}

// unwoken reports whether it is in group.waiting, for its own goroutine. It needs watch.mu.
func (a *Waiter) unwoken() bool { return a.armed && len(a.events) == 0 }

// Empty reports whether a look would find no message, as far as is known. It may be wrong where a
// wake-up is lost, no longer than that goes unnoticed.
func (a *Waiter) Empty() bool {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	return a.group.empty && a.unwoken()
}

// FoundNone says that a look has found no message since Arm.
func (a *Waiter) FoundNone() {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	if a.unwoken() {
		a.group.empty = true
	}
}

// Wait waits for a reason to look, or to try, and returns a message that may be there: whoever claims it
// finds out. It returns false at the end of ctx.
func (a *Waiter) Wait(ctx context.Context) (m *Message, ok bool, err error) {
	a.w.mu.Lock()
	a.arm()
	a.waits = true
	a.w.mu.Unlock()
	select {
	case a.last = <-a.events:
		a.w.mu.Lock()
		defer a.w.mu.Unlock()
		a.armed, a.waits = false, false
		return a.last.message, true, a.last.err
	case <-ctx.Done():
	}
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.waits = false
	if a.disarm() {
		return nil, false, nil
	}
	a.last = <-a.events // it came just now
	return a.last.message, true, a.last.err
}

// Pass gives the last wake-up to somebody else who waits for the same: it was of no use here, or
// there may be enough for two.
func (a *Waiter) Pass(enough bool) {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.pass(enough)
}

// pass needs watch.mu.
func (a *Waiter) pass(enough bool) {
	g := a.group
	g.empty = false
	i := slices.IndexFunc(g.waiting, func(other *Waiter) bool {
		// A message that is as large would find no room either.
		return enough || g != &a.w.senders || other.size < a.size
	})
	if i < 0 {
		a.w.passOn(g, a.last)
		return
	}
	g.give(i, event{hops: a.last.hops})
}

// Release ends the Waiter.
func (a *Waiter) Release() {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	if a.armed && !a.disarm() {
		a.last = <-a.events
		a.pass(false)
	}
	a.w.leave()
}

// lookSoon makes the watch look at the queue.
func (w *watch) lookSoon() {
	select {
	case w.soon <- struct{}{}:
	default: // it will
	}
}

// Pauses before the watch looks again, after something has happened that makes lost wake-ups
// likely.
var afterSoon = []time.Duration{time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond}

// looksPerUnchanged is how many looks find the queue unchanged before those who wait look at it anyway.
const looksPerUnchanged = 5

// run looks at the queue from time to time, while anybody waits.
func (w *watch) run() {
	timer := time.NewTimer(w.e.Look)
	defer timer.Stop()
	var last Info
	soon, unchanged := afterSoon, 0
	for {
		pause := w.e.Look
		if len(soon) > 0 {
			pause, soon = min(soon[0], pause), soon[1:]
		}
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-w.soon:
			soon = afterSoon
			w.mayHave()
			continue
		case <-w.ctx.Done():
			return
		}
		if !w.anybody() {
			continue
		}
		info, err := w.e.Info(w.ctx, w.id)
		switch {
		case errors.Is(err, ErrRemoved):
			w.mu.Lock()
			w.fail(ErrRemoved)
			w.mu.Unlock()
			continue
		case err != nil:
			continue // it looks again
		}
		if info.lastSequence == last.lastSequence && info.Messages == last.Messages && len(soon) == 0 {
			unchanged++
		} else {
			unchanged = 0
		}
		last = info
		if unchanged%looksPerUnchanged == 0 {
			w.look(info)
		}
	}
}

// mayHave says that any group may have been told of nothing.
func (w *watch) mayHave() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.all() {
		g.empty = false
	}
}

// anybody reports whether anybody waits.
func (w *watch) anybody() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.all(), func(g *group) bool { return len(g.waiting) > 0 })
}

// look wakes those who may find what they wait for, one of each group: if it finds
// something it wakes the next.
func (w *watch) look(info Info) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, g := range w.all() {
		if g != &w.senders && info.Messages == 0 {
			continue
		}
		g.wakeFirst()
	}
}

// wakeFirst has the one look who has waited longest. It needs watch.mu.
func (g *group) wakeFirst() {
	if len(g.waiting) > 0 {
		g.give(0, event{})
	}
}

// More says that a look which the Waiter was woken for has found something: there may be more,
// for another one of this process.
func (a *Waiter) More() {
	a.w.mu.Lock()
	defer a.w.mu.Unlock()
	a.group.wakeFirst()
}

// Waiting returns how many wait in this process, for tests.
func (e *Engine) Waiting() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, w := range e.watches {
		w.mu.Lock()
		for _, g := range w.all() {
			for _, a := range g.waiting {
				if a.waits {
					n++
				}
			}
		}
		w.mu.Unlock()
	}
	return n
}
