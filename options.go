package chanmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/sysv"
)

// An Option changes how a queue is opened. See the functions that return one.
type Option func(*options)

type options struct {
	kernel    sysv.Kernel
	exclusive bool
	remove    bool
	reopen    bool
	wait      context.Context // how long Open waits; nil: not at all
	owners    []int           // nil: anybody
	spin      time.Duration
	polling   bool
	pollMin   time.Duration
	pollMax   time.Duration
	maxParked int
	journal   *string // the directory; nil: no journal
	counters  bool
	observer  observer // nil: nobody wants to know
	packing   bool
	large     *largeOptions // nil: no larger texts
	err       error         // the first bad argument

	onJournalError func(error)
}

// largeOptions are those of WithLarge.
type largeOptions struct {
	dir       string
	threshold int // -1: see WithLarge
}

// Defaults of the options.
const (
	defaultSpin      = 20 * time.Microsecond
	defaultPollMin   = time.Millisecond
	defaultPollMax   = 15 * time.Millisecond
	defaultMaxParked = 128
)

// For package chanmqtest, which opens queues on a simulated kernel.
func init() {
	inject.Kernel = func(k sysv.Kernel) any { return Option(func(o *options) { o.kernel = k }) }
}

func newOptions(opts []Option) options {
	o := options{
		kernel:    inject.Host(),
		spin:      defaultSpin,
		pollMin:   defaultPollMin,
		pollMax:   defaultPollMax,
		maxParked: defaultMaxParked,

		onJournalError: logJournalError,
	}
	for _, opt := range opts {
		opt(&o)
	}
	o.kernel = o.kernel.Handle()
	if o.kernel.Traits().Remote {
		o.validateRemote()
	}
	return o
}

// validateRemote refuses what is of one machine.
func (o *options) validateRemote() {
	switch {
	case o.journal != nil:
		o.refuse("WithJournal: the queue is on a cluster, which keeps a message of Take or of a Consumer until Ack, so no journal is needed: %w", errors.ErrUnsupported)
	case o.packing:
		o.refuse("WithPacking: the queue is on a cluster, where each message is acknowledged by itself: %w", errors.ErrUnsupported)
	case o.large != nil:
		o.refuse("WithLarge: the queue is on a cluster, and the files would be on this machine: %w", errors.ErrUnsupported)
	}
}

// opens reports whether messages are taken out of their envelopes.
func (o *options) opens() bool { return o.packing || o.large != nil }

// acknowledges reports whether something happens when a message is acknowledged.
func (o *options) acknowledges() bool { return o.journal != nil || o.large != nil }

func (o *options) refuse(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf(format, args...)
	}
}

// WithExclusive makes [Create] fail with an error matching fs.ErrExist when the
// queue exists already (IPC_EXCL).
func WithExclusive() Option { return func(o *options) { o.exclusive = true } }

// WithRemoveOnClose makes Close remove the queue, for every process, with all
// messages that are in it. What the handle holds itself comes back in
// [*UndeliveredError] all the same. A program that ends without calling Close
// leaves the queue behind.
func WithRemoveOnClose() Option { return func(o *options) { o.remove = true } }

// WithOwner refuses to open a queue unless its creator and its owner are both
// among the user ids. Keys are free for all: without it, a queue planted under
// the key by another user would be taken for the real one. The error matches
// fs.ErrPermission.
func WithOwner(uid ...int) Option {
	return func(o *options) {
		if len(uid) == 0 {
			o.refuse("WithOwner: no user id given")
		}
		o.owners = append(o.owners, uid...)
	}
}

// WithReopen makes receives and sends survive the removal of the queue: instead
// of ending with [ErrRemoved], they repeat the call that opened it, [Open] or
// [Create], with pauses that grow from 10 ms to 1 s and vary at random, until
// the queue is there again or their ctx ends. What the handle holds is kept.
// [Queue.Remove] on the handle itself ends them still. TryReceive and TrySend
// look the key up once.
//
// A queue without a key cannot be found again, so [Private] refuses it, and so
// does [Attach] for a private queue. A queue that does not exist yet when the
// program starts is what [WithWait] is for; the two go together.
func WithReopen() Option { return func(o *options) { o.reopen = true } }

