//go:build linux

package chanmq_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
)

// TestPollerTakesAFifth: however long the poller's calls take, and whatever is handed
// back meanwhile, it pauses for at least four times as long as it works.
func TestPollerTakesAFifth(t *testing.T) {
	const minute, call = time.Minute, 10 * time.Millisecond
	for name, handBacks := range map[string]bool{"messages of others": false, "messages that are handed back": true} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithPolling(time.Millisecond, time.Millisecond))
				for n := range 4 {
					q.Receiver(t.Context(), chanmq.OfType(int64(n+1)))
				}
				var calls atomic.Int64
				m.faults(func(_ int, c simq.Call) error {
					if inPoller() {
						time.Sleep(call)
						calls.Add(1)
					}
					return nil
				})
				for end := time.Now().Add(minute); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
					m.puts(t, q.ID(), 9, 0)
					if !handBacks {
						m.take(q.ID())
						continue
					}
					r := q.Receiver(t.Context(), chanmq.OfType(9))
					time.Sleep(time.Millisecond)
					_ = r.Close()
					_, _, _ = q.TryReceive(chanmq.OfType(9))
				}
				m.faults(nil)
				worked := time.Duration(calls.Load()) * call
				if most := minute/5 + 10*call; worked > most || worked < minute/20 {
					t.Errorf("it worked for %v in %v, want at most %v", worked, minute, most)
				}
			})
		})
	}
}
