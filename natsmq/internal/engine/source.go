package engine

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// source leases the messages of one selector (not UpTo) for one handle, some of them before
// anybody asks: as many as were wanted of late, so that a trip is for many where they are
// wanted fast, and nobody hoards what others could deal with. When nobody has asked for a while
// it gives back what it has and pulls no more.
//
// It makes the pull requests itself. Those of package jetstream have one size for good (Messages),
// or drop what is under way when they are canceled (Fetch), which then comes after AckWait; none has a
// limit of bytes together with one of messages that changes from one to the next.
type source struct {
	leases *Leases
	e      *Engine
	key    consumerKey
	next   string // the subject of pull requests
	from   *origin

	kick    chan struct{} // run has to look
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu      sync.Mutex
	ready   []*Lease      // leased, and nobody's yet; guarded by mu
	bytes   int           // of their texts; guarded by mu
	waiting []*wanting    // who has waited longest first; guarded by mu
	pull    *pull         // nil: it does not pull; guarded by mu
	ending  *pull         // messages of it may come still; nil: there is none; guarded by mu
	lost    bool          // the consumer may not be there, or the pull requests; guarded by mu
	large   bool          // a message is larger than a pull request's limit; guarded by mu
	err     error         // no message will come any more; guarded by mu
	gone    bool          // what comes all the same goes back; guarded by mu
	used    time.Time     // when anybody last asked; guarded by mu
	taken   int           // since the time below; guarded by mu
	since   time.Time     // guarded by mu
	size    int           // how many were wanted in a window; guarded by mu
	drained chan struct{} // closed when all that was pulled is here; nil: nothing was; guarded by mu
}

// pull is a subscription that messages come to.
type pull struct {
	sub     *nats.Subscription
	inbox   string
	drained chan struct{} // closed when no more messages come

	// Guarded by source.mu.
	asked int       // how many messages may still come
	heard time.Time // when the server last said anything
}

// wanting is somebody who waits.
type wanting struct{ signal chan struct{} } // has room for one

const (
	// window is the time whose consumption is held in advance.
	window = 20 * time.Millisecond
	// mostReady is how many messages that are at most.
	mostReady = 256
	// mostReadyBytes is how many bytes it asks for at most, if it asks for more than one.
	mostReadyBytes = 1 << 20
	// giveBackAfter is when what nobody has asked for goes back.
	giveBackAfter = 3 * time.Second
	// stopAfter is when pull requests end that nobody waits for, and have brought nothing.
	stopAfter = 100 * time.Millisecond
	// expiry is when a pull request ends.
	expiry = 30 * time.Second
	// lookAgain is the pause where too much waits to be acknowledged, or no server answers.
	lookAgain = time.Millisecond
)

// heartbeat is how often a server says that it has a pull request still. Where it is missed
// twice, the request is made again: within the time that a lost wake-up may go unnoticed.
func (s *source) heartbeat() time.Duration {
	return min(max(s.e.Look/2, 50*time.Millisecond), expiry/2)
}

// newSource needs Leases.mu.
func newSource(l *Leases, k consumerKey) *source {
	s := &source{leases: l, e: l.e, key: k, next: l.e.nextOf(k), from: l.origin(k), kick: make(chan struct{}, 1), lost: true}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.running.Go(s.run)
	return s
}

// try returns what is here, as Leases.Try.
func (s *source) try(room int) (*Lease, int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.take(room)
}

// take needs mu.
func (s *source) take(room int) (*Lease, int, error) {
	if s.err != nil {
		return nil, 0, s.err
	}
	s.used = time.Now()
	s.dropTaken()
	if len(s.ready) == 0 {
		return nil, 0, ErrNone
	}
	l := s.ready[0]
	size := len(l.Text)
	if size > room {
		return nil, size, ErrTooLarge
	}
	s.ready[0] = nil
	s.ready = s.ready[1:]
	s.bytes -= size
	s.taken++
	if s.size > 1 && len(s.ready)+s.asked() <= s.size/2 {
		s.look()
	}
	return l, size, nil
}

// dropTaken ends the first leases whose messages this process has taken otherwise since they came, by a receive
// without a lease. It needs mu.
func (s *source) dropTaken() {
	for len(s.ready) > 0 && s.e.peers.hasTaken(taken{s.key.queue, s.ready[0].Seq}) {
		l := s.ready[0]
		s.ready[0] = nil
		s.ready = s.ready[1:]
		s.bytes -= len(l.Text)
		_ = l.Ack() // at worst it comes after AckWait
	}
}

// asked needs mu.
func (s *source) asked() int {
	if s.pull == nil {
		return 0
	}
	return s.pull.asked
}

// look makes run look.
func (s *source) look() {
	select {
	case s.kick <- struct{}{}:
	default: // it will
	}
}

