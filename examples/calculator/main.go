// Command calculator is the calculator of the tutorials: a server that adds, subtracts,
// multiplies and divides, for clients in C and in Go. They send a struct that names the
// type of the reply, so that any number of them can ask at once.
//
//	go run ./examples/calculator
package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"log"
	"math"
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
	"github.com/chanmq/chanmq/serve"
)

//go:embed client/client.c
var clientSource string

// The members after mtype of the structs in client.c. Go and C lay them out alike; the
// compilers pad the first one at its end.
type (
	request struct {
		ReplyTo int32
		A, B    int32
		Op      byte
	}
	reply struct {
		Result int32
		Error  [60]byte
	}
)

var (
	requestCodec = codec.Struct[request]()
	replyCodec   = codec.Struct[reply]()
)

// sums are what the clients ask.
var sums = []request{{A: 2, B: 3, Op: '+'}, {A: 2, B: 3, Op: '-'}, {A: 6, B: 7, Op: '*'}, {A: 7, B: 2, Op: '/'}, {A: 1, B: 0, Op: '/'}}

func main() {
	log.SetFlags(0)
	log.SetPrefix("calculator: ")
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) (err error) {
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

	s := serve.NewServer(requests, replies)
	serve.HandleBare(s, chanmq.OfType(1), requestCodec, replyCodec,
		func(q request, _ int64) int64 { return int64(q.ReplyTo) }, calculate, serve.WithConcurrency(2))

	serving, done := context.WithCancel(ctx)
	defer done()
	var group errgroup.Group
	group.Go(func() error { return s.Run(serving) })
	err = errors.Join(askInC(ctx, requests, replies), ask(ctx, requests, replies))
	done() // the server answers what it has taken, and returns
	return errors.Join(err, group.Wait())
}

// calculate is the handler. What goes wrong is part of the reply, since clients in C
// would wait for one otherwise.
func calculate(_ context.Context, q request) (r reply, _ error) {
	a, b := int64(q.A), int64(q.B)
	var n int64
	problem := ""
	switch q.Op {
	case '+':
		n = a + b
	case '-':
		n = a - b
	case '*':
		n = a * b
	case '/':
		if b == 0 {
			problem = "division by zero"
			break
		}
		n = a / b
	default:
		problem = fmt.Sprintf("unknown operation %q", q.Op)
	}
	if n > math.MaxInt32 || n < math.MinInt32 {
		problem = "the result is too large"
	}
	r.Result = int32(n)
	copy(r.Error[:len(r.Error)-1], problem)
	return r, nil
}

// ask is a client in Go.
func ask(ctx context.Context, requests, replies *chanmq.Queue[[]byte]) error {
	c := serve.NewBareClient(requests, replies, 1, requestCodec, replyCodec, func(q *request, unique int64) int64 {
		q.ReplyTo = int32(unique)
		return unique
	})
	defer c.Close()
	for _, q := range sums {
		r, err := c.Call(ctx, q)
		if err != nil {
			return err
		}
		if problem := strings.TrimRight(string(r.Error[:]), "\x00"); problem != "" {
			fmt.Printf("Go: %d %c %d: %s\n", q.A, q.Op, q.B, problem)
			continue
		}
		fmt.Printf("Go: %d %c %d = %d\n", q.A, q.Op, q.B, r.Result)
	}
	return nil
}

// askInC compiles the client in C, and runs it.
func askInC(ctx context.Context, requests, replies *chanmq.Queue[[]byte]) error {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return errors.New("there is no C compiler, cc (Debian: gcc libc6-dev)")
	}
	dir, err := os.MkdirTemp("", "calculator-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	client := filepath.Join(dir, "client")
	build := exec.CommandContext(ctx, cc, "-o", client, "-x", "c", "-")
	build.Stdin = strings.NewReader(clientSource)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("cc: %w\n%s", err, out)
	}
	var input strings.Builder
	for _, q := range sums {
		fmt.Fprintf(&input, "%d %c %d\n", q.A, q.Op, q.B)
	}
	c := exec.CommandContext(ctx, client, strconv.Itoa(requests.ID()), strconv.Itoa(replies.ID()))
	c.Stdin, c.Stdout, c.Stderr = strings.NewReader(input.String()), os.Stdout, os.Stderr
	return c.Run()
}
