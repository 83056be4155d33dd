package main

import (
	"math"
	"testing"
)

func TestQuantileIsAMeasuredValue(t *testing.T) {
	hundred := make([]int64, 100)
	for i := range hundred {
		hundred[i] = int64(100 - i) // no order is needed
	}
	for _, c := range []struct {
		samples []int64
		q, want float64
	}{
		{[]int64{7}, 0, 7},
		{[]int64{7}, 0.99, 7},
		{[]int64{30, 10, 20}, 0.5, 20},
		{[]int64{40, 10, 30, 20}, 0.5, 20},
		{hundred, 0.5, 50},
		{hundred, 0.99, 99},
		{hundred, 1, 100},
		{hundred, 0, 1},
	} {
		if got := quantile(c.samples, c.q); got != c.want {
			t.Errorf("quantile(%d samples, %v) = %v, want %v", len(c.samples), c.q, got, c.want)
		}
	}
	if hundred[0] != 100 {
		t.Error("quantile changed the order of its argument")
	}
	if got := quantile(nil, 0.5); !math.IsNaN(got) {
		t.Errorf("quantile of nothing = %v, want NaN", got)
	}
}

func TestSummarizeIsMedianAndRange(t *testing.T) {
	for _, c := range []struct {
		values []float64
		want   spread
	}{
		{[]float64{3}, spread{3, 3, 3, 1}},
		{[]float64{9, 1, 4}, spread{4, 1, 9, 3}},
		{[]float64{4, 1, 3, 2}, spread{2.5, 1, 4, 4}},
		{[]float64{math.NaN(), 5}, spread{5, 5, 5, 1}},
	} {
		if got := summarize(c.values); got != c.want {
			t.Errorf("summarize(%v) = %+v, want %+v", c.values, got, c.want)
		}
	}
	if got := summarize(nil); !math.IsNaN(got.Median) || got.N != 0 {
		t.Errorf("summarize(nothing) = %+v, want NaN", got)
	}
}

// A machine that is twice as slow in one round must not change a ratio.
func TestRatiosAreMadeWithinARound(t *testing.T) {
	base := series{1: 100, 2: 200, 3: 100, 4: 0}
	other := series{1: 150, 2: 300, 4: 7, 5: 9} // round 3 failed
	got := other.over(base)
	want := series{1: 1.5, 2: 1.5}
	if len(got) != len(want) || got[1] != want[1] || got[2] != want[2] {
		t.Errorf("ratios = %v, want %v", got, want)
	}
	if len(other.over(nil)) != 0 || len(series(nil).over(base)) != 0 {
		t.Error("a missing case has ratios")
	}
}

func TestHistogramBins(t *testing.T) {
	var h histogram
	h.add([]int64{-3, 0, 100, 1000, 1258, 1260, 1 << 62})
	for bin, want := range map[int]int{0: 3, 10: 2, 11: 1, histogramBins - 1: 1} {
		if h[bin] != want {
			t.Errorf("bin %d, from %s on, holds %d, want %d", bin, duration(binStart(bin)), h[bin], want)
		}
	}
	total := 0
	for _, n := range h {
		total += n
	}
	if total != 7 {
		t.Errorf("%d samples counted, of 7", total)
	}
}

func TestFormatting(t *testing.T) {
	for _, c := range []struct {
		ns   float64
		want string
	}{
		{0, "0.00 ns"}, {2.2, "2.20 ns"}, {999, "999 ns"}, {2350, "2.35 us"}, {99960, "100 us"},
		{34000, "34.0 us"}, {1.1e6, "1.10 ms"}, {2e9, "2.00 s"}, {math.NaN(), "-"},
	} {
		if got := duration(c.ns); got != c.want {
			t.Errorf("duration(%v) = %q, want %q", c.ns, got, c.want)
		}
	}
	if got := (spread{2000, 1000, 3000, 3}).format(duration); got != "2.00 us (1.00 us..3.00 us)" {
		t.Errorf("spread = %q", got)
	}
	if got := (spread{2000, 2000, 2000, 1}).format(duration); got != "2.00 us" {
		t.Errorf("spread of one round = %q", got)
	}
}
