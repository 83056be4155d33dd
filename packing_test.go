package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// The tests of WithPacking run on the simulated kernel, where the messages can be looked at.
// Packs are in other tests as well: as one of the ways of the scenarios that fail at every
// call (sim_scenarios_test.go), and of processes that are killed (fault_journal_test.go).

// packOf returns the text of a pack of the values.
func packOf(values ...[]byte) []byte {
	b := make([]byte, envelope.PackHeader)
	for _, value := range values {
		at := len(b)
		b = append(b, make([]byte, envelope.ValueHeader)...)
		envelope.PutValue(b[at:], len(value))
		b = append(b, value...)
	}
	envelope.PutPack(b, len(values), len(b)-envelope.PackHeader)
	return b
}

// valuesOf returns the values of a pack, or the text, if it is none.
func valuesOf(text []byte) (values [][]byte) {
	n, at, err := envelope.ParsePack(text)
	if err != nil {
		return [][]byte{text}
	}
	for range n {
		var value []byte
		value, at = envelope.NextValue(text, at)
		values = append(values, value)
	}
	return values
}

// plainOf returns the text in an envelope of kind plain.
func plainOf(text string) string {
	return string(envelope.Append(nil, &envelope.Header{Kind: envelope.Plain})) + text
}

// textsOf returns the texts of numbers.
func textsOf(numbers ...int) (all [][]byte) {
	for _, n := range numbers {
		all = append(all, text(n))
	}
	return all
}

// upTo returns the numbers from first to last.
func upTo(first, last int) (numbers []int) {
	for n := first; n <= last; n++ {
		numbers = append(numbers, n)
	}
	return numbers
}

// taken takes all messages out of the queue as another process, and writes them as
// "type: value value | type: value".
func (m *machine) taken(id int) string {
	var messages []string
	buf := sysv.Buffer(1 << 16)
	for {
		n, err := m.peer.Receive(id, buf, 0, 0)
		if err != nil {
			return strings.Join(messages, " | ")
		}
		values := bytes.Join(valuesOf(buf[sysv.HeaderSize:][:n]), []byte(" "))
		messages = append(messages, fmt.Sprintf("%d: %s", sysv.Type(buf), values))
	}
}

// putPack lets the other process send a pack.
func (m *machine) putPack(t *testing.T, id, typ int, numbers ...int) {
	t.Helper()
	if err := m.put(id, typ, packOf(textsOf(numbers...)...)); err != nil {
		t.Fatal(err)
	}
}

