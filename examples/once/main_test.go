//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestMain(m *testing.M) {
	os.Exit(testkit.Main(m, map[string]testkit.Role{
		"once": func(args []string) error {
			os.Args = append([]string{"once"}, args...)
			main()
			return nil
		},
	}))
}

// TestExactlyOnce sends transfers, some of them twice, while the program is killed again
// and again, and sometimes interrupted: the balance is right to the penny.
func TestExactlyOnce(t *testing.T) {
	const kills = 16
	if sysvtest.Emulated() {
		t.Skip("qemu-user receives into memory of its own, so that journals are refused")
	}
	journals, err := os.MkdirTemp("/dev/shm", "chanmq-example-")
	if err != nil {
		t.Skipf("no tmpfs for journals: %v", err)
	}
	t.Cleanup(func() {
		if files, err := filepath.Glob(filepath.Join(journals, "*")); err != nil || len(files) > 0 {
			t.Errorf("left: %v, %v", files, err)
		}
		if err := os.RemoveAll(journals); err != nil {
			t.Error(err)
		}
	})
	q := newQueue(t)
	file := filepath.Join(t.TempDir(), "account.json")
	start := func() *program {
		p := &program{Cmd: testkit.Process(t, "once", "-key", strconv.Itoa(int(q.Key())), "-journal", journals, file)}
		p.Stderr = &p.errs
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		return p
	}
	read := func() account {
		a, err := load(file)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}

	ctx, stop := context.WithCancel(t.Context())
	sent := make(chan account, 1)
	go func() { sent <- send(ctx, t, q) }()
	again := 0
	for n := range kills {
		before := read()
		p := start()
		testkit.Eventually(t, "a transfer", func() bool { return read().Last > before.Last })
		time.Sleep(rand.N(5 * time.Millisecond))
		if n%8 == 7 {
			p.interrupt(t)
		} else {
			if err := p.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = p.Wait() // it was killed
		}
		again += strings.Count(p.errs.String(), "(attempt 2)")
	}
	stop()
	want := <-sent
	p := start()
	testkit.Eventually(t, "the last transfer", func() bool {
		stat, err := q.Stat()
		return err == nil && stat.Messages == 0 && read().Last >= want.Last
	})
	p.interrupt(t)
	if got := read(); got.Balance != want.Balance || got.Last != want.Last || len(got.Ahead) > 0 {
		t.Errorf("the account is %+v, want %+v", got, want)
	}
	t.Logf("%d transfers; %d were in the file and not acknowledged when the program was killed", want.Last, again)
}

// send sends transfers until ctx ends, and returns what the account should be. Some it
// sends twice, as a sender does that does not know how far it got.
func send(ctx context.Context, t *testing.T, q *chanmq.Queue[[]byte]) (a account) {
	transfers := chanmq.As(q, codec.JSON[transfer]())
	for {
		next := transfer{ID: a.Last + 1, Amount: rand.N[int64](1000) - 300}
		for range 1 + rand.N(5)/4 {
			switch err := transfers.Send(ctx, 1, next); {
			case err == nil:
				a.Last = next.ID
			case !errors.Is(err, context.Canceled):
				t.Error(err)
				return a
			}
		}
		if a.Last < next.ID {
			return a
		}
		a.Balance += next.Amount
	}
}

// program is the program, and what it prints. That must not be read before its end.
type program struct {
	*exec.Cmd
	errs bytes.Buffer
}

// interrupt ends the program in the regular way.
func (p *program) interrupt(t *testing.T) {
	t.Helper()
	if err := p.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%v: %s", err, p.errs.String())
	}
}

// newQueue creates a queue under a key that no other queue has. It is removed when the
// test ends.
func newQueue(t *testing.T) *chanmq.Queue[[]byte] {
	t.Helper()
	for {
		q, err := chanmq.Create(chanmq.Key(1+rand.N[int32](1<<30)), 0o600, chanmq.WithExclusive())
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		testkit.Reap(t, q.ID())
		t.Cleanup(func() {
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		})
		return q
	}
}

// TestAdd: the account contains each transfer once, in whatever order they come.
func TestAdd(t *testing.T) {
	var a account
	for _, id := range []int64{1, 3, 5, 3, 1, 2, 2, 5, 4, 4, 1} {
		a.add(transfer{id, 10})
	}
	if a.Balance != 50 || a.Last != 5 || len(a.Ahead) > 0 {
		t.Errorf("the account is %+v", a)
	}
}
