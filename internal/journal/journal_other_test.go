//go:build !linux

package journal

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/internal/sysv"
)

func TestEveryCallIsUnsupported(t *testing.T) {
	dir := t.TempDir()
	for name, call := range map[string]func() error{
		"Identify": func() error { _, err := Identify(sysv.Host(), 0); return err },
		"Open":     func() error { _, err := Open(dir, Identity{}); return err },
		"Adopt":    func() error { _, err := Adopt(dir, Identity{}); return err },
		"Orphans":  func() error { _, err := Orphans(dir, sysv.Host()); return err },
		"Watch":    func() error { _, err := Watch(dir, sysv.Host(), nil, nil, nil); return err },
	} {
		if err := call(); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOOS) {
			t.Errorf("%s: %v, want an error matching errors.ErrUnsupported that names the system", name, err)
		}
	}
}
