package natsmq

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
)

// thread makes calls of a handle that wait. It is a thread in name only: a wait is a goroutine's.
type thread struct {
	h *handle

	mu     sync.Mutex
	cancel context.CancelFunc // of the call under way; nil: there is none; guarded by mu

	large *engine.Message // that did not fit the buffer of the last receive; of the caller
}

// NewThread implements [sysv.Kernel].
func (h *handle) NewThread() sysv.Thread { return &thread{h: h} }

// Enter implements [sysv.Thread].
func (t *thread) Enter() bool { return true }

// Leave implements [sysv.Thread].
func (t *thread) Leave() {}

// Interrupt implements [sysv.Thread].
func (t *thread) Interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cancel != nil {
		t.cancel()
	}
}

// begin returns the ctx of a call, which ends when it is interrupted. end follows.
func (t *thread) begin() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel = cancel
	return ctx
}

func (t *thread) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.cancel()
	t.cancel = nil
}

// Times that a call goes on when it was interrupted.
const (
	// tryAtLeast: an interrupt, like a signal, ends a wait, and no call that need not wait.
	tryAtLeast = 250 * time.Millisecond
	// grace: with what a server may have done already, before the error is ErrUncertain.
	grace = time.Second
)

// withGrace returns a ctx that ends so much later than another one.
func withGrace(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-later.Done():
		}
	})
	return later, func() { stop(); cancel() }
}

// Send implements [sysv.Thread].
func (t *thread) Send(id int, msg []byte) error {
	out, err := outgoing(msg)
	if err != nil {
		return err
	}
	ctx := t.begin()
	defer t.end()
	err = t.publish(ctx, id, out)
	if !errors.Is(err, engine.ErrFull) {
		return errno(err)
	}
	waiter, err := t.h.e.WaitForRoom(id, len(out.Text))
	if err != nil {
		return errno(err)
	}
	defer waiter.Release()
	for woken := false; ; woken = true {
		waiter.Arm()
		err := t.publish(ctx, id, out)
		full := errors.Is(err, engine.ErrFull)
		if woken {
			waiter.Pass(!full)
		}
		if !full {
			return removed(err)
		}
		_, ok, err := waiter.Wait(ctx)
		if err != nil {
			return removed(err)
		}
		if !ok {
			return sysv.EINTR
		}
	}
}

// publish sends a message. It returns EINTR if ctx ends and nothing was sent.
func (t *thread) publish(ctx context.Context, id int, m *engine.Outgoing) error {
	within, cancel := withGrace(ctx, tryAtLeast)
	defer cancel()
	err := t.h.e.Publish(within, id, m)
	if within.Err() != nil && m.Uncertain() {
		later, cancel := withGrace(ctx, grace)
		defer cancel()
		err = t.h.e.Publish(later, id, m)
	}
	if err != nil && ctx.Err() != nil && !m.Uncertain() {
		return sysv.EINTR
	}
	return uncertain(m, err)
}

// removed returns the error of a call that has waited.
func removed(err error) error {
	if errors.Is(err, engine.ErrRemoved) {
		return sysv.EIDRM
	}
	return errno(err)
}

// mayTake reports whether a receive with these arguments may take a message, and wait for one.
func mayTake(buf []byte, flags int) bool { return len(buf) >= sysv.HeaderSize && flags&sysv.Copy == 0 }

