package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/bubbles/textinput"
	tea "github.com/charmbracelet/bubbletea"

	"github.com/chanmq/chanmq/cmd/chanmq/internal/cstruct"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

// What is read of a queue at a time, and at most. Reading a message takes the kernel as
// many steps as there are before it.
const (
	readMessages = 200
	readBytes    = 1 << 20
	mostMessages = 10_000
	mostBytes    = 64 << 20
)

type topScreen int

const (
	screenQueues topScreen = iota
	screenMessages
	screenMessage
	screenHelp
)

// topMode is how messages are shown.
type topMode int

const (
	modeText topMode = iota
	modeHex
	modeStruct
)

func (m topMode) String() string { return [...]string{"text", "hex", "struct"}[m] }

// topModel is the state of top. It is changed by Update alone, and what takes time or the
// kernel is in the commands that Update returns.
type topModel struct {
	o     topOptions
	src   topSource
	style topStyles

	width, height int

	queues   map[int]*topQueue // by msqid
	shown    []*topQueue       // those that are selected, in order
	lookedAt time.Time         // when the last snapshot was taken
	err      error             // of the last snapshot
	cursor   int               // index in shown
	offset   int               // the first one on the screen
	onlyFull bool              // only queues with messages
	onlyBad  bool              // only queues without a reader
	paused   bool

	screen   topScreen
	back     topScreen // where help returns to
	viewer   *topViewer
	opened   int // how many viewers there were
	page     pager
	mode     topMode
	layout   *cstruct.Struct
	question *topQuestion
	input    *topInput
	status   string // what was done, or what was wrong, until the next key
}

// topViewer is a queue whose messages are shown.
type topViewer struct {
	n        int // which viewer, since answers of an earlier one may come
	id       int
	name     string
	gone     bool // the queue is
	browser  topBrowser
	messages []message
	bytes    int
	complete bool // all were read
	loading  bool
	toEnd    bool // the last message is to be shown
	err      error
	cursor   int
	offset   int
}

// topQuestion is asked before something is destroyed.
type topQuestion struct {
	id   int
	text string
	yes  tea.Cmd
	no   string // what to say otherwise
}

// topInput is a line that is typed.
type topInput struct {
	textinput.Model
	done   func(text string) (wrong string) // it stays open while something is wrong
	change func(text string)                // as it is typed; may be nil
	cancel func()                           // may be nil
}

// pager shows a part of lines.
type pager struct {
	lines  []string
	offset int
}

// What commands answer.
type (
	tickMsg     struct{}
	snapshotMsg struct {
		at     time.Time
		queues []queueInfo
		err    error
		once   bool // it was asked for, and no tick is to follow
	}
	readMsg struct {
		n        int
		browser  topBrowser
		messages []message
		end      bool
		err      error
	}
	doneMsg struct {
		text    string
		removed bool
	}
)

func newTop(o *topOptions, src topSource) *topModel {
	m := &topModel{o: *o, src: src, style: newTopStyles(o.colors), layout: o.layout, width: 80, height: 24}
	if m.layout != nil {
		m.mode = modeStruct
	}
	return m
}

func (m *topModel) Init() tea.Cmd { return m.look(false) }

// look takes a snapshot.
func (m *topModel) look(once bool) tea.Cmd {
	return func() tea.Msg {
		queues, err := m.src.snapshot()
		return snapshotMsg{time.Now(), queues, err, once}
	}
}

// wait waits for the next snapshot. It begins after the one before, so that slow ones do
// not pile up.
func (m *topModel) wait() tea.Cmd {
	return tea.Tick(m.o.interval, func(time.Time) tea.Msg { return tickMsg{} })
}

