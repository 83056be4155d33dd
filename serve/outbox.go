package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/envelope"
)

// An outbox sends the replies of a server. As long as the queue has room, a worker does that
// itself. What finds no room waits here, in memory, and one goroutine sends it: so no worker
// waits for a client.
//
// A client that does not take its replies, because it is stopped or slow, fills the queue
// for all. Then the goroutine takes replies back out of the queue, those of the clients
// with most of them, until half of it is free for others. It may do so, since a reply finds
// its call by an id, in whatever order replies come; of bare replies, which have none, it
// takes all of a type, and keeps their order. What it has taken back it sends again when
// less than half of the queue is in use.
//
// How many replies wait is bounded. If there are more, the client with most of them loses
// its oldest.
type outbox struct {
	server *Server
	giveUp context.Context // when it ends, what is left is given up

	size      atomic.Int64 // how many wait; written with mu held
	lastSweep atomic.Int64 // Unix nanoseconds

	mu      sync.Mutex
	clients map[int64]*addressee // by reply type; those for whom something waits
	ready   []*addressee         // in turn; the others are parked
	sending *addressee           // to whom the goroutine is sending something; nil: to nobody
	bare    map[int64]int64      // by reply type: when a bare reply was last sent, Unix nanoseconds
	ended   bool                 // nothing is sent any more

	wake    chan struct{} // there is something to do; has room for one
	closing chan struct{} // closed when nothing comes any more
}

// addressee is a client for whom replies wait.
type addressee struct {
	typ     int64
	parcels []*parcel // oldest first
	parked  bool      // replies to it were taken back: it may take half of the queue
	due     time.Time // of one that is parked: when to try again
	pause   time.Duration
}

// parcel is a reply that waits.
type parcel struct {
	text    []byte
	bare    bool // there is no header in it
	expiry  int64
	life    envelope.Life
	request chanmq.Delivery[[]byte] // to be acknowledged when the reply is sent
}

// Pauses of the goroutine.
const (
	fullMin   = 20 * time.Millisecond // how long the queue is full before replies are taken back
	fullMax   = 250 * time.Millisecond
	parkedMin = 20 * time.Millisecond
	parkedMax = time.Second
)

// sweepEvery is how often it looks for replies that nobody will take, while there are
// replies to send. It is a variable for the tests.
var sweepEvery = 10 * time.Second

func newOutbox(s *Server, giveUp context.Context) *outbox {
	o := &outbox{
		server:  s,
		giveUp:  giveUp,
		clients: make(map[int64]*addressee),
		bare:    make(map[int64]int64),
		wake:    make(chan struct{}, 1),
		closing: make(chan struct{}),
	}
	o.lastSweep.Store(time.Now().UnixNano())
	return o
}

// post sends a reply, or keeps a copy of it, to send it later. It returns an error if it
// can never be sent, and then the caller has the request still.
func (o *outbox) post(typ int64, p parcel, now int64) error {
	if now-o.lastSweep.Load() > int64(sweepEvery) {
		o.signal()
	}
	if !o.mustWait(typ) {
		sent, err := o.server.replies.TrySend(typ, p.text)
		if err != nil {
			return err
		}
		if sent {
			if p.bare {
				o.noteBare(typ, now)
			}
			o.done(&p)
			return nil
		}
	}
	p.text = slices.Clone(p.text)
	o.add(typ, &p)
	return nil
}

