package wait

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

// loggedAlarm is an Alarm that notes what it is asked for.
type loggedAlarm struct {
	sysv.Alarm
	mu    sync.Mutex
	slept []time.Duration // guarded by mu
	rung  int             // guarded by mu
}

func (a *loggedAlarm) Sleep(d time.Duration) {
	a.mu.Lock()
	a.slept = append(a.slept, d)
	a.mu.Unlock()
	a.Alarm.Sleep(d)
}

func (a *loggedAlarm) Ring() {
	a.mu.Lock()
	a.rung++
	a.mu.Unlock()
	a.Alarm.Ring()
}

// logAlarm makes a handle have a loggedAlarm.
func logAlarm(a *loggedAlarm) func(*Config) {
	return func(c *Config) {
		c.NewAlarm = func() sysv.Alarm {
			a.Alarm = sysv.NewTimerAlarm()
			return a
		}
	}
}

// TestPauses: they double from the shortest to the longest, less the time of the round
// before, but are at least four times as long as that.
func TestPauses(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name     string
		min, max time.Duration
		waits    int           // whose tries are made in each round
		try      time.Duration // how long each takes
		want     []time.Duration
	}{
		{"no work", ms, 15 * ms, 3, 0, []time.Duration{ms, 2 * ms, 4 * ms, 8 * ms, 15 * ms, 15 * ms}},
		{"some work", ms, 15 * ms, 1, 2 * ms, []time.Duration{ms, 8 * ms, 8 * ms, 8 * ms, 13 * ms, 13 * ms}},
		{"much work", ms, 15 * ms, 10, ms, []time.Duration{ms, 40 * ms, 40 * ms, 40 * ms}},
		{"long pauses", time.Second, time.Second, 10, 20 * ms, []time.Duration{time.Second, 800 * ms, 800 * ms}},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var alarm loggedAlarm
				h := newHandle(t, polls, logAlarm(&alarm), func(c *Config) {
					c.PollMin, c.PollMax = test.min, test.max
					c.Stat = func() (sysv.Stat, error) { return sysv.Stat{}, sysv.EACCES } // so that all are tried
				})
				var slow atomic.Bool
				for n := range test.waits {
					o := h.receive(n + 1)
					o.onTry = func() {
						if slow.Load() {
							time.Sleep(test.try)
						}
					}
					o.waiting(t.Context())
				}
				slow.Store(true)
				for {
					alarm.mu.Lock()
					slept := slices.Clone(alarm.slept)
					alarm.mu.Unlock()
					if len(slept) < len(test.want) {
						time.Sleep(ms)
						continue
					}
					if slept = slept[:len(test.want)]; !slices.Equal(slept, test.want) {
						t.Errorf("pauses of %v, want %v", slept, test.want)
					}
					return
				}
			})
		})
	}
}

// TestPausesAreShortAgain behind a round in which something was done.
func TestPausesAreShortAgain(t *testing.T) {
	const ms = time.Millisecond
	synctest.Test(t, func(t *testing.T) {
		var alarm loggedAlarm
		h := newHandle(t, polls, logAlarm(&alarm), func(c *Config) { c.PollMin, c.PollMax = ms, 8*ms })
		h.receive(2).waiting(t.Context())
		o := h.receive(1)
		o.waiting(t.Context())
		time.Sleep(22 * ms) // 1, 2, 4, 8 and the better part of 8
		h.put(1, 1)
		time.Sleep(5 * ms) // the look that finds it, after 23, and those after 24 and 26
		synctest.Wait()
		alarm.mu.Lock()
		defer alarm.mu.Unlock()
		if want := []time.Duration{ms, 2 * ms, 4 * ms, 8 * ms, 8 * ms, ms, 2 * ms, 4 * ms}; !slices.Equal(alarm.slept, want) {
			t.Errorf("pauses of %v, want %v", alarm.slept, want)
		}
	})
}

// TestHandBacksDoNotMakeThePollerLook: the wait that a message was handed back for
// tries by itself. The others are left alone, and so is the queue.
func TestHandBacksDoNotMakeThePollerLook(t *testing.T) {
	const others, handBacks = 50, 500
	synctest.Test(t, func(t *testing.T) {
		var alarm loggedAlarm
		h := newHandle(t, pollsHourly, logAlarm(&alarm))
		var rest []*receive
		for n := range others {
			o := h.receive(100 + n)
			o.waiting(t.Context())
			rest = append(rest, o)
		}
		tries := func() (n int64) {
			for _, o := range rest {
				n += o.tries.Load()
			}
			return n
		}
		before := tries()
		for n := range handBacks {
			o := h.receive(1)
			ended := o.waiting(t.Context())
			h.handBack(message{2, n, 1}) // for nobody
			h.handBack(message{1, n, 2})
			wantEnded(t, "a receive", ended, nil)
			if o.msg.n != n {
				t.Fatalf("it has message %d, want %d", o.msg.n, n)
			}
		}
		if n := tries() - before; n != 0 {
			t.Errorf("%d tries of other waits", n)
		}
		if n := h.stats.Load(); n != 0 {
			t.Errorf("%d looks at the queue", n)
		}
		alarm.mu.Lock()
		defer alarm.mu.Unlock()
		if len(alarm.slept) != 1 || alarm.rung != 0 {
			t.Errorf("the poller has slept %d times and was woken %d times, want once and never", len(alarm.slept), alarm.rung)
		}
	})
}

