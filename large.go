package chanmq

import (
	"errors"
	"io/fs"
	"math"
	"sync"
	"time"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/large"
	"github.com/chanmq/chanmq/internal/sysv"
)

// This file is texts in files, under WithLarge: how they are sent and received, and how a
// handle looks for those that nobody will receive. What keeps them, and why none is removed
// too early, is in package large; docs/large.md has it in short.

// largeOptions are those of WithLarge.
type largeOptions struct {
	dir       string
	threshold int // -1: see WithLarge
}

// largeLimit returns how many bytes of text a message has at most that is sent as it is.
func (q *queue) largeLimit() int {
	if q.options.large == nil {
		return math.MaxInt
	}
	return int(q.at.Load().limit.Load())
}

// noteLimits notes the limits of the queue, which others may have changed.
func (q *queue) noteLimits(at *attachment, stat sysv.Stat) {
	if most := q.options.large.threshold; most >= 0 {
		at.limit.Store(int64(most))
		return
	}
	limit := stat.MaxBytes / 4
	if limits, err := q.kernel.Limits(); err == nil {
		limit = min(limit, uint64(limits.MaxMessage))
	}
	at.limit.Store(int64(limit))
}

// openLarge opens the store of the queue.
func (q *queue) openLarge(at *attachment) error {
	if q.options.large == nil {
		return nil
	}
	stat, err := subject{q.kernel, q.key, at.id}.statAny()
	if err != nil {
		return err
	}
	identity, err := journal.IdentityOf(q.kernel, stat)
	if err != nil {
		return cause([]error{err}, "WithLarge: %v", err)
	}
	config := large.Config{Dir: q.options.large.dir, Queue: identity, Stat: stat}
	if at.journal != nil {
		config.Journal = at.journal.Path()
	}
	if at.large, err = large.Open(config); err != nil {
		return cause([]error{err}, "WithLarge: %v", err)
	}
	q.noteLimits(at, stat)
	return nil
}

// closeLarge ends the use of a queue's store. Messages that the program has are read, and their
// files removed, all the same.
func (q *queue) closeLarge(at *attachment) {
	if at.large == nil {
		return
	}
	if _, err := q.kernel.Stat(at.id); isRemoved(err) {
		_ = at.large.CloseGone() // what is left is collected with the next queue's
		return
	}
	at.large.Close()
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

// putLarge makes the message a reference if the text is over the limit.
func (o *send) putLarge(typ int64, text []byte) error {
	if len(text) <= o.q.largeLimit() {
		return nil
	}
	file, err := o.q.at.Load().large.Put(text)
	switch {
	case errors.Is(err, fs.ErrClosed):
		return ErrClosed
	case err != nil:
		return cause([]error{err}, "WithLarge: %v", err)
	}
	o.msg = append(sysv.Buffer(smallMessage)[:sysv.HeaderSize], reference(file)...) // not what the text was encoded in
	o.file = file
	sysv.PutType(o.msg, int(typ))
	return nil
}

// encodeLarge is encode for a text that is over the limit.
func (o *send) encodeLarge(typ int64, text []byte) error {
	if o.q.closed.Load() {
		return ErrClosed
	}
	if err := validateType(typ); err != nil {
		return err
	}
	return o.putLarge(typ, text)
}

// reference returns the text of a message.
func reference(file *large.Pending) []byte {
	return envelope.Append(nil, &envelope.Header{Kind: envelope.Reference, Ref: file.Ref})
}

// follow moves the text to the queue that the message is about to be sent to: the one that it
// was meant for may have been removed, under WithReopen.
func (o *send) follow(at *attachment) error {
	if o.file == nil || o.file.In(at.large) {
		return nil
	}
	if err := o.file.Move(at.large); err != nil {
		return cause([]error{err}, "WithLarge: %v", err)
	}
	o.msg = append(o.msg[:sysv.HeaderSize], reference(o.file)...)
	return nil
}

// settle says what has become of the message.
func (o *send) settle(err error) {
	settleFile(o.file, err)
	o.file = nil
}

// settleFile keeps the file of a message that was sent, and removes that of another.
func settleFile(file *large.Pending, err error) {
	switch {
	case file == nil:
	case err == nil:
		file.Sent()
	default:
		file.Discard()
	}
}

// wireLarge is wire for a message whose text is in a file.
func (q *queue) wireLarge(m *raw) (msg []byte, file *large.Pending, err error) {
	header := m.buf[:sysv.HeaderSize:sysv.HeaderSize]
	if m.file.Err() != nil {
		return m.wire(), nil, nil // whoever receives it has the error
	}
	if q.options.large == nil {
		text, err := m.file.Read(nil)
		if q.options.packing {
			text = envelope.Wrap(nil, text)
		}
		return append(header, text...), nil, err
	}
	if file, err = m.file.Again(q.at.Load().large); err != nil {
		return nil, nil, err
	}
	return append(header, reference(file)...), file, nil
}

// follow opens the file that the message refers to, which was taken under the lease, or takes
// it out of its envelope.
func (m *raw) follow(s *large.Store, l *large.Lease) {
	if s != nil {
		m.unwrap(func(r envelope.Ref) *large.File { return s.Take(r, l) })
	}
}

// look is follow for a message that stays in the queue.
func (m *raw) look(at *attachment) {
	if l, _ := at.lease(); l != nil {
		m.unwrap(at.large.Look)
		l.End()
	}
}

func (m *raw) unwrap(open func(envelope.Ref) *large.File) {
	text := m.text()
	if m.off > 0 || m.values > 0 || m.damaged || !envelope.Begins(text) {
		return // as it is, or packing has dealt with it
	}
	h, payload, err := envelope.Parse(text)
	switch {
	case err != nil:
		m.damaged = true
	case h.Kind == envelope.Plain:
		m.off, m.n = m.n-len(payload), len(payload)
	case h.Kind == envelope.Reference:
		m.file = open(h.Ref)
	}
}

// takeLarge opens the file of a message that another process had taken.
func (q *queue) takeLarge(m *raw) {
	at := q.at.Load()
	if l, _ := at.lease(); l != nil {
		m.follow(at.large, l)
		l.End()
	}
}

// borrow returns the text, where it is. It is valid until the message is acknowledged.
func (m *raw) borrow() ([]byte, error) {
	if m.file == nil {
		return m.text(), nil
	}
	return m.file.Map()
}

// whole returns the message with its text, or with the reference if that cannot be read.
func (m *raw) whole() Message[[]byte] {
	if m.file != nil {
		if text, err := m.file.Read(nil); err == nil {
			return Message[[]byte]{m.typ(), text}
		}
	}
	return m.message()
}

// decodeLarge decodes a text that is in a file. The error holds the reference if there is no
// such file, and else the text.
func (q *Queue[T]) decodeLarge(m *raw, v *T) error {
	var dst []byte
	if q.codec.bytes {
		dst = *any(v).(*[]byte)
	}
	text, err := m.file.Read(dst)
	if err != nil {
		return q.decodeError(m.message(), err)
	}
	if q.codec.bytes {
		*any(v).(*[]byte) = text
		return nil
	}
	// It is nobody else's, so the codec may do with it what it likes.
	if err := q.codec.Decode(text, v); err != nil {
		return q.decodeError(Message[[]byte]{m.typ(), text}, err)
	}
	return nil
}

// collection is the goroutine that looks for files which nobody will receive.
type collection struct {
	mu   sync.Mutex
	stop chan struct{} // closed to end it; nil: there is none; guarded by mu
	done chan struct{} // closed when it has ended
}

// Pauses between looks, doubling from one to the other while there is nothing to see.
const (
	collectMin = 5 * time.Second
	collectMax = time.Minute
)

// collectAtOnce bounds the messages in a queue that is read when a handle is opened.
const collectAtOnce = 256

// startCollection looks for files that others have left, and then does it from time to time.
func (q *queue) startCollection() {
	if q.options.large == nil {
		return
	}
	at := q.at.Load()
	_ = at.large.CollectGone(q.isGone) // at worst the next handle does
	if stat, err := q.kernel.Stat(at.id); err == nil && stat.Messages <= collectAtOnce {
		q.collectLarge()
	}
	q.collects.mu.Lock()
	defer q.collects.mu.Unlock()
	q.collects.stop, q.collects.done = make(chan struct{}), make(chan struct{})
	go q.collectRepeatedly(q.collects.stop, q.collects.done)
}

func (q *queue) collectRepeatedly(stop, done chan struct{}) {
	defer close(done)
	for pause := collectMin; ; {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-stop:
			timer.Stop()
			return
		}
		if pause = min(2*pause, collectMax); q.collectLarge() {
			pause = collectMin
		}
	}
}

