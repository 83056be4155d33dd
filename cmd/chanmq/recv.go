package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

// forever is a timeout that does not end.
const forever = time.Duration(-1)

// addTimeoutFlag adds --timeout.
func addTimeoutFlag(cmd *cobra.Command, timeout *time.Duration, what string) {
	*timeout = forever
	cmd.Flags().Var((*durationFlag)(timeout), "timeout", what)
}

// durationFlag is a duration that is not negative. Its default, forever, is not shown.
type durationFlag time.Duration

func (d *durationFlag) String() string {
	if time.Duration(*d) == forever {
		return ""
	}
	return time.Duration(*d).String()
}
func (d *durationFlag) Type() string { return "DURATION" }
func (d *durationFlag) Set(text string) error {
	parsed, err := time.ParseDuration(text)
	if err != nil {
		return err
	}
	if parsed < 0 {
		return errors.New("the time is negative")
	}
	*d = durationFlag(parsed)
	return nil
}

// taken is a message that was taken off a queue, and has to be dealt with.
type taken struct {
	message
	done func() error // it was dealt with
	back func() error // it goes back to the queue, at the latest when the handle is closed
}

// errNothing is the error of a wait that has lasted for the timeout.
var errNothing = errors.New("no message came")

// shortest is how long a wait lasts that is to take what is there: the library has no call
// that takes a message to be acknowledged and never waits.
const shortest = 100 * time.Millisecond

// take takes a message, and waits for it for at most the timeout.
func (a *app) take(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector, timeout time.Duration) (taken, error) {
	limited, cancel := ctx, context.CancelFunc(func() {})
	if timeout != forever {
		limited, cancel = context.WithTimeout(ctx, max(timeout, shortest))
	}
	defer cancel()
	d, err := q.Take(limited, s)
	var undecoded *chanmq.DecodeError
	if errors.As(err, &undecoded) {
		return a.undecoded(q, undecoded), nil
	}
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			err = errNothing
		}
		return taken{}, err
	}
	return taken{d.Message, d.Ack, d.Nack}, nil
}

// undecoded returns a message as it is that --packing or --large cannot make out: it was taken.
func (a *app) undecoded(q *chanmq.Queue[[]byte], err *chanmq.DecodeError) taken {
	a.warnUndecoded(err)
	back := func() error {
		ctx, cancel := context.WithTimeout(a.hurry, putBackTime)
		defer cancel()
		return q.Send(ctx, err.Message.Type, err.Message.Value)
	}
	return taken{err.Message, func() error { return nil }, back}
}

func (a *app) warnUndecoded(err *chanmq.DecodeError) {
	a.progressf("a message of type %d is shown as it is: %v", err.Message.Type, err.Err)
}

type recvOptions struct {
	count   int
	follow  bool
	timeout time.Duration
	copyTo  *chanmq.Queue[[]byte]
	packs   *packNotice
}

