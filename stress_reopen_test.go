//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// TestCloseLeavesNoQueueThatACallCreates: a handle that removes its queue at Close
// leaves none behind, also where calls of WithReopen create it again meanwhile.
func TestCloseLeavesNoQueueThatACallCreates(t *testing.T) {
	for name, call := range map[string]func(q *chanmq.Queue[[]byte]) error{
		"TryReceive": func(q *chanmq.Queue[[]byte]) error { _, _, err := q.TryReceive(chanmq.Any()); return err },
		"Receive": func(q *chanmq.Queue[[]byte]) error {
			_, err := q.Receive(context.Background(), chanmq.Any())
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range rounds(10) {
				key := randomKey()
				q, err := chanmq.Create(key, 0o600, chanmq.WithReopen(), chanmq.WithRemoveOnClose())
				if err != nil {
					t.Fatal(err)
				}
				var calls sync.WaitGroup
				for range 2 {
					calls.Go(func() {
						for {
							if err := call(q); err != nil {
								if !errors.Is(err, chanmq.ErrClosed) && !errors.Is(err, chanmq.ErrRemoved) {
									t.Errorf("%v", err)
								}
								if errors.Is(err, chanmq.ErrClosed) {
									return
								}
							}
						}
					})
				}
				time.Sleep(rand.N(50 * time.Microsecond))
				_ = sysv.Host().Remove(q.ID())
				time.Sleep(rand.N(50 * time.Microsecond))
				if err := q.Close(); err != nil {
					t.Error(err)
				}
				calls.Wait()
				if left, err := chanmq.Open(key); !errors.Is(err, fs.ErrNotExist) {
					if err == nil {
						_ = left.Remove()
						_ = left.Close()
					}
					t.Fatalf("the queue is there: %v", err)
				}
			}
		})
	}
}
