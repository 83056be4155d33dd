// Command phpworkers is a pool of Go workers that gets its jobs from a PHP program,
// like a web application that delegates slow work. PHP puts jobs into a queue as
// JSON; the workers share one channel.
//
//	go run ./examples/phpworkers [-jobs 20] [-workers 3]
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

//go:embed feeder.php
var feeder string

// endType is the type of the message after the last job.
const endType = 2

type job struct {
	ID   int    `json:"id"`
	Task string `json:"task"`
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("phpworkers: ")
	jobs := flag.Int("jobs", 20, "how many jobs PHP sends")
	workers := flag.Int("workers", 3, "how many goroutines work")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *jobs, *workers)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, jobs, workers int) (err error) {
	php, err := exec.LookPath("php")
	if err != nil {
		return errors.New("php is not installed (Debian: php-cli)")
	}
	queue, err := newQueue()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, queue.Close()) }() // also removes it
	fmt.Printf("queue: key %v, msqid %d; %d jobs for %d workers\n", queue.Key(), queue.ID(), jobs, workers)

	// If PHP fails, or on an interrupt, ctx ends, and with it everything else.
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		feed := exec.CommandContext(ctx, php, "--", strconv.Itoa(int(queue.Key())), strconv.Itoa(jobs))
		feed.Stdin = strings.NewReader(feeder)
		feed.Stderr = os.Stderr
		return feed.Run()
	})

	var done atomic.Int64
	received := chanmq.As(queue, codec.JSON[job]()).Receiver(ctx, chanmq.Any())
	for worker := range workers {
		group.Go(func() error {
			for m := range received.C() {
				if m.Type == endType {
					received.Close() // ends the loop of every worker
					break
				}
				fmt.Printf("worker %d: job %d: %s\n", worker+1, m.Value.ID, m.Value.Task)
				done.Add(1)
			}
			return received.Err()
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	fmt.Printf("%d jobs done\n", done.Load())
	return nil
}

// newQueue creates a queue with an unused key: PHP opens queues by key. A real
// program has a key that both sides know.
func newQueue() (*chanmq.Queue[[]byte], error) {
	for {
		key := chanmq.Key(rand.Int32() | 1) // never 0
		q, err := chanmq.Create(key, 0o600, chanmq.WithExclusive(), chanmq.WithRemoveOnClose())
		if !errors.Is(err, fs.ErrExist) {
			return q, err
		}
	}
}
