package chanmqtest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/inject"
)

// patience is how long handles and goroutines have to close and end after the
// test. Those that do so by themselves take microseconds.
const patience = 5 * time.Second

// watched holds the tests that are checked when they end.
var watched struct {
	sync.Mutex
	tests []*watch
}

// watch is what is known of a test. A goroutine knows which one started it, so
// tests that run in parallel are not blamed for each other.
type watch struct {
	t       testing.TB
	test    string          // the id of the test's goroutine
	before  map[string]bool // the ids of the goroutines that were there already
	handles map[any]handle  // those that the test opened and has not closed; guarded by watched
}

// handle is a handle that is open.
type handle struct {
	key    chanmq.Key
	msqid  int
	opened []runtime.Frame // the calls that opened it, innermost first
}

func init() { inject.Handles.Store(&inject.Watcher{Opened: opened, Closed: closed}) }

// watchTest makes the test fail for handles that it opens from now on and does not
// close, and for goroutines inside package chanmq that it starts and that outlive
// it. The check runs after the cleanups of all queues that the test creates from
// now on.
func watchTest(t testing.TB) {
	t.Helper()
	watched.Lock()
	defer watched.Unlock()
	if slices.ContainsFunc(watched.tests, func(w *watch) bool { return w.t == t }) {
		return
	}
	w := &watch{t: t, test: current(), before: make(map[string]bool), handles: make(map[any]handle)}
	for id := range goroutines(true) {
		w.before[id] = true
	}
	watched.tests = append(watched.tests, w)
	t.Cleanup(func() {
		t.Helper()
		handles, stacks := w.wait()
		if len(handles) > 0 {
			t.Errorf("chanmqtest: handles not closed, %d:\n\n%s", len(handles), strings.Join(handles, "\n\n"))
		}
		if len(stacks) > 0 {
			t.Errorf("chanmqtest: goroutines left inside package chanmq, %d; is a handle not closed?\n\n%s",
				len(stacks), strings.Join(stacks, "\n\n"))
		}
	})
}

// wait ends the watch, and returns the handles that are not closed and the stacks
// of the goroutines that do not end.
func (w *watch) wait() (handles, stacks []string) {
	defer func() {
		watched.Lock()
		defer watched.Unlock()
		watched.tests = slices.DeleteFunc(watched.tests, func(other *watch) bool { return other == w })
	}()
	start := time.Now()
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		handles, stacks = w.open(), w.running()
		if len(handles)+len(stacks) == 0 || time.Since(start) > patience {
			return handles, stacks
		}
		time.Sleep(pause)
	}
}

// open returns the handles that are not closed.
func (w *watch) open() []string {
	watched.Lock()
	defer watched.Unlock()
	var names []string
	for _, h := range w.handles {
		names = append(names, h.String())
	}
	slices.Sort(names)
	return names
}

// running returns the stacks of the goroutines that are inside package chanmq.
func (w *watch) running() []string {
	all := goroutines(true)
	var stacks []string
	for id, g := range all {
		if id != w.test && !w.before[id] && g.inChanmq && slices.Contains(lineage(id, all), w.test) {
			stacks = append(stacks, g.stack)
		}
	}
	return stacks
}

// opened attributes a handle to the test that opened it, if it is watched.
func opened(key any, queue int32, msqid int) {
	watched.Lock()
	none := len(watched.tests) == 0
	watched.Unlock()
	if none {
		return
	}
	h := handle{key: chanmq.Key(queue), msqid: msqid, opened: callers()}
	if len(h.opened) > 0 && strings.HasPrefix(h.opened[0].Function, chanmqPath+"/chanmqtest.") {
		return // New closes it, in the cleanup of its own test
	}
	// To see all goroutines stops them all: most handles are opened by a test's
	// own goroutine, or by one that it started.
	for _, all := range []bool{false, true} {
		if attribute(key, h, lineage(current(), goroutines(all))) {
			return
		}
	}
}

// attribute adds a handle to the watch of the first goroutine of a lineage that
// has one. If it has several, as a test has that runs a fake one in its own
// goroutine, it is the last: that test is inside the others.
func attribute(key any, h handle, lineage []string) bool {
	watched.Lock()
	defer watched.Unlock()
	for _, id := range lineage {
		for _, w := range slices.Backward(watched.tests) {
			if w.test == id {
				w.handles[key] = h
				return true
			}
		}
	}
	return false
}

// closed forgets a handle.
func closed(key any) {
	watched.Lock()
	defer watched.Unlock()
	for _, w := range watched.tests {
		delete(w.handles, key)
	}
}

// callers returns the calls that led to package chanmq, innermost first.
func callers() []runtime.Frame {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)]) // without this function and opened
	var calls []runtime.Frame
	for more := true; more; {
		var f runtime.Frame
		f, more = frames.Next()
		inChanmq := len(calls) == 0 && strings.HasPrefix(f.Function, chanmqPath+".")
		if !inChanmq && f.Function != "runtime.goexit" {
			calls = append(calls, f)
		}
	}
	return calls
}

// String names the queue and the calls that opened it.
func (h handle) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "msqid %d", h.msqid)
	if h.key != 0 {
		fmt.Fprintf(&b, ", key %v", h.key)
	}
	if len(h.opened) > 0 { // not a go statement with the opening call itself
		b.WriteString(", opened by")
	}
	for _, f := range h.opened {
		fmt.Fprintf(&b, "\n%s\n\t%s:%d", f.Function, f.File, f.Line)
	}
	return b.String()
}
