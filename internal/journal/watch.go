package journal

import (
	"errors"
	"os"
	"sync"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

const (
	// watchPeriod is the time between two looks at the directory where the kernel does
	// not say when to look.
	watchPeriod = time.Second
	// A journal that is locked is tried again after pauses that grow from firstRetry to
	// lastRetry: the kernel says that a file was closed just before it unlocks it.
	firstRetry = time.Millisecond
	lastRetry  = time.Second
	// slowRetry is the first pause for a journal that nobody said was closed.
	slowRetry = 64 * time.Millisecond
)

// A Watcher adopts the journals of processes that die.
type Watcher struct {
	dir    *directory
	queue  func() (Identity, error)
	found  func(*Adopted)
	failed func(error)

	watch *sysv.Watch   // nil: there is none
	done  chan struct{} // closed when the goroutine has ended

	retries  map[string]retry
	reported map[string]bool // the journals that an error was reported of

	mu      sync.Mutex
	stop    chan struct{}
	stopped bool // guarded by mu
}

type retry struct {
	at    time.Time
	pause time.Duration
}

// Watch adopts journals as [Adopt] does, before it returns, and then those of processes
// that die, within milliseconds. Where inotify(7) cannot be had it looks once a second.
// It calls found for each, and failed for errors, once for each file; not at the same
// time, and the first calls before it returns. They must not call Close. queue returns
// the identity of the queue as it is at that time.
//
// k is the kernel that the queue is in. On one in memory the Watcher only looks once a
// second: a goroutine that waits for a file keeps the clock of testing/synctest from going on.
func Watch(dir string, k sysv.Kernel, queue func() (Identity, error), found func(*Adopted), failed func(error)) (*Watcher, error) {
	inotify := sysv.WatchDir
	if _, inMemory := machineID(k); inMemory {
		inotify = func(string) (*sysv.Watch, error) { return nil, errors.ErrUnsupported }
	}
	return watch(dir, queue, found, failed, inotify)
}

func watch(dir string, queue func() (Identity, error), found func(*Adopted), failed func(error), inotify func(string) (*sysv.Watch, error)) (*Watcher, error) {
	d, err := openDirectory(dir, true)
	if err != nil {
		return nil, err
	}
	w := &Watcher{
		dir:      d,
		queue:    queue,
		found:    found,
		failed:   failed,
		done:     make(chan struct{}),
		stop:     make(chan struct{}),
		retries:  make(map[string]retry),
		reported: make(map[string]bool),
	}
	// The watch begins before the first look, so that nothing is missed in between.
	if w.watch, err = inotify(d.path); err != nil {
		w.watch = nil // no instances left, or a sandbox
	}
	w.scan(slowRetry)
	go w.run()
	return w, nil
}

// Close ends the watch, and waits for a call of found or failed to return. Close may
// be called again.
func (w *Watcher) Close() error {
	w.mu.Lock()
	var err error
	if !w.stopped {
		w.stopped = true
		close(w.stop)
		if w.watch != nil {
			err = w.watch.Close()
		}
	}
	w.mu.Unlock()
	<-w.done
	return err
}

func (w *Watcher) run() {
	defer close(w.done)
	defer w.dir.release()
	if w.watch != nil {
		err := w.follow()
		if errors.Is(err, os.ErrClosed) {
			return
		}
		// It cannot be waited for here.
	}
	ticker := time.NewTicker(watchPeriod)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.scan(0)
		case <-w.stop:
			return
		}
	}
}

// follow handles events until there is an error: os.ErrClosed after Close.
func (w *Watcher) follow() error {
	for {
		events, err := w.watch.Events(w.nextRetry())
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			w.retry()
		case err != nil:
			return err
		}
		for _, event := range events {
			switch {
			case event.Lost:
				w.scan(slowRetry)
			case isJournal(event.Name):
				w.try(event.Name, firstRetry)
			}
		}
	}
}

// nextRetry returns when the next retry is due, zero: never.
func (w *Watcher) nextRetry() (at time.Time) {
	for _, r := range w.retries {
		if at.IsZero() || r.at.Before(at) {
			at = r.at
		}
	}
	return at
}

// retry tries the journals whose pause is over.
func (w *Watcher) retry() {
	now := time.Now()
	for name, r := range w.retries {
		if r.at.After(now) {
			continue
		}
		delete(w.retries, name)
		if pause := 2 * r.pause; pause <= lastRetry {
			w.try(name, pause)
		} else {
			w.try(name, 0)
		}
	}
}

// scan looks at all files. pause is as for try.
func (w *Watcher) scan(pause time.Duration) {
	names, err := w.dir.names()
	if err != nil {
		w.report(w.dir.path, err)
		return
	}
	w.adopt(names, pause)
}

// try looks at one file, again after a pause if it is locked; 0: not again.
func (w *Watcher) try(name string, pause time.Duration) {
	now, err := w.queue()
	if err != nil || !mayBeOf(name, now) {
		return // of another queue, or the queue was removed
	}
	w.adopt([]string{name}, pause)
}

func (w *Watcher) adopt(names []string, pause time.Duration) {
	found, locked, errs := w.dir.adoptAll(names, w.queue)
	for _, a := range found {
		w.found(a)
	}
	for _, err := range errs {
		var unreadable *UnreadableError
		if errors.As(err, &unreadable) {
			w.report(unreadable.Path, err)
		} else {
			w.report(err.Error(), err)
		}
	}
	if pause > 0 && w.watch != nil {
		for _, name := range locked {
			w.retries[name] = retry{time.Now().Add(pause), pause}
		}
	}
}

// report calls failed, once for each subject.
func (w *Watcher) report(subject string, err error) {
	if !w.reported[subject] {
		w.reported[subject] = true
		w.failed(err)
	}
}
