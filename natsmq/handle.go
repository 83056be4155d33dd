package natsmq

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
)

// handle is the Cluster as one handle of the root package sees it, a sysv.Kernel. Its calls do
// not wait for messages or for room; those that do are in thread.go.
type handle struct {
	c      *Cluster
	e      *engine.Engine
	leases *engine.Leases // nil: of the Cluster's own, which no program uses

	// When a receive has last come too late for a message, in nanoseconds since 1970.
	competed atomic.Int64

	mu    sync.Mutex
	held  []held // taken, and not given out: the call was over before it knew; guarded by mu
	peek  cursor // guarded by mu
	going sync.WaitGroup
}

// held is a message that the handle has taken.
type held struct {
	id int
	m  *engine.Message
}

// cursor is where the last Receive with Copy was.
type cursor struct {
	id, position int
	next         uint64 // the sequence behind it
}

// timeout bounds the calls that have no ctx.
func (h *handle) timeout() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), h.e.Timeout)
}

// Get implements [sysv.Kernel]. What flags say of permissions is for new queues; the servers' accounts
// say who may do what.
func (h *handle) Get(key int32, flags int) (int, error) {
	ctx, cancel := h.timeout()
	defer cancel()
	attr := engine.Attr{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()), Mode: uint32(flags) & 0o777}
	if key == sysv.KeyPrivate {
		id, err := h.e.Create(ctx, key, true, attr)
		return id, errno(err)
	}
	for {
		if flags&(sysv.Create|sysv.Exclusive) != sysv.Create|sysv.Exclusive {
			id, err := h.e.Open(ctx, key)
			if !errors.Is(err, engine.ErrNotExist) || flags&sysv.Create == 0 {
				return id, errno(err)
			}
		}
		id, err := h.e.Create(ctx, key, false, attr)
		if !errors.Is(err, engine.ErrExists) || flags&sysv.Exclusive != 0 {
			return id, errno(err)
		}
	}
}

// Send implements [sysv.Kernel].
func (h *handle) Send(id int, msg []byte) error {
	out, err := outgoing(msg)
	if err != nil {
		return err
	}
	ctx, cancel := h.timeout()
	defer cancel()
	return errno(uncertain(out, h.e.Publish(ctx, id, out)))
}

// outgoing returns a message as msgsnd takes it.
func outgoing(msg []byte) (*engine.Outgoing, error) {
	if len(msg) < sysv.HeaderSize || sysv.Type(msg) < 1 {
		return nil, sysv.EINVAL
	}
	return engine.NewOutgoing(int64(sysv.Type(msg)), msg[sysv.HeaderSize:]), nil
}

// uncertain makes the error of a send that is over, and may have sent the message, ErrUncertain.
func uncertain(m *engine.Outgoing, err error) error {
	if err != nil && m.Uncertain() && !errors.Is(err, engine.ErrUncertain) {
		err = errors.Join(engine.ErrUncertain, err)
	}
	return err
}

// selector returns what msgtyp and flags select.
func selector(msgtyp, flags int) engine.Selector {
	switch {
	case msgtyp == 0:
		return engine.Selector{}
	case msgtyp < 0:
		if msgtyp = -msgtyp; msgtyp < 0 {
			msgtyp-- // the least int
		}
		return engine.Selector{Mode: engine.UpTo, Type: int64(msgtyp)}
	case flags&sysv.Except != 0:
		return engine.Selector{Mode: engine.Except, Type: int64(msgtyp)}
	}
	return engine.Selector{Mode: engine.OfType, Type: int64(msgtyp)}
}

// Receive implements [sysv.Kernel].
func (h *handle) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	if len(buf) < sysv.HeaderSize || flags&sysv.Copy != 0 && flags&sysv.Except != 0 {
		return 0, sysv.EINVAL
	}
	ctx, cancel := h.timeout()
	defer cancel()
	if flags&sysv.Copy != 0 {
		return h.copyAt(ctx, id, buf, msgtyp)
	}
	sel := selector(msgtyp, flags)
	if m := h.takeHeld(id, sel, buf); m != nil {
		return fill(buf, m), nil
	}
	for {
		m, err := h.e.Find(ctx, id, sel)
		if err != nil {
			return 0, errno(err)
		}
		if len(m.Text) > room(buf) {
			return len(m.Text), sysv.E2BIG
		}
		mine, err := h.claim(ctx, id, m)
		if err != nil {
			return 0, errno(err)
		}
		if mine {
			return fill(buf, m), nil
		}
	}
}

