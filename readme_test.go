package chanmq_test

import (
	"testing"

	"github.com/chanmq/chanmq/internal/testkit"
)

// TestReadmeQuotes: the Go code of the README is part of files that are compiled and
// run, one of them as a whole.
func TestReadmeQuotes(t *testing.T) { testkit.Quotes(t, ".", "README.md", "go") }