func (m *topModel) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	switch msg := msg.(type) {
	case tea.WindowSizeMsg:
		if msg.Width > 0 && msg.Height > 0 { // some terminals have no size
			m.width, m.height = msg.Width, msg.Height
		}
		m.openPage(false)
		return m, m.readMore()
	case tickMsg:
		if m.paused {
			return m, m.wait()
		}
		return m, m.look(false)
	case snapshotMsg:
		m.snapshot(msg)
		if msg.once {
			return m, nil
		}
		return m, m.wait()
	case readMsg:
		return m, m.read(msg)
	case doneMsg:
		m.status = msg.text
		if msg.removed && m.screen == screenMessages {
			m.screen = screenQueues
			return m, tea.Batch(m.look(true), m.closeViewer())
		}
		return m, tea.Batch(m.look(true), m.readAgain())
	case tea.KeyMsg:
		return m, m.keys(msg)
	}
	if m.input != nil { // what the line sends itself
		var cmd tea.Cmd
		m.input.Model, cmd = m.input.Update(msg)
		return m, cmd
	}
	return m, nil
}

// snapshot takes over what was found.
func (m *topModel) snapshot(msg snapshotMsg) {
	if m.err = msg.err; m.err != nil {
		return // what was seen before is still shown
	}
	if m.lookedAt.After(msg.at) {
		return // one that was asked for has overtaken it
	}
	queues := make(map[int]*topQueue, len(msg.queues))
	for _, info := range msg.queues {
		queues[info.ID] = look(m.queues[info.ID], info, msg.at, m.o.stale)
	}
	m.queues, m.lookedAt = queues, msg.at
	if m.viewer != nil && queues[m.viewer.id] == nil {
		m.viewer.gone = true
	}
	if m.question != nil && queues[m.question.id] == nil {
		m.question = nil
		m.status = "the queue was removed meanwhile"
	}
	m.order()
}

// order selects and sorts. The cursor stays on its queue; if that is gone, at its place.
func (m *topModel) order() {
	current := -1
	if q := m.current(); q != nil {
		current = q.ID
	}
	m.shown = m.shown[:0:0]
	for _, q := range m.queues {
		if m.onlyFull && q.Messages == 0 || m.onlyBad && !q.noReader || !q.matches(m.o.filter) {
			continue
		}
		m.shown = append(m.shown, q)
	}
	sortTop(m.shown, m.o.sort, m.o.reverse)
	if at := slices.IndexFunc(m.shown, func(q *topQueue) bool { return q.ID == current }); at >= 0 {
		m.cursor = at
	}
	m.cursor = max(min(m.cursor, len(m.shown)-1), 0)
}

// current is the queue under the cursor, nil if there is none.
func (m *topModel) current() *topQueue {
	if m.cursor >= len(m.shown) {
		return nil
	}
	return m.shown[m.cursor]
}

// keys handles what was typed. What is typed fast comes in one piece.
func (m *topModel) keys(msg tea.KeyMsg) tea.Cmd {
	if m.input != nil && msg.Type != tea.KeyCtrlC {
		return m.typed(msg)
	}
	if msg.Paste { // it is text for another program
		return nil
	}
	if msg.Type != tea.KeyRunes || len(msg.Runes) < 2 {
		return m.key(msg.String())
	}
	var cmds []tea.Cmd
	for i, r := range msg.Runes {
		if m.input != nil { // the rest is for the line that was opened
			return tea.Batch(append(cmds, m.typed(tea.KeyMsg{Type: tea.KeyRunes, Runes: msg.Runes[i:]}))...)
		}
		asked := m.question
		cmds = append(cmds, m.key(string(r)))
		if m.question != nil && m.question != asked { // nobody has read it yet
			break
		}
	}
	return tea.Batch(cmds...)
}

// typed hands a key to the line that is typed.
func (m *topModel) typed(msg tea.KeyMsg) tea.Cmd {
	in := m.input
	switch msg.Type {
	case tea.KeyEnter:
		if m.status = in.done(in.Value()); m.status == "" {
			m.input = nil
		}
		return nil
	case tea.KeyEsc:
		if m.input, m.status = nil, ""; in.cancel != nil {
			in.cancel()
		}
		return nil
	}
	var cmd tea.Cmd
	in.Model, cmd = in.Update(msg)
	if in.change != nil {
		in.change(in.Value())
	}
	return cmd
}

