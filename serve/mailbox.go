package serve

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/envelope"
)

// A mailbox receives the replies of one client, which have a message type of their own, and
// gives each to the call that it answers.
//
// There is no goroutine for that. Of the calls that wait, one leads: its goroutine receives
// from the queue, hands others their replies, and when it leaves, with its own reply or
// because its ctx ended, makes another one the leader. So a call that is alone waits in the
// kernel by itself, with no other goroutine between it and its reply.
//
// A call that leaves without its reply is owed one. Its reply is dropped by whoever leads
// when it comes. If nobody leads, a goroutine does for a while.
type mailbox struct {
	queue  *chanmq.Queue[[]byte]
	typ    int64  // of the replies
	random uint64 // the upper bits of the ids of calls, see idBits

	mu        sync.Mutex
	sequence  uint64
	calls     map[uint64]*call // by id
	followers list             // those that wait, and do not lead
	led       bool             // by a call or by the collector
	owed      int              // replies that nobody waits for any more
	owedUntil time.Time        // they most likely never come later than that
	closed    bool
	receiving context.Context // of the leader's receives
	interrupt context.CancelFunc

	users sync.WaitGroup // calls, and the collector
	ended chan struct{}  // closed when close has done everything
	stats ClientStats    // guarded by mu
}

// idBits is how many bits of a call's id are its number. The rest is random, for each
// client: where a C long has 32 bits, the types of replies are too few to be unique.
const idBits = 40

// How long replies are received that nobody waits for any more, after the last call. What
// comes later is taken out by the next call, by Close, or by servers.
const (
	linger        = 5 * time.Second
	lingerExpired = 100 * time.Millisecond // servers send no reply after the call's deadline
	lingerClosed  = time.Second            // at most, if the client is closed
)

func newMailbox(queue *chanmq.Queue[[]byte]) *mailbox {
	b := &mailbox{
		queue:  queue,
		typ:    randomType(),
		random: randomBits(64-idBits) << idBits,
		calls:  make(map[uint64]*call),
		ended:  make(chan struct{}),
	}
	b.receiving, b.interrupt = context.WithCancel(context.Background())
	return b
}

// call is one call that waits for its reply. It is used for one after the other.
type call struct {
	id         uint64
	waitsUntil int64       // Unix nanoseconds, 0: without limit
	notice     chan notice // has room for one: the reply, or the role of the leader
	leads      bool        // guarded by mailbox.mu
	next, prev *call       // in followers
	listed     bool        // in followers
}

// notice is what a call that waits is told.
type notice struct {
	lead    bool // nobody receives: do it
	header  envelope.Header
	payload []byte
	err     error
}

var callPool = sync.Pool{New: func() any { return &call{notice: make(chan notice, 1)} }}

// register makes an id for a call whose request is to be sent.
func (b *mailbox) register(waitsUntil int64) (*call, error) {
	c := callPool.Get().(*call)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		callPool.Put(c)
		return nil, ErrClosed
	}
	b.users.Add(1)
	b.sequence++
	c.id = b.random | b.sequence&(1<<idBits-1)
	c.waitsUntil = waitsUntil
	b.calls[c.id] = c
	b.stats.Calls++
	return c, nil
}

// unsent forgets a call whose request was not sent.
func (b *mailbox) unsent(c *call) {
	b.mu.Lock()
	b.stats.Unsent++
	b.forget(c)
	b.mu.Unlock()
	b.release(c)
}

// forget removes a call, so that nobody gives it anything any more. It needs mu.
func (b *mailbox) forget(c *call) {
	delete(b.calls, c.id)
	b.followers.remove(c)
}

// release lets the call be used again. Nobody else may know it.
func (b *mailbox) release(c *call) {
	select {
	case <-c.notice:
	default:
	}
	c.leads = false
	callPool.Put(c)
	b.users.Done()
}

// await waits for the reply of a call whose request was sent.
func (b *mailbox) await(ctx context.Context, c *call) (envelope.Header, []byte, error) {
	defer b.release(c)
	b.mu.Lock()
	switch {
	case b.closed:
		b.giveUp(c)
		b.mu.Unlock()
		return envelope.Header{}, nil, ErrClosed
	case b.calls[c.id] != c: // the reply is here already: another call leads
		b.mu.Unlock()
		n := <-c.notice
		return n.header, n.payload, n.err
	case !b.led:
		b.led, c.leads = true, true
		b.mu.Unlock()
		return b.lead(ctx, c)
	}
	b.followers.add(c)
	b.mu.Unlock()
	select {
	case n := <-c.notice:
		if n.lead {
			return b.lead(ctx, c)
		}
		return n.header, n.payload, n.err
	case <-ctx.Done():
		return b.leave(c, ctxError(ctx))
	}
}

// leave is for a call that waits no longer. It may have got its reply just now.
func (b *mailbox) leave(c *call, err error) (envelope.Header, []byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.calls[c.id] != c {
		n := <-c.notice // sent with mu held
		return n.header, n.payload, n.err
	}
	b.giveUp(c)
	if c.leads {
		b.passOn()
	}
	b.collect()
	return envelope.Header{}, nil, err
}

// giveUp forgets a call whose reply is still to come. It needs mu.
func (b *mailbox) giveUp(c *call) {
	b.forget(c)
	b.stats.Abandoned++
	b.owed++
	now := time.Now()
	until := now.Add(linger)
	if c.waitsUntil != 0 && c.waitsUntil <= now.UnixNano() {
		until = now.Add(lingerExpired)
	}
	if until.After(b.owedUntil) {
		b.owedUntil = until
	}
}

