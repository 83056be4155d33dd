package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
	"github.com/chanmq/chanmq/internal/procinfo"
)

func (a *app) changeCommands() []*cobra.Command {
	return []*cobra.Command{a.createCommand(), a.setCommand(), a.rmCommand(), a.purgeCommand()}
}

// parsePerm reads permissions as chmod does, in octal.
func parsePerm(text string) (fs.FileMode, error) {
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "0o"), 8, 32)
	if err != nil || n > 0o777 {
		return 0, usage("permissions %q: give three octal digits, such as 0600 (this user alone) or 0660 (the group, too)", text)
	}
	return fs.FileMode(n), nil
}

func (a *app) createCommand() *cobra.Command {
	var permFlag, size string
	var exclusive, private bool
	cmd := &cobra.Command{
		Use:   "create QUEUE",
		Short: "Create a queue, or find the one that exists, and print its id",
		Long: `Create a queue, unless one with the key exists, and print its msqid.

The permissions of a queue that exists stay as they are, and have to grant what --perm
says. With --private the queue has no key, and is named by its id.`,
		Example: `  chanmq create 0x2a01 --perm 0660 --bytes 64K
  id=$(chanmq create --private) && chanmq send --id "$id" hello`,
		Args: cobra.MaximumNArgs(1),
	}
	name := nameFlags(cmd, "", "the queue")
	_ = cmd.Flags().MarkHidden("id") // the kernel chooses the id
	f := cmd.Flags()
	f.StringVarP(&permFlag, "perm", "p", "0600", "permissions in `OCTAL`: read receives, write sends")
	f.StringVarP(&size, "bytes", "b", "", "the queue's `SIZE` (msg_qbytes); kernel.msgmnb if not given")
	f.BoolVarP(&exclusive, "exclusive", "x", false, "fail if the queue exists")
	f.BoolVar(&private, "private", false, "a queue without a key")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		perm, err := parsePerm(permFlag)
		if err != nil {
			return err
		}
		maxBytes := 0
		if size != "" {
			if maxBytes, err = format.ParseSize(size); err != nil {
				return &usageError{err}
			}
		}
		var q *chanmq.Queue[[]byte]
		isNew := true
		switch {
		case name.flags("id"):
			return usage("--id: the kernel chooses the id of a new queue; give a key, or --private")
		case private && (len(args) > 0 || name.byFlags()):
			return usage("--private: such a queue has no key")
		case private && exclusive:
			return usage("--exclusive: a private queue is always new")
		case private:
			q, err = chanmq.Private(perm)
		default:
			rest, nameErr := name.take(args)
			if nameErr != nil {
				return nameErr
			}
			if err := noMore(rest); err != nil {
				return err
			}
			q, err = chanmq.Create(name.key, perm, chanmq.WithExclusive())
			switch exists := errors.Is(err, fs.ErrExist); {
			case exists && exclusive:
				return exitWith(exitFailed, "a queue with the key %v exists already; without --exclusive its id is printed", name.key)
			case exists:
				isNew = false
				q, err = chanmq.Create(name.key, perm)
			}
		}
		if err != nil {
			return err
		}
		if maxBytes > 0 {
			err = q.Set(chanmq.Attr{MaxBytes: maxBytes})
			if err != nil && isNew {
				err = errors.Join(err, q.Remove()) // nobody has asked for it as it is
			}
		}
		if closeErr := q.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
		return writeAll(a.out, []byte(strconv.Itoa(q.ID())+"\n"))
	}
	return cmd
}

func (a *app) setCommand() *cobra.Command {
	var perm, owner, group, size string
	cmd := &cobra.Command{
		Use:   "set QUEUE",
		Short: "Change a queue's permissions, owner or size",
		Long: `Change a queue's permissions, owner, group or size (IPC_SET). Only the owner, the creator
and root may. A size over kernel.msgmnb takes CAP_SYS_RESOURCE. What is not given stays.`,
		Example:           "  chanmq set 0x2a01 --bytes 64K --perm 0660",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue")
	f := cmd.Flags()
	f.StringVarP(&perm, "perm", "p", "", "permissions in `OCTAL`: read receives, write sends")
	f.StringVar(&owner, "owner", "", "the new owner, a `USER` by name or number")
	f.StringVar(&group, "group", "", "the new `GROUP`, by name or number")
	f.StringVarP(&size, "bytes", "b", "", "the queue's `SIZE` (msg_qbytes)")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		rest, err := name.take(args)
		if err != nil {
			return err
		}
		if err := noMore(rest); err != nil {
			return err
		}
		var attr chanmq.Attr
		if perm != "" {
			if attr.Perm, err = parsePerm(perm); err != nil {
				return err
			}
			if attr.Perm == 0 {
				return usage("--perm 0: nobody but root could use the queue; give at least 0400")
			}
		}
		if owner != "" {
			if attr.Owner, err = userID(owner); err != nil {
				return err
			}
		}
		if group != "" {
			if attr.Group, err = groupID(group); err != nil {
				return err
			}
		}
		if owner != "" && attr.Owner == 0 || group != "" && attr.Group == 0 {
			return usage("a queue cannot be given to root; root may use every queue as it is")
		}
		if size != "" {
			if attr.MaxBytes, err = format.ParseSize(size); err != nil {
				return &usageError{err}
			}
		}
		if attr == (chanmq.Attr{}) {
			return usage("nothing to set: give --perm, --owner, --group or --bytes")
		}
		q, err := name.open()
		if err != nil {
			return err
		}
		defer q.Close() // it holds nothing
		return q.Set(attr)
	}
	return cmd
}

