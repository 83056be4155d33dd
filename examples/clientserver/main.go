// Clientserver is the classic exercise for message queues: three clients send
// integers to one server and wait for its answers, all over one queue.
//
// Client number id, 1 to 3, sends each integer that it reads as a message of
// type id, and waits for an answer of type id+3. The server takes the requests
// of all clients, the lowest type first, and answers with the type plus 3 and
// the integer plus 8. In C a message is
//
//	struct { long mtype; int data; };
//
// Without arguments the program creates a queue, starts the server and the three
// clients as processes, and removes the queue at the end:
//
//	go run ./examples/clientserver
//
// With -role it is only one side, with the key of ftok(3) for a file and a project
// id, so that the other side can be a program in another language:
//
//	clientserver -role server -file /etc/hostname -proj 1
//	echo 1 2 3 | clientserver -role client -id 2 -file /etc/hostname -proj 1
//
// The server creates the queue, and removes it when it is interrupted.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

const (
	clients  = 3 // their ids, and the types of their requests, are 1 to 3
	addType  = 3 // the server adds this to the type
	addValue = 8 // and this to the integer
)

// payload has the members after mtype in C's struct.
type payload struct{ Data int32 }

func main() {
	role := flag.String("role", "", "`server or client`: run one side only")
	id := flag.Int("id", 0, "number of the client, 1 to 3")
	file := flag.String("file", "", "an existing `path`, for ftok")
	proj := flag.Int("proj", 1, "project id, 1 to 255, for ftok")
	msqid := flag.Int("msqid", -1, "attach to the queue with this msqid, in place of -file and -proj")
	flag.Parse()

	ctx, stop := context.WithCancel(context.Background())
	if *role != "client" {
		// An interrupt ends every wait, and so the program, which removes the
		// queue. A client has nothing to clean up, and ctx does not end its
		// reading of standard input, so an interrupt kills it as usual.
		ctx, stop = signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	}
	err := run(ctx, side{*role, *id, *file, *proj, *msqid}, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "clientserver:", err)
		os.Exit(1)
	}
}

// side is one side of the exercise, as chosen on the command line.
type side struct {
	role  string
	id    int
	file  string
	proj  int
	msqid int
}

func run(ctx context.Context, s side, args []string) error {
	switch {
	case len(args) > 0:
		return fmt.Errorf("unexpected argument %q; a client reads its integers from standard input", args[0])
	case s.role == "":
		return demonstrate(ctx)
	case s.role != "server" && s.role != "client":
		return fmt.Errorf("-role %q: want server or client", s.role)
	case s.role == "client" && (s.id < 1 || s.id > clients):
		return fmt.Errorf("-id %d: a client's number is 1 to %d", s.id, clients)
	case s.msqid < 0 && s.file == "":
		return errors.New("-file is missing: the path of a file that both sides know")
	case s.msqid < 0 && (s.proj < 1 || s.proj > 255):
		return fmt.Errorf("-proj %d: a project id is 1 to 255", s.proj)
	}
	q, err := s.open()
	if err != nil {
		return err
	}
	if s.role == "server" {
		err = serve(ctx, q)
	} else {
		err = request(ctx, q, int64(s.id), os.Stdin, os.Stdout)
	}
	return errors.Join(err, q.Close())
}

// open opens the queue. Only a server with an ftok key creates and removes it.
func (s side) open() (*chanmq.Queue[[]byte], error) {
	if s.msqid >= 0 {
		return chanmq.Attach(s.msqid)
	}
	key, err := chanmq.FTok(s.file, byte(s.proj))
	if err != nil {
		return nil, err
	}
	if s.role == "server" {
		return chanmq.Create(key, 0o600, chanmq.WithRemoveOnClose())
	}
	return chanmq.Open(key)
}

// serve answers requests until ctx ends.
func serve(ctx context.Context, raw *chanmq.Queue[[]byte]) error {
	q := chanmq.As(raw, codec.Struct[payload]())
	requests := q.Receiver(ctx, chanmq.UpTo(clients),
		chanmq.WithDecodeError(func(e *chanmq.DecodeError) { fmt.Fprintln(os.Stderr, "server:", e) }))
	for m := range requests.C() {
		err := q.Send(ctx, m.Type+addType, payload{m.Value.Data + addValue})
		if err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return nil // an interrupt is the regular end of a server
	}
	return requests.Err()
}

// request, as client id, sends the integers that it reads, and prints the answers.
func request(ctx context.Context, raw *chanmq.Queue[[]byte], id int64, in io.Reader, out io.Writer) error {
	q := chanmq.As(raw, codec.Struct[payload]())
	words := bufio.NewScanner(in)
	words.Split(bufio.ScanWords)
	for words.Scan() {
		n, err := strconv.ParseInt(words.Text(), 10, 32)
		if err != nil {
			return fmt.Errorf("client %d: %q is not an integer of 32 bits", id, words.Text())
		}
		if err := q.Send(ctx, id, payload{int32(n)}); err != nil {
			return err
		}
		answer, err := q.Receive(ctx, chanmq.OfType(id+addType))
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "client %d sent %d, got %d\n", id, n, answer.Value.Data)
		if answer.Value.Data != int32(n)+addValue {
			return fmt.Errorf("client %d: the answer to %d is %d, want %d", id, n, answer.Value.Data, int32(n)+addValue)
		}
	}
	return words.Err()
}

// demonstrate runs all sides as processes on a private queue.
func demonstrate(ctx context.Context) (err error) {
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// start runs one side. When ctx ends, the process is interrupted, not killed.
	start := func(ctx context.Context, input string, args ...string) (*exec.Cmd, error) {
		cmd := exec.CommandContext(ctx, self, append(args, "-msqid", strconv.Itoa(q.ID()))...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), os.Stdout, os.Stderr
		cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
		return cmd, cmd.Start()
	}

	// Without the server, clients would wait forever, so its end stops them.
	clientCtx, stopClients := context.WithCancel(ctx)
	defer stopClients()
	serverCtx, stopServer := context.WithCancel(ctx)
	defer stopServer()
	server, err := start(serverCtx, "", "-role", "server")
	if err != nil {
		return err
	}
	serverEnd := make(chan error, 1)
	go func() {
		serverEnd <- server.Wait()
		stopClients()
	}()

	var running []*exec.Cmd
	for id := 1; id <= clients && err == nil; id++ {
		var input strings.Builder
		for n := range 5 {
			fmt.Fprintln(&input, 100*id+n)
		}
		var client *exec.Cmd
		if client, err = start(clientCtx, input.String(), "-role", "client", "-id", strconv.Itoa(id)); err == nil {
			running = append(running, client)
		}
	}
	for i, client := range running {
		if waitErr := client.Wait(); waitErr != nil {
			err = errors.Join(err, fmt.Errorf("client %d: %w", i+1, waitErr))
		}
	}
	stopServer()
	if waitErr := <-serverEnd; waitErr != nil && !errors.Is(waitErr, context.Canceled) {
		err = errors.Join(err, fmt.Errorf("server: %w", waitErr))
	}
	return err
}
