package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// This file is which queues there are. The registry is a stream with one message for each
// queue, whose subject is the key, published on the condition that the subject has none: so of many
// who create a queue one wins. The message's sequence in the registry is the msqid, and never comes
// again. The name of a queue's stream is made of it, so a key that is used again never leads
// an old handle to a new queue.

// record is what the registry has of a queue.
type record struct {
	Nonce   string    `json:"nonce"` // tells whose record it is, when the answer was lost
	Key     int32     `json:"key"`
	Attr    Attr      `json:"attr"` // at first; the stream has those of now
	Created time.Time `json:"created"`
	Exact   bool      `json:"exact"`
}

// Attr is what a queue has beside its messages.
type Attr struct {
	UID      uint32 `json:"uid"`
	GID      uint32 `json:"gid"`
	Mode     uint32 `json:"mode"`
	MaxBytes uint64 `json:"max_bytes"`
}

// Errors of opening a queue.
var (
	ErrExists      = errors.New("the key exists")
	ErrNotExist    = errors.New("no queue has the key")
	ErrTooMany     = errors.New("as many queues as may be exist")
	errNoRecord    = errors.New("no such record")
	errOtherRecord = errors.New("the key has another record")
)

// Open returns the msqid of the queue with the key.
func (e *Engine) Open(ctx context.Context, key int32) (int, error) {
	for {
		id, r, err := e.recordOf(ctx, e.layout.key(key))
		if errors.Is(err, errNoRecord) {
			return -1, ErrNotExist
		}
		if err != nil {
			return -1, err
		}
		// Whoever created it may have died, or not come to it yet.
		if err := e.ensureStream(ctx, id, r); !errors.Is(err, ErrRemoved) {
			return id, err
		}
	}
}

// Create creates a queue with the key, or without one if private.
func (e *Engine) Create(ctx context.Context, key int32, private bool, attr Attr) (int, error) {
	if err := e.ensureRegistry(ctx); err != nil {
		return -1, err
	}
	if n, err := e.count(ctx); err != nil || n >= e.Limits.MaxQueues {
		if err == nil {
			err = ErrTooMany
		}
		return -1, err
	}
	r := record{Nonce: nuid.Next(), Key: key, Attr: attr, Created: time.Now(), Exact: e.Exact}
	if r.Attr.MaxBytes == 0 {
		r.Attr.MaxBytes = uint64(e.Limits.MaxBytes)
	}
	subject := e.layout.key(key)
	if private {
		subject = e.layout.private(r.Nonce)
	}
	data, err := json.Marshal(r)
	if err != nil {
		return -1, err
	}
	var id int
	err = e.repeat(ctx, func(ctx context.Context) (err error) {
		id, err = e.putRecord(ctx, subject, r.Nonce, data)
		return err
	})
	if errors.Is(err, errOtherRecord) {
		return -1, ErrExists
	}
	if err != nil {
		return -1, err
	}
	if err := e.ensureStream(ctx, id, r); err != nil {
		return -1, err
	}
	return id, nil
}

// putRecord publishes a record once, and finds out whether it is there: the answer to an earlier
// try may have been lost.
func (e *Engine) putRecord(ctx context.Context, subject, nonce string, data []byte) (int, error) {
	m := &nats.Msg{Subject: subject, Data: data, Header: nats.Header{"Nats-Expected-Last-Subject-Sequence": {"0"}}}
	seq, err := e.publishOnce(ctx, m)
	if err == nil {
		return int(seq), nil
	}
	if !hasCode(err, codeWrongSequence, codeWrongSequenceToo) {
		return -1, err
	}
	id, r, err := e.recordOf(ctx, subject)
	switch {
	case errors.Is(err, errNoRecord):
		return -1, &apiError{503, codeUnavailable, "the key was just given up"} // try again
	case err != nil:
		return -1, err
	case r.Nonce != nonce:
		return -1, fmt.Errorf("%w: %w", errOtherRecord, &apiError{400, codeWrongSequence, "the key exists"})
	}
	return id, nil
}

