package engine

import (
	"context"
	"errors"
)

// This file is how a message is taken: whoever deletes it from the stream has it. When the answer
// to that is lost, deleting again says that it is gone, and not who has deleted it; then the
// peers are asked (peers.go).

// deletion is the request of STREAM.MSG.DELETE.
type deletion struct {
	Seq     uint64 `json:"seq"`
	NoErase bool   `json:"no_erase"` // or it is overwritten on the disk
}

// notFound reports whether a deletion has found no message. The code depends on the storage.
func notFound(err error) bool {
	var e *apiError
	if !errors.As(err, &e) {
		return false
	}
	switch e.ErrCode {
	case codeSequenceNotFound, codeNoMessage:
		return true
	case codeDeleteFailed:
		switch e.Description {
		case "no message found", "deleted message", "stream store EOF":
			return true
		}
	}
	return false
}

// Claim takes a message, and reports whether it was there to be taken. If no server answers it goes on until
// ctx ends, and then returns ErrUncertain if it may have taken the message: ClaimAgain finds out.
func (e *Engine) Claim(ctx context.Context, id int, m *Message) (bool, error) {
	if e.leasing.acker.awaitDeletion(ctx, id, m) {
		return false, ctx.Err() // it is dealt with
	}
	return e.claim(ctx, id, m, false)
}

// ClaimAgain goes on with a claim that was uncertain.
func (e *Engine) ClaimAgain(ctx context.Context, id int, m *Message) (bool, error) {
	return e.claim(ctx, id, m, true)
}

func (e *Engine) claim(ctx context.Context, id int, m *Message, uncertain bool) (mine bool, err error) {
	c := e.peers.begin(id, m)
	defer func() { e.peers.finish(c, mine) }()
	var pauses Pauses
	for {
		err := e.ask(ctx, "STREAM.MSG.DELETE."+e.layout.stream(id), deletion{m.Seq, true}, nil)
		switch {
		case err == nil:
			e.taken(id, m)
			return true, nil
		case hasCode(err, codeNoStream):
			return false, ErrRemoved
		case notFound(err) && !uncertain:
			return false, nil
		case notFound(err):
			mine, err := e.resolve(ctx, c)
			if err == nil && mine {
				e.taken(id, m)
			}
			return mine, err
		case unsent(err):
		case errors.Is(err, errClosed) && uncertain:
			return false, ErrUncertain
		case definite(err), errors.Is(err, errClosed):
			return false, err
		default:
			uncertain = true
		}
		if ctx.Err() != nil || !pauses.Wait(ctx) {
			if uncertain {
				return false, ErrUncertain
			}
			return false, ctx.Err()
		}
	}
}

// resolve finds out who has taken a message that is gone.
func (e *Engine) resolve(ctx context.Context, c *claim) (mine bool, err error) {
	e.peers.lost(c)
	mine, err = e.peers.isMine(ctx, c)
	if err != nil {
		return false, ErrUncertain
	}
	return mine, nil
}

// taken is what follows when a message was taken.
func (e *Engine) taken(id int, m *Message) {
	e.tookLast(id, m)
	e.room(id)
}

// room says that there is room in the queue. Nobody may be waiting for it.
func (e *Engine) room(id int) {
	_ = e.Conn.Publish(e.layout.room(id), nil) // those who wait look from time to time
}
