//go:build linux

package interop_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// language is a language with programs in testdata. They take the same arguments in
// every language:
//
//	send QUEUE KIND, receive QUEUE KIND    one message, or a few
//	errors QUEUE CASE                      one call that fails
//	queue create|find|stat|remove ...      the queue itself
//	client REQUESTS REPLIES N              asks a server
type language struct {
	name    string // as in the names of the tests
	byID    bool   // the programs take a msqid, not a key
	clients bool   // the program client takes a msqid, even if the others do not
	// builds means that the programs are compiled for the architecture of the
	// test; those of the other languages run on that of the machine only.
	builds  bool
	eidrm   string // what receive prints when its queue is removed
	command func(t *testing.T, program string) []string
	cases   func() []testCase
}

// testCase is one test with a program in another language.
type testCase struct {
	name  string // below that of the language, such as "send/json"
	needs requirement
	run   func(t *testing.T, l *language)
}

// requirement is what must be the same in the architectures of Go and of the other
// program.
type requirement int

const (
	nothing    requirement = iota // the payload has the same bytes everywhere
	byteOrder                     // fixed-width numbers, no longs
	long                          // C's long
	noEmulator                    // Go must not be emulated: see examples
)

// architecture is what the representation of numbers depends on. Alignment does not
// matter here: the structs that are sent between architectures have their doubles at
// multiples of eight.
type architecture struct {
	bigEndian bool
	long      int // bytes
}

var architectures = map[string]architecture{
	"386":     {false, 4},
	"amd64":   {false, 8},
	"arm64":   {false, 8},
	"ppc64le": {false, 8},
	"riscv64": {false, 8},
	"s390x":   {true, 8},
}

// runsOn reports whether the test can run with a program of the language on one
// architecture and Go on another.
func (c testCase) runsOn(l *language, goarch, machine string) bool {
	if l.builds {
		return true
	}
	a, b := architectures[goarch], architectures[machine]
	switch c.needs {
	case noEmulator:
		return !emulates(goarch, machine)
	case byteOrder:
		return a.bigEndian == b.bigEndian
	case long:
		return a == b
	}
	return true
}

// unmet returns the reason why a test does not run here.
func (r requirement) unmet() string {
	if r == noEmulator {
		return "with qemu-user 7.2 a fork of a busy program sometimes hangs"
	}
	return fmt.Sprintf("the other program is for %s, which represents numbers differently from %s", machine(), runtime.GOARCH)
}

func (l *language) test(t *testing.T) {
	for _, c := range l.cases() {
		t.Run(c.name, func(t *testing.T) {
			if !c.runsOn(l, runtime.GOARCH, machine()) {
				t.Skip(c.needs.unmet())
			}
			c.run(t, l)
		})
	}
}

// start runs one of the language's programs.
func (l *language) start(t *testing.T, program string, args ...string) *peer {
	t.Helper()
	return start(t, append(l.command(t, program), args...)...)
}

// queue creates a queue and returns its address for the programs: msqid or key.
func (l *language) queue(t *testing.T) (q *chanmq.Queue[[]byte], address string) {
	t.Helper()
	if l.byID {
		q = privateQueue(t)
		return q, strconv.Itoa(q.ID())
	}
	q = keyedQueue(t, 0o600)
	return q, strconv.Itoa(int(q.Key()))
}

// messageType is the type of messages unless a test uses another.
const messageType = 7

// sends is the test in which the program sends one message of the kind.
func sends[T any](kind string, needs requirement, c codec.Codec[T], want T) testCase {
	return sendsType(kind, needs, c, messageType, want)
}

func sendsType[T any](kind string, needs requirement, c codec.Codec[T], typ int64, want T) testCase {
	return testCase{"send/" + kind, needs, func(t *testing.T, l *language) {
		q, address := l.queue(t)
		l.start(t, "send", address, kind).wait()
		m := receive(t, chanmq.As(q, c), chanmq.Any())
		if m.Type != typ || !reflect.DeepEqual(m.Value, want) {
			t.Errorf("got type %d: %#v\nwant type %d: %#v", m.Type, m.Value, typ, want)
		}
	}}
}