// ask asks a question on standard error, and reads the answer from standard input. Without
// an answer, as at the end of a file, it is no.
func (a *app) ask(question string) bool {
	fmt.Fprintf(a.err, "chanmq: %s [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(a.in).ReadString('\n') // what there is of it
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case text := <-answer:
		if !term.IsTerminal(int(a.in.Fd())) || text == "" {
			fmt.Fprintln(a.err) // nobody has typed the end of the line
		}
		return text == "y" || text == "yes"
	case <-a.ctx.Done():
		fmt.Fprintln(a.err)
		return false
	}
}

// notAsked is the error of a question that was not answered with yes.
func (a *app) notAsked(what string) error {
	if a.ctx.Err() != nil {
		return a.interrupted("%s", what)
	}
	return exitWith(exitNotAsked, "%s; --yes does it without a question", what)
}

// doubts says why a queue should not be destroyed just so, "" if nothing is against it.
func doubts(q *queueInfo) string {
	var why []string
	if q.Messages > 0 {
		why = append(why, "holds "+format.Count(q.Messages, "message"))
	}
	if uid := os.Geteuid(); q.Owner != uid || q.Creator != uid {
		if q.Owner != uid {
			why = append(why, "belongs to "+ownerText(q.Owner))
		} else {
			why = append(why, "was created by "+ownerText(q.Creator))
		}
	}
	if len(why) == 0 {
		return ""
	}
	if p := q.receiver; p.State == procinfo.Alive {
		why = append(why, "was last read by "+processText(p)+", which runs")
	}
	return strings.Join(why, ", ")
}

func (a *app) rmCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:     "rm QUEUE...",
		Aliases: []string{"remove"},
		Short:   "Remove queues, with the messages in them",
		Long: `Remove queues (IPC_RMID), for every process, with all messages in them. It asks before it
removes a queue that is not empty, or that another user owns or created; the answer is read
from standard input. chanmq export saves the messages first.`,
		Example:           "  chanmq rm 0x2a01 0x2a02\n  chanmq rm --id 5 --yes",
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		// All names are looked at before anything is removed.
		var names []*queueName
		for more := true; more; {
			one := *name
			rest, err := one.take(args)
			if err != nil {
				return err
			}
			if one.byFlags() {
				if err := noMore(rest); err != nil {
					return err
				}
			}
			names = append(names, &one)
			args, more = rest, len(rest) > 0
		}
		var errs []error
		for _, one := range names {
			if err := a.rm(one, yes); err != nil {
				if len(names) > 1 {
					a.report(cmd, err)
				}
				errs = append(errs, err)
			}
		}
		if len(errs) > 0 && len(names) > 1 {
			return &exitError{code: a.exitCode(errs[0])} // it was said
		}
		return errors.Join(errs...)
	}
	return cmd
}

func (a *app) rm(name *queueName, yes bool) error {
	q, err := name.open()
	if err != nil {
		return err
	}
	defer q.Close() // it holds nothing
	stat, err := statOf(q)
	if err != nil {
		return err
	}
	info := inspect(stat)
	if why := doubts(&info); why != "" && !yes {
		if !a.ask(fmt.Sprintf("queue %s %s. Remove it?", name, why)) {
			return a.notAsked(fmt.Sprintf("queue %s was not removed", name))
		}
	}
	return q.Remove()
}

func (a *app) purgeCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "purge QUEUE",
		Short: "Delete messages, all or some, and keep the queue",
		Long: `Take messages off a queue and delete them: as many as there are when it begins, so that it
ends while others send. It asks first, unless the queue is empty; the answer is read from
standard input. chanmq export saves the messages instead.`,
		Example:           "  chanmq purge 0x2a01 --type 9 --yes",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue")
	selected := addSelectorFlags(cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
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
		q, err := name.open()
		if err != nil {
			return err
		}
		defer q.Close() // it holds nothing
		stat, err := q.Stat()
		if err != nil {
			return err
		}
		if stat.Messages > 0 && !yes {
			info := inspect(stat)
			what := "all of them"
			if selector != chanmq.Any() {
				what = "those that are selected"
			}
			if !a.ask(fmt.Sprintf("queue %s %s. Delete %s?", name, cmp.Or(doubts(&info), "is not empty"), what)) {
				return a.notAsked("nothing was deleted")
			}
		}
		deleted, err := purge(a.ctx, q, selector, stat.Messages)
		if err != nil {
			return err
		}
		a.progressf("deleted %s", format.Count(deleted, "message"))
		if a.ctx.Err() != nil {
			return a.interrupted("interrupted; the rest is still in the queue")
		}
		return nil
	}
	return cmd
}

// purge takes messages off the queue and deletes them, at most n. It ends early, without
// an error, where there are fewer or ctx is done.
func purge(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector, n int) (deleted int, err error) {
	for ; deleted < n && ctx.Err() == nil; deleted++ {
		_, ok, err := q.TryReceive(s)
		if err != nil {
			return deleted, fmt.Errorf("after %s: %w", format.Count(deleted, "message"), err)
		}
		if !ok {
			break
		}
	}
	return deleted, nil
}