// TestASenderPacksWhatWaits: what is in C when it looks leaves in one message, of one type.
// A value by itself leaves as without packing.
func TestASenderPacksWhatWaits(t *testing.T) {
	long := strings.Repeat("x", 3000)
	for name, c := range map[string]struct {
		values []chanmq.Message[string]
		want   string
	}{
		"one":       {[]chanmq.Message[string]{{1, "a"}}, "1: a"},
		"three":     {[]chanmq.Message[string]{{1, "a"}, {1, ""}, {1, "c"}}, "1: a  c"},
		"two types": {[]chanmq.Message[string]{{1, "a"}, {1, "b"}, {2, "c"}, {1, "d"}, {1, "e"}}, "1: a b | 2: c | 1: d e"},
		"too large for one message": {
			[]chanmq.Message[string]{{1, long}, {1, long}, {1, long}, {1, "a"}, {1, "b"}},
			"1: " + long + " " + long + " | 1: " + long + " a b",
		},
		"too large for a pack": {[]chanmq.Message[string]{{1, strings.Repeat(long, 2) + long[:2190]}, {1, "a"}, {1, "b"}}, "1: " + strings.Repeat(long, 2) + long[:2190] + " | 1: a b"},
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithPacking())
				// It does not run before C has all of them.
				s := chanmq.As(q, codec.String()).Sender(t.Context(), chanmq.WithBuffer(10))
				hold := make(chan struct{})
				m.faults(func(int, simq.Call) error { <-hold; return nil })
				s.C() <- chanmq.Message[string]{Type: 9, Value: "first"}
				synctest.Wait()
				for _, v := range c.values {
					s.C() <- v
				}
				close(hold)
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got, want := m.taken(q.ID()), "9: first | "+c.want; got != want {
					t.Errorf("%.300s\nwant %.300s", got, want)
				}
				close(s.C())
				<-s.Done()
				if err := s.Err(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestTextsArriveAsTheyAre: whatever a text begins with, a handle with packing receives what
// another one has sent, alone and in a pack. Requests and the like are sent without a change.
func TestTextsArriveAsTheyAre(t *testing.T) {
	request := string(envelope.Append(nil, &envelope.Header{Kind: envelope.Request, CallID: 1})) + "request"
	for name, c := range map[string]struct{ text, wire string }{
		"text":           {"text", "text"},
		"empty":          {"", ""},
		"a magic":        {"\xFEcmq", plainOf("\xFEcmq")},
		"plain":          {plainOf("x"), plainOf(plainOf("x"))},
		"a pack":         {string(packOf([]byte("a"), []byte("b"))), plainOf(string(packOf([]byte("a"), []byte("b"))))},
		"request":        {request, request},
		"damaged":        {request[:20], plainOf(request[:20])},
		"a later kind":   {"\xFEcmq\x01\x63\x08\x00", plainOf("\xFEcmq\x01\x63\x08\x00")},
		"nearly a magic": {"\xFEcmx", "\xFEcmx"},
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithPacking())
				if err := q.Send(t.Context(), 1, []byte(c.text)); err != nil {
					t.Fatal(err)
				}
				if wire, _ := m.take(q.ID()); string(wire) != c.wire {
					t.Errorf("sent as %q, want %q", wire, c.wire)
				}
				for _, count := range []int{1, 3} {
					values := slices.Repeat([][]byte{[]byte(c.text)}, count)
					if sent, err := q.SendAll(t.Context(), 1, values); sent != count || err != nil {
						t.Fatal(sent, err)
					}
					// Handed back, and sent back by Close, they are the same.
					r := q.Receiver(t.Context(), chanmq.Any())
					synctest.Wait()
					r.Close()
					other := m.private(t, chanmq.WithPacking())
					if err := forwarded(t, other, q); err != nil {
						t.Fatal(err)
					}
					for range count {
						got, ok, err := other.TryReceive(chanmq.OfType(1))
						if !ok || err != nil || string(got.Value) != c.text {
							t.Errorf("received %q, %v, %v, want %q", got.Value, ok, err, c.text)
						}
					}
				}
			})
		})
	}
}

// forwarded forwards what is in from.
func forwarded(t *testing.T, to, from *chanmq.Queue[[]byte]) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := chanmq.Forward(ctx, to, from, chanmq.Any()); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

// TestForwardBetweenHandles: a value stays the same one from handles with packing to those
// without, and back.
func TestForwardBetweenHandles(t *testing.T) {
	for _, value := range []string{"text", "\xFEcmq", plainOf("x"), string(packOf([]byte("a")))} {
		onMachine(t, func(t *testing.T, m *machine) {
			from, between, to := m.private(t, chanmq.WithPacking()), m.private(t), m.private(t, chanmq.WithPacking())
			for range 2 {
				if _, err := from.SendAll(t.Context(), 1, [][]byte{[]byte(value), []byte("and")}); err != nil {
					t.Fatal(err)
				}
			}
			if err := from.Send(t.Context(), 1, []byte(value)); err != nil {
				t.Fatal(err)
			}
			for _, err := range []error{forwarded(t, between, from), forwarded(t, to, between)} {
				if err != nil {
					t.Fatal(err)
				}
			}
			for _, want := range []string{value, "and", value, "and", value} {
				if got, ok, err := to.TryReceive(chanmq.Any()); !ok || err != nil || string(got.Value) != want {
					t.Errorf("received %q, %v, %v, want %q", got.Value, ok, err, want)
				}
			}
		})
	}
}

// TestWithoutPackingAPackIsAText: a handle without the option receives and sends texts byte for
// byte.
func TestWithoutPackingAPackIsAText(t *testing.T) {
	for _, text := range []string{string(packOf([]byte("a"), []byte("b"))), plainOf("x"), "\xFEcmq\x01\x06"} {
		onMachine(t, func(t *testing.T, m *machine) {
			q := m.private(t)
			if sent, err := q.SendAll(t.Context(), 1, [][]byte{[]byte(text), []byte(text)}); sent != 2 || err != nil {
				t.Fatal(sent, err)
			}
			if wire, _ := m.take(q.ID()); string(wire) != text {
				t.Errorf("sent as %q", wire)
			}
			r := q.Receiver(t.Context(), chanmq.Any())
			synctest.Wait()
			r.Close()
			if got, err := q.Receive(t.Context(), chanmq.Any()); err != nil || string(got.Value) != text {
				t.Errorf("received %q, %v", got.Value, err)
			}
		})
	}
}

