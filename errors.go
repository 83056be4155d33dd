package chanmq

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/chanmq/chanmq/internal/sysv"
)

var (
	// ErrClosed is the error of calls on a handle after [Queue.Close]. It
	// matches os.ErrClosed. The queue itself lives on in the kernel.
	ErrClosed error = &causeError{"the handle is closed", []error{os.ErrClosed}}

	// ErrRemoved is the error of calls on a queue that somebody removed
	// (IPC_RMID, ipcrm): its messages are gone, and so is its msqid.
	ErrRemoved = errors.New("the queue was removed")

	// ErrTooLarge is the error of sending a message that is larger than
	// msgmax, or than the queue's own size. It is neither sent nor truncated.
	ErrTooLarge = errors.New("message too large")

	// ErrUnavailable is the error of calls on a queue of a cluster whose servers cannot
	// be reached. Nothing was done: nothing was sent, and nothing was taken.
	ErrUnavailable = errors.New("the queue's server cannot be reached; nothing was done")

	// ErrUncertain is the error of sending to a queue of a cluster whose servers did not
	// say what became of the message: the connection was lost, or ctx has ended, behind it
	// and before the answer. The queue has the message, or will have it, or never will. A
	// program that sends it again may have sent it twice, so receivers have to recognize
	// that; one that does not may have sent nothing. On one machine there is no such error.
	ErrUncertain = errors.New("it is not known whether the message was sent")

	// ErrInvalidType is the error of a message type, or of a selector's type,
	// that is not in 1 to the largest C long.
	ErrInvalidType = errors.New("invalid message type")
)

// OpError is the error of a call that the kernel refused, that could not begin,
// or that its ctx ended. errors.Is(err, fs.ErrPermission), fs.ErrExist and
// fs.ErrNotExist work on it as they do for files, errors.Is(err,
// context.Canceled) as for other calls with a ctx, and errors.Is(err,
// syscall.EACCES) and the like for what the kernel said.
type OpError struct {
	Op  string // "open", "create", "send", "receive", "stat", ...
	Key Key    // the queue's key; 0 for a private queue
	ID  int    // its msqid; -1 where it is not known
	Err error
}

// Error names the operation, the queue and the cause.
func (e *OpError) Error() string {
	return "chanmq: " + e.Op + queueName(e.Key, e.ID) + ": " + e.Err.Error()
}

// queueName is how errors name a queue, as far as it is known.
func queueName(key Key, id int) string {
	var b strings.Builder
	if key != 0 {
		fmt.Fprintf(&b, ": key %v", key)
	}
	if id >= 0 {
		fmt.Fprintf(&b, ": msqid %d", id)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// DecodeError is the error of a message that was taken and that the codec
// cannot decode. The message is in the error, and nowhere else.
type DecodeError struct {
	Message Message[[]byte] // as the kernel gave it; the program's to keep
	Err     error           // what the codec said
	Key     Key             // of the queue; 0 for a private queue
	ID      int             // its msqid
}

// Error names the queue, the message's type and size, and what the codec said.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("chanmq: decode%s: message of type %d, %s: %v",
		queueName(e.Key, e.ID), e.Message.Type, count(len(e.Message.Value), "byte"), e.Err)
}

// Unwrap returns what the codec said.
func (e *DecodeError) Unwrap() error { return e.Err }

// UndeliveredError is what is left of a program's messages when [Queue.Close] or
// [Queue.Shutdown] has ended everything. A program that wants them sent sends them
// again, or saves them. Those of a Sender are also what its Unsent returns; all
// others are in this error and nowhere else, unless the error matches [ErrUncertain]:
// then the first of them may be in the queue, on a cluster.
type UndeliveredError struct {
	// Messages holds them as they are in a kernel queue: first those that
	// were taken from the kernel and that it did not take back, in the order
	// taken; then those that Senders had accepted, in the order accepted.
	Messages []Message[[]byte]
	// Unencoded holds what a Sender had accepted and its codec cannot encode.
	Unencoded []Message[any]
	// Err is why the first of them was not delivered.
	Err error
	Key Key // of the queue; 0 for a private queue
	ID  int // its msqid
}

