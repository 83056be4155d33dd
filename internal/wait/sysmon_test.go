package wait

import (
	"testing"
	"time"
)

// sysmonSample is what sysmon.sample is told.
type sysmonSample struct {
	after    time.Duration // since the sample before
	switches float64       // for each wait
	attempt  bool          // want
}

const (
	hectic = 4.5
	calm   = 1.1
	apart  = time.Millisecond * waitsPerSample // of samples, at 1,000 messages a second
)

func TestSysmon(t *testing.T) {
	tests := []struct {
		name    string
		samples []sysmonSample
	}{
		{"calm", []sysmonSample{{apart, calm, false}, {apart, calm, false}}},
		{"hectic", []sysmonSample{{apart, hectic, true}}},
		{"hectic, but too slow for it to settle", []sysmonSample{{waitsPerSample * 10 * time.Millisecond, hectic, false}}},
		{"failing: pauses double", []sysmonSample{
			{apart, hectic, true}, {settleMin / 4, hectic, false}, {settleMin / 4, hectic, false},
			{settleMin / 4, hectic, false}, {settleMin/4 + 1, hectic, true}, {settleMin / 4, hectic, false},
			{settleMin / 4, hectic, false}, {settleMin / 4, hectic, false}, {settleMin / 4, hectic, false},
		}},
		{"calm again", []sysmonSample{{apart, hectic, true}, {apart, calm, false}, {apart, calm, false}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var m sysmon
			now, switches := time.Now(), int64(1000)
			m.sample(now, switches)
			for i, l := range test.samples {
				now = now.Add(l.after)
				switches += int64(l.switches * waitsPerSample)
				m.spinning.Store(0)
				m.sample(now, switches)
				if attempt := m.spinning.Load() != 0; attempt != l.attempt {
					t.Errorf("sample %d: an attempt to settle it: %v, want %v", i, attempt, l.attempt)
				}
			}
		})
	}
}

// TestSysmonAttemptsAreRare: one that never settles is left alone for longer
// and longer.
func TestSysmonAttemptsAreRare(t *testing.T) {
	var m sysmon
	now, switches, attempts := time.Now(), int64(0), 0
	const hour = int(time.Hour / apart)
	for range hour {
		now = now.Add(apart)
		switches += 5 * waitsPerSample
		m.spinning.Store(0)
		m.sample(now, switches)
		if m.spinning.Load() != 0 {
			attempts++
		}
	}
	if most := 60 + 6; attempts > most || attempts < 50 {
		t.Errorf("%d attempts in an hour, at most %d should be", attempts, most)
	}
}

// TestSettlingSysmonSpins: with one processor, and where spinning is not turned off, a
// wait spins for sysmon's sake, though messages are far apart.
func TestSettlingSysmonSpins(t *testing.T) {
	const budget = 20 * time.Microsecond
	t.Cleanup(func() { runtimeSysmon.spinning.Store(0) })
	for _, test := range []struct {
		name       string
		budget     time.Duration
		processors int
		until      time.Duration // from now
		spins      bool
	}{
		{"an attempt", budget, 1, settleTime, true},
		{"an attempt that is over", budget, 1, -time.Hour, false},
		{"two processors", budget, 2, settleTime, false},
		{"of another clock", budget, 1, time.Hour, false},
		{"WithSpin(0)", 0, 1, settleTime, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s Spinner
			s.slept(time.Second, budget)
			runtimeSysmon.spinning.Store(int64(time.Since(sysmonStart) + test.until))
			got := s.begin(test.budget, test.processors)
			if got > 0 {
				s.end(true)
			}
			if got > 0 != test.spins || got > time.Hour {
				t.Errorf("it may spin for %v", got)
			}
		})
	}
}