// TestDamagedEnvelopes: each is a DecodeError with the message as it was, whatever the codec,
// and goes back to the kernel as it was.
func TestDamagedEnvelopes(t *testing.T) {
	pack := string(packOf([]byte("a"), []byte("b")))
	for name, text := range map[string]string{
		"a magic alone": "\xFEcmq", "cut off": pack[:len(pack)-1], "no values": pack[:8] + "\x00\x00" + pack[10:],
		"another version": "\xFEcmq\x02" + pack[5:], "another kind": "\xFEcmq\x01\x07" + pack[6:],
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithPacking())
				put := func() {
					t.Helper()
					if err := m.put(q.ID(), 5, []byte(text)); err != nil {
						t.Fatal(err)
					}
				}
				check := func(how string, err error) {
					t.Helper()
					var undecoded *chanmq.DecodeError
					if !errors.As(err, &undecoded) || undecoded.Message.Type != 5 || string(undecoded.Message.Value) != text {
						t.Errorf("%s: %v", how, err)
					}
				}
				put()
				for _, err := range q.Browse() {
					check("Browse", err)
				}
				_, err := q.Receive(t.Context(), chanmq.Any())
				check("Receive", err)
				put()
				_, err = q.Take(t.Context(), chanmq.Any())
				check("Take", err)
				put()
				c := q.Consumer(t.Context(), chanmq.Any(), chanmq.WithBorrowedValues())
				<-c.Done()
				check("Consumer", c.Err())
				put()
				m.puts(t, q.ID(), 5, 1)
				n, err := q.ReceiveBatch(t.Context(), chanmq.Any(), make([]chanmq.Message[[]byte], 2))
				check("ReceiveBatch", err)
				if n != 0 {
					t.Errorf("ReceiveBatch: %d", n)
				}
				wantMessages(t, q, 1)
				put()
				r := q.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(1))
				<-r.Done()
				check("Receiver", r.Err())
				put()
				held := chanmq.As(q, codec.Func(
					func(dst []byte, _ int) ([]byte, error) { return dst, nil },
					func([]byte, *int) error { t.Error("the codec saw it"); return nil })).Receiver(t.Context(), chanmq.Any())
				<-held.Done()
				check("Receiver of numbers", held.Err())
			})
		})
	}
}

// TestAPackIsHandedBackByValue: what a Receiver has taken and nobody has read of a pack comes
// first, in order, whoever receives; what nobody receives goes back to the kernel, packed.
func TestAPackIsHandedBackByValue(t *testing.T) {
	for _, buffer := range []int{0, 1, 4, 20} {
		t.Run(fmt.Sprintf("buffer %d", buffer), func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithPacking())
				m.putPack(t, q.ID(), 1, upTo(0, 9)...)
				m.puts(t, q.ID(), 1, 10)
				m.putPack(t, q.ID(), 1, upTo(11, 13)...)
				m.putPack(t, q.ID(), 2, 14, 15)
				r := q.Receiver(t.Context(), chanmq.OfType(1), chanmq.WithBuffer(buffer))
				for n := range 3 {
					if got := numberIn((<-r.C()).Value); got != n {
						t.Errorf("read %d, want %d", got, n)
					}
				}
				r.Close()
				got, err := q.Receive(t.Context(), chanmq.OfType(1))
				if err != nil || numberIn(got.Value) != 3 {
					t.Errorf("received %q, %v", got.Value, err)
				}
				next := q.Receiver(t.Context(), chanmq.OfType(1), chanmq.WithBuffer(2))
				for n := 4; n < 6; n++ {
					if got := numberIn((<-next.C()).Value); got != n {
						t.Errorf("read %d, want %d", got, n)
					}
				}
				if err := q.Close(); err != nil {
					t.Fatal(err)
				}
				// What was taken is behind what was not, each in order.
				var before, behind []string
				left := m.taken(q.ID())
				untaken, taken, ok := strings.Cut(left, "2: 14 15")
				if !ok {
					t.Fatalf("type 2 was taken: %s", left)
				}
				clean := strings.NewReplacer("1:", "", "|", "")
				before, behind = strings.Fields(clean.Replace(untaken)), strings.Fields(clean.Replace(taken))
				if got, want := strings.Join(append(behind, before...), " "), "6 7 8 9 10 11 12 13"; got != want {
					t.Errorf("left over: %s, want %s", left, want)
				}
			})
		})
	}
}

