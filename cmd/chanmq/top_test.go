package main

import (
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/charmbracelet/x/ansi"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/cstruct"
	"github.com/chanmq/chanmq/internal/procinfo"
)

// fakeSource has queues that need not exist.
type fakeSource struct {
	queues    []queueInfo
	messages  []message
	browseErr error
	readErr   error // behind the messages
	reads     int
	open      int // browsers
	done      []string
	doErr     error
}

func (s *fakeSource) snapshot() ([]queueInfo, error) { return slices.Clone(s.queues), nil }

func (s *fakeSource) browse(int) (topBrowser, error) {
	if s.browseErr != nil {
		return nil, s.browseErr
	}
	s.open++
	return &fakeBrowser{s, s.messages}, nil
}

func (s *fakeSource) remove(id int) error {
	if s.doErr == nil {
		s.done = append(s.done, fmt.Sprintf("remove %d", id))
		s.queues = slices.DeleteFunc(s.queues, func(q queueInfo) bool { return q.ID == id })
	}
	return s.doErr
}

func (s *fakeSource) purge(id, n int) (int, error) {
	s.done = append(s.done, fmt.Sprintf("purge %d of %d", n, id))
	s.messages = nil
	return n, s.doErr
}

type fakeBrowser struct {
	s    *fakeSource
	left []message
}

func (b *fakeBrowser) read(n, size int) ([]message, bool, error) {
	b.s.reads++
	n = min(n, len(b.left))
	messages := b.left[:n]
	b.left = b.left[n:]
	if len(b.left) == 0 {
		return messages, true, b.s.readErr
	}
	return messages, false, nil
}

func (b *fakeBrowser) close() { b.s.open-- }

// topTester drives a model without a terminal.
type topTester struct {
	t   *testing.T
	m   *topModel
	src *fakeSource
	at  time.Time
	end bool // it quits
}

func newTopTester(t *testing.T) *topTester {
	t.Helper()
	src := &fakeSource{queues: sample()}
	o := &topOptions{interval: time.Nanosecond, stale: time.Minute, sort: "messages", colors: true,
		parse: func(text string) (*cstruct.Struct, error) { return cstruct.Parse(text, cstruct.Options{}) }}
	top := &topTester{t: t, m: newTop(o, src), src: src, at: now}
	top.look()
	return top
}

// look is a snapshot one second after the one before.
func (top *topTester) look() {
	top.at = top.at.Add(time.Second)
	queues, err := top.src.snapshot()
	top.send(snapshotMsg{top.at, queues, err, true})
}

// send sends a message, and what its commands answer.
func (top *topTester) send(msg tea.Msg) {
	top.t.Helper()
	_, cmd := top.m.Update(msg)
	top.run(cmd)
	top.check()
}

func (top *topTester) run(cmd tea.Cmd) {
	if cmd == nil {
		return
	}
	switch msg := cmd().(type) {
	case nil, tickMsg:
	case tea.BatchMsg:
		for _, one := range msg {
			top.run(one)
		}
	case tea.QuitMsg:
		top.end = true
	case snapshotMsg:
		top.look() // with the time of the test
	default:
		_, cmd := top.m.Update(msg)
		top.run(cmd)
	}
}

var namedKeys = map[string]tea.KeyType{
	"enter": tea.KeyEnter, "esc": tea.KeyEsc, "up": tea.KeyUp, "down": tea.KeyDown, "pgdown": tea.KeyPgDown, "pgup": tea.KeyPgUp,
	"home": tea.KeyHome, "end": tea.KeyEnd, "tab": tea.KeyTab, "ctrl+c": tea.KeyCtrlC, "space": tea.KeySpace, "backspace": tea.KeyBackspace,
}

// keys types keys by name; others are characters.
func (top *topTester) keys(names ...string) {
	top.t.Helper()
	for _, name := range names {
		if typ, ok := namedKeys[name]; ok {
			msg := tea.KeyMsg{Type: typ}
			if typ == tea.KeySpace {
				msg.Runes = []rune{' '}
			}
			top.send(msg)
		} else {
			top.send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune(name)})
		}
	}
}

