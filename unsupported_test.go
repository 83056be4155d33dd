//go:build !linux

package chanmq_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/chanmq/chanmq"
)

// TestEveryCallIsUnsupported: the package compiles on every system, so that a program
// can decide at run time.
func TestEveryCallIsUnsupported(t *testing.T) {
	for name, call := range map[string]func() error{
		"Open":       func() error { _, err := chanmq.Open(1); return err },
		"Create":     func() error { _, err := chanmq.Create(1, 0o600); return err },
		"Private":    func() error { _, err := chanmq.Private(0o600); return err },
		"Attach":     func() error { _, err := chanmq.Attach(0); return err },
		"FTok":       func() error { _, err := chanmq.FTok(".", 1); return err },
		"List":       func() error { _, err := chanmq.List(); return err },
		"ReadLimits": func() error { _, err := chanmq.ReadLimits(); return err },
	} {
		err := call()
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v is not errors.ErrUnsupported", name, err)
			continue
		}
		if !strings.Contains(err.Error(), runtime.GOOS) {
			t.Errorf("%s: %v does not name %s", name, err, runtime.GOOS)
		}
	}
}
