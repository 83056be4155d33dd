//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

// receives are the ways to receive one message directly.
var receives = []struct {
	name    string
	receive func(context.Context, *chanmq.Queue[[]byte], chanmq.Selector) (chanmq.Message[[]byte], error)
}{
	{"Receive", func(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) (chanmq.Message[[]byte], error) {
		return q.Receive(ctx, s)
	}},
	{"ReceiveInto", func(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) (m chanmq.Message[[]byte], err error) {
		err = q.ReceiveInto(ctx, s, &m)
		return m, err
	}},
	{"TryReceive", func(_ context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) (chanmq.Message[[]byte], error) {
		m, ok, err := q.TryReceive(s)
		if err == nil && !ok {
			err = errNothing
		}
		return m, err
	}},
	{"Messages", func(ctx context.Context, q *chanmq.Queue[[]byte], s chanmq.Selector) (chanmq.Message[[]byte], error) {
		for m, err := range q.Messages(ctx, s) {
			return m, err
		}
		return chanmq.Message[[]byte]{}, errNothing
	}},
}

var errNothing = errors.New("no message")

// sends are the ways to send one message directly.
var sends = []struct {
	name string
	send func(context.Context, *chanmq.Queue[[]byte], int64, []byte) error
}{
	{"Send", func(ctx context.Context, q *chanmq.Queue[[]byte], typ int64, text []byte) error {
		return q.Send(ctx, typ, text)
	}},
	{"TrySend", func(_ context.Context, q *chanmq.Queue[[]byte], typ int64, text []byte) error {
		sent, err := q.TrySend(typ, text)
		if sent != (err == nil) {
			return fmt.Errorf("TrySend = %v, %w", sent, err)
		}
		return err
	}},
}

func TestMessagesArriveAsTheyWereSent(t *testing.T) {
	q := newQueue(t)
	random := make([]byte, largest(t))
	for i := range random {
		random[i] = byte(rand.Uint32())
	}
	for _, typ := range []int64{1, 2, 255, 256, 1 << 16, math.MaxInt32, math.MaxInt} {
		// 256 is what fits the first buffer of a receive.
		for _, size := range []int{0, 1, 3, 8, 255, 256, 257, 511, 513, 4096, len(random) - 1, len(random)} {
			for _, s := range sends {
				for _, r := range receives {
					text := random[:min(size, len(random))]
					if err := s.send(ctxWithin(t), q, typ, text); err != nil {
						t.Fatalf("%s of type %d, %d bytes: %v", s.name, typ, len(text), err)
					}
					m, err := r.receive(ctxWithin(t), q, chanmq.OfType(typ))
					if err != nil || m.Type != typ || !bytes.Equal(m.Value, text) {
						t.Errorf("%s after %s of type %d, %d bytes = type %d, %d bytes, %v",
							r.name, s.name, typ, len(text), m.Type, len(m.Value), err)
					}
				}
			}
		}
	}
	wantNone(t, q)
}

func TestEmptyMessageIsNotNil(t *testing.T) {
	q := newQueue(t)
	for _, text := range [][]byte{nil, {}} {
		for _, r := range receives {
			if err := q.Send(ctxWithin(t), 1, text); err != nil {
				t.Fatal(err)
			}
			m, err := r.receive(ctxWithin(t), q, chanmq.Any())
			if err != nil || m.Type != 1 || m.Value == nil || len(m.Value) != 0 {
				t.Errorf("%s = %#v, %v; want type 1 and an empty slice", r.name, m, err)
			}
		}
	}
}

func TestReceivedBytesAreTheCallers(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 2)
	first, err := q.Receive(ctxWithin(t), chanmq.Any())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.Receive(ctxWithin(t), chanmq.Any()); err != nil {
		t.Fatal(err)
	}
	if numberOf(first.Value) != 0 {
		t.Errorf("the second receive changed the first one's bytes to %v", first.Value)
	}
}

func TestReceiveIntoReusesTheStorage(t *testing.T) {
	q := newQueue(t)
	m := chanmq.Message[[]byte]{Value: make([]byte, 0, 100)}
	storage := &m.Value[:1][0]
	for n := range 3 {
		sendNumbers(t, q, 5, n, n+1)
		if err := q.ReceiveInto(ctxWithin(t), chanmq.Any(), &m); err != nil {
			t.Fatal(err)
		}
		if m.Type != 5 || numberOf(m.Value) != n || &m.Value[0] != storage {
			t.Errorf("type %d, number %d, in the caller's storage: %v", m.Type, numberOf(m.Value), &m.Value[0] == storage)
		}
	}
}

