//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

// roles are what the test binary does as another process: testkit.Start. Each
// file adds those that its tests need.
var roles = map[string]testkit.Role{}

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, roles)) }

// newQueue makes a queue for one test, which closes and removes it at its end.
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

// adopt makes the test close the handle and remove the queue at its end.
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

// randomKey returns a key that most likely names no queue.
func randomKey() chanmq.Key { return chanmq.Key(1 + rand.N[int32](1<<30)) }

// ctxWithin returns a ctx for what has to come about: it ends only when the
// test would hang.
func ctxWithin(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// background runs f beside the test, which waits for its end. By then t.Context
// has ended.
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

// asNobody runs do on a thread of that user, who owns what do makes.
func asNobody(t testing.TB, do func()) {
	t.Helper()
	user := sysvtest.Host(t).As(t, nobody, nobody)
	if err := user(func(sysv.Kernel) error { do(); return nil }); err != nil {
		t.Fatal(err)
	}
}

// statOf returns what everybody may know of a queue.
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
