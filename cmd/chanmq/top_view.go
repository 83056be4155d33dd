package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/charmbracelet/bubbles/cursor"
	"github.com/charmbracelet/bubbles/textinput"
	"github.com/charmbracelet/lipgloss"
	"github.com/charmbracelet/x/ansi"
	"github.com/muesli/termenv"

	"github.com/chanmq/chanmq/cmd/chanmq/internal/cstruct"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
	"github.com/chanmq/chanmq/internal/procinfo"
)

// topStyles are how parts of the screen look. Colors are the terminal's own red and
// magenta, which its theme makes readable on its background, light or dark; yellow, as ls
// has it, is not on many light ones. NO_COLOR takes the colors, and leaves bold and
// reverse: that is all it asks for. What colors say, marks say as well.
type topStyles struct {
	plain, title, header, bad, warn, faint, asked lipgloss.Style
}

func newTopStyles(colors bool) topStyles {
	r := lipgloss.NewRenderer(io.Discard) // it must not look for a terminal
	r.SetColorProfile(termenv.ANSI)
	r.SetHasDarkBackground(true) // nothing depends on it
	plain := r.NewStyle()
	s := topStyles{plain: plain, title: plain.Bold(true), header: plain.Reverse(true), bad: plain.Bold(true), warn: plain, faint: plain.Faint(true), asked: plain.Bold(true)}
	if colors {
		s.bad = s.bad.Foreground(lipgloss.Color("1"))
		s.warn = s.warn.Foreground(lipgloss.Color("5"))
	}
	return s
}

// line gives a line to type the styles: its own have colors for dark terminals.
func (s *topStyles) line(in *textinput.Model) {
	in.PromptStyle, in.TextStyle, in.PlaceholderStyle, in.CompletionStyle = s.asked, s.plain, s.plain, s.plain
	in.Cursor.Style, in.Cursor.TextStyle = s.plain, s.plain
	in.Cursor.SetMode(cursor.CursorStatic) // blinking would draw the screen twice a second
}

// topColumn is a column of the list of queues.
type topColumn struct {
	title    string
	right    bool
	min, max int
	rank     int // where there is no room, columns of the highest go first
	cell     func(q *topQueue, width int) string
}

// columns are those that there could be.
func (m *topModel) columns() []topColumn {
	least := "≥"
	if m.o.ascii {
		least = ">"
	}
	now := func(q *topQueue) time.Time { return q.samples[len(q.samples)-1].at }
	rate := func(of func(q *topQueue) float64, sign bool) func(*topQueue, int) string {
		return func(q *topQueue, _ int) string {
			if !q.known {
				return "-"
			}
			return rateText(of(q), sign)
		}
	}
	return []topColumn{
		{"KEY", false, 10, 10, 0, func(q *topQueue, _ int) string {
			if q.Key == 0 {
				return fmt.Sprintf("id %d", q.ID)
			}
			return q.Key.String()
		}},
		{"ID", true, 5, 10, 10, func(q *topQueue, _ int) string { return strconv.Itoa(q.ID) }},
		{"OWNER", false, 8, 8, 12, func(q *topQueue, _ int) string { return format.Printable([]byte(ownerText(q.Owner))) }},
		{"MSGS", true, 5, 6, 0, func(q *topQueue, _ int) string { return amount(q.Messages) }},
		{"", false, 6, 30, 3, func(q *topQueue, width int) string {
			return m.course(q, width, 0, func(s topSample) int { return s.messages })
		}},
		{"BYTES", true, 6, 6, 1, func(q *topQueue, _ int) string { return amount(q.Bytes) }},
		{"", false, 6, 30, 7, func(q *topQueue, width int) string {
			return m.course(q, width, q.MaxBytes, func(s topSample) int { return s.bytes })
		}},
		{"FULL", true, 4, 4, 8, func(q *topQueue, _ int) string { return strconv.Itoa(q.full()) + "%" }},
		{"GROW/s", true, 6, 7, 2, rate(func(q *topQueue) float64 { return q.growth }, true)},
		{least + "IN/s", true, 6, 7, 6, rate(func(q *topQueue) float64 { return q.in }, false)},
		{least + "OUT/s", true, 6, 7, 6, rate(func(q *topQueue) float64 { return q.out }, false)},
		{"SENDER", false, 8, 24, 5, func(q *topQueue, width int) string { return shortProcess(q.sender, width) }},
		{"SENT", true, 7, 7, 11, func(q *topQueue, _ int) string { return format.Age(now(q), q.LastSend) }},
		{"RECEIVER", false, 8, 24, 4, func(q *topQueue, width int) string { return shortProcess(q.receiver, width) }},
		{"RECEIVED", true, 8, 8, 9, func(q *topQueue, _ int) string { return format.Age(now(q), q.LastReceive) }},
	}
}

