//go:build linux

package chanmq_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

// roles are what the test binary does as another process: testkit.Start. Those
// that several files use are here; each file adds its own.
var roles = map[string]testkit.Role{}

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, roles)) }

func init() {
	roles["send"] = sendRole
	roles["remove"] = func(args []string) error {
		q, err := attachArg(args[0])
		if err != nil {
			return err
		}
		return errors.Join(q.Remove(), q.Close())
	}
}

// attachArg opens the queue whose msqid a role is given.
func attachArg(arg string) (*chanmq.Queue[[]byte], error) {
	id, err := strconv.Atoi(arg)
	if err != nil {
		return nil, err
	}
	return chanmq.Attach(id)
}

// sendRole sends the numbers 0 to count-1: msqid, type, count.
func sendRole(args []string) error {
	q, err := attachArg(args[0])
	if err != nil {
		return err
	}
	typ, _ := strconv.ParseInt(args[1], 10, 64)
	count, _ := strconv.Atoi(args[2])
	for n := range count {
		if err := q.Send(context.Background(), typ, number(n)); err != nil {
			return err
		}
	}
	return q.Close()
}

// newQueue creates a queue, which is closed and removed when the test ends.
func newQueue(t testing.TB, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Private(0o600, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return adopt(t, q)
}

// newKeyed is newQueue under a key that no other queue has.
func newKeyed(t testing.TB, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	for {
		q, err := chanmq.Create(randomKey(), 0o600, append(opts, chanmq.WithExclusive())...)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		return adopt(t, q)
	}
}

// adopt has the handle closed and the queue removed when the test ends.
func adopt(t testing.TB, q *chanmq.Queue[[]byte]) *chanmq.Queue[[]byte] {
	t.Helper()
	testkit.Reap(t, q.ID())
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Errorf("Close at the end of the test: %v", err)
		}
	})
	return q
}

// attach opens another handle for the queue.
func attach(t testing.TB, id int) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Attach(id)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { q.Close() })
	return q
}

// must is for calls that a test could not go on without.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// randomKey returns a key that most likely names no queue.
func randomKey() chanmq.Key { return chanmq.Key(1 + rand.N[int32](1<<30)) }

// ctxWithin returns a ctx for what has to happen: it ends only when the test would
// hang.
func ctxWithin(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// background runs f in a goroutine that the end of the test waits for. By then
// t.Context has ended.
func background(t testing.TB, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	t.Cleanup(func() { <-done })
}

// nobody is a user without capabilities who has nothing to do with the one that
// runs the tests.
const nobody = 65534

// asNobody runs do on a thread of that user, who owns the queues that do creates.
func asNobody(t testing.TB, do func()) {
	t.Helper()
	user := sysvtest.Host(t).As(t, nobody, nobody)
	if err := user(func(sysv.Kernel) error { do(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// statOf returns what every user may know of a queue.
func statOf(t testing.TB, id int) chanmq.Stat {
	t.Helper()
	stats, err := chanmq.List()
	if err != nil {
		t.Fatal(err)
	}
	for _, stat := range stats {
		if stat.ID == id {
			return stat
		}
	}
	t.Fatalf("List does not contain msqid %d", id)
	panic("unreachable")
}

func countMessages(t testing.TB, q *chanmq.Queue[[]byte]) int {
	t.Helper()
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return stat.Messages
}

// wantUnchanged checks that what the test does next neither sends nor takes.
func wantUnchanged(t testing.TB, q *chanmq.Queue[[]byte]) {
	t.Helper()
	before, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if after, err := q.Stat(); err != nil || after != before {
			t.Errorf("the queue was\n%+v and is\n%+v, %v", before, after, err)
		}
	})
}

// untilAsleep waits until n calls of this process sleep in the kernel.
func untilAsleep(t testing.TB, n int) {
	t.Helper()
	machine := sysvtest.Host(t)
	testkit.Eventually(t, fmt.Sprintf("%d calls asleep", n), func() bool { return machine.Asleep(t) >= n })
}

// largest returns how large a message may be on this machine.
func largest(t testing.TB) int {
	t.Helper()
	limits, err := chanmq.ReadLimits()
	if err != nil {
		t.Fatal(err)
	}
	return min(limits.MaxMessage, limits.MaxBytes)
}

// wantError checks an error: what it is, and that its text has all the words.
func wantError(t testing.TB, what string, err, is error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
		return
	}
	if is != nil && !errors.Is(err, is) {
		t.Errorf("%s: %v, which is not %v", what, err, is)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v, which does not say %q", what, err, word)
		}
	}
}

// number is the text of most messages of these tests: 4 bytes.
func number(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

func numberOf(text []byte) int { return int(binary.NativeEndian.Uint32(text)) }

func message(n int) chanmq.Message[[]byte] {
	return chanmq.Message[[]byte]{Type: 1, Value: number(n)}
}

// sendNumbers sends from, from+1, ... to-1 as messages of the type.
func sendNumbers(t testing.TB, q *chanmq.Queue[[]byte], typ int64, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		if err := q.Send(ctxWithin(t), typ, number(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// wantNumbers receives from, from+1, ... to-1 by direct calls.
func wantNumbers(t testing.TB, q *chanmq.Queue[[]byte], s chanmq.Selector, from, to int) {
	t.Helper()
	for n := from; n < to; n++ {
		m, err := q.Receive(ctxWithin(t), s)
		if err != nil {
			t.Fatalf("receiving %d: %v", n, err)
		}
		if got := numberOf(m.Value); got != n {
			t.Fatalf("received %d, want %d", got, n)
		}
	}
}

func wantNone(t testing.TB, q *chanmq.Queue[[]byte]) {
	t.Helper()
	if m, ok, err := q.TryReceive(chanmq.Any()); ok || err != nil {
		t.Fatalf("TryReceive: %v, %v, %v; want nothing", m, ok, err)
	}
}

// takeAll takes what the queue and the handle hold.
func takeAll(t testing.TB, q *chanmq.Queue[[]byte], took func(chanmq.Message[[]byte])) {
	t.Helper()
	for {
		m, ok, err := q.TryReceive(chanmq.Any())
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return
		}
		took(m)
	}
}

// untilTaken waits until the queue holds n messages: the pumps have taken what
// they take.
func untilTaken(t testing.TB, q *chanmq.Queue[[]byte], n int) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("%d messages in the queue", n), func() bool {
		stat, err := q.Stat()
		return err == nil && stat.Messages == n
	})
}

// fill sends messages of type 9, 1,024 bytes each, until no other fits.
func fill(t testing.TB, q *chanmq.Queue[[]byte]) (messages int) {
	t.Helper()
	for {
		sent, err := q.TrySend(9, make([]byte, 1024))
		if err != nil {
			t.Fatal(err)
		}
		if !sent {
			return messages
		}
		messages++
	}
}