// mustWait reports whether a reply has to wait behind others.
func (o *outbox) mustWait(typ int64) bool {
	if o.size.Load() == 0 {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	s := o.sending
	return len(o.ready) > 0 || o.clients[typ] != nil || s != nil && (s.typ == typ || !s.parked)
}

// done is called when the reply is in the kernel.
func (o *outbox) done(p *parcel) {
	o.server.count.replies.Add(1)
	_ = p.request.Ack() // at worst the request is handled again
}

func (o *outbox) add(typ int64, p *parcel) {
	o.mu.Lock()
	if o.ended {
		o.mu.Unlock()
		_ = p.request.Nack() // another server handles it
		return
	}
	c := o.client(typ)
	c.parcels = append(c.parcels, p)
	lost, typ := o.added()
	o.mu.Unlock()
	if lost != nil {
		o.drop(typ, lost)
	}
	o.signal()
}

// client returns the addressee of a type. It needs mu.
func (o *outbox) client(typ int64) *addressee {
	c := o.clients[typ]
	if c == nil {
		c = &addressee{typ: typ}
		o.clients[typ] = c
		o.ready = append(o.ready, c)
	}
	return c
}

// added counts a parcel that was added. If there are too many now, it returns one that has
// to go. It needs mu.
func (o *outbox) added() (lost *parcel, typ int64) {
	n := o.size.Add(1)
	peak := &o.server.count.waitingPeak
	for old := peak.Load(); n > old && !peak.CompareAndSwap(old, n); old = peak.Load() {
	}
	if n <= int64(o.server.o.outbox) {
		return nil, 0
	}
	var most *addressee
	for _, c := range o.clients {
		if most == nil || len(c.parcels) > len(most.parcels) {
			most = c
		}
	}
	lost = most.parcels[0]
	most.parcels = most.parcels[1:]
	o.size.Add(-1)
	o.tidy(most)
	return lost, most.typ
}

// tidy forgets a client for whom nothing waits. It needs mu.
func (o *outbox) tidy(c *addressee) {
	if len(c.parcels) == 0 {
		delete(o.clients, c.typ)
		o.ready = slices.DeleteFunc(o.ready, func(r *addressee) bool { return r == c })
	}
}

// drop gives up a reply because there are too many.
func (o *outbox) drop(typ int64, p *parcel) {
	o.server.count.dropped.Add(1)
	_ = p.request.Ack() // it was handled
	o.server.o.report(&RequestError{
		Message: chanmq.Message[[]byte]{Type: typ, Value: p.text},
		Err:     fmt.Errorf("a reply was dropped: %d replies wait for room in the queue, most of them for clients of this type (WithOutbox)", o.server.o.outbox),
	})
}

func (o *outbox) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// close makes run end when all is sent. Nothing may be posted afterwards.
func (o *outbox) close() { close(o.closing) }

// run sends what waits, until close, and returns what it could not do.
func (o *outbox) run() error {
	pause := fullMin
	for {
		if time.Now().UnixNano()-o.lastSweep.Load() > int64(sweepEvery) {
			o.sweep()
		}
		c, p := o.next()
		if p == nil {
			if ended, err := o.idle(); ended || err != nil {
				return err
			}
			continue
		}
		if p.expired(time.Now()) {
			o.size.Add(-1)
			o.server.count.swept.Add(1)
			_ = p.request.Ack()
			continue
		}
		sent, err := o.send(c.typ, p, pause)
		switch {
		case isTooLarge(err):
			o.tooLarge(c, p, err)
		case err != nil:
			o.putBack(c, p)
			o.abandon()
			return err
		case sent:
			pause = fullMin
			o.size.Add(-1)
			if p.bare {
				o.noteBare(c.typ, time.Now().UnixNano())
			}
			o.done(p)
		default:
			o.putBack(c, p)
			if o.giveUp.Err() != nil {
				return o.abandon()
			}
			if o.makeRoom(c.parked) {
				pause = fullMin
			} else {
				pause = min(2*pause, fullMax)
			}
		}
	}
}

func (p *parcel) expired(now time.Time) bool { return p.expiry != 0 && p.expiry < now.UnixNano() }

// next takes the next parcel out, and puts its client at the end of the line. Those that
// are parked come behind all others, one parcel after the other.
func (o *outbox) next() (*addressee, *parcel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sending = nil
	var c *addressee
	if len(o.ready) > 0 {
		c = o.ready[0]
		o.ready = append(o.ready[1:], c)
	} else if c = o.parkedDue(); c == nil {
		return nil, nil
	}
	o.sending = c
	p := c.parcels[0]
	c.parcels = c.parcels[1:]
	o.tidy(c)
	return c, p
}

// putBack undoes next.
func (o *outbox) putBack(c *addressee, p *parcel) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.sending = nil
	switch now := o.clients[c.typ]; {
	case now != nil:
		c = now
	default: // it was forgotten
		o.clients[c.typ] = c
		if !c.parked {
			o.ready = append(o.ready, c)
		}
	}
	c.parcels = slices.Insert(c.parcels, 0, p)
}

// send sends a reply, and waits for room for at most pause.
func (o *outbox) send(typ int64, p *parcel, pause time.Duration) (sent bool, err error) {
	sent, err = o.server.replies.TrySend(typ, p.text)
	if sent || err != nil {
		return sent, err
	}
	ctx, cancel := context.WithTimeout(o.giveUp, pause)
	defer cancel()
	err = o.server.replies.Send(ctx, typ, p.text)
	if err != nil && ctx.Err() != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		return false, nil
	}
	return err == nil, err
}

