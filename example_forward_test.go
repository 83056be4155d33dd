//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/chanmq/chanmq"
)

// The messages of one queue that are too urgent for it are moved to another, until
// ctx ends.
func ExampleForward() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	inbox, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer inbox.Close()
	urgent, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer urgent.Close()

	forwarded := make(chan error, 1)
	go func() { forwarded <- chanmq.Forward(ctx, urgent, inbox, chanmq.UpTo(10)) }()

	for _, m := range []chanmq.Message[[]byte]{
		{Type: 5, Value: []byte("put out the fire")},
		{Type: 50, Value: []byte("water the plants")},
	} {
		if err := inbox.Send(ctx, m.Type, m.Value); err != nil {
			fmt.Println(err)
			return
		}
	}
	m, err := urgent.Receive(ctx, chanmq.Any())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("urgent: type %d: %s\n", m.Type, m.Value)

	// Forward always ends with an error. A message that it has taken and could not
	// send is in inbox again by then.
	cancel()
	fmt.Println("canceled:", errors.Is(<-forwarded, context.Canceled))
	m, err = inbox.Receive(context.Background(), chanmq.Any())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("inbox: type %d: %s\n", m.Type, m.Value)
	// Output:
	// urgent: type 5: put out the fire
	// canceled: true
	// inbox: type 50: water the plants
}

// One loop reads several queues, and ends when one of them is no longer there.
func ExampleMerge() {
	ctx := context.Background()
	var queues []*chanmq.Queue[[]byte]
	var receivers []*chanmq.Receiver[[]byte]
	for _, city := range []string{"Bonn", "Kyiv", "Lima"} {
		q, err := chanmq.Private(0o600)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer q.Close()
		defer q.Remove()
		if err := q.Send(ctx, 1, []byte(city)); err != nil {
			fmt.Println(err)
			return
		}
		queues = append(queues, q)
		receivers = append(receivers, q.Receiver(ctx, chanmq.Any()))
	}

	merged := chanmq.Merge(receivers...)
	defer merged.Close()
	read := 0
	for m := range merged.C() {
		fmt.Printf("%s\n", m.Value)
		if read++; read == len(queues) {
			if err := queues[1].Remove(); err != nil {
				fmt.Println(err)
				return
			}
		}
	}
	fmt.Println("removed:", errors.Is(merged.Err(), chanmq.ErrRemoved))
	// Unordered output:
	// Bonn
	// Kyiv
	// Lima
	// removed: true
}

// Where only the newest values count, a message that finds no room takes the place
// of the oldest one of its type.
func ExampleQueue_TrySend_dropOldest() {
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()
	if err := q.Set(chanmq.Attr{MaxBytes: 3}); err != nil { // room for three
		fmt.Println(err)
		return
	}

	send := func(typ int64, v []byte) (sent bool, err error) {
		sent, err = q.TrySend(typ, v)
		if err == nil && !sent {
			if _, _, err = q.TryReceive(chanmq.OfType(typ)); err == nil {
				sent, err = q.TrySend(typ, v)
			}
		}
		return sent, err
	}
	for _, text := range []string{"a", "b", "c", "d", "e"} {
		if sent, err := send(1, []byte(text)); err != nil || !sent {
			fmt.Println(sent, err)
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
	// c
	// d
	// e
}
