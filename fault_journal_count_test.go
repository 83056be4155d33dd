//go:build linux

package chanmq_test

import (
	"encoding/binary"
	"fmt"
	"os"
)

// This file counts what became of the messages of a run, from the records that the
// processes have appended to one file: their order there is that in which they happened.

// An outcome is what was counted.
type outcome struct {
	deaths, messages int
	lost, torn       int

	// Delivered again, since the process died before it had acknowledged them; and how
	// many of one process.
	again, mostAgain int
	unnoticed        int // how many that a Receiver's reader had read last were among them
	// Acknowledged, and the process died before it could write that.
	unwritten, mostUnwritten int
	// Received and acknowledged, and in the hands of the process when it died.
	inHand, mostInHand int
	// Delivered once more although they were acknowledged, since a process died between
	// sending them to a queue and acknowledging them.
	doubled int

	attempts     int // the highest attempt
	exact, short int // lengths that were inferred
}

func (o outcome) String() string {
	return fmt.Sprintf("%d processes died, %d messages: %d lost, %d torn; delivered again %d (at most %d of a process, the last %d of a Receiver); "+
		"acknowledged and not written %d (%d), received and in hand %d (%d), sent twice %d; up to %d attempts; lengths inferred: %d right, %d short",
		o.deaths, o.messages, o.lost, o.torn, o.again, o.mostAgain, o.unnoticed,
		o.unwritten, o.mostUnwritten, o.inHand, o.mostInHand, o.doubled, o.attempts, o.exact, o.short)
}

func (o *outcome) add(p outcome) {
	o.deaths += p.deaths
	o.messages += p.messages
	o.lost += p.lost
	o.torn += p.torn
	o.again += p.again
	o.mostAgain = max(o.mostAgain, p.mostAgain)
	o.unnoticed = max(o.unnoticed, p.unnoticed)
	o.unwritten += p.unwritten
	o.mostUnwritten = max(o.mostUnwritten, p.mostUnwritten)
	o.inHand += p.inHand
	o.mostInHand = max(o.mostInHand, p.mostInHand)
	o.doubled += p.doubled
	o.attempts = max(o.attempts, p.attempts)
	o.exact += p.exact
	o.short += p.short
}

// The bounds, for each process.

// mayComeAgain is how many messages a process may have that are not acknowledged.
func (r run) mayComeAgain() int {
	switch r.How {
	case "take":
		return r.Hold * r.Readers
	case "consumer", "borrowed":
		return r.Hold
	case "receiver":
		return r.readUnnoticed() * r.Readers
	case "merge":
		return r.readUnnoticed() * r.Lanes
	case "close":
		return (r.readUnnoticed() + r.Hold) * r.Readers
	}
	return 0 // direct calls: none that was returned
}

// readUnnoticed is how many messages the program may have read of a Receiver that does not
// know it yet.
func (r run) readUnnoticed() int {
	if r.How == "merge" {
		return 1 // Merge says what it has passed on
	}
	return r.Buffer + 1
}

// mayBeInHand is how many messages are the program's, and no longer the journal's, before
// it can write that down.
func (r run) mayBeInHand() int {
	switch r.How {
	case "receiver", "direct", "into", "merge", "close":
		return r.Readers
	case "batch":
		return r.Readers * r.atOnce()
	}
	return 0
}

// atOnce is how many messages a call returns.
func (r run) atOnce() int {
	if r.How == "batch" {
		return batchOf
	}
	return 1
}

// A messageState is what is known of a message.
type messageState struct {
	owner      int // the process that it was last delivered to
	reader     int // of that
	place      int // which one of the reader's messages it is
	deliveries int
	attempt    int
	givenBack  int // how many times
	givenAt    int // the last time
	state      int // the last record of it: delivered, read, acknowledged, given back
	passed     bool

	decodedBy, decodedFor int // process and reader
	decodedAt             int
}

// A processState is what is known of a process.
type processState struct {
	dying                    bool
	again, unwritten, inHand int
}

// A readerState is what is known of a goroutine that receives.
type readerState struct {
	delivered int // how many
	decodedAt int // the last of them
}