// TestSmallerSendsPass: in each round, a send is tried unless one that is no larger
// has just had no room.
func TestSmallerSendsPass(t *testing.T) {
	const room = 30
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t, pollsHourly)
		h.setSize(100)
		full := h.send(100)
		if err := full.run(t.Context()); err != nil {
			t.Fatal(err)
		}
		sends := []struct {
			size  int
			tries int64 // in the next round
			sent  bool
		}{
			{80, 1, false},
			{50, 1, false},
			{90, 0, false}, // larger than 50
			{50, 0, false},
			{25, 1, true},
			{20, 1, false}, // there were 5 left
			{25, 0, false},
			{3, 1, true},
			{2, 1, true},
		}
		var all []*send
		var ended []<-chan error
		for _, s := range sends {
			o := h.send(s.size)
			all, ended = append(all, o), append(ended, o.waiting(t.Context()))
		}
		// Other messages, and 30 bytes of room.
		if _, err := h.peer.Receive(h.id, sysv.Buffer(100), 0, 0); err != nil {
			t.Fatal(err)
		}
		msg := sysv.Buffer(100 - room)
		sysv.PutType(msg, 9)
		if err := h.peer.Send(h.id, msg); err != nil {
			t.Fatal(err)
		}
		before := make([]int64, len(all))
		for i, o := range all {
			before[i] = o.tries.Load()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		for i, s := range sends {
			if n := all[i].tries.Load() - before[i]; n != s.tries {
				t.Errorf("send %d, of %d bytes, was tried %d times, want %d", i, s.size, n, s.tries)
			}
			if s.sent {
				wantEnded(t, fmt.Sprintf("send %d, of %d bytes", i, s.size), ended[i], nil)
			} else {
				wantWaiting(t, fmt.Sprintf("send %d, of %d bytes", i, s.size), ended[i])
			}
		}
	})
}

// TestMessageBeforeTheWaitIsAdded: one that came behind a wait's own try, and that the
// poller saw before it knew of the wait, is found at the next look.
func TestMessageBeforeTheWaitIsAdded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t, pollsHourly)
		for n := range 2 {
			h.receive(100 + n).waiting(t.Context()) // so that it looks
		}
		o := h.receive(1)
		o.onSuspend = onCall(1, func() {
			h.put(1, 1)
			time.Sleep(5 * time.Hour)
		})
		ended := o.start(t.Context())
		time.Sleep(6*time.Hour + time.Minute)
		wantEnded(t, "a receive", ended, nil)
	})
}

// TestWaitIsAbandonedOnce: one that had to try by itself, while the poller was trying
// for it, is polled as before when that has failed.
func TestWaitIsAbandonedOnce(t *testing.T) {
	const later = 5
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t, pollsHourly)
		o := h.receive(1)
		o.onTried = onCall(3, h.lot.WakeAll)
		o.waiting(t.Context())
		time.Sleep(time.Hour + time.Minute)
		synctest.Wait()
		// Two before it was polled, the poller's, and its own.
		if n := o.tries.Swap(0); n != 4 {
			t.Errorf("%d tries until the poller's was abandoned, want 4", n)
		}
		time.Sleep(later * time.Hour)
		synctest.Wait()
		if n := o.tries.Load(); n != later {
			t.Errorf("%d tries in the next %d looks", n, later)
		}
	})
}

// TestRoundPassesByWaitsThatHaveLeft since it began.
func TestRoundPassesByWaitsThatHaveLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t, pollsHourly, func(c *Config) {
			c.Stat = func() (sysv.Stat, error) { return sysv.Stat{}, sysv.EACCES } // so that all are tried
		})
		ctx, cancel := context.WithCancel(t.Context())
		var polling atomic.Bool
		left := onCall(1, func() {
			cancel()
			time.Sleep(time.Minute) // the others leave
		})
		var all []<-chan error
		var tries atomic.Int64 // of the poller
		for n := range 5 {
			o := h.receive(n + 1)
			o.onTry = func() {
				if polling.Load() {
					tries.Add(1)
					left()
				}
			}
			all = append(all, o.waiting(ctx))
		}
		polling.Store(true)
		time.Sleep(2 * time.Hour)
		for _, ended := range all {
			wantEnded(t, "a receive", ended, ErrCanceled)
		}
		if n := tries.Load(); n != 1 {
			t.Errorf("the poller made %d tries, want the one in which all left", n)
		}
	})
}

