package chanmq

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// removal is how a handle learns of the removal of its queue for Receivers that hold
// a message which nobody reads: they make no system call that would tell them.
type removal struct {
	gone   chan struct{} // closed when the queue is known to be removed
	notice sync.Once     // closes it

	waiting atomic.Int64 // Receivers that wait for C's reader
	watched atomic.Bool  // a watcher looks at the queue
}

// removalPause is the time between looks at a queue.
const removalPause = time.Second

// removalWatcher looks, once a second, whether the queues are still there in which
// Receivers wait for their reader: one goroutine on one thread for all handles of a
// kernel, which lives while there are any. It sleeps in an Alarm, since the runtime
// looks at the clock at each switch of goroutines while a Go timer runs.
type removalWatcher struct {
	alarm   sysv.Alarm
	handles map[*queue]struct{} // guarded by removalWatchers.mu
	ended   chan struct{}
}

var removalWatchers struct {
	mu      sync.Mutex
	running map[sysv.Kernel]*removalWatcher // guarded by mu
}

// beginRead is called before a Receiver waits for C's reader, and endRead behind
// that. Meanwhile removal.gone is closed if the queue is removed.
func (q *queue) beginRead() {
	q.removal.waiting.Add(1)
	if q.removal.watched.Load() || q.options.reopen {
		return // a removed queue is none of its business under WithReopen
	}
	q.watchRemoval()
}

func (q *queue) endRead() { q.removal.waiting.Add(-1) }

func (q *queue) watchRemoval() {
	ws := &removalWatchers
	ws.mu.Lock()
	defer ws.mu.Unlock()
	if q.closed.Load() || !q.removal.watched.CompareAndSwap(false, true) {
		return
	}
	w := ws.running[q.kernel]
	if w == nil {
		w = &removalWatcher{q.kernel.NewAlarm(), make(map[*queue]struct{}), make(chan struct{})}
		if ws.running == nil {
			ws.running = make(map[sysv.Kernel]*removalWatcher)
		}
		ws.running[q.kernel] = w
		go w.run(q.kernel)
	}
	w.handles[q] = struct{}{}
}

// run is the goroutine.
func (w *removalWatcher) run(k sysv.Kernel) {
	defer close(w.ended)
	for {
		w.alarm.Sleep(removalPause)
		handles := w.current(k)
		if handles == nil {
			return
		}
		for _, q := range handles {
			if _, err := k.Stat(q.msqid()); isRemoved(err) {
				q.noteRemoved()
			}
		}
	}
}

// current returns the handles to look at. It forgets those in which nobody waits, and
// returns nil, and ends the watcher, if there are no others.
func (w *removalWatcher) current(k sysv.Kernel) []*queue {
	removalWatchers.mu.Lock()
	defer removalWatchers.mu.Unlock()
	var handles []*queue
	for q := range w.handles {
		if q.removal.waiting.Load() == 0 {
			q.removal.watched.Store(false)
			// A Receiver that came meanwhile has seen that somebody looks.
			if q.removal.waiting.Load() == 0 || !q.removal.watched.CompareAndSwap(false, true) {
				delete(w.handles, q)
				continue
			}
		}
		handles = append(handles, q)
	}
	if handles == nil && removalWatchers.running[k] == w {
		delete(removalWatchers.running, k)
	}
	return handles
}

// noteRemoved ends what waits for the removal.
func (q *queue) noteRemoved() { q.removal.notice.Do(func() { close(q.removal.gone) }) }

// endWatch makes the watcher forget the handle, which is closed. If that was the last
// one, it joins the watcher.
func (q *queue) endWatch() {
	removalWatchers.mu.Lock()
	w := removalWatchers.running[q.kernel]
	if w != nil {
		delete(w.handles, q)
	}
	last := w != nil && len(w.handles) == 0
	if last {
		delete(removalWatchers.running, q.kernel)
	}
	removalWatchers.mu.Unlock()
	if last {
		w.alarm.Ring()
		<-w.ended
	}
}
