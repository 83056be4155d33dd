package chanmq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/chanmq/chanmq/internal/sysv"
)

var (
	// ErrClosed is the error of calls on a handle after [Queue.Close]. It is
	// os.ErrClosed. The queue itself lives on in the kernel.
	ErrClosed error = &causeError{"the handle is closed", []error{os.ErrClosed}}

	// ErrRemoved is the error of calls on a queue that somebody removed
	// (IPC_RMID, ipcrm): its messages are gone, and so is its msqid.
	ErrRemoved = errors.New("the queue was removed")

	// ErrTooLarge is the error of sending a message that is larger than
	// msgmax, or than the queue's own size. It is not sent, nor cut short.
	ErrTooLarge = errors.New("message too large")

	// ErrInvalidType is the error of a message type, or of a selector's type,
	// that is not in 1 to the largest C long.
	ErrInvalidType = errors.New("invalid message type")
)

// OpError is the error of a call that the kernel refused, or that could not be
// made. errors.Is(err, fs.ErrPermission), fs.ErrExist and fs.ErrNotExist work
// on it as they do for files, and errors.Is(err, syscall.EACCES) and the like
// tell what the kernel said.
type OpError struct {
	Op  string // "open", "create", "send", "receive", "stat", ...
	Key Key    // the queue's key; 0 for a private queue
	ID  int    // its msqid; -1 where it is not known
	Err error
}

// Error names the operation, the queue and the cause.
func (e *OpError) Error() string {
	var b strings.Builder
	b.WriteString("chanmq: " + e.Op)
	if e.Key != 0 {
		fmt.Fprintf(&b, ": key %v", e.Key)
	}
	if e.ID >= 0 {
		fmt.Fprintf(&b, ": msqid %d", e.ID)
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *OpError) Unwrap() error { return e.Err }

// DecodeError is the error of a message that was taken and that the codec
// cannot decode. The message is in the error, and nowhere else.
type DecodeError struct {
	Message Message[[]byte] // as the kernel gave it; the program's to keep
	Err     error           // what the codec said
}

// Error names the message's type and size, and what the codec said.
func (e *DecodeError) Error() string {
	return fmt.Sprintf("chanmq: decode: message of type %d, %d bytes: %v",
		e.Message.Type, len(e.Message.Value), e.Err)
}

// Unwrap returns what the codec said.
func (e *DecodeError) Unwrap() error { return e.Err }

// UndeliveredError is what is left of a program's messages when [Queue.Close]
// or [Sender.Close] has ended everything. Each of them is in this error and
// nowhere else; a program that wants them sent sends them again, or saves them.
type UndeliveredError struct {
	// Messages holds them as they stand in a kernel queue: first those that
	// were taken from the kernel and that it did not take back, in the order
	// taken; then those that Senders had accepted, in the order accepted.
	Messages []Message[[]byte]
	// Unencoded holds what a Sender had accepted and its codec cannot encode.
	Unencoded []Message[any]
	// Err is why the first of them was not delivered.
	Err error
}

// Error tells how many messages there are, and why.
func (e *UndeliveredError) Error() string {
	return fmt.Sprintf("chanmq: %d messages undelivered: %v", len(e.Messages)+len(e.Unencoded), e.Err)
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

// ctxError is the error of a wait that its ctx ended: ctx.Err() itself, or, if
// the ctx has a cause of its own, an error that is both.
func ctxError(ctx context.Context) error {
	err := ctx.Err()
	if why := context.Cause(ctx); why != nil && why != err {
		return cause([]error{why, err}, "%v: %v", err, why)
	}
	return err
}

// opError wraps the error of an operation on q and says what it means. size is
// that of the message, for sends.
func (q *queue) opError(op string, err error, size int) error {
	if err == nil {
		return nil
	}
	return &OpError{Op: op, Key: q.key, ID: q.msqid(), Err: q.explain(op, err, size)}
}

// explain turns the few errnos of System V queues, which mean many things each,
// into what happened. It may ask the kernel for what it needs to tell.
func (q *queue) explain(op string, err error, size int) error {
	switch err {
	case sysv.EIDRM:
		return cause([]error{ErrRemoved, err}, "%v", ErrRemoved)
	case sysv.EINVAL:
		if op == "send" {
			return q.tooLarge(size, err)
		}
		return cause([]error{ErrRemoved, err}, "%v", ErrRemoved)
	case sysv.EACCES:
		return cause([]error{err}, "permission denied%s; ask its owner for read (to receive) or write (to send) permission, or run as its owner", q.ownership())
	case sysv.EPERM:
		return cause([]error{err}, "not permitted: only the queue's owner, its creator or a process with CAP_SYS_ADMIN may do that%s", q.ownership())
	case sysv.ENOMEM:
		return cause([]error{err}, "the system has no memory for a message of %d bytes; nothing was sent, try again later", size)
	}
	return err
}

// tooLarge tells which of two limits a message of size bytes is over.
func (q *queue) tooLarge(size int, errs ...error) error {
	errs = append([]error{ErrTooLarge}, errs...)
	if limits, err := q.kernel.Limits(); err == nil && size > limits.MaxMessage {
		return cause(errs, "%v: %d bytes, and msgmax is %d (sysctl kernel.msgmax)",
			ErrTooLarge, size, limits.MaxMessage)
	}
	if stat, err := look(q.kernel, q.msqid()); err == nil && uint64(size) > stat.MaxBytes {
		return cause(errs, "%v: %d bytes, and the queue holds %d in all (its msg_qbytes; raise it with Set, up to sysctl kernel.msgmnb)",
			ErrTooLarge, size, stat.MaxBytes)
	}
	return cause(errs, "%v: %d bytes", ErrTooLarge, size)
}

// ownership says whose the queue is, where that may be known.
func (q *queue) ownership() string {
	stat, err := look(q.kernel, q.msqid())
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (the queue belongs to uid %d, gid %d, permissions %#o; this process has uid %d)",
		stat.UID, stat.GID, stat.Mode, os.Geteuid())
}

// fullness describes what stands in the queue, for those who found no room.
func (q *queue) fullness() string {
	stat, err := look(q.kernel, q.msqid())
	if err != nil {
		return "an unknown number of messages (" + err.Error() + ")"
	}
	return fmt.Sprintf("%d messages, %d of %d bytes (its msg_qbytes)", stat.Messages, stat.Bytes, stat.MaxBytes)
}

// explainOpen says what an error of msgget(2) means.
func explainOpen(k sysv.Kernel, key Key, err error) error {
	switch err {
	case sysv.ENOENT:
		return cause([]error{err}, "no queue has this key; Create makes one")
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
		if limits, limitsErr := k.Limits(); limitsErr == nil {
			return cause([]error{err}, "the system has no room for another queue: %d exist, and msgmni is %d (sysctl kernel.msgmni); ipcs -q lists them, ipcrm removes one",
				limits.Queues, limits.MaxQueues)
		}
	case sysv.ENOMEM:
		return cause([]error{err}, "the system has no memory for another queue")
	}
	return err
}

// notPermitted is the error of WithOwner.
func notPermitted(stat sysv.Stat, owners []int) error {
	return cause([]error{fs.ErrPermission}, "the queue was created by uid %d and belongs to uid %d, and WithOwner allows only %s; it may have been planted",
		stat.CreatorUID, stat.UID, ownerList(owners))
}