// gutter is what is before the columns: the cursor and two marks.
const gutter = 3

// layoutColumns chooses the columns for a width, and how wide each is.
func layoutColumns(all []topColumn, width int) (columns []topColumn, widths []int) {
	width -= gutter
	columns = append(columns, all...)
	needs := func() (n int) {
		for _, c := range columns {
			n += 1 + c.min
		}
		return n
	}
	for len(columns) > 1 && needs() > width {
		leave := len(columns) - 1
		for i := range columns {
			if columns[i].rank > columns[leave].rank {
				leave = i
			}
		}
		columns = append(columns[:leave], columns[leave+1:]...)
	}
	widths = make([]int, len(columns))
	for i, c := range columns {
		widths[i] = c.min
	}
	left := width - needs()
	for grown := true; left > 0 && grown; {
		grown = false
		for i, c := range columns {
			if left > 0 && widths[i] < c.max {
				widths[i]++
				left--
				grown = true
			}
		}
	}
	return columns, widths
}

// amount is a number in at most five characters.
func amount(n int) string {
	if n < 100_000 {
		return strconv.Itoa(n)
	}
	return scaled(float64(n), 1024)
}

// scaled is a number with a K, M and so on.
func scaled(f, unit float64) string {
	for _, suffix := range "KMGTPE" {
		f /= unit
		if f < 99.95 {
			return fmt.Sprintf("%.1f%c", f, suffix)
		}
		if f < 999.5 {
			return fmt.Sprintf("%.0f%c", f, suffix)
		}
	}
	return "inf"
}

// rateText is a rate in at most six characters.
func rateText(f float64, sign bool) string {
	text := fmt.Sprintf("%.1f", math.Abs(f))
	if math.Abs(f) >= 999.95 {
		text = scaled(math.Abs(f), 1000)
	}
	switch {
	case f < 0:
		return "-" + text
	case f > 0 && sign:
		return "+" + text
	}
	return text
}

// shortProcess is processText where there is room for it, and else the name alone.
func shortProcess(p procinfo.Process, width int) string {
	text := processText(p)
	if ansi.StringWidth(text) > width {
		if p.State == procinfo.Dead {
			return "(dead)"
		}
		text = format.Printable([]byte(cmp.Or(p.Name, strconv.Itoa(p.PID))))
	}
	return text
}

// course draws samples, the latest on the right. The highest stands for most; 0 means for
// the highest sample. What is not 0 looks so.
func (m *topModel) course(q *topQueue, width, most int, of func(topSample) int) string {
	levels := []rune("▁▂▃▄▅▆▇█")
	if m.o.ascii {
		levels = []rune("_.:-=+*#")
	}
	samples := q.samples[max(len(q.samples)-width, 0):]
	if most == 0 {
		for _, s := range samples {
			most = max(most, of(s))
		}
	}
	var b strings.Builder
	b.WriteString(strings.Repeat(" ", width-len(samples)))
	for _, s := range samples {
		level := 0
		if n := of(s); n > 0 && most > 0 {
			level = 1 + min(int(int64(n)*int64(len(levels)-2)/int64(most)), len(levels)-2)
		}
		b.WriteRune(levels[level])
	}
	return b.String()
}

func (m *topModel) ellipsis() string {
	if m.o.ascii {
		return "~"
	}
	return "…"
}

// fit cuts text to the width, or fills it up.
func (m *topModel) fit(text string, width int, right bool) string {
	text = m.cut(text, width)
	blanks := strings.Repeat(" ", max(width-ansi.StringWidth(text), 0))
	if right {
		return blanks + text
	}
	return text + blanks
}

func (m *topModel) cut(text string, width int) string {
	if width <= 0 {
		return ""
	}
	return ansi.Truncate(text, width, m.ellipsis())
}