func TestSelectors(t *testing.T) {
	type message = struct {
		typ int64
		n   int
	}
	// The queue, oldest first.
	stands := []message{{3, 0}, {1, 1}, {2, 2}, {3, 3}, {math.MaxInt, 4}, {1, 5}, {2, 6}}
	for _, tt := range []struct {
		selector chanmq.Selector
		text     string
		takes    []message
	}{
		{chanmq.Selector{}, "Any()", stands},
		{chanmq.Any(), "Any()", stands},
		{chanmq.OfType(1), "OfType(1)", []message{{1, 1}, {1, 5}}},
		{chanmq.OfType(3), "OfType(3)", []message{{3, 0}, {3, 3}}},
		{chanmq.OfType(4), "OfType(4)", nil},
		{chanmq.OfType(math.MaxInt), fmt.Sprintf("OfType(%d)", math.MaxInt), []message{{math.MaxInt, 4}}},
		{chanmq.UpTo(1), "UpTo(1)", []message{{1, 1}, {1, 5}}},
		{chanmq.UpTo(2), "UpTo(2)", []message{{1, 1}, {1, 5}, {2, 2}, {2, 6}}},
		{chanmq.UpTo(3), "UpTo(3)", []message{{1, 1}, {1, 5}, {2, 2}, {2, 6}, {3, 0}, {3, 3}}},
		{chanmq.UpTo(math.MaxInt), fmt.Sprintf("UpTo(%d)", math.MaxInt), []message{{1, 1}, {1, 5}, {2, 2}, {2, 6}, {3, 0}, {3, 3}, {math.MaxInt, 4}}},
		{chanmq.Except(3), "Except(3)", []message{{1, 1}, {2, 2}, {math.MaxInt, 4}, {1, 5}, {2, 6}}},
		{chanmq.Except(9), "Except(9)", stands},
	} {
		for _, r := range receives {
			t.Run(tt.text+"/"+r.name, func(t *testing.T) {
				if got := tt.selector.String(); got != tt.text {
					t.Errorf("String() = %s", got)
				}
				q := newQueue(t)
				for _, m := range stands {
					sendNumbers(t, q, m.typ, m.n, m.n+1)
				}
				var taken []message
				for range tt.takes {
					m, err := r.receive(ctxWithin(t), q, tt.selector)
					if err != nil {
						t.Fatal(err)
					}
					taken = append(taken, message{m.Type, numberOf(m.Value)})
				}
				if !slices.Equal(taken, tt.takes) {
					t.Errorf("took %v, want %v", taken, tt.takes)
				}
				if m, ok, err := q.TryReceive(tt.selector); ok || err != nil {
					t.Errorf("TryReceive = %v, %v, %v; want nothing more", m, ok, err)
				}
				if got, want := countMessages(t, q), len(stands)-len(tt.takes); got != want {
					t.Errorf("%d messages stay, want %d", got, want)
				}
			})
		}
	}
}

// A receive that waits is served by its selector, whatever came before.
func TestSelectorsOfWaitingReceives(t *testing.T) {
	for _, tt := range []struct {
		selector chanmq.Selector
		passes   []int64 // types of messages that it does not take
		takes    int64
	}{
		{chanmq.Any(), nil, 4},
		{chanmq.OfType(4), []int64{1, 3, 5}, 4},
		{chanmq.UpTo(4), []int64{5, math.MaxInt}, 4},
		{chanmq.UpTo(4), []int64{5}, 1},
		{chanmq.Except(4), []int64{4, 4}, 3},
	} {
		t.Run(fmt.Sprint(tt.selector, " gets ", tt.takes), func(t *testing.T) {
			q := newQueue(t)
			got := make(chan chanmq.Message[[]byte], 1)
			ctx := ctxWithin(t)
			background(t, func() {
				m, err := q.Receive(ctx, tt.selector)
				if err != nil {
					t.Error(err)
				}
				got <- m
			})
			untilAsleep(t, 1)
			for _, typ := range append(tt.passes, tt.takes) {
				if err := q.Send(ctxWithin(t), typ, nil); err != nil {
					t.Error(err)
				}
			}
			if m := <-got; m.Type != tt.takes {
				t.Errorf("got type %d", m.Type)
			}
			if n := countMessages(t, q); n != len(tt.passes) {
				t.Errorf("%d messages stay, want %d", n, len(tt.passes))
			}
		})
	}
}

