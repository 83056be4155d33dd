package auto_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/natsmq"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

func TestMain(m *testing.M) { os.Exit(natstest.Main(m, nil)) }

// build compiles an example with one file more, which imports package auto.
func build(t *testing.T, example string) (program string) {
	t.Helper()
	dir := t.TempDir()
	source := filepath.Join(dir, "auto.go")
	if err := os.WriteFile(source, []byte("package main\n\nimport _ \"github.com/chanmq/chanmq/natsmq/auto\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{filepath.Join(root, "examples", example, "auto.go"): source}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, example)
	cmd := exec.Command("go", "build", "-overlay", file, "-o", program, "./examples/"+example)
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out)
	}
	return program
}

// run runs a program whose queues are on the servers.
func run(t *testing.T, s *natstest.Servers, program string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), "CHANMQ_NATS="+s.URLs(), fmt.Sprintf("CHANMQ_NATS_REPLICAS=%d", s.Len()))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s", cmd, err, out.String())
	}
	return out.String()
}

// TestExamplesRunOnACluster: programs that know nothing of it.
func TestExamplesRunOnACluster(t *testing.T) {
	for name, start := range map[string]func(testing.TB, jetstream.StorageType) *natstest.Servers{"one server": natstest.Single, "three servers": natstest.Three} {
		t.Run(name, func(t *testing.T) {
			s := start(t, jetstream.FileStorage)
			cluster, err := natsmq.New(s.Connect(t), natsmq.WithReplicas(s.Len()))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { cluster.Close() })

			out := run(t, s, build(t, "priority"), "-pause", "1ms")
			urgent, newsletter := strings.Index(out, "received 1: disk still full"), strings.Index(out, "received 3: newsletter 2")
			if urgent < 0 || newsletter < 0 || urgent > newsletter {
				t.Errorf("priority prints:\n%s", out)
			}
			out = run(t, s, build(t, "clientserver"))
			if !strings.Contains(out, "client") {
				t.Errorf("clientserver prints:\n%s", out)
			}
			// A msqid is a sequence: so many queues there have been.
			probe, err := chanmq.Private(0o600, cluster.Option(), chanmq.WithRemoveOnClose())
			if err != nil {
				t.Fatal(err)
			}
			if probe.ID() < 3 {
				t.Errorf("the programs have created %d queues on the servers", probe.ID()-1)
			}
			if err := probe.Close(); err != nil {
				t.Error(err)
			}
			left, err := cluster.List(t.Context())
			if err != nil || len(left) > 0 {
				t.Errorf("queues that are left: %v, error %v", left, err)
			}
		})
	}
}
