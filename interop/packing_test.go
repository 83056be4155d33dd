//go:build linux

package interop_test

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// TestPacksBesideC: C programs that know nothing of packs send to a queue whose other sender
// packs. A handle with packing receives what all of them have sent, each in order.
func TestPacksBesideC(t *testing.T) {
	send := compile(t, "send")
	q, err := chanmq.Private(0o600, chanmq.WithPacking())
	if err != nil {
		t.Fatal(err)
	}
	removed(t, q)
	numbers := chanmq.As(q, codec.JSON[int]())
	ctx := deadlineContext(t)
	const (
		count    = 20_000
		ours     = 5
		theirs   = 7 // TYPE of records.h
		programs = 10
	)
	s := numbers.Sender(ctx, chanmq.WithBuffer(100))
	ended := make(chan error, 2)
	go func() {
		for n := range count {
			select {
			case s.C() <- chanmq.Message[int]{Type: ours, Value: n}:
			case <-s.Done():
				ended <- s.Err()
				return
			}
		}
		close(s.C())
		<-s.Done()
		ended <- s.Err()
	}()
	received := numbers.Receiver(ctx, chanmq.OfType(ours), chanmq.WithBuffer(100))
	texts := chanmq.As(q, codec.String()).Receiver(ctx, chanmq.Except(ours))
	go func() {
		var err error
		for range programs {
			command := append(send[1:len(send):len(send)], fmt.Sprint(q.ID()), "text")
			err = errors.Join(err, exec.CommandContext(ctx, send[0], command...).Run())
		}
		ended <- err
	}()
	next, fromC := 0, 0
	for next < count || fromC < programs {
		select {
		case m, ok := <-received.C():
			if !ok {
				t.Fatal(received.Err())
			}
			if m.Value != next {
				t.Fatalf("received %d, want %d", m.Value, next)
			}
			next++
		case m, ok := <-texts.C():
			if !ok {
				t.Fatal(texts.Err())
			}
			if m.Type != theirs || m.Value != "Grüße" {
				t.Fatalf("received %+v of C", m)
			}
			fromC++
		}
	}
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	received.Close()
	texts.Close()
	if m, ok, err := q.TryReceive(chanmq.Any()); ok || err != nil {
		t.Errorf("received %v, %v, %v, and that is too much", m, ok, err)
	}
}
