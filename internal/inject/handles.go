package inject

import "sync/atomic"

// Handles watches the handles of the process. It is nil unless package chanmqtest
// sets it.
var Handles atomic.Pointer[Watcher]

// Watcher has the functions that the root package calls. They must be safe for
// concurrent use. handle is comparable, and the same in both calls.
type Watcher struct {
	// Opened is called by the goroutine that opens the handle. key is 0 for a
	// private queue.
	Opened func(handle any, key int32, msqid int)
	// Closed is called once, when the handle begins to close.
	Closed func(handle any)
}
