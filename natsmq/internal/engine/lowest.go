package engine

import (
	"context"
	"errors"
	"math"
	"slices"
)

// This file is how the message of the lowest type is leased, which no consumer can do: those of the
// types that are there are asked one after the other. They are those of OfType selectors, so
// whoever leases a type by itself and whoever leases the lowest keep it from each other.

// lowestTypes returns the types up to a limit that the queue has, in ascending order. All messages of
// some may be leased.
func (e *Engine) lowestTypes(ctx context.Context, queue int, limit int64) ([]int64, error) {
	_, subjects, err := e.info(ctx, queue, e.layout.all(queue))
	if err != nil {
		return nil, err
	}
	var types []int64
	for subject := range subjects {
		if typ, err := e.layout.typeOf(subject); err == nil && typ <= limit {
			types = append(types, typ)
		}
	}
	slices.Sort(types)
	return types, nil
}

// lowest leases the message that the selector selects of those that nobody has leased. ErrNone:
// there is none.
func (l *Leases) lowest(ctx context.Context, queue int, sel Selector) (*Lease, error) {
	types, err := l.e.lowestTypes(ctx, queue, sel.Type)
	if err != nil {
		return nil, err
	}
	for _, typ := range types {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		k := consumerKey{queue, Selector{OfType, typ}}
		if lease := l.takeReady(k); lease != nil {
			return lease, nil
		}
		// It is not broken off: a message that is under way would come after AckWait.
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), l.e.Timeout)
		lease, err := l.pullOne(within, k)
		cancel()
		if !errors.Is(err, ErrNone) {
			return lease, err
		}
	}
	return nil, ErrNone
}

// takeReady returns a message that the handle has leased in advance, nil if there is none.
func (l *Leases) takeReady(k consumerKey) *Lease {
	s, err := l.source(k, false)
	if s == nil || err != nil {
		return nil
	}
	lease, _, err := s.try(math.MaxInt)
	if err != nil {
		return nil
	}
	return lease
}

// waitLowest waits for one.
func (l *Leases) waitLowest(ctx context.Context, queue int, sel Selector) (*Lease, error) {
	if lease := l.takeKept(queue, sel); lease != nil {
		return lease, nil
	}
	waiter, err := l.e.WaitForMessage(queue, sel)
	if err != nil {
		return nil, err
	}
	defer waiter.Release()
	for {
		if l.isClosed() {
			return nil, errClosed
		}
		lease, err := l.lowest(ctx, queue, sel)
		switch {
		case err == nil:
			return lease, nil // at the end of ctx too: given back it would come behind the next one
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case !errors.Is(err, ErrNone) && !errors.Is(err, ErrUnavailable):
			return nil, err
		}
		// A lease that ends with its process wakes nobody.
		within, cancel := context.WithTimeout(ctx, l.e.Look)
		_, woken, err := waiter.Wait(within)
		cancel()
		if err != nil {
			return nil, err
		}
		if ctx.Err() != nil {
			if woken {
				waiter.Pass(true)
			}
			return nil, ctx.Err()
		}
	}
}
