package natsmq

import (
	"context"
	"errors"
	"fmt"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
)

// public returns an error of the engine as programs know it.
func public(err error) error {
	switch {
	case errors.Is(err, engine.ErrUncertain):
		return fmt.Errorf("%w: %w", chanmq.ErrUncertain, err)
	case errors.Is(err, engine.ErrUnavailable):
		return fmt.Errorf("%w: %w", chanmq.ErrUnavailable, err)
	}
	return err
}

// errno returns an error of the engine as one of a kernel's, as far as a kernel has it.
func errno(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, engine.ErrRemoved):
		return sysv.EINVAL
	case errors.Is(err, engine.ErrFull):
		return sysv.EAGAIN
	case errors.Is(err, engine.ErrTooLarge):
		return sysv.EINVAL
	case errors.Is(err, engine.ErrNone):
		return sysv.ENOMSG
	case errors.Is(err, engine.ErrExists):
		return sysv.EEXIST
	case errors.Is(err, engine.ErrNotExist):
		return sysv.ENOENT
	case errors.Is(err, engine.ErrTooMany):
		return sysv.ENOSPC
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", chanmq.ErrUnavailable, err)
	}
	return public(err)
}
