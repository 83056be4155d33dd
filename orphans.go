package chanmq

import (
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/sysv"
)

// An Orphan is the journal of a dead process whose queue this process could not receive
// from: see [Orphans].
type Orphan struct {
	Path string // of the file
	Key  Key    // of the queue; 0 for a private queue
	ID   int    // its msqid
	// Elsewhere is set if the queue was in another IPC namespace of this boot. It may
	// exist there, with processes that adopt the journal themselves.
	Elsewhere bool
	// Deliveries are the messages, in the order in which they were taken. Ack removes
	// one from the file, and the last one the file. Nack leaves it there.
	Deliveries []Delivery[[]byte]

	adopted *journal.Adopted
}

// Close lets go of the file. What was not acknowledged stays in it, for the next call of
// [Orphans]. An error says that the file could not be written, so that messages which were
// acknowledged may come again. Close may be called again.
func (o *Orphan) Close() error { return o.adopted.Close() }

// Orphans takes over the journals in a directory, as of [WithJournal], whose processes are
// dead and whose messages no handle will adopt: their queue was removed, or existed before
// the system was started again, or is in another IPC namespace. Programs call it to save
// such messages, to send them to another queue, or to delete them.
//
//	orphans, err := chanmq.Orphans("")
//	for _, o := range orphans {
//		for _, d := range o.Deliveries {
//			save(o.Key, d.Message)
//			d.Ack()
//		}
//		o.Close()
//	}
//
// The journals are locked until they are closed, or all their deliveries are acknowledged.
// A journal that cannot be read is left where it is, and named in the error, which does
// not keep the others from being returned.
func Orphans(dir string) ([]*Orphan, error) {
	found, err := journal.Orphans(dir, sysv.Host())
	orphans := make([]*Orphan, len(found))
	for i, a := range found {
		o := &Orphan{Path: a.Path(), Key: Key(a.Queue.Key), ID: a.Queue.ID, Elsewhere: a.Elsewhere, adopted: a}
		for _, s := range a.Slots {
			m := adoptedRaw(s)
			d := &delivery{raw: &m}
			o.Deliveries = append(o.Deliveries, newDelivery(d, d.raw.message(), d.raw.delivered()))
		}
		orphans[i] = o
	}
	if err != nil {
		err = &OpError{Op: "orphans", ID: -1, Err: err}
	}
	return orphans, err
}
