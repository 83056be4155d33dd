//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

// The tests of journal_*_test.go and consumer_test.go are of messages that outlive their
// process. A process that dies is the test binary in a role.

func init() {
	roles["hold"] = holdRole
}

// journalDir returns a directory for journals, which is empty at the end of the test.
func journalDir(t testing.TB) string {
	t.Helper()
	if sysvtest.Emulated() {
		t.Skip("qemu-user receives into memory of its own, so that journals are refused")
	}
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-test-")
	if err != nil {
		t.Skipf("no tmpfs for journals: %v", err)
	}
	testkit.ReapPath(t, dir)
	t.Cleanup(func() {
		for _, file := range journals(t, dir) {
			t.Errorf("%s is left", file)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// journals returns the files in the directory.
func journals(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// holdRole takes messages and keeps them until it is killed, or ends otherwise: msqid,
// directory, how it takes, how it ends.
func holdRole(args []string) error {
	id, dir, how, end := args[0], args[1], args[2], args[3]
	var msqid int
	fmt.Sscan(id, &msqid)
	q, err := chanmq.Attach(msqid, chanmq.WithJournal(dir))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	switch how {
	case "take":
		for range 3 {
			if _, err := q.Take(ctx, chanmq.Any()); err != nil {
				return err
			}
		}
	case "nack": // the last one comes before the others
		for range 3 {
			d, err := q.Take(ctx, chanmq.Any())
			if err != nil {
				return err
			}
			defer d.Nack()
		}
	case "consumer":
		c := q.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(3))
		for range 2 {
			<-c.C()
		}
		for len(c.C()) < 1 {
		}
	case "receiver":
		q.Receiver(ctx, chanmq.Any())
		for stat, err := q.Stat(); stat.Messages > 2; stat, err = q.Stat() {
			if err != nil {
				return err
			}
		}
	case "buffer":
		r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(2))
		for len(r.C()) < 2 {
		}
	case "slot":
		r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(2))
		for len(r.C()) < 2 {
		}
		r.Close()
	}
	switch end {
	case "panic":
		panic("as the test wants it")
	case "exit":
		os.Exit(0)
	case "return":
		return nil
	}
	os.Stdout.Write([]byte{'\n'})
	select {}
}

// die has a process take what it can of the messages in the queue, and die.
func die(t testing.TB, q *chanmq.Queue[[]byte], dir, how, end string) {
	t.Helper()
	cmd := testkit.Process(t, "hold", fmt.Sprint(q.ID()), dir, how, end)
	if end == "panic" {
		cmd.Stderr = nil
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	n, _ := stdout.Read(make([]byte, 1))
	if (n == 1) != (end == "kill") {
		t.Fatalf("the process wrote %d bytes", n)
	}
	if end == "kill" {
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	_ = cmd.Wait() // it fails, as it should
}

// TestNothingIsLostWithTheProcess: however a process ends, what it had taken comes to
// the next one, in order, before newer messages.
func TestNothingIsLostWithTheProcess(t *testing.T) {
	for _, how := range []string{"take", "nack", "consumer", "receiver", "buffer", "slot"} {
		for _, end := range []string{"kill", "panic", "exit", "return"} {
			t.Run(how+", "+end, func(t *testing.T) {
				dir := journalDir(t)
				q := newQueue(t)
				sendNumbers(t, q, 1, 0, 3)
				die(t, q, dir, how, end)
				sendNumbers(t, q, 1, 3, 4)
				heir := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir)))
				defer heir.Close()
				for n := range 4 {
					d, err := heir.Take(ctxWithin(t), chanmq.Any())
					if err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(d.Value, number(n)) {
						t.Fatalf("message %d is %v", n, d.Value)
					}
					// A Receiver takes ahead of the program, and may be in the system call.
					ahead := how == "receiver" && n == 0 || how == "buffer" && n == 2
					if d.Attempt < 1 || d.Attempt > 2 || d.LengthInferred && !ahead {
						t.Errorf("message %d: attempt %d, inferred %v", n, d.Attempt, d.LengthInferred)
					}
					if err := d.Ack(); err != nil {
						t.Error(err)
					}
				}
			})
		}
	}
}

// TestTakeoverWhileRunning: a handle that waits gets what a process leaves that dies.
func TestTakeoverWhileRunning(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 3)
	die(t, q, dir, "take", "kill")
	heir := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir)))
	defer heir.Close()
	r := heir.Receiver(ctxWithin(t), chanmq.OfType(1))
	for n := range 3 {
		if m := <-r.C(); !bytes.Equal(m.Value, number(n)) {
			t.Errorf("message %d is %v", n, m.Value)
		}
	}
	sendNumbers(t, q, 2, 0, 3)
	got := make(chan chanmq.Message[[]byte])
	background(t, func() {
		for m := range heir.Receiver(t.Context(), chanmq.OfType(2)).C() {
			got <- m
		}
	})
	<-got
	<-got
	<-got
	sendNumbers(t, q, 3, 0, 3)
	die(t, q, dir, "take", "kill")
	s := heir.Receiver(ctxWithin(t), chanmq.OfType(3))
	for n := range 3 {
		if m := <-s.C(); !bytes.Equal(m.Value, number(n)) {
			t.Errorf("message %d is %v", n, m.Value)
		}
	}
}