// row lays out cells.
func (m *topModel) row(marks string, columns []topColumn, widths []int, cell func(i int) string) string {
	var b strings.Builder
	b.WriteString(marks)
	for i, c := range columns {
		b.WriteString(" " + m.fit(cell(i), widths[i], c.right))
	}
	return b.String()
}

// frame is what is around the body: rows above and below it, without styles that count.
type frame struct{ above, below []string }

// rows is how much a frame leaves for the body.
func (f *frame) rows(height int) int { return max(height-len(f.above)-len(f.below), 0) }

// frame returns the frame of the screen that is shown. Where there is no room for all of
// it, keys go first, then the title; a question or a line that is typed stays.
func (m *topModel) frame() frame {
	var f frame
	title, header, keys := m.title(), "", m.keyHelp()
	switch m.screen {
	case screenQueues:
		columns, widths := layoutColumns(m.columns(), m.width)
		header = m.row(strings.Repeat(" ", gutter), columns, widths, func(i int) string { return columns[i].title })
	case screenMessages:
		header = m.messageRow("#", "TYPE", "BYTES", strings.ToUpper(m.mode.String()))
	}
	if header != "" {
		header = m.style.header.Render(m.fit(header, m.width, false))
	}
	below := m.bottom()
	if m.height >= 4+len(below) {
		f.above = append(f.above, m.style.title.Render(m.cut(title, m.width)))
	}
	if header != "" && m.height >= 2+len(below) {
		f.above = append(f.above, header)
	}
	f.below = below
	if m.height >= 6+len(below) {
		f.below = append(f.below, m.style.faint.Render(m.cut(keys, m.width)))
	}
	return f
}

func (m *topModel) bodyRows() int {
	f := m.frame()
	return f.rows(m.height)
}

// title is the first line.
func (m *topModel) title() string {
	var parts []string
	switch m.screen {
	case screenHelp:
		return "chanmq top: help"
	case screenMessages, screenMessage:
		v := m.viewer
		parts = append(parts, "queue "+v.name)
		q := m.queues[v.id]
		switch {
		case v.gone || q == nil:
			parts = append(parts, "is gone")
		default:
			parts = append(parts, fmt.Sprintf("%s, %s", format.Count(q.Messages, "message"), format.Count(q.Bytes, "byte")))
		}
		if m.screen == screenMessage && v.cursor < len(v.messages) {
			one := v.messages[v.cursor]
			parts = append(parts, fmt.Sprintf("message %d, type %d, %s, as %v", v.cursor+1, one.Type, format.Count(len(one.Value), "byte"), m.mode))
			return strings.Join(parts, ": ")
		}
		switch {
		case v.loading:
			parts = append(parts, "reading")
		case v.limited():
			parts = append(parts, fmt.Sprintf("the first %d are shown", len(v.messages)))
		case !v.complete:
			parts = append(parts, fmt.Sprintf("%d read so far", len(v.messages)))
		}
		return strings.Join(parts, ": ")
	}
	messages, bytes := 0, 0
	for _, q := range m.queues {
		messages += q.Messages
		bytes += q.Bytes
	}
	parts = append(parts, fmt.Sprintf("chanmq top: %s, %s, %s bytes", format.Count(len(m.queues), "queue"), format.Count(messages, "message"), amount(bytes)))
	if m.paused {
		parts = append(parts, "paused")
	} else {
		parts = append(parts, "every "+shortDuration(m.o.interval))
	}
	by := "by " + m.o.sort
	if m.o.reverse {
		by += " reversed"
	}
	parts = append(parts, by)
	return strings.Join(parts, "  ")
}

// selection says which queues alone are shown, "" if all are.
func (m *topModel) selection() string {
	var only []string
	if m.onlyFull {
		only = append(only, "with messages")
	}
	if m.onlyBad {
		only = append(only, "without reader")
	}
	if m.o.filter != "" {
		only = append(only, strconv.Quote(m.o.filter))
	}
	if only == nil {
		return ""
	}
	return fmt.Sprintf("only %s: %d of %d; esc shows all", strings.Join(only, ", "), len(m.shown), len(m.queues))
}

