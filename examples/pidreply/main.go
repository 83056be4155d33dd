// Command pidreply answers C programs. Each sends questions in a struct with its
// pid, and receives answers of that type: the mtype is the return address. Several
// Go servers share the requests; it does not matter which of them answers.
//
//	go run ./examples/pidreply [-clients 3] [-servers 4] [-questions 5]
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

//go:embed client/client.c
var clientSource string

// The members after mtype of the structs in client.c.
type (
	question struct{ PID, Number int32 }
	answer   struct{ Number, Square int32 }
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("pidreply: ")
	clients := flag.Int("clients", 3, "how many C programs ask")
	servers := flag.Int("servers", 4, "how many goroutines answer")
	questions := flag.Int("questions", 5, "how many questions each client has")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *clients, *servers, *questions)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, clients, servers, questions int) (err error) {
	dir, err := os.MkdirTemp("", "pidreply-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	client, err := build(ctx, dir)
	if err != nil {
		return err
	}

	// Two queues, so that requests cannot take the space that answers need.
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
	fmt.Printf("requests: msqid %d, replies: msqid %d; %d clients, %d servers\n",
		requests.ID(), replies.ID(), clients, servers)

	// If anything fails, or on an interrupt, ctx ends, and with it everything else.
	group, ctx := errgroup.WithContext(ctx)
	asked := chanmq.As(requests, codec.Struct[question]()).Receiver(ctx, chanmq.Any())
	answers := chanmq.As(replies, codec.Struct[answer]())
	for range servers {
		group.Go(func() error {
			for m := range asked.C() {
				q := m.Value
				if err := answers.Send(ctx, int64(q.PID), answer{q.Number, q.Number * q.Number}); err != nil {
					return err
				}
			}
			return asked.Err()
		})
	}
	group.Go(func() error {
		defer asked.Close() // no more questions: this ends the servers
		var asking errgroup.Group
		for range clients {
			asking.Go(func() error {
				c := exec.CommandContext(ctx, client,
					strconv.Itoa(requests.ID()), strconv.Itoa(replies.ID()), strconv.Itoa(questions))
				c.Stdout, c.Stderr = os.Stdout, os.Stderr
				return c.Run()
			})
		}
		return asking.Wait()
	})
	if err := group.Wait(); err != nil {
		return err
	}
	fmt.Printf("%d questions answered\n", clients*questions)
	return nil
}

// build compiles the C program.
func build(ctx context.Context, dir string) (string, error) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return "", errors.New("there is no C compiler, cc (Debian: gcc libc6-dev)")
	}
	client := filepath.Join(dir, "client")
	c := exec.CommandContext(ctx, cc, "-o", client, "-x", "c", "-")
	c.Stdin = strings.NewReader(clientSource)
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cc: %w\n%s", err, out)
	}
	return client, nil
}