// TestCloseSendsBackFewMessages: as few as their types allow.
func TestCloseSendsBackFewMessages(t *testing.T) {
	for name, end := range map[string]func(*chanmq.Queue[[]byte]) error{
		"Close":    (*chanmq.Queue[[]byte]).Close,
		"Shutdown": func(q *chanmq.Queue[[]byte]) error { return q.Shutdown(context.Background()) },
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				q := m.private(t, chanmq.WithPacking())
				m.puts(t, q.ID(), 1, 0, 1)
				m.putPack(t, q.ID(), 1, 2, 3, 4)
				m.puts(t, q.ID(), 2, 5)
				m.putPack(t, q.ID(), 1, 6, 7)
				r := q.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(20))
				synctest.Wait()
				r.Close()
				if got := m.taken(q.ID()); got != "" {
					t.Fatalf("not taken: %s", got)
				}
				if err := end(q); err != nil {
					t.Fatal(err)
				}
				if got, want := m.taken(q.ID()), "1: 0 1 2 3 4 | 2: 5 | 1: 6 7"; got != want {
					t.Errorf("%s, want %s", got, want)
				}
			})
		})
	}
}

// TestWhatDoesNotFitIsUndelivered: Close sends back as much of a pack as there is room for,
// and returns the rest by value.
func TestWhatDoesNotFitIsUndelivered(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		m.putPack(t, q.ID(), 1, upTo(10, 39)...)
		if _, err := q.Receive(t.Context(), chanmq.Any()); err != nil {
			t.Fatal(err)
		}
		if err := m.peer.Set(q.ID(), sysv.Attr{UID: 500, GID: 500, Mode: 0o600, MaxBytes: 100}); err != nil {
			t.Fatal(err)
		}
		var left *chanmq.UndeliveredError
		if err := q.Close(); !errors.As(err, &left) {
			t.Fatal(err)
		}
		got := strings.Fields(strings.NewReplacer("1:", "", "|", "").Replace(m.taken(q.ID())))
		inQueue := len(got)
		for _, m := range left.Messages {
			got = append(got, string(m.Value))
		}
		if want := string(bytes.Join(textsOf(upTo(11, 39)...), []byte(" "))); strings.Join(got, " ") != want || inQueue < 10 {
			t.Errorf("%d in the queue: %q, want %s", inQueue, got, want)
		}
	})
}

// TestSelectorsAndPacks: a pack has one type, so that each selector takes what it would take of
// single messages, but for what is in the handle already.
func TestSelectorsAndPacks(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		m.putPack(t, q.ID(), 3, 0, 1)
		m.putPack(t, q.ID(), 2, 2, 3)
		m.putPack(t, q.ID(), 1, 4, 5)
		for i, step := range []struct {
			s    chanmq.Selector
			want int
		}{
			{chanmq.OfType(2), 2}, {chanmq.UpTo(9), 3}, {chanmq.UpTo(9), 4}, {chanmq.Except(1), 0},
			{chanmq.Any(), 5}, {chanmq.Any(), 1}, // in the order in which the packs were taken
		} {
			got, ok, err := q.TryReceive(step.s)
			if !ok || err != nil || numberIn(got.Value) != step.want {
				t.Errorf("step %d: %q, %v, %v, want %d", i, got.Value, ok, err, step.want)
			}
		}
		wantMessages(t, q)
	})
}

// TestSeveralShareAPack: one that sleeps is woken for what another has taken and has no
// room for.
func TestSeveralShareAPack(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		first, second := receiving(t.Context(), q, chanmq.Any()), receiving(t.Context(), q, chanmq.OfType(1))
		r := q.Receiver(t.Context(), chanmq.UpTo(1))
		synctest.Wait()
		m.putPack(t, q.ID(), 1, 0, 1, 2)
		for _, ended := range []<-chan error{first, second} {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		if _, ok := <-r.C(); !ok {
			t.Error(r.Err())
		}
	})
}

