package chanmq

import (
	"context"
	"sync"

	"github.com/chanmq/chanmq/internal/wait"
)

// A Sender moves messages from the channel C into the queue, in order, waiting
// while the queue is full. It is a pump: a goroutine of its own.
//
// It ends when C is closed and everything is sent, when its ctx ends, when Close
// is called, when the handle is closed, and at the first message that cannot be
// sent. Nobody receives from C then, so send in a select with Done:
//
//	select {
//	case s.C() <- m:
//	case <-s.Done():
//		return s.Err()
//	}
//
// That the channel took a message does not mean that the kernel has it: see
// [Sender.Flush], and [Sender.Unsent] for what it never got. On a cluster, if Err
// matches [ErrUncertain], the queue may have the first message of Unsent.
type Sender[T any] struct {
	pump
	q        *Queue[T]
	c        chan Message[T]    // received from by the goroutine, then by whoever holds collecting; closed by the program alone, if at all
	flushes  chan chan struct{} // requests; the goroutine closes what it receives
	draining chan struct{}      // closed once: nothing more is accepted than what C holds
	drainOne sync.Once

	// Of the goroutine, until done is closed.
	into    send
	packer  packer       // with packing: the first values of waiting, encoded
	waiting []Message[T] // with packing: accepted, and not sent yet; after its end guarded by collecting

	collecting sync.Mutex
	unsent     []Message[T] // what it had accepted; guarded by collecting
	claimed    bool         // the program has called Unsent; guarded by collecting
}

// Sender starts a Sender. It always returns one; where it cannot work (the
// handle is closed, an option is bad), it is done at once and Err says why.
func (q *Queue[T]) Sender(ctx context.Context, opts ...SenderOption) *Sender[T] {
	o, err := newSenderOptions(opts)
	core := q.core()
	s := &Sender[T]{
		q:        q,
		c:        make(chan Message[T], o.buffer),
		flushes:  make(chan chan struct{}),
		draining: make(chan struct{}),
	}
	s.pump.init(core, "send", ctx, ctx)
	if err == nil && !core.pumps.add(s) {
		err = ErrClosed
	}
	if err != nil {
		s.finish(err)
		return s
	}
	s.into.init(core, new(wait.Spinner))
	go s.run()
	return s
}

// C returns the channel to send messages to. It is always the same. The program
// may close it, once, when it sends no more: what was accepted is sent, then the
// Sender ends. The library never closes it. After the Sender's end, a send to C
// blocks, or fills the buffer; what it fills it with is in Unsent.
func (s *Sender[T]) C() chan<- Message[T] { return s.c }

// Done returns a channel that is closed when the Sender has ended.
func (s *Sender[T]) Done() <-chan struct{} { return s.pump.Done() }

// Err returns why the Sender ended: the error of the message that could not be
// sent (as of [Queue.Send]), an [*OpError] that matches ctx.Err() and the ctx's
// cause, [ErrRemoved], or [ErrClosed] if the handle was closed. It returns nil
// while the Sender runs, and after C was closed and everything sent, and after
// Close, unless that has made a send [ErrUncertain].
func (s *Sender[T]) Err() error { return s.pump.Err() }

// Flush waits until everything that C has accepted before the call is in the
// kernel, and returns nil then. If the Sender ends before, it returns why, or
// [ErrClosed] after Close; Unsent has the rest. If ctx ends before, it returns an
// [*OpError] that matches ctx.Err(), and the Sender goes on.
func (s *Sender[T]) Flush(ctx context.Context) error {
	flushed := make(chan struct{})
	select {
	case s.flushes <- flushed:
	case <-s.done:
		return s.unflushed()
	case <-ctx.Done():
		return s.core.opError("flush", ctxError(ctx), 0)
	}
	select {
	case <-flushed:
		return nil
	case <-s.done:
		return s.unflushed()
	case <-ctx.Done():
		return s.core.opError("flush", ctxError(ctx), 0)
	}
}

