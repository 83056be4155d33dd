//go:build linux

package interop_test

import (
	"context"
	"errors"
	"strconv"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/serve"
)

// The tests of requests and replies with the header of docs/envelope.md.

const squares = 20

var errOfZero = errors.New("not of 0")

// callQueues returns two queues and their addresses for the programs.
func callQueues(t *testing.T, l *language) (requests, replies *chanmq.Queue[[]byte], addresses []string) {
	t.Helper()
	requests, first := l.queue(t)
	replies, second := l.queue(t)
	return requests, replies, []string{first, second}
}

// The program asks a Server.
func serveClient(t *testing.T, l *language) {
	requests, replies, addresses := callQueues(t, l)
	s := serve.NewServer(requests, replies)
	serve.Handle(s, chanmq.OfType(1), codec.String(), codec.String(), func(_ context.Context, text string) (string, error) {
		n, err := strconv.Atoi(text)
		if n == 0 && err == nil {
			err = errOfZero
		}
		return strconv.Itoa(n * n), err
	})
	ctx, stop := context.WithCancel(deadlineContext(t))
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	got := l.start(t, "serve", append([]string{"client"}, append(addresses, strconv.Itoa(squares))...)...).wait()
	if want := "0: error 0: not of 0\nsum 2870"; got != want {
		t.Errorf("the program printed %q, want %q", got, want)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if stats := s.Stats(); stats.Handled != squares || stats.Failed != 1 {
		t.Errorf("%+v", stats)
	}
}

// A Client asks the program.
func serveServer(t *testing.T, l *language) {
	requests, replies, addresses := callQueues(t, l)
	program := l.start(t, "serve", append([]string{"server"}, append(addresses, strconv.Itoa(squares+1))...)...)
	c := serve.NewClient(requests, replies, 1, codec.String(), codec.String())
	defer c.Close()
	for n := range squares {
		got, err := c.Call(deadlineContext(t), strconv.Itoa(n+1))
		if want := strconv.Itoa((n + 1) * (n + 1)); got != want || err != nil {
			t.Errorf("the square of %d is %q, %v", n+1, got, err)
		}
	}
	var remote *serve.RemoteError
	if _, err := c.Call(deadlineContext(t), "0"); !errors.As(err, &remote) || remote.Code != 1001 || remote.Text != errOfZero.Error() {
		t.Errorf("the square of 0: %v", err)
	}
	if got, want := program.wait(), "answered"; got != want {
		t.Errorf("the program printed %q, want %q", got, want)
	}
}
