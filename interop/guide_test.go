//go:build linux

package interop_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/testkit"
)

const matrixFile = "../docs/interop-matrix.md"

var update = flag.Bool("update", false, "rewrite the generated part of docs/interop-matrix.md")

// The Go side of the programs in the guide: answerOrders for those that use JSON,
// answerStructs for C. Both answer one order and return.

func answerOrders(ctx context.Context, key chanmq.Key) error {
	type Order struct {
		ID    int     `json:"id"`
		Name  string  `json:"name"`
		Price float64 `json:"price"`
	}
	type Answer struct {
		ID    int     `json:"id"`
		Total float64 `json:"total"`
	}

	queue, err := chanmq.Create(key, 0o660)
	if err != nil {
		return err
	}
	defer queue.Close()
	orders := chanmq.As(queue, codec.JSON[Order]())
	answers := chanmq.As(queue, codec.JSON[Answer]())

	m, err := orders.Receive(ctx, chanmq.OfType(1))
	if err != nil {
		return err
	}
	return answers.Send(ctx, 2, Answer{m.Value.ID, m.Value.Price * 1.2})
}

func answerStructs(ctx context.Context, key chanmq.Key) error {
	type Order struct { // the members after mtype
		ID    int32
		Name  [32]byte
		Price float64
	}
	type Answer struct {
		ID    int32
		Total float64
	}

	queue, err := chanmq.Create(key, 0o660)
	if err != nil {
		return err
	}
	defer queue.Close()
	orders := chanmq.As(queue, codec.Struct[Order]())
	answers := chanmq.As(queue, codec.Struct[Answer]())

	m, err := orders.Receive(ctx, chanmq.OfType(1))
	if err != nil {
		return err
	}
	return answers.Send(ctx, 2, Answer{m.Value.ID, m.Value.Price * 1.2})
}

// channelOfOrders is how a service receives, instead of a single Receive.
func channelOfOrders(ctx context.Context, queue *chanmq.Queue[[]byte], handle func(int64, []byte)) error {
	received := queue.Receiver(ctx, chanmq.OfType(1))
	defer received.Close()
	for m := range received.C() {
		handle(m.Type, m.Value)
	}
	return received.Err()
}

