package testkit

import (
	"path/filepath"
	"strings"
	"testing"
)

// LargeFiles returns the names of the texts in a directory of WithLarge: of what is there
// besides, leases and spares are their handle's.
func LargeFiles(t testing.TB, dir string) (names []string) {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range all {
		if !strings.HasSuffix(name, ".lease") && !strings.HasSuffix(name, ".spare") {
			names = append(names, name)
		}
	}
	return names
}
