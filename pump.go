package chanmq

import (
	"context"
	"errors"
	"sync"
)

// pump is the life of a goroutine between the queue and a Go channel, which
// Receivers and Senders share: it is started, runs until something ends it, and
// then says why.
type pump struct {
	core *queue
	op   string // what its errors are about: "receive" or "send"

	// ctx is the program's. running ends when the pump must stop at once.
	ctx, running context.Context
	cancel       context.CancelFunc // ends running

	done chan struct{} // closed when the goroutine has ended

	mu     sync.Mutex
	reason stopReason // the first one; guarded by mu
	why    error      // what Err returns; set before done is closed; guarded by mu
}

// errCodecExit is why a pump ended whose codec, or another function of the program's,
// called runtime.Goexit.
var errCodecExit = errors.New("the codec, or the function of WithDecodeError, WithMaxAttempts or WithObserver, ended the goroutine (runtime.Goexit)")

// init prepares a pump of the program's ctx, which runs until running ends.
func (p *pump) init(core *queue, op string, ctx, running context.Context) {
	p.core, p.op, p.ctx = core, op, ctx
	p.running, p.cancel = context.WithCancel(running)
	p.done = make(chan struct{})
}

// Done returns a channel that is closed when the pump has ended: its goroutine is
// gone, and what it held is handed back.
func (p *pump) Done() <-chan struct{} { return p.done }

func (p *pump) hasEnded() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// note says that the pump will end for the reason. The first one counts, and the
// end of ctx before it.
func (p *pump) note(reason stopReason) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason == notStopped && p.ctx.Err() == nil {
		p.reason = reason
	}
}

// stop makes the pump end at once.
func (p *pump) stop(reason stopReason) {
	p.note(reason)
	p.cancel()
}

// Err returns why the pump has ended.
func (p *pump) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.why
}

// end publishes why the pump has ended: the error that its goroutine came back
// with.
func (p *pump) end(err error, size int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.why = p.explain(err, size)
	p.cancel() // releases what ctx knows of this pump
}

// whyEnds returns what Err will return if the goroutine comes back with err.
func (p *pump) whyEnds(err error, size int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.explain(err, size)
}

// explain turns what the goroutine came back with into what Err returns. It needs
// mu.
func (p *pump) explain(err error, size int) error {
	wasCanceled := isCanceled(err)
	switch {
	case err == nil:
		return nil
	case wasCanceled || err == ErrClosed:
		switch p.reason {
		case asked:
			return nil
		case handleClosed:
			err = ErrClosed
		}
	}
	if undecoded, ok := err.(*DecodeError); ok {
		return undecoded // it names the queue itself
	}
	return p.core.callError(p.ctx, p.op, err, size)
}
