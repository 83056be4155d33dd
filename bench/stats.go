package main

import (
	"fmt"
	"math"
	"slices"
)

// quantile returns the q-quantile (0 to 1) of samples by nearest rank: a value
// that was measured, never one in between. The samples need no order.
func quantile(samples []int64, q float64) float64 {
	if len(samples) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(samples))
	rank := int(math.Ceil(q*float64(len(sorted)))) - 1
	return float64(sorted[min(max(rank, 0), len(sorted)-1)])
}

// spread is what several rounds of one figure come to.
type spread struct {
	Median, Min, Max float64
	N                int
}

// summarize returns the median of values, the mean of the middle two where
// their number is even, and their range. Values that are NaN do not count.
func summarize(values []float64) spread {
	sorted := slices.DeleteFunc(slices.Clone(values), math.IsNaN)
	if len(sorted) == 0 {
		return spread{Median: math.NaN(), Min: math.NaN(), Max: math.NaN()}
	}
	slices.Sort(sorted)
	n := len(sorted)
	return spread{
		Median: (sorted[(n-1)/2] + sorted[n/2]) / 2,
		Min:    sorted[0],
		Max:    sorted[n-1],
		N:      n,
	}
}

// series is one figure of a case by round; a round that failed is absent.
type series map[int]float64

func (s series) summarize() spread {
	values := make([]float64, 0, len(s))
	for _, v := range s {
		values = append(values, v)
	}
	return summarize(values)
}

// over divides round by round, so that what disturbed both in a round cancels
// out. Rounds that only one of them has are left out.
func (s series) over(base series) series {
	ratios := make(series)
	for round, v := range s {
		if b, ok := base[round]; ok && b != 0 {
			ratios[round] = v / b
		}
	}
	return ratios
}

// histogram counts samples in bins that are equally wide on a logarithmic axis.
type histogram [histogramBins]int

const (
	binsPerDecade  = 10
	histogramStart = 100.0 // ns; less counts in the first bin
	histogramBins  = 7*binsPerDecade + 1
)

func (h *histogram) add(samples []int64) {
	for _, v := range samples {
		bin := 0
		if float64(v) > histogramStart {
			bin = int(math.Log10(float64(v)/histogramStart) * binsPerDecade)
		}
		h[min(bin, histogramBins-1)]++
	}
}

// binStart is the least value (ns) that bin counts.
func binStart(bin int) float64 {
	return histogramStart * math.Pow(10, float64(bin)/binsPerDecade)
}

// duration writes ns with three digits and a unit.
func duration(ns float64) string {
	switch a := math.Abs(ns); {
	case math.IsNaN(ns):
		return "-"
	case a < 1e3:
		return digits(ns) + " ns"
	case a < 1e6:
		return digits(ns/1e3) + " us"
	case a < 1e9:
		return digits(ns/1e6) + " ms"
	default:
		return digits(ns/1e9) + " s"
	}
}

// digits writes v with three significant digits, all of them before the point
// if v is large.
func digits(v float64) string {
	switch a := math.Abs(v); {
	case math.IsNaN(v):
		return "-"
	case a >= 99.95:
		return fmt.Sprintf("%.0f", v)
	case a >= 9.995:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// format writes a spread as "median (min..max)".
func (s spread) format(f func(float64) string) string {
	if s.N < 2 {
		return f(s.Median)
	}
	return fmt.Sprintf("%s (%s..%s)", f(s.Median), f(s.Min), f(s.Max))
}