// passOn makes another call the leader, if one waits. It needs mu.
func (b *mailbox) passOn() {
	next := b.followers.first()
	if next == nil {
		b.led = false
		return
	}
	b.followers.remove(next)
	next.leads = true
	next.notice <- notice{lead: true}
}

// lead receives replies until that of c comes, or ctx ends.
func (b *mailbox) lead(ctx context.Context, c *call) (envelope.Header, []byte, error) {
	if ctx.Done() != nil {
		// The leader's receives have a ctx of the mailbox's, which Close ends too. One for
		// each call would cost more.
		stop := context.AfterFunc(ctx, b.interruptLeader)
		defer stop()
	}
	for {
		if ctx.Err() != nil {
			return b.leave(c, ctxError(ctx))
		}
		m, err := b.receive()
		switch {
		case err == errInterrupted:
			continue
		case err != nil:
			return b.leave(c, err)
		}
		h, payload, err := envelope.Parse(m.Value)
		b.mu.Lock()
		if err == nil && h.CallID == c.id && isReply(h.Kind) {
			b.forget(c)
			b.passOn()
			b.collect()
			b.mu.Unlock()
			return h, payload, nil
		}
		b.deliver(h, payload, err)
		b.mu.Unlock()
	}
}

func isReply(k envelope.Kind) bool { return k == envelope.Reply || k == envelope.Error }

// errInterrupted says that the leader has to look at what it waits for.
var errInterrupted = errors.New("interrupted")

// receive takes the next message for this client.
func (b *mailbox) receive() (chanmq.Message[[]byte], error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return chanmq.Message[[]byte]{}, ErrClosed
	}
	if b.receiving.Err() != nil {
		b.receiving, b.interrupt = context.WithCancel(context.Background())
	}
	receiving := b.receiving
	b.mu.Unlock()
	m, err := b.queue.Receive(receiving, chanmq.OfType(b.typ))
	if err != nil && errors.Is(err, context.Canceled) && receiving.Err() != nil {
		return m, errInterrupted
	}
	return m, err
}

func (b *mailbox) interruptLeader() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.interrupt()
}

// deliver gives a reply to the call that waits for it, and drops it if there is none. It
// needs mu.
func (b *mailbox) deliver(h envelope.Header, payload []byte, err error) {
	if err != nil || !isReply(h.Kind) || h.CallID&^(1<<idBits-1) != b.random {
		b.stats.Foreign++
		return
	}
	c, ok := b.calls[h.CallID]
	if !ok {
		b.stats.Late++
		b.owed = max(0, b.owed-1)
		return
	}
	b.forget(c)
	c.notice <- notice{header: h, payload: payload}
}

// collect starts a goroutine that receives replies which nobody waits for any more, if
// there will be some and nobody leads. It needs mu.
func (b *mailbox) collect() {
	if b.led || b.owed == 0 || b.closed {
		return
	}
	b.led = true
	b.users.Add(1)
	go func() {
		defer b.users.Done()
		b.leadForNobody()
	}()
}

// leadForNobody leads until no reply is owed, or it is too late for them.
func (b *mailbox) leadForNobody() {
	timer := time.AfterFunc(lingerExpired, b.interruptLeader)
	defer timer.Stop()
	for {
		b.mu.Lock()
		rest := time.Until(b.owedUntil)
		if rest <= 0 {
			b.owed = 0 // they may never come
		}
		if b.owed == 0 || b.closed {
			b.passOn()
			b.mu.Unlock()
			return
		}
		timer.Reset(rest)
		b.mu.Unlock()
		m, err := b.receive()
		if err == errInterrupted {
			continue
		}
		b.mu.Lock()
		if err != nil {
			b.owed = 0 // the next call finds out as well
			b.passOn()
			b.mu.Unlock()
			return
		}
		h, payload, err := envelope.Parse(m.Value)
		b.deliver(h, payload, err)
		b.mu.Unlock()
	}
}

// close ends all calls, and takes out replies that nobody waits for.
func (b *mailbox) close() {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		<-b.ended
		return
	}
	defer close(b.ended)
	b.closed = true
	b.interrupt()
	for f := b.followers.first(); f != nil; f = b.followers.first() {
		b.giveUp(f)
		f.notice <- notice{err: ErrClosed}
	}
	b.mu.Unlock()
	b.users.Wait()

	rest := min(time.Until(b.owedUntil), lingerClosed)
	ctx, cancel := context.WithTimeout(context.Background(), max(rest, 0))
	defer cancel()
	for b.owed > 0 {
		m, err := b.queue.Receive(ctx, chanmq.OfType(b.typ))
		if err != nil {
			break
		}
		h, payload, err := envelope.Parse(m.Value)
		b.mu.Lock()
		b.deliver(h, payload, err)
		b.mu.Unlock()
	}
	for {
		if _, ok, err := b.queue.TryReceive(chanmq.OfType(b.typ)); !ok || err != nil {
			break
		}
	}
	if b.owed > 0 {
		closedTypes.Store(b.typ, nil)
	}
}

// closedTypes are those of this process's clients that were closed while they were owed
// replies. Nobody will take these: the proof of life says that this process lives.
var closedTypes sync.Map

// list is a list of calls, in the order in which they were added.
type list struct{ head, tail *call }

func (l *list) first() *call { return l.head }

func (l *list) add(c *call) {
	c.listed, c.prev, c.next = true, l.tail, nil
	if l.tail == nil {
		l.head = c
	} else {
		l.tail.next = c
	}
	l.tail = c
}

func (l *list) remove(c *call) {
	if !c.listed {
		return
	}
	if c.prev == nil {
		l.head = c.next
	} else {
		c.prev.next = c.next
	}
	if c.next == nil {
		l.tail = c.prev
	} else {
		c.next.prev = c.prev
	}
	c.listed, c.prev, c.next = false, nil, nil
}
