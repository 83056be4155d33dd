package chanmq

import (
	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/large"
)

// This file is what a message is under WithLarge whose text is in a file.

// reference returns the text of a message that refers to the file.
func reference(file *large.Pending) []byte {
	return envelope.Append(nil, &envelope.Header{Kind: envelope.Reference, Ref: file.Ref})
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

// follow opens the file that the message refers to, which was taken under the lease, or takes
// it out of its envelope.
func (m *raw) follow(s *large.Store, l *large.Lease) {
	if s != nil {
		m.unwrap(func(r envelope.Ref) *large.File { return s.Take(r, l) })
	}
}

// look is follow for a message that stays in the queue.
func (m *raw) look(s *large.Store) { m.unwrap(s.Look) }

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

// borrow returns the text, where it is. It is valid until the message is acknowledged.
func (m *raw) borrow() ([]byte, error) {
	if m.file == nil {
		return m.text(), nil
	}
	return m.file.Borrow()
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