func TestInvalidTypes(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 1)
	types := []int64{0, -1, math.MinInt32, math.MinInt64}
	if strconv.IntSize == 32 {
		types = append(types, math.MaxInt32+1, math.MaxInt64)
	}
	for _, typ := range types {
		words := []string{fmt.Sprintf("%d is not in 1 to %d", typ, math.MaxInt)}
		for _, s := range sends {
			wantError(t, s.name, s.send(ctxWithin(t), q, typ, nil), chanmq.ErrInvalidType, words...)
		}
		for _, selector := range []chanmq.Selector{chanmq.OfType(typ), chanmq.UpTo(typ), chanmq.Except(typ)} {
			for _, r := range receives {
				_, err := r.receive(ctxWithin(t), q, selector)
				wantError(t, fmt.Sprint(r.name, " ", selector), err, chanmq.ErrInvalidType, words...)
			}
		}
	}
	wantNumbers(t, q, chanmq.Any(), 0, 1)
	wantNone(t, q)
}

func TestMessageLargerThanMsgmax(t *testing.T) {
	limits, err := chanmq.ReadLimits()
	if err != nil {
		t.Fatal(err)
	}
	if limits.MaxMessage > 1<<26 {
		t.Skipf("msgmax is %d: too much memory for a test", limits.MaxMessage)
	}
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 1)
	wantUnchanged(t, q)
	for _, size := range []int{limits.MaxMessage + 1, 2 * limits.MaxMessage} {
		for _, s := range sends {
			err := s.send(ctxWithin(t), q, 1, make([]byte, size))
			wantError(t, s.name, err, chanmq.ErrTooLarge, "chanmq: send", fmt.Sprintf("msqid %d", q.ID()),
				fmt.Sprintf("%d bytes", size), fmt.Sprintf("msgmax is %d", limits.MaxMessage), "sysctl kernel.msgmax")
			wantError(t, s.name, err, syscall.EINVAL)
			if errors.Is(err, chanmq.ErrRemoved) {
				t.Errorf("%v is ErrRemoved", err)
			}
		}
	}
}

// The kernel would wait for ever for the room, although the queue is empty.
func TestMessageLargerThanTheQueue(t *testing.T) {
	const room = 100
	for _, stands := range []int{0, 1} {
		for _, perm := range []fs.FileMode{0o666, 0o622} {
			t.Run(fmt.Sprintf("%d messages, permissions %#o", stands, perm), func(t *testing.T) {
				q := newQueue(t)
				if err := q.Set(chanmq.Attr{Perm: perm, MaxBytes: room}); err != nil {
					t.Fatal(err)
				}
				sendNumbers(t, q, 1, 0, stands)
				wantUnchanged(t, q)
				try := func() {
					other := must(chanmq.Attach(q.ID()))
					defer other.Close()
					for _, s := range sends {
						err := s.send(ctxWithin(t), other, 1, make([]byte, room+1))
						wantError(t, s.name, err, chanmq.ErrTooLarge, "101 bytes", "holds 100 in all", "msg_qbytes", "kernel.msgmnb")
					}
				}
				if perm == 0o666 {
					try()
					return
				}
				if sysvtest.Emulated() {
					t.Skip("qemu-user does not tell of queues that it may not read")
				}
				asNobody(t, try) // who may not read, so that IPC_STAT tells nothing
			})
		}
	}
}

func TestMessageAsLargeAsTheQueue(t *testing.T) {
	q := newQueue(t)
	if err := q.Set(chanmq.Attr{MaxBytes: 100}); err != nil {
		t.Fatal(err)
	}
	for _, s := range sends {
		if err := s.send(ctxWithin(t), q, 1, make([]byte, 100)); err != nil {
			t.Errorf("%s into the empty queue: %v", s.name, err)
		}
		if sent, err := q.TrySend(1, []byte{1}); sent || err != nil {
			t.Errorf("TrySend into the full queue = %v, %v", sent, err)
		}
		if m, err := q.Receive(ctxWithin(t), chanmq.Any()); err != nil || len(m.Value) != 100 {
			t.Errorf("Receive = %d bytes, %v", len(m.Value), err)
		}
	}
}

// A queue holds as many messages as bytes, so that empty ones fill it too.
func TestEmptyMessagesFillAQueue(t *testing.T) {
	q := newQueue(t)
	if err := q.Set(chanmq.Attr{MaxBytes: 3}); err != nil {
		t.Fatal(err)
	}
	for n := range 3 {
		if sent, err := q.TrySend(1, nil); !sent || err != nil {
			t.Fatalf("TrySend of message %d = %v, %v", n, sent, err)
		}
	}
	if sent, err := q.TrySend(1, nil); sent || err != nil {
		t.Errorf("TrySend of a fourth message = %v, %v", sent, err)
	}
	ctx, sent := ctxWithin(t), make(chan error, 1)
	background(t, func() { sent <- q.Send(ctx, 2, nil) })
	untilAsleep(t, 1)
	if _, err := q.Receive(ctxWithin(t), chanmq.OfType(1)); err != nil {
		t.Error(err)
	}
	if err := <-sent; err != nil {
		t.Errorf("Send once there was room: %v", err)
	}
}