func (m *topModel) key(key string) tea.Cmd {
	switch {
	case key == "ctrl+c":
		return tea.Quit
	case key == "ctrl+z":
		return tea.Suspend
	case m.question != nil:
		return m.answer(key)
	}
	m.status = ""
	switch key {
	case "q":
		return tea.Quit
	case "?", "h", "f1":
		if m.screen != screenHelp {
			m.back, m.screen = m.screen, screenHelp
			m.openPage(true)
		}
		return nil
	case " ":
		m.paused = !m.paused
		return nil
	}
	switch m.screen {
	case screenQueues:
		return m.queueKey(key)
	case screenMessages:
		return m.viewerKey(key)
	}
	return m.pageKey(key)
}

// answer handles keys while a question is open. Only y is yes.
func (m *topModel) answer(key string) tea.Cmd {
	asked := m.question
	switch key {
	case "y", "Y":
		m.question, m.status = nil, "…"
		if m.o.ascii {
			m.status = "..."
		}
		return asked.yes
	case "n", "N", "q", "esc", "enter":
		m.question, m.status = nil, asked.no
	}
	return nil
}

// move returns where a key moves a cursor to, in a list of n with rows on the screen.
func move(key string, cursor, n, rows int) (int, bool) {
	to := cursor
	switch key {
	case "up", "k", "ctrl+p":
		to--
	case "down", "j", "ctrl+n":
		to++
	case "pgup", "ctrl+b", "b":
		to -= max(rows, 1)
	case "pgdown", "ctrl+f", "f":
		to += max(rows, 1)
	case "home", "g":
		to = 0
	case "end", "G":
		to = n - 1
	default:
		return cursor, false
	}
	return max(min(to, n-1), 0), true
}

// scroll returns the first row on the screen, such that the cursor is on it.
func scroll(offset, cursor, n, rows int) int {
	rows = max(rows, 1)
	return max(min(max(offset, cursor-rows+1), cursor, n-1), 0)
}

func (m *topModel) queueKey(key string) tea.Cmd {
	if to, ok := move(key, m.cursor, len(m.shown), m.bodyRows()); ok {
		m.cursor = to
		return nil
	}
	switch key {
	case "s", "S", ">", "<":
		step := 1
		if key == "S" || key == "<" {
			step = len(topSortNames) - 1
		}
		at := slices.Index(topSortNames, m.o.sort)
		m.o.sort = topSortNames[(at+step)%len(topSortNames)]
		m.order()
	case "r":
		m.o.reverse = !m.o.reverse
		m.order()
	case "e":
		m.onlyFull = !m.onlyFull
		m.order()
	case "n":
		m.onlyBad = !m.onlyBad
		m.order()
	case "/":
		return m.askFilter()
	case "esc":
		m.o.filter, m.onlyBad, m.onlyFull = "", false, false
		m.order()
	case "u":
		return m.look(true)
	case "enter", "right", "l":
		return m.open()
	case "d", "delete":
		m.askRemove(m.current())
	case "p":
		m.askPurge(m.current())
	}
	return nil
}

// line opens a line to type.
func (m *topModel) line(prompt, value string, in topInput) tea.Cmd {
	in.Model = textinput.New()
	in.Prompt = prompt
	m.style.line(&in.Model)
	in.SetValue(value)
	in.CursorEnd()
	m.input, m.status = &in, ""
	return in.Focus()
}

func (m *topModel) askFilter() tea.Cmd {
	before := m.o.filter
	filter := func(text string) {
		m.o.filter = text
		m.order()
	}
	return m.line("filter: ", before, topInput{
		change: filter,
		cancel: func() { filter(before) },
		done: func(text string) string {
			filter(strings.TrimSpace(text))
			return ""
		},
	})
}

