package main

import (
	"os"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

func TestMain(m *testing.M) { os.Exit(natstest.Main(m, nil)) }

// TestRun: the program ends, and docs/cluster.md has all of it.
func TestRun(t *testing.T) {
	if err := run(natstest.Embedded(t, jetstream.FileStorage).URLs()); err != nil {
		t.Error(err)
	}
	source, err := os.ReadFile("main.go")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../../docs/cluster.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), string(source)) {
		t.Error("docs/cluster.md has another program than main.go")
	}
}
