package simq

import (
	"math"
	"slices"
	"sync"

	"github.com/chanmq/chanmq/internal/sysv"
)

// Remote is a process that reaches the machine over a network: a [sysv.Leaser]. Each call
// that cannot be answered here is a trip, and is counted. Its receives tell the size of a
// message that does not fit.
type Remote struct {
	*Process
	link  *link
	ahead *ahead // of a handle; nil: it is none
}

var _ sysv.Leaser = (*Remote)(nil)

// Remote starts a process of a user and a group elsewhere. A receive with a lease takes up
// to ahead messages besides, for the next ones.
func (k *Kernel) Remote(uid, gid uint32, ahead int) *Remote {
	return &Remote{Process: k.Process(uid, gid), link: &link{ahead: ahead}}
}

// link is a process's way to the machine.
type link struct {
	ahead int

	mu     sync.Mutex
	trips  Trips         // guarded by mu
	away   chan struct{} // closed when the machine is back; nil: it is there; guarded by mu
	why    error         // of calls while it is away; guarded by mu
	unsure error         // of sends whose answer is lost; nil: none is; guarded by mu
	open   int           // handles that are not released; guarded by mu
}

// Trips are numbers of calls that went to the machine.
type Trips struct {
	Kernel int // of methods of the Kernel, which nothing interrupts
	Thread int // of Threads
}

// Trips returns the number of trips since the last call.
func (r *Remote) Trips() Trips {
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	t := r.link.trips
	r.link.trips = Trips{}
	return t
}

// OpenHandles returns how many Kernels of Handle were not released.
func (r *Remote) OpenHandles() int {
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	return r.link.open
}

// GoAway takes the machine away: calls that begin return the error, and those of Threads
// wait.
func (r *Remote) GoAway(err error) {
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	r.link.away, r.link.why = make(chan struct{}), err
}

// ComeBack ends GoAway.
func (r *Remote) ComeBack() {
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	close(r.link.away)
	r.link.away = nil
}

// LoseAnswers makes sends of Threads wait for an answer that never comes, when they have
// sent. They return the error once they are interrupted. nil: answers come again.
func (r *Remote) LoseAnswers(err error) {
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	r.link.unsure = err
}

// begin counts a trip, or returns why none can be made.
func (l *link) begin(count *int) (away <-chan struct{}, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away != nil {
		return l.away, l.why
	}
	*count++
	return nil, nil
}

func (l *link) answer() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unsure
}

// trip begins a call of the Kernel.
func (r *Remote) trip() error {
	_, err := r.link.begin(&r.link.trips.Kernel)
	return err
}

// Get implements [sysv.Kernel].
func (r *Remote) Get(key int32, flags int) (int, error) {
	if err := r.trip(); err != nil {
		return -1, err
	}
	return r.Process.Get(key, flags)
}

// Send implements [sysv.Kernel].
func (r *Remote) Send(id int, msg []byte) error {
	if err := r.trip(); err != nil {
		return err
	}
	return r.Process.Send(id, msg)
}

// Receive implements [sysv.Kernel].
func (r *Remote) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	if err := r.trip(); err != nil {
		return 0, err
	}
	m, err := r.receive(id, buf, msgtyp, flags)
	return m.result(buf, err)
}

// result is that of a receive, and has the size of a message that does not fit.
func (m message) result(buf []byte, err error) (int, error) {
	switch err {
	case nil:
		return m.fill(buf), nil
	case sysv.E2BIG:
		return len(m.text), err
	}
	return 0, err
}

// Stat implements [sysv.Kernel].
func (r *Remote) Stat(id int) (sysv.Stat, error) {
	if err := r.trip(); err != nil {
		return sysv.Stat{}, err
	}
	return r.Process.Stat(id)
}

// Set implements [sysv.Kernel].
func (r *Remote) Set(id int, a sysv.Attr) error {
	if err := r.trip(); err != nil {
		return err
	}
	return r.Process.Set(id, a)
}

// Remove implements [sysv.Kernel].
func (r *Remote) Remove(id int) error {
	if err := r.trip(); err != nil {
		return err
	}
	return r.Process.Remove(id)
}

// List implements [sysv.Kernel].
func (r *Remote) List() ([]sysv.Stat, error) {
	if err := r.trip(); err != nil {
		return nil, err
	}
	return r.Process.List()
}

// Limits implements [sysv.Kernel].
func (r *Remote) Limits() (sysv.Limits, error) {
	if err := r.trip(); err != nil {
		return sysv.Limits{}, err
	}
	return r.Process.Limits()
}

// SameMachine is what [sysv.SameMachine] asks.
func (r *Remote) SameMachine(other sysv.Kernel) bool {
	o, ok := other.(*Remote)
	return ok && o.k == r.k
}

// Traits implements [sysv.Kernel].
func (r *Remote) Traits() sysv.Traits {
	const it = "of the simulation"
	return sysv.Traits{Remote: true, LimitNames: sysv.LimitNames{MaxMessage: it, MaxQueues: it, Fullness: it}}
}

// Handle implements [sysv.Kernel].
func (r *Remote) Handle() sysv.Kernel {
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	r.link.open++
	return &Remote{Process: r.Process, link: r.link, ahead: new(ahead)}
}

// Release implements [sysv.Kernel].
func (r *Remote) Release() {
	for _, m := range r.ahead.close() {
		m.lease.Release()
	}
	r.link.mu.Lock()
	defer r.link.mu.Unlock()
	r.link.open--
}

