// Command serverpool has several server processes on one queue. Whichever is free takes the
// next request. The program kills one of them in the middle of its work: the request that
// it had is handled by another one, since the queue has a journal.
//
//	go run ./examples/serverpool [-servers 3] [-requests 20] [-work 50ms]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/serve"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("serverpool: ")
	servers := flag.Int("servers", 3, "how many processes answer")
	requests := flag.Int("requests", 20, "how many requests there are")
	work := flag.Duration("work", 50*time.Millisecond, "how long each of them takes")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	var err error
	if flag.NArg() == 3 { // this process is one of the pool
		err = server(ctx, flag.Arg(0), flag.Arg(1), flag.Arg(2), *work)
	} else {
		err = pool(ctx, *servers, *requests, *work)
	}
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

// server answers until ctx ends: msqids of the queues, and the directory of the journal.
func server(ctx context.Context, requestsID, repliesID, journal string, work time.Duration) (err error) {
	requests, err := attach(requestsID, chanmq.WithJournal(journal))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, requests.Close()) }()
	replies, err := attach(repliesID)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, replies.Close()) }()
	s := serve.NewServer(requests, replies)
	serve.Handle(s, chanmq.OfType(1), codec.JSON[int](), codec.JSON[string](), func(ctx context.Context, n int) (string, error) {
		time.Sleep(work)
		info, _ := serve.Info(ctx)
		return fmt.Sprintf("%d squared is %d (process %d, attempt %d)", n, n*n, os.Getpid(), info.Attempt), nil
	})
	return s.Run(ctx)
}

func attach(id string, opts ...chanmq.Option) (*chanmq.Queue[[]byte], error) {
	n, err := strconv.Atoi(id)
	if err != nil {
		return nil, err
	}
	return chanmq.Attach(n, opts...)
}

// pool starts the servers, and asks.
func pool(ctx context.Context, servers, n int, work time.Duration) (err error) {
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
	journal, err := os.MkdirTemp("/dev/shm", "serverpool-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(journal)
	fmt.Printf("requests: msqid %d, replies: msqid %d\n", requests.ID(), replies.ID())

	self, err := os.Executable()
	if err != nil {
		return err
	}
	var processes []*exec.Cmd
	for range servers {
		cmd := exec.Command(self, "-work", work.String(), strconv.Itoa(requests.ID()), strconv.Itoa(replies.ID()), journal)
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return err
		}
		processes = append(processes, cmd)
		defer func() {
			_ = cmd.Process.Signal(syscall.SIGTERM) // it answers what it has taken
			_ = cmd.Wait()
		}()
	}

	client := serve.NewClient(requests, replies, 1, codec.JSON[int](), codec.JSON[string]())
	defer client.Close()
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(2 * servers) // so that each server has something to do
	for i := range n {
		asking.Go(func() error {
			answer, err := client.Call(ctx, i)
			if err == nil {
				fmt.Println(answer)
			}
			return err
		})
		if i == n/2 && servers > 1 {
			_ = processes[0].Process.Kill() // its request comes to another one
		}
	}
	return asking.Wait()
}
