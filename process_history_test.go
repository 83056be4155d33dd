//go:build linux

package chanmq_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/testkit"
)

// These tests record what several processes do to one queue, with the times at
// which each call began and ended, and ask whether there is an order of all
// calls in which one queue would have answered each of them so (linearizability).
// A call that reports a full queue, or the end of its ctx, has done nothing and
// is not part of it; what it lost all the same is missed by the calls that empty
// the queue at the end.

func init() { roles["history"] = historyRole }

// call is one of a history.
type call struct {
	Client       int
	Send         bool
	Type         int64 // of what was sent or received; 0 if nothing was
	Number       int   // which message that was; each is sent once
	Selector     pick  // of receives
	Began, Ended int64 // nanoseconds since 1970: a clock that all processes share
}

// pick is a Selector that can be written down.
type pick struct {
	Mode string
	Type int64
}

func (p pick) selector() chanmq.Selector {
	switch p.Mode {
	case "OfType":
		return chanmq.OfType(p.Type)
	case "UpTo":
		return chanmq.UpTo(p.Type)
	case "Except":
		return chanmq.Except(p.Type)
	}
	return chanmq.Any()
}

const historyTypes = 3

// picks are the selectors that a history is made of.
var picks = map[string][]pick{
	"by type": {{"OfType", 1}, {"OfType", 2}, {"OfType", 3}},
	"by any":  {{"Any", 0}, {"UpTo", 2}, {"UpTo", 3}, {"Except", 1}, {"Except", 3}, {"OfType", 2}},
}

// historyRole makes random calls and prints them: msqid, picks, client, calls, seed.
func historyRole(args []string) error {
	id, _ := strconv.Atoi(args[0])
	client, _ := strconv.Atoi(args[2])
	count, _ := strconv.Atoi(args[3])
	seed, _ := strconv.ParseUint(args[4], 10, 64)
	options := [][]chanmq.Option{nil, {chanmq.WithSpin(0)}, {chanmq.WithMaxParked(0)}}
	q, err := chanmq.Attach(id, options[client%len(options)]...)
	if err != nil {
		return err
	}
	c := caller{q: q, picks: picks[args[1]], client: client, random: rand.New(rand.NewPCG(seed, uint64(client)))}
	for range count {
		if err := c.call(); err != nil {
			return err
		}
	}
	return errors.Join(json.NewEncoder(os.Stdout).Encode(c.calls), q.Close())
}

// caller makes the calls of one client.
type caller struct {
	q      *chanmq.Queue[[]byte]
	picks  []pick
	client int
	random *rand.Rand
	sent   int
	calls  []call
}

func (c *caller) call() error {
	if c.random.IntN(4) == 0 {
		time.Sleep(time.Duration(c.random.IntN(200)) * time.Microsecond)
	}
	if c.random.IntN(2) == 0 {
		return c.send()
	}
	return c.receive(c.picks[c.random.IntN(len(c.picks))], c.random.IntN(2) == 0)
}

func (c *caller) send() error {
	did := call{
		Client: c.client,
		Send:   true,
		Type:   1 + c.random.Int64N(historyTypes),
		Number: c.client<<16 + c.sent,
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	sent, err := true, error(nil)
	did.Began = time.Now().UnixNano()
	if c.random.IntN(2) == 0 {
		sent, err = c.q.TrySend(did.Type, number(did.Number))
	} else {
		err = c.q.Send(ctx, did.Type, number(did.Number))
	}
	did.Ended = time.Now().UnixNano()
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil
	case err != nil:
		return err
	case sent:
		c.sent++
		c.calls = append(c.calls, did)
	}
	return nil
}

func (c *caller) receive(p pick, waits bool) error {
	did := call{Client: c.client, Selector: p}
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	var m chanmq.Message[[]byte]
	ok, err := true, error(nil)
	did.Began = time.Now().UnixNano()
	if waits {
		m, err = c.q.Receive(ctx, p.selector())
	} else {
		m, ok, err = c.q.TryReceive(p.selector())
	}
	did.Ended = time.Now().UnixNano()
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if err != nil {
		return err
	}
	if ok {
		did.Type, did.Number = m.Type, numberOf(m.Value)
	}
	c.calls = append(c.calls, did)
	return nil
}

