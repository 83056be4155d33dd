//go:build linux

package large

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestCollected(t *testing.T) {
	text := []byte("text")
	for _, test := range []struct {
		name string
		// make has one file, and whether a message or a process may have it; another process is
		// the store other.
		make func(t *testing.T, s, other *Store, msqid int)
		want int // files that are left
	}{
		{"sent", func(t *testing.T, _, other *Store, msqid int) { put(t, other, msqid, text) }, 1},
		{"sent behind others", func(t *testing.T, _, other *Store, msqid int) {
			for range 5 {
				msg := sysv.Buffer(0)
				sysv.PutType(msg, 7)
				if err := kernel.Send(msqid, msg); err != nil {
					t.Fatal(err)
				}
			}
			put(t, other, msqid, text)
		}, 1},
		{"being sent", func(t *testing.T, _, other *Store, msqid int) {
			p, err := other.Put(text)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(p.Discard)
		}, 1},
		{"never sent", func(t *testing.T, _, other *Store, msqid int) {
			p, err := other.Put(text)
			if err != nil {
				t.Fatal(err)
			}
			p.Sent() // as if the process had died
			other.DropIdle()
		}, 0},
		{"taken", func(t *testing.T, _, other *Store, msqid int) {
			put(t, other, msqid, text)
			l := other.Begin()
			r, _, err := receive(msqid, sysv.Buffer(256))
			if err != nil {
				t.Fatal(err)
			}
			f := other.Take(r, l)
			l.End()
			t.Cleanup(f.Release)
		}, 1},
		{"taken, and its process died", func(t *testing.T, _, other *Store, msqid int) {
			put(t, other, msqid, text)
			l := other.Begin()
			r, _, err := receive(msqid, sysv.Buffer(256))
			if err != nil {
				t.Fatal(err)
			}
			f := other.Take(r, l)
			l.End()
			f.Release() // as if it had died
		}, 0},
		{"sent back", func(t *testing.T, _, other *Store, msqid int) {
			put(t, other, msqid, text)
			l := other.Begin()
			r, _, err := receive(msqid, sysv.Buffer(256))
			if err != nil {
				t.Fatal(err)
			}
			f := other.Take(r, l)
			l.End()
			p, err := f.Again(other)
			if err != nil {
				t.Fatal(err)
			}
			if err := send(msqid, p); err != nil {
				t.Fatal(err)
			}
			p.Sent()
			f.Release() // as if it had died
		}, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, msqid := newDir(t), newQueue(t)
			s, other := open(t, dir, msqid), open(t, dir, msqid)
			test.make(t, s, other, msqid)
			before := len(files(t, s))
			collect(t, s, msqid)
			wantFiles(t, s, before) // other has a lease from before
			renew(t, other)
			collect(t, s, msqid)
			wantFiles(t, s, test.want)
		})
	}
}

// TestNotCollectedWhileACallHasIt: what a call has received and not opened yet is safe as long
// as that takes.
func TestNotCollectedWhileACallHasIt(t *testing.T) {
	dir, msqid := newDir(t), newQueue(t)
	s, other := open(t, dir, msqid), open(t, dir, msqid)
	text := []byte("text")
	put(t, s, msqid, text)
	l := other.Begin()
	r, _, err := receive(msqid, sysv.Buffer(256))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		collect(t, s, msqid)
		renew(t, other)
	}
	f := other.Take(r, l)
	l.End()
	collect(t, s, msqid)
	wantText(t, s, r, text)
	f.Release()
	collect(t, s, msqid)
	renew(t, other)
	collect(t, s, msqid)
	wantFiles(t, s, 0)
}

// TestNotCollectedUnderway: a message that is taken, or sent back, at any step of the collector
// is not lost.
func TestNotCollectedUnderway(t *testing.T) {
	t.Cleanup(func() { step = func(string) {} })
	for _, at := range []string{"suspected", "unlocked", "unreferenced"} {
		for _, back := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, back %t", at, back), func(t *testing.T) {
				dir, msqid := newDir(t), newQueue(t)
				s, other := open(t, dir, msqid), open(t, dir, msqid)
				text := []byte("text")
				// One that is garbage, so that the collector goes all the way.
				garbage, err := s.Put(text)
				if err != nil {
					t.Fatal(err)
				}
				garbage.Sent()
				put(t, s, msqid, text)
				var held *File
				t.Cleanup(func() { held.Release() })
				step = func(name string) {
					if name != at {
						return
					}
					step = func(string) {}
					l := other.Begin()
					defer l.End()
					r, _, err := receive(msqid, sysv.Buffer(256))
					if err != nil {
						t.Error(err)
						return
					}
					held = other.Take(r, l)
					if !back {
						return
					}
					p, err := held.Again(other)
					if err == nil {
						err = send(msqid, p)
						p.Sent()
					}
					if err != nil {
						t.Error(err)
					}
					held.Remove()
					held = nil
				}
				for range 4 {
					collect(t, s, msqid)
					renew(t, other)
				}
				wantFiles(t, s, 1)
				if back {
					r, _, err := receive(msqid, sysv.Buffer(256))
					if err != nil {
						t.Fatal(err)
					}
					wantText(t, s, r, text)
				} else if got, err := held.Read(nil); string(got) != "text" || err != nil {
					t.Errorf("read %q, %v", got, err)
				}
			})
		}
	}
}

// The steps at which a victim is killed are counted over all that it does.

