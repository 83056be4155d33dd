// Package engine is queues on NATS JetStream, as requests to its servers: what a queue is
// there, how a message gets in and out exactly once, and how those who wait for one are woken.
// It knows nothing of Go channels, nor of the interface of a kernel.
//
// A queue is a stream with a subject for each type (layout.go). Which queues there are, and
// under which keys, is in a stream of its own, the registry (registry.go). A message is taken
// by whoever deletes it from the stream (claim.go).
//
// A server may die with the answer to any request. So each request is one of three kinds:
// reading, which is made again; what can be said twice, with the same effect; and what
// can be asked about afterwards, publishing by the id of the message and claiming by the
// peers (peers.go).
package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config is what an Engine is made of.
type Config struct {
	Conn     *nats.Conn
	Prefix   string // of subjects and stream names
	Replicas int
	Storage  jetstream.StorageType
	Limits   Limits
	Exact    bool          // new queues count the bytes of texts as a kernel does, at a second trip for each message
	Timeout  time.Duration // how long to wait for the answer to a request
	Look     time.Duration // how long a wake-up that is lost may go unnoticed
	AckWait  time.Duration // when a message is somebody else's whose process does not say that it has it still
}

// Limits are those of the kernel, for these queues.
type Limits struct {
	MaxMessage int // bytes of a text
	MaxBytes   int // bytes of a new queue
	MaxQueues  int
}

// Engine is the queues of one cluster, as one process sees them through one connection. It is
// safe for concurrent use.
type Engine struct {
	Config
	layout  layout
	peers   peers
	leasing leasing

	mu      sync.Mutex
	watches map[int]*watch // of queues that somebody waits for; guarded by mu
	exact   map[int]bool   // of queues that something was sent to; guarded by mu
	closed  atomic.Bool    // set with mu held

	done    chan struct{} // closed by Close
	running sync.WaitGroup
}

// Errors of an Engine, beside those of ctx.
var (
	// ErrUnavailable means that no server has answered, and nothing was done.
	ErrUnavailable = errors.New("no server answers")
	// ErrUncertain means that no server has answered, and what was asked for may have
	// been done.
	ErrUncertain = errors.New("no server has said whether it was done")
	// ErrRemoved means that there is no such queue, or no longer.
	ErrRemoved = errors.New("the queue does not exist")
	// ErrFull means that there is no room for the message in the queue.
	ErrFull = errors.New("the queue is full")
	// ErrTooLarge means that the queue, or the server, takes no message as large as that.
	ErrTooLarge = errors.New("the message is too large")
	// ErrNone means that no message is there.
	ErrNone = errors.New("no message")
)

// New returns an Engine. The registry need not exist yet.
func New(c Config) (*Engine, error) {
	e := &Engine{Config: c, layout: layout{c.Prefix}, watches: make(map[int]*watch), exact: make(map[int]bool), done: make(chan struct{})}
	if err := e.peers.init(e); err != nil {
		return nil, err
	}
	if err := e.leasing.init(e); err != nil {
		e.peers.end()
		return nil, err
	}
	e.running.Go(e.followConnection)
	return e, nil
}

// Close ends all that runs in the background, and calls that come later fail. The connection stays open.
func (e *Engine) Close() {
	e.mu.Lock()
	if e.closed.Swap(true) {
		e.mu.Unlock()
		return
	}
	watches := e.watches
	e.watches = nil
	e.mu.Unlock()
	e.leasing.end()
	close(e.done)
	for _, w := range watches {
		w.end()
	}
	e.peers.end()
	e.running.Wait()
}

// followConnection makes all who wait look when the connection is there again: what happened
// meanwhile has woken nobody.
func (e *Engine) followConnection() {
	changes := e.Conn.StatusChanged(nats.CONNECTED, nats.CLOSED)
	defer e.Conn.RemoveStatusListener(changes)
	for {
		select {
		case _, ok := <-changes:
			if !ok {
				return
			}
			closed := e.Conn.IsClosed()
			e.mu.Lock()
			for _, w := range e.watches {
				if closed {
					w.mu.Lock()
					w.fail(e.because(nats.ErrConnectionClosed)) // it is never made again
					w.mu.Unlock()
				}
				w.lookSoon()
			}
			e.mu.Unlock()
			e.leasing.reconnected()
		case <-e.done:
			return
		}
	}
}

// apiError is an error that a server has answered.
type apiError struct {
	Code        int    `json:"code"`
	ErrCode     int    `json:"err_code"`
	Description string `json:"description"`
}

func (e *apiError) Error() string {
	return fmt.Sprintf("%s (JetStream error %d)", e.Description, e.ErrCode)
}