// TestJournalIsGone: a handle that is closed leaves no file, whatever it has done.
func TestJournalIsGone(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t, chanmq.WithJournal(dir))
	if n := len(journals(t, dir)); n != 1 {
		t.Fatalf("%d journals, want 1", n)
	}
	sendNumbers(t, q, 1, 0, 10)
	r := q.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(3))
	<-r.C()
	r.Close()
	c := q.Consumer(t.Context(), chanmq.Any(), chanmq.WithInFlight(3))
	d, e := <-c.C(), <-c.C()
	if _, err := q.Receive(t.Context(), chanmq.Any()); err != nil {
		t.Fatal(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if n := len(journals(t, dir)); n != 1 {
		t.Errorf("%d journals while two deliveries are not acknowledged", n)
	}
	if err := d.Ack(); err != nil {
		t.Error(err)
	}
	if err := e.Nack(); err != nil { // to the kernel
		t.Error(err)
	}
	if n := len(journals(t, dir)); n != 0 {
		t.Errorf("%d journals at the end", n)
	}
	if stat := statOf(t, q.ID()); stat.Messages != 7 {
		t.Errorf("%d messages in the queue, want 7", stat.Messages)
	}
}

// TestFullQueueAtClose: what does not fit the queue stays in the journal, for the next.
func TestFullQueueAtClose(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t)
	first := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir)))
	sendNumbers(t, q, 1, 0, 3)
	r := first.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(2))
	testkit.Eventually(t, "three messages are taken", func() bool { return must(q.Stat()).Messages == 0 })
	fill(t, q)
	if err := first.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	<-r.Done()
	second := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir)))
	defer second.Close()
	wantNumbers(t, second, chanmq.OfType(1), 0, 3)
}

// TestJournalRefused: Open says why a journal cannot be had.
func TestJournalRefused(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t)
	open := func(dir string) error {
		other, err := chanmq.Attach(q.ID(), chanmq.WithJournal(dir))
		if err == nil {
			other.Close()
		}
		return err
	}
	wide := filepath.Join(dir, "wide")
	if err := os.Mkdir(wide, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(wide)
	wantError(t, "0755", open(wide), os.ErrPermission, "WithJournal", wide, "0700")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(link)
	wantError(t, "a link", open(link), os.ErrPermission, "symbolic link")
	const tmpfs = 0x01021994
	disk := filepath.Join(t.TempDir(), "disk")
	var fs syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(disk), &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == tmpfs {
		t.Skip("all that is tested here is on tmpfs")
	}
	wantError(t, "a disk", open(disk), errors.ErrUnsupported, "tmpfs")
}

// TestNoRoomForAJournal: a tmpfs that is full is an error, of Open and of the receive
// that needs more, and no message is lost.
func TestNoRoomForAJournal(t *testing.T) {
	journalDir(t)
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64k,mode=0700"); err != nil {
		t.Skipf("may not mount a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	q := newQueue(t)
	first := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir)))
	for range 2 {
		if err := q.Send(t.Context(), 1, make([]byte, 8000)); err != nil {
			t.Fatal(err)
		}
	}
	var held []chanmq.Delivery[[]byte]
	var err error
	for err == nil && len(held) < 10 {
		if len(held) > 0 {
			if err := q.Send(t.Context(), 1, make([]byte, 8000)); err != nil {
				t.Fatal(err)
			}
		}
		var d chanmq.Delivery[[]byte]
		if d, err = first.Take(t.Context(), chanmq.Any()); err == nil {
			held = append(held, d)
		}
	}
	wantError(t, "Take", err, syscall.ENOSPC, dir, "free")
	for _, d := range held {
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
	}
	d, err := first.Take(t.Context(), chanmq.Any())
	if err != nil {
		t.Errorf("Take with room again: %v", err)
	}
	if err := d.Ack(); err != nil {
		t.Error(err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the tmpfs is not full")
	}
	_, err = chanmq.Attach(q.ID(), chanmq.WithJournal(dir))
	wantError(t, "Attach", err, syscall.ENOSPC, "WithJournal", dir)
}

