//go:build linux

package journal

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

func TestWhatAKillLeavesOfASlot(t *testing.T) {
	dir := newDir(t)
	msqid, id := newQueue(t)
	j := open(t, dir, id)
	s := slotOf(t, j, 0)
	for round := range 3 { // the second and third in a slot that was used
		text := strings.Repeat("x", 100-40*round)
		hint := NeverEndsIn(0xFF)
		none := func(when string) { t.Helper(); wantMessages(t, when, killed(t, dir, id)) }
		none("empty")
		send(t, msqid, 7, text)
		s.Arm(hint)
		none("armed")
		n := receive(t, msqid, s)
		one := func(when string, attempt int) {
			t.Helper()
			wantMessages(t, when, killed(t, dir, id), message{7, text, attempt, false})
		}
		one("received", 0)
		s.Took(n, uint64(round+1))
		one("took", 0)
		if s.Type() != 7 || string(s.Text()) != text || !s.Held() {
			t.Errorf("the slot has %d %q", s.Type(), s.Text())
		}
		for attempt := 1; attempt <= 2; attempt++ {
			if got := s.Deliver(); got != attempt || s.Attempt() != attempt {
				t.Errorf("Deliver = %d, Attempt = %d, want %d", got, s.Attempt(), attempt)
			}
			one("delivered", attempt)
		}
		s.Free()
		none("freed")
		s.Free()
	}
	s.Release()
	s.Release()
	if len(files(t, dir)) != 1 {
		t.Errorf("files: %v", files(t, dir))
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("files after Close: %v", left)
	}
}

func TestArmKeepsWhatItHolds(t *testing.T) {
	msqid, id := newQueue(t)
	s := slotOf(t, open(t, newDir(t), id), 0)
	take(t, msqid, s, LengthHint{}, 1, 1, "held")
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	s.Arm(LengthHint{})
}

func TestOrderIsThatOfTaking(t *testing.T) {
	dir := newDir(t)
	msqid, id := newQueue(t)
	j := open(t, dir, id)
	want := make([]message, 40)
	for i := range want {
		// In extents of three sizes; and in the reverse order of the file.
		seq := len(want) - i
		s := slotOf(t, j, 300*(i%3))
		text := fmt.Sprint(seq)
		take(t, msqid, s, NeverEndsIn(0), uint64(seq), 1, text)
		want[seq-1] = message{1, text, 0, false}
	}
	// One that was not recorded is the last.
	s := slotOf(t, j, 0)
	s.Arm(NeverEndsIn(0))
	send(t, msqid, 1, "last")
	receive(t, msqid, s)
	wantMessages(t, "after a kill", killed(t, dir, id), append(want, message{1, "last", 0, false})...)
}

func TestLengthHints(t *testing.T) {
	full := strings.Repeat("f", minRoom)
	for _, test := range []struct {
		name     string
		hint     LengthHint
		text     string
		want     string
		inferred bool
	}{
		{"end", NeverEndsIn(0xFF), "text", "text", false},
		{"end, empty", NeverEndsIn(0xFF), "", "", false},
		{"end, full", NeverEndsIn('x'), full, full, false},
		{"end, inside", NeverEndsIn('x'), "xxax", "xxa", false}, // a text that breaks the rule
		{"fixed", FixedLength(4), "a\xff\xff\xff", "a\xff\xff\xff", false},
		{"fixed, full", FixedLength(minRoom), full, full, false},
		{"fixed, longer", FixedLength(4), "longer", "longer", true},
		{"none", LengthHint{}, "text", "text", true},
		{"none, empty", LengthHint{}, "", "", true},
		{"none, full", LengthHint{}, full, full, false},
		{"none, wrong", LengthHint{}, "text\xff", "text", true},
		{"not a length", FixedLength(-1), "text", "text", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := newDir(t)
			msqid, id := newQueue(t)
			s := slotOf(t, open(t, dir, id), 0)
			for range 2 {
				// Used before, by a view with another codec.
				take(t, msqid, s, NeverEndsIn('q'), 1, 1, full)
				s.Free()
				send(t, msqid, 1, test.text)
				s.Arm(test.hint)
				n := receive(t, msqid, s)
				wantMessages(t, "received", killed(t, dir, id), message{1, test.want, 0, test.inferred})
				s.Took(n, 2)
				wantMessages(t, "took", killed(t, dir, id), message{1, test.text, 0, false})
				s.Free()
			}
		})
	}
}

