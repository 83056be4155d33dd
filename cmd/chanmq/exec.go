package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

type execOptions struct {
	jobs        int
	maxAttempts int
	timeout     time.Duration
	idle        time.Duration
	pause       time.Duration
	maxPause    time.Duration
	quiet       bool
}

func (a *app) execCommand() *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec QUEUE [flags] -- COMMAND [ARG...]",
		Short: "Run a command for each message, acknowledged by its exit status",
		Long: `Run a command for each message, with the message as its standard input, until it is
interrupted. Exit status 0 acknowledges the message. Otherwise it is given back, after a
pause that doubles with each attempt, and comes again before newer messages; after
--max-attempts it goes to the queue of --dead.

The command's environment has CHANMQ_TYPE, CHANMQ_ATTEMPT (1 the first time), CHANMQ_KEY
and CHANMQ_ID of the queue. It is run as it is, without a shell: for one, sh -c '...'.

With a journal (on where it works, see --journal) nothing is lost when chanmq or the
command is killed: the next exec of the same user on the queue, or one that runs already,
gets what was not acknowledged. Each message is dealt with at least once, so the command
must not mind one that comes again.

An interrupt (Ctrl-C, SIGTERM) lets the commands that run finish; a second one terminates
them. What was not acknowledged goes back to the tail of the queue, and its attempts count
anew.
` + longPacks + longRest,
		Example: `  chanmq exec 0x2a01 --jobs 4 -- ./thumbnail
  chanmq exec 0x2a01 --max-attempts 5 --dead 0x2a02 -- sh -c 'curl --fail -d @- "$URL"'
  chanmq exec 0x2a01 --idle 1s -- cat           # what is there, then end`,
		Args: cobra.ArbitraryArgs,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, complete string) ([]string, cobra.ShellCompDirective) {
			return completeKeys(cmd, args, complete)
		},
	}
	name := nameFlags(cmd, "", "the queue")
	selected := addSelectorFlags(cmd)
	f := cmd.Flags()
	f.SetInterspersed(true)
	f.IntVarP(&o.jobs, "jobs", "J", 1, "run up to `N` commands at a time; with more than 1, messages may overtake each other")
	f.IntVar(&o.maxAttempts, "max-attempts", 0, "give a message up after `N` attempts: it goes to --dead")
	deadKey := f.String("dead", "", "the queue for messages that were given up, by its `KEY`")
	dead := nameFlags(cmd, "dead-", "the queue for messages that were given up")
	addTimeoutFlag(cmd, &o.timeout, "terminate a command that runs longer, which counts as failed")
	f.DurationVar(&o.idle, "idle", 0, "end when no message has come for this `DURATION`")
	f.DurationVar(&o.pause, "pause", 100*time.Millisecond, "the `DURATION` before a message that failed comes again, doubled with each attempt")
	f.DurationVar(&o.maxPause, "max-pause", time.Minute, "the longest such `DURATION`")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "say nothing of commands that fail")
	wait := addWaitFlag(cmd)
	journal := addJournalFlag(cmd, "auto")
	large := addLargeFlag(cmd)
	packing := addPackingFlag(cmd, receivesPacks)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		command, err := name.take(args)
		switch {
		case err != nil:
			return err
		case len(command) == 0:
			return usage("which command? Give it behind the queue: chanmq exec %s -- COMMAND", name)
		case o.jobs < 1:
			return usage("--jobs %d: give 1 or more", o.jobs)
		case o.maxAttempts < 0:
			return usage("--max-attempts %d: give 1 or more", o.maxAttempts)
		case o.pause < 0 || o.maxPause < o.pause || o.idle < 0:
			return usage("--pause, --max-pause, --idle: want 0 <= pause <= max-pause, and no negative times")
		case o.timeout == 0:
			return usage("--timeout 0: no command could run")
		}
		selector, err := selected.selector()
		if err != nil {
			return err
		}
		deadQueue, err := openOther(dead, *deadKey, "dead", large.options()...)
		if err != nil {
			return err
		}
		if deadQueue != nil {
			defer deadQueue.Close() // it holds nothing
		}
		if (deadQueue != nil) != (o.maxAttempts > 0) {
			return usage("--max-attempts and --dead go together: a message that is given up must be somewhere")
		}
		if _, err := exec.LookPath(command[0]); err != nil {
			return exitWith(exitFailed, "the command cannot be run: %v", err)
		}
		opts, err := wait.options(a, name)
		if err != nil {
			return err
		}
		q, _, err := a.openWith(name, journal, slices.Concat(opts, large.options(), packing.options())...)
		if err != nil {
			return err
		}
		if deadQueue != nil && deadQueue.ID() == q.ID() {
			return errors.Join(usage("--dead is the queue itself; messages that fail would go round for ever"), q.Close())
		}
		r := &runner{app: a, q: q, dead: deadQueue, o: &o, command: command, packs: packing.notice(a)}
		err = r.run(selector)
		if closeErr := a.closeQueue(q); err == nil || isExit(closeErr) {
			err = closeErr
		}
		return err
	}
	return cmd
}

