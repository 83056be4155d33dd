package chanmq

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/large"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/wait"
)

// queue is the core of a handle, which all of its views share.
type queue struct {
	kernel  sysv.Kernel
	leaser  sysv.Leaser // kernel, for what has to be acknowledged; nil: it is none
	remote  bool        // each call of kernel is a trip
	options options
	key     Key
	get     func() (int, error) // finds the queue; needs finding
	at      atomic.Pointer[attachment]

	slot    slot
	holders holders
	lot     *wait.Lot

	receiveSpin, sendSpin wait.Spinner // of the direct calls

	unacked atomic.Int64 // deliveries that are neither acknowledged nor handed back

	counters *counters // nil: no WithCounters

	removed atomic.Bool   // Remove was called on this handle
	closed  atomic.Bool   // set by close, before closing is closed
	closing chan struct{} // closed when Close begins
	ended   chan struct{} // closed when Close has done everything

	// For reading, of those who send what is in the slot to the kernel, and have one of
	// its messages in their hands; for writing, of whoever empties it for the last time.
	sendingBack sync.RWMutex

	finding sync.Mutex // held by whoever calls get
	away    away       // guarded by finding

	removal  removal
	adoption adoption
	collects collection
	pumps    pumps
}

// attachment is the kernel queue of a handle, and the journal for its messages. There is
// another one when the queue is found again.
type attachment struct {
	id      int              // msqid
	journal *journal.Journal // nil: there is none
	large   *large.Store     // for larger texts; nil: they are not sent
	limit   atomic.Int64     // bytes of text; larger ones are in files
}

// lease begins a lease for a call that may take a message. It reports false if the queue is
// not the handle's any more.
func (at *attachment) lease() (*large.Lease, bool) {
	if at.large == nil {
		return nil, true
	}
	l := at.large.Begin()
	return l, l != nil
}

// follow opens the file of a message that another process had taken.
func (q *queue) follow(m *raw) {
	at := q.at.Load()
	if l, _ := at.lease(); l != nil {
		m.follow(at.large, l)
		l.End()
	}
}

// look opens the file of a message that stays in the queue.
func (q *queue) look(m *raw) {
	at := q.at.Load()
	if l, _ := at.lease(); l != nil {
		m.look(at.large)
		l.End()
	}
}

func newQueue(key Key, o options, get func() (int, error)) *queue {
	q := &queue{
		kernel:  o.kernel,
		options: o,
		key:     key,
		get:     get,
		closing: make(chan struct{}),
		ended:   make(chan struct{}),
		remote:  o.kernel.Traits().Remote,
	}
	q.leaser, _ = o.kernel.(sysv.Leaser)
	if o.counters {
		q.counters = new(counters)
	}
	q.at.Store(&attachment{id: -1})
	q.removal.gone = make(chan struct{})
	q.lot = wait.NewLot(wait.Config{
		Remote:    q.remote,
		Spin:      o.spin,
		Polling:   o.polling,
		PollMin:   o.pollMin,
		PollMax:   o.pollMax,
		MaxParked: o.maxParked,
		NewThread: o.kernel.NewThread,
		NewAlarm:  o.kernel.NewAlarm,
		Stat:      func() (sysv.Stat, error) { return q.kernel.Stat(q.msqid()) },
		Types:     q.types,
	})
	return q
}

// away is what is known of a queue that was removed.
type away struct {
	why    error         // why the last look-up failed; nil: it did not
	pause  time.Duration // behind it
	search *search       // under way; nil: none
}

// search is a look-up and the pause behind it, for all waits of the handle. It is
// not singleflight's, since Close has to join it.
type search struct{ done chan struct{} }

// unopened is the core of the zero Queue: a handle that is closed.
var unopened = sync.OnceValue(func() *queue {
	q := newQueue(0, newOptions(nil), nil)
	q.closed.Store(true)
	close(q.closing)
	close(q.ended)
	q.pumps.refuse()
	return q
})

// errUnopened is ErrClosed for the zero Queue.
var errUnopened = cause([]error{ErrClosed}, "the Queue is the zero value: Open, Create, Private and Attach return one that can be used")

func (q *queue) msqid() int { return q.at.Load().id }

func (q *queue) subject() subject { return subject{q.kernel, q.key, q.msqid()} }

func (q *queue) opError(op string, err error, size int) error {
	if err == ErrClosed && q.get == nil {
		err = errUnopened
	}
	return q.subject().opError(op, err, size)
}

