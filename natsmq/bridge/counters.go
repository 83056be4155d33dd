package bridge

import "sync/atomic"

// Counters are what a Bridge has done since New.
type Counters struct{ Out, In Direction }

// Direction is what a Bridge has done in one direction.
type Direction struct {
	Messages uint64 // moved: the other queue has them
	Bytes    uint64 // of their texts
	// Again is how many messages an earlier process had taken that did not end well. Out, none of
	// them was moved twice. In, the last one of each type may have been.
	Again uint64
	// Inferred is how many of those may lack bytes at their end.
	Inferred    uint64
	Dead        uint64 // messages moved to the queue for dead letters
	Full        uint64 // how often the other queue had no room
	Unavailable uint64 // how often no server answered
	Held        uint64 // messages that the bridge has at the moment
}

// counters are Direction, to be counted by all lanes.
type counters struct {
	messages, bytes, again, inferred, dead, full, unavailable, held atomic.Uint64
}

func (c *counters) read() Direction {
	return Direction{
		Messages: c.messages.Load(), Bytes: c.bytes.Load(), Again: c.again.Load(), Inferred: c.inferred.Load(),
		Dead: c.dead.Load(), Full: c.full.Load(), Unavailable: c.unavailable.Load(), Held: c.held.Load(),
	}
}

func (c *counters) moved(size int) {
	c.messages.Add(1)
	c.bytes.Add(uint64(size))
}

// Counters returns what the bridge has done. They are read one after the other. It works after Close.
func (b *Bridge) Counters() Counters { return Counters{Out: b.out.read(), In: b.in.read()} }
