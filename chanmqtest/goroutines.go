package chanmqtest

import (
	"bytes"
	"reflect"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
)

// patience is how long goroutines have to end after Close. Those that end by
// themselves take microseconds.
const patience = 5 * time.Second

// watched are the tests whose goroutines are looked at when they end.
var watched struct {
	sync.Mutex
	tests map[testing.TB]bool
}

// watchGoroutines makes the test fail for goroutines inside package chanmq that
// it has started and that outlive it. The look comes behind the cleanups of all
// queues that the test makes from now on.
func watchGoroutines(t testing.TB) {
	t.Helper()
	watched.Lock()
	defer watched.Unlock()
	if watched.tests[t] {
		return
	}
	if watched.tests == nil {
		watched.tests = make(map[testing.TB]bool)
	}
	watched.tests[t] = true
	w := watch{test: current(), before: make(map[string]bool)}
	for _, g := range goroutines() {
		w.before[g.id] = true
	}
	t.Cleanup(func() {
		t.Helper()
		watched.Lock()
		delete(watched.tests, t)
		watched.Unlock()
		if left := w.wait(); len(left) > 0 {
			t.Errorf("chanmqtest: goroutines left inside package chanmq, %d; is a handle not closed?\n\n%s",
				len(left), strings.Join(left, "\n\n"))
		}
	})
}

// watch tells which goroutines are a test's. A goroutine knows which one started
// it, so tests that run in parallel are not taken for each other.
type watch struct {
	test   string          // the test's goroutine
	before map[string]bool // those that were there already
}

// wait returns the stacks of the goroutines that do not end.
func (w *watch) wait() []string {
	start := time.Now()
	for pause := time.Millisecond; ; pause *= 2 {
		left := w.left()
		if len(left) == 0 || time.Since(start) > patience {
			return left
		}
		time.Sleep(pause)
	}
}

func (w *watch) left() []string {
	all := goroutines()
	var stacks []string
	for _, g := range all {
		if g.id != w.test && !w.before[g.id] && g.inChanmq && w.started(g, all) {
			stacks = append(stacks, g.stack)
		}
	}
	return stacks
}

// started reports whether the test started g, or a goroutine that did. The
// ancestors that have ended are not known.
func (w *watch) started(g goroutine, all map[string]goroutine) bool {
	for range len(all) + 1 {
		if g.parent == w.test {
			return true
		}
		parent, ok := all[g.parent]
		if !ok {
			return false
		}
		g = parent
	}
	return false
}

// goroutine is what a stack trace tells of one.
type goroutine struct {
	id, parent string // parent is "" where the trace does not tell
	stack      string
	inChanmq   bool // a function of package chanmq itself is on the stack
}

var (
	header    = regexp.MustCompile(`^goroutine (\d+) `)
	createdBy = regexp.MustCompile(`(?m)^created by .* in goroutine (\d+)$`)

	// inside is how the line of a function of package chanmq begins. A path
	// that goes on, or a package with a suffix, is another package.
	inside = "\n" + reflect.TypeFor[chanmq.Stat]().PkgPath() + "."
)

// current returns the id of the calling goroutine.
func current() string {
	buf := make([]byte, 64)
	return string(header.FindSubmatch(buf[:runtime.Stack(buf, false)])[1])
}

// goroutines returns all that there are, by id.
func goroutines() map[string]goroutine {
	buf := make([]byte, 1<<16)
	n := runtime.Stack(buf, true)
	for n == len(buf) {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, true)
	}
	all := make(map[string]goroutine)
	for trace := range bytes.SplitSeq(buf[:n], []byte("\n\n")) {
		stack := strings.TrimSpace(string(trace))
		id := header.FindStringSubmatch(stack)
		if id == nil {
			continue
		}
		g := goroutine{id: id[1], stack: stack, inChanmq: strings.Contains(stack, inside)}
		if parent := createdBy.FindStringSubmatch(stack); parent != nil {
			g.parent = parent[1]
		}
		all[g.id] = g
	}
	return all
}