// errWhy is the cause of a ctx in these tests.
var errWhy = errors.New("the test's reason")

// endedContexts are contexts that have ended, and what each error of theirs is.
func endedContexts(t testing.TB) map[string]struct {
	ctx context.Context
	is  []error
} {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	caused, cancelCause := context.WithCancelCause(t.Context())
	cancelCause(errWhy)
	late, cancelLate := context.WithDeadline(t.Context(), time.Now().Add(-time.Hour))
	t.Cleanup(cancelLate)
	return map[string]struct {
		ctx context.Context
		is  []error
	}{
		"cancelled":              {cancelled, []error{context.Canceled}},
		"cancelled with a cause": {caused, []error{context.Canceled, errWhy}},
		"past its deadline":      {late, []error{context.DeadlineExceeded}},
	}
}

func TestCtxThatHasEndedDoesNothing(t *testing.T) {
	for name, ended := range endedContexts(t) {
		t.Run(name, func(t *testing.T) {
			q := newQueue(t)
			sendNumbers(t, q, 1, 0, 1)
			wantUnchanged(t, q)
			for _, is := range ended.is {
				_, err := q.Receive(ended.ctx, chanmq.Any())
				wantError(t, "Receive", err, is)
				wantError(t, "ReceiveInto", q.ReceiveInto(ended.ctx, chanmq.Any(), new(chanmq.Message[[]byte])), is)
				for _, err := range q.Messages(ended.ctx, chanmq.Any()) {
					wantError(t, "Messages", err, is)
				}
				err = q.Send(ended.ctx, 1, number(1))
				wantError(t, "Send", err, is)
				if strings.Contains(err.Error(), "full") {
					t.Errorf("Send into a queue with room: %v", err)
				}
			}
		})
	}
}

func TestCtxThatEndsDuringTheWait(t *testing.T) {
	q := newQueue(t)
	filled := fill(t, q)
	full := []string{fmt.Sprintf("holds %d messages, %d of", filled, 1024*filled), "msg_qbytes"}
	for _, tt := range []struct {
		name  string
		call  func(context.Context) error
		words []string
	}{
		{"Send", func(ctx context.Context) error { return q.Send(ctx, 1, make([]byte, 1024)) }, full},
		{"Receive", func(ctx context.Context) error { _, err := q.Receive(ctx, chanmq.OfType(3)); return err }, nil},
		{"ReceiveInto", func(ctx context.Context) error {
			return q.ReceiveInto(ctx, chanmq.OfType(3), new(chanmq.Message[[]byte]))
		}, nil},
		{"Messages", func(ctx context.Context) (last error) {
			yields := 0
			for _, err := range q.Messages(ctx, chanmq.OfType(3)) {
				last = err
				yields++
			}
			if yields != 1 {
				t.Errorf("Messages yields %d times", yields)
			}
			return last
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			wantUnchanged(t, q)
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			defer cancel()
			wantError(t, "at the deadline", tt.call(ctx), context.DeadlineExceeded, tt.words...)

			caused, cancelCause := context.WithCancelCause(t.Context())
			result := make(chan error, 1)
			background(t, func() { result <- tt.call(caused) })
			untilAsleep(t, 1)
			cancelCause(errWhy)
			err := <-result
			wantError(t, "cancelled", err, context.Canceled, append(tt.words, errWhy.Error())...)
			wantError(t, "cancelled", err, errWhy)
		})
	}
}

func TestTryNeverWaits(t *testing.T) {
	q := newQueue(t)
	wantNone(t, q)
	fill(t, q)
	if sent, err := q.TrySend(1, make([]byte, 1024)); sent || err != nil {
		t.Errorf("TrySend into a full queue = %v, %v; want false and no error", sent, err)
	}
	if m, ok, err := q.TryReceive(chanmq.OfType(3)); ok || err != nil {
		t.Errorf("TryReceive of a type that is not there = %v, %v, %v", m, ok, err)
	}
}

// afterEnd is every call that needs the queue.
func afterEnd(ctx context.Context, q *chanmq.Queue[[]byte]) map[string]func() error {
	calls := map[string]func() error{
		"Stat":   func() error { _, err := q.Stat(); return err },
		"Set":    func() error { return q.Set(chanmq.Attr{Perm: 0o600}) },
		"Remove": q.Remove,
		"Browse": func() error {
			for _, err := range q.Browse() {
				return err
			}
			return nil
		},
		"Receiver": func() error {
			r := q.Receiver(ctx, chanmq.Any())
			for range r.C() {
				return errors.New("Receiver: a message")
			}
			return r.Err()
		},
		"Sender": func() error {
			s := q.Sender(ctx, chanmq.WithBuffer(1))
			defer s.Unsent()
			s.C() <- message(1)
			<-s.Done()
			return s.Err()
		},
	}
	for _, s := range sends {
		calls[s.name] = func() error { return s.send(ctx, q, 1, []byte("text")) }
	}
	for _, r := range receives {
		calls[r.name] = func() error { _, err := r.receive(ctx, q, chanmq.Any()); return err }
	}
	return calls
}

