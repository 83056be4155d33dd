package bridge

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
)

// This file is how messages come in. One at a time of each type, they are copied into the spool, claimed, and
// sent to the kernel queue. The spool says how far that has come. What cannot be said is whether the
// kernel took a message just before the process was killed: then it is sent again.

// spool is the file of a type.
//
//	 0  phase
//	 8  the message's sequence in the cluster's queue
//	16  the msqid of that
//	24  bytes of text
//	64  the text
type spool struct{ *mapped }

const (
	inEmpty   = iota
	inSpooled // it may be claimed
	inClaimed // it is, and is not in the kernel queue
	inSending // it may be in the kernel queue
)

const spoolHeader = 64

func (s spool) set(phase uint32)          { s.phaseWord().Store(phase) }
func (s spool) phase() uint32             { return s.phaseWord().Load() }
func (s spool) phaseWord() *atomic.Uint32 { return sysv.Uint32(s.mem, 0) }
func (s spool) word(at int) uint64        { return binary.NativeEndian.Uint64(s.mem[at:]) }
func (s spool) put(at int, v uint64)      { binary.NativeEndian.PutUint64(s.mem[at:], v) }
func (s spool) queue() int                { return int(s.word(16)) }

// store copies a message into the spool, which is empty.
func (s spool) store(queue int, m *engine.Message) error {
	if err := s.grow(spoolHeader + len(m.Text)); err != nil {
		return err
	}
	s.put(8, m.Seq)
	s.put(16, uint64(queue))
	s.put(24, uint64(len(m.Text)))
	copy(s.mem[spoolHeader:], m.Text)
	s.set(inSpooled)
	return nil
}

// message returns the message in the spool.
func (s spool) message(typ int64) (*engine.Message, error) {
	n := s.word(24)
	if n > uint64(len(s.mem)-spoolHeader) {
		return nil, fmt.Errorf("the spool of type %d is damaged: a text of %d bytes in a file of %d", typ, n, len(s.mem))
	}
	return &engine.Message{Seq: s.word(8), Type: typ, Text: s.mem[spoolHeader:][:n:n]}, nil
}

// noting is the kernel for one spool: it notes that a message was sent as soon as the system call has returned.
type noting struct {
	sysv.Kernel
	spool spool
}

func (k noting) Handle() sysv.Kernel { return k }

// SameMachine is what [sysv.SameMachine] asks.
func (k noting) SameMachine(other sysv.Kernel) bool {
	if n, ok := other.(noting); ok {
		other = n.Kernel
	}
	return sysv.SameMachine(k.Kernel, other)
}

func (k noting) Send(id int, msg []byte) error {
	err := k.Kernel.Send(id, msg)
	if err == nil {
		k.note()
	}
	return err
}

func (k noting) note() {
	atStep("in: sent")
	k.spool.set(inEmpty)
}

func (k noting) NewThread() sysv.Thread { return notingThread{k.Kernel.NewThread(), k} }

type notingThread struct {
	sysv.Thread
	kernel noting
}

func (t notingThread) Send(id int, msg []byte) error {
	err := t.Thread.Send(id, msg)
	if err == nil {
		t.kernel.note()
	}
	return err
}

// inLane belongs to the goroutine of Run.
type inLane struct {
	*lane
	spool spool
	to    *chanmq.Queue[[]byte] // notes in the spool what it has sent
}

func (b *Bridge) addIn(typ int64, wanted bool) error {
	m, err := b.dir.mapFile(inPrefix+strconv.FormatInt(typ, 10), spoolHeader+8192)
	if err != nil {
		return err
	}
	l := &inLane{lane: &lane{Bridge: b, typ: typ, counts: &b.in}, spool: spool{m}}
	l.recover, l.close = l.recoverSpooled, m.close
	if wanted {
		l.run = l.moveIn
	}
	b.lanes = append(b.lanes, l.lane)
	kernel := inject.Kernel(noting{sysv.Host(), l.spool}).(chanmq.Option)
	if l.to, err = chanmq.Attach(b.queue.ID(), kernel); err != nil {
		return err
	}
	l.close = func() error { return errors.Join(l.to.Close(), m.close()) }
	return nil
}

// recoverSpooled deals with the message that an earlier process, or an earlier Run, has left in the spool.
func (l *inLane) recoverSpooled(ctx context.Context) error {
	phase := l.spool.phase()
	if phase == inEmpty {
		return nil
	}
	m, err := l.spool.message(l.typ)
	if err != nil {
		return err
	}
	if phase == inSpooled {
		// The request to delete it may be on its way still, so asking whether it is there would not do.
		mine, err := l.claim(ctx, m, true)
		if err != nil || !mine {
			return err
		}
	}
	if phase == inSending {
		l.counts.again.Add(1)
	}
	return l.send(ctx, m)
}

