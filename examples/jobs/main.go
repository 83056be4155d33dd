// Command jobs is a daemon that prints documents, and that may be killed at any moment: no
// job is lost, and one that is finished is not done again.
//
//	go build ./examples/jobs
//	./jobs &
//	./jobs send 10x2 7x2 7x2 -1x2
//	sleep 0.1; kill -KILL %1; ./jobs
//
// The jobs are of 10, 7 and 7 pages, two on each sheet. The last one fails whenever it is
// tried, and becomes a dead letter:
//
//	./jobs dead
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

type job struct {
	ID       int `json:"id"`
	Pages    int `json:"pages"`
	PerSheet int `json:"per_sheet"`
}

type config struct {
	key      chanmq.Key // of the queue; the one of dead letters has the next key
	journal  string
	workers  int
	attempts int
	pause    time.Duration
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("jobs: ")
	var c config
	key := flag.Int("key", 0x2a02, "the `key` of the queue; that of dead letters has the next one")
	flag.StringVar(&c.journal, "journal", "", "the `directory` of the journals, on a tmpfs (default /dev/shm/chanmq-UID)")
	flag.IntVar(&c.workers, "workers", 3, "how many jobs are done at a time")
	flag.IntVar(&c.attempts, "attempts", 5, "how often a job is tried")
	flag.DurationVar(&c.pause, "pause", 200*time.Millisecond, "how long a job takes")
	flag.Parse()
	c.key = chanmq.Key(*key)

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	var err error
	switch flag.Arg(0) {
	case "":
		err = run(ctx, c)
	case "send":
		err = send(ctx, c, flag.Args()[1:])
	case "dead":
		err = showDead(c)
	default:
		err = fmt.Errorf("unknown command %q", flag.Arg(0))
	}
	if err != nil {
		log.Fatal(err)
	}
}

// run does jobs until ctx ends.
func run(ctx context.Context, c config) error {
	// A queue of its own: a daemon that sends to the queue that it receives from waits
	// forever when that is full.
	letters, err := chanmq.Create(c.key+1, 0o600)
	if err != nil {
		return err
	}
	defer letters.Close() // it holds nothing
	dead := deadLetters{ctx, letters}

	q, err := chanmq.Create(c.key, 0o600, chanmq.WithJournal(c.journal))
	if err != nil {
		return err
	}
	jobs := chanmq.As(q, codec.JSON[job]()).Consumer(ctx, chanmq.Any(),
		chanmq.WithInFlight(c.workers),
		chanmq.WithMaxAttempts(c.attempts, dead.giveUp),
		chanmq.WithDecodeError(dead.undecoded))
	var workers sync.WaitGroup
	for range c.workers {
		workers.Go(func() {
			for d := range jobs.C() {
				if err := do(d.Value, c.pause); err != nil {
					log.Printf("job %d, attempt %d: %v", d.Value.ID, d.Attempt, err)
					d.Nack() // it comes again
				} else if err := d.Ack(); err != nil { // it does not come again
					log.Print(err)
				} else {
					fmt.Println("finished", d.Value.ID)
				}
			}
		})
	}
	workers.Wait() // until the jobs are done that were under way when ctx ended

	if err = jobs.Err(); errors.Is(err, context.Canceled) {
		err = nil // an interrupt is the regular end
	}
	// What was taken and not begun goes back to the queue.
	ending, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, q.Shutdown(ending))
}

// deadLetters is where messages go that cannot be dealt with. If there is no room, the
// daemon waits until somebody has looked after them, or ctx ends.
type deadLetters struct {
	ctx context.Context
	q   *chanmq.Queue[[]byte]
}

// giveUp gets a job that has failed, or ended the process, too often.
func (dead deadLetters) giveUp(d chanmq.Delivery[[]byte]) {
	log.Printf("given up after %d attempts: %s", d.Attempt, d.Value)
	if err := dead.q.Send(dead.ctx, d.Type, d.Value); err != nil {
		d.Nack() // it comes again, to the next daemon
	}
}

func (dead deadLetters) undecoded(e *chanmq.DecodeError) {
	log.Print(e)
	if err := dead.q.Send(dead.ctx, e.Message.Type, e.Message.Value); err != nil {
		log.Printf("lost: %q: %v", e.Message.Value, err)
	}
}

// do does a job, where a real daemon would use a printer. A job with no pages on a sheet
// makes it panic, which ends the process.
func do(j job, pause time.Duration) error {
	time.Sleep(pause)
	if j.Pages < 0 {
		return fmt.Errorf("%d pages cannot be printed", j.Pages)
	}
	fmt.Println("printed", j.ID, "on", (j.Pages+j.PerSheet-1)/j.PerSheet)
	return nil
}

// send sends jobs, numbered from 1, such as 7x2: seven pages, two on each sheet. It needs
// no journal: a message that was sent is in the queue, whatever becomes of the sender.
func send(ctx context.Context, c config, texts []string) error {
	q, err := chanmq.Create(c.key, 0o600)
	if err != nil {
		return err
	}
	defer q.Close() // it holds nothing
	jobs := chanmq.As(q, codec.JSON[job]())
	for n, text := range texts {
		j := job{ID: n + 1}
		if _, err := fmt.Sscanf(text, "%dx%d", &j.Pages, &j.PerSheet); err != nil {
			return fmt.Errorf("%q is not a job, such as 7x2: %w", text, err)
		}
		if err := jobs.Send(ctx, 1, j); err != nil {
			return err
		}
	}
	return nil
}

// showDead prints the dead letters, and leaves them in their queue.
func showDead(c config) error {
	dead, err := chanmq.Open(c.key + 1)
	if err != nil {
		return err
	}
	defer dead.Close() // it holds nothing
	for m, err := range dead.Browse() {
		if err != nil {
			return err
		}
		fmt.Printf("%s\n", m.Value)
	}
	return nil
}