// Error says how many messages there are, and why.
func (e *UndeliveredError) Error() string {
	return fmt.Sprintf("chanmq: close%s: %s undelivered: %v",
		queueName(e.Key, e.ID), count(len(e.Messages)+len(e.Unencoded), "message"), e.Err)
}

// Unwrap returns why the first of them was not delivered.
func (e *UndeliveredError) Unwrap() error { return e.Err }

// or returns e if it holds anything.
func (e *UndeliveredError) or() error {
	if len(e.Messages)+len(e.Unencoded) == 0 {
		return nil
	}
	return e
}

// causeError is a text for people over the errors that programs ask for.
type causeError struct {
	text string
	errs []error
}

func (e *causeError) Error() string   { return e.text }
func (e *causeError) Unwrap() []error { return e.errs }

func cause(errs []error, format string, args ...any) error {
	return &causeError{fmt.Sprintf(format, args...), errs}
}

// count is like "1 message" and "2 messages".
func count[N int | uint64](n N, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// subject is the queue that an error is about, and the kernel to ask for what the
// error should say.
type subject struct {
	kernel sysv.Kernel
	key    Key
	id     int
}

// opError wraps the error of an operation and says what it means. size is that of
// the message, for sends.
func (s subject) opError(op string, err error, size int) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Key: s.key, ID: s.id, Err: s.explain(op, err, size)}
}

// explain turns the few errnos of System V queues, which mean many things each,
// into what happened. It may ask the kernel for what it needs to know.
func (s subject) explain(op string, err error, size int) error {
	switch err {
	case sysv.EIDRM:
		return cause([]error{ErrRemoved, err}, "%v", ErrRemoved)
	case sysv.EINVAL:
		if op == "send" {
			return s.tooLarge(size, err)
		}
		return cause([]error{ErrRemoved, err}, "%v", ErrRemoved)
	case sysv.EACCES:
		return cause([]error{err}, "permission denied%s; ask its owner for read (to receive) or write (to send) permission, or run as its owner", s.ownership())
	case sysv.EPERM:
		return cause([]error{err}, "not permitted: only the queue's owner, its creator or a process with CAP_SYS_ADMIN may do that%s", s.ownership())
	case sysv.ENOMEM:
		return cause([]error{err}, "the system has no memory for a message of %s; nothing was sent, try again later", count(size, "byte"))
	}
	return err
}

// tooLarge returns which of two limits a message of size bytes is over.
func (s subject) tooLarge(size int, errs ...error) error {
	errs = append([]error{ErrTooLarge}, errs...)
	if s.kernel.Traits().Remote {
		return s.tooLargeRemote(size, errs)
	}
	if limits, err := s.kernel.Limits(); err == nil && size > limits.MaxMessage {
		return cause(errs, "%v: %s, and msgmax is %d (sysctl kernel.msgmax)",
			ErrTooLarge, count(size, "byte"), limits.MaxMessage)
	}
	if stat, err := s.statAny(); err == nil && uint64(size) > stat.MaxBytes {
		return cause(errs, "%v: %s, and the queue holds %d in all (its msg_qbytes; raise it with Set, up to sysctl kernel.msgmnb)",
			ErrTooLarge, count(size, "byte"), stat.MaxBytes)
	}
	return cause(errs, "%v: %s", ErrTooLarge, count(size, "byte"))
}

// tooLargeRemote is tooLarge for a queue of a cluster, which has limits of its own.
func (s subject) tooLargeRemote(size int, errs []error) error {
	if limits, err := s.kernel.Limits(); err == nil && size > limits.MaxMessage {
		return cause(errs, "%v: %s, and the limit is %d (%s)",
			ErrTooLarge, count(size, "byte"), limits.MaxMessage, s.kernel.Traits().LimitNames.MaxMessage)
	}
	if stat, err := s.statAny(); err == nil && uint64(size) > stat.MaxBytes {
		return cause(errs, "%v: %s, and the queue holds %d in all (raise it with Set)", ErrTooLarge, count(size, "byte"), stat.MaxBytes)
	}
	return cause(errs, "%v: %s", ErrTooLarge, count(size, "byte"))
}