func TestFillIsTheByteThatEndsTheFewest(t *testing.T) {
	dir := newDir(t)
	msqid, id := newQueue(t)
	s := slotOf(t, open(t, dir, id), 0)
	// All messages end with bytes from 2 up, most of them with one that is filled with
	// at first.
	for i := range 2000 {
		take(t, msqid, s, LengthHint{}, 1, 1, "text"+string([]byte{byte(2 + i%254)}))
		s.Free()
		take(t, msqid, s, LengthHint{}, 1, 1, "text\xff")
		s.Free()
	}
	for _, text := range []string{"text\xff", "text\xfe", "text\x02"} {
		send(t, msqid, 1, text)
		s.Arm(LengthHint{})
		n := receive(t, msqid, s)
		wantMessages(t, "received", killed(t, dir, id), message{1, text, 0, true})
		s.Took(n, 1)
		s.Free()
	}
}

func TestLargerSlots(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user writes a type when msgrcv fails")
	}
	dir := newDir(t)
	msqid, id := newQueue(t)
	j := open(t, dir, id)
	s := slotOf(t, j, 0)
	text := strings.Repeat("0123456789abcdef", 512)[:8000]
	send(t, msqid, 1, text)
	grown := 0
	for {
		s.Arm(LengthHint{})
		n, err := kernel.Receive(msqid, s.Buffer(), 0, 0)
		if err == sysv.E2BIG {
			if s, err = s.Larger(); err != nil {
				t.Fatal(err)
			}
			grown++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		s.Took(n, 1)
		break
	}
	if grown != 5 || s.Room() != 8192 {
		t.Errorf("grown %d times to %d bytes", grown, s.Room())
	}
	wantMessages(t, "after a kill", killed(t, dir, id), message{1, text, 0, false})
	if _, err := j.Slot(MaxRoom + 1); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a slot of %d bytes: %v", MaxRoom+1, err)
	}
	// The small slots are used again.
	used := j.used.Load()
	for range 5 {
		slotOf(t, j, 0)
	}
	if j.used.Load() != used {
		t.Errorf("the file has grown from %d to %d pages", used, j.used.Load())
	}
}

func TestManySlotsAreCheap(t *testing.T) {
	const slots = 10000
	dir := newDir(t)
	_, id := newQueue(t)
	j := open(t, dir, id)
	for range slots {
		slotOf(t, j, 0)
	}
	info, err := os.Stat(j.Path())
	if err != nil {
		t.Fatal(err)
	}
	// 320 bytes each; the file doubles, up to 1 MiB at once.
	if info.Size() > slots*320+maxGrowth || len(j.mappings) > 20 {
		t.Errorf("%d slots: %d bytes, %d mappings", slots, info.Size(), len(j.mappings))
	}
}

