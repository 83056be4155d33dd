package serve

import "github.com/chanmq/chanmq/internal/envelope"

// A client puts into its requests what proves its end: pid, pid namespace, and the time
// when the process started. The server copies it into the reply. So whoever finds a reply
// in a queue can tell whether anybody is left who will take it, without knowing the client.

// fate is what is known of a client.
type fate int

const (
	unknown fate = iota // it lives where this process cannot look
	alive
	dead
)

// fateOf returns what this process can prove of another one. A process in the same pid
// namespace is dead if its pid does not exist, or if it is another process's now, which has
// another start time. The latter can be compared within a time namespace only.
func fateOf(l envelope.Life) fate {
	own := ownLife()
	if l.PID == 0 || l.PIDNamespace == 0 || l.PIDNamespace != own.PIDNamespace {
		return unknown
	}
	exists, start := lookAt(int(l.PID))
	switch {
	case !exists:
		return dead
	case start != 0 && l.Start != 0 && l.Start != start && l.TimeNamespace == own.TimeNamespace:
		return dead
	}
	return alive
}

// fates remembers what was found out, for one look through a queue.
type fates map[envelope.Life]fate

func (f fates) of(l envelope.Life) fate {
	known, ok := f[l]
	if !ok {
		known = fateOf(l)
		f[l] = known
	}
	return known
}
