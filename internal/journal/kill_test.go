//go:build linux

package journal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

var kills = flag.Int("journal.kills", 25, "processes that each kill test kills")

// Processes receive into journals, and are killed at any time. A message's type says
// which one it is, and with that what its text is. What a process does is written to
// a file that all of them append to.

func init() { roles["victim"] = victimRole }

// What a record says of a message.
const (
	delivered = iota + 1
	acknowledged
	torn
	wrongLength // allowed if the length was inferred
	inferredRight
	reported // an error
)

const recordSize = 16

// texts is what all texts are pieces of.
type texts struct {
	bytes []byte
	sizes int // up to
}

func newTexts(hint string, maxSize int) *texts {
	x := &texts{bytes: make([]byte, 1<<16+maxSize), sizes: maxSize}
	random := rand.New(rand.NewPCG(1, 2))
	for i := range x.bytes {
		x.bytes[i] = byte(random.Uint32())
		if hint == "end" && x.bytes[i] == 0xFF {
			x.bytes[i] = 0
		}
	}
	return x
}

func (x *texts) text(id int) []byte {
	h := uint32(id) * 2654435761
	at := int(h >> 16)
	limit := []int{16, 64, 1024, x.sizes}[id%4]
	size := min(int(h>>3)%(limit+1), x.sizes)
	if id%97 == 0 {
		size = x.sizes
	}
	return x.bytes[at:][:size]
}

func hintOf(name string) LengthHint {
	if name == "end" {
		return NeverEndsIn(0xFF)
	}
	return LengthHint{}
}

// victim is what a process that will be killed knows.
type victim struct {
	dir   string
	msqid int
	id    Identity
	log   *os.File
	hint  LengthHint
	texts *texts
	seq   atomic.Uint64
}

func (v *victim) record(what, id, attempt int) {
	var b [recordSize]byte
	binary.NativeEndian.PutUint32(b[0:], uint32(what))
	binary.NativeEndian.PutUint32(b[4:], uint32(id))
	binary.NativeEndian.PutUint32(b[8:], uint32(attempt))
	binary.NativeEndian.PutUint32(b[12:], uint32(os.Getpid()))
	if _, err := v.log.Write(b[:]); err != nil {
		panic(err)
	}
}

func (v *victim) report(err error) {
	v.record(reported, 0, 0)
	fmt.Fprintln(os.Stderr, err)
}

// deliver does with a message what a program would do, up to its acknowledgement.
func (v *victim) deliver(s *Slot) {
	id := s.Type() - 1
	attempt := s.Deliver()
	want, got := v.texts.text(id), s.Text()
	v.record(delivered, id, attempt)
	switch {
	case bytes.Equal(got, want):
		if s.LengthInferred() {
			v.record(inferredRight, id, attempt)
		}
	case s.LengthInferred() && bytes.HasPrefix(want, got) && len(bytes.Trim(want[len(got):], string(want[len(got):][:1]))) == 0:
		v.record(wrongLength, id, attempt)
	default:
		fmt.Fprintf(os.Stderr, "message %d: %d bytes, want %d, equal up to %d\n", id, len(got), len(want), common(got, want))
		v.record(torn, id, attempt)
	}
}