// receives is the test in which Go sends value, and the program receives and prints
// it. as is the KIND argument of the program.
func receives[T any](kind, as string, needs requirement, c codec.Codec[T], value T, want string) testCase {
	return testCase{"receive/" + kind, needs, func(t *testing.T, l *language) {
		q, address := l.queue(t)
		send(t, chanmq.As(q, c), messageType, value)
		want := fmt.Sprintf("waiting\n%d %s", messageType, want)
		if got := l.start(t, "receive", address, as).wait(); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}}
}

// both returns sends and receives of the same value.
func both[T any](kind string, needs requirement, c codec.Codec[T], value T, shown string) []testCase {
	return []testCase{
		sends(kind, needs, c, value),
		receives(kind, kind, needs, c, value, shown),
	}
}

// payloads are the tests of bytes that every language can send and receive.
func payloads() []testCase {
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	largest := make([]byte, 8192) // the default msgmax
	for i := range largest {
		largest[i] = byte(i % 251)
	}
	cases := both("text", nothing, codec.String(), "Grüße", "Grüße")
	for _, b := range []struct {
		kind  string
		bytes []byte
	}{{"bytes", every}, {"empty", []byte{}}, {"largest", largest}} {
		cases = append(cases,
			sends(b.kind, nothing, codec.Bytes(), b.bytes),
			receives(b.kind, "hex", nothing, codec.Bytes(), b.bytes, fmt.Sprintf("%x", b.bytes)))
	}
	return cases
}

// behaviours are the tests that do not depend on the content of messages.
func behaviours() []testCase {
	return []testCase{
		{"send/types", nothing, sendTypes},
		{"receive/up-to", nothing, receiveUpTo},
		{"wait/receive", nothing, waitReceive},
		{"wait/send", nothing, waitSend},
		{"wait/go-receives", nothing, waitGoReceives},
		{"wait/go-sends", nothing, waitGoSends},
		{"queue/created", nothing, queueCreated},
		{"queue/found", nothing, queueFound},
		{"queue/stat", nothing, queueStat},
		{"queue/removed", nothing, queueRemoved},
		{"queue/go-removes", nothing, queueGoRemoves},
		{"reply/pid", nothing, replyPID},
	}
}

// The program sends types 3, 1, 2; Go takes them by type.
func sendTypes(t *testing.T, l *language) {
	for _, test := range []struct {
		selector chanmq.Selector
		want     string
	}{
		{chanmq.Any(), "3c 1a 2b"},
		{chanmq.UpTo(3), "1a 2b 3c"},
		{chanmq.UpTo(2), "1a 2b"},
		{chanmq.OfType(2), "2b"},
		{chanmq.Except(1), "3c 2b"},
	} {
		q, address := l.queue(t)
		l.start(t, "send", address, "types").wait()
		var got []string
		for {
			m, ok, err := q.TryReceive(test.selector)
			if err != nil {
				t.Fatal(err)
			}
			if !ok {
				break
			}
			got = append(got, fmt.Sprintf("%d%s", m.Type, m.Value))
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%v: got %v, want %v", test.selector, got, test.want)
		}
	}
}

