//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// decodes is a codec of text whose Decode is the function.
func decodes(decode func(src []byte, v *string) error) chanmq.Codec[string] {
	return codec.Func(codec.String().Append, decode)
}

// TestCodecErrorThatLooksLikeAnEnd: a codec's error is the Receiver's, with the
// message in it, whatever the error wraps.
func TestCodecErrorThatLooksLikeAnEnd(t *testing.T) {
	for name, fail := range map[string]func(ctx context.Context, cancel context.CancelFunc) error{
		"ctx.Err() after its end": func(ctx context.Context, cancel context.CancelFunc) error {
			cancel()
			<-ctx.Done()
			return fmt.Errorf("look-up: %w", ctx.Err())
		},
		"ErrClosed":  func(context.Context, context.CancelFunc) error { return fmt.Errorf("look-up: %w", chanmq.ErrClosed) },
		"ErrRemoved": func(context.Context, context.CancelFunc) error { return chanmq.ErrRemoved },
	} {
		t.Run(name, func(t *testing.T) {
			raws := newQueue(t)
			ctx, cancel := context.WithCancel(ctxWithin(t))
			defer cancel()
			r := chanmq.As(raws, decodes(func([]byte, *string) error { return fail(ctx, cancel) })).Receiver(ctx, chanmq.Any())
			if err := raws.Send(ctxWithin(t), 7, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if m, ok := <-r.C(); ok {
				t.Fatalf("received %v", m)
			}
			var undecoded *chanmq.DecodeError
			if !errors.As(r.Err(), &undecoded) || undecoded.Message.Type != 7 || string(undecoded.Message.Value) != "hello" {
				t.Errorf("Err: %v, want a DecodeError with the message", r.Err())
			}
		})
	}
}

// TestCauseThatLooksLikeAnEnd: a ctx's cause says nothing of this handle.
func TestCauseThatLooksLikeAnEnd(t *testing.T) {
	q := newQueue(t)
	for name, cause := range map[string]error{"ErrClosed": chanmq.ErrClosed, "ErrRemoved": chanmq.ErrRemoved} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(ctxWithin(t))
			r, s := q.Receiver(ctx, chanmq.Any()), q.Sender(ctx)
			cancel(fmt.Errorf("of another queue: %w", cause))
			<-r.Done()
			<-s.Done()
			for what, err := range map[string]error{"Receiver": r.Err(), "Sender": s.Err()} {
				wantError(t, what, err, context.Canceled, "context canceled: of another queue")
			}
		})
	}
}

