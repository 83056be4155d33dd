//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
)

// events are what an observer was told.
type events struct {
	mu   sync.Mutex
	list []string // guarded by mu
}

// observe writes an event down in short.
func (es *events) observe(_ context.Context, e chanmq.Event) {
	text := fmt.Sprintf("%s %d", e.Op, e.Type)
	if e.Size > 0 {
		text += fmt.Sprintf(" of %d", e.Size)
	}
	if e.Op == chanmq.OpSend || e.Op == chanmq.OpReceive {
		text += " " + e.Wait.String()
	}
	if e.Messages > 1 {
		text += fmt.Sprintf(" messages %d", e.Messages)
	}
	if e.Attempt > 0 {
		text += fmt.Sprintf(" attempt %d", e.Attempt)
	}
	var undecoded *chanmq.DecodeError
	switch {
	case e.Err == nil:
	case errors.Is(e.Err, context.Canceled):
		text += ": canceled"
	case errors.Is(e.Err, chanmq.ErrClosed):
		text += ": closed"
	case errors.Is(e.Err, chanmq.ErrRemoved):
		text += ": removed"
	case errors.As(e.Err, &undecoded):
		text += ": undecoded"
	default:
		text += ": failed"
	}
	es.mu.Lock()
	defer es.mu.Unlock()
	es.list = append(es.list, text)
}

// packSize is the size of a pack of n texts of a byte.
func packSize(n int) uint64 {
	return uint64(envelope.PackHeader + n*(envelope.ValueHeader+1))
}

// picky is a codec of texts that decodes no "bad" ones, and panics at "worse" ones.
func picky() chanmq.Codec[string] {
	return codec.Func(
		func(dst []byte, v string) ([]byte, error) {
			if v == "bad" {
				return nil, errors.New("bad")
			}
			return append(dst, v...), nil
		},
		func(src []byte, v *string) error {
			*v = string(src)
			switch *v {
			case "bad":
				return errors.New("bad")
			case "worse":
				panic("worse")
			}
			return nil
		})
}

// hooked is the handle of a case of TestCountersAndEvents.
type hooked struct {
	*testing.T
	*machine
	q   *chanmq.Queue[[]byte]
	dir string          // of the journal, if there is one
	ctx context.Context // ends with end
	end context.CancelFunc
}

func (h *hooked) no(err error) {
	h.Helper()
	if err != nil {
		h.Error(err)
	}
}

func (h *hooked) send(typ int64, text string) {
	h.Helper()
	h.no(h.q.Send(h.ctx, typ, []byte(text)))
}

// foreign lets the other process send.
func (h *hooked) foreign(typ int, text string) {
	h.Helper()
	h.no(h.put(h.q.ID(), typ, []byte(text)))
}

func (h *hooked) receive() {
	h.Helper()
	_, err := h.q.Receive(h.ctx, chanmq.Any())
	h.no(err)
}

func (h *hooked) take() chanmq.Delivery[[]byte] {
	h.Helper()
	d, err := h.q.Take(h.ctx, chanmq.Any())
	h.no(err)
	return d
}

// full empties the queue, and leaves no room for a message.
func (h *hooked) full() {
	h.Helper()
	for taken := true; taken; {
		_, taken = h.machine.take(h.q.ID())
	}
	h.no(h.q.Set(chanmq.Attr{MaxBytes: 10}))
	h.foreign(9, "0123456789")
}

