//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

func init() {
	roles["large-send"] = func(args []string) error { return largeRole(args, sendLargeNumbers) }
	roles["large-receive"] = func(args []string) error { return largeRole(args, receiveLargeNumbers) }
}

// largeRole opens the queue: msqid, directory, journals, number of the process.
func largeRole(args []string, do func(q *chanmq.Queue[[]byte], number int) error) error {
	id, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	opts := []chanmq.Option{chanmq.WithLarge(args[1], chanmq.WithLargeThreshold(100))}
	if args[2] != "" {
		opts = append(opts, chanmq.WithJournal(args[2]))
	}
	q, err := chanmq.Attach(id, opts...)
	if err != nil {
		return err
	}
	return errors.Join(do(q, number), q.Close())
}

// numberedText is a text that says which one it is, and can be checked. Some are small.
func numberedText(sender, n int) []byte {
	text := make([]byte, []int{50, 5000, 40_000}[n%3])
	binary.NativeEndian.PutUint32(text, uint32(sender))
	binary.NativeEndian.PutUint32(text[4:], uint32(n))
	for i := 8; i < len(text); i += 97 {
		text[i] = byte(sender + n + i)
	}
	return text
}

// sendLargeNumbers sends until it is killed, and prints what it has sent.
func sendLargeNumbers(q *chanmq.Queue[[]byte], sender int) error {
	for n := 0; ; n++ {
		if err := q.Send(context.Background(), 1, numberedText(sender, n)); err != nil {
			return err
		}
		if _, err := fmt.Println(sender, n); err != nil {
			return err
		}
	}
}

// receiveLargeNumbers receives until it is killed, and prints what it acknowledges.
func receiveLargeNumbers(q *chanmq.Queue[[]byte], _ int) error {
	c := q.Consumer(context.Background(), chanmq.Any(), chanmq.WithBorrowedValues(), chanmq.WithInFlight(8))
	for d := range c.C() {
		sender, n := int(binary.NativeEndian.Uint32(d.Value)), int(binary.NativeEndian.Uint32(d.Value[4:]))
		if !bytes.Equal(d.Value, numberedText(sender, n)) {
			return fmt.Errorf("message %d of %d is torn", n, sender)
		}
		if n%11 == 0 && d.Attempt == 1 {
			if err := d.Nack(); err != nil {
				return err
			}
			continue
		}
		if _, err := fmt.Println(sender, n); err != nil {
			return err
		}
		if err := d.Ack(); err != nil {
			return err
		}
	}
	return c.Err()
}

// TestFaultLarge: senders and receivers are killed at any moment. With journals nothing that was
// sent is lost, whose text is in a file too; and no file is left when somebody has looked.
func TestFaultLarge(t *testing.T) {
	rounds := 4
	if testing.Short() {
		rounds = 2
	}
	for _, journaled := range []bool{true, false} {
		t.Run(fmt.Sprintf("journal %t", journaled), func(t *testing.T) {
			dir, journals := journalDir(t), ""
			if journaled {
				journals = journalDir(t)
			}
			q := openLargeIn(t, dir, 100)
			testkit.Reap(t, q.ID())
			sent, received := make(map[string]bool), make(map[string]int)
			run := func(role string, number int, out *testkit.Output) func() {
				cmd := testkit.Process(t, role, strconv.Itoa(q.ID()), dir, journals, strconv.Itoa(number))
				cmd.Stdout = out
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				return func() {
					if err := cmd.Process.Kill(); err != nil {
						t.Error(err)
					}
					var status syscall.WaitStatus
					if err := cmd.Wait(); err != nil {
						status = cmd.ProcessState.Sys().(syscall.WaitStatus)
					}
					if status.Signal() != syscall.SIGKILL {
						t.Errorf("%s ended by itself: %v", role, cmd.ProcessState)
					}
				}
			}
			for round := range rounds {
				var out [4]testkit.Output
				kills := []func(){
					run("large-send", 2*round, &out[0]), run("large-receive", 0, &out[1]),
					run("large-send", 2*round+1, &out[2]), run("large-receive", 0, &out[3]),
				}
				for until := time.Now().Add(10 * time.Second); out[1].String() == "" && time.Now().Before(until); {
					time.Sleep(10 * time.Millisecond)
				}
				rand.Shuffle(len(kills), func(i, j int) { kills[i], kills[j] = kills[j], kills[i] })
				for _, kill := range kills {
					time.Sleep(rand.N(50 * time.Millisecond))
					kill()
				}
				for i := range out {
					for line := range strings.Lines(out[i].String()) {
						if i%2 == 0 {
							sent[line] = true
						} else {
							received[line]++
						}
					}
				}
			}
			// The last one gets all that is left.
			opts := []chanmq.Option{chanmq.WithLarge(dir, chanmq.WithLargeThreshold(100))}
			if journaled {
				opts = append(opts, chanmq.WithJournal(journals))
			}
			last, err := chanmq.Attach(q.ID(), opts...)
			if err != nil {
				t.Fatal(err)
			}
			defer last.Close()
			takeAll(t, last, func(m chanmq.Message[[]byte]) {
				sender, n := int(binary.NativeEndian.Uint32(m.Value)), int(binary.NativeEndian.Uint32(m.Value[4:]))
				if !bytes.Equal(m.Value, numberedText(sender, n)) {
					t.Errorf("message %d of %d is torn", n, sender)
				}
				received[fmt.Sprintf("%d %d\n", sender, n)]++
			})
			lost := 0
			for line := range sent {
				if received[line] == 0 {
					lost++
				}
			}
			t.Logf("%d processes killed, %d messages sent, %d received, %d lost", 4*rounds, len(sent), len(received), lost)
			if most := map[bool]int{true: 0, false: 2 * 9 * rounds}[journaled]; lost > most {
				t.Errorf("%d messages lost, at most %d were in the hands of processes", lost, most)
			}
			if len(received) == 0 {
				t.Error("none was received")
			}
			for range 3 {
				chanmq.CollectLarge(q)
				chanmq.CollectLarge(last)
			}
			wantLargeFiles(t, dir, 0)
			if spares, err := filepath.Glob(filepath.Join(dir, "*", "*.spare")); len(spares) > 0 || err != nil {
				t.Errorf("spares of the dead are left: %q, %v", spares, err)
			}
		})
	}
}

