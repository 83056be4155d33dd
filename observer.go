package chanmq

import (
	"context"
	"fmt"
	"time"

	"github.com/chanmq/chanmq/internal/wait"
)

// An Event is one thing that a handle has done, as the function of [WithObserver] is told
// of it.
type Event struct {
	Op   Operation
	ID   int   // msqid
	Key  Key   // 0: a private queue
	Type int64 // of the message; 0: there is none, since a receive has failed
	Size int   // bytes of the message's text; 0 also if a send could not encode it
	// Messages is how many messages: 1, or more if a send has packed several ([WithPacking]),
	// or 0 if a receive has failed.
	Messages int

	// Duration is how long it took: see Operation. The event is reported at its end.
	Duration time.Duration
	// Wait is the stage in which a send or a receive has ended.
	Wait WaitStage
	// Attempt is [Delivery.Attempt], where there is a Delivery: of Take's receives, a
	// Consumer's deliveries, acks and nacks. Otherwise it is 0.
	Attempt int
	// Err is why it failed, nil if it did not: what the call returns, or Err of the
	// Receiver, Consumer or Sender, which has ended.
	Err error
}

// An Operation is what an [Event] is about.
type Operation string

const (
	// OpSend: a message was sent, or could not be, by Send, TrySend, a Sender or Forward.
	// Its duration includes the codec and the wait for room.
	OpSend Operation = "send"
	// OpReceive: a message was taken and decoded, or that failed, by Receive, ReceiveInto,
	// TryReceive, Messages, Take, Forward, a Receiver or a Consumer. Its duration includes
	// the wait for the message and the codec.
	OpReceive Operation = "receive"
	// OpDeliver: C of a Receiver or a Consumer has taken a message, and nobody need have
	// read it from C's buffer. Its duration is how long C's reader was waited for.
	OpDeliver Operation = "deliver"
	// OpAck: the program has acknowledged a delivery. Its duration is the time since the
	// delivery, in which the program has dealt with the message.
	OpAck Operation = "ack"
	// OpNack: the program has given a delivery back. Its duration is that of OpAck.
	OpNack Operation = "nack"
)

// WaitStage is how far a wait for a message, or for room, went before it ended.
type WaitStage uint8

// The stages of a wait, see docs/waiting.md. A wait that ended because of its ctx, or of a
// message that was handed back, ended in the last stage that it had got to.
const (
	WaitAtOnce WaitStage = WaitStage(wait.AtOnce) // it did not wait
	WaitSpun   WaitStage = WaitStage(wait.Spun)   // it tried again and again for some 20 microseconds, see WithSpin
	WaitInLine WaitStage = WaitStage(wait.InLine) // it waited behind another receive with the same selector
	WaitParked WaitStage = WaitStage(wait.Parked) // its thread slept in the kernel; on a cluster, it asked the servers
	WaitPolled WaitStage = WaitStage(wait.Polled) // the handle's poller served it, see WithMaxParked
)

var waitStageNames = [wait.Stages]string{
	WaitAtOnce: "at once", WaitSpun: "spun", WaitInLine: "in line", WaitParked: "parked", WaitPolled: "polled",
}

// String returns "at once", "spun", "in line", "parked" or "polled".
func (s WaitStage) String() string {
	if int(s) < len(waitStageNames) {
		return waitStageNames[s]
	}
	return fmt.Sprintf("WaitStage(%d)", uint8(s))
}

// observer is the function of WithObserver.
type observer func(context.Context, Event)