// WithWait makes [Open] wait for a queue that does not exist yet, for a program that
// starts before the one that creates it. Open looks for the key again, with the
// pauses of [WithReopen], until the queue is there or ctx ends; it looks once if ctx
// has ended already. Then the error is an [*OpError] that matches ctx.Err() and
// fs.ErrNotExist. Any other error, such as fs.ErrPermission, is returned at once.
//
// ctx is of no further use once Open has returned. [Create] makes the queue itself,
// and [Private] and [Attach] have no key to look for: they refuse WithWait.
func WithWait(ctx context.Context) Option {
	return func(o *options) {
		if ctx == nil {
			o.refuse("WithWait: the ctx is nil")
		}
		o.wait = ctx
	}
}

// WithJournal makes messages outlive the process: the handle receives them into a file,
// its journal, in the directory dir, and they stay there until they are acknowledged.
// Whatever ends the process, SIGKILL too, what was not acknowledged is delivered again, to
// a handle of the same queue with the same directory: at once if there is one in a living
// process, or else to the next one, when it receives for the first time. It comes before
// newer messages, in the order taken.
//
// What counts as acknowledged:
//
//   - a delivery of [Queue.Take] or a [Consumer]: when the program calls Ack;
//   - a message of a [Receiver]: when the program has read it from C, and the Receiver
//     has noticed. Without a buffer that is a moment later. Of what was read from C's
//     buffer it notices when the next message comes, or by a look after 5 ms, and then
//     after pauses that double up to 10 s while something is unread. What was read since
//     may come again: at most one message more than the buffer has room for. Through
//     [Merge] it is the one that the program has read a moment ago;
//   - a message of a direct call: when the call returns it;
//   - a message that [Forward] or [Queue.Close] has sent: when the kernel has it. What
//     Close cannot send back, because the queue is full, stays in the journal.
//
// Each message is thus delivered at least once, and more than once only around the end of
// a process. A message that the handle only keeps in its slot is not acknowledged.
//
// dir must be on a tmpfs, such as /dev/shm, and the user's alone (mode 0700); it is
// created if it does not exist. "" is /dev/shm/chanmq-UID. The handle has a file of its own
// there, of some 20 KiB at first, which grows with the number and the size of messages that
// it holds at once; where there is no room for that, opening the queue, or the receive
// that needs it, fails with an error matching syscall.ENOSPC, and the message stays in the
// queue. The file is removed when the handle is closed and all is acknowledged. The
// queue has to be readable for the process. On systems and emulators where it cannot work,
// opening the queue fails with an error matching errors.ErrUnsupported.
//
// A handle takes over the journals of dead processes, of the same user, for the same queue:
// the same msqid, key and creator in the same IPC namespace. It gets all that is in them,
// so handles that share a directory should be able to receive all of it; use directories of
// their own for processes which receive different types. What nobody will take over is
// returned by [Orphans]. After [WithReopen] has found the queue re-created, what was
// received from the one before is such a case when the process dies.
//
// On a cluster a journal is refused, with an error matching errors.ErrUnsupported:
// deliveries of Take and of Consumers stay in the queue until Ack.
//
// docs/journal.md has the format of the file, and what is promised in detail.
func WithJournal(dir string) Option { return func(o *options) { o.journal = &dir } }

