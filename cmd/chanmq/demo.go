package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
)

func (a *app) demoCommand() *cobra.Command {
	var keep bool
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show what the library does, on a queue of its own",
		Long: `Create a private queue, receive orders and alarms from it through two Go channels in one
select, as the program in the library's README does, while other processes send, and end
without losing a message. The queue is removed at the end. With --stay it goes on until it is
interrupted, for you to send to it from another terminal.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			q, err := chanmq.Private(0o600)
			if err != nil {
				return err
			}
			err = errors.Join(a.demo(q, keep), q.Remove(), q.Close())
			return err
		},
	}
	cmd.Flags().BoolVar(&keep, "stay", false, "receive until interrupted")
	return cmd
}

const (
	orders = 1 // types of messages
	alarms = 2
	thanks = 11
)

func (a *app) demo(q *chanmq.Queue[[]byte], stay bool) error {
	say := func(format string, args ...any) error {
		return writeAll(a.out, fmt.Appendf(nil, format+"\n", args...))
	}
	if err := say("A queue of this program's own, msqid %d. Other processes send to it, as you could:\n", q.ID()); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	receiverOf := func(typ int64) *chanmq.Receiver[[]byte] { return q.Receiver(ctx, chanmq.OfType(typ)) }
	forOrders, forAlarms := receiverOf(orders), receiverOf(alarms)

	for _, one := range []struct {
		typ  int
		text string
	}{{orders, "two lamps"}, {alarms, "the lamp is hot"}, {orders, "a fan"}} {
		if err := say("  $ chanmq send --id %d --type %d '%s'", q.ID(), one.typ, one.text); err != nil {
			return err
		}
		if err := a.runSelf("send", "--id", fmt.Sprint(q.ID()), "--type", fmt.Sprint(one.typ), one.text); err != nil {
			return err
		}
		if err := a.demoOne(ctx, q, forOrders, forAlarms, say); err != nil {
			return err
		}
	}
	if stay {
		if err := say("\nIt receives until you interrupt it (Ctrl-C). From another terminal:\n  $ chanmq send --id %d --type 1 'a chair'\n  $ chanmq stat --id %d\n", q.ID(), q.ID()); err != nil {
			return err
		}
		for ctx.Err() == nil {
			if err := a.demoOne(ctx, q, forOrders, forAlarms, say); err != nil && ctx.Err() == nil {
				return err
			}
		}
		return nil
	}

	// What a Receiver has taken and nobody has read is not lost.
	if err := say("\nOne more order is sent, and the Receiver takes it off the queue. Nobody reads its channel:"); err != nil {
		return err
	}
	if err := a.runSelf("send", "--id", fmt.Sprint(q.ID()), "--type", "1", "a chair"); err != nil {
		return err
	}
	for {
		stat, err := q.Stat()
		if err != nil {
			return err
		}
		if stat.Messages == 2 { // the answers
			break
		}
		if !a.sleep(time.Millisecond) {
			return nil
		}
	}
	cancel()
	m, err := q.Receive(a.ctx, chanmq.OfType(orders))
	if err != nil {
		return err
	}
	return say("the Receiver is cancelled, and the next receive gets the message: %q.\nThat is all; the queue is removed.", m.Value)
}

// demoOne receives a message, whichever comes, and says so.
func (a *app) demoOne(ctx context.Context, q *chanmq.Queue[[]byte], orders, alarms *chanmq.Receiver[[]byte], say func(string, ...any) error) error {
	select {
	case m, ok := <-orders.C():
		if !ok {
			return orders.Err()
		}
		if err := say("    case m := <-orders.C():   %q; the answer goes back as type %d", m.Value, thanks); err != nil {
			return err
		}
		if _, err := q.TrySend(thanks, []byte("thank you")); err != nil { // nobody may read the answers
			return err
		}
		return nil
	case m, ok := <-alarms.C():
		if !ok {
			return alarms.Err()
		}
		return say("    case m := <-alarms.C():   %q", m.Value)
	case <-ctx.Done():
		return a.interrupted("interrupted")
	}
}

// runSelf runs this program with other arguments.
func (a *app) runSelf(args ...string) error {
	path, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(a.ctx, path, args...)
	cmd.Args[0] = os.Args[0] // the tests tell commands by this name
	cmd.Stderr = a.err
	return cmd.Run()
}