// standing is a message of the model's queue.
type standing struct {
	typ    int64
	number int
}

// queueModel is a message queue as msgop(2) describes it, without its size.
func queueModel() porcupine.Model {
	return porcupine.Model{
		Init: func() any { return []standing(nil) },
		Step: func(state, input, _ any) (bool, any) {
			queue, did := state.([]standing), input.(call)
			if did.Send {
				return true, append(slices.Clip(queue), standing{did.Type, did.Number})
			}
			at := did.Selector.find(queue)
			if did.Type == 0 || at < 0 {
				return did.Type == 0 && at < 0, queue
			}
			if queue[at] != (standing{did.Type, did.Number}) {
				return false, queue
			}
			return true, slices.Delete(slices.Clone(queue), at, at+1)
		},
		Equal: func(a, b any) bool { return slices.Equal(a.([]standing), b.([]standing)) },
		DescribeOperation: func(input, _ any) string {
			return fmt.Sprintf("%+v", input.(call))
		},
	}
}

// find is the rule of msgrcv(2) again, from its man page.
func (p pick) find(queue []standing) int {
	found := -1
	for i, m := range queue {
		switch p.Mode {
		case "Any":
			return i
		case "OfType":
			if m.typ == p.Type {
				return i
			}
		case "Except":
			if m.typ != p.Type {
				return i
			}
		case "UpTo":
			if m.typ <= p.Type && (found < 0 || m.typ < queue[found].typ) {
				found = i
			}
		}
	}
	return found
}

// byType lets each type be checked alone, which is much less work, where all
// receives are of one type.
func byType(model porcupine.Model) porcupine.Model {
	model.Partition = func(history []porcupine.Operation) [][]porcupine.Operation {
		types := make(map[int64][]porcupine.Operation)
		for _, op := range history {
			did := op.Input.(call)
			typ := did.Type
			if !did.Send {
				typ = did.Selector.Type
			}
			types[typ] = append(types[typ], op)
		}
		var parts [][]porcupine.Operation
		for _, part := range types {
			parts = append(parts, part)
		}
		return parts
	}
	return model
}

func operations(calls []call) []porcupine.Operation {
	var ops []porcupine.Operation
	for _, did := range calls {
		ops = append(ops, porcupine.Operation{ClientId: did.Client, Input: did, Call: did.Began, Return: did.Ended})
	}
	return ops
}

