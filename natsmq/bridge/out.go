package bridge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
)

// This file is how messages go out. They are taken into the journal of the bridge's handle, published in a batch with
// a record in the ledger, and acknowledged. The state file says when the batch may be in the
// cluster: from before it is published until it is acknowledged, with its number. While it says so no message is taken,
// so what the journal has then was taken before; and the ledger says whether it is published, and how much of it.

// outState is the file of a type.
//
//	0  phase
//	8  the number of the batch
type outState struct{ *mapped }

const (
	outIdle       = iota // what the journal has is not published
	outPublishing        // it may be, in the batch
)

func (s outState) begin(batch uint64) {
	binary.NativeEndian.PutUint64(s.mem[8:], batch)
	sysv.Uint32(s.mem, 0).Store(outPublishing)
}

func (s outState) end()                 { sysv.Uint32(s.mem, 0).Store(outIdle) }
func (s outState) phase() uint32        { return sysv.Uint32(s.mem, 0).Load() }
func (s outState) batch() uint64        { return binary.NativeEndian.Uint64(s.mem[8:]) }
func outName(typ int64) string          { return outPrefix + strconv.FormatInt(typ, 10) }
func (l *outLane) ledger() string       { return l.name + "-" + strconv.FormatInt(l.typ, 16) }
func sizeOf(d held) (n int)             { return len(d.Value) }
func (l *outLane) oldest() held         { return l.held[0] }
func (l *outLane) room() int            { return MaxHeld - len(l.held) }
func (l *outLane) forget(n int)         { l.held = append(l.held[:0], l.held[n:]...) }
func (l *outLane) next() uint64         { return l.last.Batch + 1 }
func (l *outLane) sel() chanmq.Selector { return chanmq.OfType(l.typ) }

type held = chanmq.Delivery[[]byte]

// outLane belongs to the goroutine of Run.
type outLane struct {
	*lane
	state outState

	held   []held        // taken and not acknowledged, in order
	last   engine.Record // of the ledger
	after  uint64        // the sequence of last
	known  bool          // last and after are those of the ledger
	window int           // how many are published together
}

// heldBytes is how many bytes are enough for a batch.
const heldBytes = 256 << 10

func (b *Bridge) addOut(typ int64, wanted bool) (*outLane, error) {
	m, err := b.dir.mapFile(outName(typ), 16)
	if err != nil {
		return nil, err
	}
	l := &outLane{lane: &lane{Bridge: b, typ: typ, counts: &b.out}, state: outState{m}, window: MaxHeld}
	l.recover, l.close = l.recoverHeld, m.close
	if wanted {
		l.run = l.moveOut
	}
	b.lanes = append(b.lanes, l.lane)
	return l, nil
}

// recoverHeld finds out whether the last batch of an earlier process is published. If it is, what is left of it is
// acknowledged; if not, it never will be.
func (l *outLane) recoverHeld(ctx context.Context) error {
	if l.known && l.state.phase() == outIdle {
		return nil // Run was called before
	}
	if err := l.look(ctx); err != nil {
		return err
	}
	if err := insist(ctx, l.counts, func() error { return l.engine.TrimLedger(ctx, l.id, l.ledger()) }); err != nil {
		return err
	}
	if l.state.phase() == outIdle {
		return nil
	}
	batch, left := l.state.batch(), len(l.held)
	var pauses engine.Pauses
	for l.last.Batch != batch {
		// It is not there, but may still be on its way. A record in its place keeps it out.
		seq, err := l.engine.PublishBatch(ctx, l.id, &engine.Batch{
			Ledger: l.ledger(), After: l.after, Record: engine.Record{Batch: batch, Held: uint32(left)},
		})
		if err == nil {
			l.last, l.after = engine.Record{Batch: batch, Held: uint32(left)}, seq
			break
		}
		if errors.Is(err, engine.ErrRemoved) {
			return err
		}
		l.counts.unavailable.Add(1)
		if !pauses.Wait(ctx) {
			return ctx.Err()
		}
		if err := l.look(ctx); err != nil {
			return err
		}
	}
	atStep("out: resolved")
	// Those before them are acknowledged already.
	acknowledged := int(l.last.Held) - left
	if acknowledged < 0 {
		return fmt.Errorf("the journal has %d messages of type %d, and had %d when they were published", left, l.typ, l.last.Held)
	}
	return l.published(max(int(l.last.Sent)-acknowledged, 0))
}

// look reads the ledger.
func (l *outLane) look(ctx context.Context) error {
	return insist(ctx, l.counts, func() (err error) {
		l.last, l.after, err = l.engine.Ledger(ctx, l.id, l.ledger())
		l.known = err == nil
		return err
	})
}

// insist calls do until a server has answered.
func insist(ctx context.Context, c *counters, do func() error) error {
	var pauses engine.Pauses
	for {
		err := do()
		if !errors.Is(err, engine.ErrUnavailable) {
			return err
		}
		c.unavailable.Add(1)
		if !pauses.Wait(ctx) {
			return ctx.Err()
		}
	}
}

// takeAgain gives the lanes what the journals have of earlier processes, and takes nothing from the kernel queue: in the
// journal, that could not be told from what was taken before.
func (b *Bridge) takeAgain(lanes map[int64]*outLane) error {
	over, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := b.queue.Take(over, chanmq.Any()); !errors.Is(err, context.Canceled) { // adopts, and takes nothing
		return err
	}
	for n := b.queue.Counters().Adopted; n > 0; n-- {
		d, ok, err := b.queue.TryTake(chanmq.Any()) // what was adopted comes first
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("the journal in %s has %d messages less than it said", b.dir.path, n)
		}
		l := lanes[d.Type]
		if l == nil {
			return errors.Join(fmt.Errorf("the journal in %s has a message of type %d, which has no file", b.dir.path, d.Type), d.Nack())
		}
		l.hold(d)
		l.counts.again.Add(1)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.journal
}

