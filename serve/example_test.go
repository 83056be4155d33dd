//go:build linux

package serve_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/serve"
)

// Terms is what the examples ask to be added.
type Terms struct{ A, B int }

// private opens a queue for an example, which is removed when it is closed. A program
// opens its queues by key: chanmq.Create.
func private() *chanmq.Queue[[]byte] {
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		panic(err)
	}
	return q
}

// runUntil runs a server until the function that it returns is called.
func runUntil(s *serve.Server) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			fmt.Println(err)
		}
	}
}

// A server in one process, and a client in another, or in the same one as here.
func Example() {
	requests, replies := private(), private()
	defer requests.Close()
	defer replies.Close()

	s := serve.NewServer(requests, replies)
	serve.Handle(s, chanmq.OfType(1), codec.JSON[Terms](), codec.JSON[int](),
		func(ctx context.Context, t Terms) (int, error) {
			return t.A + t.B, nil
		})
	end := runUntil(s)
	defer end()

	client := serve.NewClient(requests, replies, 1, codec.JSON[Terms](), codec.JSON[int]())
	defer client.Close()
	sum, err := client.Call(context.Background(), Terms{2, 3})
	fmt.Println(sum, err)
	// Output: 5 <nil>
}

// What a handler returns as an error is an error at the caller, with a code if the
// program wants one.
func ExampleRemoteError() {
	requests, replies := private(), private()
	defer requests.Close()
	defer replies.Close()

	const codeDivision serve.Code = 1001
	s := serve.NewServer(requests, replies)
	serve.Handle(s, chanmq.OfType(1), codec.JSON[Terms](), codec.JSON[int](),
		func(ctx context.Context, t Terms) (int, error) {
			if t.B == 0 {
				return 0, &serve.RemoteError{Code: codeDivision, Text: "division by zero"}
			}
			return t.A / t.B, nil
		})
	end := runUntil(s)
	defer end()

	client := serve.NewClient(requests, replies, 1, codec.JSON[Terms](), codec.JSON[int]())
	defer client.Close()
	_, err := client.Call(context.Background(), Terms{1, 0})
	var remote *serve.RemoteError
	fmt.Println(errors.As(err, &remote) && remote.Code == codeDivision)
	fmt.Println(err)
	// Output:
	// true
	// serve: the server answers: division by zero
}

// A message whose handler fails is delivered again, and then given up.
func ExampleConsume() {
	jobs, dead := private(), private()
	defer jobs.Close()
	defer dead.Close()

	s := serve.NewServer(jobs, nil)
	serve.Consume(s, chanmq.OfType(1), codec.String(),
		func(ctx context.Context, job string) error {
			info, _ := serve.Info(ctx)
			fmt.Printf("%s, attempt %d\n", job, info.Attempt)
			return errors.New("the printer is out of paper")
		},
		serve.WithMaxAttempts(2, dead), serve.WithRetryPause(time.Millisecond, time.Second))
	end := runUntil(s)
	defer end()

	ctx := context.Background()
	if err := chanmq.As(jobs, codec.String()).Send(ctx, 1, "print"); err != nil {
		fmt.Println(err)
	}
	m, err := chanmq.As(dead, serve.DeadLetterCodec()).Receive(ctx, chanmq.Any())
	if err != nil {
		fmt.Println(err)
	}
	fmt.Printf("%s: %s\n", m.Value.Text, m.Value.Reason)
	// Output:
	// print, attempt 1
	// print, attempt 2
	// print: the printer is out of paper
}

// A request that has waited for too long is not handled, and its caller hears of it.
func ExampleWithTTL() {
	requests, replies := private(), private()
	defer requests.Close()
	defer replies.Close()

	client := serve.NewClient(requests, replies, 1, codec.JSON[Terms](), codec.JSON[int](), serve.WithTTL(time.Millisecond))
	defer client.Close()
	answer := make(chan error)
	go func() {
		_, err := client.Call(context.Background(), Terms{2, 3})
		answer <- err
	}()

	time.Sleep(50 * time.Millisecond) // the server is late
	s := serve.NewServer(requests, replies)
	serve.Handle(s, chanmq.OfType(1), codec.JSON[Terms](), codec.JSON[int](),
		func(ctx context.Context, t Terms) (int, error) { return t.A + t.B, nil })
	end := runUntil(s)
	defer end()

	fmt.Println(errors.Is(<-answer, serve.ErrExpired))
	// Output: true
}

// A C program sends a struct that names the type of the reply: its pid.
func ExampleHandleBare() {
	requests, replies := private(), private()
	defer requests.Close()
	defer replies.Close()

	type question struct{ PID, Number int32 }
	type answer struct{ Number, Square int32 }
	s := serve.NewServer(requests, replies)
	serve.HandleBare(s, chanmq.OfType(1), codec.Struct[question](), codec.Struct[answer](),
		func(q question, typ int64) int64 { return int64(q.PID) },
		func(ctx context.Context, q question) (answer, error) {
			return answer{q.Number, q.Number * q.Number}, nil
		})
	end := runUntil(s)
	defer end()

	// A server in C is called the same way.
	client := serve.NewBareClient(requests, replies, 1, codec.Struct[question](), codec.Struct[answer](),
		func(q *question, unique int64) int64 {
			q.PID = int32(os.Getpid())
			return int64(q.PID)
		})
	defer client.Close()
	a, err := client.Call(context.Background(), question{Number: 7})
	fmt.Println(a.Square, err)
	// Output: 49 <nil>
}
