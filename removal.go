package chanmq

import (
	"sync"
	"sync/atomic"
	"time"
)

// removalWatch finds out about the removal of a queue for Receivers that hold a
// message which nobody reads: they make no system call that would tell them. One
// goroutine looks for all of them, while there are any.
type removalWatch struct {
	gone   chan struct{} // closed when the queue is known to be removed
	notice sync.Once     // closes it

	waiting atomic.Int64 // Receivers that wait for C's reader
	looking atomic.Bool  // there is a goroutine that looks, or nothing left to find

	mu      sync.Mutex
	running chan struct{} // closed when the last goroutine has ended; guarded by mu
}

// Pauses between looks, doubling from one to the other.
const (
	removalMin = 10 * time.Millisecond
	removalMax = time.Second
)

// beginRead is called before a Receiver waits for C's reader, and endRead behind
// that. Meanwhile removal.gone is closed if the queue is removed.
func (q *queue) beginRead() {
	w := &q.removal
	w.waiting.Add(1)
	if w.looking.Load() || q.options.reopen {
		return // a removed queue is none of its business under WithReopen
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if q.closed.Load() || !w.looking.CompareAndSwap(false, true) {
		return
	}
	w.running = make(chan struct{})
	go q.lookForRemoval(w.running)
}

func (q *queue) endRead() { q.removal.waiting.Add(-1) }

// lookForRemoval is the goroutine.
func (q *queue) lookForRemoval(ended chan struct{}) {
	defer close(ended)
	w := &q.removal
	timer := time.NewTimer(removalMin)
	defer timer.Stop()
	for pause := removalMin; ; pause = min(2*pause, removalMax) {
		timer.Reset(pause)
		select {
		case <-timer.C:
		case <-w.gone:
			return
		case <-q.closing:
			return
		}
		if w.waiting.Load() == 0 {
			w.looking.Store(false)
			// A Receiver that came meanwhile has seen that somebody looks.
			if w.waiting.Load() == 0 || !w.looking.CompareAndSwap(false, true) {
				return
			}
		}
		if _, err := q.kernel.Stat(q.msqid()); isRemoved(err) {
			q.noteRemoved()
		}
	}
}

// noteRemoved ends what waits for the removal.
func (q *queue) noteRemoved() { q.removal.notice.Do(func() { close(q.removal.gone) }) }

// joinRemoval waits for the goroutine. The handle is closed, so that no other begins.
func (q *queue) joinRemoval() {
	q.removal.mu.Lock()
	running := q.removal.running
	q.removal.mu.Unlock()
	if running != nil {
		<-running
	}
}