// recordOf returns the record that a subject has.
func (e *Engine) recordOf(ctx context.Context, subject string) (id int, r record, err error) {
	m, err := e.get(ctx, e.layout.keys(), map[string]any{"last_by_subj": subject})
	if hasCode(err, codeNoMessage, codeNoStream) {
		return -1, r, errNoRecord
	}
	if err != nil {
		return -1, r, err
	}
	return int(m.Seq), r, json.Unmarshal(m.Data, &r)
}

// recordAt returns the record of a msqid.
func (e *Engine) recordAt(ctx context.Context, id int) (r record, err error) {
	if id <= 0 {
		return r, errNoRecord
	}
	m, err := e.get(ctx, e.layout.keys(), map[string]any{"seq": id})
	if hasCode(err, codeNoMessage, codeNoStream, codeSequenceNotFound) {
		return r, errNoRecord
	}
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(m.Data, &r)
}

// Same reports whether both have the same registry, and so the same queues, whatever the connections: names and
// addresses do not say so, since clusters of different places, and accounts of one, may have the same. Where no
// server answers it is taken for the same if the connections say nothing else.
func (e *Engine) Same(ctx context.Context, other *Engine) bool {
	if e == other || e.Conn == other.Conn {
		return e.Prefix == other.Prefix
	}
	if e.Prefix != other.Prefix {
		return false
	}
	created := func(e *Engine) (t time.Time, err error) {
		var s jetstream.StreamInfo
		err = e.insist(ctx, "STREAM.INFO."+e.layout.keys(), nil, &s)
		return s.Created, err
	}
	one, err := created(e)
	if err == nil {
		var two time.Time
		if two, err = created(other); err == nil {
			return one.Equal(two)
		}
	}
	return e.Conn.ConnectedClusterName() == other.Conn.ConnectedClusterName()
}

// ensureRegistry creates the registry, unless it exists.
func (e *Engine) ensureRegistry(ctx context.Context) error {
	return e.createStream(ctx, &jetstream.StreamConfig{
		Name:        e.layout.keys(),
		Description: "chanmq: the keys of queues; a sequence is a msqid",
		Subjects:    []string{e.layout.keySubjects()},
		Storage:     e.Storage,
		Replicas:    e.Replicas,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		MaxMsgs:     -1,
		MaxBytes:    -1,
		Duplicates:  dedupeWindow,
	})
}

// Keys of a stream's metadata.
const (
	metaKey     = "chanmq.key"
	metaUID     = "chanmq.uid"
	metaGID     = "chanmq.gid"
	metaMode    = "chanmq.mode"
	metaBytes   = "chanmq.max_bytes"
	metaCUID    = "chanmq.creator_uid"
	metaCGID    = "chanmq.creator_gid"
	metaChanged = "chanmq.changed"
	metaExact   = "chanmq.exact"
)

// dedupeWindow is how long a server knows the ids of messages, and so how long it can be asked
// whether it has got one.
const dedupeWindow = 30 * time.Second

// streamOf returns the stream of a new queue.
func (e *Engine) streamOf(id int, r record) *jetstream.StreamConfig {
	c := &jetstream.StreamConfig{
		Name:        e.layout.stream(id),
		Description: fmt.Sprintf("chanmq: queue %d", id),
		Subjects:    []string{e.layout.all(id), e.layout.ledgers(id)},
		Storage:     e.Storage,
		Replicas:    e.Replicas,
		Retention:   jetstream.LimitsPolicy,
		Discard:     jetstream.DiscardNew,
		Duplicates:  dedupeWindow,
		RePublish:   &jetstream.RePublish{Source: e.layout.all(id), Destination: e.layout.wakes(id)},

		AllowAtomicPublish: true,
		Metadata: map[string]string{
			metaKey:   strconv.Itoa(int(r.Key)),
			metaCUID:  fmt.Sprint(r.Attr.UID),
			metaCGID:  fmt.Sprint(r.Attr.GID),
			metaExact: strconv.FormatBool(r.Exact),
		},
	}
	setAttr(c, r.Attr, r.Created)
	return c
}