// endCollection joins the goroutine.
func (q *queue) endCollection() {
	q.collects.mu.Lock()
	defer q.collects.mu.Unlock()
	if q.collects.stop != nil {
		close(q.collects.stop)
		<-q.collects.done
		q.collects.stop = nil
	}
}

// collectLarge removes files that nobody refers to, as far as that is certain by now. It
// reports whether there may be more. Whoever may not read the queue leaves it to others.
func (q *queue) collectLarge() (more bool) {
	at := q.at.Load()
	stat, err := q.kernel.Stat(at.id)
	if err != nil {
		return false
	}
	q.noteLimits(at, stat)
	browse := func(f func(text []byte)) error { return q.browseBack(at, f) }
	suspects, err := at.large.Collect(browse)
	if !suspects {
		return false
	}
	// What calls have taken under the lease before is known when they have ended. Others do the
	// same when they see these files.
	if err == nil && at.large.Renew() == nil {
		q.lot.WakeAll()
		_, _ = at.large.Collect(browse)
	}
	return true
}

// browseBack calls f with the text of each message in the kernel queue, from the last one to
// the first.
func (q *queue) browseBack(at *attachment, f func(text []byte)) error {
	stat, err := q.kernel.Stat(at.id)
	if err != nil {
		return err
	}
	var m raw
	for position := int(stat.Messages) - 1; position >= 0; position-- {
		ok, err := q.peek(position, &m)
		if err != nil {
			return err
		}
		if ok {
			f(m.text())
		}
	}
	if q.at.Load() != at {
		return ErrRemoved // it was another queue
	}
	return nil
}

// isGone reports whether a queue of this IPC namespace does not exist any more.
func (q *queue) isGone(id [16]byte) bool {
	stat, err := subject{kernel: q.kernel, id: large.MsqidOf(id)}.statAny()
	if err != nil {
		return isRemoved(err)
	}
	now, err := journal.IdentityOf(q.kernel, stat)
	return err == nil && large.ID(now) != id
}
