//go:build linux

package interop_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chanmq/chanmq"
)

// TestReference: the readers of docs/envelope.md, in C and in Python, read the text of a message
// that a handle with WithLarge has sent, remove its file, and refuse one that is damaged.
func TestReference(t *testing.T) {
	for _, l := range []struct {
		name    string
		command func(t *testing.T) []string
	}{
		{"C", func(t *testing.T) []string { return compile(t, "reference") }},
		{"Python", func(t *testing.T) []string {
			return []string{tool(t, "python3", "python3"), "testdata/python/reference.py"}
		}},
	} {
		t.Run(l.name, func(t *testing.T) {
			command := l.command(t)
			dir := t.TempDir()
			plain, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
			if err != nil {
				t.Fatal(err)
			}
			defer plain.Close()
			text := bytes.Repeat([]byte("the text\x00\xFF"), 2000)
			read := func(damage func(path string)) (string, error) {
				// Closed before the message is taken, since that is done without a lease.
				q, err := chanmq.Attach(plain.ID(), chanmq.WithLarge(dir))
				if err == nil {
					err = errors.Join(q.Send(context.Background(), 1, text), q.Close())
				}
				if err != nil {
					t.Fatal(err)
				}
				files, err := filepath.Glob(filepath.Join(dir, "*", "????????????????????????????????"))
				if err != nil || len(files) != 1 {
					t.Fatal(files, err)
				}
				damage(files[0])
				m, err := plain.Receive(context.Background(), chanmq.Any())
				if err != nil {
					t.Fatal(err)
				}
				cmd := exec.CommandContext(deadlineContext(t), command[0], append(command[1:], dir)...)
				cmd.Stdin = strings.NewReader(hex.EncodeToString(m.Value))
				out, err := cmd.Output()
				_, statErr := os.Stat(files[0])
				if (statErr == nil) != (err != nil) {
					t.Errorf("%v, and the file: %v", err, statErr)
				}
				_ = os.Remove(files[0])
				return string(out), err
			}
			if got, err := read(func(string) {}); got != string(text) || err != nil {
				t.Errorf("got %d bytes, %v", len(got), err)
			}
			if got, err := read(func(path string) {
				if err := os.WriteFile(path, bytes.ToUpper(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}); err == nil {
				t.Errorf("damaged: got %d bytes", len(got))
			}
		})
	}
}