// TestPollerEndsWithItsWaits, at once, and there is another one for the next.
func TestPollerEndsWithItsWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t, pollsHourly)
		for range 3 {
			ctx, cancel := context.WithCancel(t.Context())
			var all []<-chan error
			for n := range 3 {
				all = append(all, h.receive(n).waiting(ctx))
			}
			polling := h.lot.Polling()
			start := time.Now()
			cancel()
			for _, ended := range all {
				wantEnded(t, "a wait", ended, ErrCanceled)
			}
			select {
			case <-polling:
			default:
				t.Error("the goroutine has not ended")
			}
			if took := time.Since(start); took > 0 {
				t.Errorf("it took %v", took)
			}
			h.wantRest()
		}
	})
}

// TestCloseJoinsThePoller: it returns when a round that is under way has ended.
func TestCloseJoinsThePoller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandle(t, pollsHourly)
		o := h.receive(1)
		o.onTried = onCall(3, func() { time.Sleep(time.Minute) })
		ended := o.waiting(t.Context())
		time.Sleep(time.Hour)
		synctest.Wait()
		polling, start := h.lot.Polling(), time.Now()
		h.close()
		select {
		case <-polling:
		default:
			t.Error("Close has returned, and the goroutine has not ended")
		}
		if took := time.Since(start); took != time.Minute {
			t.Errorf("Close took %v, want a minute", took)
		}
		wantEnded(t, "the wait", ended, errClosed)
	})
}

// TestStorm: messages, hand-backs, ends of ctxs and of the handle come at the same
// time. Each wait ends once, and each message is in one place. That operations are used
// as Operation demands, and that nothing is left of a wait, the helpers check.
func TestStorm(t *testing.T) {
	const rounds = 10
	for name, way := range map[string]func(*Config){
		"parked": parks,
		"polled": polls,
		"both":   func(c *Config) { c.MaxParked = 2 },
		"remote": remote,
	} {
		t.Run(name, func(t *testing.T) {
			for round := 0; round < rounds && !t.Failed(); round++ {
				t.Run("", func(t *testing.T) {
					h := newHandle(t, way, func(c *Config) { c.PollMin = 50 * time.Microsecond })
					h.setSize(20)
					h.setFault(func(c simq.Call) error {
						if c.Op == simq.Interrupt && rand.N(2) == 0 {
							return sysv.EINTR // a signal that is lost
						}
						return nil
					})
					storm(t, h)
				})
			}
		})
	}
}

func storm(t *testing.T, h *handle) {
	const callers, messages, mostHandBacks = 12, 60, 60
	s := &storming{h: h, calm: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for caller := range callers {
		msgtyp := []int{1, 2, 0, -2}[caller%4]
		h.runs.Go(func() { s.receiveAll(ctx, msgtyp, caller%3 == 0) })
	}
	for n := range messages {
		h.sendWithin(t, 1+n%2, n)
	}
	close(s.calm)
	testkit.Eventually(t, "every message is taken", func() bool { return s.all.Load() == messages })
	// The queue is empty, so that the poller tries nothing: a wait that a hand-back
	// has not woken stays.
	handedBack := messages
	for handedBack < messages+mostHandBacks {
		for range 1 + rand.N(3) {
			m := message{1 + rand.N(2), handedBack, h.taken.Add(1)}
			handedBack++
			h.runs.Go(func() { h.handBack(m) })
		}
		testkit.Eventually(t, "what was handed back is taken", func() bool { return s.all.Load() == int64(handedBack) })
	}
	if rand.N(2) == 0 {
		cancel()
	}
	h.close()
	h.runs.Wait()
	for n := range handedBack {
		if times := s.got[n].Load(); times != 1 {
			t.Errorf("message %d was taken %d times", n, times)
		}
	}
}

// storming is what the callers of a storm share.
type storming struct {
	h    *handle
	calm chan struct{}     // closed when ctxs end no more, and nobody hands back
	got  [256]atomic.Int64 // how often each message was taken, and not handed back
	all  atomic.Int64      // the sum of got
}

func (s *storming) isCalm() bool {
	select {
	case <-s.calm:
		return true
	default:
		return false
	}
}

// receiveAll receives until end has ended, or the handle is closed.
func (s *storming) receiveAll(end context.Context, msgtyp int, isOrdered bool) {
	for err := error(nil); err != errClosed && end.Err() == nil; {
		ctx, cancel := context.WithCancel(end)
		if !s.isCalm() {
			time.AfterFunc(rand.N(300*time.Microsecond), cancel)
		}
		o := s.h.receive(msgtyp)
		if isOrdered {
			o.waiter.Order()
		}
		for err = o.once(ctx); err == nil; err = o.once(ctx) {
			s.took(o.msg)
			for isOrdered && o.waiter.TryMore() == nil {
				s.took(o.msg)
			}
		}
		o.waiter.Release()
		cancel()
	}
}

func (s *storming) took(m message) {
	if !s.isCalm() && rand.N(3) == 0 {
		s.h.handBack(m)
		return
	}
	s.got[m.n].Add(1)
	s.all.Add(1)
}
