package engine

import (
	"runtime"
	"strconv"
	"testing"
	"time"
)

func TestTakings(t *testing.T) {
	var x takings
	x.init()
	now := time.Now()
	x.turned = now
	x.add(taken{1, 100}, "a", now)
	check := func(m taken, id string, want bool) {
		t.Helper()
		if x.has(m) != want || x.hasID(m.queue, id) != want {
			t.Errorf("%v, %q: %v, %v, want %v", m, id, x.has(m), x.hasID(m.queue, id), want)
		}
	}
	check(taken{1, 100}, "a", true)
	check(taken{1, 101}, "b", false)
	check(taken{1, 164}, "", false)
	check(taken{2, 100}, "a", false)
	x.add(taken{1, 101}, "b", now.Add(remembered)) // the same generation
	now = now.Add(remembered + 1)
	x.add(taken{1, 1}, "c", now)
	check(taken{1, 100}, "a", true)
	x.add(taken{1, 2}, "d", now.Add(remembered))
	check(taken{1, 101}, "b", true) // it was taken that long ago
	x.add(taken{1, 3}, "e", now.Add(remembered+1))
	check(taken{1, 100}, "a", false)
	check(taken{1, 101}, "b", false)
	check(taken{1, 1}, "c", true)
	x.add(taken{1, 4}, "", now)
	if x.hasID(1, "") {
		t.Error("a message without an id is found by its id")
	}
}

// What is remembered of a message must be small, since it is of millions.
func TestTakingsAreSmall(t *testing.T) {
	const messages = 1 << 20
	heap := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	var x takings
	x.init()
	before, now := heap(), time.Now()
	for i := range uint64(messages) {
		x.add(taken{1, i}, "qGTwEZMQrFYz6bGfNLLjHk"+strconv.FormatUint(i, 10), now)
	}
	each := float64(heap()-before) / messages
	t.Logf("%.1f bytes for a message", each)
	if each > 40 {
		t.Errorf("%.1f bytes for a message, want 40 at most", each)
	}
	runtime.KeepAlive(&x)
}
