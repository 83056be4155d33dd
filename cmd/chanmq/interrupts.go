package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"

	"github.com/chanmq/chanmq"
)

// interrupts turns signals into the ends of two contexts: the first one asks a command to
// finish or put back what it has, the second one to put it back at once.
type interrupts struct {
	ctx, hurry context.Context

	signals chan os.Signal
	pipe    chan os.Signal
	first   atomic.Value // os.Signal
	stop    func()
}

func (i *interrupts) begin() {
	ctx, cancel := context.WithCancel(context.Background())
	hurry, cancelHurry := context.WithCancel(context.Background())
	i.ctx, i.hurry = ctx, hurry
	i.signals = make(chan os.Signal, 4)
	// What is ignored stays so: SIGHUP under nohup, SIGINT of a shell's background jobs.
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGTERM, syscall.SIGHUP} {
		if !signal.Ignored(s) {
			signal.Notify(i.signals, s)
		}
	}
	// A broken pipe ends a Go program at the write, with the message in its hands. With
	// Notify the write returns EPIPE instead; ignoring the signal would do the same,
	// but the commands of exec would inherit that.
	i.pipe = make(chan os.Signal, 1)
	if !signal.Ignored(syscall.SIGPIPE) {
		signal.Notify(i.pipe, syscall.SIGPIPE)
	}
	done := make(chan struct{})
	go func() {
		for n := 0; ; n++ {
			select {
			case s := <-i.signals:
				switch n {
				case 0:
					i.first.Store(s)
					cancel()
				case 1:
					cancelHurry()
				default: // it hangs in something that no context ends
					os.Exit(exitInterrupt)
				}
			case <-done:
				return
			}
		}
	}()
	i.stop = func() {
		signal.Stop(i.signals)
		signal.Stop(i.pipe)
		close(done)
		cancel()
		cancelHurry()
	}
}

// signalCode is the exit code of a command that a signal has ended.
func (i *interrupts) signalCode() int {
	switch i.first.Load() {
	case os.Signal(syscall.SIGTERM):
		return exitTerminated
	case os.Signal(syscall.SIGHUP):
		return exitHangup
	}
	return exitInterrupt
}

// interrupted returns the error of a command that a signal has ended before it was done.
func (i *interrupts) interrupted(format string, args ...any) error {
	return exitWith(i.signalCode(), format, args...)
}

// errPipe is the error of writing to a reader that is gone.
var errPipe = errors.New("the reader of standard output is gone")

// outputError is the error of a write to standard output or to a file.
func outputError(err error) error {
	if errors.Is(err, syscall.EPIPE) {
		return errPipe
	}
	return fmt.Errorf("writing: %w", err)
}

// isNoQueue reports whether the error says that there is no such queue; a file that is
// missing is another matter.
func isNoQueue(err error) bool {
	var op *chanmq.OpError
	return errors.As(err, &op) && op.Op != "ftok" && errors.Is(err, fs.ErrNotExist)
}

// isPermission is the same for permissions.
func isPermission(err error) bool {
	var op *chanmq.OpError
	return errors.As(err, &op) && errors.Is(err, fs.ErrPermission)
}
