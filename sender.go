package chanmq

import (
	"context"
	"errors"
	"sync"
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
// [Sender.Flush], and [Sender.Unsent] for what it never got.
type Sender[T any] struct {
	q       *Queue[T]
	c       chan Message[T]    // received from by the pump, then by who holds mu; closed by the program alone, if at all
	flushes chan chan struct{} // requests; the pump closes what it receives

	running context.Context // ends with the program's ctx, and when the Sender is stopped
	letGo   context.CancelCauseFunc

	op   send          // of the pump, until done is closed
	done chan struct{} // closed when the pump has ended

	mu      sync.Mutex
	err     error        // why it ended; set before done is closed; guarded by mu
	unsent  []Message[T] // what it had accepted; guarded by mu
	claimed bool         // the program has called Unsent; guarded by mu
}

// Sender starts a Sender. It always returns one; where it cannot work (the
// handle is closed, an option is bad), it is done at once and Err says why.
func (q *Queue[T]) Sender(ctx context.Context, opts ...SenderOption) *Sender[T] {
	o, err := newSenderOptions(opts)
	s := &Sender[T]{
		q:       q,
		c:       make(chan Message[T], o.buffer),
		flushes: make(chan chan struct{}),
		done:    make(chan struct{}),
	}
	s.running, s.letGo = context.WithCancelCause(ctx)
	if err == nil && !q.core.pumps.add(s) {
		err = ErrClosed
	}
	if err != nil {
		s.end(q.core.opError("send", err, 0))
		return s
	}
	s.op.init(q.core, new(spinner))
	go s.pump()
	return s
}

// C returns the channel to send messages to. It is always the same. The program
// may close it, once, when it sends no more: what was accepted is sent, then the
// Sender ends. The library never closes it. After the Sender's end, a send to C
// blocks, or fills the buffer; what it fills it with is in Unsent.
func (s *Sender[T]) C() chan<- Message[T] { return s.c }

// Done returns a channel that is closed when the Sender has ended.
func (s *Sender[T]) Done() <-chan struct{} { return s.done }

// Err returns why the Sender ended: the error of the message that could not be
// sent (as of [Queue.Send]), ctx.Err() and the ctx's cause, [ErrRemoved], or
// [ErrClosed] if the handle was closed. It returns nil while the Sender runs,
// and after C was closed and everything sent, and after Close.
func (s *Sender[T]) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Flush waits until everything that C has accepted before the call is in the
// kernel, and returns nil then. If the Sender ends before, it returns why, or
// [ErrClosed] after Close; Unsent has the rest. If ctx ends before, it returns
// ctx.Err(), and the Sender goes on.
func (s *Sender[T]) Flush(ctx context.Context) error {
	flushed := make(chan struct{})
	select {
	case s.flushes <- flushed:
	case <-s.done:
		return s.unflushed()
	case <-ctx.Done():
		return ctxError(ctx)
	}
	select {
	case <-flushed:
		return nil
	case <-s.done:
		return s.unflushed()
	case <-ctx.Done():
		return ctxError(ctx)
	}
}

// unflushed is Flush's answer after the end.
func (s *Sender[T]) unflushed() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	switch {
	case s.err != nil:
		return s.err
	case len(s.unsent) > 0:
		return s.q.core.opError("flush", ErrClosed, 0)
	}
	return nil
}

// Close makes the Sender stop and waits for its end. It sends nothing more: a
// program that wants everything sent closes C, or calls Flush first. If messages
// were accepted and not sent, it returns an error that says how many; Unsent has
// them. It may be called from any goroutine, any number of times.
func (s *Sender[T]) Close() error {
	s.stop(errStopped)
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	if len(s.unsent) == 0 {
		return nil
	}
	const left = "chanmq: the Sender ended with %d messages accepted and not sent, which Unsent returns"
	if s.err == nil {
		return cause([]error{ErrClosed}, left, len(s.unsent))
	}
	return cause([]error{s.err}, left+": %v", len(s.unsent), s.err)
}

// Unsent returns what C had accepted and the kernel never got, in order, after
// the Sender's end; before it, nil. A program that has called it looks after
// those messages: Close of the queue no longer reports them.
func (s *Sender[T]) Unsent() []Message[T] {
	select {
	case <-s.done:
	default:
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	s.claimed = true
	return append([]Message[T](nil), s.unsent...)
}

func (s *Sender[T]) stop(err error) { s.letGo(err) }

func (s *Sender[T]) collect(left *UndeliveredError) {
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drain()
	if !s.claimed {
		s.undelivered(left)
	}
	s.q.core.pumps.remove(s)
}

func (s *Sender[T]) spent() bool {
	select {
	case <-s.done:
	default:
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.claimed || len(s.unsent) == 0 && len(s.c) == 0
}

// pump is the way of a message from the channel to the kernel.
func (s *Sender[T]) pump() {
	err := s.forward()
	s.op.release()
	s.end(s.reason(err))
}

// forward sends messages until there is a reason to end.
func (s *Sender[T]) forward() error {
	for {
		select {
		case m, open := <-s.c:
			if !open {
				return nil
			}
			if err := s.send(m); err != nil {
				return err
			}
		case flushed := <-s.flushes:
			for n := len(s.c); n > 0; n-- {
				m, open := <-s.c
				if !open {
					break
				}
				if err := s.send(m); err != nil {
					return err
				}
			}
			close(flushed)
		case <-s.running.Done():
			return ctxError(s.running)
		}
	}
}

// send puts m into the queue, or keeps it.
func (s *Sender[T]) send(m Message[T]) error {
	err := s.op.encode(m.Type, func(dst []byte) ([]byte, error) { return s.q.codec.Append(dst, m.Value) })
	if err == nil {
		err = s.op.run(s.running)
	}
	if err != nil {
		s.mu.Lock()
		s.unsent = append(s.unsent, m)
		s.mu.Unlock()
	}
	return err
}

// reason turns why the pump stopped into what Err returns.
func (s *Sender[T]) reason(err error) error {
	switch {
	case errors.Is(err, errStopped):
		return nil
	case errors.Is(err, ErrClosed):
		err = ErrClosed
	case err == s.running.Err():
		return err
	}
	return s.q.core.opError("send", err, s.op.size())
}

// end publishes why the Sender has ended.
func (s *Sender[T]) end(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	s.letGo(errStopped) // releases what the ctx knows of this Sender
	close(s.done)
}

// drain moves what stands in C's buffer to unsent. It needs mu, and the pump's end.
func (s *Sender[T]) drain() {
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

// undelivered appends unsent to left. It needs mu, and the pump's end.
func (s *Sender[T]) undelivered(left *UndeliveredError) {
	if len(s.unsent) > 0 && left.Err == nil {
		left.Err = s.err
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
