package serve

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/chanmq/chanmq"
)

// The errors that a server answers with by itself. A caller finds them with errors.Is in
// the [*RemoteError] that Call returns.
var (
	// ErrExpired is the error of a request that was not handled because its time was over
	// when a worker took it: see [WithTTL].
	ErrExpired = errors.New("the request expired before it was handled")

	// ErrPanicked is the error of a request whose handler panicked. The server reports the
	// value and the stack; the caller gets the value's text.
	ErrPanicked = errors.New("the handler panicked")

	// ErrNoHandler is the error of a request of a type that the server does not answer.
	ErrNoHandler = errors.New("no handler for requests of this type")

	// ErrUndecodable is the error of a request that the server's codec cannot decode.
	ErrUndecodable = errors.New("the server cannot decode the request")

	// ErrAttempts is the error of a request that was given up, because the server died
	// with it as often as [WithMaxAttempts] allows.
	ErrAttempts = errors.New("the request was given up after several attempts")

	// ErrUnencodable is the error of a reply that the server's codec cannot encode.
	ErrUnencodable = errors.New("the server cannot encode its reply")
)

// The errors of this side.
var (
	// ErrClosed is the error of calls on a client after its Close, and of those that Close
	// has ended. It matches chanmq.ErrClosed.
	ErrClosed = fmt.Errorf("serve: the client is closed: %w", chanmq.ErrClosed)

	// ErrUnsent is in the error of [Server.Run] if replies could not be sent in the time of
	// [WithDrainTime], because the queue was full of others.
	ErrUnsent = errors.New("replies could not be sent")
)

// Code says what kind of error a [RemoteError] is. Codes below 1,000 are this package's;
// a program may use all others for its own errors.
type Code uint32

// The codes of this package.
const (
	CodeFailed      Code = 0 // the handler returned an error
	CodeExpired     Code = 1 // ErrExpired
	CodePanicked    Code = 2 // ErrPanicked
	CodeNoHandler   Code = 3 // ErrNoHandler
	CodeUndecodable Code = 4 // ErrUndecodable
	CodeAttempts    Code = 5 // ErrAttempts
	CodeUnencodable Code = 6 // ErrUnencodable
	CodeTooLarge    Code = 7 // chanmq.ErrTooLarge: the reply does not fit into a message, nor, with chanmq.WithLarge, into the file system
)

var codeErrors = map[Code]error{
	CodeExpired:     ErrExpired,
	CodePanicked:    ErrPanicked,
	CodeNoHandler:   ErrNoHandler,
	CodeUndecodable: ErrUndecodable,
	CodeAttempts:    ErrAttempts,
	CodeUnencodable: ErrUnencodable,
	CodeTooLarge:    chanmq.ErrTooLarge,
}

// A RemoteError is an error that came from the server in place of a reply. It matches the
// error of its code, such as [ErrExpired], with errors.Is. A handler that returns one, or
// an error that wraps one, decides which code and text the caller gets; the text of other
// errors is sent as it is, with code 0. A text is cut off after 1,024 bytes.
type RemoteError struct {
	Code Code
	Text string
}

// Error returns the text, and says that it is the server's.
func (e *RemoteError) Error() string {
	if e.Text == "" {
		if known := codeErrors[e.Code]; known != nil {
			return "serve: the server answers: " + known.Error()
		}
		return fmt.Sprintf("serve: the server answers with error code %d", e.Code)
	}
	return "serve: the server answers: " + e.Text
}

// Is reports whether target is the error of the code.
func (e *RemoteError) Is(target error) bool {
	known, ok := codeErrors[e.Code]
	return ok && known == target
}

// isTooLarge reports whether a message cannot be sent because of its size, although others can:
// it does not fit, or the file system of chanmq.WithLarge has no space for it.
func isTooLarge(err error) bool {
	return errors.Is(err, chanmq.ErrTooLarge) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// maxErrorText bounds what a server sends of an error.
const maxErrorText = 1024

// asRemote returns what a caller gets to know of an error.
func asRemote(err error) *RemoteError {
	remote := new(RemoteError)
	var told *RemoteError
	if errors.As(err, &told) {
		*remote = *told
	} else {
		remote.Code = codeOf(err)
		remote.Text = err.Error()
	}
	if len(remote.Text) > maxErrorText {
		n := maxErrorText
		for n > 0 && !utf8.RuneStart(remote.Text[n]) {
			n--
		}
		remote.Text = remote.Text[:n]
	}
	return remote
}

func codeOf(err error) Code {
	var failed *failure
	if errors.As(err, &failed) {
		return failed.code
	}
	var panicked *PanicError
	if errors.As(err, &panicked) {
		return CodePanicked
	}
	return CodeFailed
}

// failure is an error of the server's own.
type failure struct {
	code Code
	err  error // the cause; nil: none but the code's
}

func (f *failure) Error() string {
	text := codeErrors[f.code].Error()
	if f.err == nil {
		return text
	}
	return text + ": " + f.err.Error()
}

func (f *failure) Unwrap() []error { return []error{codeErrors[f.code], f.err} }

// A PanicError is the error of a handler that panicked, or that ended its goroutine.
type PanicError struct {
	Value any    // of the panic; nil: runtime.Goexit
	Stack []byte // of the goroutine
}

// Error returns the text of the value, without the stack.
func (e *PanicError) Error() string {
	if e.Value == nil {
		return ErrPanicked.Error() + ": it ended its goroutine (runtime.Goexit)"
	}
	return fmt.Sprintf("%v: %v", ErrPanicked, e.Value)
}

// Unwrap returns the value if it is an error.
func (e *PanicError) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// Is reports whether target is [ErrPanicked].
func (e *PanicError) Is(target error) bool { return target == ErrPanicked }

// A RequestError is what a server reports of a message, to the function of
// [WithErrorReport]: a handler that panicked, a message that does not decode and that
// nobody is told of, one that was given up, a reply that was dropped.
type RequestError struct {
	Message chanmq.Message[[]byte] // as it was in the queue; the function's to keep
	Attempt int
	Err     error
}

// Error names the message's type and size, and the cause.
func (e *RequestError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "serve: message of type %d, %d bytes", e.Message.Type, len(e.Message.Value))
	if e.Attempt > 1 {
		fmt.Fprintf(&b, ", attempt %d", e.Attempt)
	}
	return b.String() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *RequestError) Unwrap() error { return e.Err }