// TestOrphans: what is left of a queue that was removed is offered, and mixed into none.
func TestOrphans(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 3)
	die(t, q, dir, "take", "kill")
	if orphans := must(chanmq.Orphans(dir)); len(orphans) != 0 {
		t.Fatalf("%d orphans of a queue that exists", len(orphans))
	}
	if err := q.Remove(); err != nil {
		t.Fatal(err)
	}
	other := newQueue(t, chanmq.WithJournal(dir))
	if m, ok, err := other.TryReceive(chanmq.Any()); ok || err != nil {
		t.Errorf("another queue got %v, %v", m, err)
	}
	orphans, err := chanmq.Orphans(dir)
	if err != nil || len(orphans) != 1 {
		t.Fatalf("%d orphans, %v", len(orphans), err)
	}
	o := orphans[0]
	if o.ID != q.ID() || o.Key != 0 || o.Elsewhere || !strings.HasPrefix(o.Path, dir) || len(o.Deliveries) != 3 {
		t.Errorf("the orphan is %+v", o)
	}
	again := must(chanmq.Orphans(dir))
	if len(again) != 0 {
		t.Errorf("it is offered twice at a time")
	}
	for n, d := range o.Deliveries {
		if d.Type != 1 || !bytes.Equal(d.Value, number(n)) || d.Attempt != 1 {
			t.Errorf("delivery %d is %+v", n, d)
		}
	}
	if err := o.Deliveries[0].Ack(); err != nil {
		t.Error(err)
	}
	if err := o.Deliveries[1].Nack(); err != nil {
		t.Error(err)
	}
	if err := o.Close(); err != nil {
		t.Error(err)
	}
	o = must(chanmq.Orphans(dir))[0]
	if len(o.Deliveries) != 2 {
		t.Errorf("%d are left", len(o.Deliveries))
	}
	for _, d := range o.Deliveries {
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
	}
}

// TestDamagedJournal: it is reported, and left where it is.
func TestDamagedJournal(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t)
	bad := filepath.Join(dir, fmt.Sprintf("%d-x.journal", q.ID()))
	if err := os.WriteFile(bad, []byte("this is no journal"), 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(bad)
	reports := make(chan error, 10)
	heir := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir), chanmq.WithJournalError(func(err error) { reports <- err })))
	defer heir.Close()
	sendNumbers(t, q, 1, 0, 1)
	if _, err := heir.Receive(ctxWithin(t), chanmq.Any()); err != nil {
		t.Error(err)
	}
	err := <-reports
	var unreadable *chanmq.JournalError
	if !errors.As(err, &unreadable) || unreadable.Path != bad {
		t.Errorf("reported: %v", err)
	}
	if _, err := os.Stat(bad); err != nil {
		t.Error(err)
	}
}

// TestJournalWithViews: codecs find the length of what a process left.
func TestJournalWithViews(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t, chanmq.WithJournal(dir))
	type pair struct{ A, B int64 }
	pairs := chanmq.As(q, codec.Struct[pair]())
	if err := pairs.Send(t.Context(), 1, pair{1, 2}); err != nil {
		t.Fatal(err)
	}
	d, err := pairs.Take(t.Context(), chanmq.Any())
	if err != nil || d.Value != (pair{1, 2}) || d.Attempt != 1 {
		t.Errorf("%+v, %v", d, err)
	}
	d.Nack()
	texts := chanmq.As(q, codec.Bytes())
	e, err := texts.Take(t.Context(), chanmq.Any())
	if err != nil || len(e.Value) != 16 || e.Attempt != 2 {
		t.Errorf("%+v, %v", e, err)
	}
	e.Ack()
	e.Nack() // has no effect
	d.Ack()
	if m, ok, err := texts.TryReceive(chanmq.Any()); ok || err != nil {
		t.Errorf("%v, %v", m, err)
	}
}

// TestJournalOfAQueueThatCameBack: under WithReopen, what was taken from the queue that
// was removed is an orphan at the death of the process, and what another process had
// taken from the new one is adopted.
func TestJournalOfAQueueThatCameBack(t *testing.T) {
	dir := journalDir(t)
	q := newKeyed(t)
	heir := must(chanmq.Open(q.Key(), chanmq.WithJournal(dir), chanmq.WithReopen()))
	defer heir.Close()
	sendNumbers(t, q, 1, 0, 1)
	old, err := heir.Take(ctxWithin(t), chanmq.Any())
	if err != nil {
		t.Fatal(err)
	}
	if err := q.Remove(); err != nil {
		t.Fatal(err)
	}
	again := adopt(t, must(chanmq.Create(q.Key(), 0o600)))
	sendNumbers(t, again, 1, 0, 3)
	die(t, again, dir, "take", "kill")
	sendNumbers(t, again, 1, 3, 4)
	// The first one may be taken before the handle knows the new queue, which it learns
	// from the kernel at its next receive.
	wantNumbers(t, heir, chanmq.Any(), 0, 4)
	if n := len(journals(t, dir)); n != 2 {
		t.Errorf("%d journals, want one of each queue", n)
	}
	if err := old.Ack(); err != nil {
		t.Error(err)
	}
	if n := len(journals(t, dir)); n != 1 {
		t.Errorf("%d journals, want that of the new queue", n)
	}
}

