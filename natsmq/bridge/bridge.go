// Package bridge connects a queue of one machine's kernel with a queue of a cluster, so that programs
// that know only msgsnd and msgrcv talk to each other across machines.
//
//	b, err := bridge.New(queue, cluster, 0x4d51, bridge.WithOut(1), bridge.WithIn(2))
//	err = b.Run(ctx)
//
// On this machine, messages of type 1 leave the kernel queue for the cluster, and those of type 2
// come from there. On the other machine a bridge has WithIn(1) and WithOut(2). A type goes one way, or
// its messages would go round; New refuses one that is in both.
//
// Messages of one type keep their order. Where a queue is full, the senders before it wait, up to
// those on the other machine: a bridge holds at most [MaxHeld] messages of a type that go out, and one
// that comes in.
//
// # What is promised
//
// Nothing is lost, and nothing comes twice, if a server, the bridge or a connection ends at any
// moment, however it ends, with these exceptions:
//
//   - In: a bridge that is killed between the kernel's taking a message (msgsnd) and the next store of
//     the bridge, some instructions later, sends that message again. At most one of each type.
//   - In: a bridge that is killed while it claims a message, or cannot reach any server for the
//     time that others remember what they have taken, about a minute, takes it for its own if it is gone from the
//     cluster and nobody says that he has it. Where somebody else receives the same type from
//     the cluster, and ends before the bridge is back, both may have it.
//   - In: where somebody has a message of the same type from Take or a Consumer of the cluster's queue, the bridge
//     does not know, and both may have it.
//   - Out: a bridge that is killed inside msgrcv may have lost how long the message is; then bytes
//     at its end that equal the journal's fill byte are missing
//     ([chanmq.Delivery.LengthInferred]). Counters.Out.Inferred counts them.
//   - What is in the kernel's queue, in the journal and in the spool is in memory, and lost when the
//     machine is restarted: of those that come in at most one of each type more than without a bridge.
//   - What the servers lose: of queues in memory, or whose disks fail.
//
// How it works is in docs/bridge.md.
package bridge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
	"github.com/chanmq/chanmq/natsmq/internal/reach"
)

// MaxHeld is how many messages of a type a bridge holds on their way out at most.
const MaxHeld = 64

// A Bridge moves messages between a kernel's queue and one of a cluster. It is safe for concurrent
// use.
type Bridge struct {
	name   string // of its ledgers, the same for all processes with the same directory
	dir    *directory
	engine *engine.Engine
	id     int // of the cluster's queue

	queue *chanmq.Queue[[]byte] // a handle of its own, with the bridge's journal
	dead  *chanmq.Queue[[]byte] // for what cannot be moved; nil: Run returns an error

	lanes   []*lane // one for each type
	out, in counters

	mu      sync.Mutex
	running bool  // guarded by mu
	closed  bool  // guarded by mu
	journal error // that the journal has reported; guarded by mu
	stop    context.CancelCauseFunc
}

// lane is one type in one direction.
type lane struct {
	*Bridge
	typ     int64
	counts  *counters
	run     func(context.Context) error // nil: only what an earlier process has left
	recover func(context.Context) error
	close   func() error
}

// Option changes what a Bridge does.
type Option func(*options)

type options struct {
	out, in []int64
	dir     string
	dead    *chanmq.Queue[[]byte]
}

// WithOut has messages of these types leave the kernel queue for the cluster.
func WithOut(types ...int64) Option { return func(o *options) { o.out = append(o.out, types...) } }

// WithIn has messages of these types come from the cluster into the kernel queue.
func WithIn(types ...int64) Option { return func(o *options) { o.in = append(o.in, types...) } }

// WithDir sets the directory of this user's bridges, by default what [DefaultDir] returns. Each has a directory of its own
// there, named after its two keys, which only one process uses at a time. It must be on a tmpfs, as
// that of chanmq.WithJournal: what is there lives as long as the kernel's queue does.
func WithDir(dir string) Option { return func(o *options) { o.dir = dir } }

