package chanmq

import (
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
		case <-q.at.Load().large.Kept():
			timer.Stop()
			pause = collectMin
			continue
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

// collectLarge gives up storage that is no longer used, and removes files that nobody refers
// to, as far as that is certain by now. It reports whether there may be more. Whoever may not
// read the queue leaves it to others.
func (q *queue) collectLarge() (more bool) {
	at := q.at.Load()
	kept := at.large.DropIdle()
	stat, err := q.kernel.Stat(at.id)
	if err != nil {
		return kept
	}
	q.noteLimits(at, stat)
	browse := func(f func(text []byte)) error { return q.browseBack(at, f) }
	suspects, err := at.large.Collect(browse)
	if !suspects {
		return kept
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