// Go sends types 3, 1, 2; the program takes the lowest first, with msgtyp -3.
func receiveUpTo(t *testing.T, l *language) {
	q, address := l.queue(t)
	sendThree(t, q)
	if got, want := l.start(t, "receive", address, "up-to").wait(), "waiting\n1 a\n2 b\n3 c"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// Go sends types 3, 1, 2; the program takes all but 3, with MSG_EXCEPT.
func receiveExcept(t *testing.T, l *language) {
	q, address := l.queue(t)
	sendThree(t, q)
	if got, want := l.start(t, "receive", address, "except").wait(), "waiting\n1 a\n2 b"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if m := receive(t, q, chanmq.Any()); m.Type != 3 {
		t.Errorf("the message left has type %d, want 3", m.Type)
	}
}

func sendThree(t *testing.T, q *chanmq.Queue[[]byte]) {
	t.Helper()
	send(t, q, 3, []byte("c"))
	send(t, q, 1, []byte("a"))
	send(t, q, 2, []byte("b"))
}

// The program waits for a message until Go sends one.
func waitReceive(t *testing.T, l *language) {
	q, address := l.queue(t)
	p := l.start(t, "receive", address, "text")
	p.blocked()
	send(t, q, messageType, []byte("at last"))
	if got, want := p.wait(), "7 at last"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// The program waits for space in a full queue until Go receives.
func waitSend(t *testing.T, l *language) {
	q, address := l.queue(t)
	fill(t, q)
	p := l.start(t, "send", address, "text")
	p.blocked()
	receive(t, q, chanmq.OfType(9))
	if got, want := p.wait(), "sent"; got != want {
		t.Errorf("the program printed %q, want %q", got, want)
	}
	if m := receive(t, q, chanmq.OfType(messageType)); string(m.Value) != "Grüße" {
		t.Errorf("got %q", m.Value)
	}
}

// Go waits on a channel until the program sends a message.
func waitGoReceives(t *testing.T, l *language) {
	q, address := l.queue(t)
	r := q.Receiver(deadlineContext(t), chanmq.Any())
	defer r.Close()
	l.start(t, "send", address, "text").wait()
	m, ok := <-r.C()
	if !ok {
		t.Fatal(r.Err())
	}
	if m.Type != messageType || string(m.Value) != "Grüße" {
		t.Errorf("got type %d: %q", m.Type, m.Value)
	}
}

// Go waits for space in a full queue until the program receives.
func waitGoSends(t *testing.T, l *language) {
	q, address := l.queue(t)
	fill(t, q)
	sent := make(chan error, 1)
	ctx := deadlineContext(t)
	go func() { sent <- q.Send(ctx, messageType, []byte("at last")) }()
	l.start(t, "receive", address, "hex").wait()
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
	if m := receive(t, q, chanmq.OfType(messageType)); string(m.Value) != "at last" {
		t.Errorf("got %q", m.Value)
	}
}

// meetingPoint creates a file and finds a project id whose ftok key is unused.
func meetingPoint(t *testing.T) (path string, proj byte, key chanmq.Key) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "queue")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for proj = 'A'; proj <= 'Z'; proj++ {
		key, err := chanmq.FTok(path, proj)
		if err != nil {
			t.Fatal(err)
		}
		q, err := chanmq.Open(key)
		if errors.Is(err, os.ErrNotExist) {
			return path, proj, key
		}
		if err != nil {
			t.Fatal(err)
		}
		q.Close()
	}
	t.Fatal("every key is in use")
	return
}

// The program creates a queue with the key of ftok, and Go opens it.
func queueCreated(t *testing.T, l *language) {
	path, proj, key := meetingPoint(t)
	printed := strings.Fields(l.start(t, "queue", "create", path, string(proj)).wait())
	q, err := chanmq.Open(key)
	if err != nil {
		t.Fatalf("%v; the program printed %v", err, printed)
	}
	removed(t, q)
	if want := strconv.Itoa(int(key)); printed[0] != want {
		t.Errorf("the program's key is %s, ours %s", printed[0], want)
	}
	if want := strconv.Itoa(q.ID()); len(printed) > 1 && printed[1] != want {
		t.Errorf("the program's msqid is %s, ours %s", printed[1], want)
	}
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if stat.Perm != 0o640 && !misreadsMode() {
		t.Errorf("permissions %#o, want 0640", stat.Perm)
	}
	if stat.Owner != os.Getuid() || stat.Creator != os.Getuid() {
		t.Errorf("owner %d, creator %d, want %d", stat.Owner, stat.Creator, os.Getuid())
	}
}

