package journalfile

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/chanmq/chanmq"
)

// TestList: what is known of the journal of a living program.
func TestList(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-journalfile-")
	if err != nil {
		t.Skip("no tmpfs: ", err)
	}
	defer os.RemoveAll(dir)
	q, err := chanmq.Private(0o600, chanmq.WithJournal(dir), chanmq.WithRemoveOnClose(), chanmq.WithPacking())
	if err != nil {
		t.Skip("no journal can be had: ", err)
	}
	defer q.Close()
	for range 3 {
		if err := q.Send(t.Context(), 1, bytes.Repeat([]byte("x"), 1000)); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Take(t.Context(), chanmq.Any()); err != nil {
			t.Fatal(err)
		}
	}
	// Of a pack one value is delivered, and the others are in it still.
	if _, err := q.SendAll(t.Context(), 1, [][]byte{nil, nil, nil, nil}); err != nil {
		t.Fatal(err)
	}
	if _, err := q.Take(t.Context(), chanmq.Any()); err != nil {
		t.Fatal(err)
	}
	files, err := List(dir)
	if err != nil || len(files) != 1 {
		t.Fatalf("%+v, %v", files, err)
	}
	f := files[0]
	if f.Err != nil || f.ID != q.ID() || f.Key != 0 || f.PID != os.Getpid() || f.Namespace != OwnNamespace() || f.Messages != 3+4 || f.Locked == No {
		t.Errorf("%+v", f)
	}
	if info, err := os.Stat(dir); err != nil || OwnerOf(info) != os.Geteuid() || !OnTmpfs(dir) {
		t.Error("the directory: ", err)
	}

	// A file that is damaged, or none at all, is named.
	text, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	text[70] ^= 1
	for name, text := range map[string][]byte{"a.journal": text, "b.journal": nil, "c.journal": []byte("x"), "d.txt": nil} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if files, err = List(dir); err != nil || len(files) != 4 {
		t.Fatalf("%+v, %v", files, err)
	}
	for _, f := range files {
		if base := filepath.Base(f.Path); len(base) == len("a.journal") && f.Err == nil {
			t.Errorf("%+v", f)
		}
	}
	if files, err := List(filepath.Join(dir, "missing")); files != nil || err != nil {
		t.Errorf("%v, %v", files, err)
	}
}

func TestParseLock(t *testing.T) {
	for line, want := range map[string]bool{
		"1: FLOCK  ADVISORY  WRITE 123 00:1a:77 0 EOF\n":    true,
		"1: FLOCK  ADVISORY  WRITE 123 00:1a:78 0 EOF\n":    false,
		"1: POSIX  ADVISORY  WRITE 123 00:1a:77 0 EOF\n":    false,
		"1: -> FLOCK  ADVISORY  WRITE 123 00:1a:77 0 EOF\n": false,
		"":      false,
		"1: ->": false,
	} {
		if got := parseLock(line, 0, 0x1a, 77); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
}

// FuzzRead: no file makes it panic, or loop.
func FuzzRead(f *testing.F) {
	f.Add([]byte("chanmqJ\n"))
	f.Add(make([]byte, 8192))
	f.Fuzz(func(_ *testing.T, text []byte) { _, _ = read(bytes.NewReader(text), int64(len(text))) })
}
