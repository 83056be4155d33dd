package chanmq

import (
	"fmt"
	"sync"

	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/sysv"
)

// This file is how a handle uses journals: its own, and those of processes that are
// dead. What is in one, and why it holds, is in package journal.

// adoption is how a handle takes over journals.
type adoption struct {
	mu      sync.Mutex
	stage   adoptionStage    // guarded by mu
	watcher *journal.Watcher // nil: there is none; guarded by mu
}

type adoptionStage int

const (
	adoptsNothing adoptionStage = iota // nobody has received yet
	adopts
	adoptsNoMore // the handle is closed
)

func (q *queue) identify(id int) (journal.Identity, error) {
	queue, err := journal.Identify(q.kernel, id)
	switch {
	case err == sysv.EACCES:
		return queue, cause([]error{err}, "WithJournal: whose messages they are is known to those only who may read the queue: %v", err)
	case isRemoved(err):
		return queue, err
	case err != nil:
		return queue, cause([]error{err}, "WithJournal: %v", err)
	}
	return queue, nil
}

// adopt begins to take over what others have left. It is called before the handle
// receives: one that only sends would keep such messages from those who receive.
func (q *queue) adopt() {
	if q.options.journal == nil {
		return
	}
	q.adoption.mu.Lock()
	defer q.adoption.mu.Unlock()
	if q.adoption.stage == adoptsNothing {
		q.adoption.stage = adopts
		q.watchJournals()
	}
}

// adoptAnew is called when the handle has another queue, whose journals were none of its
// business before.
func (q *queue) adoptAnew() {
	q.adoption.mu.Lock()
	defer q.adoption.mu.Unlock()
	if q.adoption.stage == adopts {
		q.endWatcher()
		q.watchJournals()
	}
}

// endAdoption makes the handle take over nothing more.
func (q *queue) endAdoption() {
	q.adoption.mu.Lock()
	defer q.adoption.mu.Unlock()
	q.adoption.stage = adoptsNoMore
	q.endWatcher()
}

// watchJournals takes over the journals that there are, and then those of processes that
// die. It needs adoption.mu.
func (q *queue) watchJournals() {
	current := func() (journal.Identity, error) { return q.identify(q.msqid()) }
	w, err := journal.Watch(*q.options.journal, q.kernel, current, q.adopted, q.options.onJournalError)
	if err != nil {
		q.options.onJournalError(err)
		return
	}
	q.adoption.watcher = w
}

// endWatcher waits for the end of the watcher. It needs adoption.mu.
func (q *queue) endWatcher() {
	if q.adoption.watcher != nil {
		_ = q.adoption.watcher.Close() // it was only read from
		q.adoption.watcher = nil
	}
}

// adopted hands back what a process had taken that is dead.
func (q *queue) adopted(a *journal.Adopted) {
	for _, s := range a.Slots {
		m := adoptedRaw(s)
		q.follow(&m)
		m.seq = q.slot.numberAdopted()
		if c := q.counters; c != nil {
			c.adopted.Add(1)
			m.countUnacked(c)
		}
		if q.putIntoSlot(m) {
			continue
		}
		if err := q.giveBack(m); err != nil {
			q.options.onJournalError(err)
		}
	}
}

// noteChanged notes that Set has changed the queue, which is part of what identifies it.
func (q *queue) noteChanged() {
	j := q.at.Load().journal
	if j == nil {
		return
	}
	stat, err := q.subject().statAny()
	if err != nil {
		q.options.onJournalError(fmt.Errorf("after Set, the journal does not know the queue any more: %w", err))
		return
	}
	j.SetChanged(stat.ChangeTime)
}

// JournalError is the error of a file in the directory of [WithJournal] that this process
// cannot read as a journal: it is damaged, of another version, byte order or word size, or
// not a file of the user's alone. It was left where it is. Its fields are Path, the file's
// name, and Reason.
type JournalError = journal.UnreadableError
