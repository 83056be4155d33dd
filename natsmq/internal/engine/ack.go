package engine

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// This file is how messages are deleted that were acknowledged: in the background, many at a time,
// each again until a server has answered. To delete again is no harm: that the message is gone is
// what was wanted. Where many wait, those at the beginning of a queue go together (front.go).

// acker deletes them.
type acker struct {
	e       *Engine
	sub     *nats.Subscription
	replies string // what the reply subjects begin with

	mu      sync.Mutex
	waiting []*Lease             // not sent yet; guarded by mu
	sent    map[uint64]*deleting // by the end of the reply subject; guarded by mu
	last    uint64               // the last of these; guarded by mu
	left    int                  // messages in both; guarded by mu
	pending map[taken]struct{}   // these; guarded by mu
	fronts  map[int]*front       // of queues; guarded by mu
	room    map[int]struct{}     // queues that have more room than anybody was told; guarded by mu
	closed  bool                 // guarded by mu

	kick chan struct{}
	done chan struct{} // closed by end
}

// deleting is a request under way, of one of three kinds.
type deleting struct {
	from   *origin
	lease  *Lease   // to delete it
	run    []*Lease // to purge these, which are all that is before purge
	purge  uint64
	asking bool // what the first sequence is

	again time.Time // when to send it again
}

const (
	// mostDeleting is how many requests are under way at most. A server drops all that it has,
	// those of others too, where they are 10,000.
	mostDeleting = 1000
	// mostUnacked is how many messages wait for it before no more are leased in advance.
	mostUnacked = 4 * mostDeleting
	// deleteAgain is the pause where a server could not.
	deleteAgain = 100 * time.Millisecond
)

func (a *acker) init(e *Engine) error {
	a.e = e
	a.pending = make(map[taken]struct{})
	a.sent, a.fronts, a.room = make(map[uint64]*deleting), make(map[int]*front), make(map[int]struct{})
	a.kick, a.done = make(chan struct{}, 1), make(chan struct{})
	inbox := e.Conn.NewInbox()
	a.replies = inbox + "."
	sub, err := e.Conn.Subscribe(inbox+".*", a.answered)
	if err != nil {
		return err
	}
	a.sub = sub
	e.running.Go(a.run)
	return nil
}

// end gives up what is not done by the end of ctx.
func (a *acker) end(ctx context.Context) {
	for ctx.Err() == nil && a.unacked() > 0 {
		_ = sleep(ctx, time.Millisecond) // handles that are closed have waited, so it is rare
	}
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	close(a.done)
	a.releaseBehind()
	_ = a.sub.Unsubscribe() // the connection may be closed
}

// unacked returns how many messages wait to be deleted.
func (a *acker) unacked() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.left
}

// add has a message deleted.
func (a *acker) add(l *Lease) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return errClosed
	}
	l.from.leases.unacked++
	a.left++
	a.pending[taken{l.from.queue, l.Seq}] = struct{}{}
	a.waiting = append(a.waiting, l)
	a.wake()
	return nil
}

// awaitDeletion waits until the message is gone, if it was acknowledged. It reports whether it was.
func (a *acker) awaitDeletion(ctx context.Context, queue int, m *Message) bool {
	for waited := false; ; waited = true {
		a.mu.Lock()
		_, pending := a.pending[taken{queue, m.Seq}]
		a.mu.Unlock()
		if !pending || !sleep(ctx, time.Millisecond) {
			return pending || waited
		}
	}
}

func (a *acker) wake() {
	select {
	case a.kick <- struct{}{}:
	default: // it will
	}
}

// flush waits until the messages that leases had acknowledged are gone, or ctx ends.
func (a *acker) flush(ctx context.Context, leases *Leases) {
	a.mu.Lock()
	if leases.unacked == 0 || a.closed {
		a.mu.Unlock()
		return
	}
	if leases.flushed == nil {
		leases.flushed = make(chan struct{})
	}
	flushed := leases.flushed
	a.mu.Unlock()
	select {
	case <-flushed:
	case <-ctx.Done():
	}
}

// again sends all again that has no answer.
func (a *acker) again() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, d := range a.sent {
		d.again = time.Time{}
	}
	for _, f := range a.fronts {
		f.known = time.Time{} // it may be another server, with files that are older
	}
	a.wake()
}

// run sends the requests.
func (a *acker) run() {
	timer := time.NewTimer(deleteAgain)
	defer timer.Stop()
	ticks := true // the timer runs
	for {
		late := false
		select {
		case <-a.kick:
		case <-timer.C:
			late, ticks = true, false
		case <-a.done:
			return
		}
		for a.send(late) {
		}
		a.tellRoom()
		a.releaseBehind()
		if !ticks && a.unacked() > 0 {
			timer.Reset(deleteAgain)
			ticks = true
		}
	}
}