// Codes of a server's errors.
const (
	codeUnavailable      = 10008
	codeNoMessage        = 10037
	codeSequenceNotFound = 10043
	codeDeleteFailed     = 10057
	codeNoStream         = 10059
	codeNameInUse        = 10058
	codeWrongSequence    = 10071
	codeStoreFailed      = 10077
	codeTooLarge         = 10054
	codeBeingStored      = 10158
	codeWrongSequenceToo = 10164 // as 10071, without saying which is right
)

// code returns the code of a server's error, and 0 if it is no such error.
func code(err error) int {
	var e *apiError
	if errors.As(err, &e) {
		return e.ErrCode
	}
	return 0
}

func hasCode(err error, codes ...int) bool {
	c := code(err)
	for _, other := range codes {
		if c == other {
			return true
		}
	}
	return false
}

// definite reports whether an error says that what was asked for has not been done. Code 10008
// does not say so, nor does a request without an answer.
func definite(err error) bool {
	c := code(err)
	return c != 0 && c != codeUnavailable
}

// unsent reports whether an error says that the request has not left the process.
func unsent(err error) bool {
	return errors.Is(err, nats.ErrReconnectBufExceeded) || errors.Is(err, nats.ErrConnectionClosed) ||
		errors.Is(err, nats.ErrInvalidConnection) || errors.Is(err, nats.ErrMaxPayload)
}

// ask makes a request of JetStream's API, once. The error is an apiError, that of ctx, or one of the
// connection.
func (e *Engine) ask(ctx context.Context, what string, request, answer any) error {
	var data []byte
	if request != nil {
		var err error
		if data, err = json.Marshal(request); err != nil {
			return err
		}
	}
	reply, err := e.send(ctx, &nats.Msg{Subject: "$JS.API." + what, Data: data})
	if err != nil {
		return err
	}
	var failed struct {
		Error *apiError `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &failed); err != nil {
		return fmt.Errorf("the answer to %s: %w", what, err)
	}
	if failed.Error != nil {
		return failed.Error
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(reply.Data, answer)
}

// send sends a request and returns its answer.
func (e *Engine) send(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	if e.closed.Load() {
		return nil, errClosed
	}
	within, cancel := context.WithTimeout(ctx, e.patience())
	defer cancel()
	reply, err := e.Conn.RequestMsgWithContext(within, m)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return reply, err
}

// patience is how long one request waits. What is asked before the servers have a leader is
// never answered, so there has to be time for another one.
func (e *Engine) patience() time.Duration {
	return min(max(e.Timeout/4, 100*time.Millisecond), 3*time.Second)
}

// insist asks until a server has answered, for what may be asked twice. It pauses between. It
// gives up at the end of ctx, and, with ErrUnavailable, after Timeout.
func (e *Engine) insist(ctx context.Context, what string, request, answer any) error {
	return e.repeat(ctx, func(ctx context.Context) error { return e.ask(ctx, what, request, answer) })
}

// Pauses are those between requests that got no answer, doubling from one to the other.
type Pauses struct{ last time.Duration } // 0: there was none

const (
	pauseMin = 10 * time.Millisecond
	pauseMax = 500 * time.Millisecond
)

// Wait waits for the next one. It returns false at the end of ctx.
func (p *Pauses) Wait(ctx context.Context) bool {
	p.last = min(max(2*p.last, pauseMin), pauseMax)
	return sleep(ctx, p.last)
}

// repeat calls do until its error is definite, or nil.
func (e *Engine) repeat(ctx context.Context, do func(context.Context) error) error {
	within, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	var pauses Pauses
	for {
		err := do(within)
		if err == nil || definite(err) || e.Conn.IsClosed() || errors.Is(err, errClosed) {
			return e.because(err)
		}
		if !pauses.Wait(within) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return e.because(err)
		}
	}
}

// because makes an error of the connection an ErrUnavailable.
func (e *Engine) because(err error) error {
	if err == nil || definite(err) || errors.Is(err, errClosed) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, nats.ErrTimeout) {
		return fmt.Errorf("%w within %v (%s)", ErrUnavailable, e.Timeout, e.state())
	}
	return fmt.Errorf("%w: %v (%s)", ErrUnavailable, err, e.state())
}

// state says which server the connection has, if it has one.
func (e *Engine) state() string {
	if e.Conn.IsConnected() {
		return "connected to " + e.Conn.ConnectedUrlRedacted()
	}
	return "the connection is " + strings.ToLower(e.Conn.Status().String())
}

// sleep pauses. It returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
