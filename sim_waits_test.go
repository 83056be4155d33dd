//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
)

// TestSmallSendPassesALargeOne: while a large message waits for room, a small one
// that has room goes by, however they wait, as it does in the kernel; a reader that
// takes the small one first would wait forever else.
func TestSmallSendPassesALargeOne(t *testing.T) {
	for name, opts := range ways {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, opts...)
				if err := q.Set(chanmq.Attr{MaxBytes: 100}); err != nil {
					t.Fatal(err)
				}
				m.puts(t, q.ID(), 9, 1) // no room for 100 bytes more
				var large []<-chan error
				for range 3 {
					ended := make(chan error, 1)
					go func() { ended <- q.Send(t.Context(), 1, make([]byte, 100)) }()
					large = append(large, ended)
					synctest.Wait()
				}
				small := make(chan error, 1)
				if err := m.put(q.ID(), 9, make([]byte, 98)); err != nil {
					t.Fatal(err)
				}
				go func() { small <- q.Send(t.Context(), 2, make([]byte, 5)) }() // has to wait, too
				time.Sleep(time.Minute)
				synctest.Wait()
				m.take(q.ID()) // one byte of room
				m.take(q.ID()) // 100 bytes: either fits
				wantWithin(t, time.Second, firstOf(large[0], small))
				for range 3 { // whoever reads the small one and the large ones
					if _, err := q.Receive(t.Context(), chanmq.Any()); err != nil {
						t.Fatal(err)
					}
				}
				_ = q.Close()
			})
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, opts...)
				if err := q.Set(chanmq.Attr{MaxBytes: 100}); err != nil {
					t.Fatal(err)
				}
				if err := m.put(q.ID(), 9, make([]byte, 50)); err != nil {
					t.Fatal(err)
				}
				if err := m.put(q.ID(), 9, make([]byte, 50)); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				large, small := make(chan error, 1), make(chan error, 1)
				go func() { large <- q.Send(ctx, 1, make([]byte, 80)) }()
				synctest.Wait()
				go func() { small <- q.Send(ctx, 2, make([]byte, 5)) }()
				time.Sleep(time.Minute)
				synctest.Wait()
				m.take(q.ID()) // room for the small one alone
				wantWithin(t, time.Second, small)
				cancel()
				if err := <-large; !errors.Is(err, context.Canceled) {
					t.Errorf("the large one ended with: %v", err)
				}
			})
		})
	}
}

// firstOf returns what comes first.
func firstOf(a, b <-chan error) <-chan error {
	first := make(chan error, 1)
	go func() {
		select {
		case err := <-a:
			first <- err
		case err := <-b:
			first <- err
		}
	}()
	return first
}

// TestRemovalWithUnreadMessages: Receivers that hold a message which nobody reads end
// within a second or so of the queue's removal, though they make no calls; what they
// held is not lost. Under WithReopen, and without a removal, they stay.
func TestRemovalWithUnreadMessages(t *testing.T) {
	for _, receivers := range []int{1, 3} {
		for _, held := range []time.Duration{0, time.Minute} {
			t.Run(fmt.Sprintf("%d, after %v", receivers, held), func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					q := m.private(t)
					var all []*chanmq.Receiver[[]byte]
					for range receivers {
						all = append(all, q.Receiver(t.Context(), chanmq.Any()))
					}
					for n := range receivers {
						m.puts(t, q.ID(), 1, n)
					}
					time.Sleep(held)
					synctest.Wait()
					for _, r := range all {
						if r.Err() != nil {
							t.Errorf("it has ended: %v", r.Err())
						}
					}
					if err := m.peer.Remove(q.ID()); err != nil {
						t.Fatal(err)
					}
					time.Sleep(1100 * time.Millisecond)
					for _, r := range all {
						select {
						case <-r.Done():
							wantError(t, "Err", r.Err(), chanmq.ErrRemoved)
						default:
							t.Error("it has not ended")
						}
					}
					var undelivered *chanmq.UndeliveredError
					if err := q.Close(); !errors.As(err, &undelivered) || len(undelivered.Messages) != receivers {
						t.Errorf("Close: %v, want %d messages", err, receivers)
					}
				})
			})
		}
	}
	t.Run("costs little", func(t *testing.T) {
		onMachine(t, func(t *testing.T, m *machine) {
			q := m.private(t)
			for n := range 100 {
				q.Receiver(t.Context(), chanmq.Any())
				m.puts(t, q.ID(), 1, n)
			}
			time.Sleep(time.Minute)
			synctest.Wait()
			if calls := m.during(func() { time.Sleep(time.Minute) }); calls > 60 {
				t.Errorf("%d calls in a minute, one a second is due", calls)
			}
			_ = q.Close()
		})
	})
}
