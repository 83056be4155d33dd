//go:build linux

package main

import (
	"os"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) {
	os.Exit(testkit.Main(m, map[string]testkit.Role{
		"priorityserver": func(args []string) error {
			os.Args = append([]string{"priorityserver"}, args...)
			main()
			return nil
		},
	}))
}

// TestPriorities: the most urgent request is answered first, although it was the last.
func TestPriorities(t *testing.T) {
	out, err := testkit.Process(t, "priorityserver", "-work", "1ms").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(string(out), "\n")
	if want := "priority 1: disk full\npriority 2: invoice\npriority 3: newsletter\n"; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
