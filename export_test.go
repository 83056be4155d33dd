package chanmq

// What the tests, which are in a package of their own, see of the wait.

// Polled returns how many waits the handle's poller serves.
func Polled[T any](q *Queue[T]) int { return q.core().lot.Polled() }

// Packs reports whether the handle has WithPacking.
func Packs[T any](q *Queue[T]) bool { return q.core().options.packing }

// Polling returns a channel that is closed when the poller's goroutine has ended,
// or nil if there is none.
func Polling[T any](q *Queue[T]) <-chan struct{} { return q.core().lot.Polling() }

// CollectLarge looks for files that nobody will receive, as the handle does from time to time.
func CollectLarge[T any](q *Queue[T]) { q.core().collectLarge() }
