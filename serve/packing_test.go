//go:build linux

package serve_test

import (
	"os"
	"os/exec"
	"testing"

	"github.com/chanmq/chanmq/internal/sysvtest"
)

// TestOverHandlesWithPacking runs the other tests once more, with handles that put several
// values into one message: requests, replies and dead letters are values like others.
func TestOverHandlesWithPacking(t *testing.T) {
	if os.Getenv(packing) != "" {
		t.Skip("this is that run")
	}
	if testing.Short() {
		t.Skip("it takes as long as all other tests")
	}
	if sysvtest.Emulated() {
		t.Skip("it takes as long as all other tests; the bytes of packs are tested in the root package")
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.skip", "^TestOverHandlesWithPacking$", "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), packing+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