// unflushed is what Flush returns after the end.
func (s *Sender[T]) unflushed() error {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	s.collectUnsent()
	switch err := s.Err(); {
	case err != nil:
		return err
	case len(s.unsent) > 0:
		return s.core.opError("flush", ErrClosed, 0)
	}
	return nil
}

// Close makes the Sender stop and waits for its end. It sends nothing more: a
// program that wants everything sent closes C, or calls Flush first. If messages
// were accepted and not sent, it returns an [*OpError] that says how many; Unsent has
// them. It may be called from any goroutine, any number of times.
func (s *Sender[T]) Close() error {
	s.stop(asked)
	<-s.done
	s.collecting.Lock()
	defer s.collecting.Unlock()
	s.collectUnsent()
	if len(s.unsent) == 0 {
		return nil
	}
	left := count(len(s.unsent), "message") + " accepted and not sent, which Unsent returns"
	err := s.Err()
	if err == nil {
		return s.core.opError("close", cause([]error{ErrClosed}, "the Sender has ended with %s", left), 0)
	}
	return s.core.opError("close", cause([]error{err}, "the Sender has ended with %s: %v", left, err), 0)
}

// Unsent returns what C had accepted and the kernel never got, in order, after
// the Sender's end; before it, nil. The first one it may have got if Err matches
// [ErrUncertain]. A program that has called it looks after
// those messages: Close of the queue no longer reports them.
func (s *Sender[T]) Unsent() []Message[T] {
	if !s.hasEnded() {
		return nil
	}
	s.collecting.Lock()
	defer s.collecting.Unlock()
	s.collectUnsent()
	s.claimed = true
	return append([]Message[T](nil), s.unsent...)
}

func (s *Sender[T]) receives() bool { return false }

func (s *Sender[T]) drain() { s.drainOne.Do(func() { close(s.draining) }) }

func (s *Sender[T]) collect(left *UndeliveredError) {
	<-s.done
	s.collecting.Lock()
	defer s.collecting.Unlock()
	s.collectUnsent()
	if !s.claimed {
		s.undelivered(left)
	}
	s.core.pumps.remove(s)
}

func (s *Sender[T]) drained() bool {
	if !s.hasEnded() || !s.collecting.TryLock() {
		return false
	}
	defer s.collecting.Unlock()
	return s.claimed || len(s.unsent) == 0 && len(s.waiting) == 0 && len(s.c) == 0
}

// run is the goroutine.
func (s *Sender[T]) run() {
	err := errCodecExit
	defer func() { s.finish(err) }()
	err = s.sendAll()
}

// sendAll is the way of a message from the channel to the kernel. It returns when
// there is a reason to end.
func (s *Sender[T]) sendAll() error {
	defer s.into.waiter.Release()
	for {
		select {
		case m, open := <-s.c:
			if !open {
				return s.sendAllWaiting()
			}
			if err := s.send(m); err != nil {
				return err
			}
		case <-s.ready():
			if err := s.sendWaiting(true); err != nil {
				return err
			}
		case flushed := <-s.flushes:
			if _, err := s.sendBuffered(); err != nil {
				return err
			}
			close(flushed)
		case <-s.draining:
			for {
				n, err := s.sendBuffered()
				if n == 0 || err != nil {
					return err
				}
			}
		case <-s.running.Done():
			return &canceled{}
		}
	}
}

// sendBuffered sends what is in C's buffer, and returns how often it found something there.
func (s *Sender[T]) sendBuffered() (n int, err error) {
	for range len(s.c) {
		m, ok := s.another()
		if !ok {
			break // closed, or packed with one before
		}
		if err := s.send(m); err != nil {
			return n, err
		}
		n++
	}
	return n, s.sendAllWaiting()
}

// sendAllWaiting sends the values that wait.
func (s *Sender[T]) sendAllWaiting() error {
	for len(s.waiting) > 0 {
		if err := s.sendWaiting(false); err != nil {
			return err
		}
	}
	return nil
}

// another takes a value from C if there is one.
func (s *Sender[T]) another() (m Message[T], ok bool) {
	select {
	case m, ok = <-s.c:
	default:
	}
	return m, ok
}

