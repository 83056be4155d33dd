package serve

import (
	"errors"

	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
)

// A DeadLetter is a message that a server gave up: see [WithMaxAttempts]. In its queue it
// has the type that it had before.
type DeadLetter struct {
	Type     int64  // that the message had; 0: not known, since there is no header
	Reason   string // the text of the last error; "": not known
	Attempts int    // how many times it was delivered
	Text     []byte // of the message, without the header of a Client
}

// DeadLetterCodec returns the codec for a queue of dead letters:
//
//	dead := chanmq.As(q, serve.DeadLetterCodec())
//	for m, err := range dead.Browse() {
//
// A message without a header, which was too large to get one, or which another program sent,
// becomes a DeadLetter with a Text and nothing else.
func DeadLetterCodec() codec.Codec[DeadLetter] { return deadLetterCodec{} }

type deadLetterCodec struct{}

func (deadLetterCodec) Append(dst []byte, v DeadLetter) ([]byte, error) {
	if v.Type < 0 || v.Attempts < 0 {
		return nil, errors.New("serve: the type or the attempts of a DeadLetter are negative")
	}
	h := envelope.Header{Kind: envelope.DeadLetter, Type: v.Type, Reason: v.Reason, Attempts: uint32(v.Attempts)}
	return append(envelope.Append(dst, &h), v.Text...), nil
}

func (deadLetterCodec) Decode(src []byte, v *DeadLetter) error {
	h, payload, err := envelope.Parse(src)
	if err != nil || h.Kind != envelope.DeadLetter {
		h, payload = envelope.Header{}, src
	}
	*v = DeadLetter{Type: h.Type, Reason: h.Reason, Attempts: int(h.Attempts), Text: append(v.Text[:0], payload...)}
	return nil
}

// ReadOnlyDecoder: see codec.ReadOnlyDecoder.
func (deadLetterCodec) ReadOnlyDecoder() {}
