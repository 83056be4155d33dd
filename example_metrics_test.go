//go:build linux

package chanmq_test

import (
	"context"
	"fmt"

	"github.com/chanmq/chanmq"
)

func ExampleQueue_Counters() {
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithCounters(), chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()

	for _, text := range []string{"lamp", "book"} {
		if err := q.Send(ctx, 1, []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
	}
	d, err := q.Take(ctx, chanmq.Any())
	if err != nil {
		fmt.Println(err)
		return
	}
	c := q.Counters()
	fmt.Printf("sent %d, taken %d, in flight %d\n", c.Sent, c.Taken, c.InFlight)
	d.Ack()
	c = q.Counters()
	fmt.Printf("acknowledged %d, in flight %d\n", c.Acks, c.InFlight)
	// Output:
	// sent 2, taken 1, in flight 1
	// acknowledged 1, in flight 0
}

func ExampleWithObserver() {
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose(), chanmq.WithObserver(func(_ context.Context, e chanmq.Event) {
		// e.Duration is for a histogram, e.Err for a log.
		fmt.Printf("%s: type %d, %d bytes, %v\n", e.Op, e.Type, e.Size, e.Wait)
	}))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()

	if err := q.Send(ctx, 1, []byte("two lamps")); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := q.Receive(ctx, chanmq.Any()); err != nil {
		fmt.Println(err)
	}
	// Output:
	// send: type 1, 9 bytes, at once
	// receive: type 1, 9 bytes, at once
}
