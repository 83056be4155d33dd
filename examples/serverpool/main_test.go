//go:build linux

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) {
	os.Exit(testkit.Main(m, map[string]testkit.Role{
		"serverpool": func(args []string) error {
			os.Args = append([]string{"serverpool"}, args...)
			main()
			return nil
		},
	}))
}

// TestPool: every request is answered, although a server is killed. That starts the test
// binary as the servers, which then have its role.
func TestPool(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user receives into memory of its own, so that journals are refused")
	}
	if _, err := os.Stat("/dev/shm"); err != nil {
		t.Skip(err)
	}
	out, err := testkit.Process(t, "serverpool", "-work", "1ms", "-requests", "40").Output()
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(out), " squared is "); n != 40 {
		t.Errorf("%d answers:\n%s", n, out)
	}
}