// TestKilledInGrowth looks at every step of Open, of growth and of Close.
func TestKilledInGrowth(t *testing.T) {
	dir := newDir(t)
	msqid, id := newQueue(t)
	var want []message
	steps := 0
	atEachStep(t, func(name string) {
		steps++
		wantMessages(t, name, killed(t, dir, id), want...)
	})
	j := open(t, dir, id)
	var slots []*Slot
	for i := range 200 {
		room := 0
		if i%20 == 0 {
			room = 100 * i
		}
		s := slotOf(t, j, room)
		slots = append(slots, s)
		if i%3 == 0 {
			text := fmt.Sprint("message ", i)
			take(t, msqid, s, NeverEndsIn(0), uint64(i+1), i+1, text)
			want = append(want, message{i + 1, text, 0, false})
		}
	}
	for _, s := range slots {
		s.Release() // those that hold a message keep it
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	wantMessages(t, "after Close", killed(t, dir, id), want...)
	if steps < 50 {
		t.Errorf("%d steps", steps)
	}
}

// TestCloseWaitsForNothing: slots that are in use keep file and memory.
func TestCloseWaitsForNothing(t *testing.T) {
	dir := newDir(t)
	msqid, id := newQueue(t)
	j := open(t, dir, id)
	freed, kept := slotOf(t, j, 0), slotOf(t, j, 0)
	take(t, msqid, freed, LengthHint{}, 1, 1, "freed")
	take(t, msqid, kept, LengthHint{}, 2, 2, "kept")
	for range 2 {
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := j.Slot(0); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("Slot after Close: %v", err)
	}
	if found, err := Adopt(dir, id); len(found) > 0 || err != nil {
		t.Errorf("adopted while a slot is in use: %v, %v", found, err)
	}
	if string(kept.Text()) != "kept" {
		t.Errorf("the text is %q", kept.Text())
	}
	freed.Free()
	freed.Release()
	kept.Release()
	if j.header != nil || kept.buf != nil {
		t.Error("still mapped")
	}
	found, err := Adopt(dir, id)
	if err != nil || len(found) != 1 {
		t.Fatalf("adopted %v, %v", found, err)
	}
	wantMessages(t, "adopted", messages(found[0]), message{2, "kept", 0, false})
	found[0].Slots[0].Free()
	if left := files(t, dir); len(left) > 0 {
		t.Errorf("files: %v", left)
	}
}

func TestDirectoriesOfOthersAreRefused(t *testing.T) {
	_, id := newQueue(t)
	dir := newDir(t)
	own := filepath.Join(dir, "own")
	if err := os.Mkdir(own, 0o700); err != nil {
		t.Fatal(err)
	}
	refused := func(name, dir, text string, is error) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			calls := map[string]func() error{
				"Open":    func() error { _, err := Open(dir, id); return err },
				"Adopt":   func() error { _, err := Adopt(dir, id); return err },
				"Orphans": func() error { _, err := Orphans(dir, kernel); return err },
				"Watch":   func() error { _, err := Watch(dir, sysv.Host(), nil, nil, nil); return err },
			}
			for call, f := range calls {
				if err := f(); err == nil || !errors.Is(err, is) || !strings.Contains(err.Error(), text) {
					t.Errorf("%s: %v, want %v, %q", call, err, is, text)
				}
			}
		})
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(own, link); err != nil {
		t.Fatal(err)
	}
	refused("symbolic link", link, "symbolic link", fs.ErrPermission)
	refused("symbolic link and slash", link+"/", "symbolic link", fs.ErrPermission)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused("file", file, "not a directory", syscall.ENOTDIR)
	if err := os.Chmod(own, 0o750); err != nil {
		t.Fatal(err)
	}
	refused("open to others", own, "mode 0750", fs.ErrPermission)
	if os.Geteuid() == 0 {
		if err := errors.Join(os.Chmod(own, 0o700), os.Chown(own, 1234, 1234)); err != nil {
			t.Fatal(err)
		}
		refused("foreign owner", own, "user 1234", fs.ErrPermission)
	}
}

func TestDiskIsRefused(t *testing.T) {
	_, id := newQueue(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil || st.Type == 0x01021994 {
		t.Skip("temporary directories are on tmpfs here")
	}
	if _, err := Open(dir, id); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "tmpfs") {
		t.Errorf("got %v", err)
	}
}