// TestBrowseShowsValues: and takes none.
func TestBrowseShowsValues(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		m.puts(t, q.ID(), 1, 0)
		m.putPack(t, q.ID(), 2, 1, 2, 3)
		if err := m.put(q.ID(), 3, []byte(plainOf("4"))); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			var got []string
			for m, err := range q.Browse() {
				got = append(got, fmt.Sprintf("%d:%s %v", m.Type, m.Value, err))
			}
			if want := "[1:0 <nil> 2:1 <nil> 2:2 <nil> 2:3 <nil> 3:4 <nil>]"; fmt.Sprint(got) != want {
				t.Errorf("%v, want %s", got, want)
			}
		}
		for range q.Browse() {
			break
		}
		wantMessages(t, q, 0, 1, 2, 3, 4)
	})
}

// TestAConsumerSettlesValues: each value of a pack is in flight, acknowledged, given back and
// counted by itself.
func TestAConsumerSettlesValues(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		m.putPack(t, q.ID(), 1, upTo(0, 4)...)
		c := q.Consumer(t.Context(), chanmq.Any(), chanmq.WithInFlight(2))
		first, second := <-c.C(), <-c.C()
		if err := second.Nack(); err != nil {
			t.Fatal(err)
		}
		again := <-c.C()
		if numberIn(first.Value) != 0 || numberIn(again.Value) != 1 || first.Attempt != 1 || again.Attempt != 2 {
			t.Errorf("%q, attempt %d; %q, attempt %d", first.Value, first.Attempt, again.Value, again.Attempt)
		}
		c.Close()
		for _, d := range []chanmq.Delivery[[]byte]{first, again} {
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
		}
		d, err := q.Take(t.Context(), chanmq.Any())
		if err != nil || numberIn(d.Value) != 2 || d.Attempt != 1 {
			t.Errorf("%q, attempt %d, %v", d.Value, d.Attempt, err)
		}
		wantMessages(t, q, 3, 4)
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		if err := d.Nack(); err != nil {
			t.Fatal(err)
		}
		if got, want := m.taken(q.ID()), "1: 2"; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

// TestSendAll: how many were sent, and why not more.
func TestSendAll(t *testing.T) {
	refuse := errors.New("refused")
	picky := codec.Func(func(dst []byte, n int) ([]byte, error) {
		if n < 0 {
			return nil, refuse
		}
		return append(dst, text(n)...), nil
	}, func(src []byte, n *int) error { *n = numberIn(src); return nil })
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, packing := range []bool{false, true} {
		for name, c := range map[string]struct {
			ctx    context.Context
			typ    int64
			values []int
			sent   int
			err    error
		}{
			"none":          {t.Context(), 1, nil, 0, nil},
			"one":           {t.Context(), 1, []int{7}, 1, nil},
			"many":          {t.Context(), 1, upTo(0, 99), 100, nil},
			"refused":       {t.Context(), 1, []int{1, 2, -1, 3}, 2, refuse},
			"refused first": {t.Context(), 1, []int{-1, 3}, 0, refuse},
			"type 0":        {t.Context(), 0, []int{1, 2}, 0, chanmq.ErrInvalidType},
			"canceled":      {canceled, 1, []int{1, 2}, 0, context.Canceled},
		} {
			t.Run(fmt.Sprintf("%s, packing %v", name, packing), func(t *testing.T) {
				onMachine(t, func(t *testing.T, m *machine) {
					var opts []chanmq.Option
					if packing {
						opts = append(opts, chanmq.WithPacking())
					}
					q := m.private(t, opts...)
					sent, err := chanmq.As(q, picky).SendAll(c.ctx, c.typ, c.values)
					var opErr *chanmq.OpError
					if sent != c.sent || !errors.Is(err, c.err) || err != nil && !errors.As(err, &opErr) {
						t.Errorf("%d, %v, want %d, %v", sent, err, c.sent, c.err)
					}
					wantMessages(t, q, c.values[:c.sent]...)
				})
			})
		}
	}
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		_ = q.Close()
		if sent, err := q.SendAll(t.Context(), 1, textsOf(1, 2)); sent != 0 || !errors.Is(err, chanmq.ErrClosed) {
			t.Errorf("after Close: %d, %v", sent, err)
		}
	})
}