// WithPacking puts several values into one message of the kernel, and takes them out again,
// which makes a stream of small values several times as fast. It is for queues of which all
// receivers are handles with this option, or read packs by themselves: docs/envelope.md has
// their layout, with readers and writers in C and in Python.
//
// A [Sender] packs what waits in its channel already, values of one type that come one behind
// the other, up to msgmax, half of the queue's size, and 64 KiB. It never waits for more: a
// value by itself leaves at once, as it is. So a buffer ([WithBuffer]) is what makes packs.
// [Queue.SendAll] packs what it is given, [Queue.Send] nothing. Where the queue has no room for
// a pack, it is sent in parts.
//
// Whatever is promised of messages holds for each value of a pack: the order of those of a
// type, hand-back, Drain and Close, Unsent, acknowledgement and attempts, errors of codecs,
// and [Queue.Browse]. Selectors work, since a pack has values of one type. The handle that has
// received a pack holds all of it: what the caller has no room for is in the hand-back slot,
// for whoever receives from the handle next, until [Queue.Close] or [Queue.Shutdown] sends it
// back, packed again. So without a journal, the end of a process without either loses up to
// the rest of a pack for each receive under way, in addition to what is said of Receivers.
// []byte values up to 128 bytes that came in one message share allocations of 1 KiB, so a program
// that keeps one of many for long copies it.
//
// Messages of others that have no envelope are received as they are. A message is also looked
// at for an envelope: a text that begins with the magic of one, FE 63 6D 71, is sent in an
// envelope, and taken out of it. Requests, replies and dead letters of package serve are
// values like any other. What has an envelope that is damaged, or of a kind or version that is
// not known, ends in a [*DecodeError] with the message as it was.
//
// On a cluster packing is refused, with an error matching errors.ErrUnsupported.
func WithPacking() Option { return func(o *options) { o.packing = true } }

// WithLarge sends texts that are too large for a message in files, and messages that refer to
// them. It is for queues of which all receivers are handles with this option and the same
// directory, or read references by themselves: docs/envelope.md has their layout, with readers
// in C and in Python. docs/large.md says what is in the directory.
//
// A text goes into a file if it is larger than a quarter of the queue's size, or than msgmax:
// then two senders and two receivers have room to work at the same time. [WithLargeThreshold]
// sets another limit. Smaller ones are sent as without the option. What is larger than the
// limit is never packed ([WithPacking]).
//
// The file lives as long as its message: it is removed when the program has the message, where
// a journal says that it is acknowledged ([WithJournal]), with or without one. It stays when
// the message is browsed, handed back, or sent back to the queue. If the message cannot be
// sent, nothing is left; no space in the file system is an error of Send that matches
// syscall.ENOSPC or syscall.EDQUOT. Remove, and Close with [WithRemoveOnClose], remove the files
// of what was in the queue; where other processes have handles for it, the last of them does.
// What a process leaves that is killed is found by another one within a minute or two, or by the
// next one when it opens the queue: it removes what no message, no journal and no living process
// refers to.
//
// A message whose file cannot be read, was damaged, or is not where the files of this queue
// are, ends in a [*DecodeError] that holds the reference. A handle without the option receives
// the reference as bytes. A message is also looked at for an envelope, as with [WithPacking].
//
// dir is created if it does not exist, for this user alone. "" is /dev/shm/chanmq-UID, in
// memory. Each queue has a directory in it, whose permissions follow the queue's: who may use
// the queue may use that, and who may read the queue may read the files. Several users therefore
// need a directory that all of them may search and write to, of one of them or of root, and with
// the sticky bit if others may write to it. A sender whose files the queue's owner could not
// read is refused, with an error matching fs.ErrPermission. Another user who may use the queue
// can remove its files, as he can receive its messages.
//
// A handle that sends one such text after the other uses the storage of those again that were
// received: up to 512 MiB (64 MiB where addresses have 32 bits), an eighth of what is free in the
// file system, and an eighth of the descriptors that the process may have. A handle that receives
// keeps as much mapped. Both give that up when it has not been used for 5 to 10 seconds, and at
// Close.
//
// On a cluster it is refused, with an error matching errors.ErrUnsupported.
//
// With [WithBorrowedValues] the program gets the memory of the file, which is the sender's again
// after Ack. A sender that makes the file shorter meanwhile, against all rules, ends the process
// that reads it by SIGBUS.
func WithLarge(dir string, opts ...LargeOption) Option {
	return func(o *options) {
		o.large = &largeOptions{dir: dir, threshold: -1}
		for _, opt := range opts {
			opt(o)
		}
	}
}

// LargeOption changes what [WithLarge] does. See the functions that return one.
type LargeOption func(*options)

// WithLargeThreshold sets how many bytes of text a message has at most that is sent as it is.
// Larger ones are in files.
func WithLargeThreshold(n int) LargeOption {
	return func(o *options) {
		if n < 0 {
			o.refuse("WithLargeThreshold(%d): the number is negative", n)
		}
		o.large.threshold = n
	}
}