func (a *app) recvCommand() *cobra.Command {
	var o recvOptions
	cmd := &cobra.Command{
		Use:     "recv QUEUE",
		Aliases: []string{"receive"},
		Short:   "Take messages off a queue and write them to standard output",
		Long: `Take messages off a queue and write them to standard output: one, or --count, or with
--follow all that come until it is interrupted. It waits for each, as long as it takes or
for --timeout.

A message is taken when the one before was written. One that cannot be written goes back
to the queue, to its tail: also when the reader of a pipe is gone. An interrupt (Ctrl-C)
lets the message at hand be written; a second one puts it back. What a reader leaves in a
pipe is lost all the same, and without --journal so is the message at hand when chanmq is
killed (kill -9).
` + longPacks + longRest + longPrint + longStruct,
		Example: `  chanmq recv 0x2a01
  chanmq recv 0x2a01 --follow --up-to 5 --json | jq .text
  chanmq recv 0x2a01 --struct 'i32 id; f64 price; char[16] name'
  chanmq recv 0x2a01 --follow --timeout 0     # what is there`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue")
	selected := addSelectorFlags(cmd)
	f := cmd.Flags()
	f.IntVarP(&o.count, "count", "n", 1, "take `N` messages")
	f.BoolVarP(&o.follow, "follow", "f", false, "take messages until interrupted, or for --timeout none comes")
	addTimeoutFlag(cmd, &o.timeout, "wait at most this long for each message; 0 takes what is there")
	copies := nameFlags(cmd, "copy-", "send a copy of each message to this queue")
	copyKey := cmd.Flags().String("copy", "", "send a copy of each message to the queue with the `KEY`")
	printing := addPrintFlags(cmd)
	journal := addJournalFlag(cmd, "off")
	large := addLargeFlag(cmd)
	packing := addPackingFlag(cmd, receivesPacks)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.count < 1 {
			return usage("--count %d: give 1 or more", o.count)
		}
		if o.follow && cmd.Flags().Changed("count") {
			return usage("--follow and --count exclude each other")
		}
		rest, err := name.take(args)
		if err != nil {
			return err
		}
		if err := noMore(rest); err != nil {
			return err
		}
		selector, err := selected.selector()
		if err != nil {
			return err
		}
		pr, err := printing.printer(a)
		if err != nil {
			return err
		}
		if o.copyTo, err = openOther(copies, *copyKey, "copy", large.options()...); err != nil {
			return err
		}
		if o.copyTo != nil {
			defer o.copyTo.Close() // it holds nothing
		}
		o.packs = packing.notice(a)
		q, _, err := a.openWith(name, journal, append(large.options(), packing.options()...)...)
		if err != nil {
			return err
		}
		err = a.recv(q, selector, &o, pr)
		if closeErr := a.closeQueue(q); err == nil || isExit(closeErr) {
			err = closeErr
		}
		return err
	}
	return cmd
}

// nothingWithin says that nothing came.
func nothingWithin(timeout time.Duration) string {
	if timeout == 0 {
		return "there is no message that is selected"
	}
	return fmt.Sprintf("no message came within %v", timeout)
}

func isExit(err error) bool {
	var exit *exitError
	return errors.As(err, &exit)
}

// openOther opens a second queue that flags name: by key, or as nameFlags does. It returns
// nil if they name none.
func openOther(name *queueName, key, flag string, opts ...chanmq.Option) (*chanmq.Queue[[]byte], error) {
	var args []string
	if key != "" {
		if name.byFlags() {
			return nil, usage("--%s and --%s-id or --%s-file name two queues; one will do", flag, flag, flag)
		}
		args = []string{key}
	} else if !name.byFlags() {
		return nil, nil
	}
	if _, err := name.take(args); err != nil {
		return nil, err
	}
	return name.open(opts...)
}

func (a *app) recv(q *chanmq.Queue[[]byte], s chanmq.Selector, o *recvOptions, pr *printer) error {
	// Nothing is to be taken for a reader that is gone, nor waited for.
	ctx, cancel := context.WithCancelCause(a.ctx)
	defer cancel(nil)
	pipe := isPipe(a.out)
	if pipe {
		go func() {
			if readerGone(a.out, -1) {
				cancel(errPipe)
			}
		}()
	}
	var buf []byte
	for n := 0; o.follow || n < o.count; n++ {
		if pipe && readerGone(a.out, 0) {
			return errPipe
		}
		m, err := a.take(ctx, q, s, o.timeout)
		switch {
		case err != nil && context.Cause(ctx) == errPipe:
			return errPipe
		case err == errNothing && o.follow:
			return pr.misfit()
		case err == errNothing:
			return exitWith(exitNothing, "%s; got %d of %d", nothingWithin(o.timeout), n, o.count)
		case err != nil && a.ctx.Err() != nil && o.follow:
			return pr.misfit() // an interrupt is its regular end
		case err != nil && a.ctx.Err() != nil:
			return a.interrupted("interrupted; got %s", format.Count(n, "message"))
		case err != nil:
			return err
		}
		o.packs.look(m.message)
		if buf, err = pr.append(buf[:0], m.message); err == nil && o.copyTo != nil {
			err = a.sendCopy(o.copyTo, m.message)
		}
		if err == nil {
			err = a.writeOut(slices.Clone(buf))
		}
		if err != nil {
			return errors.Join(err, m.back())
		}
		if err := m.done(); err != nil {
			return err
		}
	}
	return pr.misfit()
}

