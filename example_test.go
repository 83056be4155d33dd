//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// Two programs agree on a file and a number, which make the key of their queue.
func ExampleCreate() {
	file, err := os.CreateTemp("", "example-") // a file of your own, such as /etc/myservice.conf
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.Remove(file.Name())
	key, err := chanmq.FTok(file.Name(), 1)
	if err != nil {
		fmt.Println(err)
		return
	}

	// One program makes the queue, or opens it if it is there.
	mine, err := chanmq.Create(key, 0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer mine.Close()

	// The other opens it by the same key.
	theirs, err := chanmq.Open(key)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer theirs.Close()
	if err := theirs.Send(context.Background(), 1, []byte("hello")); err != nil {
		fmt.Println(err)
		return
	}

	m, err := mine.Receive(context.Background(), chanmq.Any())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("type %d: %s\n", m.Type, m.Value)
	// Output: type 1: hello
}

func ExampleQueue_Send() {
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()

	// The type, here 7, is what receivers select by.
	if err := q.Send(ctx, 7, []byte("hello")); err != nil {
		fmt.Println(err)
		return
	}

	m, err := q.Receive(ctx, chanmq.OfType(7))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("type %d: %s\n", m.Type, m.Value)
	// Output: type 7: hello
}

// The end of a ctx ends a receive that waits; no goroutine and no thread stays
// behind, and no message is taken by one that has ended.
func ExampleQueue_Receive_cancel() {
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	_, err = q.Receive(ctx, chanmq.Any())
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

// A loop over Messages takes each message when it asks for it, here the lowest
// type first, and leaves the rest where it is.
func ExampleQueue_Messages() {
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()
	const urgent, normal = 1, 2
	for _, m := range []chanmq.Message[[]byte]{
		{Type: normal, Value: []byte("water the plants")},
		{Type: normal, Value: []byte("read the mail")},
		{Type: urgent, Value: []byte("put out the fire")},
	} {
		if err := q.Send(ctx, m.Type, m.Value); err != nil {
			fmt.Println(err)
			return
		}
	}

	for m, err := range q.Messages(ctx, chanmq.UpTo(normal)) {
		if err != nil {
			fmt.Println(err) // ctx has ended, or the queue was removed
			return
		}
		fmt.Printf("%d: %s\n", m.Type, m.Value)
		if string(m.Value) == "water the plants" {
			break
		}
	}
	stat, err := q.Stat()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(stat.Messages, "left")
	// Output:
	// 1: put out the fire
	// 2: water the plants
	// 1 left
}

// A Receiver is ranged over like any channel. Removing the queue is to every
// process what close is to a channel.
func ExampleQueue_Receiver() {
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()
	for _, text := range []string{"one", "two", "three"} {
		if err := q.Send(ctx, 1, []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
	}

	r := q.Receiver(ctx, chanmq.Any())
	for m := range r.C() {
		fmt.Printf("%s\n", m.Value)
		if string(m.Value) == "three" {
			if err := q.Remove(); err != nil { // another process may do that as well
				fmt.Println(err)
				return
			}
		}
	}
	fmt.Println("removed:", errors.Is(r.Err(), chanmq.ErrRemoved))
	// Output:
	// one
	// two
	// three
	// removed: true
}

// A select waits for messages of several types, and for anything else.
func ExampleQueue_Receiver_select() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()
	const order, cancellation = 1, 2
	for _, m := range []chanmq.Message[[]byte]{
		{Type: order, Value: []byte("a book")},
		{Type: cancellation, Value: []byte("the pen")},
		{Type: order, Value: []byte("a lamp")},
	} {
		if err := q.Send(ctx, m.Type, m.Value); err != nil {
			fmt.Println(err)
			return
		}
	}

	orders := q.Receiver(ctx, chanmq.OfType(order))
	cancellations := q.Receiver(ctx, chanmq.OfType(cancellation))
	for range 3 {
		select {
		case m := <-orders.C():
			fmt.Printf("order: %s\n", m.Value)
		case m := <-cancellations.C():
			fmt.Printf("cancelled: %s\n", m.Value)
		case <-ctx.Done():
			fmt.Println(ctx.Err())
			return
		}
	}
	// Unordered output:
	// order: a book
	// order: a lamp
	// cancelled: the pen
}

// A typed view sends and receives values of one type.
func ExampleAs() {
	type Order struct {
		Item  string
		Count int
	}
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()

	orders := chanmq.As(q, codec.JSON[Order]())
	if err := orders.Send(ctx, 1, Order{"lamp", 2}); err != nil {
		fmt.Println(err)
		return
	}
	m, err := orders.Receive(ctx, chanmq.Any())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(m.Value.Count, m.Value.Item)
	// Output: 2 lamp
}

// A message that does not decode goes to another queue, and the Receiver goes on.
func ExampleWithDecodeError() {
	type Order struct{ Item string }
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()
	deadLetters, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer deadLetters.Close()
	for _, text := range []string{`{"Item":"lamp"}`, `Item=pen`, `{"Item":"book"}`} {
		if err := q.Send(ctx, 1, []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
	}

	r := chanmq.As(q, codec.JSON[Order]()).Receiver(ctx, chanmq.Any(),
		chanmq.WithDecodeError(func(e *chanmq.DecodeError) {
			if err := deadLetters.Send(ctx, e.Message.Type, e.Message.Value); err != nil {
				fmt.Println(err)
			}
		}))
	defer r.Close()
	for range 2 {
		m := <-r.C()
		fmt.Println("order:", m.Value.Item)
	}
	m, err := deadLetters.Receive(ctx, chanmq.Any())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("dead letter: %s\n", m.Value)
	// Output:
	// order: lamp
	// order: book
	// dead letter: Item=pen
}

// A program that sends through a channel selects on Done as well, since nobody
// receives from the channel once the Sender has ended.
func ExampleQueue_Sender() {
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()

	s := q.Sender(ctx, chanmq.WithBuffer(10))
	defer s.Close()
	for _, text := range []string{"one", "two", "three"} {
		select {
		case s.C() <- chanmq.Message[[]byte]{Type: 1, Value: []byte(text)}:
		case <-s.Done():
			fmt.Println(s.Err())
			return
		}
	}
	// What the channel has taken is in the kernel when Flush has returned nil.
	if err := s.Flush(ctx); err != nil {
		fmt.Println(err)
		return
	}
	stat, err := q.Stat()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(stat.Messages, "messages in the queue")
	// Output: 3 messages in the queue
}
