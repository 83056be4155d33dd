//go:build linux

package journal

import (
	"fmt"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/internal/envelope"
)

// packOf returns a pack of the values.
func packOf(values ...string) string {
	b := make([]byte, envelope.PackHeader)
	for _, value := range values {
		at := len(b)
		b = append(b, make([]byte, envelope.ValueHeader)...)
		envelope.PutValue(b[at:], len(value))
		b = append(b, value...)
	}
	envelope.PutPack(b, len(values), len(b)-envelope.PackHeader)
	return string(b)
}

// takePack sends a pack of the values and takes it.
func takePack(t testing.TB, msqid int, s *Slot, seq uint64, typ int, values ...string) {
	t.Helper()
	send(t, msqid, typ, packOf(values...))
	s.Arm(LengthHint{})
	s.TookPack(receive(t, msqid, s), seq, len(values))
}

// valuesOf returns what is in the slots: a message, or the values that a pack still has.
func valuesOf(t testing.TB, slots []*Slot) (values []string) {
	t.Helper()
	for _, s := range slots {
		if s.Values() == 0 {
			values = append(values, fmt.Sprintf("%d %s %d", s.Seq(), s.Text(), s.Attempt()))
			continue
		}
		n, at, err := envelope.ParsePack(s.Text())
		if err != nil {
			t.Fatal(err)
		}
		for i := range n {
			var value []byte
			value, at = envelope.NextValue(s.Text(), at)
			if skipped := n - s.Values(); i >= skipped {
				values = append(values, fmt.Sprintf("%d %s 0", int(s.Seq())+i-skipped, value))
			}
		}
	}
	return values
}

// wantValues says what would be adopted if everybody were killed now.
func wantValues(t testing.TB, when, dir string, id Identity, want ...string) {
	t.Helper()
	var got []string
	found, err := Adopt(copyDir(t, dir), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range found {
		got = append(got, valuesOf(t, a.Slots)...)
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		t.Errorf("%s: %q, want %q", when, got, want)
	}
}

// TestWhatAKillLeavesOfAPack: whenever the process dies, each value that was not
// acknowledged is there, once, in order, with the attempts of its own.
func TestWhatAKillLeavesOfAPack(t *testing.T) {
	dir := newDir(t)
	msqid, id := newQueue(t)
	j := open(t, dir, id)
	pack := slotOf(t, j, 0)
	value := []*Slot{slotOf(t, j, 0), slotOf(t, j, 0), slotOf(t, j, 0)}
	for range 3 { // the second and third in slots that were used
		send(t, msqid, 7, packOf("a", "b", "c"))
		pack.Arm(NeverEndsIn(0xFF))
		wantValues(t, "armed", dir, id)
		n := receive(t, msqid, pack)
		wantMessages(t, "received", killed(t, dir, id), message{7, packOf("a", "b", "c"), 0, false})
		pack.TookPack(n, 10, 3)
		wantValues(t, "took", dir, id, "10 a 0", "11 b 0", "12 c 0")

		value[0].Put(7, []byte("a"), 10)
		wantValues(t, "one is put", dir, id, "10 a 0", "11 b 0", "12 c 0")
		value[1].Put(7, []byte("b"), 11)
		wantValues(t, "two are put", dir, id, "10 a 0", "11 b 0", "12 c 0")
		pack.Moved(2)
		if pack.Values() != 1 || pack.Seq() != 12 || !pack.Held() {
			t.Errorf("the pack has %d values, from %d on", pack.Values(), pack.Seq())
		}
		wantValues(t, "two are moved", dir, id, "10 a 0", "11 b 0", "12 c 0")
		value[1].Deliver()
		wantValues(t, "one is delivered", dir, id, "10 a 0", "11 b 1", "12 c 0")
		value[1].Free()
		wantValues(t, "and acknowledged", dir, id, "10 a 0", "12 c 0")

		value[2].Put(7, []byte("c"), 12)
		wantValues(t, "the last is put", dir, id, "10 a 0", "12 c 0")
		pack.Moved(1)
		if pack.Held() {
			t.Error("a pack without values is held")
		}
		wantValues(t, "the last is moved", dir, id, "10 a 0", "12 c 0")
		value[0].Free()
		value[2].Free()
		wantValues(t, "all are acknowledged", dir, id)
	}
	for _, s := range append(value, pack) {
		s.Release()
	}
	if err := j.Close(); err != nil || len(files(t, dir)) > 0 {
		t.Errorf("Close: %v, files %v", err, files(t, dir))
	}
}

// TestThePackKnowsItsLength: what msgrcv would have returned is not needed for a pack, whatever
// the codec knows of its values.
func TestThePackKnowsItsLength(t *testing.T) {
	for name, hint := range map[string]LengthHint{"none": {}, "end": NeverEndsIn(0xFF), "fixed": FixedLength(200)} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			msqid, id := newQueue(t)
			s := slotOf(t, open(t, dir, id), 0)
			pack := packOf("a", "\xFF\xFF\xFF")
			send(t, msqid, 1, pack)
			s.Arm(hint)
			receive(t, msqid, s)
			wantMessages(t, "received", killed(t, dir, id), message{1, pack, 0, false})
		})
	}
}

