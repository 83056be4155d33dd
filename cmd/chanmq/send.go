package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

type sendOptions struct {
	typ                    int64
	null, whole, hex, json bool
	timeout                time.Duration
	encode                 func(json.RawMessage) ([]byte, error)
	skip                   int // messages of the input that are left out
	packing                bool
}

func (a *app) sendCommand() *cobra.Command {
	var o sendOptions
	cmd := &cobra.Command{
		Use:   "send QUEUE [MESSAGE...]",
		Short: "Send arguments, or standard input, as messages",
		Long: `Send each argument as a message, or, without arguments, standard input: each line as a
message, without its newline; with --null what is between NUL bytes; with --whole all of it
as one. With --json lines of JSON as recv and peek print them, with their own types, and
with --struct their structs; a line without "type" has that of --type.

It waits while the queue is full, as long as it takes or for --timeout. If it ends early,
it says how many messages were sent.
` + longSendsPacks,
		Example: `  chanmq send 0x2a01 hello
  printf 'one\ntwo\n' | chanmq send 0x2a01 --type 3
  chanmq send 0x2a01 --hex 'de ad be ef'
  chanmq recv 0x2a01 --follow --json | chanmq send 0x2a02 --json`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue")
	f := cmd.Flags()
	f.Int64VarP(&o.typ, "type", "t", 1, "the messages' type `N` (mtype)")
	f.BoolVarP(&o.null, "null", "0", false, "messages end with NUL bytes")
	f.BoolVarP(&o.whole, "whole", "w", false, "standard input is one message")
	f.BoolVarP(&o.hex, "hex", "x", false, "messages are written as hex digits")
	f.BoolVarP(&o.json, "json", "j", false, "messages are lines of JSON")
	addTimeoutFlag(cmd, &o.timeout, "wait at most this long for room in the queue; 0 does not wait")
	structs := addStructFlags(cmd)
	large := addLargeFlag(cmd)
	packing := addPackingFlag(cmd, sendsPacks)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		rest, err := name.take(args)
		if err != nil {
			return err
		}
		switch {
		case o.json && (o.hex || o.null || o.whole):
			return usage("--json excludes --hex, --null and --whole: each message is a line")
		case o.null && o.whole:
			return usage("--null and --whole exclude each other")
		case len(rest) > 0 && (o.null || o.whole):
			return usage("--null and --whole are for standard input, and messages were given as arguments")
		}
		layout, err := structs.parse()
		if err != nil {
			return err
		}
		if layout != nil {
			if !o.json {
				return usage("--struct takes messages in JSON: add --json, and write %s", `{"struct":{"id":1}}`)
			}
			o.encode = layout.Encode
		}
		o.packing = packing.on
		q, err := name.open(append(large.options(), packing.options()...)...)
		if err != nil {
			return err
		}
		defer q.Close() // it holds nothing
		if len(rest) > 0 {
			return a.sendArgs(q, &o, rest)
		}
		_, err = a.sendInput(q, &o, a.in)
		return err
	}
	return cmd
}

// parse returns the message that is written as text.
func (o *sendOptions) parse(text []byte) (message, error) {
	switch {
	case o.json:
		typ, value, err := format.ParseLine(text, o.typ, o.encode)
		return message{Type: typ, Value: value}, err
	case o.hex:
		digits := strings.Map(func(r rune) rune {
			if unicode.IsSpace(r) {
				return -1
			}
			return r
		}, string(text))
		value, err := hex.DecodeString(digits)
		return message{Type: o.typ, Value: value}, err
	}
	return message{Type: o.typ, Value: text}, nil
}

func (a *app) sendArgs(q *chanmq.Queue[[]byte], o *sendOptions, args []string) error {
	// All are read before one is sent, so that a mistake sends nothing.
	messages := make([]message, len(args))
	for i, arg := range args {
		m, err := o.parse([]byte(arg))
		if err != nil {
			return usage("message %d: %w", i+1, err)
		}
		messages[i] = m
	}
	out := a.outgoing(q, o)
	for _, m := range messages {
		if err := out.add(m); err != nil {
			return sentBefore(err, out.sent)
		}
	}
	if err := out.flush(); err != nil {
		return sentBefore(err, out.sent)
	}
	return nil
}

// outgoing sends messages; with --packing those of one type that follow each other at once.
type outgoing struct {
	a      *app
	q      *chanmq.Queue[[]byte]
	o      *sendOptions
	typ    int64
	values [][]byte // that wait
	size   int      // their bytes
	sent   int
}

// What waits at most.
const (
	outgoingMost  = 1000
	outgoingBytes = 1 << 16
)

func (a *app) outgoing(q *chanmq.Queue[[]byte], o *sendOptions) *outgoing {
	return &outgoing{a: a, q: q, o: o}
}

// add sends a message, or, with --packing, keeps it until flush or another call of add sends
// it.
func (g *outgoing) add(m message) error {
	if !g.o.packing || g.o.timeout == 0 { // no call sends several and does not wait
		err := g.a.sendOne(g.q, m, g.o.timeout)
		if err == nil {
			g.sent++
		}
		return err
	}
	if len(g.values) == outgoingMost || g.size >= outgoingBytes || m.Type != g.typ {
		if err := g.flush(); err != nil {
			return err
		}
	}
	g.typ, g.values, g.size = m.Type, append(g.values, m.Value), g.size+len(m.Value)
	return nil
}