// TestCodecThatWritesToItsInput: what is handed back, and what a DecodeError holds, is
// the text as it was sent.
func TestCodecThatWritesToItsInput(t *testing.T) {
	refuse := errors.New("refused")
	inPlace := decodes(func(src []byte, v *string) error {
		for i := range src {
			src[i] ^= 0x20
		}
		*v = string(src)
		if bytes.HasPrefix(src, []byte("BAD")) {
			return refuse
		}
		return nil
	})
	raws := newQueue(t)
	q := chanmq.As(raws, inPlace)
	send := func(text string) {
		t.Helper()
		if err := raws.Send(ctxWithin(t), 1, []byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	for _, buffer := range []int{0, 1, 4} {
		t.Run(fmt.Sprintf("handed back, buffer of %d", buffer), func(t *testing.T) {
			r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(buffer))
			texts := []string{"hello", "world", "again"}
			for _, text := range texts {
				send(text)
			}
			untilTaken(t, raws, max(0, len(texts)-1-buffer))
			_ = r.Close()
			for _, text := range texts {
				m, err := raws.Receive(ctxWithin(t), chanmq.Any())
				if err != nil || string(m.Value) != text {
					t.Errorf("Receive: %q, %v, want %q", m.Value, err, text)
				}
			}
		})
	}
	for name, receive := range map[string]func() error{
		"Receive":     func() error { _, err := q.Receive(ctxWithin(t), chanmq.Any()); return err },
		"ReceiveInto": func() error { return q.ReceiveInto(ctxWithin(t), chanmq.Any(), new(chanmq.Message[string])) },
		"TryReceive":  func() error { _, _, err := q.TryReceive(chanmq.Any()); return err },
		"Receiver": func() error {
			r := q.Receiver(ctxWithin(t), chanmq.Any())
			<-r.Done()
			return r.Err()
		},
	} {
		t.Run("DecodeError of "+name, func(t *testing.T) {
			send("bad one")
			var undecoded *chanmq.DecodeError
			if err := receive(); !errors.As(err, &undecoded) || string(undecoded.Message.Value) != "bad one" || !errors.Is(err, refuse) {
				t.Errorf("%v, want the message in it", err)
			}
		})
	}
}

// TestCodecThatDoesNotReturn: a codec that panics, where the program recovers, or ends
// its goroutine, loses no message, and keeps nobody from closing.
func TestCodecThatDoesNotReturn(t *testing.T) {
	exits := map[string]func(){
		"panic":  func() { panic("the codec panics") },
		"Goexit": runtime.Goexit,
	}
	for how, exit := range exits {
		for name, call := range map[string]func(q *chanmq.Queue[string]){
			"Receive": func(q *chanmq.Queue[string]) { _, _ = q.Receive(context.Background(), chanmq.Any()) },
			"ReceiveInto": func(q *chanmq.Queue[string]) {
				_ = q.ReceiveInto(context.Background(), chanmq.Any(), new(chanmq.Message[string]))
			},
			"TryReceive": func(q *chanmq.Queue[string]) { _, _, _ = q.TryReceive(chanmq.Any()) },
			"Messages": func(q *chanmq.Queue[string]) {
				for range q.Messages(context.Background(), chanmq.Any()) {
				}
			},
		} {
			t.Run(name+", "+how, func(t *testing.T) {
				raws := newQueue(t)
				q := chanmq.As(raws, decodes(func([]byte, *string) error { exit(); return nil }))
				if err := raws.Send(ctxWithin(t), 3, []byte("hello")); err != nil {
					t.Fatal(err)
				}
				inGoroutine(func() { call(q) })
				m, ok, err := raws.TryReceive(chanmq.Any())
				if err != nil || !ok || m.Type != 3 || string(m.Value) != "hello" {
					t.Errorf("TryReceive: %v, %v, %v, want the message", m, ok, err)
				}
			})
		}
	}
	t.Run("Receiver, Goexit", func(t *testing.T) {
		raws := newQueue(t)
		q := chanmq.As(raws, decodes(func(src []byte, v *string) error {
			if *v = string(src); *v == "exit" {
				runtime.Goexit()
			}
			return nil
		}))
		texts := []string{"one", "two", "exit", "three"}
		for _, text := range texts {
			if err := raws.Send(ctxWithin(t), 3, []byte(text)); err != nil {
				t.Fatal(err)
			}
		}
		r := q.Receiver(ctxWithin(t), chanmq.Any(), chanmq.WithBuffer(len(texts)))
		<-r.Done()
		wantError(t, "Err", r.Err(), nil, "receive", "runtime.Goexit")
		_ = r.Close()
		for _, text := range texts {
			m, ok, err := raws.TryReceive(chanmq.Any())
			if err != nil || !ok || string(m.Value) != text {
				t.Errorf("TryReceive: %q, %v, %v, want %q", m.Value, ok, err, text)
			}
		}
	})
	t.Run("Sender, Goexit", func(t *testing.T) {
		raws := newQueue(t)
		q := chanmq.As(raws, codec.Func(func([]byte, string) ([]byte, error) { runtime.Goexit(); return nil, nil }, codec.String().Decode))
		s := q.Sender(ctxWithin(t))
		s.C() <- chanmq.Message[string]{Type: 1, Value: "hello"}
		<-s.Done()
		wantError(t, "Err", s.Err(), nil, "send", "runtime.Goexit")
		if left := s.Unsent(); len(left) != 1 || left[0].Value != "hello" {
			t.Errorf("Unsent: %v, want the message", left)
		}
	})
}

// inGoroutine runs f in a goroutine that recovers, to its end.
func inGoroutine(f func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() { _ = recover() }()
		f()
	}()
	<-ended
}

// TestReceiveBehindASlowCodec: a receive that would have to wait for a Receiver whose
// ctx has ended, and whose codec takes its time, ends with its own ctx, and a try
// returns at once. Nothing newer is taken meanwhile, and nothing is lost.
func TestReceiveBehindASlowCodec(t *testing.T) {
	raws := newQueue(t)
	decoding, decoded := make(chan struct{}), make(chan struct{})
	slow := chanmq.As(raws, decodes(func(src []byte, v *string) error {
		close(decoding)
		<-decoded
		*v = string(src)
		return nil
	}))
	ctx, cancel := context.WithCancel(ctxWithin(t))
	r := slow.Receiver(ctx, chanmq.Any())
	for n := range 2 {
		if err := raws.Send(ctxWithin(t), 1, number(n)); err != nil {
			t.Fatal(err)
		}
	}
	<-decoding
	cancel()
	if m, ok, err := raws.TryReceive(chanmq.Any()); ok || err != nil {
		t.Errorf("TryReceive: %v, %v, %v, want nothing yet", m, ok, err)
	}
	short, cancelShort := context.WithTimeout(ctxWithin(t), time.Millisecond)
	defer cancelShort()
	m, err := raws.Receive(short, chanmq.Any())
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Receive: %v, %v, want the end of its ctx", m, err)
	}
	second := raws.Receiver(short, chanmq.Any())
	<-second.Done()
	wantError(t, "another Receiver", second.Err(), context.DeadlineExceeded)
	close(decoded)
	<-r.Done()
	for n := range 2 {
		m, err := raws.Receive(ctxWithin(t), chanmq.Any())
		if err != nil || numberOf(m.Value) != n {
			t.Errorf("Receive: %v, %v, want %d", m, err, n)
		}
	}
}