type counting struct {
	*running
	o         outcome
	messages  []messageState
	exists    func(id int) bool
	processes []processState
	dying     int // how many of them
	readers   map[[2]int]*readerState

	// In order: which process receives, up to where each of its lanes is, and from where
	// on it is not known what became of the messages.
	life int
	prev []int
	low  []int
}

func (x *running) count() outcome {
	data, err := os.ReadFile(x.log)
	if err != nil {
		x.t.Fatal(err)
	}
	step := len(x.sent)
	c := &counting{
		running:   x,
		processes: make([]processState, x.started.Load()+1),
		readers:   make(map[[2]int]*readerState),
		life:      -1,
		exists:    func(id int) bool { return id >= 0 && id/step < int(x.sent[id%step].Load()) },
	}
	most := 0
	for _, n := range x.sent {
		most = max(most, int(n.Load()))
		c.o.messages += int(n.Load())
	}
	c.messages = make([]messageState, most*step)
	c.o.deaths = int(x.deaths.Load())
	for lane := range max(1, x.Lanes) {
		c.low = append(c.low, lane)
		c.prev = append(c.prev, -1)
	}
	for at := 0; len(data) >= recordSize; at++ {
		what := binary.NativeEndian.Uint32(data)
		id := int(int32(binary.NativeEndian.Uint32(data[4:])))
		attempt, process := int(binary.NativeEndian.Uint32(data[8:])), int(binary.NativeEndian.Uint32(data[12:]))
		data = data[recordSize:]
		c.read(at, int(what&0xFF), int(what>>8), id, attempt, process)
		if x.t.Failed() {
			return c.o // what follows is not worth reading
		}
	}
	if len(data) > 0 {
		x.t.Errorf("%d bytes of a record", len(data))
	}
	c.rest()
	return c.o
}

func (c *counting) reader(process, reader int) *readerState {
	key := [2]int{process, reader}
	s := c.readers[key]
	if s == nil {
		s = new(readerState)
		c.readers[key] = s
	}
	return s
}

// read takes one record.
func (c *counting) read(at, what, reader, id, attempt, process int) {
	switch what {
	case recDying:
		c.processes[process].dying = true
		c.dying++
		return
	case recError:
		c.t.Errorf("process %d reported an error", process)
		return
	}
	if !c.exists(id) {
		c.t.Errorf("process %d: record %d of message %d, which was not sent", process, what, id)
		return
	}
	m := &c.messages[id]
	switch what {
	case recDecoded:
		m.decodedBy, m.decodedFor, m.decodedAt = process, reader, at
	case recDelivered, recRead:
		c.delivered(m, what, reader, id, attempt, process)
	case recAcknowledged, recGivenBack:
		if m.state != recDelivered || m.owner != process {
			c.t.Errorf("process %d: record %d of message %d, which process %d has (%d)", process, what, id, m.owner, m.state)
		}
		if m.state = what; what == recGivenBack {
			m.givenBack++
			m.givenAt = at
		}
	case recTorn:
		c.o.torn++
	case recShort:
		c.o.short++
	case recExact:
		c.o.exact++
	}
}

func (c *counting) delivered(m *messageState, what, reader, id, attempt, process int) {
	s := c.reader(process, reader)
	s.delivered++
	if m.decodedBy == process {
		s.decodedAt = m.decodedAt
	}
	switch {
	case m.deliveries == 0 || m.state == recGivenBack:
	case m.state == recAcknowledged || m.owner == process || !c.processes[m.owner].dying:
		// A copy of it: see doubles.
		if c.o.doubled++; c.doubles == 0 {
			c.t.Errorf("message %d comes again to process %d, and was process %d's (%d)", id, process, m.owner, m.state)
		}
	default:
		p := &c.processes[m.owner]
		c.o.again++
		p.again++
		c.o.mostAgain = max(c.o.mostAgain, p.again)
		if p.again > c.mayComeAgain() {
			c.t.Errorf("process %d has left %d messages that come again, more than %d", m.owner, p.again, c.mayComeAgain())
		}
		if since := c.reader(m.owner, m.reader).delivered - m.place; m.state == recRead && c.How != "close" {
			c.o.unnoticed = max(c.o.unnoticed, since+1)
			if since >= c.readUnnoticed() {
				c.t.Errorf("message %d comes again, and reader %d of process %d has read %d after it", id, m.reader, m.owner, since)
			}
		}
	}
	if what == recDelivered {
		c.o.attempts = max(c.o.attempts, attempt)
		// What the kernel had in between counts anew.
		if !c.sentAgain() && (attempt <= m.attempt || attempt > 1+c.dying+m.givenBack) {
			c.t.Errorf("message %d: attempt %d comes after attempt %d, with %d deaths, and %d times given back", id, attempt, m.attempt, c.dying, m.givenBack)
		}
		m.attempt = attempt
	}
	m.deliveries++
	m.owner, m.reader, m.place, m.state = process, reader, s.delivered, what
	if c.Ordered && c.How != "forward" {
		c.inOrder(m, id, process)
	}
}

