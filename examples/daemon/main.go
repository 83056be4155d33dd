// Command daemon is a service as it runs for years: four handlers on one queue, a journal,
// dead letters, logs, and an end by SIGTERM that loses nothing. Whatever ends it, the next
// start goes on where it was.
//
//	go run ./examples/daemon -key 0x2a02 &
//	go run ./examples/daemon -key 0x2a02 -ask greet World
//	go run ./examples/daemon -key 0x2a02 -ask count "to be or not to be"
//	go run ./examples/daemon -key 0x2a02 -ask log "something happened"
//	go run ./examples/daemon -key 0x2a02 -ask fail "it never works"
//	kill %1
//
// The queues have the key, for requests, and the next two, for replies and dead letters.
// They stay when the daemon ends, with what is in them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/serve"
)

// The types of requests.
var types = map[string]int64{"greet": 1, "count": 2, "log": 3, "fail": 4}

func main() {
	key := flag.Int("key", 0x2a02, "`key` of the queue for requests")
	ask := flag.Bool("ask", false, "ask the daemon: greet, count, log or fail, and a text")
	journal := flag.String("journal", "", "`directory` of the journal, on a tmpfs")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, chanmq.Key(*key), *journal, *ask, flag.Args())
	stop()
	if err != nil {
		slog.Error("daemon", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, key chanmq.Key, journal string, ask bool, args []string) (err error) {
	var opts []chanmq.Option
	if !ask {
		// Only what handles requests needs the journal.
		opts = append(opts, chanmq.WithJournal(journal))
	}
	requests, err := chanmq.Create(key, 0o600, opts...)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, requests.Close()) }()
	replies, err := chanmq.Create(key+1, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, replies.Close()) }()
	if ask {
		return request(ctx, requests, replies, args)
	}
	dead, err := chanmq.Create(key+2, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dead.Close()) }()
	return work(ctx, requests, replies, dead)
}

// work is the daemon. It returns nil when ctx has ended, and everything that it had taken is
// answered.
func work(ctx context.Context, requests, replies, dead *chanmq.Queue[[]byte]) error {
	text := codec.String()
	s := serve.NewServer(requests, replies, serve.WithDrainTime(10*time.Second))

	serve.Handle(s, chanmq.OfType(types["greet"]), text, text,
		serve.Log(slog.Default(), greet), serve.WithConcurrency(4), serve.WithMaxAttempts(3, dead))
	serve.Handle(s, chanmq.OfType(types["count"]), text, codec.JSON[int](),
		serve.Log(slog.Default(), serve.Timeout(time.Second, count)), serve.WithMaxAttempts(3, dead))
	serve.Consume(s, chanmq.OfType(types["log"]), text, func(_ context.Context, line string) error {
		slog.Info("from a client", "line", line)
		return nil
	}, serve.WithMaxAttempts(3, dead))
	serve.Consume(s, chanmq.OfType(types["fail"]), text, func(ctx context.Context, line string) error {
		info, _ := serve.Info(ctx)
		slog.Warn("failing", "line", line, "attempt", info.Attempt)
		return errors.New("as it always does")
	}, serve.WithMaxAttempts(3, dead), serve.WithRetryPause(10*time.Millisecond, time.Second))

	slog.Info("working", "requests", requests.ID(), "replies", replies.ID(), "dead letters", dead.ID())
	err := s.Run(ctx)
	slog.Info("ended", "stats", s.Stats())
	return err
}

func greet(_ context.Context, name string) (string, error) {
	if name == "" {
		return "", errors.New("a name is needed")
	}
	return "Hello, " + name + "!", nil
}

func count(_ context.Context, text string) (int, error) { return len(strings.Fields(text)), nil }

// request is a client of the daemon.
func request(ctx context.Context, requests, replies *chanmq.Queue[[]byte], args []string) error {
	if len(args) != 2 || types[args[0]] == 0 {
		return errors.New("-ask: want greet, count, log or fail, and a text")
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	what, value, text := args[0], args[1], codec.String()
	switch typ := types[what]; what {
	case "greet":
		c := serve.NewClient(requests, replies, typ, text, text)
		defer c.Close()
		greeting, err := c.Call(ctx, value)
		if err != nil {
			return err
		}
		fmt.Println(greeting)
		return nil
	case "count":
		c := serve.NewClient(requests, replies, typ, text, codec.JSON[int]())
		defer c.Close()
		words, err := c.Call(ctx, value)
		if err != nil {
			return err
		}
		fmt.Println(words, "words")
		return nil
	default:
		c := serve.NewClient(requests, replies, typ, text, text)
		defer c.Close()
		return c.Send(ctx, value, serve.WithTTL(time.Hour))
	}
}