func TestEmulatorsAreRefused(t *testing.T) {
	was := probe
	probe = emulated
	defer func() { probe = was }()
	_, id := newQueue(t)
	dir := newDir(t)
	j, err := Open(dir, id)
	if sysvtest.Emulated() {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("got %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
}

func init() { roles["full"] = fullRole }

// TestFull runs out of space in a small file system.
func TestFull(t *testing.T) {
	cmd := testkit.Process(t, "full", newDir(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Unshareflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.Output()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Skipf("this process may not have a mount namespace of its own: %v", err)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case strings.HasPrefix(string(out), "skip"):
		t.Skip(string(out))
	}
}

func fullRole(args []string) error {
	const size, page = 1 << 18, 4096
	if os.Getpagesize() != page {
		fmt.Print("skip: pages of another size")
		return nil
	}
	dir := args[0]
	if err := syscall.Mount("chanmq-test", dir, "tmpfs", 0, fmt.Sprintf("size=%d,mode=0700", size)); err != nil {
		fmt.Printf("skip: this process may not mount a tmpfs: %v", err)
		return nil
	}
	msqid, err := kernel.Get(sysv.KeyPrivate, sysv.Create|0o600)
	if err != nil {
		return err
	}
	defer kernel.Remove(msqid)
	id, err := Identify(kernel, msqid)
	if err != nil {
		return err
	}
	msg := sysv.Buffer(4)
	sysv.PutType(msg, 1)
	copy(msg[sysv.HeaderSize:], "text")
	j, err := Open(dir, id)
	if err != nil {
		return err
	}
	// Slots of all sizes, until none is left; each is used.
	held := 0
	for room := 1; ; room = room * 2 % 10000 {
		s, err := j.Slot(room)
		var full *SpaceError
		if errors.As(err, &full) {
			if full.Need == 0 || full.Free >= full.Need || !errors.Is(err, syscall.ENOSPC) ||
				!strings.Contains(err.Error(), fmt.Sprint(full.Need)) || !strings.Contains(err.Error(), dir) {
				return fmt.Errorf("the error is %v", err)
			}
			if room <= minRoom {
				break // the smallest
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := kernel.Send(msqid, msg); err != nil {
			return err
		}
		s.Arm(LengthHint{})
		n, err := kernel.Receive(msqid, s.Buffer(), 0, 0)
		if err != nil {
			return err
		}
		held++
		s.Took(n, uint64(held))
	}
	var full *SpaceError
	if _, err := Open(dir, id); !errors.As(err, &full) {
		return fmt.Errorf("Open without space: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		return fmt.Errorf("files: %v, %v", entries, err)
	}
	for _, s := range j.slots {
		s.Release()
	}
	if err := j.Close(); err != nil {
		return err
	}
	found, err := Adopt(dir, id)
	if err != nil || len(found) != 1 || len(found[0].Slots) != held || held < 20 {
		return fmt.Errorf("adopted %v, %v, %d were held", found, err, held)
	}
	for _, s := range found[0].Slots {
		s.Free()
	}
	if err := found[0].Close(); err != nil {
		return err
	}
	return syscall.Unmount(dir, 0)
}

func TestASlotAllocatesNothing(t *testing.T) {
	msqid, id := newQueue(t)
	s := slotOf(t, open(t, newDir(t), id), 0)
	msg := sysv.Buffer(64)
	sysv.PutType(msg, 1)
	hint := NeverEndsIn(0xFF)
	cycle := func() {
		if err := kernel.Send(msqid, msg); err != nil {
			t.Fatal(err)
		}
		s.Arm(hint)
		s.Took(receive(t, msqid, s), 1)
		s.Deliver()
		s.Free()
	}
	cycle()
	if n := testing.AllocsPerRun(100, cycle); n > 0 {
		t.Errorf("%v allocations a message", n)
	}
}

func BenchmarkSlot(b *testing.B) {
	for _, size := range []int{64, 4096} {
		for name, hint := range map[string]LengthHint{"none": {}, "end": NeverEndsIn(0xFF), "fixed": FixedLength(size)} {
			b.Run(fmt.Sprint(size, "/", name), func(b *testing.B) {
				_, id := newQueue(b)
				s := slotOf(b, open(b, newDir(b), id), size)
				msg := sysv.Buffer(size)
				sysv.PutType(msg, 1)
				b.ReportAllocs()
				for b.Loop() {
					s.Arm(hint)
					copy(s.Buffer(), msg)
					s.Took(size, 1)
					s.Deliver()
					s.Free()
				}
			})
		}
	}
}
