package serve

import (
	"errors"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/envelope"
)

// maxSweep bounds how many messages are looked at. Each look walks through the queue, in
// the kernel, with the queue locked. What nobody takes is among the oldest.
const maxSweep = 1000

// A sweeper takes replies out of a queue that nobody will take any more: those of clients
// that are dead, and those that have expired and are of clients of whom nothing is known. An
// expired reply to a client that lives is left to the client.
//
// It looks without taking (MSG_COPY), and then takes by type. Where the kernel cannot do
// that, it does nothing.
type sweeper struct {
	queue *chanmq.Queue[[]byte]
	keep  func(chanmq.Message[[]byte]) // what to do with a reply that was taken by mistake
	taken int                          // how many it has taken out
}

// sweep does it, and reports whether it has taken anything.
func (s *sweeper) sweep() (taken bool) {
	known := make(fates)
	stale := make(map[int64]int) // how many there are, by type
	looked := 0
	for m, err := range s.queue.Browse() {
		if err != nil {
			// Errors that matter, such as the queue's removal, come to those who receive.
			if errors.Is(err, errors.ErrUnsupported) {
				return false
			}
			break
		}
		if isStale(m, time.Now(), known) {
			stale[m.Type]++
		}
		if looked++; looked == maxSweep {
			break
		}
	}
	for typ, n := range stale {
		for range n {
			m, ok, err := s.queue.TryReceive(chanmq.OfType(typ))
			if !ok || err != nil {
				break
			}
			if !isStale(m, time.Now(), known) {
				s.keep(m) // its client has taken the other one meanwhile
				break
			}
			s.taken++
			taken = true
		}
	}
	return taken
}

// isStale reports whether nobody will take a message.
func isStale(m chanmq.Message[[]byte], now time.Time, known fates) bool {
	h, ok := replyHeader(m)
	if !ok {
		return false
	}
	if _, closed := closedTypes.Load(m.Type); closed {
		return true
	}
	switch known.of(h.Life) {
	case dead:
		return true
	case unknown:
		return h.Expiry != 0 && h.Expiry < now.UnixNano()
	}
	return false
}

// replyHeader returns the header of a reply to a Client.
func replyHeader(m chanmq.Message[[]byte]) (h envelope.Header, ok bool) {
	if m.Type < firstReplyTyp || !envelope.Begins(m.Value) {
		return h, false
	}
	h, _, err := envelope.Parse(m.Value)
	return h, err == nil && isReply(h.Kind)
}
