//go:build linux

package main

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) {
	os.Exit(testkit.Main(m, map[string]testkit.Role{
		"calculator": func(args []string) error {
			os.Args = append([]string{"calculator"}, args...)
			main()
			return nil
		},
	}))
}

// TestCalculator: clients in C and in Go get the same results.
func TestCalculator(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("the C compiler is for this machine, not for the emulated one")
	}
	if _, err := exec.LookPath("cc"); err != nil {
		t.Skip(err)
	}
	out, err := testkit.Process(t, "calculator").Output()
	if err != nil {
		t.Fatal(err)
	}
	_, got, _ := strings.Cut(string(out), "\n")
	var want strings.Builder
	for _, client := range []string{"C", "Go"} {
		for _, line := range []string{"2 + 3 = 5", "2 - 3 = -1", "6 * 7 = 42", "7 / 2 = 3", "1 / 0: division by zero"} {
			want.WriteString(client + ": " + line + "\n")
		}
	}
	if got != want.String() {
		t.Errorf("got\n%s\nwant\n%s", got, &want)
	}
}
