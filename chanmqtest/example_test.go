package chanmqtest_test

import (
	"context"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
)

// echo is the program under test: it answers each message of type 1.
func echo(ctx context.Context, q *chanmq.Queue[[]byte]) {
	for m := range q.Receiver(ctx, chanmq.OfType(1)).C() {
		if q.Send(ctx, 2, m.Value) != nil {
			return
		}
	}
}

// In a test file this is a test on the machine's own kernel. It fails if the
// program leaves a message unanswered, or an answer is not read.
func ExampleNew() {
	test := func(t *testing.T) {
		q := chanmqtest.New(t)
		go echo(t.Context(), q)
		if err := q.Send(t.Context(), 1, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if m, err := q.Receive(t.Context(), chanmq.OfType(2)); err != nil || string(m.Value) != "hello" {
			t.Errorf("answer %q, %v", m.Value, err)
		}
	}
	_ = test // func TestEcho(t *testing.T)
}

// A day passes at once here, and the kernel is short of memory when it ends.
func ExampleSimulated() {
	test := func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			k := chanmqtest.Simulated(t)
			q := k.New(t)
			go echo(t.Context(), q)
			time.Sleep(24 * time.Hour)
			k.Fail(func(c chanmqtest.Call) error {
				if c.Op == "Send" {
					return syscall.ENOMEM
				}
				return nil
			})
			if err := q.Send(t.Context(), 1, []byte("hello")); err == nil {
				t.Error("sent without memory")
			}
		})
	}
	_ = test // func TestEchoAfterADay(t *testing.T)
}