// TestReceiveBatch: it takes what is there, in packs and not, and no more than it has room for.
func TestReceiveBatch(t *testing.T) {
	for _, packing := range []bool{false, true} {
		t.Run(fmt.Sprint("packing ", packing), func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				var opts []chanmq.Option
				if packing {
					opts = append(opts, chanmq.WithPacking())
				}
				q := m.private(t, opts...)
				numbers := upTo(0, 9)
				if packing {
					m.putPack(t, q.ID(), 1, numbers[:6]...)
					numbers = numbers[6:]
				}
				m.puts(t, q.ID(), 1, numbers...)
				next := 0
				for _, size := range []int{0, 1, 4, 3, 5} {
					into := make([]chanmq.Message[[]byte], size)
					n, err := q.ReceiveBatch(t.Context(), chanmq.Any(), into)
					if err != nil || n != min(size, 10-next) {
						t.Fatalf("room for %d: %d, %v", size, n, err)
					}
					for _, m := range into[:n] {
						if m.Type != 1 || numberIn(m.Value) != next {
							t.Errorf("received %d:%s, want %d", m.Type, m.Value, next)
						}
						next++
					}
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if n, err := q.ReceiveBatch(ctx, chanmq.Any(), make([]chanmq.Message[[]byte], 2)); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("of an empty queue: %d, %v", n, err)
				}
			})
		})
	}
}

// TestReceiveBatchOfWhatDoesNotDecode: what is before it is returned with the error, what is
// behind it stays. A codec that panics gives all of it back.
func TestReceiveBatchOfWhatDoesNotDecode(t *testing.T) {
	bad := errors.New("bad")
	panics := false
	numbers := codec.Func(
		func(dst []byte, n int) ([]byte, error) { return append(dst, text(n)...), nil },
		func(src []byte, n *int) error {
			if *n = numberIn(src); *n != 2 {
				return nil
			}
			if panics {
				panic(bad)
			}
			return bad
		})
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		m.putPack(t, q.ID(), 1, upTo(0, 4)...)
		into := make([]chanmq.Message[int], 9)
		panics = true
		func() {
			defer func() {
				if recover() == nil {
					t.Error("no panic")
				}
			}()
			_, _ = chanmq.As(q, numbers).ReceiveBatch(t.Context(), chanmq.Any(), into)
		}()
		panics = false
		n, err := chanmq.As(q, numbers).ReceiveBatch(t.Context(), chanmq.Any(), into)
		var undecoded *chanmq.DecodeError
		if n != 2 || into[0].Value != 0 || into[1].Value != 1 || !errors.As(err, &undecoded) || string(undecoded.Message.Value) != "2" {
			t.Errorf("%d of %v, %v", n, into[:n], err)
		}
		wantMessages(t, q, 3, 4)
	})
}

// TestUnsentIsByValue: what a Sender has accepted and the kernel not taken, packed or not.
func TestUnsentIsByValue(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		if err := m.peer.Set(q.ID(), sysv.Attr{UID: 500, GID: 500, Mode: 0o600, MaxBytes: 60}); err != nil {
			t.Fatal(err)
		}
		s := q.Sender(t.Context(), chanmq.WithBuffer(40))
		for n := range 40 {
			s.C() <- chanmq.Message[[]byte]{Type: 1 + int64(n/30), Value: text(100 + n)}
		}
		time.Sleep(time.Minute)
		err := s.Close()
		got := strings.Fields(strings.NewReplacer("1:", "", "|", "").Replace(m.taken(q.ID())))
		sent := len(got)
		for _, m := range s.Unsent() {
			got = append(got, string(m.Value))
		}
		if !errors.Is(err, chanmq.ErrClosed) || !strings.Contains(err.Error(), fmt.Sprint(40-sent)) {
			t.Errorf("Close: %v, and %d were sent", err, sent)
		}
		if want := string(bytes.Join(textsOf(upTo(100, 139)...), []byte(" "))); strings.Join(got, " ") != want || sent < 5 {
			t.Errorf("%d sent: %q, want %s", sent, got, want)
		}
	})
}

