//go:build linux

package chanmq_test

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"testing"

	"github.com/chanmq/chanmq"
)

func TestSelectors(t *testing.T) {
	type message = struct {
		typ int64
		n   int
	}
	// The queue, oldest first.
	stands := []message{{3, 0}, {1, 1}, {2, 2}, {3, 3}, {math.MaxInt, 4}, {1, 5}, {2, 6}}
	for _, tt := range []struct {
		selector chanmq.Selector
		text     string
		takes    []message
	}{
		{chanmq.Selector{}, "Any()", stands},
		{chanmq.Any(), "Any()", stands},
		{chanmq.OfType(1), "OfType(1)", []message{{1, 1}, {1, 5}}},
		{chanmq.OfType(3), "OfType(3)", []message{{3, 0}, {3, 3}}},
		{chanmq.OfType(4), "OfType(4)", nil},
		{chanmq.OfType(math.MaxInt), fmt.Sprintf("OfType(%d)", math.MaxInt), []message{{math.MaxInt, 4}}},
		{chanmq.UpTo(1), "UpTo(1)", []message{{1, 1}, {1, 5}}},
		{chanmq.UpTo(2), "UpTo(2)", []message{{1, 1}, {1, 5}, {2, 2}, {2, 6}}},
		{chanmq.UpTo(3), "UpTo(3)", []message{{1, 1}, {1, 5}, {2, 2}, {2, 6}, {3, 0}, {3, 3}}},
		{chanmq.UpTo(math.MaxInt), fmt.Sprintf("UpTo(%d)", math.MaxInt), []message{{1, 1}, {1, 5}, {2, 2}, {2, 6}, {3, 0}, {3, 3}, {math.MaxInt, 4}}},
		{chanmq.Except(3), "Except(3)", []message{{1, 1}, {2, 2}, {math.MaxInt, 4}, {1, 5}, {2, 6}}},
		{chanmq.Except(9), "Except(9)", stands},
	} {
		for _, r := range receives {
			t.Run(tt.text+"/"+r.name, func(t *testing.T) {
				if got := tt.selector.String(); got != tt.text {
					t.Errorf("String() = %s", got)
				}
				q := newQueue(t)
				for _, m := range stands {
					sendNumbers(t, q, m.typ, m.n, m.n+1)
				}
				var taken []message
				for range tt.takes {
					m, err := r.receive(ctxWithin(t), q, tt.selector)
					if err != nil {
						t.Fatal(err)
					}
					taken = append(taken, message{m.Type, numberOf(m.Value)})
				}
				if !slices.Equal(taken, tt.takes) {
					t.Errorf("took %v, want %v", taken, tt.takes)
				}
				if m, ok, err := q.TryReceive(tt.selector); ok || err != nil {
					t.Errorf("TryReceive = %v, %v, %v; want nothing more", m, ok, err)
				}
				if got, want := countMessages(t, q), len(stands)-len(tt.takes); got != want {
					t.Errorf("%d messages stay, want %d", got, want)
				}
			})
		}
	}
}

// TestSelectorsOfWaitingReceives: a receive that waits gets the first message that
// its selector matches, whatever arrived before.
func TestSelectorsOfWaitingReceives(t *testing.T) {
	for _, tt := range []struct {
		selector chanmq.Selector
		passes   []int64 // types of messages that it does not take
		takes    int64
	}{
		{chanmq.Any(), nil, 4},
		{chanmq.OfType(4), []int64{1, 3, 5}, 4},
		{chanmq.UpTo(4), []int64{5, math.MaxInt}, 4},
		{chanmq.UpTo(4), []int64{5}, 1},
		{chanmq.Except(4), []int64{4, 4}, 3},
	} {
		t.Run(fmt.Sprint(tt.selector, " gets ", tt.takes), func(t *testing.T) {
			q := newQueue(t)
			got := make(chan chanmq.Message[[]byte], 1)
			ctx := ctxWithin(t)
			background(t, func() {
				m, err := q.Receive(ctx, tt.selector)
				if err != nil {
					t.Error(err)
				}
				got <- m
			})
			untilAsleep(t, 1)
			for _, typ := range append(tt.passes, tt.takes) {
				if err := q.Send(ctxWithin(t), typ, nil); err != nil {
					t.Error(err)
				}
			}
			if m := <-got; m.Type != tt.takes {
				t.Errorf("got type %d", m.Type)
			}
			if n := countMessages(t, q); n != len(tt.passes) {
				t.Errorf("%d messages stay, want %d", n, len(tt.passes))
			}
		})
	}
}

func TestInvalidTypes(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 1)
	types := []int64{0, -1, math.MinInt32, math.MinInt64}
	if strconv.IntSize == 32 {
		types = append(types, math.MaxInt32+1, math.MaxInt64)
	}
	for _, typ := range types {
		words := []string{fmt.Sprintf("%d is not in 1 to %d", typ, math.MaxInt)}
		for _, s := range sends {
			wantError(t, s.name, s.send(ctxWithin(t), q, typ, nil), chanmq.ErrInvalidType, words...)
		}
		for _, selector := range []chanmq.Selector{chanmq.OfType(typ), chanmq.UpTo(typ), chanmq.Except(typ)} {
			for _, r := range receives {
				_, err := r.receive(ctxWithin(t), q, selector)
				wantError(t, fmt.Sprint(r.name, " ", selector), err, chanmq.ErrInvalidType, words...)
			}
		}
	}
	wantNumbers(t, q, chanmq.Any(), 0, 1)
	wantNone(t, q)
}
