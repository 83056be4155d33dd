package chanmq

import (
	"math"
	"testing"

	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysv"
)

// TestIdentify holds what collect needs when the program reads C at the same
// time: of the values that may have been the one taken, the right one is found,
// whatever equality says of it.
func TestIdentify(t *testing.T) {
	t.Run("numbers", func(t *testing.T) {
		testIdentify(t, func(n int) int { return n })
	})
	t.Run("NaN", func(t *testing.T) {
		testIdentify(t, func(n int) float64 { return math.Float64frombits(math.Float64bits(math.NaN()) + uint64(n)) })
	})
	t.Run("funcs", func(t *testing.T) {
		testIdentify(t, func(n int) func() int { return func() int { return n } })
	})
	t.Run("bytes with the same content", func(t *testing.T) {
		testIdentify(t, func(int) []byte { return []byte("text") })
	})
	t.Run("strings with the same content", func(t *testing.T) {
		testIdentify(t, func(int) string { return string([]byte("text of a string")) })
	})
	t.Run("pointers to equal values", func(t *testing.T) {
		testIdentify(t, func(int) *int { return new(int) })
	})
	t.Run("interfaces", func(t *testing.T) {
		testIdentify(t, func(n int) any {
			if n%2 == 0 {
				return float64(n)
			}
			return map[string]any{"n": math.NaN()}
		})
	})
	t.Run("structs", func(t *testing.T) {
		type record struct {
			same  int
			nan   float64
			notes [2]func() int
		}
		testIdentify(t, func(n int) record {
			return record{7, math.NaN(), [2]func() int{nil, func() int { return n }}}
		})
	})
}

func testIdentify[T any](t *testing.T, value func(n int) T) {
	t.Helper()
	const kinds, size = 3, 5
	r := &Receiver[T]{q: &Queue[T]{codec: newDecoder(codec.JSON[T]())}, ring: make([]kept[T], size)}
	values := make([]T, 2*size)
	typeOf := func(n uint64) int { return 1 + int(n)%kinds }
	for n := range uint64(len(values)) {
		values[n] = value(int(n))
		m := &raw{buf: sysv.Buffer(smallMessage)}
		sysv.PutType(m.buf, typeOf(n))
		*r.slot(n) = kept[T]{m, values[n]}
	}
	for first := uint64(size); first < 2*size; first++ {
		for end := first + 1; end <= 2*size; end++ {
			for n := first; n < end; n++ {
				m := Message[T]{int64(typeOf(n)), values[n]}
				if got := r.identify(m, first, end); got != n {
					t.Errorf("value %d of %d to %d identified as %d", n, first, end-1, got)
				}
			}
		}
	}
	// One that was handed back is not found again.
	*r.slot(size) = kept[T]{}
	if got := r.identify(Message[T]{int64(typeOf(size)), values[size]}, size, size+2); got != size+1 {
		t.Errorf("a value that is gone was identified as %d", got)
	}
}

// TestDrainedWhileSomebodyCollects: a Receiver whose C is closed and empty still holds
// what Close is about to hand back.
func TestDrainedWhileSomebodyCollects(t *testing.T) {
	r := &Receiver[int]{q: &Queue[int]{}, c: make(chan Message[int])}
	r.pump.init(unopened(), "receive", t.Context(), t.Context())
	close(r.c)
	close(r.done)
	r.collecting.Lock() // a value was read from C
	if r.drained() {
		t.Error("it is drained while somebody collects")
	}
	r.collecting.Unlock()
	if !r.drained() {
		t.Error("it is not drained")
	}
	r.cancel()
}