func TestRemovedQueue(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 3)
	other := attach(t, q.ID())
	if err := other.Remove(); err != nil {
		t.Fatal(err)
	}
	for name, call := range afterEnd(ctxWithin(t), q) {
		wantError(t, name, call(), chanmq.ErrRemoved, "the queue was removed", fmt.Sprintf("msqid %d", q.ID()))
	}
}

func TestRemovalDuringTheWait(t *testing.T) {
	for _, tt := range []struct {
		name string
		full bool
		call func(context.Context, *chanmq.Queue[[]byte]) error
	}{
		{"Receive", false, func(ctx context.Context, q *chanmq.Queue[[]byte]) error {
			_, err := q.Receive(ctx, chanmq.Any())
			return err
		}},
		{"Messages", false, func(ctx context.Context, q *chanmq.Queue[[]byte]) (last error) {
			for _, err := range q.Messages(ctx, chanmq.Any()) {
				last = err
			}
			return last
		}},
		{"Send", true, func(ctx context.Context, q *chanmq.Queue[[]byte]) error { return q.Send(ctx, 1, make([]byte, 1024)) }},
	} {
		for _, polls := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, polling %v", tt.name, polls), func(t *testing.T) {
				var opts []chanmq.Option
				if polls {
					opts = append(opts, chanmq.WithPolling(time.Millisecond, time.Millisecond))
				}
				q := newQueue(t, opts...)
				if tt.full {
					fill(t, q)
				}
				ctx, result := ctxWithin(t), make(chan error, 1)
				background(t, func() { result <- tt.call(ctx, q) })
				if !polls {
					untilAsleep(t, 1)
				}
				if err := attach(t, q.ID()).Remove(); err != nil {
					t.Error(err)
				}
				wantError(t, tt.name, <-result, chanmq.ErrRemoved)
			})
		}
	}
}

func TestClosedHandle(t *testing.T) {
	q := newQueue(t)
	id := q.ID()
	sendNumbers(t, q, 1, 0, 1)
	strings := chanmq.As(q, codec.String())
	if err := strings.Close(); err != nil {
		t.Fatal(err)
	}
	for name, call := range afterEnd(ctxWithin(t), q) {
		err := call()
		wantError(t, name, err, chanmq.ErrClosed, "the handle is closed")
		wantError(t, name, err, os.ErrClosed)
	}
	if q.ID() != id || q.Key() != 0 {
		t.Errorf("ID %d, Key %v; want %d and 0", q.ID(), q.Key(), id)
	}
	if err := q.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	// The queue lives on, with what stood in it.
	wantNumbers(t, attach(t, id), chanmq.Any(), 0, 1)
}

func TestPermissions(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user sets modes wrong, and does not tell of queues that it may not read")
	}
	self := os.Geteuid()
	if self == nobody {
		t.Skipf("this process is user %d itself", nobody)
	}
	const read, write = true, true
	for _, tt := range []struct {
		perm        fs.FileMode
		read, write bool
	}{
		{0o600, !read, !write},
		{0o640, !read, !write},
		{0o604, read, !write},
		{0o602, !read, write},
		{0o606, read, write},
	} {
		t.Run(fmt.Sprintf("%#o", tt.perm), func(t *testing.T) {
			q := newQueue(t)
			if err := q.Set(chanmq.Attr{Perm: tt.perm}); err != nil {
				t.Fatal(err)
			}
			sendNumbers(t, q, 1, 0, len(receives)+1) // for each receive, and for Browse
			asNobody(t, func() {
				other := must(chanmq.Attach(q.ID()))
				defer other.Close()
				ctx := ctxWithin(t)
				check := func(name string, err error, allowed bool) {
					if allowed {
						if err != nil {
							t.Errorf("%s: %v", name, err)
						}
						return
					}
					wantError(t, name, err, fs.ErrPermission, fmt.Sprintf("belongs to uid %d", self),
						fmt.Sprintf("permissions %#o", tt.perm), fmt.Sprintf("has uid %d", nobody))
				}
				for _, r := range receives {
					_, err := r.receive(ctx, other, chanmq.Any())
					check(r.name, err, tt.read)
				}
				_, err := other.Stat()
				check("Stat", err, tt.read)
				for _, err := range other.Browse() {
					check("Browse", err, tt.read)
					break
				}
				for _, s := range sends {
					check(s.name, s.send(ctx, other, 1, nil), tt.write)
				}
				check("Remove", other.Remove(), false)
				if tt.read { // Set begins with a look
					check("Set", other.Set(chanmq.Attr{Perm: 0o666}), false)
				}
			})
		})
	}
}

