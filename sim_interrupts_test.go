package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// TestInterruptsAreLost loses the first signals that are to end a call, as happens
// to signals that arrive before the thread is inside the call.
func TestInterruptsAreLost(t *testing.T) {
	for _, lost := range []int{1, 2, 10, 100} {
		for name, end := range map[string]func(context.CancelFunc, *chanmq.Queue[[]byte]){
			"cancel": func(cancel context.CancelFunc, _ *chanmq.Queue[[]byte]) { cancel() },
			"Close":  func(_ context.CancelFunc, q *chanmq.Queue[[]byte]) { _ = q.Close() },
		} {
			t.Run(fmt.Sprint(name, ", ", lost), func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					ended := receiving(ctx, q, chanmq.Any())
					interrupts := 0
					m.faults(func(_ int, c simq.Call) error {
						if c.Op != simq.Interrupt {
							return nil
						}
						if interrupts++; interrupts <= lost {
							return errors.New("lost")
						}
						return nil
					})
					start := time.Now()
					end(cancel, q)
					if err := <-ended; err == nil {
						t.Error("Receive returned no error")
					}
					if interrupts != lost+1 {
						t.Errorf("%d interrupts, want %d", interrupts, lost+1)
					}
					// They are 10 ms apart at most.
					if took := time.Since(start); took > time.Duration(lost)*10*time.Millisecond {
						t.Errorf("it took %v", took)
					}
				})
			})
		}
	}
}

// TestThreadsThatCannotBeInterrupted: such threads do not park. Calls poll until
// threads can be interrupted.
func TestThreadsThatCannotBeInterrupted(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t)
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Enter {
				return sysv.EPERM
			}
			return nil
		})
		ended := receiving(t.Context(), q, chanmq.Any())
		if m.Asleep() != 0 {
			t.Fatal("it is asleep all the same")
		}
		start := time.Now()
		m.puts(t, q.ID(), 1, 0)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > pollMax {
			t.Errorf("the message came after %v", took)
		}
		m.faults(nil)
		ctx, cancel := context.WithCancel(t.Context())
		ended = receiving(ctx, q, chanmq.Any())
		if m.Asleep() != 1 {
			t.Errorf("%d calls are asleep behind the fault, want 1", m.Asleep())
		}
		cancel()
		<-ended
	})
}
