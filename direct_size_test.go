//go:build linux

package chanmq_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

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

// TestMessageLargerThanTheQueue: a message that can never fit must not be retried
// forever. The kernel would wait for space, although the queue is empty.
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

// TestEmptyMessagesFillAQueue: a queue holds at most as many messages as bytes, so
// that empty ones fill it too.
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

// TestWaitingReceiveGrowsItsBuffer: a receive starts with a small buffer, which the
// kernel refuses (E2BIG) when the message that arrives is larger.
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

	// A message that is larger than msgmax is now can be received, but not
	// browsed: MSG_COPY copies nothing of that size.
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