// ownership says whose the queue is, where that may be known.
func (s subject) ownership() string {
	stat, err := s.statAny()
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (the queue belongs to uid %d, gid %d, permissions %#o; this process has uid %d)",
		stat.UID, stat.GID, stat.Mode, s.kernel.UID())
}

// fullness describes what is in the queue, for those who found no room.
func (s subject) fullness() string {
	stat, err := s.statAny()
	if err != nil {
		return "an unknown number of messages (" + err.Error() + ")"
	}
	of := "its msg_qbytes"
	if traits := s.kernel.Traits(); traits.Remote {
		of = traits.LimitNames.Fullness
	}
	return fmt.Sprintf("%s, %d of %d bytes (%s)", count(stat.Messages, "message"), stat.Bytes, stat.MaxBytes, of)
}

// statAny returns the state of the queue to those, too, who may not read it:
// IPC_STAT asks for that permission, and List does not.
func (s subject) statAny() (sysv.Stat, error) {
	stat, err := s.kernel.Stat(s.id)
	if err != sysv.EACCES {
		return stat, err
	}
	stats, listErr := s.kernel.List()
	if listErr != nil {
		return sysv.Stat{}, listErr
	}
	for _, stat := range stats {
		if stat.ID == s.id {
			return stat, nil
		}
	}
	return sysv.Stat{}, err // removed meanwhile, or Linux before 4.17
}

// explainOpen says what an error of msgget(2) means.
func explainOpen(k sysv.Kernel, key Key, err error) error {
	switch err {
	case sysv.ENOENT:
		if k.Traits().Remote {
			return cause([]error{err}, "no queue has this key on the servers; Create creates one")
		}
		return cause([]error{err}, "no queue has this key in this process's IPC namespace (a container may have one of its own: compare /proc/self/ns/ipc); Create creates one")
	case sysv.EEXIST:
		return cause([]error{err}, "a queue with this key exists already, and WithExclusive was asked for")
	case sysv.EACCES:
		text := "a queue with this key exists, and grants this process less than was asked for"
		if stats, listErr := k.List(); listErr == nil {
			for _, stat := range stats {
				if Key(stat.Key) == key {
					text += fmt.Sprintf(" (it belongs to uid %d, permissions %#o)", stat.UID, stat.Mode)
				}
			}
		}
		return cause([]error{err}, "%s: permission denied", text)
	case sysv.ENOSPC:
		limits, limitsErr := k.Limits()
		switch traits := k.Traits(); {
		case limitsErr != nil:
		case traits.Remote:
			return cause([]error{err}, "there are %s already, and the limit is %d (%s)",
				count(limits.Queues, "queue"), limits.MaxQueues, traits.LimitNames.MaxQueues)
		default:
			return cause([]error{err}, "the system has no room for another queue: %d exist, and msgmni is %d (sysctl kernel.msgmni); ipcs -q lists them, ipcrm removes one",
				limits.Queues, limits.MaxQueues)
		}
	case sysv.ENOMEM:
		return cause([]error{err}, "the system has no memory for another queue")
	}
	return err
}

// notPermitted is the error of WithOwner.
func notPermitted(stat sysv.Stat, owners string) error {
	return cause([]error{fs.ErrPermission}, "the queue was created by uid %d and belongs to uid %d, and WithOwner allows only %s; it may have been planted",
		stat.CreatorUID, stat.UID, owners)
}

// isRemoved reports whether an error of an operation that was otherwise right
// says that the queue is gone. EINVAL is what its msqid yields afterwards.
func isRemoved(err error) bool {
	return errors.Is(err, ErrRemoved) || err == sysv.EIDRM || err == sysv.EINVAL
}

// asRemoved turns what a removed msqid yields in a call that is otherwise right
// into the one error for it.
func asRemoved(err error) error {
	if err == sysv.EINVAL {
		return sysv.EIDRM
	}
	return err
}
