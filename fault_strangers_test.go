//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysv"
)

// TestFaultStrangersMessages sends and receives through a queue that holds messages
// of other programs: none of those is taken, or moved.
func TestFaultStrangersMessages(t *testing.T) {
	q := newQueue(t)
	var strangers []string
	put := func(typ int64, text string) {
		if err := q.Send(ctxWithin(t), typ, []byte(text)); err != nil {
			t.Fatal(err)
		}
		strangers = append(strangers, fmt.Sprint(typ, " ", text))
	}
	put(1000, "a")
	put(5, strings.Repeat("large", 600)) // larger than a buffer is at first
	put(4, "")
	put(1<<31-1, "b")
	put(5, "c")

	ctx := ctxLong(t)
	count := longForm(3000)
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for n := range count {
			if err := q.Send(ctx, int64(1+n%3), number(n)); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	var receiving sync.WaitGroup
	for i := range 3 {
		typ := int64(i + 1)
		// A handle for each, which is closed with what it holds, that goes back
		// to the tail; so it comes, but not in order.
		receiving.Go(func() {
			came := make(map[int]bool)
			for n := 0; len(came) < (count-i+2)/3; n++ {
				handle, err := chanmq.Attach(q.ID(), [][]chanmq.Option{nil, {chanmq.WithMaxParked(0)}}[n%2]...)
				if err != nil {
					t.Error(err)
					return
				}
				r := handle.Receiver(ctx, chanmq.OfType(typ), chanmq.WithBuffer(3))
				some := 200
				for m := range r.C() {
					if number := numberOf(m.Value); m.Type != typ || came[number] {
						t.Errorf("received %d of type %d, want type %d and no number twice", number, m.Type, typ)
					}
					came[numberOf(m.Value)] = true
					if some--; some == 0 || len(came) == (count-i+2)/3 {
						break
					}
				}
				var left *chanmq.UndeliveredError
				if err := handle.Close(); errors.As(err, &left) {
					for _, m := range left.Messages { // the queue was full
						came[numberOf(m.Value)] = true
					}
				}
				if ctx.Err() != nil {
					t.Error(ctx.Err())
					return
				}
			}
		})
	}
	receiving.Wait()
	<-sent
	var standing []string
	for m, err := range q.Browse() {
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		if err != nil {
			t.Fatal(err)
		}
		standing = append(standing, fmt.Sprint(m.Type, " ", string(m.Value)))
	}
	if got, want := fmt.Sprint(standing), fmt.Sprint(strangers); got != want {
		t.Errorf("the queue holds %s, want %s", got, want)
	}
	t.Logf("%d messages passed by %d", count, len(strangers))
}

// TestFaultHostileSender has a process with write permission send texts of any size
// and content among those that a program expects, under the same type and others.
// The program receives its own, in order, and a *DecodeError for each of the rest.
func TestFaultHostileSender(t *testing.T) {
	type order struct {
		Number int32
		Name   [12]byte
	}
	q := newQueue(t)
	ctx, cancel := context.WithCancel(ctxLong(t))
	background(t, func() {
		text := make([]byte, largest(t))
		for n := 0; ; n++ {
			for i := range text[:min(64, len(text))] {
				text[i] = byte(rand.Uint32())
			}
			typ := int64(1)
			if n%4 == 0 {
				typ = 1 + rand.Int64N(sysv.MaxType)
			}
			size := rand.IntN(100)
			if n%50 == 0 {
				size = rand.IntN(len(text))
			}
			if size == 16 {
				continue // what the program cannot tell from its own
			}
			if q.Send(ctx, typ, text[:size]) != nil {
				return
			}
		}
	})
	count := longForm(2000)
	orders := chanmq.As(attach(t, q.ID()), codec.Struct[order]())
	background(t, func() {
		for n := range count {
			if orders.Send(ctx, 1, order{Number: int32(n)}) != nil {
				return
			}
		}
	})
	refused := 0
	r := orders.Receiver(ctx, chanmq.Any(), chanmq.WithDecodeError(func(*chanmq.DecodeError) { refused++ }))
	for next := range count {
		m, ok := <-r.C()
		if !ok {
			t.Fatal(r.Err())
		}
		if m.Value.Number != int32(next) {
			t.Fatalf("received %d, want %d", m.Value.Number, next)
		}
	}
	cancel()
	<-r.Done()
	t.Logf("%d orders among %d other messages", count, refused)
}
