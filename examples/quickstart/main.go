// Command quickstart answers orders and prints alarms until it is interrupted.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/chanmq/chanmq"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	if err := run(ctx); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	q, err := chanmq.Create(0x2a01, 0o600) // open the queue, or create it
	if err != nil {
		return err
	}
	err = serve(ctx, q)
	if errors.Is(err, context.Canceled) {
		err = nil // an interrupt is the regular end
	}
	// What the Receivers had taken and serve did not read goes back to the queue.
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, q.Shutdown(ending))
}

func serve(ctx context.Context, q *chanmq.Queue[[]byte]) error {
	orders := q.Receiver(ctx, chanmq.OfType(1))
	alarms := q.Receiver(ctx, chanmq.OfType(2))
	for {
		select {
		case m, ok := <-orders.C():
			if !ok {
				return orders.Err() // ctx has ended, or the queue was removed
			}
			fmt.Printf("order: %s\n", m.Value)
			if err := q.Send(ctx, 11, []byte("thank you")); err != nil {
				log.Print("an order was not answered: ", err)
			}
		case m, ok := <-alarms.C():
			if !ok {
				return alarms.Err()
			}
			fmt.Printf("alarm: %s\n", m.Value)
		}
	}
}