func init() {
	roles["victim"] = func(args []string) error {
		msqid, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		last, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return victims[args[3]](args[0], msqid, last)
	}
}

// text of the victims' messages.
var victimText = slices.Repeat([]byte("text"), 5000)

// countdown makes the process die at the step with the number.
func countdown(last int) {
	steps := 0
	step = func(string) {
		if steps++; steps == last {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}

// victims are what processes do until they are killed, at each step.
var victims = map[string]func(dir string, msqid, last int) error{
	"send": func(dir string, msqid, last int) error {
		countdown(last)
		s, err := openStore(dir, msqid, "")
		if err != nil {
			return err
		}
		defer s.Close()
		p, err := s.Put(victimText)
		if err != nil {
			return err
		}
		step("put")
		if err := send(msqid, p); err != nil {
			return err
		}
		step("sent")
		p.Sent()
		return s.Renew()
	},
	"receive": func(dir string, msqid, last int) error {
		s, err := openStore(dir, msqid, "")
		if err != nil {
			return err
		}
		defer s.Close()
		countdown(last)
		l := s.Begin()
		r, _, err := receive(msqid, sysv.Buffer(256))
		if err != nil {
			return err
		}
		step("received")
		f := s.Take(r, l)
		l.End()
		if _, err := f.Read(nil); err != nil {
			return err
		}
		step("read")
		f.Remove()
		return nil
	},
	"receive with a journal":   func(dir string, msqid, last int) error { return journaled(dir, msqid, last, false) },
	"send back with a journal": func(dir string, msqid, last int) error { return journaled(dir, msqid, last, true) },
}

// journaled receives with a journal, and acknowledges the message or sends it back.
func journaled(dir string, msqid, last int, back bool) error {
	id, err := journal.Identify(kernel, msqid)
	if err != nil {
		return err
	}
	j, err := journal.Open(dir, id)
	if err != nil {
		return err
	}
	s, err := openStore(dir, msqid, j.Path())
	if err != nil {
		return err
	}
	countdown(last)
	slot, err := j.Slot(256)
	if err != nil {
		return err
	}
	slot.Arm(journal.LengthHint{})
	l := s.Begin()
	r, n, err := receive(msqid, slot.Buffer())
	if err != nil {
		return err
	}
	step("received")
	slot.Took(n, 1)
	step("took")
	f := s.Take(r, l)
	l.End()
	if err := s.Renew(); err != nil {
		return err
	}
	if back {
		p, err := f.Again(s)
		if err == nil {
			err = send(msqid, p)
		}
		if err != nil {
			return err
		}
		step("sent back")
		p.Sent()
	}
	if err := slot.Free(); err != nil {
		return err
	}
	step("freed")
	f.Remove()
	slot.Release()
	err = j.Close()
	step("journal closed")
	s.Close()
	return err
}

// TestKilledAtEachStep: whatever a process is doing when it is killed, the collector leaves the
// files of all messages that are in the queue, or in its journal, and no other.
func TestKilledAtEachStep(t *testing.T) {
	for name := range victims {
		t.Run(name, func(t *testing.T) {
			if strings.Contains(name, "journal") && sysvtest.Emulated() {
				t.Skip("qemu-user receives into memory of its own, so that journals are refused")
			}
			kills := 0
			for ; victimDies(t, name, kills+1); kills++ {
			}
			if kills < 4 {
				t.Errorf("%d steps", kills)
			}
		})
	}
}

// victimDies reports false if the victim has ended by itself.
func victimDies(t *testing.T, name string, last int) bool {
	t.Helper()
	dir, msqid := newDir(t), newQueue(t)
	if name != "send" {
		s, err := openStore(dir, msqid, "")
		if err != nil {
			t.Fatal(err)
		}
		put(t, s, msqid, victimText)
		s.Close()
	}
	err := testkit.Process(t, "victim", dir, strconv.Itoa(msqid), strconv.Itoa(last), name).Run()
	s := open(t, dir, msqid)
	collect(t, s, msqid)

	// What is in the queue, and in journals.
	refs := make(map[envelope.Ref]bool)
	note := func(text []byte) {
		h, _, err := envelope.Parse(text)
		if err != nil || h.Kind != envelope.Reference {
			t.Errorf("%x: %v", text, err)
		}
		refs[h.Ref] = true
	}
	if err := browse(msqid)(note); err != nil {
		t.Error(err)
	}
	id, identifyErr := journal.Identify(kernel, msqid)
	adopted, adoptErr := journal.Adopt(dir, id)
	if err := errors.Join(identifyErr, adoptErr); err != nil {
		t.Fatal(err)
	}
	for _, a := range adopted {
		for _, slot := range a.Slots {
			note(slot.Text())
		}
	}
	wantFiles(t, s, len(refs))
	for r := range refs {
		wantText(t, s, r, victimText)
	}
	// When the messages are gone the files are garbage.
	for _, a := range adopted {
		for _, slot := range a.Slots {
			if err := slot.Free(); err != nil {
				t.Error(err)
			}
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	for {
		if _, _, err := receive(msqid, sysv.Buffer(256)); err != nil {
			break
		}
	}
	collect(t, s, msqid)
	wantFiles(t, s, 0)
	if leases, err := s.leases(); len(leases) != 1 || err != nil {
		t.Errorf("leases %q, %v", leases, err)
	}
	if err != nil && err.Error() != "signal: killed" {
		t.Fatalf("step %d: %v", last, err)
	}
	return err != nil
}
