package engine

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"github.com/nats-io/nats.go"
)

// This file is how many messages that were acknowledged are deleted at once. To delete one takes a
// server several times as long as to deliver it. But the messages before a sequence can be
// purged, however many they are. That must not hit one that somebody else has or has not got yet: so they
// are purged only if this Engine has acknowledged all of them, from the first one in the stream on.
//
// A purge also makes a server forget which messages were given back to the stream's consumers, those
// behind the purge too (consumer.purge of nats-server 2.14): they come after AckWait, and not at once. So
// what this Engine gives back waits for a purge under way, and there is none until it is gone. What
// others have given back is not known before some of it comes here, which is before messages that are
// new: there is no purge for a while then.

// front is the beginning of a queue. It is guarded by acker.mu.
type front struct {
	first   uint64        // what is before it is gone
	safe    uint64        // what is between is gone, or was acknowledged here
	known   time.Time     // when that was last found; zero: it is not known
	asking  bool          // what the first sequence is
	purging bool          // a purge is under way
	behind  []held        // to be given back when that is over
	back    uint64        // the last sequence that was given back
	hole    time.Time     // since when a message is missing that is before most; zero: none is
	asked   bool          // what the first sequence is, since there is the hole
	later   time.Time     // before that it is of no use
	backoff time.Duration // the last pause until then
}

const (
	// leastPurged is how many messages are worth a purge, which costs a server as much as to
	// delete ten, and waits for the disk.
	leastPurged = 64
	// frontKnown is how long safe is believed without an answer.
	frontKnown = time.Second
	// holeFor is how long others are waited for who have leased a message before.
	holeFor = 2 * time.Millisecond
	// noPurgeAfter is how long there is none after a message came that was delivered before.
	noPurgeAfter = time.Second
	// Pauses after it was found that others have the first message.
	frontPause     = 20 * time.Millisecond
	frontPauseMost = 2 * time.Second
)

// front needs mu.
func (a *acker) front(queue int) *front {
	f := a.fronts[queue]
	if f == nil {
		f = &front{}
		a.fronts[queue] = f
	}
	return f
}

// pause makes it of no use for a while.
func (f *front) pause(now time.Time, least time.Duration) {
	f.backoff = min(max(2*f.backoff, least), max(frontPauseMost, least))
	f.notBefore(now.Add(f.backoff))
	f.known, f.hole, f.asked = time.Time{}, time.Time{}, false
}

func (f *front) notBefore(t time.Time) {
	if f.later.Before(t) {
		f.later = t
	}
}

// held are messages that are given back when a purge is over.
type held struct {
	list []*Lease
	done func() // when the consumer is told
}

// release gives messages back, which are of one consumer, in their order.
func (a *acker) release(list []*Lease) {
	a.mu.Lock()
	f := a.front(list[0].from.queue)
	for _, l := range list {
		f.back = max(f.back, l.Seq)
	}
	wait := f.purging && !a.closed
	if wait {
		f.behind = append(f.behind, held{slices.Clone(list), a.e.leasing.returns.hold(list[0].from)})
	}
	a.mu.Unlock()
	if !wait {
		nak(list)
	}
}

// releaseBehind gives back what has waited for purges that are over, or given up.
func (a *acker) releaseBehind() {
	a.mu.Lock()
	var all []held
	for _, f := range a.fronts {
		if !f.purging || a.closed {
			all = append(all, f.behind...)
			f.behind = nil
		}
	}
	a.mu.Unlock()
	for _, h := range all {
		nak(h.list)
		h.done()
	}
}

// redelivered is called when a message comes that was delivered before.
func (a *acker) redelivered(queue int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.front(queue).notBefore(time.Now().Add(noPurgeAfter))
}

// told is called with the answer to asking.
func (f *front) told(m *nats.Msg) {
	f.asking = false
	var info struct {
		Error  *apiError `json:"error"`
		Config struct {
			Storage string `json:"storage"`
		} `json:"config"`
		State struct {
			First uint64 `json:"first_seq"`
		} `json:"state"`
	}
	now := time.Now()
	switch err := json.Unmarshal(m.Data, &info); {
	case err != nil || info.Error != nil:
		f.pause(now, frontPause)
	case info.Config.Storage != "file":
		f.pause(now, time.Hour) // a stream in memory may begin anew, with sequences that were used before
	default:
		f.first, f.safe, f.known = info.State.First, info.State.First, now
	}
}

// nextDeletion returns the next request, nil if there is none to be made now. Some wait. It
// needs mu.
func (a *acker) nextDeletion(now time.Time) *deleting {
	first := a.waiting[0]
	f := a.front(first.from.queue)
	useful := now.After(f.later)
	switch {
	case useful && (f.asking || f.purging):
		return nil // more come together
	case useful && len(a.waiting) >= leastPurged:
		d, wait := a.nextPurge(f, first.from, now)
		if d != nil || wait {
			return d
		}
		first = a.waiting[0] // they are sorted now
	case useful && len(a.sent) >= leastPurged:
		return nil
	}
	if len(a.sent) >= mostDeleting {
		return nil
	}
	a.waiting[0] = nil
	a.waiting = a.waiting[1:]
	if first.Seq == f.safe {
		f.safe++
	}
	return &deleting{from: first.from, lease: first}
}

// nextPurge returns a purge, or what has to be known before, or whether to wait for something. It
// needs mu.
func (a *acker) nextPurge(f *front, from *origin, now time.Time) (d *deleting, wait bool) {
	// Those of the queue first, in their order.
	slices.SortFunc(a.waiting, func(x, y *Lease) int {
		return cmp.Or(rank(x, from)-rank(y, from), cmp.Compare(x.Seq, y.Seq))
	})
	n := 0
	for n < len(a.waiting) && a.waiting[n].from.queue == from.queue {
		n++
	}
	if n < leastPurged {
		return nil, false
	}
	switch first := a.waiting[0].Seq; {
	case now.Sub(f.known) > frontKnown:
		return a.ask(f, from)
	case f.back >= f.first:
		f.pause(now, frontPause)
		return nil, false
	case first < f.first:
		return nil, false // it came again, and is gone
	case first < f.safe:
		return a.ask(f, from)
	}
	safe, run := f.safe, 0
	for run < n && a.waiting[run].Seq == safe {
		run++
		safe++
	}
	switch {
	case run >= leastPurged:
		d := &deleting{from: from, run: slices.Clone(a.waiting[:run]), purge: safe}
		clear(a.waiting[:run])
		a.waiting = a.waiting[run:]
		f.safe, f.known, f.hole, f.asked, f.purging, f.backoff = safe, now, time.Time{}, false, true, 0
		return d, false
	case f.hole.IsZero():
		f.hole = now
		time.AfterFunc(holeFor, a.wake)
		return nil, true
	case now.Sub(f.hole) < holeFor:
		return nil, true
	case !f.asked:
		d, wait := a.ask(f, from) // those who had it may have finished
		f.asked = d != nil
		return d, wait
	}
	f.pause(now, frontPause) // others have some between, or a bridge has
	return nil, false
}

// ask returns the question for the first sequence. What is under way is waited for: it changes it.
func (a *acker) ask(f *front, from *origin) (d *deleting, wait bool) {
	if len(a.sent) > 0 {
		return nil, true
	}
	f.asking = true
	return &deleting{from: from, asking: true}, false
}

// rank is 0 for those of the queue.
func rank(l *Lease, from *origin) int {
	if l.from.queue == from.queue {
		return 0
	}
	return 1
}
