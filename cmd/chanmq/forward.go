package main

import (
	"errors"
	"time"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

type forwardOptions struct {
	count   int
	timeout time.Duration
	quiet   bool
}

func (a *app) forwardCommand() *cobra.Command {
	var o forwardOptions
	cmd := &cobra.Command{
		Use:   "forward FROM TO",
		Short: "Move messages from one queue to another",
		Long: `Move messages from one queue to another, byte for byte, with their types and in order,
until it is interrupted, or for --timeout none comes, or --count were moved. It waits while
the other queue is full.

A message that cannot be sent, and the one at hand when it is interrupted, goes back to the
tail of its queue. With a journal (on where it works, see --journal) nothing is lost when
chanmq is killed; the message at hand may then be in both queues.

Packs, which are several values in one message (see recv --packing), are moved as they are.
Texts in files need --large: a message that refers to one is of no use in another queue.
`,
		Example: `  chanmq forward 0x2a01 0x2a02
  chanmq forward 0x2a01 0x2a02 --type 3 --timeout 0   # what is there
  chanmq forward --id 5 --to-id 6`,
		Args: cobra.MaximumNArgs(2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, complete string) ([]string, cobra.ShellCompDirective) {
			return completeKeys(cmd, args[:0], complete)
		},
	}
	from := nameFlags(cmd, "", "the queue to take from")
	to := nameFlags(cmd, "to-", "the queue to send to")
	copies := nameFlags(cmd, "copy-", "send a copy of each message to this queue as well")
	copyKey := cmd.Flags().String("copy", "", "send a copy of each message to the queue with the `KEY` as well")
	selected := addSelectorFlags(cmd)
	f := cmd.Flags()
	f.IntVarP(&o.count, "count", "n", 0, "move at most `N` messages")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "do not say how many were moved")
	addTimeoutFlag(cmd, &o.timeout, "end when for this long no message comes; 0 moves what is there")
	wait := addWaitFlag(cmd)
	journal := addJournalFlag(cmd, "auto")
	large := addLargeFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		rest, err := from.take(args)
		if err != nil {
			return err
		}
		if len(rest) == 0 && !to.byFlags() {
			return usage("where to? Give the key of the queue to send to behind the other one, or --to-id N")
		}
		if rest, err = to.take(rest); err != nil {
			return err
		}
		if err := noMore(rest); err != nil {
			return err
		}
		if o.count < 0 {
			return usage("--count %d: give 1 or more", o.count)
		}
		selector, err := selected.selector()
		if err != nil {
			return err
		}
		target, err := to.open(large.options()...)
		if err != nil {
			return err
		}
		defer target.Close() // it holds nothing
		extra, err := openOther(copies, *copyKey, "copy", large.options()...)
		if err != nil {
			return err
		}
		if extra != nil {
			defer extra.Close() // it holds nothing
		}
		opts, err := wait.options(a, from)
		if err != nil {
			return err
		}
		source, _, err := a.openWith(from, journal, append(opts, large.options()...)...)
		if err != nil {
			return err
		}
		if source.ID() == target.ID() || extra != nil && source.ID() == extra.ID() {
			return errors.Join(usage("both are the same queue; its messages would go round for ever"), source.Close())
		}
		moved, err := a.forward(source, target, extra, selector, &o)
		if closeErr := a.closeQueue(source); err == nil || isExit(closeErr) {
			err = closeErr
		}
		if !o.quiet {
			a.progressf("moved %s", format.Count(moved, "message"))
		}
		return err
	}
	return cmd
}

// forward moves messages one by one, as chanmq.Forward does, and counts them.
func (a *app) forward(from, to, extra *chanmq.Queue[[]byte], s chanmq.Selector, o *forwardOptions) (moved int, err error) {
	for ; o.count == 0 || moved < o.count; moved++ {
		m, err := a.take(a.ctx, from, s, o.timeout)
		switch {
		case err == errNothing && o.count > 0:
			return moved, exitWith(exitNothing, "%s; moved %d of %d", nothingWithin(o.timeout), moved, o.count)
		case err == errNothing, err != nil && a.ctx.Err() != nil:
			return moved, nil // its regular ends
		case err != nil:
			return moved, err
		}
		if extra != nil {
			err = extra.Send(a.ctx, m.Type, m.Value)
		}
		if err == nil {
			err = to.Send(a.ctx, m.Type, m.Value)
		}
		if err != nil {
			backErr := m.back()
			if a.ctx.Err() != nil {
				err = nil
			}
			return moved, errors.Join(err, backErr)
		}
		if err := m.done(); err != nil {
			return moved + 1, err
		}
	}
	return moved, nil
}
