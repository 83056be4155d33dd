// Command priorityserver answers urgent requests first. The type of a request is its
// priority: one handler takes UpTo(3), so that a worker which is free takes the oldest
// request of the lowest type.
//
//	go run ./examples/priorityserver [-work 100ms]
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

	"golang.org/x/sync/errgroup"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/serve"
)

// The priorities.
const (
	urgent  = 1
	normal  = 2
	routine = 3
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("priorityserver: ")
	work := flag.Duration("work", 100*time.Millisecond, "how long each request takes")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *work)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, work time.Duration) (err error) {
	requests, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, requests.Close()) }()
	replies, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, replies.Close()) }()
	fmt.Printf("requests: msqid %d, replies: msqid %d\n", requests.ID(), replies.ID())

	// Everybody asks before the server begins, routine requests first.
	var asking errgroup.Group
	for _, ask := range []struct {
		priority int64
		what     string
	}{{routine, "newsletter"}, {normal, "invoice"}, {urgent, "disk full"}} {
		client := serve.NewClient(requests, replies, ask.priority, codec.String(), codec.String())
		defer client.Close()
		asking.Go(func() error {
			_, err := client.Call(ctx, ask.what)
			return err
		})
		if err := awaitRequest(ctx, requests, ask.priority); err != nil {
			return err
		}
	}

	s := serve.NewServer(requests, replies)
	serve.Handle(s, chanmq.UpTo(routine), codec.String(), codec.String(), func(ctx context.Context, what string) (string, error) {
		info, _ := serve.Info(ctx)
		fmt.Printf("priority %d: %s\n", info.Type, what)
		select {
		case <-time.After(work):
			return "done: " + what, nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	})
	serving, done := context.WithCancel(ctx)
	defer done()
	var server errgroup.Group
	server.Go(func() error { return s.Run(serving) })
	err = asking.Wait()
	done()
	return errors.Join(err, server.Wait())
}

// awaitRequest waits until a request of the type is in the queue.
func awaitRequest(ctx context.Context, q *chanmq.Queue[[]byte], typ int64) error {
	for ctx.Err() == nil {
		for m, err := range q.Browse() {
			if err != nil {
				return err
			}
			if m.Type == typ {
				return nil
			}
		}
		time.Sleep(time.Millisecond)
	}
	return ctx.Err()
}