// ledgersPerQueue is how many messages more than its own a stream may have, for bridges.
const ledgersPerQueue = 1000

// setAttr puts attributes into the configuration of a stream.
func setAttr(c *jetstream.StreamConfig, a Attr, changed time.Time) {
	c.MaxMsgs, c.MaxBytes = int64(min(a.MaxBytes, 1<<40))+ledgersPerQueue, -1
	if c.Metadata[metaExact] != "true" {
		c.MaxBytes = int64(min(a.MaxBytes, 1<<50))
	}
	c.Metadata[metaUID] = fmt.Sprint(a.UID)
	c.Metadata[metaGID] = fmt.Sprint(a.GID)
	c.Metadata[metaMode] = strconv.FormatUint(uint64(a.Mode), 8)
	c.Metadata[metaBytes] = fmt.Sprint(a.MaxBytes)
	c.Metadata[metaChanged] = fmt.Sprint(changed.Unix())
}

// createStream creates a stream. It is no error if it exists.
func (e *Engine) createStream(ctx context.Context, c *jetstream.StreamConfig) error {
	err := e.insist(ctx, "STREAM.CREATE."+c.Name, c, nil)
	if hasCode(err, codeNameInUse) {
		return nil // it has been changed since, or another process has other options
	}
	return err
}

// ensureStream creates the stream of a queue that is in the registry, unless it exists.
func (e *Engine) ensureStream(ctx context.Context, id int, r record) error {
	if _, err := e.Info(ctx, id); !errors.Is(err, ErrRemoved) {
		return err
	}
	if err := e.createStream(ctx, e.streamOf(id, r)); err != nil {
		return err
	}
	// Somebody may have removed the queue meanwhile, who has not seen the stream.
	if _, err := e.recordAt(ctx, id); !errors.Is(err, errNoRecord) {
		return err
	}
	_ = e.deleteStream(ctx, id)
	return ErrRemoved
}

func (e *Engine) deleteStream(ctx context.Context, id int) error {
	return e.insist(ctx, "STREAM.DELETE."+e.layout.stream(id), nil, nil)
}

// Remove removes a queue, first from the registry.
func (e *Engine) Remove(ctx context.Context, id int) error {
	err := e.insist(ctx, "STREAM.MSG.DELETE."+e.layout.keys(), deletion{uint64(id), true}, nil)
	if err != nil && !notFound(err) && !hasCode(err, codeNoStream) {
		return err
	}
	err = e.deleteStream(ctx, id)
	if hasCode(err, codeNoStream) {
		return ErrRemoved
	}
	if err != nil {
		return err
	}
	return e.Conn.Publish(e.layout.removed(id), nil) // wakes those who wait; they look anyway
}

// count returns how many queues there are.
func (e *Engine) count(ctx context.Context) (int, error) {
	var info jetstream.StreamInfo
	err := e.insist(ctx, "STREAM.INFO."+e.layout.keys(), nil, &info)
	if hasCode(err, codeNoStream) {
		return 0, nil
	}
	return int(info.State.Msgs), err
}

// List returns the state of every queue.
func (e *Engine) List(ctx context.Context) ([]Info, error) {
	var list []Info
	for offset := 0; ; {
		var page struct {
			Total   int                     `json:"total"`
			Streams []*jetstream.StreamInfo `json:"streams"`
		}
		if err := e.insist(ctx, "STREAM.LIST", map[string]any{"offset": offset}, &page); err != nil {
			return nil, err
		}
		for _, s := range page.Streams {
			rest, ok := strings.CutPrefix(s.Config.Name, e.layout.prefix+"_Q")
			id, err := strconv.Atoi(rest)
			if !ok || err != nil {
				continue
			}
			// The page does not say what is of bridges.
			info, err := e.Info(ctx, id)
			if errors.Is(err, ErrRemoved) {
				continue
			}
			if err != nil {
				return nil, err
			}
			list = append(list, info)
		}
		if offset += len(page.Streams); len(page.Streams) == 0 || offset >= page.Total {
			return list, nil
		}
	}
}
