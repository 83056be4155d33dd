package chanmq

import (
	"testing"
	"time"
)

// monitorLook is what a monitor is told by one look.
type monitorLook struct {
	after    time.Duration // since the look before
	switches float64       // for each wait
	attempt  bool          // want
}

const (
	hectic = 4.5
	calm   = 1.1
	apart  = time.Millisecond * waitsPerLook // of looks, at 1,000 messages a second
)

func TestMonitor(t *testing.T) {
	tests := []struct {
		name  string
		looks []monitorLook
	}{
		{"calm", []monitorLook{{apart, calm, false}, {apart, calm, false}}},
		{"hectic", []monitorLook{{apart, hectic, true}}},
		{"hectic, but too slow for it to calm down", []monitorLook{{waitsPerLook * 10 * time.Millisecond, hectic, false}}},
		{"in vain: pauses double", []monitorLook{
			{apart, hectic, true}, {calmingMin / 4, hectic, false}, {calmingMin / 4, hectic, false},
			{calmingMin / 4, hectic, false}, {calmingMin/4 + 1, hectic, true}, {calmingMin / 4, hectic, false},
			{calmingMin / 4, hectic, false}, {calmingMin / 4, hectic, false}, {calmingMin / 4, hectic, false},
		}},
		{"calm again", []monitorLook{{apart, hectic, true}, {apart, calm, false}, {apart, calm, false}}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var m monitor
			now, switches := time.Now(), int64(1000)
			m.look(now, switches)
			for i, l := range test.looks {
				now = now.Add(l.after)
				switches += int64(l.switches * waitsPerLook)
				m.spinning.Store(0)
				m.look(now, switches)
				if attempt := m.spinning.Load() != 0; attempt != l.attempt {
					t.Errorf("look %d: an attempt to calm it: %v, want %v", i, attempt, l.attempt)
				}
			}
		})
	}
}

// TestMonitorAttemptsAreRare: one that never calms down is left alone for longer
// and longer.
func TestMonitorAttemptsAreRare(t *testing.T) {
	var m monitor
	now, switches, attempts := time.Now(), int64(0), 0
	const hour = int(time.Hour / apart)
	for range hour {
		now = now.Add(apart)
		switches += 5 * waitsPerLook
		m.spinning.Store(0)
		m.look(now, switches)
		if m.spinning.Load() != 0 {
			attempts++
		}
	}
	if most := 60 + 6; attempts > most || attempts < 50 {
		t.Errorf("%d attempts in an hour, at most %d should be", attempts, most)
	}
}

// TestCalmingSpins: with one processor, and where spinning is not turned off, a
// wait spins for the monitor's sake, though messages are far apart.
func TestCalmingSpins(t *testing.T) {
	const budget = 20 * time.Microsecond
	t.Cleanup(func() { runtimeMonitor.spinning.Store(0) })
	for _, test := range []struct {
		name       string
		budget     time.Duration
		processors int
		until      time.Duration // from now
		spins      bool
	}{
		{"an attempt", budget, 1, time.Hour, true},
		{"an attempt that is over", budget, 1, -time.Hour, false},
		{"two processors", budget, 2, time.Hour, false},
		{"WithSpin(0)", 0, 1, time.Hour, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var s spinner
			s.slept(time.Second, budget)
			runtimeMonitor.spinning.Store(int64(time.Since(monitorStart) + test.until))
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
