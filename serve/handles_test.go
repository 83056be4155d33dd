//go:build linux

package serve_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

// TestOverHandlesWithPacking runs the other tests once more, with handles that put several
// values into one message: requests, replies and dead letters are values like others.
func TestOverHandlesWithPacking(t *testing.T) { runOthers(t, packing, "1", "") }

// TestOverHandlesWithLarge runs the other tests once more, with handles that put all requests
// and replies into files, but for those that fill a queue with messages of a certain size, or
// want some to be too large. No file is left.
func TestOverHandlesWithLarge(t *testing.T) {
	dir := journalDir(t)
	runOthers(t, large, dir, "|^Test(Large.*|Errors|DeadLetterQueueFull|BareOrder|BareRepliesNobodyTakes)$")
	q, err := chanmq.Private(0o600, chanmq.WithLarge(dir), chanmq.WithRemoveOnClose())
	if err != nil {
		t.Fatal(err) // it removes what queues have left that are gone
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
	wantNoFiles(t, dir)
}

// runOthers runs the other tests with a variable, but for those that skip matches, too.
func runOthers(t *testing.T, variable, value, skip string) {
	t.Helper()
	if os.Getenv(packing)+os.Getenv(large) != "" {
		t.Skip("this is such a run")
	}
	if testing.Short() {
		t.Skip("it takes as long as all other tests")
	}
	if sysvtest.Emulated() {
		t.Skip("it takes as long as all other tests; the bytes of messages are tested in the root package")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.skip", "^TestOverHandles"+skip, "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), variable+"="+value)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