func (top *topTester) size(width, height int) {
	top.t.Helper()
	top.send(tea.WindowSizeMsg{Width: width, Height: height})
}

// check: the screen has its size, whatever is on it.
func (top *topTester) check() {
	top.t.Helper()
	lines := strings.Split(top.m.View(), "\n")
	if len(lines) > top.m.height {
		top.t.Errorf("%d lines on %d rows:\n%s", len(lines), top.m.height, top.m.View())
	}
	for _, line := range lines {
		if n := ansi.StringWidth(line); n > top.m.width {
			top.t.Errorf("%d cells in %d columns: %q", n, top.m.width, line)
		}
	}
}

// screen is what is seen, without styles.
func (top *topTester) screen() string { return ansi.Strip(top.m.View()) }

func (top *topTester) want(parts ...string) {
	top.t.Helper()
	screen := top.screen()
	for _, part := range parts {
		if !strings.Contains(screen, part) {
			top.t.Errorf("there is no %q on the screen:\n%s", part, screen)
		}
	}
}

func (top *topTester) wantNot(parts ...string) {
	top.t.Helper()
	screen := top.screen()
	for _, part := range parts {
		if strings.Contains(screen, part) {
			top.t.Errorf("there is %q on the screen:\n%s", part, screen)
		}
	}
}

// TestTopAtLeast: what two states of a queue tell of the messages between them.
func TestTopAtLeast(t *testing.T) {
	at := func(messages, bytes, sent, received int) queueInfo {
		return queueInfo{Stat: chanmq.Stat{Messages: messages, Bytes: bytes, LastSend: now.Add(time.Duration(sent) * time.Second), LastReceive: now.Add(time.Duration(received) * time.Second)}}
	}
	pid := func(q queueInfo, sender, receiver int) queueInfo {
		q.LastSendPID, q.LastReceivePID = sender, receiver
		return q
	}
	for _, test := range []struct {
		name        string
		before, now queueInfo
		in, out     int
	}{
		{"nothing", at(3, 30, 0, 0), at(3, 30, 0, 0), 0, 0},
		{"deeper", at(3, 30, 0, 0), at(8, 80, 1, 0), 5, 0},
		{"deeper within the second", at(3, 30, 0, 0), at(8, 80, 0, 0), 5, 0},
		{"less deep", at(8, 80, 0, 0), at(3, 30, 0, 1), 0, 5},
		{"deeper, and one was received", at(3, 30, 0, 0), at(8, 80, 1, 1), 6, 1},
		{"less deep, and one was sent", at(8, 80, 0, 0), at(3, 30, 1, 1), 1, 6},
		{"as deep", at(3, 30, 0, 0), at(3, 30, 1, 1), 1, 1},
		{"empty both times", at(0, 0, 0, 0), at(0, 0, 1, 1), 1, 1},
		{"only the send is seen", at(3, 30, 0, 0), at(3, 30, 1, 0), 1, 1},
		{"only the processes are seen", pid(at(3, 30, 0, 0), 1, 2), pid(at(3, 30, 0, 0), 3, 4), 1, 1},
		{"only the bytes are seen", at(3, 30, 0, 0), at(3, 31, 0, 0), 1, 1},
		{"fewer bytes", at(3, 30, 0, 0), at(3, 29, 0, 0), 1, 1},
		{"deeper with fewer bytes", at(3, 30, 0, 0), at(4, 29, 0, 0), 2, 1},
	} {
		if in, out := atLeast(&test.before, &test.now); in != test.in || out != test.out {
			t.Errorf("%s: in %d, out %d, want %d and %d", test.name, in, out, test.in, test.out)
		}
	}
}

