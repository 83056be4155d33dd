//go:build linux

package chanmq_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
)

// TestJournalOfASimulatedQueue: it works in a bubble, where waiting takes no time, and what a
// handle leaves there goes to one of the same machine only, although the other machine's
// queue has the same msqid.
func TestJournalOfASimulatedQueue(t *testing.T) {
	dir := journalDir(t)
	synctest.Test(t, func(t *testing.T) {
		here, elsewhere := chanmqtest.Simulated(t), chanmqtest.Simulated(t)
		first := must(chanmq.Private(0o600, here.Option(), chanmq.WithJournal(dir)))
		stranger := must(chanmq.Private(0o600, elsewhere.Option(), chanmq.WithJournal(dir)))
		defer stranger.Close()
		if first.ID() != stranger.ID() {
			t.Fatalf("msqid %d and %d: the test needs two that are equal", first.ID(), stranger.ID())
		}
		go func() {
			time.Sleep(time.Minute)
			sendNumbers(t, first, 1, 0, 1)
		}()
		d := <-first.Consumer(t.Context(), chanmq.Any()).C()
		sender := must(chanmq.Attach(first.ID(), here.Option()))
		defer sender.Close()
		fill(t, sender)
		d.Nack() // to a handle that closes, whose queue is full
		if err := first.Close(); err != nil {
			t.Error(err)
		}
		if n := len(journals(t, dir)); n != 2 {
			t.Errorf("%d journals, want that of the stranger, and one with a message", n)
		}
		wantNone(t, stranger)
		second := must(chanmq.Attach(first.ID(), here.Option(), chanmq.WithJournal(dir)))
		defer second.Close()
		wantNumbers(t, second, chanmq.OfType(1), 0, 1)
		takeAll(t, second, func(chanmq.Message[[]byte]) {})
	})
}
