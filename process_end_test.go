//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

// processEnds are ways for a process to end, and whether they keep what its handle
// holds: only Close and Shutdown do.
var processEnds = map[string]struct {
	keeps bool
	end   func(q *chanmq.Queue[[]byte]) error
}{
	"a return from main": {false, func(*chanmq.Queue[[]byte]) error { return nil }},
	"os.Exit":            {false, func(*chanmq.Queue[[]byte]) error { os.Exit(0); return nil }},
	"log.Fatal":          {false, func(*chanmq.Queue[[]byte]) error { log.Fatal("the end"); return nil }},
	"panic":              {false, func(*chanmq.Queue[[]byte]) error { panic("the end") }},
	"SIGKILL":            {false, func(*chanmq.Queue[[]byte]) error { return syscall.Kill(os.Getpid(), syscall.SIGKILL) }},
	"Close":              {true, func(q *chanmq.Queue[[]byte]) error { return q.Close() }},
	"Shutdown": {true, func(q *chanmq.Queue[[]byte]) error {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return q.Shutdown(ctx)
	}},
}

func init() {
	// The process cancels a Receiver that holds a message, and ends: msqid, how.
	roles["end"] = func(args []string) error {
		q, err := attachArg(args[0])
		if err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r := q.Receiver(ctx, chanmq.Any())
		for {
			stat, err := q.Stat()
			if err != nil {
				return err
			}
			if stat.Messages == messagesOfEnd-1 {
				break
			}
			time.Sleep(100 * time.Microsecond)
		}
		cancel()
		<-r.Done()
		if !errors.Is(r.Err(), context.Canceled) {
			return fmt.Errorf("the Receiver has ended with: %w", r.Err())
		}
		return processEnds[args[1]].end(q)
	}
}

const messagesOfEnd = 3

// TestEndOfAProcess: what a Receiver held when it was cancelled is lost with the
// process, unless this ends with Close or Shutdown.
func TestEndOfAProcess(t *testing.T) {
	for name, end := range processEnds {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			sendNumbers(t, q, 1, 0, messagesOfEnd)
			process := testkit.Process(t, "end", fmt.Sprint(q.ID()), name)
			process.Stderr = nil // of the panic
			if err := process.Run(); end.keeps && err != nil {
				t.Error(err)
			}
			var came []int
			takeAll(t, q, func(m chanmq.Message[[]byte]) { came = append(came, numberOf(m.Value)) })
			want := []int{1, 2}
			if end.keeps {
				want = []int{1, 2, 0} // number 0 at the tail
			}
			if fmt.Sprint(came) != fmt.Sprint(want) {
				t.Errorf("numbers %v are in the queue, want %v", came, want)
			}
		})
	}
}