// TestTopRates: over ten seconds, or two looks that are further apart.
func TestTopRates(t *testing.T) {
	var q *topQueue
	step := func(after time.Duration, messages int) {
		at := now
		if q != nil {
			at = q.samples[len(q.samples)-1].at.Add(after)
		}
		q = look(q, queueInfo{Stat: chanmq.Stat{Messages: messages}}, at, time.Minute)
	}
	check := func(known bool, growth, in, out float64) {
		t.Helper()
		if q.known != known || q.growth != growth || q.in != in || q.out != out {
			t.Errorf("known %v, growth %v, in %v, out %v", q.known, q.growth, q.in, q.out)
		}
	}
	step(0, 4)
	check(false, 0, 0, 0)
	step(time.Millisecond, 5) // it would look like 1000 a second
	check(false, 0, 0, 0)
	q = nil
	step(0, 4)
	step(2*time.Second, 8)
	check(true, 2, 2, 0)
	step(2*time.Second, 4)
	check(true, 0, 1, 1)
	for range 5 {
		step(2*time.Second, 4)
	}
	check(true, 0, 0, 0) // the window has passed
	step(100*time.Second, 204)
	check(true, 2, 2, 0)
	for range 2 * topHistory {
		step(time.Second, 204)
	}
	if len(q.samples) != topHistory {
		t.Errorf("%d samples are kept", len(q.samples))
	}
}

// TestTopNoReader: when a queue counts as one without a reader.
func TestTopNoReader(t *testing.T) {
	alive, dead := procinfo.Process{PID: 9, State: procinfo.Alive}, procinfo.Process{PID: 9, State: procinfo.Dead}
	queue := func(messages int, sent, received time.Duration, p procinfo.Process) queueInfo {
		q := queueInfo{Stat: chanmq.Stat{Messages: messages, LastSend: now.Add(-sent), LastReceivePID: p.PID}, receiver: p}
		if p.PID != 0 {
			q.LastReceive = now.Add(-received)
		}
		return q
	}
	empty := queue(0, time.Hour, time.Hour, alive)
	for _, test := range []struct {
		name   string
		before *queueInfo // ten seconds ago
		now    queueInfo
		want   bool
	}{
		{"empty", nil, empty, false},
		{"never received", nil, queue(1, 0, 0, procinfo.Process{}), true},
		{"never received, empty", nil, queue(0, 0, 0, procinfo.Process{}), false},
		{"dead", nil, queue(1, 0, 0, dead), true},
		{"dead, empty", nil, queue(0, 0, 0, dead), false},
		{"lives, and the message waits for long", nil, queue(1, time.Hour, 2*time.Hour, alive), true},
		{"lives, and has received of late", nil, queue(5, time.Hour, time.Second, alive), false},
		{"lives, and the message has just come", nil, queue(1, time.Second, time.Hour, alive), false},
		{"lives, and the message has come since", &empty, queue(1, time.Second, time.Hour, alive), false},
	} {
		var q *topQueue
		if test.before != nil {
			q = look(nil, *test.before, now.Add(-10*time.Second), time.Minute)
		}
		if q = look(q, test.now, now, time.Minute); q.noReader != test.want {
			t.Errorf("%s: %v", test.name, q.noReader)
		}
	}
	// Messages keep coming, and the reader does not.
	q := look(nil, empty, now, time.Minute)
	for i := range 61 {
		next := queue(i+1, 0, time.Hour, alive)
		next.LastSend = now.Add(time.Duration(i) * time.Second)
		q = look(q, next, next.LastSend, time.Minute)
		if q.noReader != (i == 60) {
			t.Errorf("after %ds: %v", i, q.noReader)
		}
	}
	if q.marks() != "!F" { // there is no size, so it is full
		t.Errorf("marks %q", q.marks())
	}
}

