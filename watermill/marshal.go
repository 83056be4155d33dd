package watermill

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"slices"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// A Marshaler makes messages the text of a queue's messages, and back. Implementations must be
// safe for concurrent use. One that is a codec.Ender as well, whose texts never end in some byte,
// has the length of a text known even if the process that took it from the kernel was killed
// in that moment (chanmq.WithJournal).
type Marshaler interface {
	// Marshal returns the text of a message. It must not change the message, and the
	// caller does not change the text.
	Marshal(topic string, msg *message.Message) ([]byte, error)
	// Unmarshal returns the message of a text, which it may keep.
	Unmarshal(topic string, text []byte) (*message.Message, error)
}

// Frame is the Marshaler of messages with their UUID, metadata and payload, as the package
// comment describes it. A UUID and a key have up to 65,535 bytes, and a message up to 65,535
// pairs.
type Frame struct{}

const (
	frameMagic  = "\xFDwm\x01"
	frameHeader = 8
	frameEnd    = 0
)

var errDamaged = errors.New("the text is no message of Watermill's, or is damaged")

// Marshal returns the text. It fails if one of the limits is exceeded.
func (Frame) Marshal(_ string, msg *message.Message) ([]byte, error) {
	size := frameHeader + len(msg.UUID) + len(msg.Payload) + 1
	keys := make([]string, 0, len(msg.Metadata))
	for k, v := range msg.Metadata {
		if len(k) > math.MaxUint16 || uint64(len(v)) > math.MaxUint32 {
			return nil, fmt.Errorf("a metadata pair is too large: %d and %d bytes", len(k), len(v))
		}
		keys = append(keys, k)
		size += 6 + len(k) + len(v)
	}
	if len(msg.UUID) > math.MaxUint16 || len(keys) > math.MaxUint16 {
		return nil, fmt.Errorf("a UUID of %d bytes, or %d metadata pairs, are too many", len(msg.UUID), len(keys))
	}
	slices.Sort(keys) // the same message has the same text
	b := make([]byte, 0, size)
	b = append(b, frameMagic...)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(msg.UUID)))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(keys)))
	b = append(b, msg.UUID...)
	for _, k := range keys {
		v := msg.Metadata[k]
		b = binary.LittleEndian.AppendUint16(b, uint16(len(k)))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, k...)
		b = append(b, v...)
	}
	b = append(b, msg.Payload...)
	return append(b, frameEnd), nil
}

// Unmarshal returns the message. Its payload is part of text.
func (Frame) Unmarshal(_ string, text []byte) (*message.Message, error) {
	last := len(text) - 1
	if last < frameHeader || string(text[:len(frameMagic)]) != frameMagic || text[last] != frameEnd {
		return nil, errDamaged
	}
	uuidLen, pairs := binary.LittleEndian.Uint16(text[4:]), binary.LittleEndian.Uint16(text[6:])
	rest := text[frameHeader:last:last]
	if len(rest) < int(uuidLen) {
		return nil, errDamaged
	}
	msg := message.NewMessage(string(rest[:uuidLen]), nil)
	rest = rest[uuidLen:]
	for range pairs {
		if len(rest) < 6 {
			return nil, errDamaged
		}
		k, v := uint64(binary.LittleEndian.Uint16(rest)), uint64(binary.LittleEndian.Uint32(rest[2:]))
		rest = rest[6:]
		if uint64(len(rest)) < k+v {
			return nil, errDamaged
		}
		msg.Metadata[string(rest[:k])] = string(rest[k : k+v])
		rest = rest[k+v:]
	}
	if len(msg.Metadata) != int(pairs) {
		return nil, errDamaged // a key twice
	}
	msg.Payload = rest
	return msg, nil
}

// NeverEndsIn makes a Frame a codec.Ender: its last byte is another one.
func (Frame) NeverEndsIn() byte { return 0xFF }

// Plain is the Marshaler for programs that know nothing of Watermill: the text is the payload.
// UUID and metadata are not sent. A message that is received has no metadata, and a new
// UUID each time that it is delivered. [InfoFrom] returns its mtype.
type Plain struct{}

// Marshal returns the payload.
func (Plain) Marshal(_ string, msg *message.Message) ([]byte, error) { return msg.Payload, nil }

// Unmarshal returns a message with the text as its payload.
func (Plain) Unmarshal(_ string, text []byte) (*message.Message, error) {
	return message.NewMessage(watermill.NewUUID(), text), nil
}

// unmarshal is Unmarshal of the Marshaler, for goroutines of this package: a panic there
// would end the process, and the next one, again and again.
func (o *options) unmarshal(topic string, text []byte) (msg *message.Message, err error) {
	defer recovered(&err)
	msg, err = o.marshaler.Unmarshal(topic, text)
	if err == nil && msg == nil {
		err = fmt.Errorf("%T has returned no message", o.marshaler)
	}
	return msg, err
}

// marshal is the same for Marshal.
func (o *options) marshal(topic string, msg *message.Message) (text []byte, err error) {
	defer recovered(&err)
	return o.marshaler.Marshal(topic, msg)
}

func recovered(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
	}
}

// endedBytes are bytes that never end in one of them.
type endedBytes struct {
	codec.Codec[[]byte]
	last byte
}

func (c endedBytes) NeverEndsIn() byte { return c.last }

// consume starts a Consumer. topic is for the function of WithUndecoded.
func (o *options) consume(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector, topic string) *chanmq.Consumer[[]byte] {
	if e, ok := o.marshaler.(codec.Ender); ok {
		q = chanmq.As(q, codec.Codec[[]byte](endedBytes{codec.Bytes(), e.NeverEndsIn()}))
	}
	opts := append([]chanmq.ConsumerOption{chanmq.WithDecodeError(func(err *chanmq.DecodeError) {
		if o.undecoded != nil {
			o.undecoded(topic, err.Message, err)
			return
		}
		o.logger.Error("A message cannot be taken out of its envelope, and is dropped", err,
			watermill.LogFields{"topic": topic, "mtype": err.Message.Type, "text": fmt.Sprintf("%q", err.Message.Value)})
	})}, o.consumer...)
	return q.Consumer(ctx, s, opts...)
}