// WithDeadLetters sets the queue that messages go to which the other side can never take: those larger
// than its limits, or, on a machine of 32 bits, of larger types. They go there at least once. Without it,
// Run returns an [*UndeliverableError], and the message stays where it is.
func WithDeadLetters(q *chanmq.Queue[[]byte]) Option { return func(o *options) { o.dead = q } }

// DefaultDir is the directory that is used without [WithDir].
func DefaultDir() string {
	return filepath.Join("/dev/shm", "chanmq-"+strconv.Itoa(os.Geteuid()), "bridges")
}

// ErrInUse is the error of New where another process has a bridge with the same keys and directory.
var ErrInUse = errors.New("another process has this bridge")

// UndeliverableError is the error of Run for a message that the other side can never take. It stays where it is, and
// so does what is behind it of the same type.
type UndeliverableError struct {
	Direction string // "out" or "in"
	Type      int64
	Size      int // bytes of text
	Reason    string
}

func (e *UndeliverableError) Error() string {
	return fmt.Sprintf("a message of type %d with %d bytes cannot go %s: %s", e.Type, e.Size, e.Direction, e.Reason)
}

// New returns a Bridge between the queue, which is one of this machine's kernel, and the one with the key in
// the cluster, which must exist. The bridge uses the queue by a handle of its own.
//
// It fails with [ErrInUse], with chanmq.ErrUnavailable if no server answers, and with an error
// that matches fs.ErrNotExist if the cluster has no such queue. Close ends what New has begun.
func New(queue *chanmq.Queue[[]byte], cluster *natsmq.Cluster, key chanmq.Key, opts ...Option) (*Bridge, error) {
	o := options{dir: DefaultDir()}
	for _, opt := range opts {
		opt(&o)
	}
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	b := &Bridge{engine: reach.Engine(cluster), dead: o.dead}
	if err := b.open(queue, cluster, key, &o); err != nil {
		return nil, fmt.Errorf("bridge: %w", errors.Join(err, b.Close()))
	}
	return b, nil
}

func (o *options) check() error {
	for _, list := range [][]int64{o.out, o.in} {
		for _, typ := range list {
			if typ < 1 {
				return fmt.Errorf("type %d: types are 1 and more", typ)
			}
		}
	}
	for _, typ := range o.out {
		if slices.Contains(o.in, typ) {
			return fmt.Errorf("type %d would go out and come in again, for ever: give it one direction", typ)
		}
		if typ > sysv.MaxType {
			return fmt.Errorf("type %d is more than a message of this machine can have", typ)
		}
	}
	slices.Sort(o.out)
	slices.Sort(o.in)
	o.out, o.in = slices.Compact(o.out), slices.Compact(o.in)
	if len(o.out)+len(o.in) == 0 {
		return errors.New("no type goes anywhere: give WithOut or WithIn")
	}
	return nil
}

// open opens all that the bridge has.
func (b *Bridge) open(queue *chanmq.Queue[[]byte], cluster *natsmq.Cluster, key chanmq.Key, o *options) (err error) {
	there, err := chanmq.Open(key, cluster.Option())
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("no queue of the cluster has the key %v: %w", key, fs.ErrNotExist)
	}
	if err != nil {
		return err
	}
	b.id = there.ID()
	if err := there.Close(); err != nil {
		return err
	}
	if b.dir, err = openDirectory(o.dir, directoryName(queue.Key(), queue.ID(), key)); err != nil {
		return err
	}
	if b.name, err = b.dir.name(); err != nil {
		return err
	}
	if err := b.openQueue(queue); err != nil {
		return err
	}
	out, in, err := b.dir.lanes()
	if err != nil {
		return err
	}
	lanes := make(map[int64]*outLane)
	for _, typ := range union(o.out, out) {
		if lanes[typ], err = b.addOut(typ, slices.Contains(o.out, typ)); err != nil {
			return err
		}
	}
	if err := b.takeAgain(lanes); err != nil {
		return err
	}
	for _, typ := range union(o.in, in) {
		if err := b.addIn(typ, slices.Contains(o.in, typ)); err != nil {
			return err
		}
	}
	return nil
}