// find calls get, and checks whose queue it found. It needs finding.
func (q *queue) find() (int, error) {
	if q.closed.Load() {
		return -1, ErrClosed // Close may have removed it, and get may create it
	}
	id, err := q.get()
	if err != nil {
		return -1, explainOpen(q.kernel, q.key, err)
	}
	if q.options.owners == nil {
		return id, nil
	}
	stat, err := subject{q.kernel, q.key, id}.statAny()
	if err == sysv.EACCES {
		return id, cause([]error{err}, "WithOwner: the kernel does not say whose queue it is")
	}
	if err != nil {
		return id, err
	}
	if !slices.Contains(q.options.owners, int(stat.CreatorUID)) || !slices.Contains(q.options.owners, int(stat.UID)) {
		return id, notPermitted(stat, q.options.ownerList())
	}
	return id, nil
}

// knownRemoved reports whether the handle knows that there is no queue, without a call of the
// kernel.
func (q *queue) knownRemoved() bool {
	select {
	case <-q.removal.gone:
		return true
	default:
	}
	q.finding.Lock()
	defer q.finding.Unlock()
	return q.removed.Load() || q.away.why != nil
}

// observe reports an event. There is an observer.
func (q *queue) observe(ctx context.Context, e Event) {
	e.ID, e.Key = q.msqid(), q.key
	if e.Type != 0 {
		e.Messages = max(e.Messages, 1)
	}
	q.options.observer(ctx, e)
}

// putIntoSlot gives a message to the slot, and wakes those who wait for such a one. It
// reports false if the handle is closed.
func (q *queue) putIntoSlot(m raw) bool {
	typ := m.typ()
	if !q.slot.put(m) { // whoever takes it may have dealt with it by now, buffer and all
		return false
	}
	q.lot.Wake(typ)
	return true
}

// handBack gives a message to the slot, or back to the kernel if the handle is closed.
func (q *queue) handBack(m raw) error {
	if !q.putIntoSlot(m) {
		return q.giveBack(m)
	}
	if c := q.counters; c != nil {
		c.handedBack.Add(uint64(max(m.values, 1)))
	}
	return nil
}

// giveBack gives a message back to the kernel. What that does not take stays in the
// journal, or is in the error if there is none.
func (q *queue) giveBack(m raw) error {
	back := returning{q: q, held: []raw{m}}
	back.leave()
	ackErr, err := back.all()
	if err == nil {
		return ackErr
	}
	m = back.held[0]
	if m.saved == nil {
		messages := m.messages()
		_ = m.ack() // there is no journal
		return &UndeliveredError{
			Messages: messages,
			Err:      q.notTakenBack(err, len(messages[0].Value)),
			Key:      q.key,
			ID:       q.msqid(),
		}
	}
	m.release()
	return nil
}

// packLimit returns how many bytes of text a pack may have: what the kernel takes, and not
// more than half of what the queue holds, so that a sender and a receiver can work at the
// same time. It is 0 if that is not known, and then nothing is packed.
func (q *queue) packLimit() int {
	if !q.options.packing {
		return 0
	}
	limits, err := q.kernel.Limits()
	if err != nil {
		return 0
	}
	limit := min(limits.MaxMessage, maxPack)
	if stat, err := q.subject().statAny(); err == nil {
		limit = int(min(uint64(limit), stat.MaxBytes/2))
	}
	return limit
}

// wire is the message, which a handle for any queue took, as msgsnd takes it: so that it is
// the same value there. A larger text has a file of its own then, see settleFile.
func (q *queue) wire(m *raw) (msg []byte, file *large.Pending, err error) {
	switch {
	case m.file != nil:
		return q.wireLarge(m)
	case q.options.opens() && !m.damaged && m.off == 0 && envelope.Ambiguous(m.text()):
		return slices.Concat(m.buf[:sysv.HeaderSize], envelope.Wrap(nil, m.text())), nil, nil
	case !q.options.opens() && m.off > 0:
		return slices.Concat(m.buf[:sysv.HeaderSize], m.text()), nil, nil
	}
	return m.wire(), nil, nil
}

// countTaken counts a message of n bytes that the kernel has given.
func (q *queue) countTaken(m *raw, n int) {
	if c := q.counters; c != nil {
		c.taken.Add(uint64(max(m.values, 1)))
		c.takenBytes.Add(uint64(n))
		m.countUnacked(c)
	}
}