// TestCountersAndEvents: what a handle does is counted, and reported, whatever view does it.
func TestCountersAndEvents(t *testing.T) {
	type counters = chanmq.Counters
	type waits = chanmq.Waits
	for _, test := range []struct {
		name    string
		opts    []chanmq.Option
		journal bool
		do      func(*hooked)
		want    counters
		events  []string
	}{
		{name: "nothing", do: func(*hooked) {}},
		{
			name: "direct calls",
			do: func(h *hooked) {
				h.send(1, "one")
				sent, err := h.q.TrySend(2, []byte("two2"))
				if !sent || err != nil {
					h.Error(sent, err)
				}
				h.receive()
				var m chanmq.Message[[]byte]
				h.no(h.q.ReceiveInto(h.ctx, chanmq.Any(), &m))
				h.foreign(3, "")
				_, _, err = h.q.TryReceive(chanmq.Any())
				h.no(err)
			},
			want: counters{
				Sent: 2, SentBytes: 7, Taken: 3, TakenBytes: 7,
				SendWaits: waits{AtOnce: 1}, ReceiveWaits: waits{AtOnce: 2},
			},
			events: []string{
				"send 1 of 3 at once", "send 2 of 4 at once",
				"receive 1 of 3 at once", "receive 2 of 4 at once", "receive 3 at once",
			},
		},
		{
			name: "tries without a result",
			do: func(h *hooked) {
				_, _, err := h.q.TryReceive(chanmq.Any())
				h.no(err)
				h.full()
				_, err = h.q.TrySend(1, []byte("x"))
				h.no(err)
			},
		},
		{
			name: "views",
			do: func(h *hooked) {
				h.no(chanmq.As(h.q, codec.String()).Send(h.ctx, 1, "abc"))
				_, err := chanmq.As(h.q, codec.String()).Receive(h.ctx, chanmq.Any())
				h.no(err)
				if c := chanmq.As(h.q, codec.String()).Counters(); c != h.q.Counters() || c.Sent != 1 {
					h.Errorf("a view's counters: %+v", c)
				}
			},
			want: counters{
				Sent: 1, SentBytes: 3, Taken: 1, TakenBytes: 3,
				SendWaits: waits{AtOnce: 1}, ReceiveWaits: waits{AtOnce: 1},
			},
			events: []string{"send 1 of 3 at once", "receive 1 of 3 at once"},
		},
		{
			name: "a receive that spins",
			opts: []chanmq.Option{chanmq.WithSpin(time.Second)},
			do: func(h *hooked) {
				h.then(func(_ int, c simq.Call) error {
					if c.Op == simq.Receive {
						h.then(nil)
						return sysv.ENOMSG
					}
					return nil
				})
				h.foreign(1, "x")
				h.receive()
			},
			want:   counters{Taken: 1, TakenBytes: 1, ReceiveWaits: waits{Spun: 1}},
			events: []string{"receive 1 of 1 spun"},
		},
		{
			name: "a receive that parks",
			do: func(h *hooked) {
				ended := receiving(h.ctx, h.q, chanmq.Any())
				h.foreign(1, "x")
				h.no(<-ended)
			},
			want:   counters{Taken: 1, TakenBytes: 1, ReceiveWaits: waits{Parked: 1}},
			events: []string{"receive 1 of 1 parked"},
		},
		{
			name: "a receive that the poller serves",
			opts: []chanmq.Option{chanmq.WithMaxParked(0)},
			do: func(h *hooked) {
				ended := receiving(h.ctx, h.q, chanmq.Any())
				h.foreign(1, "x")
				h.no(<-ended)
			},
			want:   counters{Taken: 1, TakenBytes: 1, ReceiveWaits: waits{Polled: 1}},
			events: []string{"receive 1 of 1 polled"},
		},
		{
			name: "receives that are cancelled",
			do: func(h *hooked) {
				parked := receiving(h.ctx, h.q, chanmq.Any())
				inLine, end := context.WithCancel(h.ctx)
				behind := receiving(inLine, h.q, chanmq.Any())
				end()
				<-behind
				h.end()
				<-parked
				<-receiving(h.ctx, h.q, chanmq.Any()) // not counted: it has ended before
			},
			want:   counters{ReceiveWaits: waits{InLine: 1, Parked: 1, Canceled: 2}},
			events: []string{"receive 0 in line: canceled", "receive 0 parked: canceled", "receive 0 at once: canceled"},
		},
		{
			name: "sends to a full queue",
			do: func(h *hooked) {
				h.full()
				ended := make(chan error)
				go func() { ended <- h.q.Send(h.T.Context(), 1, []byte("x")) }()
				synctest.Wait()
				h.machine.take(h.q.ID())
				h.no(<-ended)
				h.full()
				go func() { ended <- h.q.Send(h.ctx, 1, []byte("xy")) }()
				synctest.Wait()
				h.end()
				<-ended
			},
			want:   counters{Sent: 1, SentBytes: 1, SendWaits: waits{Parked: 2, Canceled: 1}},
			events: []string{"send 1 of 1 parked", "send 1 of 2 parked: canceled"},
		},
		{
			name: "errors",
			do: func(h *hooked) {
				view := chanmq.As(h.q, picky())
				h.send(1, "some text")
				_ = view.Send(h.ctx, 2, "bad")    // not encoded
				_ = h.q.Send(h.ctx, -1, []byte{}) // no type
				_, _, _ = h.q.TryReceive(chanmq.OfType(-1))
				h.no(h.q.Remove())
				_, _ = h.q.Receive(h.ctx, chanmq.Any())
			},
			want: counters{Sent: 1, SentBytes: 9, SendWaits: waits{AtOnce: 1}, ReceiveWaits: waits{AtOnce: 1}},
			events: []string{
				"send 1 of 9 at once", "send 2 at once: failed", "send -1 at once: failed",
				"receive 0 at once: failed", "receive 0 at once: removed",
			},
		},
		{
			name: "messages that do not decode",
			do: func(h *hooked) {
				view := chanmq.As(h.q, picky())
				for range 4 {
					h.foreign(1, "bad")
				}
				_, _ = view.Receive(h.ctx, chanmq.Any())
				_, _ = view.Take(h.ctx, chanmq.Any())
				r := view.Receiver(h.ctx, chanmq.Any())
				<-r.Done()
				c := view.Consumer(h.ctx, chanmq.Any(), chanmq.WithDecodeError(func(*chanmq.DecodeError) {}))
				synctest.Wait()
				h.no(c.Close())
			},
			want: counters{
				Taken: 4, TakenBytes: 12, DecodeErrors: 4,
				ReceiveWaits: waits{AtOnce: 4, Parked: 1, Canceled: 1},
			},
			events: []string{
				"receive 1 of 3 at once: undecoded", "receive 1 of 3 at once attempt 1: undecoded",
				"receive 1 of 3 at once: undecoded", "receive 1 of 3 at once: undecoded",
			},
		},
		{
			name: "a codec that panics",
			do: func(h *hooked) {
				h.foreign(1, "worse")
				func() {
					defer func() { _ = recover() }()
					_, _ = chanmq.As(h.q, picky()).Receive(h.ctx, chanmq.Any())
				}()
				h.receive()
			},
			want: counters{
				Taken: 1, TakenBytes: 5, HandedBack: 1, TakenAgain: 1,
				ReceiveWaits: waits{AtOnce: 2},
			},
			events: []string{"receive 1 of 5 at once"},
		},
		{
			name: "a Receiver",
			do: func(h *hooked) {
				r := h.q.Receiver(h.ctx, chanmq.Any(), chanmq.WithBuffer(1))
				synctest.Wait()
				for _, text := range []string{"a", "bb", "ccc"} {
					h.foreign(1, text)
					synctest.Wait()
				}
				<-r.C()
				synctest.Wait() // one in C, and one in its hands
				h.no(r.Close())
				h.receive()
			},
			want: counters{
				Taken: 3, TakenBytes: 6, HandedBack: 2, TakenAgain: 1,
				ReceiveWaits: waits{AtOnce: 2, Parked: 2},
			},
			events: []string{
				"receive 1 of 1 parked", "deliver 1 of 1", "receive 1 of 2 parked",
				"deliver 1 of 2", "receive 1 of 3 at once", "receive 1 of 2 at once",
			},
		},
		{
			name: "Receivers that end",
			do: func(h *hooked) {
				h.q.Receiver(h.ctx, chanmq.OfType(1))
				synctest.Wait()
				h.end()
				synctest.Wait()
				h.q.Receiver(h.T.Context(), chanmq.OfType(1))
				drained := h.q.Receiver(h.T.Context(), chanmq.OfType(2))
				synctest.Wait()
				h.no(drained.Drain(h.T.Context()))
				h.no(h.q.Remove())
			},
			want:   counters{ReceiveWaits: waits{Parked: 3, Canceled: 2}},
			events: []string{"receive 0 parked: canceled", "receive 0 parked: removed"},
		},
		{
			name: "a Sender",
			do: func(h *hooked) {
				s := h.q.Sender(h.ctx)
				s.C() <- chanmq.Message[[]byte]{Type: 1, Value: []byte("abc")}
				h.no(s.Flush(h.ctx))
				s.C() <- chanmq.Message[[]byte]{Type: -1}
				<-s.Done()
				h.full()
				s = h.q.Sender(h.ctx)
				s.C() <- chanmq.Message[[]byte]{Type: 1, Value: []byte("x")}
				synctest.Wait()
				_ = s.Close()
				s.Unsent()
			},
			want:   counters{Sent: 1, SentBytes: 3, SendWaits: waits{AtOnce: 1, Parked: 1, Canceled: 1}},
			events: []string{"send 1 of 3 at once", "send -1 at once: failed"},
		},
		{
			name: "Take",
			do: func(h *hooked) {
				h.foreign(1, "x")
				h.no(h.take().Nack())
				d := h.take()
				h.no(d.Ack())
				h.no(d.Ack())
				h.no(d.Nack())
				h.foreign(2, "yy")
				h.take()
			},
			want: counters{
				Taken: 2, TakenBytes: 3, HandedBack: 1, TakenAgain: 1, Acks: 1, Nacks: 1, InFlight: 1,
				ReceiveWaits: waits{AtOnce: 3},
			},
			events: []string{
				"receive 1 of 1 at once attempt 1", "nack 1 of 1 attempt 1",
				"receive 1 of 1 at once attempt 2", "ack 1 of 1 attempt 2", "receive 2 of 2 at once attempt 1",
			},
		},
		{
			name: "a Consumer",
			do: func(h *hooked) {
				c := h.q.Consumer(h.ctx, chanmq.Any(), chanmq.WithInFlight(2))
				synctest.Wait()
				h.foreign(1, "a")
				d := <-c.C()
				synctest.Wait()
				h.foreign(2, "bb") // stays in C
				synctest.Wait()
				if n := h.q.Counters().InFlight; n != 2 {
					h.Errorf("%d in flight, want 2", n)
				}
				h.no(d.Ack())
				synctest.Wait()
				h.no(c.Close())
			},
			want: counters{
				Taken: 2, TakenBytes: 3, HandedBack: 1, Acks: 1,
				ReceiveWaits: waits{Parked: 3, Canceled: 1},
			},
			events: []string{
				"receive 1 of 1 parked", "deliver 1 of 1 attempt 1",
				"receive 2 of 2 parked", "deliver 2 of 2 attempt 1", "ack 1 of 1 attempt 1",
			},
		},
		{
			name: "a Consumer that gives up a message",
			do: func(h *hooked) {
				c := h.q.Consumer(h.ctx, chanmq.Any(), chanmq.WithInFlight(1),
					chanmq.WithMaxAttempts(1, func(chanmq.Delivery[[]byte]) {}))
				synctest.Wait()
				h.foreign(1, "a")
				h.no((<-c.C()).Nack())
				synctest.Wait()
				h.no(c.Close())
			},
			want: counters{
				Taken: 1, TakenBytes: 1, HandedBack: 1, TakenAgain: 1, Acks: 1, Nacks: 1,
				ReceiveWaits: waits{AtOnce: 1, Parked: 2, Canceled: 1},
			},
			events: []string{
				"receive 1 of 1 parked", "deliver 1 of 1 attempt 1", "nack 1 of 1 attempt 1",
				"receive 1 of 1 at once", "ack 1 of 1 attempt 1",
			},
		},
		{
			name: "Forward",
			do: func(h *hooked) {
				to := h.private(h.T)
				h.foreign(1, "abc")
				ended := make(chan error)
				go func() { ended <- chanmq.Forward(h.ctx, to, h.q, chanmq.Any()) }()
				synctest.Wait()
				h.end()
				<-ended
				back := make(chan error)
				ctx, end := context.WithCancel(h.T.Context())
				go func() { back <- chanmq.Forward(ctx, h.q, to, chanmq.Any()) }()
				synctest.Wait()
				end()
				<-back
			},
			want: counters{
				Taken: 1, TakenBytes: 3, Sent: 1, SentBytes: 3,
				ReceiveWaits: waits{AtOnce: 1, Parked: 1, Canceled: 1}, SendWaits: waits{AtOnce: 1},
			},
			events: []string{"receive 1 of 3 at once", "receive 0 parked: canceled", "send 1 of 3 at once"},
		},
		{
			name: "Close",
			do: func(h *hooked) {
				for _, text := range []string{"a", "b", "c"} {
					h.foreign(1, text)
				}
				d := h.take()
				h.no(h.take().Nack())
				h.q.Receiver(h.ctx, chanmq.Any(), chanmq.WithBuffer(1))
				synctest.Wait()
				h.no(h.q.Close())
				h.no(d.Nack())
			},
			// The Receiver has taken again what was in the slot.
			want: counters{
				Taken: 3, TakenBytes: 3, HandedBack: 3, TakenAgain: 1, Returned: 3, Nacks: 2,
				ReceiveWaits: waits{AtOnce: 3},
			},
			events: []string{
				"receive 1 of 1 at once attempt 1", "receive 1 of 1 at once attempt 1", "nack 1 of 1 attempt 1",
				"receive 1 of 1 at once", "receive 1 of 1 at once", "deliver 1 of 1", "nack 1 of 1 attempt 1",
			},
		},
		{
			name: "Shutdown",
			do: func(h *hooked) {
				h.foreign(1, "a")
				h.no(h.take().Nack())
				h.full()
				h.machine.take(h.q.ID())
				h.no(h.q.Shutdown(h.ctx))
			},
			want: counters{
				Taken: 1, TakenBytes: 1, HandedBack: 1, Returned: 1, Nacks: 1,
				ReceiveWaits: waits{AtOnce: 1}, SendWaits: waits{AtOnce: 1},
			},
			events: []string{"receive 1 of 1 at once attempt 1", "nack 1 of 1 attempt 1"},
		},
		{
			name:    "a journal",
			journal: true,
			do: func(h *hooked) {
				wantUnacknowledged := func(want int64) {
					h.Helper()
					synctest.Wait()
					if got := h.q.Counters().Unacknowledged; got != want {
						h.Errorf("%d unacknowledged, want %d", got, want)
					}
				}
				h.send(1, "a")
				h.receive()
				wantUnacknowledged(0)
				h.send(1, "b")
				d := h.take()
				wantUnacknowledged(1)
				h.no(d.Nack())
				wantUnacknowledged(1)
				r := h.q.Receiver(h.ctx, chanmq.Any())
				wantUnacknowledged(1)
				<-r.C()
				wantUnacknowledged(0)
				h.send(1, "c")
				wantUnacknowledged(1)
				h.no(r.Close())
				wantUnacknowledged(1)
				h.no(h.q.Close())
			},
			want: counters{
				Sent: 3, SentBytes: 3, Taken: 3, TakenBytes: 3, HandedBack: 2, TakenAgain: 1, Returned: 1, Nacks: 1,
				SendWaits: waits{AtOnce: 3}, ReceiveWaits: waits{AtOnce: 3, Parked: 1},
			},
			events: []string{
				"send 1 of 1 at once", "receive 1 of 1 at once", "send 1 of 1 at once",
				"receive 1 of 1 at once attempt 1", "nack 1 of 1 attempt 1", "receive 1 of 1 at once", "deliver 1 of 1",
				"send 1 of 1 at once", "receive 1 of 1 parked",
			},
		},
		{
			name:    "the journal of a process that is dead",
			journal: true,
			do: func(h *hooked) {
				h.foreign(1, "a")
				dead, err := chanmq.Attach(h.q.ID(), h.option(), chanmq.WithJournal(h.dir))
				h.no(err)
				d, err := dead.Take(h.ctx, chanmq.Any())
				h.no(err)
				h.full()
				h.no(dead.Close())
				h.no(d.Nack()) // no room: it stays in the journal
				mine := h.take()
				if c := h.q.Counters(); c.Unacknowledged != 1 || c.InFlight != 1 {
					h.Errorf("%+v, want 1 unacknowledged and in flight", c)
				}
				h.no(mine.Ack())
			},
			want:   counters{Adopted: 1, TakenAgain: 1, Acks: 1, ReceiveWaits: waits{AtOnce: 1}},
			events: []string{"receive 1 of 1 at once attempt 2", "ack 1 of 1 attempt 2"},
		},
		{
			name:    "packs",
			opts:    []chanmq.Option{chanmq.WithPacking()},
			journal: true,
			do: func(h *hooked) {
				wantUnacknowledged := func(want int64) {
					h.Helper()
					if got := h.q.Counters().Unacknowledged; got != want {
						h.Errorf("%d unacknowledged, want %d", got, want)
					}
				}
				_, err := h.q.SendAll(h.ctx, 1, [][]byte{[]byte("a"), []byte("b"), []byte("c"), []byte("d"), []byte("e"), []byte("f")})
				h.no(err)
				h.receive()
				wantUnacknowledged(5)
				d := h.take()
				wantUnacknowledged(5)
				h.no(d.Ack())
				wantUnacknowledged(4)
				h.no(h.take().Nack())
				wantUnacknowledged(4)
				n, err := h.q.ReceiveBatch(h.ctx, chanmq.Any(), make([]chanmq.Message[[]byte], 2))
				h.no(err)
				if wantUnacknowledged(2); n != 2 {
					h.Errorf("%d messages", n)
				}
				h.no(h.q.Close())
				wantUnacknowledged(0)
			},
			want: counters{
				Sent: 6, SentBytes: packSize(6), Taken: 6, TakenBytes: packSize(6), HandedBack: 1, TakenAgain: 4, Returned: 2,
				Acks: 1, Nacks: 1, SendWaits: waits{AtOnce: 1}, ReceiveWaits: waits{AtOnce: 4},
			},
			events: []string{
				fmt.Sprintf("send 1 of %d at once messages 6", packSize(6)), "receive 1 of 1 at once",
				"receive 1 of 1 at once attempt 1", "ack 1 of 1 attempt 1", "receive 1 of 1 at once attempt 1", "nack 1 of 1 attempt 1",
				"receive 1 of 1 at once", "receive 1 of 1 at once",
			},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := ""
			if test.journal {
				dir = journalDir(t)
			}
			onMachine(t, func(t *testing.T, m *machine) {
				var seen events
				opts := append([]chanmq.Option{chanmq.WithCounters(), chanmq.WithObserver(seen.observe)}, test.opts...)
				if test.journal {
					opts = append(opts, chanmq.WithJournal(dir))
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				h := &hooked{T: t, machine: m, q: m.private(t, opts...), dir: dir, ctx: ctx, end: cancel}
				test.do(h)
				synctest.Wait()
				if got := h.q.Counters(); got != test.want {
					t.Errorf("counters\n%+v, want\n%+v", got, test.want)
				}
				seen.mu.Lock()
				defer seen.mu.Unlock()
				got, want := slices.Sorted(slices.Values(seen.list)), slices.Sorted(slices.Values(test.events))
				if !slices.Equal(got, want) { // goroutines report in any order
					t.Errorf("events\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
				}
			})
		})
	}
}

// TestWithoutCounters: they stay zero, and the observer may use what it is said to.
func TestWithoutCounters(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		var q *chanmq.Queue[[]byte]
		var got []chanmq.Event
		q = m.private(t, chanmq.WithObserver(func(_ context.Context, e chanmq.Event) {
			if e.ID != q.ID() || e.Key != q.Key() || q.Counters() != (chanmq.Counters{}) {
				t.Errorf("%+v, counters %+v", e, q.Counters())
			}
			got = append(got, e)
		}))
		if err := q.Send(t.Context(), 1, nil); err != nil {
			t.Fatal(err)
		}
		d, err := q.Take(t.Context(), chanmq.Any())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
		if len(got) != 3 || got[2].Op != chanmq.OpAck || got[2].Duration != time.Minute {
			t.Errorf("events %+v, want an ack after a minute as the third", got)
		}
	})
	var zero chanmq.Queue[int]
	if c := zero.Counters(); c != (chanmq.Counters{}) {
		t.Errorf("counters of the zero Queue: %+v", c)
	}
}

