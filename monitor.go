package chanmq

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// The Go runtime's monitor thread takes the processor away from a thread that
// sleeps in the kernel. After it has done so it looks for more to take every 20
// microseconds, for a millisecond, then at intervals that double up to 10 ms
// (runtime/proc.go, sysmon). With GOMAXPROCS=1, a message every millisecond or
// so keeps it at that for ever: each sleep gives it something to take, and each
// message then costs four or five thread switches instead of one. But once the
// monitor is at its 10 ms, the same messages come and go between two looks, and
// it stays there. So all it takes is a few milliseconds in which it finds
// nothing: monitor watches for the first state, and has a wait spin through them.
type monitor struct {
	waits    atomic.Int64
	spinning atomic.Int64 // until when to spin, as time since monitorStart; 0: not at all

	mu       sync.Mutex
	looked   time.Time     // the last look; guarded by mu
	switches int64         // of threads, then; guarded by mu
	pause    time.Duration // between attempts; guarded by mu
	next     time.Time     // the earliest attempt; guarded by mu
}

const (
	// A look at the number of thread switches comes every so many waits.
	waitsPerLook = 64
	// More switches for each wait than this are the monitor's.
	calmSwitches = 3
	// Waits that are longer on average cannot be kept from the monitor, which
	// sees them twice.
	longestWait = 5 * time.Millisecond
	// calmingTime is 50 of the monitor's shortest pauses, which the kernel makes
	// four times as long as asked for, and those that double behind them.
	calmingTime = 12 * time.Millisecond
	// Pauses between attempts, doubling while they are in vain.
	calmingMin = time.Second
	calmingMax = time.Minute
)

// runtimeMonitor is that of the process.
var (
	runtimeMonitor monitor
	monitorStart   = time.Now()
)

// calming is called for each wait with GOMAXPROCS=1. It returns how long to spin
// for the monitor's sake.
func (m *monitor) calming() time.Duration {
	if m.waits.Add(1)%waitsPerLook == 0 {
		m.look(time.Now(), sysv.Switches())
	}
	until := m.spinning.Load()
	if until == 0 {
		return 0
	}
	left := time.Duration(until) - time.Since(monitorStart)
	if left <= 0 {
		m.spinning.CompareAndSwap(until, 0)
		return 0
	}
	return left
}

// look decides whether it is time for an attempt.
func (m *monitor) look(now time.Time, switches int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	took, more := now.Sub(m.looked), switches-m.switches
	m.looked, m.switches = now, switches
	switch {
	case took > waitsPerLook*longestWait:
	case more < waitsPerLook*calmSwitches:
		m.pause = 0
	case now.After(m.next):
		m.pause = min(max(2*m.pause, calmingMin), calmingMax)
		m.next = now.Add(m.pause)
		m.spinning.Store(int64(now.Sub(monitorStart) + calmingTime))
	}
}
