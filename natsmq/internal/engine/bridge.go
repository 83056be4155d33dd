package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// This file is how a bridge puts messages into a queue. It publishes them together with a
// record of that, in one atomic batch: either all of them are in the stream, or none. The record is a
// message with a subject of the bridge's own, its ledger, and is published on the condition that
// the ledger's last record is the one that the bridge knows. So of several tries of the same batch, of
// which one may still be on its way, one gets in; and the ledger says which, also to the
// bridge's next process.

// Record is what a ledger has of the last batch.
type Record struct {
	Batch uint64 // its number
	Sent  uint32 // how many messages it has
	Held  uint32 // how many the bridge had at that time; Sent is the first of them
}

// Batch is messages that are published together, and what the ledger is to say of them.
type Batch struct {
	Ledger   string // the name of the ledger: one token of a subject
	After    uint64 // the sequence of the ledger's last record; 0: there is none
	Record   Record // Sent is the number of the messages
	Messages []Text
}

// Text is a message in a Batch.
type Text struct {
	Type int64
	Text []byte
}

// MaxBatch is how many messages a Batch has at most: the servers' limit is 1000, with the record.
const MaxBatch = 999

const (
	batchIDLength = 8
	// filler is where messages of a batch in an exact queue have no expected sequence: only the
	// first may. All headers of a queue are equally long.
	filler = "Chanmq-Filler-Of-The-Length"

	ledgerHeader = "NATS/1.0\r\nNats-Batch-Commit: 1\r\nNats-Batch-Id: 01234567\r\nNats-Batch-Sequence: 0123\r\n" +
		"Nats-Expected-Last-Subject-Sequence: 01234567890123456789\r\n\r\n"
	ledgerSize = 16
)

// Ledger returns the last record of a ledger, and its sequence, which is 0 if there is none. It is the
// leader's answer, which may be an old one if another server is about to become the leader.
func (e *Engine) Ledger(ctx context.Context, id int, name string) (r Record, seq uint64, err error) {
	m, err := e.get(ctx, e.layout.stream(id), map[string]any{"last_by_subj": e.layout.ledger(id, name)})
	switch {
	case hasCode(err, codeNoMessage):
		return Record{}, 0, nil
	case hasCode(err, codeNoStream):
		return Record{}, 0, ErrRemoved
	case err != nil:
		return Record{}, 0, err
	case len(m.Data) != ledgerSize:
		return Record{}, 0, fmt.Errorf("the ledger %s is not a bridge's: its record has %d bytes", m.Subject, len(m.Data))
	}
	return Record{
		Batch: binary.BigEndian.Uint64(m.Data),
		Sent:  binary.BigEndian.Uint32(m.Data[8:]),
		Held:  binary.BigEndian.Uint32(m.Data[12:]),
	}, m.Seq, nil
}

func (r Record) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, r.Batch)
	b = binary.BigEndian.AppendUint32(b, r.Sent)
	return binary.BigEndian.AppendUint32(b, r.Held)
}

