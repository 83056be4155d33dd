package chanmq

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
)

// A Merged is several Receivers as one: one channel with the messages of all, and
// one error. See [Merge].
type Merged[T any] struct {
	c       chan Message[T] // unbuffered
	parts   []mergedPart[T]
	running atomic.Int64  // how many parts have not ended
	done    chan struct{} // closed by the last of them

	mu  sync.Mutex
	why error // what Err returns; guarded by mu
}

// mergedPart is a Receiver of a Merged.
type mergedPart[T any] struct {
	r *Receiver[T]
	d *downstream
}

// Merge brings the messages of several Receivers together in one channel, in turn
// where several have one. They may be of different queues, views and selectors. For a
// program with a few Receivers a select is as good; Merge is for a number that is
// known only at run time, and for a program in which all of them have to work: when
// one of the Receivers ends with an error, all end, and Err returns that error.
//
// The messages of each Receiver keep their order. Merge reads every Receiver's C, so
// the program must not, from then on. It holds one message of each Receiver, in
// addition to those that the Receiver holds itself, and when the process is killed
// that is lost as well. Otherwise nothing is:
//
//   - When a Receiver's ctx ends, when it is closed, and when its queue is closed, what
//     the program has not read of it is handed back to the Receiver's handle, as by
//     [Receiver.Close]: the next receives on the handle get it, in the order taken. A
//     receive behind the end of ctx waits for that, so the program need not.
//   - When a Receiver drains, by Drain, [WithDrain] or [Queue.Shutdown], and when it
//     ends with an error, what it had taken is delivered. That waits for the reader of
//     C, and ends as soon as one of the above asks for it back.
//
// A Receiver can be given to Merge once. If one is given twice, C is closed at once,
// Err says so, and the Receivers go on, for the program to read them. Of no Receivers
// at all C is closed at once, too, and Err returns nil.
func Merge[T any](rs ...*Receiver[T]) *Merged[T] {
	m := &Merged[T]{c: make(chan Message[T]), done: make(chan struct{})}
	for _, r := range rs {
		d, ok := r.attach()
		if !ok {
			m.refuse(r.core.opError("merge", errMergedBefore, 0))
			return m
		}
		m.parts = append(m.parts, mergedPart[T]{r, d})
	}
	if len(m.parts) == 0 {
		m.finish()
		return m
	}
	m.running.Store(int64(len(m.parts)))
	for _, p := range m.parts {
		go m.run(p)
	}
	return m
}

var errMergedBefore = errors.New("the Receiver is given to Merge a second time")

// C returns the channel of messages. It is always the same, and has no buffer. It is
// closed, once, when all Receivers have ended and what they had taken has been read
// or handed back. Err can be read by then.
func (m *Merged[T]) C() <-chan Message[T] { return m.c }

// Err returns the error of the Receiver that was the first to end with one: see
// [Receiver.Err]. From then on the other Receivers are stopped, as Close does it;
// those with [WithDrain] drain. It returns nil before, and if every Receiver has ended
// without an error, as after Close and Drain.
func (m *Merged[T]) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.why
}

// Done returns a channel that is closed when C is: all goroutines are gone, those of
// the Receivers too.
func (m *Merged[T]) Done() <-chan struct{} { return m.done }

// Drain makes all Receivers stop taking messages and deliver those that they have
// taken. It returns when all of that has been read. While nobody reads C it waits for
// ctx, returns an [*OpError] that matches ctx.Err(), and the Receivers go on draining;
// so call it from another goroutine than C's reader, or with a ctx that ends. After
// the end it returns nil at once.
func (m *Merged[T]) Drain(ctx context.Context) error {
	for _, p := range m.parts {
		p.r.drain()
	}
	select {
	case <-m.done:
		return nil
	default:
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return &OpError{Op: "drain", ID: -1, Err: ctxError(ctx)}
	}
}

// Close makes all Receivers stop, waits for their end, and hands back what they had
// taken and the program has not read, each to its own handle. The next receives on
// the handles get it, in the order taken. C is closed afterwards.
//
// Close may be called from any goroutine, C's reader too, and any number of times; it
// always returns nil. It must not be called from a WithDecodeError function, nor from
// a codec, which it waits for.
func (m *Merged[T]) Close() error {
	for _, p := range m.parts {
		p.stop()
	}
	<-m.done
	return nil
}

// stop makes the Receiver stop, and hands back what is unread, without waiting for that.
func (p mergedPart[T]) stop() {
	p.r.stop(asked)
	p.d.cancel()
}

// refuse undoes what Merge has begun.
func (m *Merged[T]) refuse(err error) {
	for _, p := range m.parts {
		if p.d != noDownstream {
			m.leave(p)
		}
	}
	m.parts, m.why = nil, err
	m.finish()
}

// finish closes C.
func (m *Merged[T]) finish() {
	close(m.c)
	close(m.done)
}

// run is the goroutine of one Receiver.
func (m *Merged[T]) run(p mergedPart[T]) {
	if p.d != noDownstream {
		if held, recalled := m.pass(p); recalled {
			p.r.recall(held)
		}
		m.leave(p)
	}
	<-p.r.done
	m.ended(p.r)
	if p.r.drained() {
		p.r.core.pumps.remove(p.r)
	}
	if m.running.Add(-1) == 0 {
		m.finish()
	}
}

// pass reads values of the Receiver and offers them, until there are no more or what
// is unread is recalled. It reports whether it holds one then.
func (m *Merged[T]) pass(p mergedPart[T]) (held, recalled bool) {
	ended := p.r.done
	for {
		var value Message[T]
		select {
		case v, open := <-p.r.c:
			if !open {
				return false, false
			}
			value = v
		case <-p.d.ctx.Done():
			return false, true
		}
		for offered := false; !offered; {
			select {
			case m.c <- value:
				p.r.passed(p.d)
				offered = true
			case <-ended:
				m.ended(p.r) // now: the others must not wait for who reads C
				ended = nil
			case <-p.d.ctx.Done():
				return true, true
			}
		}
	}
}

// leave says that nothing of the Receiver is held any more.
func (m *Merged[T]) leave(p mergedPart[T]) {
	p.d.cancel()
	p.r.core.holders.unregister(&p.d.holder)
	close(p.d.stopped)
}

// ended stops the other Receivers if r, which has ended, has done so with an error.
func (m *Merged[T]) ended(r *Receiver[T]) {
	err := r.Err()
	if err == nil || !m.fail(err) {
		return
	}
	for _, p := range m.parts {
		switch {
		case p.r == r:
		case p.r.drains:
			p.r.drain()
		default:
			p.stop()
		}
	}
}

// fail reports whether err is the first error.
func (m *Merged[T]) fail(err error) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := m.why == nil
	if first {
		m.why = err
	}
	return first
}
