//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

func init() { roles["fault-reopen"] = faultReopen }

// lastNumber ends what a sender of faultReopen sends.
const lastNumber = 1<<31 - 1

// sizeOfReopen is so large that a queue holds few messages.
const sizeOfReopen = 1000

// faultReopen sends 0, 1, ... until its input ends, and then lastNumber, to a
// queue that may be away: key, type.
func faultReopen(args []string) error {
	key, _ := strconv.Atoi(args[0])
	typ, _ := strconv.ParseInt(args[1], 10, 64)
	q, err := chanmq.Create(chanmq.Key(key), 0o600, chanmq.WithReopen())
	if err != nil {
		return err
	}
	var ended atomic.Bool
	go func() {
		_, _ = io.ReadAll(os.Stdin)
		ended.Store(true)
	}()
	text := make([]byte, sizeOfReopen)
	for n := 0; !ended.Load(); n++ {
		copy(text, number(n))
		if err := q.Send(context.Background(), typ, text); err != nil {
			return err
		}
	}
	copy(text, number(lastNumber))
	return errors.Join(q.Send(context.Background(), typ, text), q.Close())
}

// TestFaultQueueRemoved removes the queue of several processes again and again,
// and whichever is first re-creates it. What was in it is lost, and nothing else.
func TestFaultQueueRemoved(t *testing.T) {
	if !inNamespaceWithFlags(t) { // where the queues go whatever becomes of the test
		return
	}
	const key, senders = 42, 3
	q, err := chanmq.Create(key, 0o600, chanmq.WithReopen())
	if err != nil {
		t.Fatal(err)
	}
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	holds := stat.MaxBytes / sizeOfReopen
	var inputs []io.Closer
	var processes []*exec.Cmd
	for typ := range senders {
		cmd := testkit.Process(t, "fault-reopen", fmt.Sprint(key), fmt.Sprint(typ+1))
		input, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		inputs, processes = append(inputs, input), append(processes, cmd)
	}
	removals := longForm(20)
	go func() {
		for range removals {
			aWhile()
			other, err := chanmq.Open(key)
			if err != nil {
				continue // it is away already
			}
			_ = other.Remove() // somebody may have been faster: nobody is
			_ = other.Close()
		}
		for _, input := range inputs {
			input.Close()
		}
	}()
	// By turns parked, polled, and behind a Receiver that is closed meanwhile.
	next := make(map[int64]int)
	lost, sum, ended := 0, 0, 0
	came := func(m chanmq.Message[[]byte]) {
		n := numberOf(m.Value[:4])
		if n == lastNumber {
			ended++
			return
		}
		if n < next[m.Type] {
			t.Errorf("type %d: received %d, want %d or more", m.Type, n, next[m.Type])
		}
		lost += n - next[m.Type]
		next[m.Type] = n + 1
		sum++
	}
	for ended < senders && !t.Failed() {
		r := q.Receiver(ctxLong(t), chanmq.Any(), chanmq.WithBuffer(2))
		for range 50 {
			m, ok := <-r.C()
			if !ok {
				t.Fatalf("the Receiver has ended: %v", r.Err())
			}
			if came(m); ended == senders {
				break
			}
		}
		_ = r.Close()
		for range 50 {
			if ended == senders {
				break
			}
			m, err := q.Receive(ctxLong(t), chanmq.Any())
			if err != nil {
				t.Fatal(err)
			}
			came(m)
		}
	}
	for _, cmd := range processes {
		testkit.Wait(t, cmd)
	}
	if most := removals * holds; lost > most {
		t.Errorf("%d messages lost, %d removals take %d at most", lost, removals, most)
	}
	if err := errors.Join(q.Remove(), q.Close()); err != nil {
		t.Error(err)
	}
	t.Logf("%d removals, %d messages received, %d removed with their queue", removals, sum, lost)
}

// TestFaultNoQueueToReopen: no queue can be created (ENOSPC) while a handle looks
// up one that was removed.
func TestFaultNoQueueToReopen(t *testing.T) {
	if !inNamespaceWithFlags(t) {
		return
	}
	q, err := chanmq.Create(42, 0o600, chanmq.WithReopen())
	if err != nil {
		t.Fatal(err)
	}
	defer q.Close()
	for range longForm(5) {
		testkit.SetLimit(t, "msgmni", "1")
		other, err := chanmq.Attach(q.ID())
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(other.Remove(), other.Close()); err != nil {
			t.Fatal(err)
		}
		inTheWay, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
		if err != nil {
			t.Fatal(err)
		}
		for timeout := 20 * time.Millisecond; ; timeout *= 2 {
			ctx, cancel := context.WithTimeout(ctxLong(t), timeout)
			_, err = q.Receive(ctx, chanmq.Any())
			cancel()
			if strings.Contains(err.Error(), "msgmni is 1") || timeout > 10*time.Second {
				break // on a busy machine ctx may have ended before it tried
			}
		}
		wantError(t, "Receive", err, context.DeadlineExceeded, "msgmni is 1")
		received := make(chan error, 1)
		go func() {
			_, err := q.Receive(ctxLong(t), chanmq.Any())
			received <- err
		}()
		if err := inTheWay.Close(); err != nil {
			t.Fatal(err)
		}
		if err := q.Send(ctxLong(t), 1, nil); err != nil {
			t.Fatal(err)
		}
		if err := <-received; err != nil {
			t.Fatal(err)
		}
	}
	if err := q.Remove(); err != nil {
		t.Error(err)
	}
}
