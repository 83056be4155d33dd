//go:build linux

package journal

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/testkit"
)

// leave creates a journal that holds texts and that nobody has locked: in another
// directory, as it is there when its process is killed.
func leave(t testing.TB, msqid int, id Identity, texts ...string) (dir string) {
	t.Helper()
	from := newDir(t)
	j := open(t, from, id)
	for i, text := range texts {
		take(t, msqid, slotOf(t, j, 0), NeverEndsIn(0), uint64(i+1), i+1, text)
	}
	return copyDir(t, from)
}

func adoptOne(t testing.TB, dir string, id Identity) *Adopted {
	t.Helper()
	found, err := Adopt(dir, id)
	if err != nil || len(found) != 1 {
		t.Fatalf("adopted %v, %v, want one", found, err)
	}
	return found[0]
}

func TestAdopt(t *testing.T) {
	msqid, id := newQueue(t)
	dir := leave(t, msqid, id, "a", "b", "c")
	a := adoptOne(t, dir, id)
	wantMessages(t, "adopted", messages(a), message{1, "a", 0, false}, message{2, "b", 0, false}, message{3, "c", 0, false})
	for _, s := range a.Slots {
		if !s.Adopted() || !s.Held() || s.Seq() == 0 {
			t.Errorf("a slot is adopted %t, held %t, number %d", s.Adopted(), s.Held(), s.Seq())
		}
		if _, err := s.Larger(); err == nil {
			t.Error("an adopted slot grows")
		}
	}
	if n := a.Slots[1].Deliver(); n != 1 {
		t.Errorf("attempt %d", n)
	}
	a.Slots[0].Free()
	a.Slots[0].Free()
	a.Slots[0].Release()
	if a.Slots[0].Held() {
		t.Error("held after Free")
	}
	if again, err := Adopt(dir, id); len(again) > 0 || err != nil {
		t.Errorf("adopted twice: %v, %v", again, err)
	}
	for range 2 {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	a.Slots[1].Free()    // too late
	a.Slots[1].Deliver() // too late
	a = adoptOne(t, dir, id)
	wantMessages(t, "adopted again", messages(a), message{2, "b", 1, false}, message{3, "c", 0, false})
	if n := a.Slots[0].Deliver(); n != 2 {
		t.Errorf("attempt %d", n)
	}
	for _, s := range a.Slots {
		s.Free()
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("files: %v", left)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestKilledInAdoption looks at every step.
func TestKilledInAdoption(t *testing.T) {
	msqid, id := newQueue(t)
	dir := leave(t, msqid, id, "a", "b", "c")
	want := []message{{1, "a", 0, false}, {2, "b", 0, false}, {3, "c", 0, false}}
	steps := 0
	atEachStep(t, func(name string) {
		steps++
		if name == "freed" {
			want = want[1:]
		}
		wantMessages(t, name, killed(t, dir, id), want...)
	})
	a := adoptOne(t, dir, id)
	for i, s := range a.Slots {
		want[0].Attempt = s.Deliver()
		wantMessages(t, "delivered", killed(t, dir, id), want...)
		if s.Free(); len(want) != len(a.Slots)-i-1 {
			t.Errorf("after Free of %d: %d messages", i, len(want))
		}
	}
	if steps < 3+3+1 {
		t.Errorf("%d steps", steps)
	}
}

func TestJournalsAreInTheOrderOfCreation(t *testing.T) {
	msqid, id := newQueue(t)
	from := newDir(t)
	var want []message
	for i := range 10 {
		text := fmt.Sprint(i)
		take(t, msqid, slotOf(t, open(t, from, id), 0), LengthHint{}, uint64(100-i), 1, text)
		want = append(want, message{1, text, 0, false})
	}
	wantMessages(t, "adopted", killed(t, from, id), want...)
}

func TestAdoptersShareNothing(t *testing.T) {
	const journals, adopters = 20, 8
	msqid, id := newQueue(t)
	dir := newDir(t)
	for range journals {
		from := leave(t, msqid, id, "text")
		name := files(t, from)[0]
		if err := os.Rename(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	total := 0
	var group sync.WaitGroup
	for range adopters {
		group.Go(func() {
			found, err := Adopt(dir, id)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			total += len(found)
			mu.Unlock()
			for _, a := range found {
				a.Slots[0].Free() // beside those who are still looking
			}
		})
	}
	group.Wait()
	if left := files(t, dir); total != journals || len(left) > 0 {
		t.Errorf("%d adopted of %d, files: %v", total, journals, left)
	}
}

func TestUnfinishedAndEmptyJournalsAreRemoved(t *testing.T) {
	msqid, id := newQueue(t)
	dir := leave(t, msqid, id)
	other := id
	other.ID++
	unfinished := files(t, leave(t, msqid, other))[0] + unfinishedSuffix
	if err := os.WriteFile(filepath.Join(dir, unfinished), []byte("any"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "of another program"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	j := open(t, dir, id) // empty as well, but it lives
	if found, err := Adopt(dir, other); len(found) > 0 || err != nil {
		t.Errorf("adopted %v, %v", found, err)
	}
	if left := files(t, dir); len(left) != 2 || left[0] != filepath.Base(j.Path()) {
		t.Errorf("files: %v, want %s and one more", left, j.Path())
	}
}

// TestRemovedUnderItsCreator: a sweep may see the file before its creator has locked
// it.
func TestRemovedUnderItsCreator(t *testing.T) {
	_, id := newQueue(t)
	dir := newDir(t)
	swept := 0
	atEachStep(t, func(name string) {
		if name == "created" && swept < 3 {
			swept++
			if _, err := Adopt(dir, id); err != nil {
				t.Error(err)
			}
		}
	})
	j := open(t, dir, id)
	if left := files(t, dir); len(left) != 1 || left[0] != filepath.Base(j.Path()) || swept != 3 {
		t.Errorf("files: %v after %d sweeps", left, swept)
	}
}

// damage is a change to the file of a journal.
type damage struct {
	name   string
	reason string
	change func(t *testing.T, path string, b []byte) []byte
}

func put32(offset int, v uint32) func(*testing.T, string, []byte) []byte {
	return func(_ *testing.T, _ string, b []byte) []byte {
		native.PutUint32(b[offset:], v)
		return b
	}
}

// summed is put32, with the right checksum.
func summed(base, sum, offset int, v uint32) func(*testing.T, string, []byte) []byte {
	return func(_ *testing.T, _ string, b []byte) []byte {
		native.PutUint32(b[base+offset:], v)
		native.PutUint32(b[base+sum:], crc32.ChecksumIEEE(b[base:][:sum]))
		return b
	}
}

func damages() []damage {
	page := os.Getpagesize()
	slot := page + extentHeader
	swapped := func(_ *testing.T, _ string, b []byte) []byte {
		b[8], b[9], b[10], b[11] = b[11], b[10], b[9], b[8]
		return b
	}
	keep := func(f func(path string) error) func(*testing.T, string, []byte) []byte {
		return func(t *testing.T, path string, b []byte) []byte {
			if err := f(path); err != nil {
				t.Fatal(err)
			}
			return nil
		}
	}
	return []damage{
		{"empty", "header", func(*testing.T, string, []byte) []byte { return []byte{} }},
		{"magic", "not a journal", put32(0, 1)},
		{"byte order", "byte order", swapped},
		{"version", "version 2", summed(0, headerSum, headerVersion, 2)},
		{"long", "C long", summed(0, headerSum, headerLong, 12-uint32(sysv.HeaderSize))},
		{"header", "checksum", put32(headerKey, 99)},
		{"page", "pages", summed(0, headerSum, headerPage, 4097)},
		{"too much used", "used", put32(headerUsed, 1000)},
		{"nothing used", "used", put32(headerUsed, 0)},
		{"truncated", "used", func(_ *testing.T, _ string, b []byte) []byte { return b[:len(b)-1] }},
		{"extent", "no extent", put32(page, 1)},
		{"extent's sum", "no extent", put32(page+extentRoom, 8)},
		{"room", "slots of", summed(page, extentSum, extentRoom, MaxRoom+8)},
		{"no room", "slots of", summed(page, extentSum, extentRoom, 0)},
		{"odd room", "slots of", summed(page, extentSum, extentRoom, 255)},
		{"count", "slots of", summed(page, extentSum, extentCount, 1<<31)},
		{"no pages", "slots of", summed(page, extentSum, extentPages, 0)},
		{"many pages", "slots of", summed(page, extentSum, extentPages, 1<<31)},
		{"length", "bytes in a slot", put32(slot+slotLength, minRoom+2)},
		{"long length", "bytes in a slot", put32(slot+slotLength, 1<<31)},
		{"attempts", "attempts", put32(slot+slotAttempts, 1<<31)},
		{"hint", "hint", put32(slot+slotFill, hintKinds<<8)},
		{"fixed", "hint", put32(slot+slotFixed, MaxRoom+1)},
		{"type", "type -1", func(_ *testing.T, _ string, b []byte) []byte {
			sysv.PutType(b[slot+slotMtype:], -1)
			return b
		}},
		{"holes", "storage", func(t *testing.T, path string, b []byte) []byte {
			native.PutUint32(b[headerUsed:], 1000)
			if err := errors.Join(os.WriteFile(path, b, 0o600), os.Truncate(path, int64(1000*page))); err != nil {
				t.Fatal(err)
			}
			return nil
		}},
		{"mode", "mode 0640", keep(func(path string) error { return os.Chmod(path, 0o640) })},
		{"hard link", "of its own", keep(func(path string) error { return os.Link(path, filepath.Dir(path)+"/other") })},
		{"symbolic link", "symbolic link", keep(func(path string) error {
			return errors.Join(os.Rename(path, filepath.Dir(path)+"/other"), os.Symlink("other", path))
		})},
		{"directory", "of its own", keep(func(path string) error {
			return errors.Join(os.Remove(path), os.Mkdir(path, 0o700))
		})},
		{"FIFO", "of its own", keep(func(path string) error {
			return errors.Join(os.Remove(path), syscall.Mkfifo(path, 0o600))
		})},
	}
}

func TestDamagedJournalsAreLeftAndReported(t *testing.T) {
	msqid, id := newQueue(t)
	for _, damage := range damages() {
		t.Run(damage.name, func(t *testing.T) {
			dir := leave(t, msqid, id, "text")
			path := filepath.Join(dir, files(t, dir)[0])
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if data = damage.change(t, path, data); data != nil {
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			from := leave(t, msqid, id, "good")
			good := files(t, from)[0]
			if err := os.Rename(filepath.Join(from, good), filepath.Join(dir, good)); err != nil {
				t.Fatal(err)
			}
			before := files(t, dir)
			found, err := Adopt(dir, id)
			var unreadable *UnreadableError
			if !errors.As(err, &unreadable) || unreadable.Path != path || !strings.Contains(err.Error(), damage.reason) {
				t.Errorf("the error is %v, want %q", err, damage.reason)
			}
			if len(found) != 1 || string(found[0].Slots[0].Text()) != "good" {
				t.Fatalf("adopted %v", found)
			}
			// What can be known to be of a queue that exists is not reported.
			orphans, err := Orphans(dir, kernel)
			if len(orphans) > 0 || err != nil && !errors.As(err, &unreadable) {
				t.Errorf("orphans: %v, %v", orphans, err)
			}
			if after := files(t, dir); len(after) != len(before) {
				t.Errorf("files: %v, before %v", after, before)
			}
			if err := found[0].Close(); err != nil {
				t.Error(err)
			}
			if data != nil {
				after, err := os.ReadFile(path)
				if err != nil || !bytes.Equal(after, data) {
					t.Errorf("the file has changed, %v", err)
				}
			}
		})
	}
}

func TestIdentity(t *testing.T) {
	_, id := newQueue(t)
	if !id.Is(id) || id.Boot == [16]byte{} || id.NamespaceIno == 0 {
		t.Errorf("the identity is %v", id)
	}
	for name, change := range map[string]func(*Identity){
		"boot":        func(i *Identity) { i.Boot[15]++ },
		"device":      func(i *Identity) { i.NamespaceDev++ },
		"namespace":   func(i *Identity) { i.NamespaceIno++ },
		"initial":     func(i *Identity) { i.Initial = !i.Initial },
		"msqid":       func(i *Identity) { i.ID++ },
		"key":         func(i *Identity) { i.Key++ },
		"creator":     func(i *Identity) { i.CreatorUID++ },
		"group":       func(i *Identity) { i.CreatorGID++ },
		"later queue": func(i *Identity) { i.Changed++ }, // noted of a queue that is younger than this one
	} {
		then := id
		change(&then)
		if id.Is(then) {
			t.Errorf("%s: the queue is the same", name)
		}
	}
	changed := func(id Identity) Identity { id.Changed++; return id }
	unsure := id
	unsure.Initial, unsure.NamespaceID = false, 0
	sure := unsure
	sure.NamespaceID = 5
	first := unsure
	first.Initial = true
	for _, test := range []struct {
		now, then Identity
		want      bool
	}{
		{unsure, unsure, true},
		{changed(unsure), unsure, false},
		{changed(sure), sure, true},
		{changed(first), first, true},
		{changed(sure), unsure, false}, // one of the processes could not ask
	} {
		if got := test.now.Is(test.then); got != test.want {
			t.Errorf("(%+v).Is(%+v) = %t", test.now, test.then, got)
		}
	}
	other := sure
	other.NamespaceID++
	if other.Is(sure) {
		t.Error("the namespace has the inode of another, and is the same")
	}
}

func TestNamespacesAreToldApart(t *testing.T) {
	_, id := newQueue(t)
	if !testkit.InNamespace(t) {
		return
	}
	if id.Initial {
		t.Error("this is the first IPC namespace")
	}
	if id.NamespaceID == 0 {
		t.Skip("this kernel has no ids of namespaces (Linux 6.18)")
	}
}

func TestIPCSetKeepsTheQueue(t *testing.T) {
	msqid, id := newQueue(t)
	if !id.Initial && id.NamespaceID == 0 {
		t.Skip("this namespace cannot be told from a later one")
	}
	dir := leave(t, msqid, id, "text")
	time.Sleep(time.Second) // the change time is in seconds
	stat, err := kernel.Stat(msqid)
	if err == nil {
		err = kernel.Set(msqid, stat.Attr)
	}
	if err != nil {
		t.Fatal(err)
	}
	now, err := Identify(kernel, msqid)
	if err != nil || now.Changed == id.Changed {
		t.Fatalf("changed %d, then %d, %v", id.Changed, now.Changed, err)
	}
	a := adoptOne(t, dir, now)
	a.Slots[0].Free()
	// A journal that was opened before, by the one who set it.
	from := newDir(t)
	j := open(t, from, id)
	j.SetChanged(now.Changed)
	take(t, msqid, slotOf(t, j, 0), LengthHint{}, 1, 1, "text")
	a = adoptOne(t, copyDir(t, from), now)
	if a.Queue.Changed != now.Changed {
		t.Errorf("changed %d, want %d", a.Queue.Changed, now.Changed)
	}
	a.Slots[0].Free()
}

func TestOrphans(t *testing.T) {
	msqid, id := newQueue(t)
	dir := newDir(t)
	add := func(text string, id Identity) {
		from := leave(t, msqid, id, text)
		name := files(t, from)[0]
		if err := os.Rename(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	gone, err := kernel.Get(sysv.KeyPrivate, sysv.Create|0o600)
	if err != nil {
		t.Fatal(err)
	}
	removed, err := Identify(kernel, gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := kernel.Remove(gone); err != nil {
		t.Fatal(err)
	}
	boot, elsewhere, recreated := id, id, id
	boot.Boot[0]++
	elsewhere.NamespaceIno++
	recreated.Key++
	add("here", id)
	add("removed", removed)
	add("boot", boot)
	add("elsewhere", elsewhere)
	add("re-created", recreated)

	found, err := Orphans(dir, kernel)
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]bool)
	for _, a := range found {
		text := string(a.Slots[0].Text())
		if got[text] = true; a.Elsewhere != (text == "elsewhere") {
			t.Errorf("%s: elsewhere is %t", text, a.Elsewhere)
		}
		if text == "boot" || text == "elsewhere" {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		} else {
			a.Slots[0].Free()
		}
	}
	if len(got) != 4 || got["here"] {
		t.Errorf("orphans: %v", got)
	}
	a := adoptOne(t, dir, id)
	wantMessages(t, "adopted", messages(a), message{1, "here", 0, false})
	a.Slots[0].Free()
	if left := files(t, dir); len(left) != 2 {
		t.Errorf("files: %v", left)
	}
}

func TestNoDirectoryNoJournals(t *testing.T) {
	_, id := newQueue(t)
	dir := filepath.Join(newDir(t), "none")
	found, err := Adopt(dir, id)
	orphans, orphansErr := Orphans(dir, kernel)
	if len(found) > 0 || len(orphans) > 0 || err != nil || orphansErr != nil {
		t.Errorf("%v, %v, %v, %v", found, err, orphans, orphansErr)
	}
}

func TestTruncatedWhileAdopted(t *testing.T) {
	msqid, id := newQueue(t)
	dir := leave(t, msqid, id, "a", "b")
	a := adoptOne(t, dir, id)
	if err := os.Truncate(a.Path(), 0); err != nil {
		t.Fatal(err)
	}
	for _, s := range a.Slots { // writes, and no SIGBUS
		s.Deliver()
		s.Free()
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// TestLookingAtWhatGrows: a journal of a living process changes while others look whose
// it is.
func TestLookingAtWhatGrows(t *testing.T) {
	_, id := newQueue(t)
	other := id
	other.ID++
	dir := newDir(t)
	j, done := open(t, dir, id), make(chan struct{})
	go func() {
		defer close(done)
		for range 300 {
			if _, err := j.Slot(5000); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	for looking := true; looking; {
		select {
		case <-done:
			looking = false
		default:
		}
		for _, id := range []Identity{id, other} {
			if found, err := Adopt(dir, id); len(found) > 0 || err != nil {
				t.Fatalf("adopted %v, %v", found, err)
			}
		}
	}
}

// FuzzJournal reads what is not a journal.
func FuzzJournal(f *testing.F) {
	msqid, id := newQueue(f)
	for _, texts := range [][]string{{}, {"a", "b", ""}, {strings.Repeat("x", 200)}} {
		dir := leave(f, msqid, id, texts...)
		data, err := os.ReadFile(filepath.Join(dir, files(f, dir)[0]))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, uint16(0), uint32(0), true)
		f.Add(data, uint16(os.Getpagesize()+extentHeader+slotLength), uint32(0), true)
		f.Add(data, uint16(os.Getpagesize()+extentRoom), uint32(1<<20), true)
		f.Add(data[:len(data)-100], uint16(headerPage), uint32(8192), true)
	}
	f.Fuzz(func(t *testing.T, data []byte, offset uint16, value uint32, sums bool) {
		// Whole words, and with right checksums: else most inputs end there.
		if int(offset)+4 <= len(data) {
			data = bytes.Clone(data)
			native.PutUint32(data[offset:], value)
		}
		if sums {
			data = bytes.Clone(data)
			if len(data) >= headerSize {
				native.PutUint32(data[headerSum:], crc32.ChecksumIEEE(data[:headerSum]))
			}
			for at := 4096; at+extentHeader <= len(data); at += 4096 {
				if native.Uint32(data[at:]) == extentMark {
					native.PutUint32(data[at+extentSum:], crc32.ChecksumIEEE(data[at:][:extentSum]))
				}
			}
		}
		r := countingReader{r: bytes.NewReader(data)}
		h, err := readHeader(&r, int64(len(data)))
		if err != nil {
			return
		}
		if h.used > int64(len(data)) {
			t.Fatalf("%d bytes are used of %d", h.used, len(data))
		}
		slots, _, err := readSlots(&r, h)
		if err != nil && slots != nil {
			t.Fatalf("%d messages, and %v", len(slots), err)
		}
		for i, s := range slots {
			end := s.offset + slotHeader + int64(s.n)
			if s.Type() <= 0 || s.n < 0 || len(s.Text()) != s.n || end > int64(len(data)) || s.attempt < 0 {
				t.Fatalf("type %d, %d bytes at %d, attempt %d", s.Type(), s.n, s.offset, s.attempt)
			}
			if !bytes.Equal(s.Text(), data[end-int64(s.n):end]) {
				t.Fatalf("the text is not that at %d", s.offset)
			}
			if i > 0 && s.Seq() != 0 && (slots[i-1].Seq() == 0 || slots[i-1].Seq() > s.Seq()) {
				t.Fatalf("number %d is behind %d", s.Seq(), slots[i-1].Seq())
			}
		}
		// Every slot is read once, with a window of 64 KiB at most before it.
		if limit := int64(len(data))/slotHeader + 100; r.calls > limit {
			t.Fatalf("%d reads of %d bytes", r.calls, len(data))
		}
	})
}

type countingReader struct {
	r     io.ReaderAt
	calls int64
}

func (c *countingReader) ReadAt(b []byte, at int64) (int, error) {
	c.calls++
	return c.r.ReadAt(b, at)
}