// wait is try, but waits until ctx ends.
func (s *source) wait(ctx context.Context, room int) (*Lease, int, error) {
	w := &wanting{make(chan struct{}, 1)}
	for {
		s.mu.Lock()
		l, size, err := s.take(room)
		if err != ErrNone {
			s.mu.Unlock()
			return l, size, err
		}
		s.waiting = append(s.waiting, w)
		s.look()
		s.mu.Unlock()
		select {
		case <-w.signal:
		case <-ctx.Done():
			s.leave(w)
			return nil, 0, ctx.Err()
		}
	}
}

// leave is for those who wait no more.
func (s *source) leave(w *wanting) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used = time.Now()
	if i := slices.Index(s.waiting, w); i >= 0 {
		s.waiting = slices.Delete(s.waiting, i, i+1)
		return
	}
	if len(s.ready) > 0 {
		s.signal() // it was for a message that somebody else can have
	}
}

// signal wakes the one who has waited longest. It needs mu.
func (s *source) signal() {
	if len(s.waiting) > 0 {
		s.waiting[0].signal <- struct{}{}
		s.waiting = s.waiting[1:]
	}
}

// fail ends all waiting. It needs mu.
func (s *source) fail(err error) {
	s.err = err
	for len(s.waiting) > 0 {
		s.signal()
	}
}

// run makes the pull requests.
func (s *source) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if pause := s.step(); pause > 0 {
			timer.Reset(pause)
		} else {
			timer.Stop()
		}
		select {
		case <-timer.C:
		case <-s.kick:
		case <-s.ctx.Done():
			return
		}
	}
}

// step does what is to be done, and returns when to look again; 0: when anybody asks.
func (s *source) step() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if s.err != nil {
		return 0
	}
	if p := s.pull; p != nil && p.asked > 0 && now.Sub(p.heard) > 2*s.heartbeat() {
		p.asked, s.lost = 0, true
	}
	if s.ending != nil {
		return 0 // what is on its way comes before what would be asked for; over tells when it has
	}
	if len(s.waiting) == 0 && now.Sub(s.used) > giveBackAfter {
		if s.pull == nil {
			s.giveBack()
		}
		s.stop() // and then it gives back what has come by then
		return 0
	}
	if len(s.waiting) == 0 && len(s.ready) == 0 && s.asked() > 0 {
		if now.Sub(s.used) < stopAfter {
			return stopAfter
		}
		s.stop()
		return 0
	}
	n := s.wanted(now)
	if n > 0 && s.lost {
		if pause := s.ensure(); pause > 0 {
			return pause
		}
		n = s.wanted(now) // others have asked meanwhile
	}
	if n > 0 && s.e.leasing.returns.unheard(s.from) != nil {
		return 0 // it tells when the consumer has heard
	}
	if n > 0 {
		if s.e.leasing.acker.unacked() > mostUnacked {
			return lookAgain
		}
		if err := s.ask(n, now); err != nil {
			return pauseMax // it is told when the connection is there again
		}
	}
	if len(s.waiting) == 0 && len(s.ready) == 0 {
		return stopAfter
	}
	return s.heartbeat()
}

// wanted returns how many messages to ask for. It needs mu.
func (s *source) wanted(now time.Time) int {
	switch passed := now.Sub(s.since); {
	case passed >= window:
		s.size = min(int(int64(s.taken)*int64(window)/int64(passed)), mostReady)
		s.taken, s.since = 0, now
	default:
		s.size = min(max(s.size, s.taken), mostReady)
	}
	have := len(s.ready) + s.asked()
	want := len(s.waiting)
	if s.size > 1 && have <= s.size/2 && s.bytes < mostReadyBytes {
		want = max(want, s.size)
	}
	return want - have
}

// ensure creates the consumer, and returns when to try again; 0: it is there. It needs mu, and gives it up
// meanwhile.
func (s *source) ensure() time.Duration {
	s.lost = false
	s.mu.Unlock()
	err := s.e.ensureConsumer(s.ctx, s.key)
	s.mu.Lock()
	switch {
	case err == nil:
		return 0
	case errors.Is(err, ErrRemoved):
		s.remove()
		return giveBackAfter
	}
	s.lost = true
	return pauseMax
}

// remove is what happens when the queue is removed. It needs mu.
func (s *source) remove() {
	for _, l := range s.ready {
		s.e.leasing.keeper.remove(l)
	}
	s.ready, s.bytes = nil, 0
	s.stop()
	s.fail(ErrRemoved)
}

