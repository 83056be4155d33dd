package natsmq

import (
	"errors"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
)

// This file is receives whose messages stay in the queue until they are acknowledged: those of
// chanmq.Queue.Take and of Consumers. Each message is delivered at least once. Leases of other processes are
// respected by those that have the same selector; where selectors overlap (Any beside
// OfType) each has its own, and a plain Receive takes a message that somebody has leased. Whoever
// acknowledges it then finds it gone, which is no error. UpTo and OfType respect each other.

var (
	_ sysv.Leaser        = (*handle)(nil)
	_ sysv.LeasingThread = (*thread)(nil)
	_ sysv.Lease         = (*engine.Lease)(nil)
)

// ReceiveLeased implements [sysv.Leaser].
func (h *handle) ReceiveLeased(id int, buf []byte, msgtyp, flags int) (int, sysv.Lease, error) {
	if !mayTake(buf, flags) {
		return 0, nil, sysv.EINVAL
	}
	l, size, err := h.leases.Try(id, selector(msgtyp, flags), room(buf))
	return leased(buf, l, size, err, errno)
}

// TryLeased implements [sysv.Leaser].
func (h *handle) TryLeased(id int, buf []byte, msgtyp, flags int) (int, sysv.Lease, error) {
	if !mayTake(buf, flags) {
		return 0, nil, sysv.EINVAL
	}
	ctx, cancel := h.timeout()
	defer cancel()
	l, size, err := h.leases.Ask(ctx, id, selector(msgtyp, flags), room(buf))
	return leased(buf, l, size, err, errno)
}

// ReceiveLeased implements [sysv.LeasingThread].
func (t *thread) ReceiveLeased(id int, buf []byte, msgtyp, flags int) (int, sysv.Lease, error) {
	if !mayTake(buf, flags) {
		return 0, nil, sysv.EINVAL
	}
	ctx := t.begin()
	defer t.end()
	l, size, err := t.h.leases.Wait(ctx, id, selector(msgtyp, flags), room(buf))
	if err != nil && ctx.Err() != nil {
		return 0, nil, sysv.EINTR
	}
	return leased(buf, l, size, err, removed)
}

// leased writes a message that was leased to the buffer.
func leased(buf []byte, l *engine.Lease, size int, err error, public func(error) error) (int, sysv.Lease, error) {
	if errors.Is(err, engine.ErrTooLarge) {
		return size, nil, sysv.E2BIG
	}
	if err != nil {
		return 0, nil, public(err)
	}
	n := fill(buf, &l.Message)
	l.Text = nil // whoever keeps the lease does not keep it
	return n, l, nil
}