// TestObserverContext: it is the ctx of the call, or of the pump.
func TestObserverContext(t *testing.T) {
	type key struct{}
	onMachine(t, func(t *testing.T, m *machine) {
		var mu sync.Mutex
		var got []string
		q := m.private(t, chanmq.WithObserver(func(ctx context.Context, e chanmq.Event) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprint(e.Op, " ", ctx.Value(key{})))
		}))
		named := func(name string) context.Context { return context.WithValue(t.Context(), key{}, name) }
		if err := q.Send(named("send"), 1, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := q.Receive(named("receive"), chanmq.Any()); err != nil {
			t.Fatal(err)
		}
		s := q.Sender(named("Sender"))
		s.C() <- message(1)
		synctest.Wait()
		d := <-q.Consumer(named("Consumer"), chanmq.Any()).C()
		synctest.Wait()
		if err := d.Ack(); err != nil {
			t.Error(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		want := []string{"send send", "receive receive", "send Sender", "receive Consumer", "deliver Consumer", "ack Consumer"}
		if got := got[:min(len(got), len(want))]; !slices.Equal(got, want) {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

// TestObserverThatPanics: a direct call hands its message back.
func TestObserverThatPanics(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		panics := true
		q := m.private(t, chanmq.WithObserver(func(context.Context, chanmq.Event) {
			if panics {
				panic("as the test wants it")
			}
		}))
		m.puts(t, q.ID(), 1, 7)
		func() {
			defer func() { _ = recover() }()
			_, err := q.Receive(t.Context(), chanmq.Any())
			t.Errorf("Receive has returned %v", err)
		}()
		panics = false
		wantMessages(t, q, 7)
	})
}

// TestObserverThatEndsAPump: whatever it ends, each message is in one place.
func TestObserverThatEndsAPump(t *testing.T) {
	receiver := func(q *chanmq.Queue[[]byte]) (int, error) {
		r := q.Receiver(context.Background(), chanmq.Any(), chanmq.WithBuffer(2))
		n := 0
		for m := range r.C() {
			if numberIn(m.Value) != n {
				return n, fmt.Errorf("read %q, want %d", m.Value, n)
			}
			n++
		}
		return n, r.Err()
	}
	consumer := func(q *chanmq.Queue[[]byte]) (int, error) {
		c := q.Consumer(context.Background(), chanmq.Any(), chanmq.WithInFlight(3))
		n := 0
		for d := range c.C() {
			if numberIn(d.Value) != n {
				return n, fmt.Errorf("read %q, want %d", d.Value, n)
			}
			n++
			_ = d.Ack()
		}
		return n, c.Err()
	}
	givenUp := func(q *chanmq.Queue[[]byte]) (int, error) {
		d, err := q.Take(context.Background(), chanmq.Any())
		if err != nil {
			return 0, err
		}
		_ = d.Nack()
		c := q.Consumer(context.Background(), chanmq.Any(), chanmq.WithInFlight(3),
			chanmq.WithMaxAttempts(1, func(chanmq.Delivery[[]byte]) {}))
		<-c.Done()
		return 0, c.Err()
	}
	for _, test := range []struct {
		name  string
		pump  func(*chanmq.Queue[[]byte]) (read int, err error)
		op    chanmq.Operation
		count int // how many events of the operation there are before it ends
	}{
		{"Receiver, receive", receiver, chanmq.OpReceive, 0},
		{"Receiver, another receive", receiver, chanmq.OpReceive, 1},
		{"Receiver, deliver", receiver, chanmq.OpDeliver, 0},
		{"Receiver, another deliver", receiver, chanmq.OpDeliver, 1},
		{"Consumer, receive", consumer, chanmq.OpReceive, 0},
		{"Consumer, deliver", consumer, chanmq.OpDeliver, 0},
		{"Consumer, another deliver", consumer, chanmq.OpDeliver, 1},
		{"Consumer, receive of what it gives up", givenUp, chanmq.OpReceive, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				var left atomic.Int64
				left.Store(int64(test.count))
				q := m.private(t, chanmq.WithObserver(func(_ context.Context, e chanmq.Event) {
					if e.Op == test.op && left.Add(-1) == -1 {
						runtime.Goexit()
					}
				}))
				m.puts(t, q.ID(), 1, 0, 1, 2)
				read, err := test.pump(q)
				wantError(t, "Err", err, nil, "WithObserver")
				var rest []int
				for n := read; n < 3; n++ {
					rest = append(rest, n)
				}
				wantMessages(t, q, rest...)
			})
		})
	}
}