// TestTopList: the list of queues, and how it changes.
func TestTopList(t *testing.T) {
	top := newTopTester(t)
	top.want("3 queues, 53 messages, 996 bytes", ">?F id 6          50", "    0x00002a01     3", "wor\\x1b", " -      -      - ")
	top.src.queues[1].Messages = 60
	top.src.queues[0].Messages = 1
	top.look()
	top.want(">!F id 6          60", "+10.0   10.0    0.0", "  -2.0    0.0    2.0")
	top.send(snapshotMsg{now, nil, nil, true}) // a late one
	top.want("3 queues")

	// The cursor stays on its queue.
	top.keys("down")
	top.want(">   0x00002a01")
	top.keys("s")
	top.want("by bytes")
	top.keys("S", "S", "S")
	top.want("by id", ">   0x00002a01")
	top.keys("r")
	top.want("by id reversed", ">   0x00002a01")
	top.src.queues = top.src.queues[1:] // it is removed
	top.look()
	top.want(">!F id 6")
	top.keys("end")
	top.want(">!F id 6")
	top.keys("home")
	top.want(">   0x00002a02")

	// All orders are there.
	for range topSortNames {
		top.keys("s")
	}
	top.want("by id reversed")

	top.keys("e")
	top.want("only with messages: 1 of 2; esc", ">!F id 6")
	top.keys("n")
	top.want("only with messages, without reader: 1 of 2; esc")
	top.keys("esc")
	top.wantNot("only")
	top.keys("space")
	top.want("paused")
	top.src.queues = nil
	top.look()
	top.want("0 queues", "There are no queues")
	top.keys("enter", "d", "p", "down", "end")
	top.send(snapshotMsg{top.at, nil, errors.New("chanmq: list: no"), true})
	top.want("the queues cannot be listed: list: no")
	top.keys("q")
	if !top.end {
		t.Error("q does not end it")
	}
}

// TestTopPause: nothing is looked at, and the ticks go on.
func TestTopPause(t *testing.T) {
	top := newTopTester(t)
	if _, cmd := top.m.Update(tickMsg{}); cmd == nil {
		t.Error("no look")
	} else if _, ok := cmd().(snapshotMsg); !ok {
		t.Error("a tick is no look")
	}
	top.keys("space")
	if _, cmd := top.m.Update(tickMsg{}); cmd == nil {
		t.Error("the ticks have ended")
	} else if _, ok := cmd().(tickMsg); !ok {
		t.Error("it looks while paused")
	}
	if _, cmd := top.m.Update(snapshotMsg{at: top.at}); cmd == nil {
		t.Error("no tick behind a snapshot")
	}
	if _, cmd := top.m.Update(snapshotMsg{at: top.at, once: true}); cmd != nil {
		t.Error("a look that was asked for brings another tick")
	}
}

// TestTopFilter: as it is typed; esc brings the one before back.
func TestTopFilter(t *testing.T) {
	top := newTopTester(t)
	top.keys("/", "2A0", "1")
	top.want("filter: 2A01", ">   0x00002a01")
	top.wantNot("0x00002a02")
	top.keys("backspace", "q") // a character like others
	top.want("No queue is selected")
	top.keys("backspace", "enter")
	top.want(`only "2A0": 2 of 3`)
	top.keys("/", "x", "esc")
	top.want(`only "2A0": 2 of 3`)
	top.keys("esc")
	top.wantNot("only")
	top.keys("/till") // in one piece
	top.want("filter: till", ">   0x00002a01")
	top.keys("space")
	top.send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("0x2a09"), Paste: true})
	top.want("No queue is selected")
	top.keys("ctrl+c")
	if !top.end {
		t.Error("ctrl+c does not end it while a line is typed")
	}
}

// TestTopQuestions: only y destroys, and only what was asked.
func TestTopQuestions(t *testing.T) {
	top := newTopTester(t)
	top.keys("d")
	top.want("queue --id 6 holds 50 messages, belongs to 4000000", "Remove it? [y/N]")
	top.keys("x", "down", "s") // no answers
	top.want("[y/N]")
	for _, no := range []string{"n", "enter", "esc", "q"} {
		top.keys("d", no)
		top.want("queue --id 6 was not removed")
	}
	top.keys("dy") // nobody has read the question
	top.want("[y/N]")
	if top.end || top.src.done != nil {
		t.Fatalf("end %v, done %v", top.end, top.src.done)
	}
	top.keys("n")
	top.keys("p")
	top.want("Delete all of them? [y/N]")
	top.src.queues[1].Messages = 70
	top.look()
	top.keys("y")
	top.want("deleted 50 messages of queue --id 6")
	top.keys("d", "y")
	top.want("queue --id 6 was removed", "2 queues")
	top.keys("G", "p")
	top.want("queue 0x00002a02 is empty")
	top.keys("d")
	top.want("Remove it? [y/N]")
	top.src.queues = top.src.queues[:1]
	top.look()
	top.want("the queue was removed meanwhile")
	top.keys("y")
	if want := []string{"purge 50 of 6", "remove 6"}; !slices.Equal(top.src.done, want) {
		t.Errorf("done: %q, want %q", top.src.done, want)
	}
	top.src.doErr = errors.New("chanmq: remove: not permitted: only the queue's owner, its creator or root may remove a queue")
	top.keys("d", "y")
	top.want("remove: not permitted: only the queue's owner, its creator or root may remove a", "\nqueue\n")
	top.send(tea.KeyMsg{Type: tea.KeyRunes, Runes: []rune("q"), Paste: true})
	if top.end {
		t.Error("a paste is taken for keys")
	}
	top.keys("d", "ctrl+c")
	if !top.end {
		t.Error("ctrl+c does not end it while a question is open")
	}
}