// Receive implements [sysv.Thread].
func (t *thread) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	if !mayTake(buf, flags) {
		return 0, sysv.EINVAL
	}
	sel := selector(msgtyp, flags)
	if m := t.h.takeHeld(id, sel, buf); m != nil {
		return fill(buf, m), nil
	}
	ctx := t.begin()
	defer t.end()
	m := t.large
	t.large = nil
	if m != nil && !sel.Matches(m.Type) {
		m = nil
	}
	waiter, err := t.h.e.WaitForMessage(id, sel)
	if err != nil {
		return 0, errno(err)
	}
	defer waiter.Release()
	var lease *engine.Lease
	looks := false // it was woken to look
	alone := false // it does not share what is there
	for waited := false; ; waited = true {
		waiter.Arm()
		if m == nil && (waited || !waiter.Empty()) {
			if m, lease, err = t.find(ctx, id, sel, alone); err != nil && !errors.Is(err, engine.ErrNone) {
				if ctx.Err() != nil {
					return 0, sysv.EINTR
				}
				if !waited && errors.Is(err, engine.ErrRemoved) {
					return 0, sysv.EINVAL
				}
				if !errors.Is(err, engine.ErrUnavailable) {
					return 0, removed(err)
				}
			}
			if errors.Is(err, engine.ErrNone) && lease == nil && !t.h.competes(sel) {
				waiter.FoundNone()
			}
		}
		if m != nil {
			n, err := t.take(ctx, id, buf, m)
			switch {
			case lease == nil:
			case err == nil, err == errTaken:
				lease.Gone()
			default:
				lease.Release()
			}
			if err != errTaken {
				if looks {
					waiter.More()
				}
				return n, err
			}
			m, lease = nil, nil
			continue // there may be another one
		}
		var ok bool
		if m, ok, err = t.wait(ctx, waiter, !alone && t.h.competes(sel)); err != nil {
			return 0, removed(err)
		}
		if !ok && ctx.Err() == nil {
			alone = true
			continue
		}
		if !ok {
			return 0, sysv.EINTR
		}
		if m == nil && ctx.Err() != nil {
			waiter.Pass(false)
			return 0, sysv.EINTR
		}
		looks = m == nil
		if t.h.competes(sel) {
			m = nil // somebody else may be about to take it
		}
	}
}

// wait waits for a reason to look. If it is brief, that is after some time too.
func (t *thread) wait(ctx context.Context, waiter *engine.Waiter, brief bool) (*engine.Message, bool, error) {
	if brief {
		within, cancel := context.WithTimeout(ctx, aloneAfter)
		defer cancel()
		ctx = within
	}
	return waiter.Wait(ctx)
}

// aloneAfter is when a receive looks at what is there by itself that was told that nothing is. The last
// message is sometimes at nobody's, and the consumer does not know of it before its next one.
const aloneAfter = 50 * time.Millisecond

// find looks for a message. Where others take messages as well, it leases one, so that not
// all of them try to take the same, unless it is to do so alone.
func (t *thread) find(ctx context.Context, id int, sel engine.Selector, alone bool) (*engine.Message, *engine.Lease, error) {
	if !alone && t.h.competes(sel) {
		// What comes when nobody waits for it any more comes to others behind what is newer.
		within, cancel := withGrace(ctx, grace)
		defer cancel()
		lease, err := t.h.leases.One(within, id, sel)
		if err != nil {
			return nil, nil, err
		}
		return &lease.Message, lease, nil
	}
	within, cancel := withGrace(ctx, tryAtLeast)
	defer cancel()
	m, err := t.h.e.Find(within, id, sel)
	return m, nil, err
}

// competing is how long after a receive has come too late other processes are expected to take
// messages too.
const competing = time.Second

// competes reports whether others do, as far as is known, for a selector that messages can be
// leased by.
func (h *handle) competes(s engine.Selector) bool {
	return s.Mode != engine.UpTo && time.Now().UnixNano()-h.competed.Load() < int64(competing)
}

// errTaken is the error of a message that somebody else has taken.
var errTaken = errors.New("somebody else has the message")

// take takes a message that was there a moment ago.
func (t *thread) take(ctx context.Context, id int, buf []byte, m *engine.Message) (int, error) {
	if len(m.Text) > room(buf) {
		t.large = m
		return len(m.Text), sysv.E2BIG
	}
	later, cancel := withGrace(ctx, grace)
	defer cancel()
	mine, err := t.h.claim(later, id, m)
	switch {
	case errors.Is(err, engine.ErrRemoved):
		return 0, sysv.EIDRM
	case err != nil && ctx.Err() != nil:
		return 0, sysv.EINTR
	case err != nil:
		return 0, errno(err)
	case !mine:
		if !t.h.e.HasTaken(id, m) {
			t.h.competed.Store(time.Now().UnixNano())
		}
		return 0, errTaken
	}
	return fill(buf, m), nil
}
