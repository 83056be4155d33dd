package wait

import "slices"

// waiters are waits by what they wait for, so that a message finds those that it
// may be for without asking all. There is one receive for each key, the first of its
// line, but where the kernel is remote: there it is a list. A lock of the owner's guards
// them, and the links of a Waiter, which is in one of its owners' at a time. The key of a
// wait is that of its operation, which others must not ask once the wait has ended.
type waiters struct {
	receives map[Key]*Waiter // the first of the list
	inexact  map[Key]*Waiter // those of receives that no single type is for
	received int             // how many receives there are
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
	if next := ws.receives[key]; next != nil {
		w.next, next.previous = next, w
	}
	ws.setFirst(key, w)
	ws.received++
}

// setFirst makes w the first receive with the key; nil: there is none.
func (ws *waiters) setFirst(key Key, w *Waiter) {
	if w == nil {
		delete(ws.receives, key)
		delete(ws.inexact, key)
		return
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
	switch {
	case ws.receives[key] == w:
		ws.setFirst(key, w.next)
	case w.previous != nil:
		w.previous.next = w.next
	default:
		return false
	}
	if w.next != nil {
		w.next.previous = w.previous
	}
	w.next, w.previous = nil, nil
	ws.received--
	return true
}

func (ws *waiters) has(key Key, w *Waiter) bool {
	if !key.Send {
		return ws.receives[key] == w || w.previous != nil
	}
	return slices.Contains(ws.sends, w)
}

func (ws *waiters) len() int { return ws.received + len(ws.sends) }

// appendList appends w and those behind it.
func appendList(list []*Waiter, w *Waiter) []*Waiter {
	for ; w != nil; w = w.next {
		list = append(list, w)
	}
	return list
}

// all returns all of them: sends in order, receives in another order each time,
// as maps have it, so that none is always served last.
func (ws *waiters) all() []*Waiter {
	list := make([]*Waiter, 0, ws.len())
	for _, w := range ws.receives {
		list = appendList(list, w)
	}
	return append(list, ws.sends...)
}

// receiving returns the receives that messages of the types may be for.
func (ws *waiters) receiving(types map[int64]bool) []*Waiter {
	list := make([]*Waiter, 0, len(ws.inexact)+len(types))
	for _, w := range ws.inexact {
		list = appendList(list, w)
	}
	for typ := range types {
		list = ws.appendExact(list, typ)
	}
	return list
}

// appendExact appends the receives that take messages of the type alone.
func (ws *waiters) appendExact(list []*Waiter, typ int64) []*Waiter {
	list = appendList(list, ws.receives[Key{Exact: true, Type: typ}])
	return appendList(list, ws.receives[Key{Exact: true, Type: typ, Leased: true}])
}

// pendingFor returns the receives that a message of the type may be for and that
// are pending.
func (ws *waiters) pendingFor(typ int64) []*Waiter {
	list := ws.appendExact(nil, typ)
	for _, w := range ws.inexact {
		list = appendList(list, w)
	}
	return slices.DeleteFunc(list, func(w *Waiter) bool { return !w.op.Pending() })
}