// ask makes a pull request. It needs mu.
func (s *source) ask(n int, now time.Time) error {
	if s.pull == nil {
		if err := s.subscribe(); err != nil {
			return err
		}
	}
	request := struct {
		Batch     int           `json:"batch"`
		Bytes     int           `json:"max_bytes,omitempty"`
		Expires   time.Duration `json:"expires"`
		Heartbeat time.Duration `json:"idle_heartbeat"`
	}{n, max(mostReadyBytes, 2*(s.e.Limits.MaxMessage+HeaderRoom)), expiry, s.heartbeat()}
	if s.large {
		request.Batch, request.Bytes = 1, 0
		s.large = false
	}
	data, err := json.Marshal(request)
	if err != nil {
		return err
	}
	if err := s.e.Conn.PublishRequest(s.next, s.pull.inbox, data); err != nil {
		return err
	}
	if s.pull.asked == 0 {
		s.pull.heard = now
	}
	s.pull.asked += request.Batch
	return nil
}

// subscribe needs mu.
func (s *source) subscribe() error {
	p := &pull{inbox: s.e.Conn.NewInbox(), drained: make(chan struct{})}
	sub, err := s.e.Conn.Subscribe(p.inbox, func(m *nats.Msg) { s.hear(p, m) })
	if err != nil {
		return err
	}
	sub.SetClosedHandler(func(string) { s.over(p) })
	// What comes is what it has asked for.
	if err := sub.SetPendingLimits(-1, -1); err != nil {
		return err
	}
	p.sub, s.pull, s.drained = sub, p, p.drained
	return nil
}

// hear is called with what comes to a pull's inbox.
func (s *source) hear(p *pull, m *nats.Msg) {
	if status := m.Header.Get("Status"); len(m.Data) == 0 && status != "" && m.Reply == "" {
		s.heard(p, status, m.Header)
		return
	}
	l, err := s.e.newLease(s.from, m)
	if err != nil {
		return // it is of no queue
	}
	s.mu.Lock()
	p.heard = time.Now()
	p.asked = max(p.asked-1, 0)
	if s.err != nil && (s.gone || s.err != errClosed) {
		s.mu.Unlock()
		l.Release()
		return
	}
	// Also what an ending pull has brought: it is leased, and before what the next one will bring.
	s.ready = append(s.ready, l)
	s.bytes += len(l.Text)
	s.signal()
	s.mu.Unlock()
}

// heard is called with what a server says of a pull request.
func (s *source) heard(p *pull, status string, h nats.Header) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.heard = time.Now()
	if status == "100" {
		return // the heartbeat
	}
	// The request has ended, of which so many messages will not come.
	pending, err := strconv.Atoi(h.Get("Nats-Pending-Messages"))
	if err != nil {
		// It does not say: the consumer is gone, or has another leader, or there is none.
		pending, s.lost = p.asked, true
	}
	if h.Get("Description") == "Message Size Exceeds MaxBytes" && len(s.ready) == 0 {
		s.large = true
	}
	p.asked = max(p.asked-pending, 0)
	s.look()
}

// giveBack leaves to others what nobody has asked for. It needs mu.
func (s *source) giveBack() {
	giveBack(s.ready...)
	s.ready, s.bytes = nil, 0
	s.size, s.taken = 0, 0
}

// stop ends the pull requests. What was sent already comes, and then over is called. It needs mu.
func (s *source) stop() {
	if s.pull == nil {
		return
	}
	s.ending, s.pull = s.pull, nil
	if err := s.ending.sub.Drain(); err != nil {
		_ = s.ending.sub.Unsubscribe() // the connection is closed
	}
}

// over is called when no more messages of a pull come.
func (s *source) over(p *pull) {
	close(p.drained)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending != p {
		return
	}
	s.ending = nil
	if s.err == nil {
		s.e.leasing.returns.sync(s.from)
	}
	s.look()
}

// reconnected says that the pull requests may be lost.
func (s *source) reconnected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lost = true
	if s.pull != nil {
		s.pull.asked = 0
	}
	s.ending = nil // what was on its way is lost, and comes again after AckWait
	if s.e.Conn.IsClosed() {
		s.fail(s.e.because(nats.ErrConnectionClosed)) // it is never made again
	}
	s.look()
}

// end ends the source. finish follows.
func (s *source) end() {
	s.cancel()
	s.running.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stop()
	s.fail(errClosed)
}

// finish gives back what is left when all that was pulled has come, or ctx has ended: before, what is
// given back could come to the pull that is ending.
func (s *source) finish(ctx context.Context) {
	s.mu.Lock()
	drained := s.drained
	s.mu.Unlock()
	if drained != nil {
		select {
		case <-drained:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	s.gone = true
	s.giveBack()
	s.mu.Unlock()
	// Or whoever asks next could get what is behind that.
	if unheard := s.e.leasing.returns.unheard(s.from); unheard != nil {
		select {
		case <-unheard:
		case <-ctx.Done():
		}
	}
}