func TestNoRoomForAnotherQueue(t *testing.T) {
	if !testkit.InNamespace(t) {
		return
	}
	testkit.SetLimit(t, "msgmni", "2")
	newQueue(t)
	newQueue(t)
	_, err := chanmq.Private(0o600)
	wantError(t, "Private", err, syscall.ENOSPC, "chanmq: create", "2 exist", "msgmni is 2", "sysctl kernel.msgmni", "ipcs -q")
	_, err = chanmq.Create(randomKey(), 0o600)
	wantError(t, "Create", err, syscall.ENOSPC, "msgmni is 2")
}

// A receive starts with a small buffer, and the kernel refuses it (E2BIG) when
// the message that comes is larger.
func TestWaitingReceiveGrowsItsBuffer(t *testing.T) {
	q := newQueue(t)
	text := bytes.Repeat([]byte("large "), largest(t)/6)
	for _, r := range receives {
		if r.name == "TryReceive" {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			q := attach(t, q.ID()) // a handle whose buffers are all small
			ctx, done := ctxWithin(t), make(chan struct{})
			background(t, func() {
				defer close(done)
				m, err := r.receive(ctx, q, chanmq.Any())
				if err != nil || !bytes.Equal(m.Value, text) {
					t.Errorf("%d bytes, %v; want %d", len(m.Value), err, len(text))
				}
			})
			untilAsleep(t, 1)
			if err := q.Send(ctxWithin(t), 1, text); err != nil {
				t.Error(err)
			}
			<-done
		})
	}
}

func TestMsgmaxChangesMeanwhile(t *testing.T) {
	if !testkit.InNamespace(t) {
		return
	}
	const large = 100_000
	q := newQueue(t)
	ctx, got := ctxWithin(t), make(chan chanmq.Message[[]byte], 1)
	background(t, func() {
		m, err := q.Receive(ctx, chanmq.Any())
		if err != nil {
			t.Error(err)
		}
		got <- m
	})
	untilAsleep(t, 1)

	testkit.SetLimit(t, "msgmax", fmt.Sprint(large))
	testkit.SetLimit(t, "msgmnb", fmt.Sprint(3*large))
	err := q.Send(ctxWithin(t), 1, make([]byte, large))
	wantError(t, "a message larger than the queue", err, chanmq.ErrTooLarge, "100000 bytes", "holds 16384 in all")
	if err := q.Set(chanmq.Attr{MaxBytes: 3 * large}); err != nil {
		t.Fatal(err)
	}
	err = q.Send(ctxWithin(t), 1, make([]byte, large+1))
	wantError(t, "a message larger than msgmax", err, chanmq.ErrTooLarge, "msgmax is 100000")

	text := bytes.Repeat([]byte("0123456789"), large/10)
	for range 2 {
		if err := q.Send(ctxWithin(t), 1, text); err != nil {
			t.Fatal(err)
		}
	}
	if m := <-got; !bytes.Equal(m.Value, text) {
		t.Errorf("received %d bytes, want %d", len(m.Value), large)
	}
	for m, err := range q.Browse() {
		if err != nil || !bytes.Equal(m.Value, text) {
			t.Errorf("Browse yields %d bytes, %v", len(m.Value), err)
		}
	}

	// A message that is larger than what msgmax has become can be taken, and
	// not looked at: MSG_COPY makes no copy of that size.
	testkit.SetLimit(t, "msgmax", "1000")
	for m, err := range q.Browse() {
		if err == nil || errors.Is(err, chanmq.ErrRemoved) {
			t.Errorf("Browse yields %d bytes, %v", len(m.Value), err)
		}
		wantError(t, "Browse", err, chanmq.ErrTooLarge, "msgmax is 1000")
	}
	if m, err := q.Receive(ctxWithin(t), chanmq.Any()); err != nil || !bytes.Equal(m.Value, text) {
		t.Errorf("received %d bytes, %v; want %d", len(m.Value), err, large)
	}
}

