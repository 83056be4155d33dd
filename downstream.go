package chanmq

import (
	"context"
	"sync/atomic"
)

// A downstream reads a Receiver's C in the program's place, and passes the values on
// one by one: see Merge. The value that it has read and not passed on is still the
// Receiver's, which keeps the raw form of it.
type downstream struct {
	// ctx ends when the Receiver hands back what is unread. It is the holder's, or
	// somebody has called cancel.
	ctx    context.Context
	cancel context.CancelFunc

	// holder is registered until stopped is closed, since what is unread is older
	// than what the Receiver takes next.
	holder holder

	passed  atomic.Uint64 // how many of the Receiver's values the program has
	stopped chan struct{} // closed when it reads no more from C, and holds no value
}

// newDownstream returns the downstream of a Receiver with the holder h.
func newDownstream(h *holder) *downstream {
	d := &downstream{
		holder:  holder{sel: h.sel, ctx: h.ctx},
		stopped: make(chan struct{}),
	}
	d.ctx, d.cancel = context.WithCancel(h.ctx)
	return d
}

// noDownstream is that of a Receiver which has been closed: none will read its C.
var noDownstream = func() *downstream {
	d := newDownstream(&holder{ctx: context.Background()})
	close(d.stopped)
	return d
}()

func (d *downstream) hasStopped() bool {
	select {
	case <-d.stopped:
		return true
	default:
		return false
	}
}