func common(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

func (v *victim) acknowledge(s *Slot) {
	id := s.Type() - 1
	s.Free()
	v.record(acknowledged, id, 0)
}

// victimRole receives until it is killed: directory, msqid, log, hint, largest size,
// and how: "receive", "grow", "close", or "order", which is "receive" with one
// receiver.
func victimRole(args []string) error {
	v := &victim{dir: args[0], hint: hintOf(args[3])}
	var err error
	if v.msqid, err = strconv.Atoi(args[1]); err != nil {
		return err
	}
	size, err := strconv.Atoi(args[4])
	if err != nil {
		return err
	}
	v.texts = newTexts(args[3], size)
	if v.log, err = os.OpenFile(args[2], os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return err
	}
	if v.id, err = Identify(kernel, v.msqid); err != nil {
		return err
	}
	_, err = Watch(v.dir, sysv.Host(), func() (Identity, error) { return v.id, nil }, func(a *Adopted) {
		for _, s := range a.Slots {
			v.deliver(s)
			if rand.IntN(4) == 0 {
				runtime.Gosched()
			}
			v.acknowledge(s)
		}
		if err := a.Close(); err != nil {
			v.report(err)
		}
	}, v.report)
	if err != nil {
		return err
	}
	j, err := Open(v.dir, v.id)
	if err != nil {
		return err
	}
	fmt.Println("begins")
	errs := make(chan error)
	for n := range 3 {
		switch args[5] {
		case "receive":
			go func() { errs <- v.receive(j, n, 1<<30) }()
		case "grow":
			go func() { errs <- v.grow(j) }()
		case "close":
			go func() { errs <- v.close(n) }()
		case "order":
			if n == 0 {
				go func() { errs <- v.receive(j, n, 1<<30) }()
			}
		}
	}
	return <-errs
}

// receive takes messages in one of three ways, several before it acknowledges them.
func (v *victim) receive(j *Journal, how, count int) error {
	inFlight := make([]*Slot, 0, 4)
	th := kernel.NewThread()
	if how == 0 && !th.Enter() {
		return errors.New("no thread that can wait")
	}
	s, err := j.Slot(0)
	if err != nil {
		return err
	}
	for taken := 0; taken < count; {
		s.Arm(v.hint)
		var n int
		if how == 0 {
			n, err = th.Receive(v.msqid, s.Buffer(), 0, 0)
		} else {
			n, err = kernel.Receive(v.msqid, s.Buffer(), 0, 0)
		}
		switch err {
		case nil:
		case sysv.E2BIG:
			if s, err = s.Larger(); err != nil {
				return err
			}
			continue
		case sysv.EINTR:
			continue
		case sysv.ENOMSG:
			if how == 1 {
				runtime.Gosched()
			} else {
				time.Sleep(100 * time.Microsecond)
			}
			taken++ // so that this ends
			continue
		default:
			return err
		}
		s.Took(n, v.seq.Add(1))
		taken++
		v.deliver(s)
		inFlight = append(inFlight, s)
		if len(inFlight) == cap(inFlight) || rand.IntN(2) == 0 {
			rand.Shuffle(len(inFlight), func(i, k int) { inFlight[i], inFlight[k] = inFlight[k], inFlight[i] })
			for _, s := range inFlight {
				v.acknowledge(s)
				s.Release()
			}
			inFlight = inFlight[:0]
			s, err = j.Slot(0)
		} else {
			s, err = j.Slot(s.Room())
		}
		if err != nil {
			return err
		}
	}
	// What is in flight is left there.
	for _, s := range inFlight {
		s.Release()
	}
	s.Release()
	return nil
}

// grow never uses a slot twice.
func (v *victim) grow(j *Journal) error {
	for {
		s, err := j.Slot(1 << rand.IntN(14))
		if err != nil {
			return err
		}
		s.Arm(v.hint)
		n, err := kernel.Receive(v.msqid, s.Buffer(), 0, 0)
		switch err {
		case nil:
		case sysv.E2BIG, sysv.ENOMSG:
			runtime.Gosched()
			continue
		default:
			return err
		}
		s.Took(n, v.seq.Add(1))
		v.deliver(s)
		v.acknowledge(s)
	}
}

// close opens and closes journals of its own.
func (v *victim) close(how int) error {
	for {
		j, err := Open(v.dir, v.id)
		if err != nil {
			return err
		}
		// Not one that blocks.
		if err := v.receive(j, 1+how%2, 1+rand.IntN(20)); err != nil {
			return err
		}
		if err := j.Close(); err != nil {
			return err
		}
	}
}

// sendTexts sends messages until stop is closed, and returns how many.
func sendTexts(t *testing.T, msqid int, x *texts, stop <-chan struct{}) int {
	tries := 0
	for id := 0; ; id++ {
		text := x.text(id)
		msg := sysv.Buffer(len(text))
		sysv.PutType(msg, id+1)
		copy(msg[sysv.HeaderSize:], text)
		for {
			select {
			case <-stop:
				return id
			default:
			}
			err := kernel.Send(msqid, msg)
			if err == nil {
				break
			}
			if err != sysv.EAGAIN {
				t.Error(err)
				return id
			}
			if tries++; tries%64 == 0 {
				time.Sleep(time.Microsecond) // about a millisecond
			}
			runtime.Gosched()
		}
	}
}

func TestKilledReceiversLoseNothing(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user does not receive into the caller's buffer")
	}
	for _, mode := range []string{"receive", "grow", "close", "order"} {
		for _, hint := range []string{"end", "none"} {
			t.Run(mode+"/"+hint, func(t *testing.T) { killRun(t, mode, hint) })
		}
	}
}

