//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// sendNewest sends a message, and drops the oldest ones of its type while the queue is
// full. It reports false if the queue is full of messages of other types.
func sendNewest(q *chanmq.Queue[[]byte], typ int64, v []byte) (sent bool, err error) {
	for {
		if sent, err := q.TrySend(typ, v); sent || err != nil {
			return sent, err
		}
		if _, ok, err := q.TryReceive(chanmq.OfType(typ)); !ok || err != nil {
			return false, err
		}
	}
}

// receiveOrder receives what a C program sends as struct { long mtype; int id; double
// price; }.
func receiveOrder(ctx context.Context, q *chanmq.Queue[[]byte]) error {
	type Order struct { // the members after mtype
		ID    int32
		Price float64
	}
	orders := chanmq.As(q, codec.Struct[Order]())
	m, err := orders.Receive(ctx, chanmq.Any()) // m.Value is an Order
	if err != nil {
		return err
	}
	fmt.Printf("order %d: %.2f\n", m.Value.ID, m.Value.Price)
	return nil
}

// Two programs agree on a file and a number, from which both compute the key of their queue.
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

	// One program opens the queue, and creates it if it does not exist.
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

// A queue of measurements: when it is full, a new one replaces the oldest.
func ExampleQueue_TrySend() {
	const measurement = 1
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()
	if err := q.Set(chanmq.Attr{MaxBytes: 3 * len("0 C")}); err != nil {
		fmt.Println(err)
		return
	}

	for _, text := range []string{"1 C", "2 C", "3 C", "4 C", "5 C"} {
		if _, err := sendNewest(q, measurement, []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
	}
	for m, err := range q.Browse() {
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", m.Value)
	}
	// Output:
	// 3 C
	// 4 C
	// 5 C
}

// A program that ends well handles what its Receivers have taken: Shutdown waits until
// C has been read, and the rest stays in the queue for the next start.
func ExampleQueue_Shutdown() {
	q, err := chanmq.Private(0o600)
	if err != nil {
		fmt.Println(err)
		return
	}
	other, err := chanmq.Attach(q.ID(), chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer other.Close()
	for _, text := range []string{"one", "two", "three"} {
		if err := other.Send(context.Background(), 1, []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
	}

	r := q.Receiver(context.Background(), chanmq.Any())
	handled := 0
	var handling sync.WaitGroup
	handling.Go(func() {
		for range r.C() { // until Shutdown has closed it
			handled++
		}
	})

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := q.Shutdown(ctx); err != nil {
		fmt.Println(err) // such as an *UndeliveredError, which holds the messages
		return
	}
	handling.Wait()
	stat, err := other.Stat()
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("handled or in the queue:", handled+stat.Messages)
	// Output: handled or in the queue: 3
}

// The end of a ctx ends a receive that waits. No goroutine and no thread is left,
// and a receive that has ended takes no message.
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
// type first, and leaves the rest in the queue.
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
		case m, ok := <-orders.C():
			if !ok {
				fmt.Println(orders.Err()) // ctx has ended, or the queue was removed
				return
			}
			fmt.Printf("order: %s\n", m.Value)
		case m, ok := <-cancellations.C():
			if !ok {
				fmt.Println(cancellations.Err())
				return
			}
			fmt.Printf("cancelled: %s\n", m.Value)
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

// C programs send structs. Both sides of this example are in Go.
func ExampleAs_struct() {
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()

	type members struct {
		ID    int32
		Price float64
	}
	if err := chanmq.As(q, codec.Struct[members]()).Send(ctx, 1, members{7, 4.5}); err != nil {
		fmt.Println(err)
		return
	}
	if err := receiveOrder(ctx, q); err != nil {
		fmt.Println(err)
	}
	// Output: order 7: 4.50
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
		m, ok := <-r.C()
		if !ok {
			fmt.Println(r.Err())
			return
		}
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