// Payloads paired with the wrong type are what handles do whose calls share a
// buffer.
func TestHandleSharedByManyGoroutines(t *testing.T) {
	const types, each = 8, 500
	q := newQueue(t)
	ctx := ctxWithin(t)
	text := func(typ int64, n int) []byte {
		text := binary.NativeEndian.AppendUint64(nil, uint64(typ))
		text = binary.NativeEndian.AppendUint64(text, uint64(n))
		return append(text, bytes.Repeat([]byte{byte(typ)}, int(typ)*40)...) // of a length of its own
	}
	var wg sync.WaitGroup
	for typ := int64(1); typ <= types; typ++ {
		wg.Go(func() {
			for n := range each {
				if err := q.Send(ctx, typ, text(typ, n)); err != nil {
					t.Error(err)
					return
				}
			}
		})
		wg.Go(func() {
			var m chanmq.Message[[]byte]
			for n := range each {
				var err error
				switch n % 3 {
				case 0:
					m, err = q.Receive(ctx, chanmq.OfType(typ))
				case 1:
					err = q.ReceiveInto(ctx, chanmq.OfType(typ), &m)
				case 2:
					for ok := false; !ok && err == nil; {
						if err = ctx.Err(); err == nil {
							m, ok, err = q.TryReceive(chanmq.OfType(typ))
							runtime.Gosched()
						}
					}
				}
				if err != nil {
					t.Error(err)
					return
				}
				if m.Type != typ || !bytes.Equal(m.Value, text(typ, n)) {
					t.Errorf("message %d of type %d came as type %d, %x", n, typ, m.Type, m.Value)
				}
			}
		})
	}
	wg.Wait()
	wantNone(t, q)
}

func TestTypedViewsShareTheHandle(t *testing.T) {
	type order struct{ ID, Count int }
	q := newQueue(t)
	orders := chanmq.As(q, codec.JSON[order]())
	if err := orders.Send(ctxWithin(t), 1, order{7, 3}); err != nil {
		t.Fatal(err)
	}
	if m, err := q.Receive(ctxWithin(t), chanmq.Any()); err != nil || string(m.Value) != `{"ID":7,"Count":3}` {
		t.Errorf("the raw message is %s, %v", m.Value, err)
	}
	if err := q.Send(ctxWithin(t), 2, []byte(`{"ID":8,"Count":1}`)); err != nil {
		t.Fatal(err)
	}
	if m, err := orders.Receive(ctxWithin(t), chanmq.Any()); err != nil || m != (chanmq.Message[order]{Type: 2, Value: order{8, 1}}) {
		t.Errorf("the order is %+v, %v", m, err)
	}
	if orders.ID() != q.ID() || orders.Key() != q.Key() {
		t.Errorf("ID %d, Key %v; want %d, %v", orders.ID(), orders.Key(), q.ID(), q.Key())
	}
}

var errCodec = errors.New("the codec's error")

// failing is a codec that neither encodes nor decodes "bad".
func failing() chanmq.Codec[string] {
	return codec.Func(
		func(dst []byte, v string) ([]byte, error) {
			if v == "bad" {
				return nil, errCodec
			}
			return append(dst, v...), nil
		},
		func(src []byte, v *string) error {
			*v = string(src)
			if *v == "bad" {
				return errCodec
			}
			return nil
		})
}

func TestValueThatDoesNotEncode(t *testing.T) {
	raw := newQueue(t)
	wantUnchanged(t, raw)
	q := chanmq.As(raw, failing())
	err := q.Send(ctxWithin(t), 1, "bad")
	wantError(t, "Send", err, errCodec, "chanmq: send", "encode")
	sent, err := q.TrySend(1, "bad")
	wantError(t, "TrySend", err, errCodec, "chanmq: send", "encode")
	if sent {
		t.Error("TrySend reports true")
	}
	short := chanmq.As(raw, codec.Func(
		func([]byte, string) ([]byte, error) { return nil, nil },
		func([]byte, *string) error { return nil }))
	wantError(t, "a codec that loses what it appends to", short.Send(ctxWithin(t), 1, "x"), nil, "less than it was given")
}