// tooLarge puts an error in the place of a reply that cannot be sent, as worker.post does.
func (o *outbox) tooLarge(c *addressee, p *parcel, err error) {
	o.server.o.report(&RequestError{
		Message: chanmq.Message[[]byte]{Type: c.typ, Value: p.text},
		Err:     fmt.Errorf("a reply cannot be sent: %w", err),
	})
	if h, ok := replyHeader(chanmq.Message[[]byte]{Type: c.typ, Value: p.text}); ok && len(p.text) > 2*maxErrorText {
		remote := asRemote(&failure{CodeTooLarge, err})
		h.Kind, h.Code = envelope.Error, uint32(remote.Code)
		p.text = append(envelope.Append(nil, &h), remote.Text...)
		o.putBack(c, p)
		return
	}
	o.size.Add(-1)
	o.server.count.dropped.Add(1)
	_ = p.request.Ack() // it was handled
}

// idle waits until there is something to do, and reports whether there never will be.
func (o *outbox) idle() (ended bool, err error) {
	closing := o.closing
	select {
	case <-closing:
		if o.size.Load() == 0 {
			return true, nil
		}
		if o.giveUp.Err() != nil {
			return true, o.abandon()
		}
		closing = nil
	default:
	}
	var parked <-chan time.Time
	if due, ok := o.nextDue(); ok {
		timer := time.NewTimer(time.Until(due))
		defer timer.Stop()
		parked = timer.C
	}
	select {
	case <-o.wake:
	case <-parked:
	case <-closing:
	case <-o.giveUp.Done():
		if closing != nil {
			<-o.closing // workers still have replies
		}
	}
	return false, nil
}

// nextDue returns when the next client that is parked is due.
func (o *outbox) nextDue() (due time.Time, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.clients {
		if c.parked && (!ok || c.due.Before(due)) {
			due, ok = c.due, true
		}
	}
	return due, ok
}

// parkedDue returns a client that is parked and may get a reply: it is due, and less than
// half of the queue is in use. It needs mu.
func (o *outbox) parkedDue() *addressee {
	if len(o.clients) == 0 {
		return nil
	}
	ending := o.ending()
	half := false
	if stat, err := o.server.replies.Stat(); err == nil {
		half = stat.Bytes < stat.MaxBytes/2
	}
	now := time.Now()
	for _, c := range o.clients {
		switch {
		case ending:
			return c
		case c.parcels[0].expired(now):
			return c // to be dropped
		case c.due.After(now):
		case half:
			c.pause = parkedMin
			return c
		default:
			c.pause = min(2*c.pause, parkedMax)
			c.due = now.Add(c.pause)
		}
	}
	return nil
}

// ending reports whether no more replies come. Then those of clients that do not take them
// go into the queue as far as it has room.
func (o *outbox) ending() bool {
	select {
	case <-o.closing:
		return true
	default:
		return false
	}
}

// makeRoom takes out of the queue what nobody will take, or else what others have to wait
// for too long. For a client that is parked itself it takes no others back. It reports
// whether it has found anything.
func (o *outbox) makeRoom(forParked bool) bool {
	return o.prune() || o.sweep() || !forParked && o.takeBack()
}

// prune drops what waits here for clients that are dead. It reports whether it did.
func (o *outbox) prune() (any bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	known := make(fates)
	now := time.Now()
	for _, c := range o.clients {
		c.parcels = slices.DeleteFunc(c.parcels, func(p *parcel) bool {
			if !p.expired(now) && (p.bare || known.of(p.life) != dead) {
				return false
			}
			any = true
			o.size.Add(-1)
			o.server.count.swept.Add(1)
			_ = p.request.Ack()
			return true
		})
		o.tidy(c)
	}
	return any
}

// sweep takes replies of dead clients out of the queue.
func (o *outbox) sweep() bool {
	o.lastSweep.Store(time.Now().UnixNano())
	s := sweeper{queue: o.server.replies, keep: o.keep}
	s.sweep()
	n := s.taken + o.sweepBare()
	o.server.count.swept.Add(int64(n))
	return n > 0
}

// maxBare bounds how many types of bare replies are remembered.
const maxBare = 4096

// noteBare remembers that a bare reply was sent.
func (o *outbox) noteBare(typ, now int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.bare) >= maxBare {
		if _, known := o.bare[typ]; !known {
			for oldest := range o.bare {
				delete(o.bare, oldest) // any one: what is left of it stays, until it gets another reply
				break
			}
		}
	}
	o.bare[typ] = now
}

