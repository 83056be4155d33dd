package chanmq

import "testing"

// TestStream: how many of the messages that come one by one are waited behind for
// another, and that one that comes is taken as the sign of more.
func TestStream(t *testing.T) {
	var s stream
	waited := 0
	const messages = 1 << 12
	for range messages {
		if s.expected(1) {
			waited++
		}
	}
	if most := messages/(1<<maxStreamFails) + maxStreamFails; waited > most || waited < most/2 {
		t.Errorf("%d of %d single messages were waited behind, at most %d should be", waited, messages, most)
	}
	s.came()
	for n := 1; n < 10; n++ {
		if !s.expected(n) {
			t.Fatalf("after one that followed, none is expected behind message %d of a batch", n)
		}
		s.came()
	}
	if !s.expected(10) || !s.expected(1) {
		t.Error("the end of a batch counts as a failure")
	}
}