// shortDuration is without the units that are 0.
func shortDuration(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

func (m *topModel) keyHelp() string {
	switch m.screen {
	case screenMessages:
		return "enter whole  t text  x hex  s struct  u read again  d remove  p purge  esc back"
	case screenMessage:
		return "n next  p previous  t text  x hex  s struct  esc back  ? help  q quit"
	case screenHelp:
		return "esc back  q quit"
	}
	return "enter open  s sort  r reverse  / filter  d remove  p purge  ? help  q quit"
}

// bottom is what is asked, typed, or said: at least a line.
func (m *topModel) bottom() []string {
	switch {
	case m.question != nil:
		lines := m.wrap(m.question.text+" [y/N]", m.style.asked)
		return lines[max(len(lines)-m.height, 0):]
	case m.input != nil:
		in := m.input.Model
		in.Width = max(m.width-ansi.StringWidth(in.Prompt)-1, 1) // one for the cursor
		lines := []string{m.cut(in.View(), m.width)}
		if m.status != "" {
			lines = append([]string{m.style.bad.Render(m.cut(m.status, m.width))}, lines...)
		}
		return lines[max(len(lines)-m.height, 0):]
	case m.status != "":
		lines := m.wrap(m.status, m.style.title)
		return lines[:min(len(lines), m.height)]
	case m.err != nil:
		lines := m.wrap("the queues cannot be listed: "+strings.TrimPrefix(m.err.Error(), "chanmq: "), m.style.bad)
		return lines[:min(len(lines), m.height)]
	case m.screen == screenQueues && m.selection() != "":
		return []string{m.style.title.Render(m.cut(m.selection(), m.width))}
	case m.screen == screenQueues:
		return []string{m.style.faint.Render(m.cut("! grows and has no reader  ? has no reader  F is full by "+strconv.Itoa(warnFull)+"% or more", m.width))}
	}
	return []string{""}
}

// wrap makes as many lines of a text as it takes.
func (m *topModel) wrap(text string, style lipgloss.Style) []string {
	var lines []string
	for line := range strings.SplitSeq(ansi.Wrap(text, max(m.width, 1), ""), "\n") {
		lines = append(lines, style.Render(line))
	}
	return lines
}

// View draws the screen: never more than its height and width.
func (m *topModel) View() string {
	f := m.frame()
	rows := f.rows(m.height)
	var body []string
	switch m.screen {
	case screenQueues:
		body = m.queueLines(rows)
	case screenMessages:
		body = m.messageList(rows)
	default:
		body = m.page.lines[min(m.page.offset, len(m.page.lines)):]
	}
	body = body[:min(len(body), rows)]
	for len(body) < rows {
		body = append(body[:len(body):len(body)], "")
	}
	lines := append(append(f.above, body...), f.below...)
	for i := range lines {
		lines[i] = ansi.Truncate(lines[i], m.width, "")
	}
	return strings.Join(lines[:min(len(lines), m.height)], "\n")
}

func (m *topModel) queueLines(rows int) []string {
	if len(m.shown) == 0 {
		switch {
		case m.lookedAt.IsZero():
			return nil
		case len(m.queues) == 0:
			return []string{m.cut("    There are no queues. chanmq create makes one.", m.width)}
		}
		return []string{m.cut("    No queue is selected. esc shows all.", m.width)}
	}
	columns, widths := layoutColumns(m.columns(), m.width)
	m.offset = max(min(m.offset, len(m.shown)-rows), 0) // a taller screen shows more
	m.offset = scroll(m.offset, m.cursor, len(m.shown), rows)
	var lines []string
	for i := m.offset; i < len(m.shown) && len(lines) < rows; i++ {
		q := m.shown[i]
		marks := q.marks()
		line := m.row(m.pointer(i == m.cursor)+marks, columns, widths, func(i int) string { return columns[i].cell(q, widths[i]) })
		style := m.style.plain
		switch {
		case marks[0] == '!' || marks[1] == 'F':
			style = m.style.bad
		case marks[0] == '?':
			style = m.style.warn
		}
		lines = append(lines, m.render(line, style, i == m.cursor))
	}
	return lines
}

// pointer points at the row under the cursor, for those who see no reversed ones.
func (m *topModel) pointer(here bool) string {
	if here {
		return ">"
	}
	return " "
}

func (m *topModel) render(line string, style lipgloss.Style, here bool) string {
	if here {
		return style.Reverse(true).Render(m.fit(line, m.width, false))
	}
	return style.Render(m.cut(line, m.width))
}

func (m *topModel) messageRow(number, typ, bytes, text string) string {
	if m.width < 40 {
		return fmt.Sprintf(" %6s %s", typ, text)
	}
	return fmt.Sprintf(" %5s %8s %6s  %s", number, typ, bytes, text)
}

func (m *topModel) messageList(rows int) []string {
	v := m.viewer
	var lines []string
	if v.err != nil {
		lines = m.wrap(peekError(v.err), m.style.bad)
	}
	if len(v.messages) == 0 {
		if v.complete && v.err == nil {
			lines = append(lines, m.cut("    The queue is empty.", m.width))
		}
		return lines
	}
	rows = max(rows-len(lines), 0)
	v.offset = max(min(v.offset, len(v.messages)-rows), 0)
	v.offset = scroll(v.offset, v.cursor, len(v.messages), rows)
	for i := v.offset; i < len(v.messages) && i < v.offset+rows; i++ {
		one := v.messages[i]
		line := m.messageRow(strconv.Itoa(i+1), strconv.FormatInt(one.Type, 10), amount(len(one.Value)), m.oneLine(one.Value))
		lines = append(lines, m.render(m.pointer(i == v.cursor)+line[1:], m.style.plain, i == v.cursor))
	}
	return lines
}

// oneLine is as much of a message as fits in a line.
func (m *topModel) oneLine(text []byte) string {
	begin := text[:min(len(text), 4*m.width)] // what is behind is not seen
	switch m.mode {
	case modeHex:
		return fmt.Sprintf("% x", begin)
	case modeStruct:
		record, err := m.layout.Decode(text)
		if err != nil {
			return fmt.Sprintf("(not the struct) % x", begin)
		}
		return record.String()
	}
	return format.Printable(begin)
}

// messageLines is the whole message at the cursor.
func (m *topModel) messageLines() []string {
	v := m.viewer
	if v == nil || v.cursor >= len(v.messages) {
		return nil
	}
	text := v.messages[v.cursor].Value
	if len(text) == 0 {
		return []string{"(no bytes)"}
	}
	var lines []string
	add := func(line string) { // as many rows as it takes
		lines = append(lines, strings.Split(ansi.Hardwrap(line, max(m.width, 1), true), "\n")...)
	}
	mode := m.mode
	if mode == modeStruct {
		record, err := m.layout.Decode(text)
		if err == nil {
			for _, member := range record {
				add(cstruct.Record{member}.String())
			}
			return lines
		}
		add(err.Error())
		add("")
		mode = modeHex
	}
	if mode == modeHex {
		var b strings.Builder
		_ = format.Hex(&b, text) // a Builder takes all
		for line := range strings.SplitSeq(strings.TrimSuffix(b.String(), "\n"), "\n") {
			add(line)
		}
		return lines
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(string(text), "\n"), "\n") {
		add(format.Printable([]byte(line)))
	}
	return lines
}

const topKeys = `Keys, in the list of queues:

  enter         opens the queue: its messages are shown, and none is taken
  s, S          sort by the next, the previous column of
                %s,
                %s
  r             the other way round
  /             filter: words in key, id, owner, sender, receiver
  n             only queues without a reader
  e             only queues with messages
  esc           all queues
  d             remove the queue; it asks first
  p             purge: delete its messages; it asks first
  u             look now
  space         pause

in an open queue, whose messages are read when it is opened, and with u again:

  enter         the whole message; n and p go to the next and the previous one
  t, x          as text, as a hex dump
  s, S          as a struct; S asks for another one
  tab           the next of these
  d, p          as above
  esc           back

and everywhere:

  arrows, j, k, page up and down, f, b, home, end, g, G
  ?             this help
  ctrl+z        suspend
  q, ctrl+c     quit

`

func (m *topModel) helpLines() []string {
	text := fmt.Sprintf(topKeys, strings.Join(topSortNames[:len(lsSortNames)], ", "), strings.Join(topSortNames[len(lsSortNames):], ", ")) + topLegend
	if !m.o.ascii {
		text = strings.NewReplacer(">IN/s", "≥IN/s", ">OUT/s", "≥OUT/s").Replace(text)
	}
	var lines []string
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		lines = append(lines, strings.Split(ansi.Wrap(line, max(m.width, 1), ""), "\n")...)
	}
	return lines
}