// TestAPackDoesNotStarve: others fill what room there is with small messages, and the kernel
// lets them pass. The pack is made smaller until it is sent, as one value if it must.
func TestAPackDoesNotStarve(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		if err := m.peer.Set(q.ID(), sysv.Attr{UID: 500, GID: 500, Mode: 0o600, MaxBytes: 400}); err != nil {
			t.Fatal(err)
		}
		for m.put(q.ID(), 9, []byte("hundreds")) == nil {
		}
		values := textsOf(upTo(100, 159)...)
		ended := make(chan error, 1)
		go func() {
			_, err := q.SendAll(t.Context(), 1, values)
			ended <- err
		}()
		// One message of 8 bytes leaves, and one comes as soon as there is room: what is free in
		// between is less than any pack.
		var got []string
		for len(got) < len(values) {
			time.Sleep(time.Millisecond)
			buf := sysv.Buffer(400)
			n, err := m.peer.Receive(q.ID(), buf, 0, 0)
			if err != nil {
				t.Fatal(err)
			}
			if sysv.Type(buf) == 1 {
				for _, value := range valuesOf(buf[sysv.HeaderSize:][:n]) {
					got = append(got, string(value))
				}
			}
			synctest.Wait()
			for m.put(q.ID(), 9, []byte("hundreds")) == nil {
			}
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if want := string(bytes.Join(values, []byte(" "))); strings.Join(got, " ") != want {
			t.Errorf("%q, want %s", got, want)
		}
	})
}

// TestTinyLimits: where the kernel takes next to nothing, packs are small, or values travel
// one by one. Limits may be lowered while a Sender runs.
func TestTinyLimits(t *testing.T) {
	for _, limits := range []sysv.Limits{
		{MaxMessage: 4, MaxBytes: 4}, {MaxMessage: 4, MaxBytes: 1000}, {MaxMessage: 30, MaxBytes: 30},
		{MaxMessage: 30, MaxBytes: 60}, {MaxMessage: 1000, MaxBytes: 31}, {MaxMessage: 8192, MaxBytes: 8192},
	} {
		t.Run(fmt.Sprint(limits.MaxMessage, " ", limits.MaxBytes), func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				limits.MaxQueues = 10
				m.SetLimits(limits)
				q := m.private(t, chanmq.WithPacking())
				s := q.Sender(t.Context(), chanmq.WithBuffer(50))
				r := q.Receiver(t.Context(), chanmq.Any(), chanmq.WithBuffer(3))
				go func() {
					for n := range 300 {
						if n == 150 {
							m.SetLimits(sysv.Limits{MaxMessage: min(20, limits.MaxMessage), MaxBytes: limits.MaxBytes, MaxQueues: 10})
						}
						s.C() <- chanmq.Message[[]byte]{Type: 1, Value: text(n)}
					}
					close(s.C())
				}()
				for n := range 300 {
					if got := numberIn((<-r.C()).Value); got != n {
						t.Fatalf("received %d, want %d", got, n)
					}
				}
				<-s.Done()
				if err := s.Err(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestCallsForAPack counts system calls: a pack costs as many as a message.
func TestCallsForAPack(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		q := m.private(t, chanmq.WithPacking())
		values := textsOf(upTo(100, 199)...)
		for round := range 2 {
			sends := m.during(func() {
				if _, err := q.SendAll(t.Context(), 1, values); err != nil {
					t.Fatal(err)
				}
			})
			receives := m.during(func() {
				for range values {
					if _, err := q.Receive(t.Context(), chanmq.Any()); err != nil {
						t.Fatal(err)
					}
				}
			})
			// The first time buffers grow, and limits are looked at.
			if most := 7 - 4*round; sends > most || receives > most {
				t.Errorf("%d calls to send %d values, %d to receive them", sends, len(values), receives)
			}
		}
		lone := m.during(func() {
			if err := q.Send(t.Context(), 1, text(1)); err != nil {
				t.Fatal(err)
			}
			if _, err := q.Receive(t.Context(), chanmq.Any()); err != nil {
				t.Fatal(err)
			}
		})
		if lone > 3 {
			t.Errorf("%d calls for one value", lone)
		}
	})
}