// TestTakeFromBothKinds: a handle with a journal does not receive into the buffer of a
// delivery that was acknowledged on one without: that would not outlive the process.
func TestTakeFromBothKinds(t *testing.T) {
	dir := journalDir(t)
	plain := newQueue(t)
	q, err := chanmq.Private(0o600, chanmq.WithJournal(dir))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, q.ID())
	take := func(q *chanmq.Queue[[]byte]) chanmq.Delivery[[]byte] {
		sendNumbers(t, q, 1, 0, 1)
		return must(q.Take(ctxWithin(t), chanmq.Any()))
	}
	const rounds = 20
	var held []chanmq.Delivery[[]byte]
	for range rounds {
		take(plain).Ack()
		held = append(held, take(q))
	}
	if err := errors.Join(q.Remove(), q.Close()); err != nil {
		t.Fatal(err)
	}
	for _, d := range held {
		d.Nack() // there is no queue, so it stays in the journal
	}
	left := 0
	for _, o := range must(chanmq.Orphans(dir)) {
		for _, d := range o.Deliveries {
			left++
			d.Ack()
		}
	}
	if left != rounds {
		t.Errorf("%d messages are in the journal, of %d", left, rounds)
	}
}

func init() { roles["three-in-flight"] = threeInFlightRole }

// threeInFlightRole has three messages in flight and dies of the number 1: msqid, directory. It
// prints what it acknowledges, and what it is to give up.
func threeInFlightRole(args []string) error {
	var msqid int
	fmt.Sscan(args[0], &msqid)
	q, err := chanmq.Attach(msqid, chanmq.WithJournal(args[1]))
	if err != nil {
		return err
	}
	ctx := context.Background()
	c := q.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(3), chanmq.WithMaxAttempts(3, func(d chanmq.Delivery[[]byte]) {
		fmt.Println("gave up", numberOf(d.Value), d.Attempt)
	}))
	var first []chanmq.Delivery[[]byte]
	for d := range c.C() {
		if numberOf(d.Value) == 3 { // the last one
			d.Ack()
			return q.Close()
		}
		if d.Attempt == 1 {
			if first = append(first, d); len(first) == 3 {
				os.Exit(1) // all three are in flight
			}
			continue
		}
		if numberOf(d.Value) == 1 {
			os.Exit(1)
		}
		d.Ack()
		fmt.Println("did", numberOf(d.Value), d.Attempt)
	}
	return c.Err()
}

// TestInnocentMessagesAreNotGivenUp: what was in flight beside a message that kills its
// process is delivered by itself then, and not given up with that one.
func TestInnocentMessagesAreNotGivenUp(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 3)
	var printed strings.Builder
	for run := range 4 {
		if run == 3 {
			sendNumbers(t, q, 1, 3, 4)
		}
		cmd := testkit.Process(t, "three-in-flight", fmt.Sprint(q.ID()), dir)
		cmd.Stdout = &printed
		if err := cmd.Run(); (err == nil) != (run == 3) {
			t.Fatalf("run %d: %v", run, err)
		}
	}
	const want = "did 0 2\ngave up 1 3\ndid 2 2\n"
	if printed.String() != want {
		t.Errorf("the processes printed\n%swant\n%s", &printed, want)
	}
}

// TestBufferedReceiverWithJournal: what the program has read of C's buffer before the
// Receiver noticed is acknowledged, and nothing else is.
func TestBufferedReceiverWithJournal(t *testing.T) {
	dir := journalDir(t)
	q := newQueue(t)
	const messages = 100
	for round := range rounds(30) {
		handle := must(chanmq.Attach(q.ID(), chanmq.WithJournal(dir)))
		r := handle.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(1+round%8))
		background(t, func() { sendNumbers(t, q, 1, 0, messages) })
		read := rand.IntN(messages)
		for n := range read {
			if m := <-r.C(); !bytes.Equal(m.Value, number(n)) {
				t.Fatalf("round %d: message %d is %v", round, n, m.Value)
			}
			if rand.IntN(10) == 0 {
				runtime.Gosched()
			}
		}
		// The rest goes to the handle, and the next Receiver has it.
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		wantNumbers(t, handle, chanmq.OfType(1), read, messages)
		if err := handle.Close(); err != nil {
			t.Error(err)
		}
	}
	wantNone(t, q)
}
