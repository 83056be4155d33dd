//go:build linux

package chanmq_test

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

func TestMessagesReadsNothingAhead(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 5)
	messages := q.Messages(ctxWithin(t), chanmq.Any())
	for m, err := range messages {
		if err != nil {
			t.Fatal(err)
		}
		if n := numberOf(m.Value); n == 1 {
			break
		}
	}
	if n := countMessages(t, q); n != 3 {
		t.Errorf("%d messages stay after break, want 3", n)
	}
	// It can be ranged over again.
	for m, err := range messages {
		if err != nil || numberOf(m.Value) != 2 {
			t.Errorf("the second loop begins with %v, %v", m, err)
		}
		break
	}
	wantNumbers(t, q, chanmq.Any(), 3, 5)
}

func TestMessagesEndsOnClose(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 1)
	yields, last := 0, error(nil)
	for _, err := range q.Messages(ctxWithin(t), chanmq.Any()) {
		yields, last = yields+1, err
		if err == nil {
			go q.Close()
		}
	}
	wantError(t, "Messages", last, chanmq.ErrClosed)
	if yields != 2 {
		t.Errorf("it yields %d times, want a message and one error", yields)
	}
}

// browse returns what Browse yields, or skips the test where the kernel lacks it.
func browse(t *testing.T, q *chanmq.Queue[string]) (got []string) {
	t.Helper()
	for m, err := range q.Browse() {
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		var undecoded *chanmq.DecodeError
		switch {
		case errors.As(err, &undecoded):
			got = append(got, fmt.Sprintf("%d %s, undecoded", undecoded.Message.Type, undecoded.Message.Value))
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, fmt.Sprintf("%d %s", m.Type, m.Value))
		}
	}
	return got
}

func TestBrowseTakesNothing(t *testing.T) {
	raw := newQueue(t)
	q := chanmq.As(raw, failing())
	if got := browse(t, q); got != nil {
		t.Errorf("an empty queue yields %q", got)
	}
	long := strings.Repeat("long ", largest(t)/5-10)
	want := []string{"3 three", "1 ", "2 bad, undecoded", "9 " + long, "1 behind"}
	for _, m := range []chanmq.Message[string]{{3, "three"}, {1, ""}, {2, "bad"}, {9, long}, {1, "behind"}} {
		if err := raw.Send(ctxWithin(t), m.Type, []byte(m.Value)); err != nil {
			t.Fatal(err)
		}
	}
	wantUnchanged(t, raw)
	for range 2 {
		if got := browse(t, q); !reflect.DeepEqual(got, want) {
			t.Errorf("Browse yields %.200q, want %.200q", got, want)
		}
	}
	for m := range q.Browse() {
		if m.Type != 3 {
			t.Errorf("the first one is %v", m)
		}
		break
	}
}

func TestBrowseEndsOnClose(t *testing.T) {
	raw := newQueue(t)
	sendNumbers(t, raw, 1, 0, 3)
	browse(t, chanmq.As(raw, codec.String())) // or skip
	yields, last := 0, error(nil)
	for _, err := range raw.Browse() {
		yields, last = yields+1, err
		if err == nil {
			if err := raw.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	wantError(t, "Browse", last, chanmq.ErrClosed)
	if yields != 2 {
		t.Errorf("it yields %d times, want a message and one error", yields)
	}
}
