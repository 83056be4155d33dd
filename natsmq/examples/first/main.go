// Command first sends three messages through a queue on a NATS server, and receives them.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/natsmq"
)

func main() {
	url := nats.DefaultURL // nats://127.0.0.1:4222
	if len(os.Args) > 1 {
		url = os.Args[1]
	}
	if err := run(url); err != nil {
		log.Fatal(err)
	}
}

func run(url string) (err error) {
	nc, err := nats.Connect(url, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer nc.Close() // last
	cluster, err := natsmq.New(nc)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }() // behind its handles
	q, err := chanmq.Create(0x4d51, 0o600, cluster.Option(), chanmq.WithRemoveOnClose())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for _, order := range []string{"two lamps", "a table", "four chairs"} {
		if err := q.Send(ctx, 1, []byte(order)); err != nil {
			return err
		}
	}
	for range 3 {
		d, err := q.Take(ctx, chanmq.OfType(1)) // it stays in the queue until Ack
		if err != nil {
			return err
		}
		fmt.Printf("order: %s\n", d.Value)
		if err := d.Ack(); err != nil {
			return err
		}
	}
	return nil
}