func manyMessages(n int) []message {
	messages := make([]message, n)
	for i := range messages {
		messages[i] = message{Type: int64(i%3 + 1), Value: fmt.Appendf(nil, "message %d\x1b", i+1)}
	}
	return messages
}

// TestTopMessages: paging through a queue reads as much as is shown.
func TestTopMessages(t *testing.T) {
	top := newTopTester(t)
	top.src.messages = manyMessages(1000)
	top.keys("enter")
	top.want("queue --id 6: 50 messages, 900 bytes: 200 read so far", ">    1        1     10  message 1\\x1b", "TEXT")
	if top.src.reads != 1 {
		t.Errorf("%d reads", top.src.reads)
	}
	top.keys("pgdown")
	top.want(">   21")
	top.keys("pgup")
	top.want(">    1")
	for range 9 {
		top.keys("f")
	}
	top.want("400 read so far")
	top.keys("end")
	top.want("> 1000")
	top.wantNot("so far")
	if top.src.reads != 5 {
		t.Errorf("%d reads", top.src.reads)
	}
	top.keys("g", "x")
	top.want("HEX", "6d 65 73 73 61 67 65 20 31 1b")
	top.keys("enter")
	top.want("message 1, type 1, 10 bytes, as hex", "00000000  6d 65 73 73 61 67 65 20  31 1b")
	top.keys("n", "n", "p", "t")
	top.want("message 2, type 2", "\nmessage 2\\x1b")
	top.keys("esc")
	top.want(">    2")

	// Answers of a viewer that was closed are not taken for this one's.
	stale := readMsg{n: top.m.viewer.n - 1, messages: manyMessages(1), browser: &fakeBrowser{s: top.src}}
	top.src.open++
	top.send(stale)
	top.want("> ")
	if len(top.m.viewer.messages) != 1000 {
		t.Errorf("%d messages", len(top.m.viewer.messages))
	}
	top.src.messages = nil
	top.keys("u")
	top.want("The queue is empty")
	top.keys("enter", "end", "down")
	top.keys("esc")
	if top.src.open != 0 {
		t.Errorf("%d browsers are open", top.src.open)
	}
	top.want("3 queues")

	top.src.messages = manyMessages(mostMessages + 1)
	top.keys("enter", "G")
	top.want(fmt.Sprintf("the first %d are shown", mostMessages), fmt.Sprint(mostMessages))
}

// TestTopQueueVanishes: what was read of it is still shown.
func TestTopQueueVanishes(t *testing.T) {
	top := newTopTester(t)
	top.src.messages = manyMessages(3)
	top.keys("enter", "p")
	top.want("[y/N]")
	top.src.queues = top.src.queues[2:]
	top.look()
	top.want("queue --id 6: is gone", "message 2", "removed meanwhile")
	top.keys("d")
	top.want("the queue is gone")
	top.keys("enter")
	top.want("queue --id 6: is gone: message 1")
	top.keys("esc")
	top.src.browseErr = &chanmq.OpError{Op: "attach", ID: 6, Err: fs.ErrNotExist}
	top.keys("u")
	top.want("attach", "not exist")
	top.keys("esc")
	top.want("1 queue,")
	top.src.browseErr = nil

	// One's own removal goes back to the list.
	top.src.messages = nil
	top.keys("enter", "d", "y")
	top.want("queue 0x00002a02 was removed", "There are no queues")
	if top.src.open != 0 {
		t.Errorf("%d browsers are open", top.src.open)
	}
}

