package wait

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// The Go runtime's monitor thread, sysmon, retakes the P of a thread that sleeps in
// the kernel. After it has done so it looks for more to retake every 20
// microseconds, for a millisecond, then at intervals that double up to 10 ms
// (runtime/proc.go, sysmon). With GOMAXPROCS=1, a message every millisecond or
// so keeps it at that forever: each sleep gives it something to retake, and each
// message then costs four or five thread switches instead of one. But once sysmon
// is at its 10 ms, the same messages come and go between two looks, and it stays
// there. So all it takes is a few milliseconds in which it finds nothing: sysmon
// detects the first state, and has a wait spin through them.
type sysmon struct {
	waits    atomic.Int64
	spinning atomic.Int64 // until when to spin, as time since sysmonStart; 0: not at all

	mu       sync.Mutex
	sampled  time.Time     // the last sample; guarded by mu
	switches int64         // of threads, then; guarded by mu
	pause    time.Duration // between attempts; guarded by mu
	next     time.Time     // the earliest attempt; guarded by mu
}

const (
	// A sample of the number of thread switches is taken every so many waits.
	waitsPerSample = 64
	// More switches for each wait than this are caused by sysmon.
	settledSwitches = 3
	// Waits that are longer on average cannot be kept from sysmon, which sees
	// them twice.
	longestWait = 5 * time.Millisecond
	// settleTime is 50 of sysmon's shortest pauses, which the kernel makes four
	// times as long as asked for, and those that double behind them.
	settleTime = 12 * time.Millisecond
	// Pauses between attempts, doubling while they fail.
	settleMin = time.Second
	settleMax = time.Minute
)

// runtimeSysmon is that of the process.
var (
	runtimeSysmon sysmon
	sysmonStart   = time.Now()
)

// settle is called for each wait with GOMAXPROCS=1. It returns how long to spin
// for sysmon's sake.
func (m *sysmon) settle() time.Duration {
	if m.waits.Add(1)%waitsPerSample == 0 {
		m.sample(time.Now(), sysv.Switches())
	}
	until := m.spinning.Load()
	if until == 0 {
		return 0
	}
	left := time.Duration(until) - time.Since(sysmonStart)
	if left <= 0 || left > settleTime { // of another clock: a synctest bubble has its own
		m.spinning.CompareAndSwap(until, 0)
		return 0
	}
	return left
}

// sample decides whether it is time for an attempt.
func (m *sysmon) sample(now time.Time, switches int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	took, more := now.Sub(m.sampled), switches-m.switches
	m.sampled, m.switches = now, switches
	switch {
	case took > waitsPerSample*longestWait:
	case more < waitsPerSample*settledSwitches:
		m.pause = 0
	case now.After(m.next):
		m.pause = min(max(2*m.pause, settleMin), settleMax)
		m.next = now.Add(m.pause)
		m.spinning.Store(int64(now.Sub(sysmonStart) + settleTime))
	}
}
