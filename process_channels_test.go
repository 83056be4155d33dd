//go:build linux

package chanmq_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestSelectOverThreeTypesFromThreeProcesses(t *testing.T) {
	q := newQueue(t)
	const types, each = 3, 1000
	var receivers [types]<-chan chanmq.Message[[]byte]
	for i := range receivers {
		receivers[i] = q.Receiver(ctxWithin(t), chanmq.OfType(int64(i+1))).C()
	}
	for i := range types {
		cmd := testkit.Start(t, "send", fmt.Sprint(q.ID()), fmt.Sprint(i+1), fmt.Sprint(each))
		defer testkit.Wait(t, cmd)
	}
	var next [types]int
	for range types * each {
		var m chanmq.Message[[]byte]
		from := int64(0)
		select {
		case m = <-receivers[0]:
			from = 1
		case m = <-receivers[1]:
			from = 2
		case m = <-receivers[2]:
			from = 3
		}
		if m.Type != from {
			t.Fatalf("a message of type %d on the channel of type %d", m.Type, from)
		}
		if got := numberOf(m.Value); got != next[from-1] {
			t.Fatalf("type %d: got %d, want %d", from, got, next[from-1])
		}
		next[from-1]++
	}
	wantNone(t, q)
}

func TestRangeEndsOnRemovalByAnotherProcess(t *testing.T) {
	q := newQueue(t)
	r := q.Receiver(ctxWithin(t), chanmq.Any())
	direct := make(chan error, 1)
	go func() {
		_, err := q.Receive(ctxWithin(t), chanmq.OfType(2))
		direct <- err
	}()
	testkit.Eventually(t, "two parked receives", func() bool { return len(testkit.ThreadsInCalls()) == 2 })
	testkit.Wait(t, testkit.Start(t, "remove", fmt.Sprint(q.ID())))
	for m := range r.C() {
		t.Errorf("unexpected %v", m)
	}
	if err := r.Err(); !errors.Is(err, chanmq.ErrRemoved) {
		t.Errorf("Err: %v", err)
	}
	if err := <-direct; !errors.Is(err, chanmq.ErrRemoved) {
		t.Errorf("Receive: %v", err)
	}
	var last error
	for _, err := range q.Messages(ctxWithin(t), chanmq.Any()) {
		last = err
	}
	if !errors.Is(last, chanmq.ErrRemoved) {
		t.Errorf("Messages: %v", last)
	}
}