// always is a channel that can be received from.
var always = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// ready returns a channel that can be received from if values wait to be sent.
func (s *Sender[T]) ready() <-chan struct{} {
	if len(s.waiting) > 0 {
		return always
	}
	return nil
}

// send puts m into the queue, or keeps it. With packing, values that C had besides may wait
// to be sent afterwards.
func (s *Sender[T]) send(m Message[T]) error {
	if s.core.options.packing {
		s.waiting = append(s.waiting, m)
		return s.sendWaiting(true)
	}
	err := errCodecExit
	defer func() {
		if err != nil {
			s.collecting.Lock()
			defer s.collecting.Unlock()
			s.unsent = append(s.unsent, m)
		}
	}()
	err = s.q.encode(&s.into, m.Type, m.Value)
	if err == nil {
		err = s.into.run(s.running)
	}
	s.report(m.Type, err)
	return err
}

// report reports that a message was sent, or why not, unless the program wanted that.
func (s *Sender[T]) report(typ int64, err error) {
	if s.core.options.observer == nil {
		return
	}
	why := err
	if err != nil {
		if why = s.whyEnds(err, s.into.size()); why == nil {
			return
		}
	}
	s.into.sent(s.ctx, typ, why)
}

// sendWaiting sends one message with the first values that wait, and, if more is set, with
// those that are in C.
func (s *Sender[T]) sendWaiting(more bool) error {
	s.into.begin()
	n, err := 0, s.pack(more)
	if err == nil {
		n, err = s.into.runPack(s.running, &s.packer)
	}
	s.report(s.waiting[0].Type, err)
	if err != nil {
		return err
	}
	s.packer.drop(n)
	left := copy(s.waiting, s.waiting[n:])
	clear(s.waiting[left:]) // the kernel has them
	s.waiting = s.waiting[:left]
	return nil
}

// pack encodes values that wait, up to a full message or the first that does not belong to
// it: one of another type, or one that cannot be encoded. It fails if that is the first.
func (s *Sender[T]) pack(more bool) error {
	for n := len(s.packer.ends); n == 0 || s.packer.size() < s.into.packLimit(); n++ {
		if n == len(s.waiting) {
			m, ok := Message[T]{}, false
			if more {
				m, ok = s.another()
			}
			if !ok {
				return nil
			}
			s.waiting = append(s.waiting, m)
		}
		m := &s.waiting[n]
		if n > 0 && m.Type != s.packer.typ {
			return nil
		}
		if n == 0 {
			if err := validateType(m.Type); err != nil {
				return err
			}
			s.packer.begin(m.Type)
		}
		err := s.packer.add(func(dst []byte) ([]byte, error) { return s.q.codec.Append(dst, m.Value) })
		switch {
		case err != nil && n == 0:
			return err
		case err != nil:
			return nil // those before it are sent first
		}
	}
	return nil
}

// finish publishes why the Sender has ended.
func (s *Sender[T]) finish(err error) {
	s.pump.end(err, s.into.size())
	close(s.done)
}

// collectUnsent moves what was waiting, and what is in C's buffer, to unsent. It needs
// collecting, and the goroutine's end.
func (s *Sender[T]) collectUnsent() {
	s.unsent = append(s.unsent, s.waiting...)
	s.waiting = nil
	for {
		select {
		case m, open := <-s.c:
			if !open {
				return
			}
			s.unsent = append(s.unsent, m)
		default:
			return
		}
	}
}

// undelivered appends unsent to left. It needs collecting, and the goroutine's end.
func (s *Sender[T]) undelivered(left *UndeliveredError) {
	if len(s.unsent) > 0 && left.Err == nil {
		left.Err = s.Err()
		if left.Err == nil {
			left.Err = ErrClosed
		}
	}
	for _, m := range s.unsent {
		text, err := s.q.codec.Append(nil, m.Value)
		if err != nil {
			left.Unencoded = append(left.Unencoded, Message[any]{m.Type, m.Value})
			continue
		}
		left.Messages = append(left.Messages, Message[[]byte]{m.Type, text})
	}
}