// TestTopPeekErrors: what is wrong is said, and what was read is shown.
func TestTopPeekErrors(t *testing.T) {
	top := newTopTester(t)
	top.src.browseErr = &chanmq.OpError{Op: "attach", ID: 6, Err: fs.ErrPermission}
	top.keys("enter", "down", "end", "enter", "x")
	top.want("attach: msqid 6: permission denied")
	top.keys("esc")
	top.src.browseErr = nil
	top.src.messages = manyMessages(2)
	top.src.readErr = &chanmq.OpError{Op: "browse", ID: 6, Err: errors.ErrUnsupported}
	top.keys("enter")
	top.want("CONFIG_CHECKPOINT_RESTORE", ">    1        1     10  6d 65 73")
}

// TestTopStruct: the members are asked for, until they are right.
func TestTopStruct(t *testing.T) {
	top := newTopTester(t)
	top.src.messages = []message{{Type: 1, Value: []byte("\x07\x00\x00\x00")}, {Type: 1, Value: []byte("hello")}}
	top.keys("enter", "tab", "tab")
	top.want("TEXT") // there is no struct to show
	top.keys("s", "enter")
	top.want("struct: ", "give its members")
	top.keys("lamp x", "enter")
	top.want(`unknown type "lamp"`, "struct: lamp x")
	top.keys("esc")
	top.keys("s", "i32 ", "id", "enter")
	top.want("STRUCT", "id=7", "(not the struct) 68 65")
	top.keys("enter")
	top.want("id=7")
	top.keys("n")
	top.want("the message has 5 bytes, and the struct 4", "|hello|")
	top.keys("tab")
	top.want("as text")
	top.keys("s")
	top.want("as struct")
	top.keys("S", "char[5] name", "enter")
	top.want(`name="hello"`)
}

// TestTopSizes: every screen at every size, down to one cell, and wide characters.
func TestTopSizes(t *testing.T) {
	for _, ascii := range []bool{false, true} {
		top := newTopTester(t)
		top.m.o.ascii = ascii
		top.src.queues[0].sender.Name = "順序處理程序"
		for i := range 60 {
			q := sample()[i%3]
			q.ID = 100 + i
			q.Messages = 1 << (i % 40)
			top.src.queues = append(top.src.queues, q)
		}
		top.src.messages = append(manyMessages(300), message{Type: 1 << 62, Value: []byte(strings.Repeat("漢字\n\t", 200))}, message{Type: 1})
		steps := [][]string{
			{}, {"G"}, {"/", "2a"}, {"esc", "d"}, {"n", "?"}, {"end"}, {"esc", "enter"}, {"G"}, {"s", "x"}, {"enter"}, {"esc", "up", "enter"},
			{"x"}, {"t", "end"}, {"esc", "p"},
		}
		for _, keys := range steps {
			top.size(80, 24)
			top.keys(keys...)
			top.look()
			for _, width := range []int{1, 2, 3, 4, 10, 13, 14, 20, 39, 40, 41, 60, 79, 80, 81, 100, 117, 118, 132, 200, 300} {
				for _, height := range []int{1, 2, 3, 4, 5, 6, 7, 10, 24, 50} {
					top.size(width, height)
					if ascii {
						screen := top.screen()
						if i := strings.IndexFunc(screen, func(r rune) bool { return strings.ContainsRune("▁▂▃▄▅▆▇█≥…", r) }); i >= 0 {
							t.Fatalf("%dx%d: not ASCII:\n%s", width, height, screen)
						}
					}
				}
			}
		}
		top.send(tea.WindowSizeMsg{}) // some terminals do not know theirs
		if top.m.width == 0 {
			t.Error("a size of nothing is taken")
		}
	}
}