// TestBadHookOptions: they are refused.
func TestBadHookOptions(t *testing.T) {
	_, err := chanmq.Private(0o600, chanmq.WithObserver(nil))
	wantError(t, "WithObserver(nil)", err, nil, "WithObserver")
}

func TestWaitStageString(t *testing.T) {
	for stage, want := range map[chanmq.WaitStage]string{
		chanmq.WaitAtOnce: "at once", chanmq.WaitSpun: "spun", chanmq.WaitInLine: "in line",
		chanmq.WaitParked: "parked", chanmq.WaitPolled: "polled", 99: "WaitStage(99)",
	} {
		if got := stage.String(); got != want {
			t.Errorf("%d: %q, want %q", uint8(stage), got, want)
		}
	}
}

// TestCountersBalance: whatever many goroutines do at once, each message is counted once where
// it was, and each hand-back has its receive. The observer was told the same.
func TestCountersBalance(t *testing.T) {
	const senders, each = 4, 200
	var sends, receives, acks, nacks atomic.Uint64
	q := newQueue(t, chanmq.WithCounters(), chanmq.WithObserver(func(_ context.Context, e chanmq.Event) {
		switch {
		case e.Err != nil:
		case e.Op == chanmq.OpSend:
			sends.Add(1)
		case e.Op == chanmq.OpReceive:
			receives.Add(1)
		case e.Op == chanmq.OpAck:
			acks.Add(1)
		case e.Op == chanmq.OpNack:
			nacks.Add(1)
		}
	}))
	ctx := ctxWithin(t)
	var got atomic.Int64
	done, stop := context.WithCancel(ctx)
	defer stop()
	count := func() {
		if got.Add(1) == senders*each {
			stop()
		}
	}
	takers := []func(ctx context.Context, n int){
		func(ctx context.Context, _ int) {
			if _, err := q.Receive(ctx, chanmq.Any()); err == nil {
				count()
			}
		},
		func(ctx context.Context, n int) {
			d, err := q.Take(ctx, chanmq.Any())
			switch {
			case err != nil:
			case n%3 == 0:
				_ = d.Nack()
			default:
				_ = d.Ack()
				count()
			}
		},
		func(ctx context.Context, n int) {
			r := q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(2))
			for range n % 4 {
				if _, ok := <-r.C(); ok {
					count()
				}
			}
			_ = r.Close()
		},
		func(ctx context.Context, n int) {
			c := q.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(2))
			for range n % 4 {
				if d, ok := <-c.C(); ok {
					_ = d.Ack()
					count()
				}
			}
			_ = c.Close()
		},
	}
	var all sync.WaitGroup
	for range senders {
		all.Go(func() {
			for n := range each {
				if err := q.Send(ctx, 1, number(n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, take := range takers {
		all.Go(func() {
			for n := 0; done.Err() == nil; n++ {
				take(done, n)
			}
		})
	}
	all.Wait()
	if ctx.Err() != nil {
		t.Fatalf("%d of %d messages have arrived: %+v", got.Load(), senders*each, q.Counters())
	}

	c := q.Counters()
	const total = senders * each
	if c.Sent != total || c.SentBytes != 4*total || c.Taken != total || c.TakenBytes != 4*total {
		t.Errorf("of %d messages of 4 bytes: %+v", total, c)
	}
	if c.HandedBack != c.TakenAgain || c.InFlight != 0 || c.Returned != 0 || c.Unacknowledged != 0 || c.DecodeErrors != 0 {
		t.Errorf("all has been received: %+v", c)
	}
	if c.Sent != sends.Load() || c.Taken+c.TakenAgain != receives.Load() || c.Acks != acks.Load() || c.Nacks != nacks.Load() {
		t.Errorf("the observer was told of %d sends, %d receives, %d acks and %d nacks: %+v",
			sends.Load(), receives.Load(), acks.Load(), nacks.Load(), c)
	}
}
