package chanmq_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// Two events at the same time, in an order that is chance on the real kernel. On the
// simulated one the test decides.

// TestCancelAndMessageAtOnce: a message and the end of ctx come at the same time, in
// both orders. Either the call has the message, or the queue.
func TestCancelAndMessageAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		first string
		want  error
	}{
		"message first": {"message", nil},
		"cancel first":  {"cancel", context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				ended := receiving(ctx, q, chanmq.Any())
				if c.first == "message" {
					m.puts(t, q.ID(), 1, 0)
					cancel()
				} else {
					cancel()
					synctest.Wait()
					m.puts(t, q.ID(), 1, 0)
				}
				if err := <-ended; !errors.Is(err, c.want) {
					t.Errorf("Receive: %v", err)
				}
				if c.want != nil {
					wantMessages(t, q, 0)
				} else {
					wantMessages(t, q)
				}
			})
		})
	}
}

// TestMessageBeatsInterrupt has the message arrive when the signal is on its way: what
// the kernel has given to a thread is returned in spite of the signal.
func TestMessageBeatsInterrupt(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t)
		ctx, cancel := context.WithCancel(t.Context())
		ended := receiving(ctx, q, chanmq.Any())
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Interrupt {
				m.puts(t, q.ID(), 1, 7)
			}
			return nil
		})
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Receive: %v", err)
		}
		wantMessages(t, q)
	})
}

// TestLimitIsRaisedBehindTheRefusal raises msgmax after a send was refused as too
// large, and before Send asks why: a removed queue returns EINVAL too.
func TestLimitIsRaisedBehindTheRefusal(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t)
		m.SetLimits(sysv.Limits{MaxMessage: 10})
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Limits {
				m.SetLimits(sysv.Limits{MaxMessage: 8192})
			}
			return nil
		})
		if err := q.Send(t.Context(), 1, make([]byte, 11)); !errors.Is(err, chanmq.ErrTooLarge) || errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("Send: %v, want ErrTooLarge", err)
		}
		if err := q.Send(t.Context(), 1, make([]byte, 11)); err != nil {
			t.Error(err)
		}
	})
}
