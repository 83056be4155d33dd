// Package chanmqtest is for the tests of programs that use chanmq.
//
// [New] creates a private queue on the real kernel, and fails the test if it
// leaves messages, handles or goroutines behind. [Simulated] creates a kernel in
// memory, for tests that need faults, other users, the clock of
// [testing/synctest], or an operating system without System V queues.
package chanmqtest

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chanmq/chanmq"
)

// New creates a private queue for one test. When the test ends, the queue is
// closed and removed, and the test fails if something is left:
//
//   - messages in the queue, or messages that its Close could not send back to
//     it ([chanmq.UndeliveredError]): the program under test did not receive
//     everything that it should have. See [AllowLeftover].
//   - handles that the test opened after the call of New and that are not closed,
//     whatever their queue. The test's failure shows the calls that opened them.
//   - goroutines that the test started after the call of New and that are still
//     inside package chanmq: the Receivers and Senders of handles that are not
//     closed, and calls that wait.
//
// They get a few seconds to close and to end. A goroutine belongs to the test that
// started it, directly or through other goroutines that still run, so tests that
// run in parallel are not blamed for each other; a subtest that calls New itself
// is a test of its own. Handles that are closed by t.Cleanup must be opened after
// the call of New, so that they are closed before the check. Handles that several
// tests share must be opened before those tests call New, for example in TestMain.
//
// Where the operating system has no System V queues the test is skipped;
// [Simulated] works there too. A test binary that is killed cannot remove its
// queue.
func New(t testing.TB, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	return newQueue(t, opts)
}

// newQueue is New. inspect are the options of the handle that checks for messages
// that are left.
func newQueue(t testing.TB, opts []chanmq.Option, inspect ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	watchTest(t)
	q, err := chanmq.Private(0o600, opts...)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skipf("chanmqtest: %v; chanmqtest.Simulated needs no kernel", err)
	}
	if err != nil {
		t.Fatalf("chanmqtest: %v", err)
	}
	t.Cleanup(func() {
		t.Helper()
		finish(t, q, inspect)
	})
	return q
}

// allowed has the queues that AllowLeftover was called for as its keys.
var allowed sync.Map

// AllowLeftover allows messages to be left in a queue of [New] when its test ends.
// They are removed with the queue.
func AllowLeftover(q *chanmq.Queue[[]byte]) { allowed.Store(q, true) }

// finish closes and removes the queue, and reports the messages that were left.
func finish(t testing.TB, q *chanmq.Queue[[]byte], inspect []chanmq.Option) {
	t.Helper()
	id := q.ID()
	other, err := chanmq.Attach(id, inspect...) // since q cannot be used after Close
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("chanmqtest: checking for messages that are left: %v", err)
	}
	before := make(leftover)
	if other != nil {
		before.browse(other)
	}

	left := make(leftover)
	var undelivered *chanmq.UndeliveredError
	if err := q.Close(); errors.As(err, &undelivered) {
		for _, m := range undelivered.Messages {
			left[m.Type]++
		}
		for _, m := range undelivered.Unencoded {
			left[m.Type]++
		}
	} else if err != nil {
		t.Errorf("chanmqtest: %v", err)
	}

	if other != nil {
		err := left.take(other)
		if errors.Is(err, chanmq.ErrRemoved) {
			// By Close itself (WithRemoveOnClose), with the messages in it.
			left.add(before)
		} else if err != nil {
			t.Errorf("chanmqtest: checking for messages that are left: %v", err)
		}
		if err := other.Remove(); err != nil && !errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("chanmqtest: %v", err)
		}
		_ = other.Close() // it holds nothing
	}
	if _, ok := allowed.LoadAndDelete(q); !ok && len(left) > 0 {
		t.Errorf("chanmqtest: msqid %d: the test left %v; receive them, or call AllowLeftover", id, left)
	}
}

// leftover counts messages by type.
type leftover map[int64]int

// browse counts the messages in a queue without taking them. Where the kernel
// cannot do that, nothing is counted.
func (l leftover) browse(q *chanmq.Queue[[]byte]) {
	for m, err := range q.Browse() {
		if err == nil {
			l[m.Type]++
		}
	}
}

// take takes and counts the messages that are in a queue now, and no more, since
// somebody may still be sending.
func (l leftover) take(q *chanmq.Queue[[]byte]) error {
	stat, err := q.Stat()
	for n := stat.Messages; err == nil && n > 0; n-- {
		var m chanmq.Message[[]byte]
		var ok bool
		if m, ok, err = q.TryReceive(chanmq.Any()); !ok {
			break
		}
		l[m.Type]++
	}
	return err
}

func (l leftover) add(other leftover) {
	for typ, n := range other {
		l[typ] += n
	}
}

// String is like "3 messages: 2 of type 1, 1 of type 7".
func (l leftover) String() string {
	var sum int
	var types []string
	for _, typ := range slices.Sorted(maps.Keys(l)) {
		sum += l[typ]
		types = append(types, fmt.Sprintf("%d of type %d", l[typ], typ))
	}
	plural := "s"
	if sum == 1 {
		plural = ""
	}
	return fmt.Sprintf("%d message%s: %s", sum, plural, strings.Join(types, ", "))
}
