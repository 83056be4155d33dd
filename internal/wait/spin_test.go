package wait

import (
	"testing"
	"time"
)

// TestSpinnerBudgets: what begin grants after what has happened.
func TestSpinnerBudgets(t *testing.T) {
	const budget = 20 * time.Microsecond
	fail := func(s *Spinner) { s.begin(budget, 2); s.end(false) }
	tests := []struct {
		name    string
		before  func(*Spinner)
		answers bool // a message was sent before each wait
		budget  time.Duration
		want    []time.Duration // of the next waits, each failing where it spins
	}{
		{"at first", func(*Spinner) {}, true, budget, []time.Duration{budget}},
		{"turned off", func(*Spinner) {}, true, 0, []time.Duration{0, 0}},
		{"after a failure one wait is left out, then more", fail, false, budget,
			[]time.Duration{0, budget, 0, 0, 0, budget}},
		{"for an answer it spins longer then", fail, true, budget,
			[]time.Duration{0, probeBudgets * budget, 0, 0, 0, probeBudgets * budget}},
		{"after a success", func(s *Spinner) { fail(s); s.begin(budget, 2); s.begin(budget, 2); s.end(true) }, true, budget,
			[]time.Duration{budget}},
		{"after a long sleep", func(s *Spinner) { s.slept(slowTraffic*budget+1, budget) }, true, budget, []time.Duration{0, 0}},
		{"after a short sleep", func(s *Spinner) {
			s.slept(slowTraffic*budget+1, budget)
			s.slept(slowTraffic*budget, budget)
		}, true, budget, []time.Duration{budget}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var s Spinner
			test.before(&s)
			for i, want := range test.want {
				if test.answers {
					sends.Add(1)
				}
				got := s.begin(test.budget, 2)
				if got != want {
					t.Fatalf("wait %d may spin for %v, want %v", i, got, want)
				}
				if got > 0 {
					s.end(false)
				}
			}
		})
	}
	if n := spinning.Load(); n != 0 {
		t.Errorf("%d goroutines are said to spin", n)
	}
}

// TestSpinnersDoNotOutnumberProcessors.
func TestSpinnersDoNotOutnumberProcessors(t *testing.T) {
	const budget = time.Microsecond
	var s [3]Spinner
	spinners := 0
	for i := range s {
		if s[i].begin(budget, 2) > 0 {
			spinners++
			defer s[i].end(true)
		}
	}
	if spinners != 2 {
		t.Errorf("%d goroutines spin at the same time on 2 processors", spinners)
	}
}
