package chanmq

import "fmt"

// A ReceiverOption changes how a [Receiver] works: [WithBuffer],
// [WithDecodeError], [WithDrain]. A [Consumer] takes them, too.
type ReceiverOption interface {
	ConsumerOption
	applyReceiver(*receiverOptions)
}

// A ConsumerOption changes how a [Consumer] works: [WithInFlight], [WithMaxAttempts],
// [WithBorrowedValues], and those of a [Receiver].
type ConsumerOption interface{ applyConsumer(*consumerOptions) }

// A SenderOption changes how a [Sender] works: [WithBuffer].
type SenderOption interface{ applySender(*senderOptions) }

// A BufferOption is what [WithBuffer] returns, for receivers and senders.
type BufferOption int

type receiverOptions struct {
	buffer        int
	onDecodeError func(*DecodeError)
	drain         bool
}

type consumerOptions struct {
	receiverOptions
	inFlight    int
	maxAttempts int // 0: no limit
	dead        func(Delivery[[]byte])
	borrowed    bool
	err         error // the first bad argument
}

type senderOptions struct{ buffer int }

// WithBuffer gives C room for n values. The default is 0: the kernel queue is
// the buffer. What is in C is lost when the process ends without [Queue.Close] or
// [Queue.Shutdown], and kept from other receivers of the queue meanwhile. A buffer
// makes a stream of messages faster, since the pump and the program then switch less
// often: where messages come one behind the other, a Receiver takes up to 64, as far
// as C has room, before it delivers the first of them.
func WithBuffer(n int) BufferOption { return BufferOption(n) }

func (n BufferOption) applyReceiver(o *receiverOptions) { o.buffer = int(n) }
func (n BufferOption) applyConsumer(o *consumerOptions) { o.buffer = int(n) }
func (n BufferOption) applySender(o *senderOptions)     { o.buffer = int(n) }

type decodeErrorOption func(*DecodeError)

func (f decodeErrorOption) applyReceiver(o *receiverOptions) { o.onDecodeError = f }
func (f decodeErrorOption) applyConsumer(o *consumerOptions) { o.onDecodeError = f }

// WithDecodeError makes a Receiver go on after a message that its codec cannot
// decode: f is called with it, from the Receiver's own goroutine, and the
// message is f's from then on. Without it such a message ends the Receiver. f
// must not call Close or Drain of that Receiver, nor Close of the queue, since
// they wait for it to return; it may cancel the ctx.
func WithDecodeError(f func(*DecodeError)) ReceiverOption { return decodeErrorOption(f) }

type drainOption struct{}

func (drainOption) applyReceiver(o *receiverOptions) { o.drain = true }
func (drainOption) applyConsumer(o *consumerOptions) { o.drain = true }

// WithDrain makes the end of a Receiver's ctx drain it, as [Receiver.Drain] does,
// instead of handing back what it holds: it stops taking messages, delivers those
// that it has taken, and closes C. For programs that range over C until it is
// closed, and handle every message that was taken. While nobody reads C it does
// not end; Close still hands back what it holds.
func WithDrain() ReceiverOption { return drainOption{} }

type consumerOption func(*consumerOptions)

func (f consumerOption) applyConsumer(o *consumerOptions) { f(o) }

// WithInFlight bounds what a Consumer has taken and the program has not acknowledged, read
// or not, to n messages. The default is 1: the next message is taken when the one before is
// acknowledged. A pool of n workers gives n. More than that makes a stream of messages
// faster, keeps them from other receivers of the queue, and lets more of them come again
// when the process dies.
func WithInFlight(n int) ConsumerOption {
	return consumerOption(func(o *consumerOptions) {
		if n < 1 || n > mostBuffered {
			o.refuse("WithInFlight(%d): the number is not in 1 to %d", n, mostBuffered)
			o.inFlight = 1
			return
		}
		o.inFlight = n
	})
}

// WithMaxAttempts takes messages out of the circle that have been delivered n times and
// were never acknowledged, because the program gave them back (Nack), or because they have
// killed its process each time: dead is called with such a message, from the Consumer's own
// goroutine, in place of a delivery. Its Attempt is the number of deliveries so far. It
// counts as acknowledged when dead returns, unless that has called Nack; so dead saves it
// first, or sends it to another queue. After Nack it is called with the message again, at once.
// dead must not call Close or Drain of that Consumer,
// nor Close of the queue.
//
// All that were delivered, or offered on C, when the process died count as attempted, since
// nobody knows which of them it was. So that the others are not given up with that one, a
// Consumer with this option delivers what a dead process had one at a time, whatever
// [WithInFlight] says.
func WithMaxAttempts(n int, dead func(Delivery[[]byte])) ConsumerOption {
	return consumerOption(func(o *consumerOptions) {
		if n < 1 {
			o.refuse("WithMaxAttempts(%d): a message has to be delivered at least once", n)
			return
		}
		if dead == nil {
			o.refuse("WithMaxAttempts: the function is nil; the message would be lost")
			return
		}
		o.maxAttempts, o.dead = n, dead
	})
}

// WithBorrowedValues makes the values of a Consumer's deliveries the memory that the kernel
// copied the messages to, in the journal if there is one: no message is copied or allocated,
// whatever its size. A value is valid until the delivery is acknowledged, by Ack or Nack,
// and must not be written to. It is for a Queue[[]byte] with codec.Bytes; others refuse it.
func WithBorrowedValues() ConsumerOption {
	return consumerOption(func(o *consumerOptions) { o.borrowed = true })
}

func (o *consumerOptions) refuse(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf(format, args...)
	}
}

func newConsumerOptions(opts []ConsumerOption) (consumerOptions, error) {
	o := consumerOptions{inFlight: 1}
	o.buffer = maxBatch
	for _, opt := range opts {
		opt.applyConsumer(&o)
	}
	o.buffer = min(o.buffer, o.inFlight-1)
	if err := validateBuffer(&o.buffer); err != nil {
		return o, err
	}
	return o, o.err
}

func newReceiverOptions(opts []ReceiverOption) (receiverOptions, error) {
	var o receiverOptions
	for _, opt := range opts {
		opt.applyReceiver(&o)
	}
	return o, validateBuffer(&o.buffer)
}

func newSenderOptions(opts []SenderOption) (senderOptions, error) {
	var o senderOptions
	for _, opt := range opts {
		opt.applySender(&o)
	}
	return o, validateBuffer(&o.buffer)
}

// mostBuffered is more than any queue holds, and less than would be refused by make.
const mostBuffered = 1 << 24

// validateBuffer makes a bad size 0, so that C exists to be closed.
func validateBuffer(n *int) (err error) {
	switch {
	case *n < 0:
		err = fmt.Errorf("WithBuffer(%d): the number is negative", *n)
	case *n > mostBuffered:
		err = fmt.Errorf("WithBuffer(%d): the number is over %d", *n, mostBuffered)
	}
	if err != nil {
		*n = 0
	}
	return err
}
