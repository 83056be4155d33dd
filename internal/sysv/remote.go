package sysv

// This file is what a Kernel that is elsewhere, reached over a network, has beyond the
// calls of System V.

// Traits say what a Kernel is like beyond its calls.
type Traits struct {
	// Remote means that each call is a trip over a network. Whatever may have to wait is
	// called in a [Thread], where it can be interrupted: nothing spins, nothing polls, and a
	// wait costs no thread of the operating system.
	Remote bool
}

// Leaser is a Kernel that can leave a message in its queue while somebody deals with it.
// Its Threads are LeasingThreads.
type Leaser interface {
	Kernel
	// ReceiveLeased is Receive, but the message stays in the queue until its lease ends.
	// Others that receive with a lease do not get it meanwhile. It takes what is there
	// without a trip, or returns ENOMSG.
	ReceiveLeased(id int, buf []byte, msgtyp, flags int) (n int, l Lease, err error)
}

// LeasingThread is a Thread of a Leaser.
type LeasingThread interface {
	Thread
	// ReceiveLeased is Leaser.ReceiveLeased, but waits for a message. EINTR: it was
	// interrupted, and nothing was taken.
	ReceiveLeased(id int, buf []byte, msgtyp, flags int) (n int, l Lease, err error)
}

// Lease is the right to a message that is in its queue still. It lasts until Ack or Release,
// or until the process ends; then somebody else gets the message. Each lease is ended once.
type Lease interface {
	// Attempt is how many times the message was leased, this time included.
	Attempt() int
	// Ack takes the message out of the queue. It does not wait for that.
	Ack() error
	// Release leaves it to others, in its place.
	Release()
}
