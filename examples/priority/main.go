// Command priority is an inbox that delivers urgent messages first. The type of a
// message is its priority, with 1 the most urgent. UpTo(3) takes the oldest message
// of the lowest type in the queue, and leaves types over 3 in it.
//
//	go run ./examples/priority [-pause 200ms]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// The priorities. Types over routine are not for this inbox.
const (
	urgent   = 1
	normal   = 2
	routine  = 3
	tomorrow = 4
)

type message = chanmq.Message[string]

func main() {
	log.SetFlags(0)
	log.SetPrefix("priority: ")
	pause := flag.Duration("pause", 200*time.Millisecond, "how long each message takes to handle")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *pause)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, pause time.Duration) (err error) {
	queue, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, queue.Close()) }()
	inbox := chanmq.As(queue, codec.String())
	fmt.Printf("queue: msqid %d\n", queue.ID())

	if err := send(ctx, inbox,
		message{Type: routine, Value: "newsletter 1"},
		message{Type: routine, Value: "newsletter 2"},
		message{Type: tomorrow, Value: "spring cleaning"},
		message{Type: normal, Value: "invoice"},
		message{Type: urgent, Value: "disk full"},
	); err != nil {
		return err
	}

	// Receive, TryReceive and Messages read nothing ahead, so an urgent message
	// waits for at most one other. A Receiver holds one more.
	for {
		m, ok, err := inbox.TryReceive(chanmq.UpTo(routine))
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		fmt.Printf("received %d: %s\n", m.Type, m.Value)
		if m.Value == "newsletter 1" {
			// It overtakes the second newsletter, which has been waiting longer.
			if err := send(ctx, inbox, message{Type: urgent, Value: "disk still full"}); err != nil {
				return err
			}
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}

	stat, err := inbox.Stat()
	if err != nil {
		return err
	}
	fmt.Printf("left for others: %d\n", stat.Messages)
	return nil
}

func send(ctx context.Context, inbox *chanmq.Queue[string], messages ...message) error {
	for _, m := range messages {
		fmt.Printf("sent %d: %s\n", m.Type, m.Value)
		if err := inbox.Send(ctx, m.Type, m.Value); err != nil {
			return err
		}
	}
	return nil
}
