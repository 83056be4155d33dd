package chanmq_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// TestReopenPauses: while its queue is missing, a handle looks the key up with pauses
// that double from 10 ms to 1 s, each at random between a half and the whole.
func TestReopenPauses(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		const key = 42
		if _, err := m.peer.Get(key, sysv.Create|0o666); err != nil {
			t.Fatal(err)
		}
		q, err := chanmq.Open(key, m.option(), chanmq.WithReopen())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		ended := receiving(t.Context(), q, chanmq.Any())
		if err := m.peer.Remove(q.ID()); err != nil {
			t.Fatal(err)
		}
		var looks []time.Time
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Get {
				looks = append(looks, time.Now())
			}
			return nil
		})
		time.Sleep(time.Hour)
		synctest.Wait()
		pause := 10 * time.Millisecond
		same := 0
		for i := 1; i < len(looks); i++ {
			gap := looks[i].Sub(looks[i-1])
			if gap < pause/2 || gap > pause {
				t.Errorf("pause %d was %v, want %v to %v", i, gap, pause/2, pause)
			}
			if i > 1 && gap == looks[i-1].Sub(looks[i-2]) {
				same++
			}
			pause = min(2*pause, time.Second)
		}
		if n := len(looks); n < 3600 || n > 7300 {
			t.Errorf("%d looks in an hour, want one in 0.5 to 1 s", n)
		}
		if same > len(looks)/10 {
			t.Errorf("%d of %d pauses are like the one before: they are not random", same, len(looks))
		}
		if calls := m.count(); calls > 3*len(looks) {
			t.Errorf("%d calls for %d looks", calls, len(looks))
		}
		t.Logf("an hour: %d looks, %d calls", len(looks), m.count())

		m.faults(nil)
		id, err := m.peer.Get(key, sysv.Create|0o666)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		m.puts(t, id, 1, 0)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > time.Second {
			t.Errorf("the new queue was found after %v", took)
		}
	})
}

// TestReopenOfMany bounds what the waits of one handle cost together.
func TestReopenOfMany(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		const key, waits = 42, 100
		if _, err := m.peer.Get(key, sysv.Create|0o666); err != nil {
			t.Fatal(err)
		}
		q, err := chanmq.Open(key, m.option(), chanmq.WithReopen())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		var all []<-chan error
		for range waits {
			all = append(all, receiving(t.Context(), q, chanmq.Any()))
		}
		if err := m.peer.Remove(q.ID()); err != nil {
			t.Fatal(err)
		}
		calls := m.during(func() { time.Sleep(time.Hour) })
		// One look-up for all of them, at most every half second, and what each
		// does once to notice the removal.
		if most := 7300 + 10*waits; calls > most || calls < 3600 {
			t.Errorf("%d calls in an hour, 3,600 to %d are due", calls, most)
		}
		t.Logf("%d calls in an hour, of %d waits", calls, waits)
		id, err := m.peer.Get(key, sysv.Create|0o666)
		if err != nil {
			t.Fatal(err)
		}
		for n := range waits {
			m.puts(t, id, 1, n)
		}
		for _, ended := range all {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}
