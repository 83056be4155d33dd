//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// TryTake takes what is there, counts attempts, and waits for nothing.
func TestTryTake(t *testing.T) {
	q := newQueue(t, chanmq.WithJournal(journalDir(t)))
	if _, ok, err := q.TryTake(chanmq.Any()); ok || err != nil {
		t.Fatalf("of an empty queue: %v, %v", ok, err)
	}
	for typ := int64(1); typ <= 2; typ++ {
		if err := q.Send(context.Background(), typ, []byte{byte(typ)}); err != nil {
			t.Fatal(err)
		}
	}
	for attempt := 1; attempt <= 2; attempt++ {
		d, ok, err := q.TryTake(chanmq.OfType(2))
		if err != nil || !ok || d.Type != 2 || d.Attempt != attempt {
			t.Fatalf("got %+v, %v, %v, want attempt %d of type 2", d, ok, err, attempt)
		}
		end := d.Nack
		if attempt == 2 {
			end = d.Ack
		}
		if err := end(); err != nil {
			t.Fatal(err)
		}
	}
	if _, ok, err := q.TryTake(chanmq.OfType(2)); ok || err != nil {
		t.Fatalf("of what was acknowledged: %v, %v", ok, err)
	}
	view := chanmq.As(q, codec.JSON[int]())
	var undecoded *chanmq.DecodeError
	if _, ok, err := view.TryTake(chanmq.Any()); !ok || !errors.As(err, &undecoded) {
		t.Fatalf("of text that is no JSON: %v, %v", ok, err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := q.TryTake(chanmq.Any()); ok || !errors.Is(err, chanmq.ErrClosed) {
		t.Fatalf("after Close: %v, %v", ok, err)
	}
}
