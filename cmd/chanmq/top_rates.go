package main

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/chanmq/chanmq/internal/procinfo"
)

const (
	topHistory = 64               // samples of a queue that are kept: the longest course
	topWindow  = 10 * time.Second // rates are of this time, or of two looks
	topLeast   = minInterval      // none are shown of a shorter time
)

// topSample is what one look has found in a queue.
type topSample struct {
	at       time.Time
	messages int
	bytes    int
	in, out  int // at least so many came and went since the sample before
}

// topQueue is a queue with what was seen of it before.
type topQueue struct {
	queueInfo
	samples []topSample // the latest last
	waiting time.Time   // messages are known to wait since then; zero: there are none

	known           bool // the rates are
	growth, in, out float64
	noReader        bool
}

// look makes the queue of a snapshot out of the one of the snapshot before, nil if it was
// not there.
func look(before *topQueue, info queueInfo, at time.Time, stale time.Duration) *topQueue {
	q := &topQueue{queueInfo: info}
	s := topSample{at: at, messages: info.Messages, bytes: info.Bytes}
	if before != nil {
		s.in, s.out = atLeast(&before.queueInfo, &info)
		q.samples = before.samples
		if len(q.samples) == topHistory {
			q.samples = slices.Clone(q.samples[1:])
		}
		q.waiting = before.waiting
	}
	q.samples = append(q.samples, s)

	switch {
	case info.Messages == 0:
		q.waiting = time.Time{}
	case q.waiting.IsZero() && before == nil && !info.LastSend.IsZero():
		// All of them were there when the last one was sent.
		q.waiting = info.LastSend
	case q.waiting.IsZero():
		q.waiting = at
	}
	// A receiver that has taken its messages may rest for long: what counts is how long it
	// lets some wait.
	since := q.waiting
	if info.LastReceive.After(since) {
		since = info.LastReceive
	}
	q.noReader = info.unread() || info.Messages > 0 && at.Sub(since) >= stale

	q.rate(at)
	return q
}

// rate computes the rates over the window.
func (q *topQueue) rate(at time.Time) {
	last := len(q.samples) - 1
	if last == 0 {
		return
	}
	first := last - 1
	for first > 0 && at.Sub(q.samples[first-1].at) <= topWindow {
		first--
	}
	elapsed := at.Sub(q.samples[first].at)
	if elapsed < topLeast {
		return // one message in it would look like thousands a second
	}
	in, out := 0, 0
	for _, s := range q.samples[first+1:] {
		in += s.in
		out += s.out
	}
	seconds := elapsed.Seconds()
	q.known = true
	q.growth = float64(in-out) / seconds // each sample's in less out is the change of the depth
	q.in, q.out = float64(in)/seconds, float64(out)/seconds
}

// atLeast returns how many messages came and went between two states of a queue, at least.
// Their difference is exact.
func atLeast(before, now *queueInfo) (in, out int) {
	change := now.Messages - before.Messages
	if !now.LastSend.Equal(before.LastSend) || now.LastSendPID != before.LastSendPID || now.Bytes > before.Bytes {
		in = 1
	}
	if !now.LastReceive.Equal(before.LastReceive) || now.LastReceivePID != before.LastReceivePID || now.Bytes < before.Bytes {
		out = 1
	}
	in = max(in, out+change, 0)
	return in, in - change
}

// grows reports whether the queue has become deeper.
func (q *topQueue) grows() bool { return q.known && q.growth > 0 }

// marks are the two marks in front of a queue.
func (q *topQueue) marks() string {
	reader, full := " ", " "
	switch {
	case q.noReader && q.grows():
		reader = "!"
	case q.noReader:
		reader = "?"
	}
	if q.full() >= warnFull {
		full = "F"
	}
	return reader + full
}

// matches reports whether all words of the filter are in what names the queue.
func (q *topQueue) matches(filter string) bool {
	process := func(p procinfo.Process) string {
		if p.PID == 0 {
			return ""
		}
		return processText(p)
	}
	text := strings.ToLower(strings.Join([]string{
		q.Key.String(), queueText(&q.queueInfo), ownerText(q.Owner), process(q.sender), process(q.receiver),
	}, "\n"))
	for _, word := range strings.Fields(strings.ToLower(filter)) {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

// topSortNames are the orders of top, in which s goes through them: those of ls, and those
// of rates.
var topSortNames = append(slices.Clone(lsSortNames), "growth", "in", "out")

var topSorts = func() map[string]func(x, y *topQueue) int {
	sorts := map[string]func(x, y *topQueue) int{
		"growth": func(x, y *topQueue) int { return cmp.Compare(y.growth, x.growth) },
		"in":     func(x, y *topQueue) int { return cmp.Compare(y.in, x.in) },
		"out":    func(x, y *topQueue) int { return cmp.Compare(y.out, x.out) },
	}
	for name, by := range lsSorts {
		sorts[name] = func(x, y *topQueue) int { return by(&x.queueInfo, &y.queueInfo) }
	}
	return sorts
}()

func sortTop(queues []*topQueue, by string, reverse bool) {
	slices.SortFunc(queues, func(x, y *topQueue) int {
		order := cmp.Or(topSorts[by](x, y), cmp.Compare(x.ID, y.ID))
		if reverse {
			return -order
		}
		return order
	})
}
