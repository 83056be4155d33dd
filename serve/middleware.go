package serve

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// Middleware is a function that makes a Handler of a Handler. So is a program's own:
//
//	h = serve.Log(logger, serve.Timeout(time.Second, h))
//
// For handlers of Consume, see NoReply.

// Log returns a handler that logs each call of h when it has ended: at level Info, or Warn
// if it returned an error, with the message's type and attempt and the time that it took.
func Log[Req, Rep any](logger *slog.Logger, h Handler[Req, Rep]) Handler[Req, Rep] {
	return func(ctx context.Context, request Req) (Rep, error) {
		begin := time.Now()
		reply, err := h(ctx, request)
		info, _ := Info(ctx)
		attrs := []slog.Attr{
			slog.Int64("type", info.Type),
			slog.Int("attempt", info.Attempt),
			slog.Duration("took", time.Since(begin)),
		}
		level := slog.LevelInfo
		if err != nil {
			level = slog.LevelWarn
			attrs = append(attrs, slog.Any("error", err))
		}
		logger.LogAttrs(ctx, level, "handled", attrs...)
		return reply, err
	}
}

// Timeout returns a handler that calls h with a ctx that ends after d. h has to heed its
// ctx: nothing else ends it. If it returns an error of a ctx that has ended, the caller is
// told of the timeout.
func Timeout[Req, Rep any](d time.Duration, h Handler[Req, Rep]) Handler[Req, Rep] {
	return func(ctx context.Context, request Req) (Rep, error) {
		within, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		reply, err := h(within, request)
		if err != nil && within.Err() != nil && ctx.Err() == nil {
			err = fmt.Errorf("the handler had %v: %w", d, err)
		}
		return reply, err
	}
}

// Recover returns a handler that returns a [*PanicError] where h panics. A Server does so
// for every handler; Recover is for middleware that has to see the error, such as Log
// around it.
func Recover[Req, Rep any](h Handler[Req, Rep]) Handler[Req, Rep] {
	return func(ctx context.Context, request Req) (reply Rep, err error) {
		defer func() {
			if v := recover(); v != nil {
				err = &PanicError{Value: v, Stack: debug.Stack()}
			}
		}()
		return h(ctx, request)
	}
}

// A Limiter makes callers wait. The *rate.Limiter of golang.org/x/time/rate is one.
type Limiter interface {
	// Wait waits until the caller may go on, or returns an error if it may not before ctx
	// ends.
	Wait(ctx context.Context) error
}

// Limit returns a handler that waits for the limiter before each call of h. While it waits,
// its worker takes no other message, so that they stay in the queue. If Wait returns an
// error, so does the handler.
func Limit[Req, Rep any](l Limiter, h Handler[Req, Rep]) Handler[Req, Rep] {
	return func(ctx context.Context, request Req) (Rep, error) {
		if err := l.Wait(ctx); err != nil {
			var none Rep
			return none, fmt.Errorf("rate limit: %w", err)
		}
		return h(ctx, request)
	}
}
