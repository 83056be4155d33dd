package chanmq

// What the tests, which are in a package of their own, see of the poller.

// Polled returns how many waits the handle's poller serves.
func Polled[T any](q *Queue[T]) int {
	p := &q.core.room.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, g := range p.groups {
		n += len(g.waits)
	}
	return n
}

// Polling returns a channel that is closed when the poller's goroutine has ended,
// or nil if there is none.
func Polling[T any](q *Queue[T]) <-chan struct{} {
	p := &q.core.room.poller
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running
}