// PublishBatch tries once to publish a batch, and returns the sequence of its record. ErrFull and ErrTooLarge say that
// this try has not published it, and ErrRemoved that there is no queue. After any other error
// the ledger says whether the batch is there. If it is not, the next try may have other messages: only one of the
// tries gets in.
func (e *Engine) PublishBatch(ctx context.Context, id int, b *Batch) (uint64, error) {
	exact, err := e.isExact(ctx, id)
	if err != nil {
		return 0, err
	}
	size := 0
	for _, m := range b.Messages {
		size += len(m.Text)
	}
	var last string
	if exact && len(b.Messages) > 0 {
		info, err := e.Info(ctx, id)
		switch {
		case err != nil:
			return 0, err
		case uint64(size) > info.MaxBytes:
			return 0, e.tooMuch(b)
		case info.Bytes+uint64(size) > info.MaxBytes || info.Messages+uint64(len(b.Messages)) > info.MaxBytes:
			return 0, ErrFull
		}
		last = sequence(info.lastSequence) // nobody has sent anything since
	}
	batch := nuid.Next()[22-batchIDLength:]
	for i, m := range b.Messages {
		header := nats.Header{"Nats-Batch-Id": {batch}, "Nats-Batch-Sequence": {fmt.Sprintf("%03d", i+1)}}
		switch {
		case exact && i == 0:
			header["Nats-Expected-Last-Sequence"] = []string{last}
		case exact:
			header[filler] = []string{sequence(0)}
		}
		// Only the record is answered.
		if err := e.Conn.PublishMsg(&nats.Msg{Subject: e.layout.message(id, m.Type), Header: header, Data: m.Text}); err != nil {
			return 0, e.refusedBatch(ctx, id, b, size, err)
		}
	}
	seq, err := e.publishOnce(ctx, &nats.Msg{
		Subject: e.layout.ledger(id, b.Ledger),
		Header: nats.Header{
			"Nats-Batch-Id":       {batch},
			"Nats-Batch-Sequence": {fmt.Sprintf("%04d", len(b.Messages)+1)},
			"Nats-Batch-Commit":   {"1"},

			"Nats-Expected-Last-Subject-Sequence": {sequence(b.After)},
		},
		Data: b.Record.append(nil),
	})
	if err == nil && b.After != 0 {
		e.dropRecord(id, b.After)
	}
	return seq, e.refusedBatch(ctx, id, b, size, err)
}

// tooMuch is the error of a batch that the queue has no room for when it is empty.
func (e *Engine) tooMuch(b *Batch) error {
	if len(b.Messages) > 1 {
		return ErrFull // fewer may fit
	}
	return ErrTooLarge
}

// refusedBatch says what the error of a batch means.
func (e *Engine) refusedBatch(ctx context.Context, id int, b *Batch, size int, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrMaxPayload), hasCode(err, codeTooLarge):
		return ErrTooLarge
	case hasCode(err, codeStoreFailed) && len(b.Messages) > 0:
		info, infoErr := e.Info(ctx, id)
		if infoErr != nil {
			return infoErr
		}
		least := uint64(len(b.Messages))*stored(info.storage, e.layout.subjectLength(id), e.headerLength(info.Exact), 0) + uint64(size)
		if least > info.MaxBytes {
			return e.tooMuch(b)
		}
		return ErrFull
	case hasCode(err, codeNoStream):
		return ErrRemoved
	case errors.Is(err, nats.ErrNoResponders):
		// Nobody has got it: the stream is gone, or has no leader.
		if _, infoErr := e.Info(ctx, id); errors.Is(infoErr, ErrRemoved) {
			return ErrRemoved
		}
	}
	return e.because(err)
}

// NextOf returns the first message of the type from the sequence on, which stays in the queue. ErrNone: there is none.
func (e *Engine) NextOf(ctx context.Context, id int, typ int64, from uint64) (*Message, error) {
	return e.next(ctx, id, e.layout.message(id, typ), from)
}

// dropRecord removes a record that a newer one has replaced. If that is lost, TrimLedger removes it.
func (e *Engine) dropRecord(id int, seq uint64) {
	data := fmt.Appendf(nil, `{"seq":%d,"no_erase":true}`, seq)
	_ = e.Conn.PublishRequest("$JS.API.STREAM.MSG.DELETE."+e.layout.stream(id), e.Conn.NewInbox(), data) // nobody waits for it
}

// TrimLedger removes all records of a ledger but the last.
func (e *Engine) TrimLedger(ctx context.Context, id int, name string) error {
	err := e.insist(ctx, "STREAM.PURGE."+e.layout.stream(id), map[string]any{"filter": e.layout.ledger(id, name), "keep": 1}, nil)
	if hasCode(err, codeNoStream) {
		return ErrRemoved
	}
	return err
}
