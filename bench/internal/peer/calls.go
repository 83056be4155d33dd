package peer

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
)

// A Call sends a text and returns the reply to it. It is safe for concurrent use.
type Call func(p []byte) ([]byte, error)

// Calls is the role of a client whose callers wait for one reply each. It measures calls
// that begin in the window, at least one of each caller, all callers together.
func (p *Peer) Calls(call Call) error {
	callers, size := p.Args.Int("callers", 1), p.Args.Int("size", 64)
	window := int64(p.Args.Duration("window"))
	begin := Now() + window/4
	var wg sync.WaitGroup
	var startCPU atomic.Int64 // 0: the window has not begun
	took := make([][]int64, callers)
	ended := make([]int64, callers)
	errs := make([]error, callers)
	for i := range callers {
		wg.Go(func() {
			out := make([]byte, size)
			putSender(out, int64(i))
			for number := int64(1); ; number++ {
				start := Now()
				if start >= begin+window && len(took[i]) > 0 {
					ended[i] = start
					return
				}
				if start >= begin && startCPU.Load() == 0 {
					startCPU.CompareAndSwap(0, CPUTime())
				}
				putStamp(out, number)
				in, err := call(out)
				if err == nil && (len(in) != size || Stamp(in) != number || sender(in) != int64(i)) {
					err = fmt.Errorf("call %d of caller %d was answered by %q", number, i, in)
				}
				if err != nil {
					errs[i] = err
					return
				}
				if start >= begin {
					took[i] = append(took[i], Now()-start)
				}
			}
		})
	}
	wg.Wait()
	used := CPUTime() - startCPU.Load()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	all := slices.Concat(took...)
	p.Figure("ns_per_call", float64(slices.Max(ended)-begin)/float64(len(all)))
	p.Figure("cpu_ns_per_call", float64(used)/float64(len(all)))
	p.Samples("call", thinned(all, 20000))
	return nil
}

// thinned returns at most n of the values, at even distances.
func thinned(values []int64, n int) []int64 {
	step := (len(values) + n - 1) / n
	kept := values[:0]
	for i := 0; i < len(values); i += step {
		kept = append(kept, values[i])
	}
	return kept
}
