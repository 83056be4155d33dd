package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
)

// app is what all commands share: where they read and write, and when they end.
type app struct {
	in       *os.File
	out, err *os.File
	interrupts
}

// run executes the command line, and returns the exit code.
func run(args []string, in, out, err *os.File) int {
	a := &app{in: in, out: out, err: err}
	a.interrupts.begin()
	defer a.interrupts.stop()
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(err)
	cmd, failed := root.ExecuteContext(a.ctx)
	return a.report(cmd, failed)
}

// command is cobra's Command, which returns the one that ran as well.
type command struct{ *cobra.Command }

func (c command) ExecuteContext(ctx context.Context) (*cobra.Command, error) {
	c.SetContext(ctx)
	return c.ExecuteC()
}

const longRoot = `chanmq looks after System V message queues: it lists, creates, fills, reads, moves
and removes them, in the IPC namespace that it runs in.

A queue is named by its key, decimal or with 0x as ipcs prints it, or by one of

  --id N                 its msqid
  --file PATH --proj N   the file and the project id that ftok(3) makes the key of

in place of the key. Sizes are in bytes, and may end in K or M (1024 and 1024 times
that). Durations are such as 500ms, 2s, 1m30s.
` + exitCodes

const exitCodes = `
Exit codes:
  0    done; also when a command that runs until it is ended was interrupted
       (exec, forward, bridge, recv --follow, ls --watch, top, metrics, demo)
  1    failed: standard error says why and what to do
  2    wrong usage
  3    nothing came, or there was no room, within --timeout; the queue has less than
       --count
  4    there is no such queue, or it was removed
  5    permission denied
  6    not done, because the question was not answered with yes
  7    doctor found something wrong
  129  the terminal is gone (SIGHUP); what was taken was written or put back
  130  interrupted (Ctrl-C); what was taken was written or put back
  141  the reader of standard output is gone; what was taken was put back
  143  terminated (SIGTERM); what was taken was written or put back
`

func (a *app) root() command {
	root := &cobra.Command{
		Use:           "chanmq",
		Short:         "Look after System V message queues",
		Long:          longRoot,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddGroup(
		&cobra.Group{ID: groupLook, Title: "Look:"},
		&cobra.Group{ID: groupChange, Title: "Create, change, remove:"},
		&cobra.Group{ID: groupMessages, Title: "Messages:"},
		&cobra.Group{ID: groupMore, Title: "More:"},
	)
	for _, group := range []struct {
		id       string
		commands []*cobra.Command
	}{
		{groupLook, a.lookCommands()},
		{groupChange, a.changeCommands()},
		{groupMessages, a.messageCommands()},
		{groupMore, a.moreCommands()},
	} {
		for _, c := range group.commands {
			c.GroupID = group.id
			c.Args = usageArgs(c.Args)
			root.AddCommand(c)
		}
	}
	root.SetHelpCommandGroupID(groupMore)
	root.SetCompletionCommandGroupID(groupMore)
	return command{root}
}

const (
	groupLook     = "look"
	groupChange   = "change"
	groupMessages = "messages"
	groupMore     = "more"
)

// usageArgs makes errors of wrong arguments usage errors.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if check == nil {
			return nil
		}
		if err := check(cmd, args); err != nil {
			return &usageError{err}
		}
		return nil
	}
}

// version is that of the module, as go install recorded it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}

// usageError is the error of a command line that cannot be meant.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// exitError is an error with an exit code of its own. Without a text nothing is said.
type exitError struct {
	code int
	text string
}

func (e *exitError) Error() string { return e.text }

func exitWith(code int, format string, args ...any) error {
	return &exitError{code, fmt.Sprintf(format, args...)}
}

// The exit codes that the help text documents.
const (
	exitDone       = 0
	exitFailed     = 1
	exitUsage      = 2
	exitNothing    = 3
	exitNoQueue    = 4
	exitPermission = 5
	exitNotAsked   = 6
	exitFound      = 7
	exitHangup     = 129
	exitInterrupt  = 130
	exitPipe       = 141
	exitTerminated = 143
)

// report prints the error of a command, with what to do about it, and returns the exit
// code.
func (a *app) report(cmd *cobra.Command, err error) int {
	if err == nil {
		return exitDone
	}
	code := a.exitCode(err)
	if text := strings.TrimPrefix(err.Error(), "chanmq: "); text != "" && code != exitPipe {
		fmt.Fprintf(a.err, "chanmq: %s\n", text)
	}
	if hint := hintFor(cmd, err); hint != "" {
		fmt.Fprintf(a.err, "  %s\n", hint)
	}
	return code
}

func (a *app) exitCode(err error) int {
	var exit *exitError
	var wrong *usageError
	switch {
	case errors.As(err, &exit):
		return exit.code
	case errors.As(err, &wrong), isUnknownCommand(err):
		return exitUsage
	case errors.Is(err, errPipe):
		return exitPipe
	case errors.Is(err, context.Canceled) && a.ctx.Err() != nil:
		return a.signalCode()
	case errors.Is(err, chanmq.ErrInvalidType):
		return exitUsage
	case errors.Is(err, chanmq.ErrRemoved), isNoQueue(err):
		return exitNoQueue
	case isPermission(err):
		return exitPermission
	case errors.Is(err, context.DeadlineExceeded):
		return exitNothing
	}
	return exitFailed
}

// isUnknownCommand: cobra has no type for it.
func isUnknownCommand(err error) bool { return strings.HasPrefix(err.Error(), "unknown command ") }

// hintFor says what to type after an error.
func hintFor(cmd *cobra.Command, err error) string {
	var wrong *usageError
	switch {
	case errors.As(err, &wrong), isUnknownCommand(err), errors.Is(err, chanmq.ErrInvalidType):
		return fmt.Sprintf("%s --help says more", cmd.CommandPath())
	case isNoQueue(err):
		return "chanmq ls lists the queues that there are; chanmq create makes one"
	}
	return ""
}

// progressf says on standard error what a command has done or is waiting for.
func (a *app) progressf(format string, args ...any) {
	fmt.Fprintf(a.err, "chanmq: "+format+"\n", args...)
}

// sleep waits, or returns false if the command is to end.
func (a *app) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-a.ctx.Done():
		return false
	}
}

// writeAll writes to w, until the first error.
func writeAll(w io.Writer, parts ...[]byte) error {
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			return outputError(err)
		}
	}
	return nil
}
