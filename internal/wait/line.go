package wait

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// Receives of a handle that wait for the same thing line up: one of them waits for
// the queue, the others wait for their turn. That has three uses. Messages get their
// numbers in the order in which the kernel gave them out, since the one whose turn
// it is numbers its message before it gives the turn on. One thread parks for each
// selector, however many wait. And whoever hands a message back has one wait to
// wake for each selector.
//
// Receives that may take the same messages, but whose keys differ, are in lines of
// their own: what both of them take may be numbered in another order than the
// kernel's. Each must be waiting, since there may be messages for it alone.
//
// models/line.pml is this protocol, with what becomes of messages that are handed
// back, as a model that Spin checks.
//
// Sends do not line up: the kernel lets a small message pass a large one that has
// no room.

// line is a turn, for operations with the same Key.
type line struct {
	turn *semaphore.Weighted // of 1; it is fair
	refs int                 // waiters that know the line; guarded by lines.mu
}

// lines are the lines of a handle.
type lines struct {
	mu    sync.Mutex
	byKey map[Key]*line // those with refs; guarded by mu
	spare *line         // the last one without, to be used again; guarded by mu
}

// get returns the line of the key, until put.
func (ls *lines) get(key Key) *line {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	l := ls.byKey[key]
	if l == nil {
		if ls.byKey == nil {
			ls.byKey = make(map[Key]*line)
		}
		if l = ls.spare; l == nil {
			l = &line{turn: semaphore.NewWeighted(1)}
		}
		ls.spare = nil
		ls.byKey[key] = l
	}
	l.refs++
	return l
}

func (ls *lines) put(key Key, l *line) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if l.refs--; l.refs == 0 {
		delete(ls.byKey, key)
		ls.spare = l // nobody has its turn: whoever had has given it back before put
	}
}

// lineUp waits until it is w's turn, or ctx ends.
func (w *Waiter) lineUp(ctx context.Context) error {
	if w.line.turn.TryAcquire(1) {
		return nil
	}
	w.Waited, w.Stage = true, InLine
	w.op.Suspend()
	w.lot.inLine.Add(1)
	err := w.line.turn.Acquire(ctx, 1)
	w.lot.inLine.Add(-1)
	w.op.Resume()
	if err != nil {
		return ErrCanceled
	}
	return nil
}

// TryMore does the operation of an ordered Waiter once more, if that can be done
// at once and nobody else is in line.
func (w *Waiter) TryMore() error {
	if !w.line.turn.TryAcquire(1) {
		return ErrWait
	}
	defer w.line.turn.Release(1)
	if w.lot.config.Remote {
		return w.op.TryHere() // a trip would keep what is in hand waiting
	}
	return w.op.Try()
}
