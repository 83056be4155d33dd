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
	s.Arm(LengthHint{}.Enveloped())
	s.TookPack(receive(t, msqid, s), seq, len(values))
}

// valuesOf returns what is in the slots.
func valuesOf(slots []*Slot) (values []string) {
	for _, s := range slots {
		values = append(values, fmt.Sprintf("%d %s %d", s.Seq(), s.Text(), s.Attempt()))
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
		got = append(got, valuesOf(a.Slots)...)
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
		pack.Arm(NeverEndsIn(0xFF).Enveloped())
		wantValues(t, "armed", dir, id)
		n := receive(t, msqid, pack)
		wantValues(t, "received", dir, id, "1 a 0", "2 b 0", "3 c 0")
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

// TestLengthsInEnvelopes: what msgrcv would have returned is not needed for a pack, whatever
// the codec knows of its values. What it knows of a text holds for one in an envelope too.
func TestLengthsInEnvelopes(t *testing.T) {
	plain := string(envelope.Append(nil, &envelope.Header{Kind: envelope.Plain}))
	for name, c := range map[string]struct {
		hint     LengthHint
		text     string
		want     []string
		inferred bool
	}{
		"pack, none":   {LengthHint{}, packOf("a", "\xFF\xFF\xFF"), []string{"a", "\xFF\xFF\xFF"}, false},
		"pack, end":    {NeverEndsIn(0xFF), packOf("a", "\xFF\xFF\xFF"), []string{"a", "\xFF\xFF\xFF"}, false},
		"pack, fixed":  {FixedLength(200), packOf("a", "\xFF\xFF\xFF"), []string{"a", "\xFF\xFF\xFF"}, false},
		"plain, none":  {LengthHint{}, plain + "text", []string{plain + "text"}, true},
		"plain, fixed": {FixedLength(9), plain + "text\xFF\xFF\xFF\xFF\xFF", []string{plain + "text\xFF\xFF\xFF\xFF\xFF"}, false},
		"text, fixed":  {FixedLength(9), "text\xFF\xFF\xFF\xFF\xFF", []string{"text\xFF\xFF\xFF\xFF\xFF"}, false},
		"damaged":      {LengthHint{}, packOf("a")[:15], []string{packOf("a")[:15]}, true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newDir(t)
			msqid, id := newQueue(t)
			s := slotOf(t, open(t, dir, id), 0)
			send(t, msqid, 1, c.text)
			s.Arm(c.hint.Enveloped())
			receive(t, msqid, s)
			var want []message
			for _, text := range c.want {
				want = append(want, message{1, text, 0, c.inferred})
			}
			wantMessages(t, "received", killed(t, dir, id), want...)
		})
	}
}

// TestAPackOfAHandleWithoutPacking: it is a text like any other.
func TestAPackOfAHandleWithoutPacking(t *testing.T) {
	dir := newDir(t)
	msqid, id := newQueue(t)
	s := slotOf(t, open(t, dir, id), 0)
	send(t, msqid, 1, packOf("a", "b"))
	s.Arm(NeverEndsIn(0xFF))
	n := receive(t, msqid, s)
	wantMessages(t, "received", killed(t, dir, id), message{1, packOf("a", "b"), 0, false})
	s.Took(n, 1)
	wantMessages(t, "took", killed(t, dir, id), message{1, packOf("a", "b"), 0, false})
}

// TestKilledWhilePacksAreAdopted: an adopter gives the values slots of their own, in the same
// file. If it dies at a step, the next one finds all of them, once.
func TestKilledWhilePacksAreAdopted(t *testing.T) {
	msqid, id := newQueue(t)
	from := newDir(t)
	j := open(t, from, id)
	before := slotOf(t, j, 0)
	take(t, msqid, before, NeverEndsIn(0), 9, 7, "before")
	pack := slotOf(t, j, 0)
	takePack(t, msqid, pack, 10, 7, "gone", "a", "b", "", strings.Repeat("c", 30))
	pack.Moved(1)
	slotOf(t, j, 0).Put(7, []byte("a"), 11) // and killed before it was moved
	unrecorded := slotOf(t, j, 0)
	unrecorded.Arm(LengthHint{}.Enveloped())
	send(t, msqid, 7, packOf("d", "e"))
	receive(t, msqid, unrecorded)
	dir := copyDir(t, from)

	all := []string{"9 before 0", "11 a 0", "12 b 0", "13  0", "14 " + strings.Repeat("c", 30) + " 0", "15 d 0", "16 e 0"}
	var steps []string
	atEachStep(t, func(name string) {
		steps = append(steps, name)
		wantValues(t, name, dir, id, all...)
	})
	a := adoptOne(t, dir, id)
	if got := valuesOf(a.Slots); strings.Join(got, ", ") != strings.Join(all, ", ") {
		t.Errorf("adopted %q, want %q", got, all)
	}
	if len(steps) < 10 {
		t.Errorf("steps: %q", steps)
	}
	step = func(string) {}
	for i, s := range a.Slots {
		s.Deliver()
		if err := s.Free(); err != nil {
			t.Error(err)
		}
		wantValues(t, "acknowledged", dir, id, all[i+1:]...)
	}
	if len(files(t, dir)) > 0 {
		t.Errorf("files: %v", files(t, dir))
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
			s.Arm(LengthHint{}.Enveloped())
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
