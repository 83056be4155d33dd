package engine

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Info is the state of a queue.
type Info struct {
	ID  int
	Key int32
	Attr
	CreatorUID, CreatorGID uint32
	Messages, Bytes        uint64 // without what bridges keep
	LastSend, Changed      time.Time
	Exact                  bool

	lastSequence uint64
	storage      jetstream.StorageType
}

// Info returns the state of a queue.
func (e *Engine) Info(ctx context.Context, id int) (Info, error) {
	info, _, err := e.info(ctx, id, e.layout.ledgers(id))
	return info, err
}

// info also returns how many messages the subjects of the filter have. Where the filter is that of the
// ledgers, their bytes are not counted.
func (e *Engine) info(ctx context.Context, id int, filter string) (Info, map[string]uint64, error) {
	var s jetstream.StreamInfo
	err := e.insist(ctx, "STREAM.INFO."+e.layout.stream(id), map[string]any{"subjects_filter": filter}, &s)
	if hasCode(err, codeNoStream) {
		return Info{}, nil, ErrRemoved
	}
	if err != nil {
		return Info{}, nil, err
	}
	meta := s.Config.Metadata
	number := func(key string, base int) uint64 {
		n, _ := strconv.ParseUint(meta[key], base, 64) // a stream that somebody else has changed: 0
		return n
	}
	key, _ := strconv.Atoi(meta[metaKey])
	info := Info{
		ID:         id,
		Key:        int32(key),
		Attr:       Attr{UID: uint32(number(metaUID, 10)), GID: uint32(number(metaGID, 10)), Mode: uint32(number(metaMode, 8)), MaxBytes: number(metaBytes, 10)},
		CreatorUID: uint32(number(metaCUID, 10)),
		CreatorGID: uint32(number(metaCGID, 10)),
		Messages:   s.State.Msgs,
		LastSend:   s.State.LastTime,
		Changed:    time.Unix(int64(number(metaChanged, 10)), 0),
		Exact:      meta[metaExact] == "true",

		lastSequence: s.State.LastSeq,
		storage:      s.Config.Storage,
	}
	bytes := s.State.Bytes
	if filter == e.layout.ledgers(id) {
		for subject, n := range s.State.Subjects {
			info.Messages -= n
			bytes -= n * stored(info.storage, len(subject), len(ledgerHeader), ledgerSize)
		}
	}
	info.Bytes = bytes - min(bytes, info.Messages*stored(info.storage, e.layout.subjectLength(id), e.headerLength(info.Exact), 0))
	return info, s.State.Subjects, nil
}

// Set changes the attributes of a queue.
func (e *Engine) Set(ctx context.Context, id int, a Attr) error {
	var s jetstream.StreamInfo
	err := e.insist(ctx, "STREAM.INFO."+e.layout.stream(id), nil, &s)
	if err == nil {
		setAttr(&s.Config, a, time.Now())
		err = e.insist(ctx, "STREAM.UPDATE."+e.layout.stream(id), s.Config, nil)
	}
	if hasCode(err, codeNoStream) {
		return ErrRemoved
	}
	if err == nil {
		err = e.Conn.Publish(e.layout.room(id), nil) // there may be more of it
	}
	return err
}

// stored returns how many bytes a server counts for a message: of server/filestore.go,
// fileStoreMsgSizeRaw, and server/memstore.go, memStoreMsgSizeRaw.
func stored(storage jetstream.StorageType, subject, header, text int) uint64 {
	if storage == jetstream.MemoryStorage {
		return uint64(subject + header + text + 16)
	}
	return uint64(22 + subject + 4 + header + text + 8)
}

// sequence is a number as long as any, so that all headers are equally long.
func sequence(n uint64) string { return fmt.Sprintf("%020d", n) }
