package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

// journalFlag is how a command protects what it has taken from its own sudden end.
type journalFlag struct{ value string }

// addJournalFlag adds --journal. The value without the flag is off or auto.
func addJournalFlag(cmd *cobra.Command, unless string) *journalFlag {
	j := &journalFlag{}
	f := cmd.Flags()
	f.StringVar(&j.value, "journal", unless,
		"keep what was taken in a file on tmpfs, so that kill -9 loses nothing: the `MODE` is auto (where it works), on, off, or a directory")
	f.Lookup("journal").NoOptDefVal = "on"
	_ = cmd.RegisterFlagCompletionFunc("journal", cobra.FixedCompletions([]string{"auto", "on", "off"}, cobra.ShellCompDirectiveDefault)) // the flag exists
	return j
}

// openWith opens the queue with the journal that was asked for. It reports whether it has
// one.
func (a *app) openWith(name *queueName, j *journalFlag, opts ...chanmq.Option) (q *chanmq.Queue[[]byte], journaled bool, err error) {
	opts = append(opts, chanmq.WithJournalError(func(err error) { a.progressf("%v", err) }))
	dir := ""
	switch {
	case j.value == "off":
		q, err = name.open(opts...)
		return q, false, err
	case j.value == "on" || j.value == "auto":
	case strings.Contains(j.value, "/"):
		dir = j.value
	default:
		return nil, false, usage("--journal %s: there are auto, on, off, and directories, with a / in their name", j.value)
	}
	q, err = name.open(append(opts, chanmq.WithJournal(dir))...)
	if err == nil || j.value != "auto" || isNoQueue(err) {
		return q, err == nil, err
	}
	plain, plainErr := name.open(opts...)
	if plainErr != nil {
		return nil, false, plainErr
	}
	a.progressf("warning: without a journal, what is being worked on is lost if chanmq is killed: %s", strings.TrimPrefix(err.Error(), "chanmq: "))
	return plain, false, nil
}

// waitFlag is whether a command that runs for long waits for its queue.
type waitFlag struct{ on bool }

func addWaitFlag(cmd *cobra.Command) *waitFlag {
	w := &waitFlag{}
	cmd.Flags().BoolVar(&w.on, "wait", false, "wait for the queue while it does not exist, at the start and when it was removed")
	return w
}

// options returns the options of the queue.
func (w *waitFlag) options(a *app, name *queueName) ([]chanmq.Option, error) {
	if !w.on {
		return nil, nil
	}
	if name.flags("id") {
		return nil, usage("--wait: a queue that was removed has another id when it is back; name it by its key")
	}
	return []chanmq.Option{chanmq.WithWait(a.ctx), chanmq.WithReopen()}, nil
}

// putBackTime is how long the end of a command waits for room in the queue.
const putBackTime = 10 * time.Second

// closeQueue ends the handle: what was taken and given back goes back to the queue. What
// that has no room for is printed, since it would be nowhere else.
func (a *app) closeQueue(q *chanmq.Queue[[]byte]) error {
	ctx, cancel := context.WithTimeout(a.hurry, putBackTime)
	defer cancel()
	err := q.Shutdown(ctx)
	var undelivered *chanmq.UndeliveredError
	if !errors.As(err, &undelivered) {
		return err
	}
	for _, m := range undelivered.Messages {
		if line, lineErr := format.NewLine(m.Type, m.Value).Append(nil); lineErr == nil {
			_, _ = a.err.Write(line) // there is nowhere else to say it
		}
	}
	return exitWith(exitFailed, "%s could not be put back, and %s above, as lines that chanmq import takes: %v",
		format.Count(len(undelivered.Messages), "message"), isAre(len(undelivered.Messages)), undelivered.Err)
}

func isAre(n int) string {
	if n == 1 {
		return "is"
	}
	return "are"
}