// sentBare reports whether a bare reply of the type was sent by this server.
func (o *outbox) sentBare(typ int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.bare[typ]
	return ok
}

// sweepBare takes bare replies out of the queue that nobody has taken for long. Nothing
// else is known of their clients. It returns how many there were.
func (o *outbox) sweepBare() (n int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	before := time.Now().Add(-o.server.o.replyTTL).UnixNano()
	for typ, sent := range o.bare {
		if sent > before {
			continue
		}
		delete(o.bare, typ)
		for {
			if _, ok, err := o.server.replies.TryReceive(chanmq.OfType(typ)); !ok || err != nil {
				break
			}
			n++
		}
	}
	return n
}

// keep keeps a reply that was taken out of the queue.
func (o *outbox) keep(m chanmq.Message[[]byte]) {
	h, _ := replyHeader(m)
	o.add(m.Type, &parcel{text: m.Value, expiry: h.Expiry, life: h.Life})
}

// takeBack takes replies out of the queue until half of it is free, and parks their
// clients. It reports whether it has taken any.
func (o *outbox) takeBack() bool {
	replies := o.server.replies
	type client struct {
		typ   int64
		bytes int
		bare  bool
	}
	var clients []*client
	byType := make(map[int64]*client)
	looked := 0
	for m, err := range replies.Browse() {
		if err != nil {
			break
		}
		_, ok := replyHeader(m)
		bare := !ok && o.sentBare(m.Type)
		if ok || bare {
			c := byType[m.Type]
			if c == nil {
				c = &client{typ: m.Type, bare: bare}
				byType[m.Type] = c
				clients = append(clients, c)
			}
			c.bytes += len(m.Value)
		}
		if looked++; looked == maxSweep {
			break
		}
	}
	now := time.Now().UnixNano()
	back := make(map[int64][]*parcel)
	for len(clients) > 0 {
		// How much of the queue a reply takes is not known: its text may be in a file.
		if stat, err := replies.Stat(); err != nil || stat.Bytes <= stat.MaxBytes/2 {
			break
		}
		most := slices.MaxFunc(clients, func(a, b *client) int { return cmp.Compare(a.bytes, b.bytes) })
		for {
			m, ok, err := replies.TryReceive(chanmq.OfType(most.typ))
			if !ok || err != nil {
				most.bytes = 0
				break
			}
			most.bytes -= len(m.Value)
			p := &parcel{text: m.Value, bare: most.bare}
			if h, ok := replyHeader(m); ok {
				p.expiry, p.life = h.Expiry, h.Life
			} else if most.bare {
				p.expiry = now + int64(o.server.o.replyTTL)
			}
			back[m.Type] = append(back[m.Type], p)
			if !most.bare {
				break
			}
			// Without ids the order of replies counts: it takes all of them.
		}
		if most.bytes <= 0 {
			clients = slices.DeleteFunc(clients, func(c *client) bool { return c == most })
		}
	}
	for typ, parcels := range back {
		o.server.count.takenBack.Add(int64(len(parcels)))
		o.park(typ, parcels)
	}
	return len(back) > 0
}

// park puts replies that were taken back before those that wait for the client.
func (o *outbox) park(typ int64, parcels []*parcel) {
	o.mu.Lock()
	c := o.client(typ)
	c.parcels = slices.Insert(c.parcels, 0, parcels...)
	c.parked = true
	c.pause = max(c.pause, parkedMin)
	c.due = time.Now().Add(c.pause)
	o.ready = slices.DeleteFunc(o.ready, func(r *addressee) bool { return r == c })
	var lost []*parcel
	var types []int64
	for range parcels {
		if p, typ := o.added(); p != nil {
			lost, types = append(lost, p), append(types, typ)
		}
	}
	o.mu.Unlock()
	for i, p := range lost {
		o.drop(types[i], p)
	}
}

// abandon gives up what is left. Requests whose reply was not sent are handed back to the
// handle, so that another server handles them again.
func (o *outbox) abandon() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, c := range o.clients {
		for _, p := range c.parcels {
			n++
			_ = p.request.Nack()
		}
	}
	clear(o.clients)
	o.ready = nil
	o.ended = true
	o.size.Store(0)
	if n == 0 {
		return nil
	}
	o.server.count.dropped.Add(int64(n))
	return fmt.Errorf("serve: %d %w: the queue of replies had no room until WithDrainTime was over; requests that had no reply are handed back to the handle of the queue", n, ErrUnsent)
}