// claim takes a message. If it cannot find out whether it has, before the end of ctx, the handle goes on
// asking: a message that turns out to be its own is given to the next receive.
func (h *handle) claim(ctx context.Context, id int, m *engine.Message) (bool, error) {
	mine, err := h.e.Claim(ctx, id, m)
	if !errors.Is(err, engine.ErrUncertain) {
		return mine, err
	}
	h.going.Go(func() {
		within, cancel := context.WithTimeout(context.Background(), uncertainAtMost)
		defer cancel()
		if mine, _ := h.e.ClaimAgain(within, id, m); mine { // otherwise it is somebody else's, or lost with the servers
			h.hold(held{id, m})
		}
	})
	return false, engine.ErrUnavailable
}

// uncertainAtMost is how long a handle asks whose a message is.
const uncertainAtMost = time.Minute

func (h *handle) hold(x held) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = append(h.held, x)
}

// takeHeld returns a message that the handle holds, if one is selected and fits.
func (h *handle) takeHeld(id int, s engine.Selector, buf []byte) *engine.Message {
	h.mu.Lock()
	defer h.mu.Unlock()
	best := -1
	for i, x := range h.held {
		if x.id != id || !s.Matches(x.m.Type) || len(x.m.Text) > room(buf) {
			continue
		}
		if best < 0 || s.Mode == engine.UpTo && x.m.Type < h.held[best].m.Type {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	m := h.held[best].m
	h.held = append(h.held[:best], h.held[best+1:]...)
	return m
}

// room is how many bytes of text a buffer has room for.
func room(buf []byte) int { return len(buf) - sysv.HeaderSize }

// fill writes a message to a buffer that has room for it.
func fill(buf []byte, m *engine.Message) int {
	sysv.PutType(buf, int(m.Type))
	return copy(buf[sysv.HeaderSize:], m.Text)
}

// copyAt returns the message at a position. One position behind the other takes a trip each.
func (h *handle) copyAt(ctx context.Context, id int, buf []byte, position int) (int, error) {
	if position < 0 {
		return 0, sysv.ENOMSG
	}
	h.mu.Lock()
	at := h.peek
	h.mu.Unlock()
	if at.id != id || at.position > position || at.next == 0 {
		at = cursor{id, 0, 1}
	}
	for {
		m, err := h.e.Next(ctx, id, at.next)
		if err != nil {
			return 0, errno(err)
		}
		if at.position < position {
			at = cursor{id, at.position + 1, m.Seq + 1}
			continue
		}
		if len(m.Text) > room(buf) {
			return len(m.Text), sysv.E2BIG
		}
		h.mu.Lock()
		h.peek = cursor{id, position + 1, m.Seq + 1}
		h.mu.Unlock()
		return fill(buf, m), nil
	}
}

// Stat implements [sysv.Kernel].
func (h *handle) Stat(id int) (sysv.Stat, error) {
	ctx, cancel := h.timeout()
	defer cancel()
	info, err := h.e.Info(ctx, id)
	if err != nil {
		return sysv.Stat{}, errno(err)
	}
	return stat(info), nil
}

func stat(info engine.Info) sysv.Stat {
	return sysv.Stat{
		ID:         info.ID,
		Key:        info.Key,
		Attr:       sysv.Attr(info.Attr),
		CreatorUID: info.CreatorUID,
		CreatorGID: info.CreatorGID,
		Messages:   info.Messages,
		Bytes:      info.Bytes,
		SendTime:   unix(info.LastSend),
		ChangeTime: unix(info.Changed),
	}
}

// unix returns 0 for a time that is never.
func unix(t time.Time) int64 { return max(t.Unix(), 0) }

// Set implements [sysv.Kernel].
func (h *handle) Set(id int, a sysv.Attr) error {
	ctx, cancel := h.timeout()
	defer cancel()
	const nobody = ^uint32(0)
	if a.UID == nobody || a.GID == nobody {
		return sysv.EINVAL
	}
	a.Mode &= 0o777
	return errno(h.e.Set(ctx, id, engine.Attr(a)))
}

// Remove implements [sysv.Kernel].
func (h *handle) Remove(id int) error {
	ctx, cancel := h.timeout()
	defer cancel()
	return errno(h.e.Remove(ctx, id))
}

// List implements [sysv.Kernel].
func (h *handle) List() ([]sysv.Stat, error) {
	ctx, cancel := h.timeout()
	defer cancel()
	infos, err := h.e.List(ctx)
	if err != nil {
		return nil, errno(err)
	}
	list := make([]sysv.Stat, len(infos))
	for i, info := range infos {
		list[i] = stat(info)
	}
	return list, nil
}

// Limits implements [sysv.Kernel].
func (h *handle) Limits() (sysv.Limits, error) {
	ctx, cancel := h.timeout()
	defer cancel()
	infos, err := h.e.List(ctx)
	if err != nil {
		return sysv.Limits{}, errno(err)
	}
	l := h.e.Limits
	limits := sysv.Limits{MaxBytes: l.MaxBytes, MaxQueues: l.MaxQueues, Queues: len(infos)}
	limits.MaxMessage, _ = h.maxMessage()
	for _, info := range infos {
		limits.Messages += int(info.Messages)
		limits.Bytes += int(info.Bytes)
	}
	return limits, nil
}

// maxMessage returns how large a message may be, and what says so: the server that the connection has may
// take less than the program allows.
func (h *handle) maxMessage() (n int, says string) {
	n, says = h.e.Limits.MaxMessage, "MaxMessage of natsmq.WithLimits"
	if most := int(h.e.Conn.MaxPayload()) - engine.HeaderRoom; most > 0 && most < n { // 0: it was never connected
		return most, fmt.Sprintf("max_payload of the server, less %d bytes for headers", engine.HeaderRoom)
	}
	return n, says
}

// NewAlarm implements [sysv.Kernel].
func (h *handle) NewAlarm() sysv.Alarm { return sysv.NewTimerAlarm() }

// UID implements [sysv.Kernel].
func (h *handle) UID() int { return os.Geteuid() }

// Traits implements [sysv.Kernel].
func (h *handle) Traits() sysv.Traits {
	_, maxMessage := h.maxMessage()
	return sysv.Traits{Remote: true, LimitNames: sysv.LimitNames{
		MaxMessage: maxMessage,
		MaxQueues:  "MaxQueues of natsmq.WithLimits",
		Fullness:   "without natsmq.WithExactSizes each message counts some 140 more",
	}}
}

// Handle implements [sysv.Kernel].
func (h *handle) Handle() sysv.Kernel {
	other := &handle{c: h.c, e: h.e, leases: h.e.NewLeases()}
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	h.c.handles[other] = struct{}{}
	return other
}

// SameMachine is what [sysv.SameMachine] asks.
func (h *handle) SameMachine(other sysv.Kernel) bool {
	o, ok := other.(*handle)
	if !ok {
		return false
	}
	ctx, cancel := h.timeout()
	defer cancel()
	return h.e.Same(ctx, o.e)
}

// Release implements [sysv.Kernel]. A message that it has taken and nobody has got goes back
// to the end of its queue, and one that it has leased stays in its place.
func (h *handle) Release() {
	h.going.Wait()
	h.mu.Lock()
	left := h.held
	h.held = nil
	h.mu.Unlock()
	ctx, cancel := h.timeout()
	defer cancel()
	h.leases.Close(ctx)
	for _, x := range left {
		_ = h.e.Publish(ctx, x.id, engine.NewOutgoing(x.m.Type, x.m.Text)) // nobody is left to tell
	}
	h.c.mu.Lock()
	defer h.c.mu.Unlock()
	delete(h.c.handles, h)
}
