package chanmqtest

import (
	"bytes"
	"reflect"
	"regexp"
	"runtime"
	"strings"

	"github.com/chanmq/chanmq"
)

// goroutine is what a stack trace shows of one.
type goroutine struct {
	parent   string // the id of the one that started it; "" where the trace does not show it
	stack    string
	inChanmq bool // a function of package chanmq itself is on the stack
}

var (
	header    = regexp.MustCompile(`^goroutine (\d+) `)
	createdBy = regexp.MustCompile(`(?m)^created by .* in goroutine (\d+)$`)

	// chanmqPath and a dot begin the names of package chanmq's functions. A path
	// that goes on, or a package with a suffix, is another package.
	chanmqPath = reflect.TypeFor[chanmq.Stat]().PkgPath()
)

// current returns the id of the calling goroutine.
func current() string {
	buf := make([]byte, 64)
	return string(header.FindSubmatch(buf[:runtime.Stack(buf, false)])[1])
}

// goroutines returns the calling goroutine, or all that exist, by id.
func goroutines(all bool) map[string]goroutine {
	buf := make([]byte, 1<<16)
	n := runtime.Stack(buf, all)
	for n == len(buf) {
		buf = make([]byte, 2*len(buf))
		n = runtime.Stack(buf, all)
	}
	found := make(map[string]goroutine)
	for trace := range bytes.SplitSeq(buf[:n], []byte("\n\n")) {
		stack := strings.TrimSpace(string(trace))
		id := header.FindStringSubmatch(stack)
		if id == nil {
			continue
		}
		g := goroutine{stack: stack, inChanmq: strings.Contains(stack, "\n"+chanmqPath+".")}
		if parent := createdBy.FindStringSubmatch(stack); parent != nil {
			g.parent = parent[1]
		}
		found[id[1]] = g
	}
	return found
}

// lineage returns the ids of a goroutine, of the one that started it, and so on,
// as far as all shows them: who started one that has ended is not known.
func lineage(id string, all map[string]goroutine) []string {
	ids := []string{id}
	for range all {
		parent := all[id].parent
		if parent == "" {
			break
		}
		ids = append(ids, parent)
		id = parent
	}
	return ids
}
