//go:build linux

package watermill_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

// killedInFlight is how many messages the processes that are killed have in flight.
const killedInFlight = 4

func init() {
	consumer := chanmqwatermill.WithConsumer(chanmq.WithInFlight(killedInFlight))
	// Each role has a journal directory and two queues.
	open := func(args []string) (from, to *chanmq.Queue[[]byte], err error) {
		fromID, err1 := strconv.Atoi(args[1])
		toID, err2 := strconv.Atoi(args[2])
		if err := errors.Join(err1, err2); err != nil {
			return nil, nil, err
		}
		from, err1 = chanmq.Attach(fromID, chanmq.WithJournal(args[0]))
		to, err2 = chanmq.Attach(toID)
		return from, to, errors.Join(err1, err2)
	}
	roles["subscribe"] = func(args []string) error {
		from, _, err := open(args)
		if err != nil {
			return err
		}
		msgs, err := chanmqwatermill.NewSubscriber(topicOf(from), consumer).Subscribe(context.Background(), "")
		if err != nil {
			return err
		}
		for msg := range msgs {
			if id, _ := strconv.Atoi(msg.UUID); len(msg.Payload) != len(payload(id)) {
				fmt.Println("torn", msg.UUID)
			}
			fmt.Println("got", msg.UUID)
			msg.Ack()
			go func() {
				<-msg.Context().Done()
				fmt.Println("done", msg.UUID)
			}()
		}
		return errors.New("the subscription has ended")
	}
	roles["to publisher"] = func(args []string) error {
		from, to, err := open(args)
		if err != nil {
			return err
		}
		return chanmqwatermill.ToPublisher(context.Background(), from, chanmq.Any(), chanmqwatermill.NewPublisher(topicOf(to)), "", consumer)
	}
	roles["from subscriber"] = func(args []string) error {
		from, to, err := open(args)
		if err != nil {
			return err
		}
		return chanmqwatermill.FromSubscriber(context.Background(), chanmqwatermill.NewSubscriber(topicOf(from), consumer), "", to, 1)
	}
}

// killed runs a role again and again, killed by SIGKILL, while messages are published, until
// through says that all of them are. It returns what the processes have printed, and how many
// there were.
func killed(t *testing.T, role string, n int, through func(output string, to *chanmq.Queue[[]byte]) bool) (output string, processes int) {
	dir := journalDir(t)
	from, to := reaped(t), reaped(t)
	args := []string{dir, strconv.Itoa(from.ID()), strconv.Itoa(to.ID())}
	var publishing sync.WaitGroup
	publishing.Go(func() {
		if err := chanmqwatermill.NewPublisher(topicOf(from)).Publish("", numbered(0, n)...); err != nil {
			t.Error(err)
		}
	})
	defer publishing.Wait()
	deadline := time.Now().Add(3 * time.Minute)
	for !through(output, to) {
		if time.Now().After(deadline) {
			_ = from.Remove() // so that publishing ends
			t.Fatalf("after %d processes not all messages have come", processes)
		}
		var out testkit.Output
		p := testkit.Process(t, role, args...)
		p.Stdout = &out
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		if processes%4 > 0 { // otherwise it is killed while it starts
			for range 5000 {
				stat, err := from.Stat()
				if err != nil || stat.LastReceivePID == p.Process.Pid || stat.Messages == 0 {
					break
				}
				time.Sleep(time.Millisecond)
			}
		}
		// Longer and longer, so that they get on on a slow machine as well.
		time.Sleep(rand.N(time.Duration(10+processes) * time.Millisecond))
		_ = p.Process.Kill() // it runs until then
		if err := p.Wait(); p.ProcessState.ExitCode() != -1 {
			t.Fatalf("it was not killed: %v", err)
		}
		output += out.String()
		processes++
	}
	return output, processes
}

// TestKilledSubscriber: every message is handled, and none whose acknowledgement was done is
// handled again.
func TestKilledSubscriber(t *testing.T) {
	const n = 1000
	output, processes := killed(t, "subscribe", n, func(output string, _ *chanmq.Queue[[]byte]) bool {
		return strings.Count(output, "got ") >= n && different(output) == n
	})
	got, done := make(map[string]int), make(map[string]bool)
	repeated := 0
	for line := range strings.Lines(output) {
		what, id, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch what {
		case "got":
			if done[id] {
				t.Errorf("message %s came again", id)
			}
			if got[id]++; got[id] > 1 {
				repeated++
			}
		case "done":
			done[id] = true
		default:
			t.Errorf("line %q", line)
		}
	}
	if repeated > killedInFlight*processes {
		t.Errorf("%d messages came again, after %d processes were killed", repeated, processes)
	}
	t.Logf("%d messages, %d processes killed, %d came again", n, processes, repeated)
}

// different counts the messages that were handled.
func different(output string) int {
	ids := make(map[string]bool)
	for line := range strings.Lines(output) {
		if id, ok := strings.CutPrefix(line, "got "); ok {
			ids[id] = true
		}
	}
	return len(ids)
}

func TestKilledToPublisher(t *testing.T)    { testKilledMove(t, "to publisher") }
func TestKilledFromSubscriber(t *testing.T) { testKilledMove(t, "from subscriber") }

// testKilledMove: every message gets to the other queue, and none more often than the process
// had it when it was killed.
func testKilledMove(t *testing.T, role string) {
	const n = 1000
	var came tally
	total := 0
	var collecting sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	var to *chanmq.Queue[[]byte]
	collect := func() {
		for m, err := range to.Messages(ctx, chanmq.Any()) {
			if err != nil {
				if ctx.Err() == nil {
					t.Error(err)
				}
				return
			}
			msg, err := chanmqwatermill.Frame{}.Unmarshal("", m.Value)
			if err != nil {
				t.Error(err)
				return
			}
			wantPayload(t, msg)
			came.add(msg.UUID)
			total++
		}
	}
	_, processes := killed(t, role, n, func(_ string, q *chanmq.Queue[[]byte]) bool {
		if to == nil {
			to = q
			collecting.Go(collect)
		}
		return came.different() == n
	})
	testkit.Eventually(t, "what came again is read", func() bool {
		stat, err := to.Stat()
		return err != nil || stat.Messages == 0
	})
	cancel()
	collecting.Wait()
	came.want(t, n, 1+processes)
	if total-n > killedInFlight*processes {
		t.Errorf("%d messages came again, after %d processes were killed", total-n, processes)
	}
	t.Logf("%d messages, %d processes killed, %d came again", n, processes, total-n)
}