// TestKilledWhileAPackIsAdopted: an adopter moves the values to slots of its own. If it dies
// at a step, the next one finds all that were not acknowledged, in both journals.
func TestKilledWhileAPackIsAdopted(t *testing.T) {
	msqid, id := newQueue(t)
	from := newDir(t)
	j := open(t, from, id)
	takePack(t, msqid, slotOf(t, j, 0), 10, 7, "a", "b", "c")
	slotOf(t, j, 0).Put(7, []byte("a"), 10) // and killed before it was moved
	dir := copyDir(t, from)

	all := []string{"10 a 0", "11 b 0", "12 c 0"}
	atEachStep(t, func(name string) { wantValues(t, name, dir, id, all...) })
	a := adoptOne(t, dir, id)
	if len(a.Slots) != 1 || a.Slots[0].Values() != 3 {
		t.Fatalf("adopted %v", valuesOf(t, a.Slots))
	}
	pack := a.Slots[0]
	all = all[2:]
	if err := pack.Moved(2); err != nil {
		t.Error(err)
	}
	wantValues(t, "two are moved", dir, id, "12 c 0")
	all = nil
	if err := pack.Moved(1); err != nil {
		t.Error(err)
	}
	wantValues(t, "all are moved", dir, id)
	if len(files(t, dir)) > 0 {
		t.Errorf("files: %v", files(t, dir))
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestDamagedPacksAreReported: what the slot says of a pack, and what the pack says, must agree.
func TestDamagedPacksAreReported(t *testing.T) {
	for name, c := range map[string]struct {
		values uint32
		moved  uint32
		text   string
	}{
		"more values than it has":    {3, 0, packOf("a", "b")},
		"more moved than it has":     {2, 3, packOf("a", "b")},
		"all moved":                  {2, 2, packOf("a", "b")},
		"no pack":                    {2, 0, "text"},
		"more than a pack can have":  {1 << 16, 0, packOf("a", "b")},
		"a pack with another length": {2, 0, packOf("a", "b") + "x"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			msqid, id := newQueue(t)
			s := slotOf(t, open(t, dir, id), 0)
			send(t, msqid, 1, c.text)
			s.Arm(LengthHint{})
			s.TookPack(receive(t, msqid, s), 1, int(c.values))
			s.gone.Store(c.moved)
			if found, err := Adopt(copyDir(t, dir), id); err == nil || found != nil {
				t.Errorf("%v, %v", found, err)
			}
		})
	}
}

func TestPutKeepsWhatItHolds(t *testing.T) {
	_, id := newQueue(t)
	s := slotOf(t, open(t, newDir(t), id), 0)
	s.Put(1, []byte("held"), 1)
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s.Put(1, []byte("another"), 2)
}

// TestPutLeavesASlotToReceiveInto: what Put has overwritten is filled again, so that the
// length of the next message can be found.
func TestPutLeavesASlotToReceiveInto(t *testing.T) {
	dir := newDir(t)
	msqid, id := newQueue(t)
	s := slotOf(t, open(t, dir, id), 0)
	s.Arm(NeverEndsIn(0xFF))
	s.Put(1, []byte(strings.Repeat("x", s.Room())), 1)
	s.Free()
	s.Put(1, []byte("short"), 2)
	s.Free()
	s.Arm(NeverEndsIn(0xFF))
	send(t, msqid, 1, "next")
	if n := receive(t, msqid, s); n != len("next") {
		t.Fatal(n)
	}
	wantMessages(t, "received", killed(t, dir, id), message{1, "next", 0, false})
}
