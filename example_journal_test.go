//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/chanmq/chanmq"
)

// A message that was taken is in the program's hands until it is acknowledged, or given
// back to be delivered again, before newer ones.
func ExampleQueue_Take() {
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose()) // and WithJournal
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()
	for _, text := range []string{"one", "two"} {
		if err := q.Send(ctx, 1, []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
	}

	printerJams := true
	for range 3 {
		d, err := q.Take(ctx, chanmq.OfType(1))
		if err != nil {
			fmt.Println(err)
			return
		}
		if printerJams {
			printerJams = false
			err = d.Nack()
		} else {
			fmt.Printf("%s, attempt %d\n", d.Value, d.Attempt)
			err = d.Ack()
		}
		if err != nil {
			fmt.Println(err)
			return
		}
	}
	// Output:
	// one, attempt 2
	// two, attempt 1
}

// Two workers share a channel, and each acknowledges what it has done.
func ExampleQueue_Consumer() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose()) // and WithJournal
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()
	for _, text := range []string{"one", "two", "three", "end"} {
		if err := q.Send(ctx, 1, []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
	}

	jobs := q.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(2))
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for d := range jobs.C() {
				fmt.Printf("%s\n", d.Value)
				if err := d.Ack(); err != nil {
					fmt.Println(err)
				}
				if string(d.Value) == "end" {
					cancel() // as an interrupt does
				}
			}
		})
	}
	workers.Wait()
	fmt.Println("canceled:", errors.Is(jobs.Err(), context.Canceled))
	// Unordered output:
	// one
	// two
	// three
	// end
	// canceled: true
}

// A message that fails whenever it is tried goes to another queue. With a journal that is
// also true of one that has killed the process each time.
func ExampleWithMaxAttempts() {
	ctx := context.Background()
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose()) // and WithJournal
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
	for _, text := range []string{"-1 pages", "10 pages"} {
		if err := q.Send(ctx, 1, []byte(text)); err != nil {
			fmt.Println(err)
			return
		}
	}

	jobs := q.Consumer(ctx, chanmq.Any(), chanmq.WithMaxAttempts(3,
		func(d chanmq.Delivery[[]byte]) {
			if err := deadLetters.Send(ctx, d.Type, d.Value); err != nil {
				d.Nack() // or it would be lost
			}
		}))
	defer jobs.Close()
	for d := range jobs.C() {
		if d.Value[0] == '-' {
			fmt.Printf("attempt %d of %q failed\n", d.Attempt, d.Value)
			d.Nack()
			continue
		}
		fmt.Printf("printed %q\n", d.Value)
		d.Ack()
		break
	}
	m, err := deadLetters.Receive(ctx, chanmq.Any())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("dead letter: %q\n", m.Value)
	// Output:
	// attempt 1 of "-1 pages" failed
	// attempt 2 of "-1 pages" failed
	// attempt 3 of "-1 pages" failed
	// printed "10 pages"
	// dead letter: "-1 pages"
}

// What a process had taken when it died, from a queue that does not exist any more, is
// sent to another queue.
func ExampleOrphans() {
	dir, left, err := leaveOrphans() // instead of "", for a test
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		fmt.Println(err)
		return
	}
	defer q.Close()

	orphans, err := chanmq.Orphans(dir)
	if err != nil {
		fmt.Println(err) // a file that is no journal; the others are returned
	}
	saved := 0
	for _, o := range orphans {
		for _, d := range o.Deliveries {
			if err := q.Send(context.Background(), d.Type, d.Value); err != nil {
				fmt.Println(err)
				break // the rest stays in the journal
			}
			if err := d.Ack(); err != nil {
				fmt.Println(err)
			}
			saved++
		}
		if err := o.Close(); err != nil {
			fmt.Println(err)
		}
	}
	fmt.Println("saved all of them:", saved == left)
	// Output: saved all of them: true
}

// leaveOrphans returns a directory with a journal whose queue was removed, and how many
// messages are in it. Where there can be no journals, there is no such directory.
func leaveOrphans() (dir string, left int, err error) {
	dir, err = os.MkdirTemp("/dev/shm", "chanmq-example-")
	if err != nil {
		return "/dev/shm/chanmq-none", 0, nil
	}
	q, err := chanmq.Private(0o600, chanmq.WithJournal(dir))
	if errors.Is(err, errors.ErrUnsupported) {
		return dir, 0, os.Remove(dir)
	}
	if err != nil {
		return "", 0, errors.Join(err, os.Remove(dir))
	}
	for range 2 {
		err = errors.Join(err, q.Send(context.Background(), 1, []byte("a letter")))
		d, takeErr := q.Take(context.Background(), chanmq.Any())
		err = errors.Join(err, takeErr)
		defer d.Nack() // there is no queue to give it back to, so it stays in the journal
	}
	return dir, 2, errors.Join(err, q.Remove(), q.Close())
}