// request is one to be sent.
type request struct {
	what, stream string
	reply        string
	body         []byte
}

// send sends some requests, those that have no answer too if they are late. It returns whether there may be more.
func (a *acker) send(late bool) bool {
	const some = 64
	list := make([]request, 0, some)
	a.mu.Lock()
	now := time.Now()
	if late {
		for token, d := range a.sent {
			if len(list) < some && now.After(d.again) {
				f := a.front(d.from.queue)
				// Other queues must not wait for one that nobody answers for.
				f.pause(now, time.Second)
				if d.lease == nil {
					// What it knows may be of a server that is no more.
					delete(a.sent, token)
					f.asking, f.purging = false, false
					a.waiting = append(d.run, a.waiting...)
					continue
				}
				d.again = now.Add(a.e.patience())
				list = append(list, a.request(token, d))
			}
		}
	}
	for len(list) < some && len(a.waiting) > 0 {
		d := a.nextDeletion(now)
		if d == nil {
			break
		}
		d.again = now.Add(a.e.patience())
		a.last++
		a.sent[a.last] = d
		list = append(list, a.request(a.last, d))
	}
	a.mu.Unlock()
	for _, r := range list {
		_ = a.e.Conn.PublishRequest(r.what+r.stream, r.reply, r.body) // it is sent again
	}
	return len(list) == some
}

func (a *acker) request(token uint64, d *deleting) request {
	r := request{"$JS.API.STREAM.MSG.DELETE.", d.from.stream, a.replies + strconv.FormatUint(token, 36), nil}
	switch {
	case d.asking:
		r.what = "$JS.API.STREAM.INFO."
	case d.run != nil:
		r.what = "$JS.API.STREAM.PURGE."
		r.body = fmt.Appendf(nil, `{"seq":%d}`, d.purge)
	default:
		r.body = append(make([]byte, 0, 48), `{"seq":`...)
		r.body = strconv.AppendUint(r.body, d.lease.Seq, 10)
		r.body = append(r.body, `,"no_erase":true}`...)
	}
	return r
}

// answered is called with what a server answers.
func (a *acker) answered(m *nats.Msg) {
	token, err := strconv.ParseUint(strings.TrimPrefix(m.Subject, a.replies), 36, 64)
	if err != nil {
		return
	}
	a.mu.Lock()
	d := a.sent[token]
	if d == nil {
		a.mu.Unlock()
		return // it was sent twice
	}
	if d.asking {
		delete(a.sent, token)
		a.front(d.from.queue).told(m)
		a.wake()
		a.mu.Unlock()
		return
	}
	gone, over := decideDeletion(m)
	if !over {
		a.front(d.from.queue).known = time.Time{}
		d.again = time.Now().Add(deleteAgain)
		a.mu.Unlock()
		return
	}
	delete(a.sent, token)
	done := d.run
	if d.lease != nil {
		done = []*Lease{d.lease}
	} else {
		f := a.front(d.from.queue)
		f.purging = false
		if !gone { // a server that lets nobody purge
			f.pause(time.Now(), time.Hour)
			a.waiting = append(d.run, a.waiting...)
			done = nil
		}
	}
	a.finished(done)
	if gone {
		a.room[d.from.queue] = struct{}{}
	}
	a.wake()
	a.mu.Unlock()
	for _, l := range done {
		a.e.leasing.keeper.remove(l)
	}
}

// finished counts messages that are dealt with. It needs mu.
func (a *acker) finished(done []*Lease) {
	a.left -= len(done)
	for _, l := range done {
		delete(a.pending, taken{l.from.queue, l.Seq})
		leases := l.from.leases
		if leases.unacked--; leases.unacked == 0 && leases.flushed != nil {
			close(leases.flushed)
			leases.flushed = nil
		}
	}
}

// decideDeletion says what an answer means: whether the message is gone, and whether that is the last word.
func decideDeletion(m *nats.Msg) (gone, over bool) {
	if bytes.Contains(m.Data, []byte(`"success":true`)) {
		return true, true
	}
	var answer struct {
		Error *apiError `json:"error"`
	}
	if json.Unmarshal(m.Data, &answer) != nil || answer.Error == nil {
		return false, false // nobody is there to answer: no server, or no leader
	}
	err := answer.Error
	if notFound(err) || hasCode(err, codeNoStream) {
		return true, true
	}
	return false, definite(err)
}

// tellRoom says that there is room in the queues that messages were deleted from.
func (a *acker) tellRoom() {
	a.mu.Lock()
	var queues []int
	for id := range a.room {
		queues = append(queues, id)
	}
	clear(a.room)
	a.mu.Unlock()
	for _, id := range queues {
		a.e.room(id)
	}
}
