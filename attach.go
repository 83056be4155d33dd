package chanmq

import "github.com/chanmq/chanmq/internal/journal"

// attach makes the queue with the msqid that of the handle, and opens a journal for it.
// What is in the journal of the queue before stays there until it is acknowledged.
func (q *queue) attach(id int) error {
	at := &attachment{id: id}
	if q.options.journal != nil {
		queue, err := q.identify(id)
		if err != nil {
			return err
		}
		if at.journal, err = journal.Open(*q.options.journal, queue); err != nil {
			return cause([]error{err}, "WithJournal: %v", err)
		}
	}
	if err := q.openLarge(at); err != nil {
		if at.journal != nil {
			_ = at.journal.Close() // it is empty
		}
		return err
	}
	before := q.at.Swap(at)
	if before.journal != nil {
		if err := before.journal.Close(); err != nil {
			q.options.onJournalError(err)
		}
		q.adoptAnew()
	}
	q.closeLarge(before)
	return nil
}
