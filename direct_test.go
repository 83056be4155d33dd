//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/chanmq/chanmq"
)

// receives are the ways to receive one message directly.
var receives = []struct {
	name    string
	receive func(context.Context, *chanmq.Queue[[]byte], chanmq.Selector) (chanmq.Message[[]byte], error)
}{
	{"Receive", func(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) (chanmq.Message[[]byte], error) {
		return q.Receive(ctx, s)
	}},
	{"ReceiveInto", func(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) (m chanmq.Message[[]byte], err error) {
		err = q.ReceiveInto(ctx, s, &m)
		return m, err
	}},
	{"TryReceive", func(_ context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) (chanmq.Message[[]byte], error) {
		m, ok, err := q.TryReceive(s)
		if err == nil && !ok {
			err = errNothing
		}
		return m, err
	}},
	{"Messages", func(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) (chanmq.Message[[]byte], error) {
		for m, err := range q.Messages(ctx, s) {
			return m, err
		}
		return chanmq.Message[[]byte]{}, errNothing
	}},
}

var errNothing = errors.New("no message")

// sends are the ways to send one message directly.
var sends = []struct {
	name string
	send func(context.Context, *chanmq.Queue[[]byte], int64, []byte) error
}{
	{"Send", func(ctx context.Context, q *chanmq.Queue[[]byte], typ int64, text []byte) error {
		return q.Send(ctx, typ, text)
	}},
	{"TrySend", func(_ context.Context, q *chanmq.Queue[[]byte], typ int64, text []byte) error {
		sent, err := q.TrySend(typ, text)
		if sent != (err == nil) {
			return fmt.Errorf("TrySend = %v, %w", sent, err)
		}
		return err
	}},
}

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	q := newQueue(t)
	random := make([]byte, largest(t))
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for _, typ := range []int64{1, 2, 255, 256, 1 << 16, math.MaxInt32, math.MaxInt} {
		// 256 is what fits the first buffer of a receive.
		for _, size := range []int{0, 1, 3, 8, 255, 256, 257, 511, 513, 4096, len(random) - 1, len(random)} {
			for _, s := range sends {
				for _, r := range receives {
					text := random[:min(size, len(random))]
					if err := s.send(ctxWithin(t), q, typ, text); err != nil {
						t.Fatalf("%s of type %d, %d bytes: %v", s.name, typ, len(text), err)
					}
					m, err := r.receive(ctxWithin(t), q, chanmq.OfType(typ))
					if err != nil || m.Type != typ || !bytes.Equal(m.Value, text) {
						t.Errorf("%s after %s of type %d, %d bytes = type %d, %d bytes, %v",
							r.name, s.name, typ, len(text), m.Type, len(m.Value), err)
					}
				}
			}
		}
	}
	wantNone(t, q)
}

func TestEmptyMessageIsNotNil(t *testing.T) {
	q := newQueue(t)
	for _, text := range [][]byte{nil, {}} {
		for _, r := range receives {
			if err := q.Send(ctxWithin(t), 1, text); err != nil {
				t.Fatal(err)
			}
			m, err := r.receive(ctxWithin(t), q, chanmq.Any())
			if err != nil || m.Type != 1 || m.Value == nil || len(m.Value) != 0 {
				t.Errorf("%s = %#v, %v; want type 1 and an empty slice", r.name, m, err)
			}
		}
	}
}

func TestReceivedBytesAreTheCallers(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 2)
	first, err := q.Receive(ctxWithin(t), chanmq.Any())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Receive(ctxWithin(t), chanmq.Any()); err != nil {
		t.Fatal(err)
	}
	if numberOf(first.Value) != 0 {
		t.Errorf("the second receive changed the first one's bytes to %v", first.Value)
	}
}

func TestReceiveIntoReusesTheStorage(t *testing.T) {
	q := newQueue(t)
	m := chanmq.Message[[]byte]{Value: make([]byte, 0, 100)}
	storage := &m.Value[:1][0]
	for n := range 3 {
		sendNumbers(t, q, 5, n, n+1)
		if err := q.ReceiveInto(ctxWithin(t), chanmq.Any(), &m); err != nil {
			t.Fatal(err)
		}
		if m.Type != 5 || numberOf(m.Value) != n || &m.Value[0] != storage {
			t.Errorf("type %d, number %d, in the caller's storage: %v", m.Type, numberOf(m.Value), &m.Value[0] == storage)
		}
	}
}

func TestTryNeverWaits(t *testing.T) {
	q := newQueue(t)
	wantNone(t, q)
	fill(t, q)
	if sent, err := q.TrySend(1, make([]byte, 1024)); sent || err != nil {
		t.Errorf("TrySend into a full queue = %v, %v; want false and no error", sent, err)
	}
	if m, ok, err := q.TryReceive(chanmq.OfType(3)); ok || err != nil {
		t.Errorf("TryReceive of a type that is not there = %v, %v, %v", m, ok, err)
	}
}
