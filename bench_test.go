//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// Benchmarks of one process, to compare changes with benchstat. Those against C
// and other systems, between processes, are in the module bench.

type point struct {
	X, Y, Z int64
	Name    [40]byte
}

func BenchmarkSendReceive(b *testing.B) {
	q := newQueue(b)
	ctx := context.Background()
	text := make([]byte, 64)
	b.Run("Receive", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := q.Send(ctx, 1, text); err != nil {
				b.Fatal(err)
			}
			if _, err := q.Receive(ctx, chanmq.Any()); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("ReceiveInto", func(b *testing.B) {
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
	b.Run("Struct", func(b *testing.B) {
		points := chanmq.As(q, codec.Struct[point]())
		b.ReportAllocs()
		for b.Loop() {
			if err := points.Send(ctx, 1, point{X: 1}); err != nil {
				b.Fatal(err)
			}
			if _, err := points.Receive(ctx, chanmq.Any()); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkChannels moves messages through a Sender, the queue and a Receiver.
func BenchmarkChannels(b *testing.B) {
	for _, bench := range []struct {
		name   string
		buffer int
		opts   []chanmq.Option
	}{
		{"buffer 0", 0, nil},
		{"buffer 64", 64, nil},
		{"buffer 256, packing", 256, []chanmq.Option{chanmq.WithPacking()}},
	} {
		b.Run(bench.name, func(b *testing.B) {
			q := chanmq.As(newQueue(b, bench.opts...), codec.Struct[point]())
			ctx, cancel := context.WithCancel(context.Background())
			s := q.Sender(ctx, chanmq.WithBuffer(bench.buffer))
			r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(bench.buffer))
			go func() {
				defer s.Close()
				for {
					select {
					case s.C() <- chanmq.Message[point]{Type: 1}:
					case <-ctx.Done():
						return
					}
				}
			}()
			b.ReportAllocs()
			for b.Loop() {
				<-r.C()
			}
			cancel()
			<-s.Done()
			for range r.C() { // what is in C is nobody's any more
			}
			s.Unsent()
			for {
				if _, ok, err := q.TryReceive(chanmq.Any()); !ok || err != nil {
					break
				}
			}
		})
	}
}

func BenchmarkTryReceiveEmpty(b *testing.B) {
	q := newQueue(b)
	for b.Loop() {
		if _, ok, err := q.TryReceive(chanmq.Any()); ok || err != nil {
			b.Fatal(ok, err)
		}
	}
}

// BenchmarkCancel is a Receive that parks and is cancelled, all of it.
func BenchmarkCancel(b *testing.B) {
	q := newQueue(b, chanmq.WithSpin(0))
	b.ReportAllocs()
	for b.Loop() {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() {
			_, err := q.Receive(ctx, chanmq.Any())
			ended <- err
		}()
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			b.Fatal(err)
		}
	}
}

// TestAllocations holds what the documentation says: a []byte costs one
// allocation, a value received into storage that exists, or of a fixed size, none.
func TestAllocations(t *testing.T) {
	q := newQueue(t)
	points := chanmq.As(q, codec.Struct[point]())
	ctx := context.Background()
	text := make([]byte, 64)
	var into chanmq.Message[[]byte]
	var pointInto chanmq.Message[point]
	r := points.Receiver(ctx, chanmq.OfType(3))
	bytes := q.Receiver(ctx, chanmq.OfType(4))
	counted := newQueue(t, chanmq.WithCounters())
	countedPoints := chanmq.As(counted, codec.Struct[point]())
	countedReceiver := countedPoints.Receiver(ctx, chanmq.OfType(3))
	check := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		name string
		do   func()
		want float64
	}{
		{"Receive of []byte", func() {
			check(q.Send(ctx, 1, text))
			_, err := q.Receive(ctx, chanmq.Any())
			check(err)
		}, 1},
		{"ReceiveInto of []byte", func() {
			check(q.Send(ctx, 1, text))
			check(q.ReceiveInto(ctx, chanmq.Any(), &into))
		}, 0},
		{"Receive of a struct", func() {
			check(points.Send(ctx, 1, point{}))
			_, err := points.Receive(ctx, chanmq.Any())
			check(err)
		}, 0},
		{"ReceiveInto of a struct", func() {
			check(points.Send(ctx, 1, point{}))
			check(points.ReceiveInto(ctx, chanmq.Any(), &pointInto))
		}, 0},
		{"Receiver of a struct", func() {
			check(points.Send(ctx, 3, point{}))
			<-r.C()
		}, 0},
		{"ReceiveInto of []byte, with counters", func() {
			check(counted.Send(ctx, 1, text))
			check(counted.ReceiveInto(ctx, chanmq.OfType(1), &into))
		}, 0},
		{"Receiver of a struct, with counters", func() {
			check(countedPoints.Send(ctx, 3, point{}))
			<-countedReceiver.C()
		}, 0},
		{"Receiver of []byte", func() {
			check(q.Send(ctx, 4, text))
			<-bytes.C()
		}, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if raceEnabled {
				t.Skip("under the race detector sync.Pool drops values at random, which costs allocations")
			}
			// The average of many: a garbage collection empties the pools.
			if got := testing.AllocsPerRun(2000, test.do); got > test.want {
				t.Errorf("%v allocations, want %v", got, test.want)
			}
		})
	}
}