// writeOut writes to standard output.
func (a *app) writeOut(text []byte) error {
	return a.untilHurry(func() error { return writeAll(a.out, text) })
}

// untilHurry returns the error of a write. A reader that does not read can keep it waiting
// for ever: a second interrupt ends that.
func (a *app) untilHurry(write func() error) error {
	written := make(chan error, 1)
	go func() { written <- write() }()
	select {
	case err := <-written:
		return err
	case <-a.hurry.Done():
		return a.interrupted("interrupted while nobody reads the output; what was not written is put back, and part of it may be in the output, too")
	}
}

// sendCopy sends a copy, waiting for room, unless the command is interrupted.
func (a *app) sendCopy(to *chanmq.Queue[[]byte], m message) error {
	if err := to.Send(a.ctx, m.Type, m.Value); err != nil {
		if a.ctx.Err() != nil {
			return a.interrupted("interrupted while the queue for copies is full; the message is put back")
		}
		return err
	}
	return nil
}

func (a *app) peekCommand() *cobra.Command {
	var count int
	cmd := &cobra.Command{
		Use:   "peek QUEUE",
		Short: "Show the messages in a queue without taking them",
		Long: `Show the messages in a queue, the oldest first, without taking them; with --up-to in the
order in which recv would take them. It is no snapshot: what others take meanwhile shifts
the rest. The kernel needs CONFIG_CHECKPOINT_RESTORE, as those of distributions have it.
` + longPacks + longPrint + longStruct,
		Example:           "  chanmq peek 0x2a01 --hex --count 1\n  chanmq peek 0x2a01 --json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue")
	selected := addSelectorFlags(cmd)
	cmd.Flags().IntVarP(&count, "count", "n", 0, "show at most `N` messages")
	printing := addPrintFlags(cmd)
	large := addLargeFlag(cmd)
	packing := addPackingFlag(cmd, receivesPacks)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		rest, err := name.take(args)
		if err != nil {
			return err
		}
		if err := noMore(rest); err != nil {
			return err
		}
		if _, err := selected.selector(); err != nil {
			return err
		}
		if count < 0 {
			return usage("--count %d: give 1 or more", count)
		}
		pr, err := printing.printer(a)
		if err != nil {
			return err
		}
		q, err := name.open(append(large.options(), packing.options()...)...)
		if err != nil {
			return err
		}
		defer q.Close() // it holds nothing
		packs := packing.notice(a)
		var found []message
		for m, err := range q.Browse() {
			var undecoded *chanmq.DecodeError
			if errors.As(err, &undecoded) {
				a.warnUndecoded(undecoded)
				m, err = undecoded.Message, nil
			}
			if err != nil {
				return err
			}
			if a.ctx.Err() != nil {
				return a.interrupted("interrupted")
			}
			if !selected.matches(m.Type) {
				continue
			}
			packs.look(m)
			if found = append(found, m); len(found) == count && selected.upTo == 0 {
				break
			}
		}
		if selected.upTo > 0 {
			slices.SortStableFunc(found, func(x, y message) int { return int(min(max(x.Type-y.Type, -1), 1)) })
		}
		if count > 0 && len(found) > count {
			found = found[:count]
		}
		for _, m := range found {
			text, err := pr.append(nil, m)
			if err != nil {
				return err
			}
			if err := writeAll(a.out, text); err != nil {
				return err
			}
		}
		return pr.misfit()
	}
	return cmd
}