// runner runs commands for messages.
type runner struct {
	*app
	q, dead *chanmq.Queue[[]byte]
	o       *execOptions
	command []string

	looking sync.Mutex
	packs   *packNotice // guarded by looking

	ctx  context.Context // ends when no more commands are to be started
	stop context.CancelCauseFunc

	running sync.WaitGroup
	busy    atomic.Int64
	last    atomic.Int64 // when the last message came or was done with, in ns
}

// errIdle ends a runner for --idle.
var errIdle = errors.New("no message came")

func (r *runner) run(s chanmq.Selector) error {
	r.ctx, r.stop = context.WithCancelCause(r.app.ctx)
	defer r.stop(nil)
	opts := []chanmq.ConsumerOption{chanmq.WithInFlight(r.o.jobs), chanmq.WithBuffer(0), chanmq.WithDecodeError(r.undecoded)}
	if r.dead != nil {
		opts = append(opts, chanmq.WithMaxAttempts(r.o.maxAttempts, r.giveUp))
	}
	consumer := r.q.Consumer(r.ctx, s, opts...)
	r.note()
	for range r.o.jobs {
		r.running.Go(func() { r.work(consumer) })
	}
	if r.o.idle > 0 {
		r.running.Go(r.watchIdle)
	}
	<-consumer.Done()
	err := consumer.Err()
	if r.ctx.Err() == nil {
		r.stop(err) // the queue was removed, say: what waits is not to wait any longer
	}
	r.running.Wait()
	_ = consumer.Close() // always nil; what it held is given back
	cause := context.Cause(r.ctx)
	switch {
	case r.app.ctx.Err() != nil, cause == errIdle:
		return nil // its regular ends
	case cause != nil:
		return cause
	}
	return err
}

// undecoded writes a message that --packing or --large cannot make out: it was taken, and is
// nowhere else.
func (r *runner) undecoded(err *chanmq.DecodeError) {
	r.progressf("a message was taken that no command can get: %v", err)
	if line, lineErr := format.NewLine(err.Message.Type, err.Message.Value).Append(nil); lineErr == nil {
		_, _ = r.err.Write(line) // there is nowhere else to say it
	}
}

func (r *runner) note() { r.last.Store(time.Now().UnixNano()) }

// watchIdle ends the runner when nothing has happened for the time of --idle.
func (r *runner) watchIdle() {
	ticker := time.NewTicker(max(r.o.idle/4, time.Millisecond))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if r.busy.Load() == 0 && time.Since(time.Unix(0, r.last.Load())) > r.o.idle {
				r.stop(errIdle)
				return
			}
		case <-r.ctx.Done():
			return
		}
	}
}

