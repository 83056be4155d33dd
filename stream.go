package chanmq

// stream predicts whether a message will be followed by another one at once, from
// what came of the last ones. Where the sender waits for an answer, none is.
type stream struct {
	skip  int // how many messages to leave out
	fails int // how often in a row none followed
}

const (
	// triesPerFollower takes as long as a C program that sends as fast as it
	// can needs for one or two messages.
	triesPerFollower = 8
	// After so many failures in a row, one message in 2 to the power of it is
	// waited behind.
	maxStreamFails = 6
)

// expected reports whether to wait for a message behind the n-th of a batch.
func (s *stream) expected(n int) bool {
	if s.skip > 0 {
		s.skip--
		return false
	}
	if n == 1 { // until it came
		s.fails = min(s.fails+1, maxStreamFails)
		s.skip = 1<<s.fails - 1
	}
	return true
}

func (s *stream) came() { *s = stream{} }