func (l *outLane) hold(d held) {
	l.held = append(l.held, d)
	l.counts.held.Add(1)
	if d.LengthInferred {
		l.counts.inferred.Add(1)
	}
}

// moveOut moves messages until ctx ends.
func (l *outLane) moveOut(ctx context.Context) error {
	for {
		if len(l.held) == 0 {
			d, err := l.queue.Take(ctx, l.sel())
			if err != nil {
				return err
			}
			l.hold(d)
			atStep("out: taken")
		}
		if err := l.takeMore(); err != nil {
			return err
		}
		if err := l.publish(ctx); err != nil {
			return err
		}
	}
}

// takeMore takes what is there.
func (l *outLane) takeMore() error {
	bytes := 0
	for _, d := range l.held {
		bytes += sizeOf(d)
	}
	for l.room() > 0 && bytes < heldBytes {
		d, ok, err := l.queue.TryTake(l.sel())
		if !ok || err != nil {
			return err
		}
		bytes += sizeOf(d)
		l.hold(d)
	}
	return nil
}

// publish publishes some of what is held, and acknowledges it.
func (l *outLane) publish(ctx context.Context) error {
	if reason := l.undeliverable(l.oldest()); reason != "" {
		return l.putAside(ctx, reason)
	}
	batch := l.next()
	l.state.begin(batch)
	atStep("out: begun")
	sent, err := l.publishBatch(ctx, batch)
	switch {
	case errors.Is(err, engine.ErrTooLarge):
		l.state.end() // it is the oldest, alone
		return l.putAside(ctx, "it is larger than the cluster's queue, or its servers, take")
	case err != nil:
		return err
	}
	atStep("out: published")
	return l.published(sent)
}

// publishBatch publishes until some of what is held is in the cluster, and returns how many.
func (l *outLane) publishBatch(ctx context.Context, number uint64) (sent int, err error) {
	var waiter *engine.Waiter
	woken := false
	defer func() {
		if woken {
			waiter.Pass(true) // there may be more room
		}
		if waiter != nil {
			waiter.Release()
		}
	}()
	uncertain := false
	later, cancel := withGrace(ctx) // for the answer
	defer cancel()
	var pauses engine.Pauses
	for {
		b := l.batch(number)
		seq, err := l.engine.PublishBatch(later, l.id, b)
		if err == nil {
			l.last, l.after = b.Record, seq
			l.window = min(2*l.window, MaxHeld)
			return len(b.Messages), nil
		}
		if errors.Is(err, engine.ErrRemoved) {
			return 0, err
		}
		full, tooLarge := errors.Is(err, engine.ErrFull), errors.Is(err, engine.ErrTooLarge)
		if uncertain || !full && !tooLarge {
			// This try or an earlier one may be there.
			uncertain = true
			if err := l.look(later); err != nil {
				return 0, err
			}
			if l.last.Batch == number {
				return int(l.last.Sent), nil
			}
		}
		switch {
		case (full || tooLarge) && len(b.Messages) > 1:
			l.window = len(b.Messages) / 2
			continue
		case tooLarge:
			return 0, err // nor was it less large before
		case full && waiter == nil:
			l.counts.full.Add(1)
			if waiter, err = l.engine.WaitForRoom(l.id, sizeOf(l.oldest())); err != nil {
				return 0, err
			}
			continue // there may be room since
		case full:
			atStep("out: full")
			if woken {
				waiter.Pass(false) // a smaller one may fit
			}
			var ok bool
			if _, ok, err = waiter.Wait(ctx); err == nil && !ok {
				err = ctx.Err()
			}
			if err != nil {
				return 0, err
			}
			woken = true
			continue
		}
		l.counts.unavailable.Add(1)
		if !pauses.Wait(later) {
			return 0, ctx.Err()
		}
	}
}

// batch returns the first of what is held as a batch.
func (l *outLane) batch(number uint64) *engine.Batch {
	b := &engine.Batch{Ledger: l.ledger(), After: l.after}
	for i, d := range l.held {
		if i == max(l.window, 1) || i > 0 && l.undeliverable(d) != "" {
			break
		}
		b.Messages = append(b.Messages, engine.Text{Type: d.Type, Text: d.Value})
	}
	b.Record = engine.Record{Batch: number, Sent: uint32(len(b.Messages)), Held: uint32(len(l.held))}
	return b
}

// published acknowledges the first n of what is held.
func (l *outLane) published(n int) error {
	for i, d := range l.held[:n] {
		if err := d.Ack(); err != nil {
			return err
		}
		l.counts.moved(sizeOf(d))
		l.counts.held.Add(^uint64(0))
		if i == 0 {
			atStep("out: acknowledged one")
		}
	}
	atStep("out: acknowledged")
	l.state.end()
	l.forget(n)
	return nil
}

// undeliverable says why the cluster can never take a message, or returns "".
func (l *outLane) undeliverable(d held) string {
	if most := l.engine.Limits.MaxMessage; sizeOf(d) > most {
		return fmt.Sprintf("the cluster's messages have %d bytes at most", most)
	}
	return ""
}

// putAside moves the oldest message to the queue for dead letters.
func (l *outLane) putAside(ctx context.Context, reason string) error {
	d := l.oldest()
	if l.dead == nil {
		return &UndeliverableError{"out", d.Type, sizeOf(d), reason}
	}
	if err := l.dead.Send(ctx, d.Type, d.Value); err != nil {
		return err
	}
	atStep("out: dead")
	if err := d.Ack(); err != nil {
		return err
	}
	l.counts.dead.Add(1)
	l.counts.held.Add(^uint64(0))
	l.forget(1)
	return nil
}
