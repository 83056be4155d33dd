package wait

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// This file is the second stage of waiting: how to spin, and when.

// triesPerYield is how many tries a spin makes before it looks at the clock and
// yields to other goroutines, which costs half as much as a try, and is time in
// which a message is not noticed.
const triesPerYield = 16

// fastestTry is less time than any kernel needs. Under a simulated clock time may
// stand still, so that the number of tries has to be limited too.
const fastestTry = 50 * time.Nanosecond

// spin tries again and again for the time that the Spinner grants.
func (w *Waiter) spin(ctx context.Context) error {
	budget := w.spinner.begin(w.lot.config.Spin, runtime.GOMAXPROCS(0))
	if budget == 0 {
		return ErrWait
	}
	w.Stage = Spun
	done := ctx.Done()
	var start time.Time
	var spun time.Duration
	err := ErrWait
	limit := int(budget / fastestTry)
	for tries := 1; err == ErrWait && spun <= budget && tries <= limit; tries++ {
		if tries%triesPerYield == 0 {
			if start.IsZero() {
				start = time.Now()
			}
			runtime.Gosched()
			spun = time.Since(start)
			select {
			case <-done:
				w.spinner.end(false)
				return ErrCanceled
			default:
			}
		}
		err = w.op.Try()
	}
	w.spinner.end(err != ErrWait)
	return err
}

// A Spinner decides whether spinning is worth it, from what it has lately come
// to. It is safe for concurrent use: its fields are atomic, and a mixed-up update
// costs a spin too many or too few.
type Spinner struct {
	slow  atomic.Bool   // the last sleep was so long that spinning has no chance
	skip  atomic.Int32  // how many waits to leave out
	fails atomic.Int32  // how many spins in a row failed
	sent  atomic.Uint64 // what sends was at the last wait
}

// sends counts the messages that this process has sent. A wait behind a message
// of its own is most likely for the answer.
var sends atomic.Uint64

// CountSend notes that the process has sent a message.
func CountSend() { sends.Add(1) }

// spinning counts the goroutines of the process that spin. More of them than
// processors would only keep each other from running.
var spinning atomic.Int32

const (
	// A wait that slept more than slowTraffic budgets says that messages are
	// far apart.
	slowTraffic = 10
	// A probe, after failures, is this many budgets long where an answer is
	// awaited: two programs that both sleep answer each other no faster than
	// two wake-ups, and find back into spinning only if one of them spins
	// through the other's. Messages that come by themselves at such distances
	// are cheaper slept for.
	probeBudgets = 5
	// After so many failures in a row, spins are as rare as they get: one
	// wait in 2 to the power of it.
	maxFails = 10
)

// begin returns how long to spin, zero for not at all.
func (s *Spinner) begin(budget time.Duration, processors int) time.Duration {
	if budget <= 0 {
		return 0
	}
	var settling time.Duration
	if processors == 1 {
		settling = runtimeSysmon.settle()
	}
	now := sends.Load()
	awaited := s.sent.Swap(now) != now
	switch {
	case settling > 0:
	case s.slow.Load():
		return 0
	case s.skip.Load() > 0:
		s.skip.Add(-1)
		return 0
	}
	if spinning.Add(1) > int32(processors) {
		spinning.Add(-1)
		return 0
	}
	switch {
	case settling > 0:
		return settling
	case awaited && s.fails.Load() > 0:
		return probeBudgets * budget
	}
	return budget
}

// end notes how the spin that begin allowed came out.
func (s *Spinner) end(success bool) {
	spinning.Add(-1)
	if !success {
		s.skip.Store(1<<min(s.fails.Add(1), maxFails) - 1)
	} else if s.fails.Load() > 0 {
		s.fails.Store(0)
		s.skip.Store(0)
	}
}

// slept notes how long a wait slept, when it had not spun or its spin failed.
func (s *Spinner) slept(d, budget time.Duration) {
	if slow := d > slowTraffic*budget; slow != s.slow.Load() {
		s.slow.Store(slow)
	}
}