// Go creates a queue with the key of FTok, and the program opens it.
func queueFound(t *testing.T, l *language) {
	path, proj, key := meetingPoint(t)
	q, err := chanmq.Create(key, 0o600, chanmq.WithExclusive())
	if err != nil {
		t.Fatal(err)
	}
	removed(t, q)
	printed := strings.Fields(l.start(t, "queue", "find", path, string(proj)).wait())
	if want := strconv.Itoa(int(key)); printed[0] != want {
		t.Errorf("the program's key is %s, ours %s", printed[0], want)
	}
	if want := strconv.Itoa(q.ID()); len(printed) > 1 && printed[1] != want {
		t.Errorf("the program's msqid is %s, ours %s", printed[1], want)
	}
}

// The program's IPC_STAT shows what Go has done.
func queueStat(t *testing.T, l *language) {
	q, address := l.queue(t)
	sendThree(t, q)
	receive(t, q, chanmq.Any())
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	got := l.start(t, "queue", "stat", address).wait()
	want := fmt.Sprintf("perm=600 uid=%d gid=%d messages=2 max=%d sender=%d receiver=%d",
		stat.Owner, stat.Group, stat.MaxBytes, os.Getpid(), os.Getpid())
	if l.builds && emulated() {
		// The program is emulated too.
		got, want = emulatedStat(got), emulatedStat(want)
	}
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// misreadsMode reports whether the emulator returns mode 0 in IPC_STAT: qemu-user 7.2
// for big-endian machines.
func misreadsMode() bool { return emulated() && architectures[runtime.GOARCH].bigEndian }

// emulatedStat removes the fields that qemu-user 7.2 gets wrong in IPC_STAT: the pid
// of the last receiver everywhere, and the mode and both pids on big-endian machines.
func emulatedStat(stat string) string {
	var kept []string
	for _, field := range strings.Fields(stat) {
		name, _, _ := strings.Cut(field, "=")
		if name == "receiver" || misreadsMode() && (name == "perm" || name == "sender") {
			continue
		}
		kept = append(kept, field)
	}
	return strings.Join(kept, " ")
}

// The program removes the queue while Go waits on it.
func queueRemoved(t *testing.T, l *language) {
	q, address := l.queue(t)
	r := q.Receiver(deadlineContext(t), chanmq.Any())
	defer r.Close()
	failed := make(chan error, 1)
	ctx := deadlineContext(t)
	go func() {
		_, err := q.Receive(ctx, chanmq.Any())
		failed <- err
	}()
	l.start(t, "queue", "remove", address).wait()
	if err := <-failed; !errors.Is(err, chanmq.ErrRemoved) {
		t.Errorf("Receive: %v, want %v", err, chanmq.ErrRemoved)
	}
	if m, ok := <-r.C(); ok {
		t.Errorf("the Receiver got %v", m)
	}
	if err := r.Err(); !errors.Is(err, chanmq.ErrRemoved) {
		t.Errorf("Receiver: %v, want %v", err, chanmq.ErrRemoved)
	}
}

// Go removes the queue while the program waits on it.
func queueGoRemoves(t *testing.T, l *language) {
	q, address := l.queue(t)
	p := l.start(t, "receive", address, "text")
	p.blocked()
	if err := q.Remove(); err != nil {
		t.Fatal(err)
	}
	got, err := p.result()
	if err == nil {
		t.Errorf("the program did not fail")
	}
	if got != l.eidrm {
		t.Errorf("the program printed %q, want %q", got, l.eidrm)
	}
}

// Clients ask for squares, and each receives the answers whose type is its pid. Two
// Go servers answer.
func replyPID(t *testing.T, l *language) {
	const clients, questions = 3, 20
	var requests, replies *chanmq.Queue[[]byte]
	var addresses []string
	if l.clients {
		requests, replies = privateQueue(t), privateQueue(t)
		addresses = []string{strconv.Itoa(requests.ID()), strconv.Itoa(replies.ID())}
	} else {
		requests, replies = keyedQueue(t, 0o600), keyedQueue(t, 0o600)
		addresses = []string{strconv.Itoa(int(requests.Key())), strconv.Itoa(int(replies.Key()))}
	}
	in := requests.Receiver(deadlineContext(t), chanmq.OfType(1))
	defer in.Close()
	ended := make(chan error, 2)
	for range cap(ended) {
		go func() { ended <- answerQuestions(in.C(), replies, l.builds) }()
	}
	var running []*peer
	for range clients {
		running = append(running, l.start(t, "client", append(addresses, strconv.Itoa(questions))...))
	}
	for _, p := range running {
		if got, want := p.wait(), "sum 2870"; got != want {
			t.Errorf("%s: %s, want %s", p, got, want)
		}
	}
	in.Close()
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// answerQuestions answers questions, which are C structs or text.
func answerQuestions(in <-chan chanmq.Message[[]byte], replies *chanmq.Queue[[]byte], structs bool) error {
	type question struct{ PID, Number int32 }
	type answer struct {
		Number int32
		Square int // C's long
	}
	questions, answers := codec.Struct[question](), codec.Struct[answer]()
	for m := range in {
		var q question
		if structs {
			if err := questions.Decode(m.Value, &q); err != nil {
				return err
			}
		} else if _, err := fmt.Sscan(string(m.Value), &q.PID, &q.Number); err != nil {
			return err
		}
		a := answer{q.Number, int(q.Number) * int(q.Number)}
		text := fmt.Appendf(nil, "%d %d", a.Number, a.Square)
		if structs {
			var err error
			if text, err = answers.Append(nil, a); err != nil {
				return err
			}
		}
		if sent, err := replies.TrySend(int64(q.PID), text); !sent || err != nil {
			return fmt.Errorf("answer to %d: sent %t, %v", q.PID, sent, err)
		}
	}
	return nil
}

// failure is the test of a call that fails, or truncates, in the program. after is
// what must have happened to the messages that prepare has sent.
func failure(name string, prepare func(*testing.T, *chanmq.Queue[[]byte]), want string, after aftermath) testCase {
	return testCase{"errors/" + name, nothing, func(t *testing.T, l *language) {
		q, address := l.queue(t)
		prepare(t, q)
		before := 0
		if after != gone {
			before = messages(t, q)
		}
		if got := l.start(t, "errors", address, name).wait(); got != want {
			t.Errorf("the program printed %q, want %q", got, want)
		}
		switch after {
		case left:
			if got := messages(t, q); got != before {
				t.Errorf("%d messages in the queue, want %d", got, before)
			}
		case taken:
			if got := messages(t, q); got != 0 {
				t.Errorf("%d messages in the queue, want 0", got)
			}
		case gone:
			if _, err := q.Stat(); !errors.Is(err, chanmq.ErrRemoved) {
				t.Errorf("stat: %v, want %v", err, chanmq.ErrRemoved)
			}
		}
	}}
}

// errno is how the programs print the number of an error.
func errno(e syscall.Errno) string { return fmt.Sprintf("errno %d", e) }

type aftermath int

const (
	left  aftermath = iota // all of them are still in the queue
	taken                  // none is
	gone                   // the queue is removed
)

func empty(*testing.T, *chanmq.Queue[[]byte]) {}

func hundredBytes(t *testing.T, q *chanmq.Queue[[]byte]) {
	t.Helper()
	send(t, q, 1, []byte(strings.Repeat("0123456789", 10)))
}

func remove(t *testing.T, q *chanmq.Queue[[]byte]) {
	t.Helper()
	if err := q.Remove(); err != nil {
		t.Fatal(err)
	}
}