// giveUp moves a message to the queue of --dead. The library calls it in place of a
// delivery, and acknowledges the message if it was not given back.
func (r *runner) giveUp(d chanmq.Delivery[[]byte]) {
	r.busy.Add(1)
	defer r.busy.Add(-1)
	defer r.note()
	if err := r.dead.Send(r.ctx, d.Type, d.Value); err != nil {
		_ = d.Nack() // before the queue's Close it is always nil
		r.stop(fmt.Errorf("a message that was given up after %s: %w", format.Count(d.Attempt, "attempt"), err))
		return
	}
	r.say("gave up a message of type %d after %s; it is in the queue of --dead", d.Type, format.Count(d.Attempt, "attempt"))
}

func (r *runner) say(text string, args ...any) {
	if !r.o.quiet {
		r.progressf(text, args...)
	}
}

// work runs commands, one after the other.
func (r *runner) work(c *chanmq.Consumer[[]byte]) {
	// The kernel kills the command when the thread that started it ends, see
	// dieWithParent: so this thread must be the goroutine's own for as long as it runs.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for {
		select {
		case d, ok := <-c.C():
			if !ok {
				return
			}
			r.busy.Add(1)
			r.looking.Lock()
			r.packs.look(d.Message)
			r.looking.Unlock()
			r.handle(d)
			r.note()
			r.busy.Add(-1)
		case <-r.ctx.Done():
			return
		}
	}
}

// handle runs the command for a message, and acknowledges it or gives it back.
func (r *runner) handle(d chanmq.Delivery[[]byte]) {
	if r.ctx.Err() != nil {
		_ = d.Nack() // before the queue's Close it is always nil
		return
	}
	err := r.execute(d)
	if err == nil {
		if err := d.Ack(); err != nil {
			r.progressf("a message may come again: %v", err)
		}
		return
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) && !errors.Is(err, context.DeadlineExceeded) {
		// It could not be started: that will be so for every message.
		_ = d.Nack()
		r.stop(exitWith(exitFailed, "the command cannot be run: %v", err))
		return
	}
	pause := r.pauseAfter(d.Attempt)
	r.say("attempt %d for a message of type %d: %v", d.Attempt, d.Type, err)
	if r.o.maxAttempts == 0 || d.Attempt < r.o.maxAttempts {
		// The message stays in this worker's hands meanwhile, so that it keeps its place.
		timer := time.NewTimer(pause)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-r.ctx.Done():
		}
	}
	_ = d.Nack()
}

// pauseAfter is the time before a message comes again that has failed so often.
func (r *runner) pauseAfter(attempt int) time.Duration {
	pause := r.o.pause
	for ; attempt > 1 && pause < r.o.maxPause; attempt-- {
		pause *= 2
	}
	return min(pause, r.o.maxPause)
}

// execute runs the command for a message. The first interrupt lets it finish, the second
// one ends it.
func (r *runner) execute(d chanmq.Delivery[[]byte]) error {
	ctx, cancel := context.WithCancel(r.hurry)
	defer cancel()
	if r.o.timeout != forever {
		var cancelTimeout context.CancelFunc
		ctx, cancelTimeout = context.WithTimeout(ctx, r.o.timeout)
		defer cancelTimeout()
	}
	cmd := exec.CommandContext(ctx, r.command[0], r.command[1:]...)
	cmd.Stdin = bytes.NewReader(d.Value)
	cmd.Stdout, cmd.Stderr = r.out, r.err
	cmd.Env = append(os.Environ(),
		"CHANMQ_TYPE="+strconv.FormatInt(d.Type, 10),
		"CHANMQ_ATTEMPT="+strconv.Itoa(d.Attempt),
		"CHANMQ_KEY="+r.q.Key().String(),
		"CHANMQ_ID="+strconv.Itoa(r.q.ID()))
	cmd.WaitDelay = 5 * time.Second // then it is killed, and what it started loses its pipe
	ownGroup(cmd)
	err := cmd.Run()
	if err != nil && r.o.timeout != forever && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: it ran longer than %v", context.DeadlineExceeded, r.o.timeout)
	}
	return err
}
