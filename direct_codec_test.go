//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

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

// TestMessageThatDoesNotDecode: the message is in the error, and later messages are
// not affected.
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
				wantError(t, "the end", err, context.Canceled, "receive", "msqid")
				got = append(got, context.Canceled.Error())
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
