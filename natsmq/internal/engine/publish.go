package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// This file is how a message gets into a queue once. Each has an id, by which the servers
// recognize it when it is published again, since the answer was lost. They forget the id of a message
// that was taken when they restart; then whoever has taken it knows (peers.go).

// HeaderRoom is more than a header needs.
const HeaderRoom = 1024

// headerLength is that of each message's header.
func (e *Engine) headerLength(exact bool) int {
	const id = len("NATS/1.0\r\nNats-Msg-Id: \r\n\r\n") + idLength
	if !exact {
		return id
	}
	return id + len(expectedHeader+": \r\n") + len(sequence(0))
}

// idLength makes a header as long as that of a message in a batch (bridge.go).
const idLength = 36

// newID returns an id that no other message has.
func newID() string { return nuid.Next() + strings.Repeat("0", idLength-22) }

// Outgoing is a message that is to be sent.
type Outgoing struct {
	id       string
	Type     int64
	Text     []byte
	asked    bool      // a server may have it
	deadline time.Time // when the servers may forget the id
}

// NewOutgoing returns a message that was not sent yet. The text is the message's.
func NewOutgoing(typ int64, text []byte) *Outgoing {
	return &Outgoing{id: newID(), Type: typ, Text: text}
}

// Uncertain reports whether a server may have the message.
func (m *Outgoing) Uncertain() bool { return m.asked }

// Publish puts the message into the queue, and returns nil when it is there. ErrFull: there is no room.
// It may be called again with the same message, whatever the error was, and then puts it
// there once; m.Uncertain says whether it may be there if it is not called again.
func (e *Engine) Publish(ctx context.Context, id int, m *Outgoing) error {
	if len(m.Text) > e.Limits.MaxMessage {
		return ErrTooLarge
	}
	var pauses Pauses
	for {
		if e.closed.Load() {
			return errClosed
		}
		if m.asked {
			if time.Now().After(m.deadline) {
				return ErrUncertain
			}
			if taken, err := e.peers.wasTaken(ctx, id, m.id); taken || err != nil {
				m.asked = !taken
				return err
			}
		}
		err := e.publish(ctx, id, m)
		if errors.Is(err, nats.ErrMaxPayload) {
			err = ErrTooLarge // and will be
		}
		switch {
		case err == nil:
			m.asked = false
			return nil
		case errors.Is(err, ErrFull), errors.Is(err, ErrTooLarge), errors.Is(err, ErrRemoved):
			// An earlier try would have been recognized.
			m.asked = m.asked && errors.Is(err, ErrRemoved)
			return err
		case errors.Is(err, nats.ErrNoResponders):
			// Nobody has got it: the stream is gone, or has no leader.
			if _, err := e.Info(ctx, id); errors.Is(err, ErrRemoved) {
				return err
			}
		case e.Conn.IsClosed() && !m.asked && (unsent(err) || errors.Is(err, ErrUnavailable)):
			return e.because(nats.ErrConnectionClosed) // it is never made again
		case unsent(err), errors.Is(err, ErrUnavailable): // of a look before it
		case definite(err) && !hasCode(err, codeBeingStored), errors.Is(err, errClosed):
			return err
		default:
			if !m.asked {
				m.asked, m.deadline = true, time.Now().Add(dedupeWindow-5*time.Second)
			}
		}
		if !pauses.Wait(ctx) {
			return ctx.Err()
		}
	}
}

// publish tries once.
func (e *Engine) publish(ctx context.Context, id int, m *Outgoing) error {
	out := &nats.Msg{Subject: e.layout.message(id, m.Type), Data: m.Text, Header: nats.Header{"Nats-Msg-Id": {m.id}}}
	exact, err := e.isExact(ctx, id)
	if err != nil {
		return err
	}
	if !exact {
		_, err := e.publishOnce(ctx, out)
		return e.refused(ctx, id, m, err)
	}
	for !m.asked {
		info, err := e.Info(ctx, id)
		if err != nil {
			return err
		}
		if uint64(len(m.Text)) > info.MaxBytes {
			return ErrTooLarge
		}
		if info.Bytes+uint64(len(m.Text)) > info.MaxBytes || info.Messages+1 > info.MaxBytes {
			return ErrFull
		}
		// Nobody else has sent anything since. What was taken only makes more room.
		out.Header[expectedHeader] = []string{sequence(info.lastSequence)}
		if _, err = e.publishOnce(ctx, out); !hasCode(err, codeWrongSequence, codeWrongSequenceToo) {
			return err
		}
	}
	// If it is there, the server recognizes it, but looks at the sequence first. If it is not, it
	// gets in, though the queue may be full by now.
	delete(out.Header, expectedHeader)
	out.Header[againHeader] = []string{sequence(0)}
	_, err = e.publishOnce(ctx, out)
	return err
}

// Headers of messages to a queue that counts exactly. They are equally long.
const (
	expectedHeader = "Nats-Expected-Last-Sequence"
	againHeader    = "Chanmq-Was-Sent-Before-This"
)

// refused says what the error of a publish means.
func (e *Engine) refused(ctx context.Context, id int, m *Outgoing, err error) error {
	switch {
	case hasCode(err, codeTooLarge):
		return ErrTooLarge
	case hasCode(err, codeStoreFailed) && strings.Contains(err.Error(), "maximum"):
		info, infoErr := e.Info(ctx, id)
		if infoErr == nil && stored(info.storage, e.layout.subjectLength(id), e.headerLength(false), len(m.Text)) > info.MaxBytes {
			return ErrTooLarge
		}
		return ErrFull
	}
	return err
}

// publishOnce publishes, and returns the sequence of the message.
func (e *Engine) publishOnce(ctx context.Context, m *nats.Msg) (uint64, error) {
	reply, err := e.send(ctx, m)
	if err != nil {
		return 0, err
	}
	var ack struct {
		Error    *apiError `json:"error"`
		Sequence uint64    `json:"seq"`
	}
	if err := json.Unmarshal(reply.Data, &ack); err != nil {
		return 0, fmt.Errorf("the answer to a message: %w", err)
	}
	if ack.Error != nil {
		return 0, ack.Error
	}
	return ack.Sequence, nil
}

// isExact reports whether a queue counts bytes as a kernel does.
func (e *Engine) isExact(ctx context.Context, id int) (bool, error) {
	e.mu.Lock()
	exact, known := e.exact[id]
	e.mu.Unlock()
	if known {
		return exact, nil
	}
	info, err := e.Info(ctx, id)
	if err != nil {
		return false, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.exact[id] = info.Exact
	return info.Exact, nil
}
