package engine

import (
	"bytes"
	"context"
	"slices"
	"sync"

	"github.com/nats-io/nats.go"
)

// This file is how the message is found that a selector selects. Every read is answered by the
// leader of the stream: what is read directly from another server may be old.

// Selector is what msgrcv's msgtyp and MSG_EXCEPT say.
type Selector struct {
	Mode Mode
	Type int64 // not of Any
}

// Mode is how a Selector selects.
type Mode uint8

const (
	Any    Mode = iota // the oldest message
	OfType             // the oldest of the type
	UpTo               // the oldest of the lowest type that is not over Type
	Except             // the oldest that is not of the type
)

// Matches reports whether the selector may select messages of the type.
func (s Selector) Matches(typ int64) bool {
	switch s.Mode {
	case OfType:
		return typ == s.Type
	case UpTo:
		return typ <= s.Type
	case Except:
		return typ != s.Type
	}
	return true
}

// Message is a message in a queue.
type Message struct {
	Seq  uint64 // its place in the stream
	Type int64
	Text []byte
	id   string

	before uint64 // of a wake-up: the message of the type that was the last one then; 0: there was none
}

// stored message, as the API has it.
type storedMessage struct {
	Subject string `json:"subject"`
	Seq     uint64 `json:"seq"`
	Header  []byte `json:"hdrs"`
	Data    []byte `json:"data"`
}

func (e *Engine) get(ctx context.Context, stream string, request any) (*storedMessage, error) {
	var answer struct {
		Message *storedMessage `json:"message"`
	}
	if err := e.insist(ctx, "STREAM.MSG.GET."+stream, request, &answer); err != nil {
		return nil, err
	}
	if answer.Message == nil {
		return nil, &apiError{404, codeNoMessage, "no message found"}
	}
	return answer.Message, nil
}

// next returns the first message from the sequence on that a filter selects.
func (e *Engine) next(ctx context.Context, id int, filter string, from uint64) (*Message, error) {
	m, err := e.get(ctx, e.layout.stream(id), map[string]any{"next_by_subj": filter, "seq": from})
	if hasCode(err, codeNoMessage) {
		return nil, ErrNone
	}
	if hasCode(err, codeNoStream) {
		return nil, ErrRemoved
	}
	if err != nil {
		return nil, err
	}
	typ, err := e.layout.typeOf(m.Subject)
	if err != nil {
		return nil, err
	}
	return &Message{Seq: m.Seq, Type: typ, Text: m.Data, id: idOf(m.Header)}, nil
}

// idOf returns the id of a message with a header as it is stored.
func idOf(header []byte) string {
	_, rest, _ := bytes.Cut(header, []byte(nats.MsgIdHdr+": "))
	id, _, _ := bytes.Cut(rest, []byte("\r\n"))
	return string(id)
}

// Next returns the first message from the sequence on, of any type. The next one has a
// higher sequence.
func (e *Engine) Next(ctx context.Context, id int, from uint64) (*Message, error) {
	return e.next(ctx, id, e.layout.all(id), from)
}

// Find returns the message that the selector selects, which stays in the queue. ErrNone: there is
// none.
func (e *Engine) Find(ctx context.Context, id int, s Selector) (*Message, error) {
	if s.Mode == OfType {
		return e.next(ctx, id, e.layout.message(id, s.Type), 1)
	}
	m, err := e.Next(ctx, id, 1)
	switch {
	case err != nil, s.Mode == Any:
		return m, err
	case s.Mode == Except && m.Type != s.Type, s.Mode == UpTo && m.Type == 1:
		return m, nil
	case s.Mode == Except:
		digits := digitsOf(s.Type)
		return e.oldest(ctx, id, slices.Concat(below(digits), above(digits)))
	case m.Type <= s.Type:
		lower, err := e.lowest(ctx, id, below(digitsOf(m.Type)))
		if err == ErrNone {
			return e.next(ctx, id, e.layout.message(id, m.Type), 1)
		}
		return lower, err
	}
	lower, err := e.lowest(ctx, id, below(digitsOf(s.Type)))
	if err == ErrNone {
		return e.next(ctx, id, e.layout.message(id, s.Type), 1)
	}
	return lower, err
}

// atOnce is how many questions are asked at the same time.
const atOnce = 32

// each asks for the first message of each subtree, at the same time. Where there is none the
// result has nil.
func (e *Engine) each(ctx context.Context, id int, list []subtree) ([]*Message, error) {
	found, errs := make([]*Message, len(list)), make([]error, len(list))
	var asking sync.WaitGroup
	for i, t := range list {
		asking.Go(func() { found[i], errs[i] = e.next(ctx, id, e.layout.filter("q", id, t), 1) })
	}
	asking.Wait()
	for _, err := range errs {
		if err != nil && err != ErrNone {
			return nil, err
		}
	}
	return found, nil
}

// oldest returns the oldest message of some subtrees.
func (e *Engine) oldest(ctx context.Context, id int, list []subtree) (*Message, error) {
	var oldest *Message
	for some := range slices.Chunk(list, atOnce) {
		found, err := e.each(ctx, id, some)
		if err != nil {
			return nil, err
		}
		for _, m := range found {
			if m != nil && (oldest == nil || m.Seq < oldest.Seq) {
				oldest = m
			}
		}
	}
	if oldest == nil {
		return nil, ErrNone
	}
	return oldest, nil
}

// lowest returns the oldest message of the lowest type of some subtrees, which are in
// ascending order.
func (e *Engine) lowest(ctx context.Context, id int, list []subtree) (*Message, error) {
	for some := range slices.Chunk(list, atOnce) {
		found, err := e.each(ctx, id, some)
		if err != nil {
			return nil, err
		}
		for i, m := range found {
			if m == nil {
				continue
			}
			// Of its subtree, there may be lower ones behind it.
			lower, err := e.lowest(ctx, id, belowIn(some[i], digitsOf(m.Type)))
			if err == ErrNone {
				// And older ones of its type? It is the first of the subtree, so
				// it is the oldest.
				return m, nil
			}
			return lower, err
		}
	}
	return nil, ErrNone
}

// belowIn returns the part of below that is in the subtree.
func belowIn(t subtree, digits string) []subtree {
	list := below(digits)
	return slices.DeleteFunc(list, func(s subtree) bool {
		return s.digits != t.digits || len(s.begin) <= len(t.begin) || s.begin[:len(t.begin)] != t.begin
	})
}