// flush sends what waits. What could not be sent is forgotten.
func (g *outgoing) flush() error {
	values := g.values
	g.values, g.size = nil, 0
	for len(values) > 0 {
		n, err := g.sendSome(values)
		g.sent += n
		values = values[n:]
		if err != nil && (n == 0 || !errors.Is(err, context.DeadlineExceeded)) {
			return g.a.sendError(err)
		}
	}
	return nil
}

// sendSome sends values, until there has been no room for the first that is left for the
// timeout, or, where others were sent, for less than that.
func (g *outgoing) sendSome(values [][]byte) (int, error) {
	ctx, cancel := g.a.ctx, context.CancelFunc(func() {})
	if g.o.timeout != forever {
		ctx, cancel = context.WithTimeout(ctx, g.o.timeout)
	}
	defer cancel()
	return g.q.SendAll(ctx, g.typ, values)
}

// sendOne sends a message, and waits for room at most for the timeout.
func (a *app) sendOne(q *chanmq.Queue[[]byte], m message, timeout time.Duration) error {
	ctx, cancel := a.ctx, context.CancelFunc(func() {})
	switch timeout {
	case forever:
	case 0:
		sent, err := q.TrySend(m.Type, m.Value)
		if err == nil && !sent {
			err = exitWith(exitNothing, "the queue is full; %s", fullHint)
		}
		return err
	default:
		ctx, cancel = context.WithTimeout(a.ctx, timeout)
	}
	defer cancel()
	return a.sendError(q.Send(ctx, m.Type, m.Value))
}

// sendError returns what is said of the error of a send.
func (a *app) sendError(err error) error {
	switch {
	case err == nil:
		return nil
	case a.ctx.Err() != nil && errors.Is(err, context.Canceled):
		return a.interrupted("interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		return exitWith(exitNothing, "%s; %s", strings.TrimPrefix(err.Error(), "chanmq: "), fullHint)
	}
	return err
}

const fullHint = "chanmq ls shows who reads it; chanmq set QUEUE --bytes makes it larger"

// sentBefore adds to an error how many messages were sent, if any.
func sentBefore(err error, n int) error {
	if n == 0 {
		return err
	}
	text := fmt.Sprintf("after %s sent: ", plural(n, "message was", "messages were"))
	var exit *exitError
	if errors.As(err, &exit) {
		return &exitError{exit.code, text + exit.text}
	}
	return fmt.Errorf("%s%w", text, err)
}

// sendInput sends what r has, in messages, and returns how many it has sent.
func (a *app) sendInput(q *chanmq.Queue[[]byte], o *sendOptions, r io.Reader) (sent int, err error) {
	type read struct {
		texts [][]byte
		err   error
	}
	texts := make(chan read)
	ended := make(chan struct{})
	defer close(ended)
	// A read from a terminal or a pipe has no end that a context could make, so a
	// goroutine reads. It is ahead by one message that was not asked for, or, with --packing,
	// by those that came with it.
	go func() {
		defer close(texts)
		next, more := splitter(o, r)
		for {
			text, err := next()
			if err == io.EOF {
				return
			}
			all := [][]byte{text}
			for o.packing && err == nil && len(all) < outgoingMost && more() {
				text, _ = next() // it is there
				all = append(all, text)
			}
			select {
			case texts <- read{all, err}:
			case <-ended:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	out, n := a.outgoing(q, o), 0
	take := func(text []byte, err error) error {
		n++
		if err == nil && (n <= o.skip || o.json && len(bytes.TrimSpace(text)) == 0) {
			return nil
		}
		m, err := message{}, err
		if err == nil {
			m, err = o.parse(text)
		}
		if err != nil {
			err = exitWith(exitFailed, "message %d of standard input: %v", n, err)
			if flushErr := out.flush(); flushErr != nil {
				err = flushErr // of an earlier one
			}
			return err
		}
		return out.add(m)
	}
	for {
		select {
		case in, ok := <-texts:
			if !ok {
				return out.sent, nil
			}
			var err error
			for _, text := range in.texts {
				if err = take(text, in.err); err != nil {
					break
				}
			}
			if err == nil {
				err = out.flush()
			}
			if err != nil {
				return out.sent, sentBefore(err, out.sent)
			}
		case <-a.ctx.Done():
			return out.sent, a.interrupted("interrupted after %s sent", plural(out.sent, "message was", "messages were"))
		}
	}
}

// splitter returns a function that returns one message's text after the other, then io.EOF,
// and one that reports whether there is another that was read already.
func splitter(o *sendOptions, r io.Reader) (next func() ([]byte, error), more func() bool) {
	if o.whole {
		read := false
		return func() ([]byte, error) {
			if read {
				return nil, io.EOF
			}
			read = true
			return io.ReadAll(r)
		}, func() bool { return false }
	}
	end := byte('\n')
	if o.null {
		end = 0
	}
	in := bufio.NewReaderSize(r, 1<<16)
	next = func() ([]byte, error) {
		text, err := in.ReadBytes(end)
		if n := len(text); n > 0 && text[n-1] == end {
			return text[:n-1], nil
		}
		if err == io.EOF && len(text) > 0 {
			err = nil // the last one needs no end
		}
		return text, err
	}
	more = func() bool {
		buffered, _ := in.Peek(in.Buffered()) // it does not read
		return bytes.IndexByte(buffered, end) >= 0
	}
	return next, more
}
