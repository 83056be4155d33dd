//go:build linux

package chanmq_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

// The benchmarks of this file show what grows with the number of Receivers: read
// them as ratios between their cases.

// BenchmarkMassCancel cancels Receivers that each hold a message which nobody has
// read, beside others that park and have nothing to do with it, and receives what
// they hand back.
func BenchmarkMassCancel(b *testing.B) {
	for _, receivers := range []int{1000, 8000} {
		for _, parked := range []int{0, 128} {
			b.Run(fmt.Sprintf("receivers=%d/parked=%d", receivers, parked), func(b *testing.B) {
				q := newQueue(b, chanmq.WithMaxParked(256))
				for n := range parked {
					q.Receiver(b.Context(), chanmq.OfType(int64(1000+n)))
				}
				var waiting sync.WaitGroup
				for b.Loop() {
					b.StopTimer()
					ctx, cancel := context.WithCancel(ctxWithin(b))
					all := make([]*chanmq.Receiver[[]byte], receivers)
					for n := range all {
						all[n] = q.Receiver(ctx, chanmq.OfType(1))
					}
					for n := range receivers {
						if err := q.Send(ctx, 1, number(n)); err != nil {
							b.Fatal(err)
						}
					}
					untilTaken(b, q, 0)
					b.StartTimer()
					cancel()
					for _, r := range all {
						waiting.Go(func() { <-r.Done() })
					}
					waiting.Wait()
					for n := range receivers {
						m, ok, err := q.TryReceive(chanmq.OfType(1))
						if err != nil || !ok || numberOf(m.Value) != n {
							b.Fatalf("TryReceive: %v, %v, %v, want %d", m, ok, err, n)
						}
					}
				}
			})
		}
	}
}

// BenchmarkDirectBesideReceivers sends a message and receives it with direct calls,
// beside idle Receivers of other types whose ctx is one for all or each its own.
func BenchmarkDirectBesideReceivers(b *testing.B) {
	for _, receivers := range []int{0, 10000} {
		for _, own := range []bool{false, true} {
			for _, s := range []chanmq.Selector{chanmq.OfType(1), chanmq.UpTo(1)} {
				b.Run(fmt.Sprintf("receivers=%d/own=%v/%v", receivers, own, s), func(b *testing.B) {
					q := newQueue(b)
					startReceivers(b, q, receivers, own)
					for b.Loop() {
						if err := q.Send(context.Background(), 1, nil); err != nil {
							b.Fatal(err)
						}
						if _, err := q.Receive(context.Background(), s); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

func startReceivers(b *testing.B, q *chanmq.Queue[[]byte], receivers int, own bool) {
	b.Helper()
	for n := range receivers {
		ctx := b.Context()
		if own {
			var cancel context.CancelFunc
			ctx, cancel = context.WithCancel(ctx)
			b.Cleanup(cancel)
		}
		q.Receiver(ctx, chanmq.OfType(int64(n+2)))
	}
	if receivers > 128 {
		testkit.Eventually(b, "all wait", func() bool { return chanmq.Polled(q) >= receivers-128 })
	}
	runtime.GC()
}

// BenchmarkStartReceivers starts Receivers, and closes the handle.
func BenchmarkStartReceivers(b *testing.B) {
	for _, own := range []bool{false, true} {
		b.Run(fmt.Sprintf("receivers=16000/own=%v", own), func(b *testing.B) {
			for b.Loop() {
				q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
				if err != nil {
					b.Fatal(err)
				}
				startReceivers(b, q, 16000, own)
				if err := q.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
