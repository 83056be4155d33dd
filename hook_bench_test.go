//go:build linux

package chanmq_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/chanmq/chanmq"
)

// BenchmarkHook is what WithCounters and WithObserver cost: read it as ratios to off.
func BenchmarkHook(b *testing.B) {
	var events atomic.Int64
	for _, bench := range []struct {
		name string
		opts []chanmq.Option
	}{
		{"off", nil},
		{"counters", []chanmq.Option{chanmq.WithCounters()}},
		{"observer", []chanmq.Option{chanmq.WithObserver(func(context.Context, chanmq.Event) { events.Add(1) })}},
	} {
		ctx := context.Background()
		text := make([]byte, 64)
		b.Run("direct/"+bench.name, func(b *testing.B) {
			q := newQueue(b, bench.opts...)
			var m chanmq.Message[[]byte]
			b.ReportAllocs()
			for b.Loop() {
				if err := q.Send(ctx, 1, text); err != nil {
					b.Fatal(err)
				}
				if err := q.ReceiveInto(ctx, chanmq.Any(), &m); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("Receiver/"+bench.name, func(b *testing.B) {
			q := newQueue(b, bench.opts...)
			r := q.Receiver(b.Context(), chanmq.Any(), chanmq.WithBuffer(64))
			b.ReportAllocs()
			for b.Loop() {
				for range 32 {
					if err := q.Send(ctx, 1, text); err != nil {
						b.Fatal(err)
					}
				}
				for range 32 {
					<-r.C()
				}
			}
		})
	}
}
