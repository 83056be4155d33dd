package wait

// Polled returns how many waits the poller serves, those in line behind them
// included, for tests.
func (l *Lot) Polled() int {
	l.poller.mu.Lock()
	defer l.poller.mu.Unlock()
	return l.poller.waiting.len() + int(l.inLine.Load())
}

// Polling returns a channel that is closed when the poller's goroutine has ended,
// or nil if there is none, for tests.
func (l *Lot) Polling() <-chan struct{} {
	l.poller.mu.Lock()
	defer l.poller.mu.Unlock()
	return l.poller.running
}