// ReceiveLeased implements [sysv.Leaser].
func (r *Remote) ReceiveLeased(id int, buf []byte, msgtyp, flags int) (int, sysv.Lease, error) {
	m, err := r.ahead.take(wanted{id, selectorOf(msgtyp, flags)}, textSize(buf))
	return m.leasedResult(buf, err)
}

// TryLeased implements [sysv.Leaser].
func (r *Remote) TryLeased(id int, buf []byte, msgtyp, flags int) (int, sysv.Lease, error) {
	n, l, err := r.ReceiveLeased(id, buf, msgtyp, flags)
	if err != sysv.ENOMSG {
		return n, l, err
	}
	if err := r.trip(); err != nil {
		return 0, nil, err
	}
	r.k.mu.Lock()
	defer r.k.mu.Unlock()
	q, err := r.k.lookup(id)
	if err != nil {
		return 0, nil, err
	}
	m, err := q.take(selectorOf(msgtyp, flags), textSize(buf), r.Process, true)
	return m.leasedResult(buf, err)
}

func (m message) leasedResult(buf []byte, err error) (int, sysv.Lease, error) {
	n, err := m.result(buf, err)
	if err != nil {
		return n, nil, err
	}
	return n, m.lease, nil
}

// wanted is what receives of a handle want.
type wanted struct {
	id  int
	sel selector
}

// ahead has the messages that a handle has leased, and not given out.
type ahead struct {
	mu     sync.Mutex
	closed bool                 // guarded by mu
	leased map[wanted][]message // guarded by mu
}

func (a *ahead) take(w wanted, room int) (message, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := a.leased[w]
	if len(all) == 0 {
		return message{}, sysv.ENOMSG
	}
	if len(all[0].text) > room {
		return all[0], sysv.E2BIG
	}
	a.leased[w] = all[1:]
	return all[0], nil
}

// fill leases up to n messages more.
func (a *ahead) fill(p *Process, w wanted, n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p.k.mu.Lock()
	defer p.k.mu.Unlock()
	if a.closed {
		return
	}
	if a.leased == nil {
		a.leased = make(map[wanted][]message)
	}
	q, err := p.k.lookup(w.id)
	for err == nil && len(a.leased[w]) < n {
		var m message
		if m, err = q.take(w.sel, math.MaxInt, p, true); err == nil {
			a.leased[w] = append(a.leased[w], m)
		}
	}
}

// close takes all that is left, in order. It panics the second time.
func (a *ahead) close() (all []message) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		panic("simq: Release twice")
	}
	a.closed = true
	for _, list := range a.leased {
		all = slices.Concat(all, list)
	}
	a.leased = nil // a receive may come late
	return all
}

// NewThread implements [sysv.Kernel].
func (r *Remote) NewThread() sysv.Thread {
	return &remoteThread{thread: r.Process.NewThread().(*thread), r: r}
}

// remoteThread implements sysv.LeasingThread.
type remoteThread struct {
	*thread
	r *Remote

	mu   sync.Mutex
	stop chan struct{} // of a wait for the machine, closed by Interrupt; nil: there is none; guarded by mu
}

var _ sysv.LeasingThread = (*remoteThread)(nil)

func (t *remoteThread) Interrupt() {
	t.mu.Lock()
	stop := t.stop
	t.stop = nil
	t.mu.Unlock()
	if stop != nil {
		close(stop)
		return
	}
	t.thread.Interrupt()
}

// await waits for a channel. It reports false if it was interrupted before.
func (t *remoteThread) await(c <-chan struct{}) bool {
	stop := make(chan struct{})
	t.mu.Lock()
	t.stop = stop
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.stop = nil
	}()
	select {
	case <-c:
		return true
	case <-stop:
		return false
	}
}

// trip begins a call, when the machine is there.
func (t *remoteThread) trip() error {
	for {
		away, _ := t.r.link.begin(&t.r.link.trips.Thread)
		if away == nil {
			return nil
		}
		if !t.await(away) {
			return sysv.EINTR
		}
	}
}

func (t *remoteThread) Send(id int, msg []byte) error {
	if err := t.trip(); err != nil {
		return err
	}
	if t.neverFits(id, msg) {
		return sysv.EINVAL
	}
	if err := t.thread.Send(id, msg); err != nil {
		return err
	}
	if err := t.r.link.answer(); err != nil {
		t.await(nil)
		return err
	}
	return nil
}

// neverFits reports whether the message is larger than the queue may ever hold.
func (t *remoteThread) neverFits(id int, msg []byte) bool {
	t.p.k.mu.Lock()
	defer t.p.k.mu.Unlock()
	q, err := t.p.k.lookup(id)
	return err == nil && uint64(textSize(msg)) > q.MaxBytes
}

func (t *remoteThread) Receive(id int, buf []byte, msgtyp, flags int) (int, error) {
	if err := t.trip(); err != nil {
		return 0, err
	}
	m, err := t.receive(id, buf, msgtyp, flags, false)
	return m.result(buf, err)
}

func (t *remoteThread) ReceiveLeased(id int, buf []byte, msgtyp, flags int) (int, sysv.Lease, error) {
	n, l, err := t.r.ReceiveLeased(id, buf, msgtyp, flags)
	if err != sysv.ENOMSG {
		return n, l, err
	}
	if err := t.trip(); err != nil {
		return 0, nil, err
	}
	m, err := t.receive(id, buf, msgtyp, flags, true)
	if err == nil {
		t.r.ahead.fill(t.p, wanted{id, selectorOf(msgtyp, flags)}, t.r.link.ahead)
	}
	return m.leasedResult(buf, err)
}