// TestTopColumns: what is shown where there is little room, and that all is used.
func TestTopColumns(t *testing.T) {
	top := newTopTester(t)
	for width, want := range map[int]string{
		20:  "KEY MSGS",
		40:  "KEY MSGS BYTES GROW/s",
		80:  "KEY MSGS BYTES GROW/s ≥IN/s ≥OUT/s SENDER RECEIVER",
		200: "KEY ID OWNER MSGS BYTES FULL GROW/s ≥IN/s ≥OUT/s SENDER SENT RECEIVER RECEIVED",
	} {
		columns, widths := layoutColumns(top.m.columns(), width)
		var titles []string
		used := gutter
		for i, c := range columns {
			if c.title != "" {
				titles = append(titles, c.title)
			}
			used += 1 + widths[i]
		}
		if got := strings.Join(titles, " "); got != want {
			t.Errorf("%d: %s, want %s", width, got, want)
		}
		if used > width {
			t.Errorf("%d: uses %d", width, used)
		}
	}
}

var sgr = regexp.MustCompile(`\x1b\[([0-9;]*)m`)

// TestTopColors: red and magenta of the terminal, and with NO_COLOR none. Both leave the
// background alone.
func TestTopColors(t *testing.T) {
	for _, colors := range []bool{true, false} {
		top := newTopTester(t)
		top.m.o.colors, top.m.style = colors, newTopStyles(colors)
		for range 70 { // the messages of the first queue wait for longer than --stale
			top.look()
		}
		seen := make(map[string]bool)
		for _, keys := range []string{"", "d", "n", "/", "esc", "enter", "s", "esc", "?"} {
			if keys != "" {
				top.keys(keys)
			}
			top.look()
			for _, escape := range sgr.FindAllStringSubmatch(top.m.View(), -1) {
				for code := range strings.SplitSeq(escape[1], ";") {
					seen[code] = true
				}
			}
		}
		for code := range seen {
			switch code {
			case "", "0", "1", "2", "7":
			case "31", "35":
				if !colors {
					t.Errorf("color %s with NO_COLOR", code)
				}
			default:
				t.Errorf("style %s", code)
			}
		}
		if colors && (!seen["31"] || !seen["35"]) || !seen["7"] {
			t.Errorf("colors %v: %v", colors, seen)
		}
	}
}

// TestTopHelp: it names all keys, and goes back to where it was called.
func TestTopHelp(t *testing.T) {
	top := newTopTester(t)
	top.size(80, 200)
	top.src.messages = manyMessages(2)
	top.keys("enter", "enter", "?")
	top.want("Keys, in the list", "ctrl+z", "at least so many messages came", "≥OUT/s")
	top.keys("?", "esc")
	top.want("message 1, type 1")
	for _, line := range strings.Split(topKeys+topLegend, "\n") {
		if ansi.StringWidth(line) > 80 {
			t.Errorf("more than 80 columns: %s", line)
		}
	}
	for _, line := range []string{top.m.keyHelp(), func() string { top.keys("esc"); return top.m.keyHelp() }(), func() string { top.keys("esc"); return top.m.keyHelp() }()} {
		if ansi.StringWidth(line) > 80 {
			t.Errorf("more than 80 columns: %s", line)
		}
	}
}