// askRemove asks whether to remove the queue.
func (m *topModel) askRemove(q *topQueue) {
	if q == nil {
		return
	}
	id, name := q.ID, queueText(&q.queueInfo)
	why := doubts(&q.queueInfo)
	if why == "" {
		why = "is empty"
	}
	m.question = &topQuestion{
		id:   id,
		text: fmt.Sprintf("queue %s %s. Remove it?", name, why),
		no:   fmt.Sprintf("queue %s was not removed", name),
		yes: func() tea.Msg {
			if err := m.src.remove(id); err != nil {
				return doneMsg{text: strings.TrimPrefix(err.Error(), "chanmq: ")}
			}
			return doneMsg{fmt.Sprintf("queue %s was removed", name), true}
		},
	}
}

// askPurge asks whether to delete the messages that there are now.
func (m *topModel) askPurge(q *topQueue) {
	if q == nil {
		return
	}
	id, n, name := q.ID, q.Messages, queueText(&q.queueInfo)
	if n == 0 {
		m.status = fmt.Sprintf("queue %s is empty", name)
		return
	}
	m.question = &topQuestion{
		id:   id,
		text: fmt.Sprintf("queue %s %s. Delete all of them?", name, doubts(&q.queueInfo)),
		no:   "nothing was deleted",
		yes: func() tea.Msg {
			deleted, err := m.src.purge(id, n)
			if err != nil {
				return doneMsg{text: strings.TrimPrefix(err.Error(), "chanmq: ")}
			}
			return doneMsg{text: fmt.Sprintf("deleted %s of queue %s", format.Count(deleted, "message"), name)}
		},
	}
}

// open opens the queue under the cursor.
func (m *topModel) open() tea.Cmd {
	q := m.current()
	if q == nil {
		return nil
	}
	m.screen = screenMessages
	return m.view(q.ID, queueText(&q.queueInfo))
}

// view begins to read the messages of a queue.
func (m *topModel) view(id int, name string) tea.Cmd {
	closing := m.closeViewer()
	m.opened++
	n := m.opened
	m.viewer = &topViewer{n: n, id: id, name: name, loading: true}
	return tea.Batch(closing, func() tea.Msg {
		b, err := m.src.browse(id)
		if err != nil {
			return readMsg{n: n, end: true, err: err}
		}
		messages, end, err := b.read(readMessages, readBytes)
		return readMsg{n, b, messages, end, err}
	})
}

// readAgain reads the open queue from its head.
func (m *topModel) readAgain() tea.Cmd {
	if m.viewer == nil || m.screen != screenMessages {
		return nil
	}
	cursor, offset, gone := m.viewer.cursor, m.viewer.offset, m.viewer.gone
	cmd := m.view(m.viewer.id, m.viewer.name)
	m.viewer.cursor, m.viewer.offset, m.viewer.gone = cursor, offset, gone
	return cmd
}

func (m *topModel) closeViewer() tea.Cmd {
	v := m.viewer
	m.viewer = nil
	if v == nil || v.browser == nil {
		return nil
	}
	b := v.browser
	return func() tea.Msg { // it waits for a read that goes on
		b.close()
		return nil
	}
}

// read takes over messages that were read.
func (m *topModel) read(msg readMsg) tea.Cmd {
	v := m.viewer
	if v == nil || v.n != msg.n {
		if msg.browser == nil {
			return nil
		}
		return func() tea.Msg {
			msg.browser.close()
			return nil
		}
	}
	v.browser, v.loading = msg.browser, false
	v.messages = append(v.messages, msg.messages...)
	for _, one := range msg.messages {
		v.bytes += len(one.Value)
	}
	v.complete, v.err = msg.end, msg.err
	if v.toEnd {
		v.cursor = len(v.messages) - 1
		v.toEnd = !v.complete && !v.limited()
	}
	v.cursor = max(min(v.cursor, len(v.messages)-1), 0)
	return m.readMore()
}

// limited reports whether no more is read of the queue.
func (v *topViewer) limited() bool {
	return !v.complete && (len(v.messages) >= mostMessages || v.bytes >= mostBytes)
}

