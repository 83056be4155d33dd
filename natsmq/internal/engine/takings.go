package engine

import (
	"hash/maphash"
	"time"
)

// This file is what an Engine remembers of what it has taken. It is every message of the last
// minutes, which may be millions, so a message is not more than a few bits here, and a few bytes.

// taken is a message that somebody has taken.
type taken struct {
	queue int
	seq   uint64
}

// takings are the messages that an Engine has taken of late.
type takings struct {
	generations [2]generation // the second is older
	turned      time.Time     // when the first became the second
	seed        maphash.Seed
}

// generation is the takings of a time.
type generation struct {
	seqs map[block]uint64    // a bit for each sequence: those of a queue are taken close together
	ids  map[uint64]struct{} // hashes of queues and ids
}

// block is 64 sequences of a queue.
type block struct {
	queue int
	n     uint64
}

// remembered is how long a peer knows at least what it has taken: as long as a server knows an
// id, and asking takes.
const remembered = 2 * dedupeWindow

func (t *takings) init() {
	t.seed = maphash.MakeSeed()
	t.turn(time.Now())
}

// turn makes room for new ones.
func (t *takings) turn(now time.Time) {
	t.generations = [2]generation{{make(map[block]uint64), make(map[uint64]struct{})}, t.generations[0]}
	t.turned = now
}

func (t *takings) add(m taken, id string, now time.Time) {
	if now.Sub(t.turned) > remembered {
		t.turn(now)
	}
	g := &t.generations[0]
	g.seqs[block{m.queue, m.seq / 64}] |= 1 << (m.seq % 64)
	if id != "" {
		g.ids[t.hash(m.queue, id)] = struct{}{}
	}
}

func (t *takings) has(m taken) bool {
	for _, g := range t.generations {
		if g.seqs[block{m.queue, m.seq / 64}]&(1<<(m.seq%64)) != 0 {
			return true
		}
	}
	return false
}

// hasID reports whether a message with the id was taken. It is wrong about one that was not with a probability of
// 2^-64 for each that is remembered: 2^-40 with 16 million. It is asked only where a server has died with the
// answer to a send; then a send that failed would be taken for one that was done.
func (t *takings) hasID(queue int, id string) bool {
	h := t.hash(queue, id)
	for _, g := range t.generations {
		if _, ok := g.ids[h]; ok {
			return true
		}
	}
	return false
}

func (t *takings) hash(queue int, id string) uint64 {
	return maphash.Comparable(t.seed, struct {
		queue int
		id    string
	}{queue, id})
}
