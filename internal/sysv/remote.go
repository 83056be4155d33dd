package sysv

// This file is what a Kernel that is elsewhere, reached over a network, has beyond the
// calls of System V.

// Traits say what a Kernel is like beyond its calls.
type Traits struct {
	// Remote means that each call is a trip over a network. Whatever may have to wait is
	// called in a [Thread], where it can be interrupted: nothing spins, nothing polls, and a
	// wait costs no thread of the operating system.
	//
	// A call of a Thread is made without a Kernel's call before it. So its Send returns
	// EINVAL for a message that is larger than the queue may ever hold, in place of
	// waiting. It may wait while the servers cannot be reached, and Enter does not fail. Calls
	// of the Kernel end by themselves within seconds. Errors that chanmq.ErrUnavailable and
	// chanmq.ErrUncertain are for wrap those; ErrUncertain is of sends alone.
	Remote bool

	// LimitNames say in errors what sets the limits of a Remote. They are those of now, as Limits are.
	LimitNames LimitNames
}

// LimitNames are what sets each of the Limits, so that whoever has met one knows what to change.
type LimitNames struct {
	MaxMessage, MaxQueues string
	// Fullness is what fills a queue beside what Stat counts.
	Fullness string
}

// Leaser is a Kernel that can leave a message in its queue while somebody deals with it.
// Its Threads are LeasingThreads. What it has leased in advance, and not given out, is for
// the others again at Release, behind which a receive that comes late gets none of it; and
// before that if nobody asks for it for some time, since a Consumer may have ended.
type Leaser interface {
	Kernel
	// ReceiveLeased is Receive, but the message stays in the queue until its lease ends.
	// Others that receive with a lease do not get it meanwhile. It takes what is there
	// without a trip, or returns ENOMSG.
	ReceiveLeased(id int, buf []byte, msgtyp, flags int) (n int, l Lease, err error)
	// TryLeased is ReceiveLeased that makes the trip if nothing is there. It does not wait
	// for a message.
	TryLeased(id int, buf []byte, msgtyp, flags int) (n int, l Lease, err error)
}

// LeasingThread is a Thread of a Leaser.
type LeasingThread interface {
	Thread
	// ReceiveLeased is Leaser.ReceiveLeased, but waits for a message. EINTR: it was
	// interrupted, and nothing was taken.
	ReceiveLeased(id int, buf []byte, msgtyp, flags int) (n int, l Lease, err error)
}

// Lease is the right to a message that is in its queue still. It lasts until Ack or Release,
// or until the process ends; then somebody else gets the message. Each lease is ended once,
// by any goroutine. Programs keep deliveries for longer than the handle, so a lease works
// as before when its Kernel is released.
type Lease interface {
	// Attempt is how many times the message was leased, this time included.
	Attempt() int
	// Ack takes the message out of the queue. It does not wait for that.
	Ack() error
	// Release leaves it to others, in its place.
	Release()
}
