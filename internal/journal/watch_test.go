//go:build linux

package journal

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

func init() { roles["hold"] = holdRole }

// holdRole takes a message and keeps it: directory, msqid.
func holdRole(args []string) error {
	msqid, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	id, err := Identify(kernel, msqid)
	if err != nil {
		return err
	}
	j, err := Open(args[0], id)
	if err != nil {
		return err
	}
	s, err := j.Slot(0)
	if err != nil {
		return err
	}
	s.Arm(NeverEndsIn(0))
	if _, err := kernel.Receive(msqid, s.Buffer(), 0, 0); err != nil {
		return err
	}
	fmt.Println("took")
	select {}
}

// holder starts a process that has taken a message.
func holder(t testing.TB, dir string, msqid int, text string) *exec.Cmd {
	t.Helper()
	send(t, msqid, 1, text)
	cmd := testkit.Process(t, "hold", dir, fmt.Sprint(msqid))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd
}

type found struct {
	a  *Adopted
	at time.Time
}

// startWatch returns what the watcher finds, and its errors.
func startWatch(t testing.TB, dir string, msqid int, inotify func(string) (*sysv.Watch, error)) (<-chan found, <-chan error, *Watcher) {
	t.Helper()
	adopted, failed := make(chan found, 100), make(chan error, 100)
	w, err := watch(dir, func() (Identity, error) { return Identify(kernel, msqid) },
		func(a *Adopted) { adopted <- found{a, time.Now()} },
		func(err error) { failed <- err }, inotify)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for range 2 {
			if err := w.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return adopted, failed, w
}

func noInotify(string) (*sysv.Watch, error) { return nil, errors.New("no inotify") }

func TestWatch(t *testing.T) {
	for name, inotify := range map[string]func(string) (*sysv.Watch, error){"inotify": sysv.WatchDir, "ticker": noInotify} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := newDir(t)
			msqid, id := newQueue(t)
			open(t, dir, id) // one that lives
			adopted, failed, _ := startWatch(t, dir, msqid, inotify)
			for i := range 3 {
				cmd := holder(t, dir, msqid, "text")
				if len(adopted) > 0 {
					t.Fatal("adopted from a living process")
				}
				killed := time.Now()
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				select {
				case f := <-adopted:
					wantMessages(t, "adopted", messages(f.a), message{1, "text", 0, false})
					t.Logf("%v after the kill", f.at.Sub(killed))
					if i == 0 { // another death, of the adopter
						if err := f.a.Close(); err != nil {
							t.Error(err)
						}
						f = <-adopted
					}
					f.a.Slots[0].Free()
				case err := <-failed:
					t.Fatal(err)
				case <-time.After(30 * time.Second):
					t.Fatal("not adopted")
				}
			}
			if left := files(t, dir); len(left) != 1 {
				t.Errorf("files: %v", left)
			}
		})
	}
}

func TestWatchFindsWhatIsThere(t *testing.T) {
	msqid, id := newQueue(t)
	dir := leave(t, msqid, id, "text")
	adopted, _, w := startWatch(t, dir, msqid, sysv.WatchDir)
	if len(adopted) != 1 {
		t.Fatal("it is not adopted when Watch returns")
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	f := <-adopted
	f.a.Slots[0].Free()
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("files: %v", left)
	}
}

// TestWatchRetries: the kernel says that a file was closed before it unlocks it.
func TestWatchRetries(t *testing.T) {
	msqid, id := newQueue(t)
	dir := newDir(t)
	adopted, _, _ := startWatch(t, dir, msqid, sysv.WatchDir)
	from := leave(t, msqid, id, "text")
	name := files(t, from)[0]
	if err := os.Rename(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	d, err := openDirectory(dir, false)
	if err != nil {
		t.Fatal(err)
	}
	defer d.release()
	lock, err := sysv.OpenFile(d.fd, name, false)
	if err != nil {
		t.Fatal(err)
	}
	if locked, err := sysv.TryLock(lock); !locked {
		t.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	file.Close()
	time.Sleep(20 * time.Millisecond)
	if len(adopted) > 0 {
		t.Fatal("adopted although it is locked")
	}
	if err := sysv.CloseFile(lock); err != nil {
		t.Fatal(err)
	}
	f := <-adopted
	f.a.Slots[0].Free()
}

func TestWatchReportsOnce(t *testing.T) {
	msqid, id := newQueue(t)
	dir := leave(t, msqid, id, "text")
	path := filepath.Join(dir, files(t, dir)[0])
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	_, failed, w := startWatch(t, dir, msqid, noInotify)
	w.dir.retain() // for the scan after Close
	defer w.dir.release()
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	w.scan(0)
	if len(failed) != 1 {
		t.Errorf("%d reports", len(failed))
	}
	var unreadable *UnreadableError
	if err := <-failed; !errors.As(err, &unreadable) || unreadable.Path != path {
		t.Errorf("reported %v", err)
	}
}

func TestWatchOfARemovedQueue(t *testing.T) {
	msqid, id := newQueue(t)
	dir := leave(t, msqid, id, "text")
	if err := kernel.Remove(msqid); err != nil {
		t.Fatal(err)
	}
	adopted, failed, _ := startWatch(t, dir, msqid, noInotify)
	if len(adopted)+len(failed) > 0 {
		t.Errorf("%d adopted, %d reports", len(adopted), len(failed))
	}
	if left := files(t, dir); len(left) != 1 {
		t.Errorf("files: %v", left)
	}
}