// moveIn moves messages until ctx ends.
func (l *inLane) moveIn(ctx context.Context) error {
	waiter, err := l.engine.WaitForMessage(l.id, engine.Selector{Mode: engine.OfType, Type: l.typ})
	if err != nil {
		return err
	}
	defer waiter.Release()
	var m *engine.Message // nil: it is to be found
	for {
		if m == nil {
			if m, err = l.find(ctx, waiter); err != nil {
				return err
			}
		}
		next := l.lookAhead(ctx, m.Seq+1)
		err := l.move(ctx, m)
		m = next()
		if err != nil {
			return err
		}
	}
}

// lookAhead looks for the next message while this one is moved. The function that it returns waits for the result, which
// is nil if there is none, and has to be called.
func (l *inLane) lookAhead(ctx context.Context, from uint64) func() *engine.Message {
	found := make(chan *engine.Message)
	go func() {
		m, err := l.engine.NextOf(ctx, l.id, l.typ, from)
		if err != nil {
			m = nil // find says why, if it fails too
		}
		found <- m
	}()
	return func() *engine.Message { return <-found }
}

// find waits for a message.
func (l *inLane) find(ctx context.Context, waiter *engine.Waiter) (*engine.Message, error) {
	for {
		// The oldest: what has woken the waiter may not be that.
		var m *engine.Message
		err := insist(ctx, l.counts, func() (err error) {
			m, err = l.engine.Find(ctx, l.id, engine.Selector{Mode: engine.OfType, Type: l.typ})
			return err
		})
		if !errors.Is(err, engine.ErrNone) {
			return m, err
		}
		_, ok, err := waiter.Wait(ctx)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, ctx.Err()
		}
	}
}

// move moves a message that is in the cluster.
func (l *inLane) move(ctx context.Context, m *engine.Message) error {
	reason, err := l.undeliverable(m)
	if err != nil {
		return err
	}
	if reason != "" && l.dead == nil {
		return &UndeliverableError{"in", m.Type, len(m.Text), reason}
	}
	if err := l.spool.store(l.id, m); err != nil {
		return err
	}
	atStep("in: spooled")
	mine, err := l.claim(ctx, m, false)
	if err != nil || !mine {
		return err
	}
	return l.send(ctx, m)
}

// claim takes the message in the spool out of the cluster. If it does not know whether it has, the spool keeps it.
func (l *inLane) claim(ctx context.Context, m *engine.Message, again bool) (mine bool, err error) {
	queue := l.spool.queue()
	later, cancel := withGrace(ctx) // for the answer
	defer cancel()
	if again {
		mine, err = l.engine.ClaimAgain(later, queue, m)
	} else {
		mine, err = l.engine.Claim(later, queue, m)
	}
	if errors.Is(err, engine.ErrRemoved) && again && queue != l.id {
		mine, err = false, nil // with the queue that it was in
	}
	if err != nil {
		return false, err
	}
	atStep("in: taken")
	if !mine {
		l.spool.set(inEmpty)
		return false, nil
	}
	l.spool.set(inClaimed)
	atStep("in: claimed")
	return true, nil
}

// send sends the message in the spool, which is claimed, to the kernel queue.
func (l *inLane) send(ctx context.Context, m *engine.Message) error {
	l.counts.held.Add(1)
	defer l.counts.held.Add(^uint64(0))
	reason, err := l.undeliverable(m)
	if err != nil {
		return err
	}
	if reason != "" {
		return l.putAside(ctx, m, reason)
	}
	l.spool.set(inSending)
	atStep("in: sending")
	sent, err := l.to.TrySend(m.Type, m.Text)
	if err == nil && !sent {
		l.counts.full.Add(1)
		atStep("in: full")
		err = l.to.Send(ctx, m.Type, m.Text)
	}
	if err != nil {
		l.spool.set(inClaimed) // an error of Send says that it was not sent
		return err
	}
	atStep("in: noted")
	l.counts.moved(len(m.Text))
	return nil
}

// undeliverable says why the kernel queue can never take a message, or returns "".
func (l *inLane) undeliverable(m *engine.Message) (string, error) {
	if m.Type > sysv.MaxType {
		return "a message of this machine cannot have that type", nil
	}
	limits, err := chanmq.ReadLimits()
	if err != nil {
		return "", err
	}
	if len(m.Text) > limits.MaxMessage {
		return fmt.Sprintf("the kernel's messages have %d bytes at most (sysctl kernel.msgmax)", limits.MaxMessage), nil
	}
	stat, err := l.to.Stat()
	if err != nil {
		return "", err
	}
	if len(m.Text) > stat.MaxBytes {
		return fmt.Sprintf("the kernel's queue has %d bytes (chanmq set --bytes)", stat.MaxBytes), nil
	}
	return "", nil
}

// putAside moves the message in the spool to the queue for dead letters.
func (l *inLane) putAside(ctx context.Context, m *engine.Message, reason string) error {
	if l.dead == nil {
		return &UndeliverableError{"in", m.Type, len(m.Text), reason}
	}
	if err := l.dead.Send(ctx, m.Type, m.Text); err != nil {
		return err
	}
	atStep("in: dead")
	l.spool.set(inEmpty)
	l.counts.dead.Add(1)
	return nil
}