func killRun(t *testing.T, mode, hint string) {
	dir := newDir(t)
	msqid, id := newQueue(t)
	limits, err := kernel.Limits()
	if err != nil {
		t.Fatal(err)
	}
	if stat, err := kernel.Stat(msqid); err == nil {
		stat.MaxBytes = 1 << 20
		_ = kernel.Set(msqid, stat.Attr) // it may be denied: then the traffic is less
		if id, err = Identify(kernel, msqid); err != nil {
			t.Fatal(err)
		}
	}
	size := min(limits.MaxMessage, limits.MaxBytes, 8192)
	x := newTexts(hint, size)
	log := filepath.Join(newDir(t), "log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	sent := make(chan int, 1)
	go func() { sent <- sendTexts(t, msqid, x, stop) }()

	var group sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(*kills))
	processes := 2
	if mode == "order" {
		processes = 1
	}
	for range processes {
		group.Go(func() {
			for left.Add(-1) >= 0 {
				cmd := testkit.Process(t, "victim", dir, fmt.Sprint(msqid), log, hint, fmt.Sprint(size), mode)
				out, err := cmd.StdoutPipe()
				if err == nil {
					err = cmd.Start()
				}
				if err != nil {
					t.Error(err)
					return
				}
				if rand.IntN(4) > 0 { // else it may be killed before
					if _, err := out.Read(make([]byte, 100)); err != nil {
						t.Error(err)
					}
				}
				time.Sleep(time.Duration(5+rand.IntN(60)) * time.Millisecond)
				signal := syscall.SIGKILL
				if rand.IntN(8) == 0 {
					signal = syscall.SIGTERM // its default action
				}
				if err := cmd.Process.Signal(signal); err != nil {
					t.Error(err)
				}
				var exit *exec.ExitError
				if err := cmd.Wait(); !errors.As(err, &exit) || exit.Exited() {
					t.Errorf("it ended before it was killed: %v", err)
					return
				}
			}
		})
	}
	group.Wait()
	close(stop)
	total := <-sent

	// What is left is in journals, and in the queue.
	v := &victim{dir: dir, msqid: msqid, id: id, hint: hintOf(hint), texts: x}
	if v.log, err = os.OpenFile(log, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		t.Fatal(err)
	}
	defer v.log.Close()
	found, err := Adopt(dir, id)
	if err != nil {
		t.Error(err)
	}
	for _, a := range found {
		for _, s := range a.Slots {
			v.deliver(s)
			v.acknowledge(s)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}
	if rest := files(t, dir); len(rest) > 0 {
		t.Errorf("files: %v", rest)
	}
	j := open(t, dir, id)
	s := slotOf(t, j, size)
	for {
		s.Arm(v.hint)
		n, err := kernel.Receive(msqid, s.Buffer(), 0, 0)
		if err == sysv.ENOMSG {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		s.Took(n, v.seq.Add(1))
		v.deliver(s)
		v.acknowledge(s)
	}
	countRecords(t, log, total, hint == "none", mode == "order")
}

// countRecords checks what became of each message.
func countRecords(t *testing.T, log string, total int, mayBeWrong, ordered bool) {
	t.Helper()
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	deliveries := make([]int, total)
	done := make([]bool, total)
	first, again, tornCount, wrong, right := 0, 0, 0, 0, 0
	for ; len(data) >= recordSize; data = data[recordSize:] {
		what, id := binary.NativeEndian.Uint32(data), int(binary.NativeEndian.Uint32(data[4:]))
		attempt := int(binary.NativeEndian.Uint32(data[8:]))
		if id < 0 || id >= total {
			t.Fatalf("message %d of %d", id, total)
		}
		switch what {
		case delivered:
			if done[id] {
				t.Errorf("message %d was delivered after it was acknowledged", id)
			}
			if deliveries[id]++; deliveries[id] > 1 {
				again++
			} else if first++; ordered && id != first-1 {
				t.Fatalf("message %d came first as number %d", id, first-1)
			}
			// A process may be killed between Deliver and the record.
			if attempt < deliveries[id] {
				t.Errorf("message %d: delivery %d is attempt %d", id, deliveries[id], attempt)
			}
		case acknowledged:
			done[id] = true
		case torn:
			tornCount++
		case wrongLength:
			wrong++
		case inferredRight:
			right++
		case reported:
			t.Error("a process reported an error")
		}
	}
	lost := 0
	for _, n := range deliveries {
		if n == 0 {
			lost++
		}
	}
	if lost > 0 || tornCount > 0 {
		t.Errorf("%d of %d messages are lost, %d torn", lost, total, tornCount)
	}
	if wrong > 0 && !mayBeWrong {
		t.Errorf("%d lengths are wrong", wrong)
	}
	t.Logf("%d processes killed, %d messages: %d lost, %d torn, %d delivered again; lengths inferred: %d right, %d wrong",
		*kills, total, lost, tornCount, again, right, wrong)
}
