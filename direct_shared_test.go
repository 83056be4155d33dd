//go:build linux

package chanmq_test

import (
	"sync"
	"testing"

	"github.com/chanmq/chanmq"
)

// TestManyHandles shows that many handles of one queue in
// one process do not get into each other's way.
func TestManyHandles(t *testing.T) {
	q := newQueue(t)
	const handles, each = 20, 50
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[int]bool)
	for range handles {
		handle := attach(t, q.ID())
		wg.Go(func() {
			for range each {
				m, err := handle.Receive(ctxWithin(t), chanmq.Any())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[numberOf(m.Value)] = true
				mu.Unlock()
			}
		})
	}
	sendNumbers(t, q, 1, 0, handles*each)
	wg.Wait()
	if len(seen) != handles*each {
		t.Errorf("%d messages, want %d", len(seen), handles*each)
	}
}
