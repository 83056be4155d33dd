package wait

import "slices"

// waiters are waits by what they wait for, so that a message finds those that it
// may be for without asking all. There is at most one receive for each key, the
// first of its line. A lock of the owner's guards them. The key of a wait is that of
// its operation, which others must not ask once the wait has ended.
type waiters struct {
	receives map[Key]*Waiter
	inexact  map[Key]*Waiter // those of receives that no single type is for
	sends    []*Waiter       // oldest first
}

func (ws *waiters) add(key Key, w *Waiter) {
	if key.Send {
		ws.sends = append(ws.sends, w)
		return
	}
	if ws.receives == nil {
		ws.receives, ws.inexact = make(map[Key]*Waiter), make(map[Key]*Waiter)
	}
	ws.receives[key] = w
	if !key.Exact {
		ws.inexact[key] = w
	}
}

// remove reports whether w was there.
func (ws *waiters) remove(key Key, w *Waiter) bool {
	if key.Send {
		i := slices.Index(ws.sends, w)
		if i < 0 {
			return false
		}
		ws.sends = slices.Delete(ws.sends, i, i+1)
		return true
	}
	if ws.receives[key] != w {
		return false
	}
	delete(ws.receives, key)
	delete(ws.inexact, key)
	return true
}

func (ws *waiters) has(key Key, w *Waiter) bool {
	if !key.Send {
		return ws.receives[key] == w
	}
	return slices.Contains(ws.sends, w)
}

func (ws *waiters) len() int { return len(ws.receives) + len(ws.sends) }

// all returns all of them: sends in order, receives in another order each time,
// as maps have it, so that none is always served last.
func (ws *waiters) all() []*Waiter {
	list := make([]*Waiter, 0, ws.len())
	for _, w := range ws.receives {
		list = append(list, w)
	}
	return append(list, ws.sends...)
}

// receiving returns the receives that messages of the types may be for.
func (ws *waiters) receiving(types map[int64]bool) []*Waiter {
	list := make([]*Waiter, 0, len(ws.inexact)+len(types))
	for _, w := range ws.inexact {
		list = append(list, w)
	}
	for typ := range types {
		if w := ws.receives[Key{Exact: true, Type: typ}]; w != nil {
			list = append(list, w)
		}
	}
	return list
}

// pendingFor returns the receives that a message of the type may be for and that
// are pending.
func (ws *waiters) pendingFor(typ int64) []*Waiter {
	var list []*Waiter
	if w := ws.receives[Key{Exact: true, Type: typ}]; w != nil && w.op.Pending() {
		list = append(list, w)
	}
	for _, w := range ws.inexact {
		if w.op.Pending() {
			list = append(list, w)
		}
	}
	return list
}