// union returns what is in any of both, in order.
func union(a, b []int64) []int64 {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// openQueue opens the handle of its own on the kernel queue.
func (b *Bridge) openQueue(queue *chanmq.Queue[[]byte]) error {
	journal, err := b.dir.awaitJournals()
	if err != nil {
		return err
	}
	b.queue, err = chanmq.Attach(queue.ID(), chanmq.WithJournal(journal), chanmq.WithCounters(), chanmq.WithJournalError(b.journalFailed))
	if err != nil {
		return err
	}
	theirs, err := queue.Stat()
	if err != nil {
		return err
	}
	ours, err := b.queue.Stat()
	if err != nil {
		return err
	}
	if ours.Key != theirs.Key || !ours.Changed.Equal(theirs.Changed) || ours.Creator != theirs.Creator {
		return errors.New("the queue is not one of this machine's kernel")
	}
	return nil
}

// journalFailed ends Run: messages may be in a journal that cannot be read.
func (b *Bridge) journalFailed(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.journal == nil {
		b.journal = err
	}
	if b.stop != nil {
		b.stop(err)
	}
}

// Run moves messages until ctx ends, and then returns nil. It waits for servers, however long they are
// away. Other ends are errors: a queue was removed (chanmq.ErrRemoved), a message is undeliverable
// (*UndeliverableError), the journal failed.
//
// It first deals with what an earlier process has left. What the bridge holds at the end stays in its
// directory, in order, and is moved by the next Run, or by the next process.
func (b *Bridge) Run(ctx context.Context) error {
	caller := ctx
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	b.mu.Lock()
	err := b.journal
	switch {
	case b.closed:
		err = errors.New("it is closed")
	case b.running:
		err = errors.New("it runs already")
	}
	if err != nil {
		b.mu.Unlock()
		return fmt.Errorf("bridge: %w", err)
	}
	b.running, b.stop = true, stop
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.running, b.stop = false, nil
	}()

	var lanes sync.WaitGroup
	for _, l := range b.lanes {
		lanes.Go(func() {
			err := l.recover(ctx)
			if err == nil && l.run != nil {
				err = l.run(ctx)
			}
			if err != nil && ctx.Err() == nil {
				stop(err) // the first one counts
			}
		})
	}
	lanes.Wait()
	if err := context.Cause(ctx); err != nil && caller.Err() == nil {
		return fmt.Errorf("bridge: %w", public(err))
	}
	return nil
}

// grace is how long a lane goes on with what a server may have done already, when ctx has ended.
const grace = 2 * time.Second

// withGrace returns a ctx that ends that much later than another one.
func withGrace(ctx context.Context) (context.Context, context.CancelFunc) {
	later, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(grace, cancel) })
	return later, func() { stop(); cancel() }
}

// public returns an error of the engine as programs know it.
func public(err error) error {
	if errors.Is(err, engine.ErrRemoved) {
		return fmt.Errorf("%w: the cluster's queue", chanmq.ErrRemoved)
	}
	return err
}

// Close ends the bridge. Run must have returned. What was taken out of the kernel queue and is not in the cluster yet
// stays in the bridge's journal; that belongs to this process as long as it lives, so another Bridge for the same
// queue can be had in the next process only. Of several calls the first one counts.
func (b *Bridge) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	var errs []error
	for _, l := range b.lanes {
		errs = append(errs, l.close())
	}
	if b.queue != nil {
		errs = append(errs, b.queue.Close())
	}
	if b.dir != nil {
		b.dir.close()
	}
	return errors.Join(errs...)
}

// atStep is called at each step with its name. Tests end the process there.
var atStep = func(string) {}