// readMore reads on if the cursor comes near what was read.
func (m *topModel) readMore() tea.Cmd {
	v := m.viewer
	if v == nil || v.loading || v.complete || v.limited() || v.browser == nil ||
		!v.toEnd && v.cursor+2*m.height < len(v.messages) {
		return nil
	}
	v.loading = true
	n, b, most := v.n, v.browser, min(readMessages, mostMessages-len(v.messages))
	return func() tea.Msg {
		messages, end, err := b.read(most, readBytes)
		return readMsg{n, b, messages, end, err}
	}
}

// modeKey handles the keys that choose how messages are shown.
func (m *topModel) modeKey(key string) (cmd tea.Cmd, ok bool) {
	switch key {
	case "t":
		m.mode = modeText
	case "x":
		m.mode = modeHex
	case "s":
		if m.layout == nil {
			return m.askStruct(), true
		}
		m.mode = modeStruct
	case "S":
		return m.askStruct(), true
	case "tab":
		if m.mode++; m.mode > modeStruct || m.mode == modeStruct && m.layout == nil {
			m.mode = modeText
		}
	default:
		return nil, false
	}
	m.openPage(false)
	return nil, true
}

// askStruct asks for the members of the struct.
func (m *topModel) askStruct() tea.Cmd {
	return m.line("struct: ", "", topInput{
		done: func(text string) string {
			if strings.TrimSpace(text) == "" {
				return "give its members, such as i32 id; f64 price; char[16] name; or @FILE"
			}
			layout, err := m.o.parse(text)
			if err != nil {
				return strings.TrimPrefix(err.Error(), "--struct: ")
			}
			m.layout, m.mode = layout, modeStruct
			m.openPage(false)
			return ""
		},
	})
}

func (m *topModel) viewerKey(key string) tea.Cmd {
	v := m.viewer
	if to, ok := move(key, v.cursor, len(v.messages), m.bodyRows()); ok {
		v.cursor = to
		v.toEnd = (key == "end" || key == "G") && !v.complete && !v.limited()
		return m.readMore()
	}
	if cmd, ok := m.modeKey(key); ok {
		return cmd
	}
	switch key {
	case "esc", "left", "backspace":
		m.screen = screenQueues
		return m.closeViewer()
	case "enter", "right", "l":
		if v.cursor < len(v.messages) {
			m.screen = screenMessage
			m.openPage(true)
		}
	case "u":
		return tea.Batch(m.look(true), m.readAgain())
	case "d", "delete", "p":
		q := m.queues[v.id]
		switch {
		case q == nil:
			m.status = "the queue is gone"
		case key == "p":
			m.askPurge(q)
		default:
			m.askRemove(q)
		}
	}
	return nil
}

// openPage lays out what the pager shows: help, or the message at the cursor.
func (m *topModel) openPage(anew bool) {
	switch m.screen {
	case screenMessage:
		m.page.lines = m.messageLines()
	case screenHelp:
		m.page.lines = m.helpLines()
	default:
		return
	}
	if anew {
		m.page.offset = 0
	}
	m.page.offset = max(min(m.page.offset, len(m.page.lines)-m.bodyRows()), 0)
}

// pageKey handles keys of the pager.
func (m *topModel) pageKey(key string) tea.Cmd {
	rows := m.bodyRows()
	last := max(len(m.page.lines)-rows, 0)
	if to, ok := move(key, m.page.offset, last+1, rows); ok {
		m.page.offset = to
		return nil
	}
	switch key {
	case "esc", "left", "backspace":
		if m.screen == screenHelp {
			m.screen = m.back
			m.openPage(false)
		} else {
			m.screen = screenMessages
		}
		return nil
	}
	if m.screen != screenMessage {
		return nil
	}
	if cmd, ok := m.modeKey(key); ok {
		return cmd
	}
	step := map[string]int{"n": 1, "p": -1}[key]
	if to := m.viewer.cursor + step; step != 0 && to >= 0 && to < len(m.viewer.messages) {
		m.viewer.cursor = to
		m.openPage(true)
		return m.readMore()
	}
	return nil
}