// WithJournalError sets what is done with errors of journals that concern no call: one of
// a dead process that cannot be read is left where it is, and f is called with a
// [*JournalError], once for each handle and file. f must not use the handle. Without this
// option they are logged with package log/slog, at level Warn.
func WithJournalError(f func(error)) Option {
	return func(o *options) {
		if f == nil {
			o.refuse("WithJournalError: the function is nil")
			return
		}
		o.onJournalError = f
	}
}

// logJournalError is what is done with errors without WithJournalError.
func logJournalError(err error) { slog.Warn("chanmq: a journal is not used", "error", err) }

// WithSpin sets how long a call that has to wait polls the queue before it lets
// its thread sleep in the kernel. The default is 20 microseconds, about what
// sleeping and waking costs; spinning that keeps failing becomes rare by itself.
// Zero turns it off. On a cluster it has no effect.
func WithSpin(d time.Duration) Option {
	return func(o *options) {
		if d < 0 {
			o.refuse("WithSpin(%v): the duration is negative", d)
		}
		o.spin = d
	}
}

// WithPolling makes calls wait by polling alone, never by a msgsnd or msgrcv that
// blocks: the queue is looked at after min, and after pauses that double up to
// max while nothing comes. One goroutine, on one thread, polls for all of the
// handle's calls. It is for programs that cannot spare threads; a message waits
// up to max. On a cluster it has no effect.
func WithPolling(min, max time.Duration) Option {
	return func(o *options) {
		if min <= 0 || max < min {
			o.refuse("WithPolling(%v, %v): want 0 < min <= max", min, max)
		}
		o.polling, o.pollMin, o.pollMax = true, min, max
	}
}

// WithMaxParked sets how many calls on the handle may sleep in the kernel at
// once, each of which takes an operating system thread. The default is 128.
// Receives with the same selector share one of them, since only the first of them
// needs to sleep in the kernel. The rest share one goroutine that polls, at least
// every 15 ms if it has little to do. Zero is polling alone. All handles of a process
// together park at most 2,048. On a cluster it has no effect: calls that wait there take no
// thread, and their number is not limited.
func WithMaxParked(n int) Option {
	return func(o *options) {
		if n < 0 {
			o.refuse("WithMaxParked(%d): the number is negative", n)
		}
		o.maxParked = n
	}
}

// WithCounters makes the handle count what it does, for [Queue.Counters]. That costs a few
// atomic additions for each message, and no allocation.
func WithCounters() Option { return func(o *options) { o.counters = true } }

// WithObserver has f called at the end of each send, receive, delivery, ack and nack of the
// handle, for traces and histograms; to count things, [WithCounters] is cheaper. What has no
// result is not reported: a TryReceive that finds nothing and a TrySend that finds no room,
// what Close or Drain of a Receiver, Consumer or Sender has cut short, and what [Queue.Close]
// and [Queue.Shutdown] send back to the queue. If the option is given several times, the last
// one counts.
//
// ctx is the one of the call, or the one that the Receiver, Consumer or Sender was started
// with; it may have ended. For Ack and Nack it is that of Take, or of the Consumer. TrySend
// and TryReceive have context.Background().
//
// f is called by the goroutine that does the thing: the caller's, or that of the Receiver,
// Consumer or Sender, so by several at once. It must not block, since that goroutine waits for
// it, and others for that goroutine; and it may use nothing of the handle but ID, Key and
// Counters. The ack of a message can be reported before its delivery, if the program is
// that fast. If f panics, that is a panic of the goroutine.
func WithObserver(f func(ctx context.Context, e Event)) Option {
	return func(o *options) {
		if f == nil {
			o.refuse("WithObserver: the function is nil")
		}
		o.observer = f
	}
}

// ownerList is the text of WithOwner's ids in an error.
func (o *options) ownerList() string {
	list := make([]string, len(o.owners))
	for i, uid := range o.owners {
		list[i] = strconv.Itoa(uid)
	}
	return strings.Join(list, ", ")
}