// notTakenBack returns why the kernel did not take a message back.
func (q *queue) notTakenBack(err error, size int) error {
	switch {
	case err == sysv.EAGAIN:
		return cause([]error{err}, "the queue is full: it holds %s", q.subject().fullness())
	case isRemoved(err):
		return ErrRemoved
	}
	return q.subject().explain("receive", err, size)
}

// peek copies the message at a position of the kernel queue into m (MSG_COPY). It
// reports false behind the last one.
func (q *queue) peek(position int, m *raw) (ok bool, err error) {
	if m.buf == nil {
		_ = m.grow(nil, smallMessage)
	}
	m.off, m.values, m.damaged = 0, 0, false // it was another message
	for {
		m.n, err = q.kernel.Receive(q.msqid(), m.buf, position, sysv.Copy)
		switch err {
		case nil:
			return true, nil
		case sysv.ENOMSG:
			return false, nil
		case sysv.E2BIG:
			_ = m.grow(nil, m.roomFor(m.n))
		case sysv.EINVAL:
			return false, q.peekRefused(m, err)
		case sysv.ENOSYS:
			return false, cause([]error{errors.ErrUnsupported, err}, "this kernel was built without CONFIG_CHECKPOINT_RESTORE, which MSG_COPY needs")
		default:
			return false, err
		}
	}
}

// peekRefused tells the two meanings of EINVAL apart: msgmax may have been lowered
// since the message was sent, or the queue is gone.
func (q *queue) peekRefused(m *raw, err error) error {
	limits, limitsErr := q.kernel.Limits()
	if limitsErr != nil || m.room() <= limits.MaxMessage {
		return err
	}
	if _, statErr := q.kernel.Stat(q.msqid()); statErr != nil {
		return err
	}
	return cause([]error{ErrTooLarge, err}, "the kernel copies no message that is larger than msgmax, and msgmax is %d now (sysctl kernel.msgmax); a receive can take it", limits.MaxMessage)
}

// types returns the types of the messages in the kernel queue, or nil if there are
// more than most messages, or the kernel does not let one look.
func (q *queue) types(most int) map[int64]bool {
	types := make(map[int64]bool)
	var m raw
	for position := 0; position <= most; position++ {
		ok, err := q.peek(position, &m)
		if err != nil {
			return nil
		}
		if !ok {
			return types
		}
		types[m.typ()] = true
	}
	return nil
}

// A pumper is a goroutine between the queue and a Go channel, as the end of a
// handle sees it: a Receiver or a Sender.
type pumper interface {
	// receives reports whether it is a Receiver.
	receives() bool
	// Done is closed when it has ended.
	Done() <-chan struct{}
	// drain makes it end when it has delivered or sent what it holds.
	drain()
	// stop makes it end, for the reason.
	stop(reason stopReason)
	// collect waits for its end and takes what it still holds: a Receiver's
	// messages go to the slot, a Sender's into left.
	collect(left *UndeliveredError)
	// drained reports whether it has ended and holds nothing any more.
	drained() bool
}

// stopReason is why a pump was stopped.
type stopReason int

const (
	notStopped   stopReason = iota
	asked                   // the program asked for it
	handleClosed            // Queue.Close
)

// pumps are the pumps of a handle.
type pumps struct {
	mu      sync.Mutex
	refused bool                // the handle is closed: no new ones; guarded by mu
	all     map[pumper]struct{} // those that run, or hold messages; guarded by mu
	pruned  int                 // how many there were after they were last pruned; guarded by mu
}

// add takes p in. It reports false when the handle is closed.
func (ps *pumps) add(p pumper) bool {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.refused {
		return false
	}
	if ps.all == nil {
		ps.all = make(map[pumper]struct{})
	}
	if len(ps.all) >= 2*ps.pruned+16 {
		// Receivers that ended with values in C are kept for Close to find.
		// Those that have been read to the end since then may go.
		for old := range ps.all {
			if old.drained() {
				delete(ps.all, old)
			}
		}
		ps.pruned = len(ps.all)
	}
	ps.all[p] = struct{}{}
	return true
}

// remove forgets p.
func (ps *pumps) remove(p pumper) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.all, p)
}

// refuse takes no more pumps in, and returns those that there are.
func (ps *pumps) refuse() []pumper {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.refused = true
	list := make([]pumper, 0, len(ps.all))
	for p := range ps.all {
		list = append(list, p)
	}
	return list
}