// The message that does not decode is in the error, and the rest goes on.
func TestMessageThatDoesNotDecode(t *testing.T) {
	raw := newQueue(t)
	q := chanmq.As(raw, failing())
	send := func(t *testing.T, texts ...string) {
		t.Helper()
		for i, text := range texts {
			if err := raw.Send(ctxWithin(t), int64(i+1), []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(t *testing.T, err error) {
		t.Helper()
		var undecoded *chanmq.DecodeError
		if !errors.As(err, &undecoded) || !errors.Is(err, errCodec) {
			t.Fatalf("%v is no *DecodeError with the codec's error", err)
		}
		if m := undecoded.Message; m.Type != 1 || string(m.Value) != "bad" {
			t.Errorf("the error holds type %d, %q", m.Type, m.Value)
		}
		wantError(t, "its text", err, nil, "decode", "message of type 1, 3 bytes", errCodec.Error())
		wantNone(t, raw)
	}
	t.Run("Receive", func(t *testing.T) {
		send(t, "bad")
		_, err := q.Receive(ctxWithin(t), chanmq.Any())
		check(t, err)
	})
	t.Run("ReceiveInto", func(t *testing.T) {
		send(t, "bad")
		var m chanmq.Message[string]
		check(t, q.ReceiveInto(ctxWithin(t), chanmq.Any(), &m))
		if m.Type != 1 {
			t.Errorf("type %d", m.Type)
		}
	})
	t.Run("TryReceive", func(t *testing.T) {
		send(t, "bad")
		_, ok, err := q.TryReceive(chanmq.Any())
		check(t, err)
		if !ok {
			t.Error("ok is false, and the message was taken")
		}
	})
	t.Run("Messages", func(t *testing.T) {
		send(t, "one", "bad", "three")
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var got []string
		for m, err := range q.Messages(ctx, chanmq.Any()) {
			var undecoded *chanmq.DecodeError
			switch {
			case errors.As(err, &undecoded):
				got = append(got, fmt.Sprintf("%d %s, undecoded", undecoded.Message.Type, undecoded.Message.Value))
			case err != nil:
				got = append(got, err.Error())
			default:
				got = append(got, fmt.Sprintf("%d %s", m.Type, m.Value))
				if m.Type == 3 {
					cancel()
				}
			}
		}
		want := []string{"1 one", "2 bad, undecoded", "3 three", context.Canceled.Error()}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("yields %q, want %q", got, want)
		}
	})
}

func TestMessagesReadsNothingAhead(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 5)
	messages := q.Messages(ctxWithin(t), chanmq.Any())
	for m, err := range messages {
		if err != nil {
			t.Fatal(err)
		}
		if n := numberOf(m.Value); n == 1 {
			break
		}
	}
	if n := countMessages(t, q); n != 3 {
		t.Errorf("%d messages stay after break, want 3", n)
	}
	// It can be ranged over again.
	for m, err := range messages {
		if err != nil || numberOf(m.Value) != 2 {
			t.Errorf("the second loop begins with %v, %v", m, err)
		}
		break
	}
	wantNumbers(t, q, chanmq.Any(), 3, 5)
}

func TestMessagesEndsOnClose(t *testing.T) {
	q := newQueue(t)
	sendNumbers(t, q, 1, 0, 1)
	yields, last := 0, error(nil)
	for _, err := range q.Messages(ctxWithin(t), chanmq.Any()) {
		yields, last = yields+1, err
		if err == nil {
			go q.Close()
		}
	}
	wantError(t, "Messages", last, chanmq.ErrClosed)
	if yields != 2 {
		t.Errorf("it yields %d times, want a message and one error", yields)
	}
}

// browse returns what Browse yields, or skips the test where the kernel lacks it.
func browse(t *testing.T, q *chanmq.Queue[string]) (got []string) {
	t.Helper()
	for m, err := range q.Browse() {
		if errors.Is(err, errors.ErrUnsupported) {
			t.Skip(err)
		}
		var undecoded *chanmq.DecodeError
		switch {
		case errors.As(err, &undecoded):
			got = append(got, fmt.Sprintf("%d %s, undecoded", undecoded.Message.Type, undecoded.Message.Value))
		case err != nil:
			t.Fatal(err)
		default:
			got = append(got, fmt.Sprintf("%d %s", m.Type, m.Value))
		}
	}
	return got
}

func TestBrowseTakesNothing(t *testing.T) {
	raw := newQueue(t)
	q := chanmq.As(raw, failing())
	if got := browse(t, q); got != nil {
		t.Errorf("an empty queue yields %q", got)
	}
	long := strings.Repeat("long ", largest(t)/5-10)
	want := []string{"3 three", "1 ", "2 bad, undecoded", "9 " + long, "1 behind"}
	for _, m := range []chanmq.Message[string]{{3, "three"}, {1, ""}, {2, "bad"}, {9, long}, {1, "behind"}} {
		if err := raw.Send(ctxWithin(t), m.Type, []byte(m.Value)); err != nil {
			t.Fatal(err)
		}
	}
	wantUnchanged(t, raw)
	for range 2 {
		if got := browse(t, q); !reflect.DeepEqual(got, want) {
			t.Errorf("Browse yields %.200q, want %.200q", got, want)
		}
	}
	for m := range q.Browse() {
		if m.Type != 3 {
			t.Errorf("the first one is %v", m)
		}
		break
	}
}

func TestBrowseEndsOnClose(t *testing.T) {
	raw := newQueue(t)
	sendNumbers(t, raw, 1, 0, 3)
	browse(t, chanmq.As(raw, codec.String())) // or skip
	yields, last := 0, error(nil)
	for _, err := range raw.Browse() {
		yields, last = yields+1, err
		if err == nil {
			if err := raw.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	wantError(t, "Browse", last, chanmq.ErrClosed)
	if yields != 2 {
		t.Errorf("it yields %d times, want a message and one error", yields)
	}
}
