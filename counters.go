package chanmq

import (
	"sync/atomic"

	"github.com/chanmq/chanmq/internal/wait"
)

// Counters are what a handle with [WithCounters] has done since it was opened, for all of
// its views together: [Queue.Counters]. Those that are not said to be a number at the moment
// never fall.
type Counters struct {
	Sent      uint64 // messages that the kernel has accepted: of Send, TrySend, Senders, Forward
	SentBytes uint64 // bytes of their texts, as the kernel counts them

	Taken      uint64 // messages taken off the kernel queue
	TakenBytes uint64 // bytes of their texts
	Adopted    uint64 // messages taken over from the journals of dead processes

	HandedBack uint64 // messages put into the handle's slot: of Receivers that ended, of Nack, of codecs that panicked
	TakenAgain uint64 // messages that a receive got out of the slot: handed back, adopted, or left there of a pack
	Returned   uint64 // messages put back into the kernel queue, or left there: by Close, by Shutdown, by Nack after Close

	DecodeErrors uint64 // messages taken that did not decode

	Acks, Nacks uint64 // deliveries that the program has acknowledged, or given back

	// InFlight is how many deliveries of Take and of Consumers are neither acknowledged
	// nor given back at the moment, those that are unread in a Consumer's C included.
	InFlight int64
	// Unacknowledged is how many messages the handle has in journals at the moment: what
	// the next process would get if this one died now. Without a journal it is 0.
	Unacknowledged int64

	ReceiveWaits, SendWaits Waits
}

// Waits are receives, or sends, by the stage in which they ended, see [WaitStage]: with a
// message, with an error, or with the end of their ctx. Those that never wait are not
// counted: TryReceive and TrySend, messages that a Receiver takes together with another
// one, and calls whose ctx has ended before they begin.
type Waits struct {
	AtOnce, Spun, InLine, Parked, Polled uint64

	Canceled uint64 // those of all stages that their ctx, or the end of a Receiver or Sender, has ended
}

// counters are the Counters that are counted; the others are the queue's. Its fields are
// atomic, each for itself, and written by whoever does the thing.
type counters struct {
	sent, sentBytes         atomic.Uint64
	taken, takenBytes       atomic.Uint64
	adopted                 atomic.Uint64
	handedBack, takenAgain  atomic.Uint64
	returned                atomic.Uint64
	decodeErrors            atomic.Uint64
	acks, nacks             atomic.Uint64
	unacknowledged          atomic.Int64
	receiveWaits, sendWaits waitCounters
}

// waitCounters are Waits that are counted.
type waitCounters struct {
	stages   [wait.Stages]atomic.Uint64
	canceled atomic.Uint64
}

// ended counts a wait that has ended in the stage.
func (w *waitCounters) ended(stage wait.Stage, canceled bool) {
	w.stages[stage].Add(1)
	if canceled {
		w.canceled.Add(1)
	}
}

func (w *waitCounters) read() Waits {
	return Waits{
		AtOnce:   w.stages[wait.AtOnce].Load(),
		Spun:     w.stages[wait.Spun].Load(),
		InLine:   w.stages[wait.InLine].Load(),
		Parked:   w.stages[wait.Parked].Load(),
		Polled:   w.stages[wait.Polled].Load(),
		Canceled: w.canceled.Load(),
	}
}

func (c *counters) read() Counters {
	return Counters{
		Sent:           c.sent.Load(),
		SentBytes:      c.sentBytes.Load(),
		Taken:          c.taken.Load(),
		TakenBytes:     c.takenBytes.Load(),
		Adopted:        c.adopted.Load(),
		HandedBack:     c.handedBack.Load(),
		TakenAgain:     c.takenAgain.Load(),
		Returned:       c.returned.Load(),
		DecodeErrors:   c.decodeErrors.Load(),
		Acks:           c.acks.Load(),
		Nacks:          c.nacks.Load(),
		Unacknowledged: c.unacknowledged.Load(),
		ReceiveWaits:   c.receiveWaits.read(),
		SendWaits:      c.sendWaits.read(),
	}
}