// TestLargeOfSeveralUsers: permissions follow the queue's.
func TestLargeOfSeveralUsers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	with := func(dir string) chanmq.Option { return chanmq.WithLarge(dir, chanmq.WithLargeThreshold(100)) }
	shared := func(t *testing.T) string {
		t.Helper()
		dir := journalDir(t)
		if err := os.Chmod(dir, 0o777|os.ModeSticky); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	exchange := func(t *testing.T, from, to *chanmq.Queue[[]byte]) {
		t.Helper()
		if err := from.Send(ctxWithin(t), 1, largeText(1000, 4)); err != nil {
			t.Fatal(err)
		}
		if m, ok, err := to.TryReceive(chanmq.Any()); err != nil || !ok || !bytes.Equal(m.Value, largeText(1000, 4)) {
			t.Errorf("%v, %d bytes, %v", ok, len(m.Value), err)
		}
	}
	for _, perm := range []fs.FileMode{0o600, 0o666} {
		t.Run(fmt.Sprintf("nobody's queue, %#o", perm), func(t *testing.T) {
			dir := shared(t)
			var theirs *chanmq.Queue[[]byte]
			asNobody(t, func() { theirs = must(chanmq.Private(perm, with(dir), chanmq.WithRemoveOnClose())) })
			ours, err := chanmq.Attach(theirs.ID(), with(dir))
			if err != nil {
				t.Fatal(err)
			}
			asNobody(t, func() { exchange(t, theirs, theirs) })
			exchange(t, ours, ours)
			if err := ours.Send(ctxWithin(t), 1, largeText(1000, 5)); err != nil {
				t.Fatal(err)
			}
			asNobody(t, func() {
				if m, ok, err := theirs.TryReceive(chanmq.Any()); err != nil || !ok || !bytes.Equal(m.Value, largeText(1000, 5)) {
					t.Errorf("of root: %v, %d bytes, %v", ok, len(m.Value), err)
				}
				if err := theirs.Send(ctxWithin(t), 1, largeText(1000, 6)); err != nil {
					t.Error(err)
				}
			})
			if m, ok, err := ours.TryReceive(chanmq.Any()); err != nil || !ok || !bytes.Equal(m.Value, largeText(1000, 6)) {
				t.Errorf("of nobody: %v, %d bytes, %v", ok, len(m.Value), err)
			}
			wantLargeFiles(t, dir, 0)
			if err := errors.Join(ours.Close(), theirs.Close()); err != nil {
				t.Error(err)
			}
		})
	}
	t.Run("root's queue, 0666", func(t *testing.T) {
		dir := shared(t)
		ours, err := chanmq.Private(0o666, with(dir), chanmq.WithRemoveOnClose())
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		sendLarge(t, ours, 1)
		asNobody(t, func() {
			theirs := must(chanmq.Attach(ours.ID(), with(dir)))
			wantLarge(t, theirs, 1)
			sendLarge(t, theirs, 2)
			if err := theirs.Close(); err != nil {
				t.Error(err)
			}
		})
		wantLarge(t, ours, 2)
		wantLargeFiles(t, dir, 0)
	})
	t.Run("root's queue, 0622", func(t *testing.T) {
		dir := shared(t)
		ours, err := chanmq.Private(0o622, with(dir), chanmq.WithRemoveOnClose())
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		asNobody(t, func() {
			q, err := chanmq.Attach(ours.ID(), with(dir))
			wantError(t, "a file that the owner cannot read", err, fs.ErrPermission, "could not read it")
			if err == nil {
				q.Close()
			}
		})
	})
	t.Run("a directory of nobody", func(t *testing.T) {
		dir := journalDir(t)
		if err := os.Chown(dir, nobody, -1); err != nil {
			t.Fatal(err)
		}
		_, err := chanmq.Private(0o600, with(dir))
		wantError(t, "another user's directory", err, fs.ErrPermission, "belongs to user")
	})
}