// TestTopNumbers: they fit in their columns.
func TestTopNumbers(t *testing.T) {
	for n, want := range map[int]string{0: "0", 99_999: "99999", 100_000: "97.7K", 1 << 20: "1.0M", 999_999: "977K", 1 << 40: "1.0T"} {
		if got := amount(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
	for f, want := range map[float64]string{0: "0.0", 0.04: "+0.0", 12.34: "+12.3", -7: "-7.0", 999.9: "+999.9", 999.96: "+1.0K", 99_960: "+100K", 1e9: "+1.0G", 1e30: "+inf"} {
		if got := rateText(f, true); got != want {
			t.Errorf("%v: %s, want %s", f, got, want)
		}
	}
	if got := rateText(2, false); got != "2.0" {
		t.Error(got)
	}
	for d, want := range map[time.Duration]string{2 * time.Second: "2s", time.Minute: "1m", 90 * time.Second: "1m30s", time.Hour: "1h", 500 * time.Millisecond: "500ms"} {
		if got := shortDuration(d); got != want {
			t.Errorf("%v: %s, want %s", d, got, want)
		}
	}
}

// TestTopCourse: what is not 0 looks so, and the highest is the highest.
func TestTopCourse(t *testing.T) {
	m := &topModel{}
	q := &topQueue{}
	for _, n := range []int{9, 0, 1, 50, 99, 100} {
		q.samples = append(q.samples, topSample{messages: n})
	}
	of := func(s topSample) int { return s.messages }
	for _, test := range []struct {
		width, most int
		want        string
	}{{8, 0, "  ▂▁▂▅▇█"}, {3, 1000, "▂▂▂"}, {3, 100, "▅▇█"}, {2, 10, "██"}} {
		if got := m.course(q, test.width, test.most, of); got != test.want {
			t.Errorf("%d, %d: %q, want %q", test.width, test.most, got, test.want)
		}
	}
	m.o.ascii = true
	if got := m.course(q, 6, 0, of); got != "._.-*#" && len(got) != 6 {
		t.Errorf("ASCII: %q", got)
	}
	if got := m.course(&topQueue{samples: make([]topSample, 2)}, 2, 0, of); got != "__" {
		t.Errorf("all 0: %q", got)
	}
}

// TestKernelSource: looking takes nothing, and a purge no more than it was asked for.
func TestKernelSource(t *testing.T) {
	q, err := chanmq.Private(0o600)
	if err != nil {
		t.Skip("no queue: ", err)
	}
	t.Cleanup(func() {
		_ = q.Remove() // the test may have done so
		_ = q.Close()
	})
	for i := range 5 {
		if err := q.Send(t.Context(), int64(i+1), fmt.Appendf(nil, "m%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	src := kernelSource{t.Context()}
	queues, err := src.snapshot()
	if err != nil || !slices.ContainsFunc(queues, func(one queueInfo) bool { return one.ID == q.ID() && one.Messages == 5 }) {
		t.Errorf("%v, and the queue is not in %v", err, queues)
	}
	b, err := src.browse(q.ID())
	if err != nil {
		t.Fatal(err)
	}
	var seen []message
	for end := false; !end; {
		var some []message
		some, end, err = b.read(2, 1000)
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip("no MSG_COPY here: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, some...)
	}
	b.close()
	if len(seen) != 5 || string(seen[4].Value) != "m4" || seen[4].Type != 5 {
		t.Errorf("seen: %v", seen)
	}
	if stat, err := q.Stat(); err != nil || stat.Messages != 5 || stat.LastReceivePID != 0 {
		t.Errorf("looking changes the queue: %+v, %v", stat, err)
	}
	if n, err := src.purge(q.ID(), 3); n != 3 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	if n, err := src.purge(q.ID(), 9); n != 2 || err != nil {
		t.Errorf("purged %d, %v", n, err)
	}
	if err := src.remove(q.ID()); err != nil {
		t.Error(err)
	}
	if _, err := src.browse(q.ID()); !isNoQueue(err) {
		t.Errorf("a queue that is gone: %v", err)
	}
	if _, err := src.purge(q.ID(), 1); !isNoQueue(err) {
		t.Errorf("a queue that is gone: %v", err)
	}
	if err := src.remove(q.ID()); !isNoQueue(err) {
		t.Errorf("a queue that is gone: %v", err)
	}
}

func TestUTF8Locale(t *testing.T) {
	for _, test := range []struct {
		all, ctype, lang string
		want             bool
	}{
		{"", "", "", false}, {"C", "", "en_US.UTF-8", false}, {"", "C.utf8", "C", true}, {"", "", "de_DE.UTF-8", true}, {"", "", "POSIX", false},
	} {
		env := map[string]string{"LC_ALL": test.all, "LC_CTYPE": test.ctype, "LANG": test.lang}
		if got := utf8Locale(func(name string) string { return env[name] }); got != test.want {
			t.Errorf("%v: %v", test, got)
		}
	}
}