func TestGuide(t *testing.T) {
	for _, test := range []struct {
		name   string
		l      *language
		answer func(context.Context, chanmq.Key) error
	}{
		{"c", c, answerStructs},
		{"perl", perl, answerOrders},
		{"python", python, answerOrders},
		{"php", php, answerOrders},
	} {
		t.Run(test.name, func(t *testing.T) {
			q := keyedQueue(t, 0o660)
			ctx, cancel := context.WithCancel(deadlineContext(t))
			var answered error
			done := make(chan struct{})
			go func() {
				defer close(done)
				answered = test.answer(ctx, q.Key())
			}()
			// Before q is removed: otherwise Create could create it again.
			t.Cleanup(func() { cancel(); <-done })
			if got, want := test.l.start(t, "guide", strconv.Itoa(int(q.Key()))).wait(), "order 7: 5.40"; got != want {
				t.Errorf("the program printed %q, want %q", got, want)
			}
			if <-done; answered != nil {
				t.Error(answered)
			}
		})
	}
	t.Run("channel", func(t *testing.T) {
		q := keyedQueue(t, 0o660)
		send(t, q, 1, []byte("an order"))
		ctx, cancel := context.WithCancel(deadlineContext(t))
		err := channelOfOrders(ctx, q, func(typ int64, text []byte) {
			if typ != 1 || string(text) != "an order" {
				t.Errorf("got type %d: %q", typ, text)
			}
			cancel()
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("ended with %v", err)
		}
	})
	t.Run("code", func(t *testing.T) { // each block is part of a file that a test runs
		testkit.Quotes(t, "..", "docs/interop.md", "c", "go", "perl", "php", "python")
	})
	t.Run("matrix", testGuideMatrix)
}

// The architectures of the matrix, on which the tests can run.
var columns = []string{"amd64", "386", "arm64", "riscv64", "s390x"}

// The matrix lists every test with another program, and the architectures.
func testGuideMatrix(t *testing.T) {
	const begin, end = "<!-- matrix: begin -->\n", "<!-- matrix: end -->\n"
	text := readFile(t, matrixFile)
	before, rest, found := strings.Cut(text, begin)
	got, after, found2 := strings.Cut(rest, end)
	if !found || !found2 {
		t.Fatalf("%s has no lines %q and %q", matrixFile, begin, end)
	}
	want := matrix(t)
	if got == want {
		return
	}
	if *update {
		if err := os.WriteFile(matrixFile, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the matrix is not up to date: run go test ./interop -run TestGuide/matrix -update")
}

func matrix(t *testing.T) string {
	var b strings.Builder
	for _, l := range []*language{
		c, perl, python, php,
		{name: "UtilLinux", cases: func() []testCase { return utilLinux }},
		{name: "Examples", cases: func() []testCase { return examples }},
	} {
		type pair struct{ send, receive *testCase }
		payloads, others := map[string]*pair{}, []testCase{}
		var kinds []string // in the order of the tests
		seen := map[string]bool{}
		for _, tc := range l.cases() {
			if seen[tc.name] {
				t.Errorf("there are two Test%s/%s", l.name, tc.name)
			}
			seen[tc.name] = true
			direction, kind, _ := strings.Cut(tc.name, "/")
			if direction != "send" && direction != "receive" {
				others = append(others, tc)
				continue
			}
			p := payloads[kind]
			if p == nil {
				p = new(pair)
				payloads[kind] = p
				kinds = append(kinds, kind)
			}
			if direction == "send" {
				p.send = &tc
			} else {
				p.receive = &tc
			}
		}

		name := func(tc *testCase) string {
			if tc == nil {
				return ""
			}
			return fmt.Sprintf("`Test%s/%s`", l.name, tc.name)
		}
		what := func(key string) string {
			if about[key] == "" {
				t.Errorf("about has no entry for %s of Test%s", key, l.name)
			}
			return about[key]
		}
		fmt.Fprintf(&b, "\n### %s\n", l.name)
		if len(kinds) > 0 {
			header(&b, "what", l.name+" → Go", "Go → "+l.name)
		}
		for _, kind := range kinds {
			p := payloads[kind]
			tc := p.send
			if tc == nil {
				tc = p.receive
			}
			row(&b, append([]string{what(kind), name(p.send), name(p.receive)}, l.cells(tc)...)...)
		}
		header(&b, "what", "test")
		for _, tc := range others {
			row(&b, append([]string{what(tc.name), name(&tc)}, l.cells(&tc)...)...)
		}
	}
	b.WriteString("\n")
	return b.String()
}

// header begins a table whose last columns are the architectures.
func header(b *strings.Builder, names ...string) {
	b.WriteString("\n")
	row(b, append(names, columns...)...)
	row(b, append(slices.Repeat([]string{"---"}, len(names)), slices.Repeat([]string{":-:"}, len(columns))...)...)
}

func row(b *strings.Builder, cells ...string) {
	fmt.Fprintf(b, "| %s |\n", strings.Join(cells, " | "))
}

// cells returns a mark for each architecture: whether the test runs there.
func (l *language) cells(tc *testCase) []string {
	var cells []string
	for _, goarch := range columns {
		if tc.runsOn(l, goarch, "amd64") {
			cells = append(cells, "✓")
		} else {
			cells = append(cells, "–")
		}
	}
	return cells
}

// about describes the tests and payloads.
var about = map[string]string{
	"text":    "text in UTF-8, no NUL",
	"bytes":   "all 256 values of a byte",
	"empty":   "an empty message",
	"largest": "8192 bytes, the default msgmax",
	"json":    "JSON",
	"network": "numbers in network byte order, and text",
	"struct":  "int, short, char[16], double, as in C",
	"long":    "C's long",

	"cstring":        "text with a terminating NUL (`codec.CString`)",
	"int":            "one int",
	"sizeof":         "the members after mtype, `sizeof m - sizeof m.mtype` bytes: with trailing padding",
	"sizeof-checked": "the same, if C requires that size",
	"whole":          "the same, `sizeof m` bytes by mistake: a long too large",
	"flat":           "the same, with several members",
	"padding":        "a struct with padding",
	"arrays":         "arrays of int, double (two-dimensional) and unsigned char",
	"nested":         "structs in a struct, and an array of structs; long",
	"strings":        "char arrays, with NULs at the end or full",
	"numbers":        "one of each type of number, with extreme values",
	"type-max":       "LONG_MAX as mtype",

	"type-default": "the default type of Python: 1",
	"type-wide":    "a type of more than 32 bits; a 32-bit receiver gets its lower half",

	"raw-int":            "an int with serialize=false",
	"raw-float":          "a float with serialize=false",
	"raw-true":           "true with serialize=false",
	"raw-false":          "false with serialize=false",
	"serialize-int":      "serialize(), the default",
	"serialize-float":    "serialize(), the default",
	"serialize-string":   "serialize(), the default",
	"serialize-true":     "serialize(), the default",
	"serialize-null":     "serialize(), the default",
	"unserialize-int":    "unserialize(), the default",
	"unserialize-float":  "unserialize(), the default",
	"unserialize-string": "unserialize(), the default",
	"unserialize-true":   "unserialize(), the default",
	"unserialize-null":   "unserialize(), the default",

	"types":  "types 3, 1, 2, taken with every Selector",
	"up-to":  "types 3, 1, 2, taken with msgtyp -3",
	"except": "types 3, 1, 2, taken with MSG_EXCEPT",

	"wait/receive":     "it waits for a message from Go",
	"wait/send":        "it waits for space in a full queue",
	"wait/go-receives": "Go waits on a channel for its message",
	"wait/go-sends":    "Go waits until it has received from a full queue",
	"queue/created":    "it creates the queue with ftok, Go opens it",
	"queue/found":      "Go creates the queue with FTok, it opens it",
	"queue/stat":       "its IPC_STAT shows what Go did",
	"queue/removed":    "it removes the queue on which Go waits",
	"queue/go-removes": "Go removes the queue on which it waits",
	"reply/pid":        "3 clients, 2 Go servers; the answer's mtype is the client's pid",

	"serve/client": "it asks a Server of package serve: [envelope.md](envelope.md)",
	"serve/server": "a Client of package serve asks it",

	"errors/empty":             "IPC_NOWAIT on an empty queue",
	"errors/too-large":         "its buffer is too small; the message stays in the queue",
	"errors/truncate":          "the same with MSG_NOERROR; the rest of the message is lost",
	"errors/full":              "IPC_NOWAIT on a full queue",
	"errors/removed":           "a removed queue",
	"errors/too-large-to-send": "more than the library's default limit of 2048 bytes",
	"errors/wide-character":    "text with a character over 255 that is not encoded is not sent",
	"errors/type-over-int":     "a type over 2,147,483,647 is not sent",
	"errors/null":              "null with serialize=false is not sent",
	"errors/not-serialized":    "plain text instead of a serialized value; the message is lost",

	"ipcmk":          "the queue that it creates: key, msqid, permissions",
	"ipcs":           "key, owner, permissions, counts, times and pids, the same as in Stat and List",
	"ipcs-after-set": "permissions and size changed by Set",
	"ipcs-limits":    "`ipcs -l` and ReadLimits",
	"ipcrm-id":       "`ipcrm -q`: every waiting call returns ErrRemoved",
	"ipcrm-key":      "`ipcrm -Q`: the same",
	"umask":          "permissions do not depend on the umask, on either side",
	"setpriv":        "permissions 0622: another user may send but not receive",
	"unshare":        "in another IPC namespace, as in a container, the queue does not exist",
	"nsenter":        "a process that joins the namespace finds the queue",

	"phpworkers":             "a pool of Go workers with jobs from PHP",
	"phpworkers-interrupted": "the same, ended by SIGINT: no queue is left",
	"pidreply":               "C clients, Go servers, pid as mtype",
	"pidreply-interrupted":   "the same, ended by SIGINT",
	"priority":               "UpTo(3): urgent messages first",
	"priority-interrupted":   "the same, ended by SIGINT",
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