// inOrder checks that a message comes behind those that are before it. Of these, each was
// acknowledged, or was in the hands of a process that died.
func (c *counting) inOrder(m *messageState, id, process int) {
	lanes := len(c.low)
	lane := id % lanes
	if process != c.life {
		c.life = process
		for i := range c.prev {
			c.prev[i] = -1
		}
	}
	from := c.prev[lane] + lanes
	first := c.prev[lane] < 0
	if first {
		from = c.low[lane]
	}
	if m.passed || id < from {
		c.t.Errorf("message %d comes behind a later one", id)
	}
	for before := from; before < id; before += lanes {
		b := &c.messages[before]
		switch {
		case b.state == recDelivered && c.processes[b.owner].dying && b.owner != process, b.state == recAcknowledged, b.state == recRead:
		case b.deliveries == 0 && first && c.mayBeInHand() > 0:
		default:
			c.t.Errorf("message %d comes to process %d before message %d (process %d, %d)", id, process, before, b.owner, b.state)
		}
		b.passed = true
	}
	if first {
		c.low[lane] = id
	}
	c.prev[lane] = id
}

// inHand reports, and counts, that a message is missing because the process that received
// it died before it had written that down.
func (c *counting) inHand(m *messageState) bool {
	by := &c.processes[m.decodedBy]
	if c.mayBeInHand() == 0 || m.decodedBy == 0 || !by.dying || m.decodedAt+c.atOnce() <= c.reader(m.decodedBy, m.decodedFor).decodedAt {
		return false
	}
	by.inHand++
	c.o.inHand++
	c.o.mostInHand = max(c.o.mostInHand, by.inHand)
	return true
}

// rest looks at what became of each message in the end.
func (c *counting) rest() {
	unknown := 0
	for id := range c.messages {
		m := &c.messages[id]
		switch {
		case !c.exists(id):
		case m.deliveries == 0 && c.Values != "recorded" && c.mayBeInHand() > 0:
			unknown++
		case m.deliveries == 0:
			if !c.inHand(m) {
				c.o.lost++
				c.t.Errorf("message %d is lost", id)
			}
		case m.state == recDelivered:
			by := &c.processes[m.owner]
			if !by.dying {
				c.o.lost++
				c.t.Errorf("message %d was not acknowledged, and does not come again", id)
			}
			by.unwritten++
			c.o.unwritten++
			c.o.mostUnwritten = max(c.o.mostUnwritten, by.unwritten)
		case m.state == recGivenBack:
			if m.decodedAt > m.givenAt && c.inHand(m) {
				continue // received by a Receiver, which needs no acknowledgement
			}
			c.o.lost++
			c.t.Errorf("message %d was given back, and does not come again", id)
		}
	}
	c.o.inHand += unknown
	if c.o.inHand > c.o.deaths*c.mayBeInHand() || c.o.mostInHand > c.mayBeInHand() {
		c.t.Errorf("%d messages are missing, up to %d of a process", c.o.inHand, c.o.mostInHand)
	}
	if c.o.mostUnwritten > c.Readers {
		c.t.Errorf("a process has acknowledged %d messages and not written that", c.o.mostUnwritten)
	}
	if c.o.doubled > c.o.deaths*c.doubles {
		c.t.Errorf("%d messages were sent twice", c.o.doubled)
	}
	if c.o.torn > 0 {
		c.t.Errorf("%d messages are torn", c.o.torn)
	}
}