// record lets processes make calls, and then empties the queue. It reports
// false if the clock was set meanwhile, so that times cannot be compared.
func record(t *testing.T, kind string, clients, count int) ([]call, bool) {
	t.Helper()
	q := newQueue(t)
	// A short queue has few orders, and is full at times.
	if err := q.Set(chanmq.Attr{MaxBytes: 8 * len(number(0))}); err != nil {
		t.Fatal(err)
	}
	seed := rand.Uint64()
	start := time.Now()
	outputs := make([][]byte, clients)
	var wg sync.WaitGroup
	for client := range clients {
		cmd := testkit.Process(t, "history", fmt.Sprint(q.ID()), kind, fmt.Sprint(client), fmt.Sprint(count), fmt.Sprint(seed))
		wg.Go(func() {
			var err error
			if outputs[client], err = cmd.Output(); err != nil {
				t.Errorf("client %d: %v", client, describe(err))
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	var history []call
	for _, output := range outputs {
		var calls []call
		if err := json.Unmarshal(output, &calls); err != nil {
			t.Fatal(err)
		}
		history = append(history, calls...)
	}
	last := caller{q: q, client: clients}
	for _, p := range picks[kind] {
		for n := len(last.calls); n == 0 || last.calls[n-1].Selector != p || last.calls[n-1].Type != 0; n = len(last.calls) {
			if err := last.receive(p, false); err != nil {
				t.Fatal(err)
			}
		}
	}
	end := time.Now()
	drift := end.Sub(start) - time.Duration(end.UnixNano()-start.UnixNano())
	return append(history, last.calls...), drift.Abs() < time.Millisecond
}

func describe(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Sprintf("%v: %s", err, exit.Stderr)
	}
	return err.Error()
}

func TestHistoryOfSeveralProcesses(t *testing.T) {
	for _, c := range []struct {
		kind           string
		model          porcupine.Model
		clients, calls int
	}{
		{"by type", byType(queueModel()), 6, 400},
		{"by any", queueModel(), 4, 150},
	} {
		t.Run(c.kind, func(t *testing.T) {
			checked := 0
			for range longForm(3) {
				history, comparable := record(t, c.kind, c.clients, c.calls)
				if !comparable {
					t.Log("the machine's clock was set; the next one")
					continue
				}
				switch porcupine.CheckOperationsTimeout(c.model, operations(history), 5*time.Minute) {
				case porcupine.Illegal:
					slices.SortFunc(history, func(a, b call) int { return int(a.Began - b.Began) })
					for _, did := range history {
						t.Logf("%+v", did)
					}
					t.Fatalf("no queue answers %d calls like these", len(history))
				case porcupine.Unknown:
					t.Fatalf("five minutes were not enough for %d calls", len(history))
				}
				checked += len(history)
			}
			if checked == 0 {
				t.Skip("the machine's clock was set during every history")
			}
			t.Logf("%d calls", checked)
		})
	}
}

// TestHistoryChecker: the checker accepts right histories and rejects wrong ones.
func TestHistoryChecker(t *testing.T) {
	send := func(typ int64, n int) call { return call{Send: true, Type: typ, Number: n} }
	got := func(p pick, typ int64, n int) call { return call{Selector: p, Type: typ, Number: n} }
	none := func(p pick) call { return call{Selector: p} }
	one, upTo2, anyType, notOne := pick{"OfType", 1}, pick{"UpTo", 2}, pick{"Any", 0}, pick{"Except", 1}
	for _, c := range []struct {
		name  string
		calls []call // one after the other
		right bool
	}{
		{"in order", []call{send(1, 1), send(1, 2), got(one, 1, 1), got(one, 1, 2), none(one)}, true},
		{"out of order", []call{send(1, 1), send(1, 2), got(one, 1, 2), got(one, 1, 1)}, false},
		{"twice", []call{send(1, 1), got(one, 1, 1), got(one, 1, 1)}, false},
		{"lost", []call{send(1, 1), none(one)}, false},
		{"never sent", []call{got(one, 1, 1)}, false},
		{"too early", []call{got(one, 1, 1), send(1, 1)}, false},
		{"under another type", []call{send(2, 1), got(anyType, 1, 1)}, false},
		{"the lowest type", []call{send(2, 1), send(1, 2), got(upTo2, 1, 2), got(upTo2, 2, 1)}, true},
		{"not the lowest type", []call{send(2, 1), send(1, 2), got(upTo2, 2, 1)}, false},
		{"the oldest", []call{send(2, 1), send(1, 2), got(anyType, 2, 1), got(anyType, 1, 2)}, true},
		{"not the oldest", []call{send(2, 1), send(1, 2), got(anyType, 1, 2)}, false},
		{"of another type", []call{send(1, 1), send(3, 2), got(notOne, 3, 2), none(notOne), got(one, 1, 1)}, true},
		{"excepted", []call{send(1, 1), got(notOne, 1, 1)}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			for i := range c.calls {
				c.calls[i].Began, c.calls[i].Ended = int64(10*i), int64(10*i+5)
			}
			if right := porcupine.CheckOperations(queueModel(), operations(c.calls)); right != c.right {
				t.Errorf("the checker says %v, want %v", right, c.right)
			}
		})
	}
	t.Run("a real one that was changed", func(t *testing.T) {
		history, comparable := record(t, "by type", 3, 100)
		if !comparable {
			t.Skip("the machine's clock was set during the history")
		}
		if !porcupine.CheckOperations(byType(queueModel()), operations(history)) {
			t.Fatal("it is wrong before it is changed")
		}
		for i, did := range history {
			if !did.Send && did.Type != 0 {
				lost := slices.Delete(slices.Clone(history), i, i+1)
				if porcupine.CheckOperations(byType(queueModel()), operations(lost)) {
					t.Errorf("without %+v it is right too", did)
				}
				twice := append(slices.Clone(history), did)
				if porcupine.CheckOperations(byType(queueModel()), operations(twice)) {
					t.Errorf("with %+v twice it is right too", did)
				}
				break
			}
		}
	})
}
