package chanmq

import (
	"context"
	"testing"
	"time"
	"errors"
)

func TestSmoke(t *testing.T) {
	q, err := Private(0o600, WithRemoveOnClose())
	if err != nil { t.Fatal(err) }
	defer q.Close()
	ctx := context.Background()
	if err := q.Send(ctx, 5, []byte("hi")); err != nil { t.Fatal(err) }
	m, err := q.Receive(ctx, OfType(5))
	t.Log(m, err)
	c2, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err = q.Receive(c2, Any())
	t.Log(err, time.Since(start))
	r := q.Receiver(ctx, Any())
	go q.Send(ctx, 7, []byte("x"))
	t.Log(<-r.C())
	q.Send(ctx, 7, []byte("y"))
	time.Sleep(10*time.Millisecond)
	start = time.Now()
	r.Close()
	t.Log(time.Since(start))
	t.Log(q.TryReceive(Any()))
	_, err = q.TrySend(0, nil)
	t.Log(err)
	err = q.Send(ctx, 1, make([]byte, 9000))
	t.Log(err, errors.Is(err, ErrTooLarge))
	for { ok, err := q.TrySend(1, make([]byte, 1000)); if !ok { t.Log(err); break } }
	c3, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	err = q.Send(c3, 1, make([]byte, 4000))
	t.Log(err)
	s := q.Sender(ctx)
	s.C() <- Message[[]byte]{1, make([]byte,8000)}
	t.Log(s.Close(), len(s.Unsent()), s.Err())
	s = q.Sender(c3, WithBuffer(3))
	<-s.Done()
	t.Log(s.Close(), len(s.Unsent()), s.Err())
	for m, err := range q.Browse() { t.Log(m.Type, len(m.Value), err); break }
	q.Remove()
	t.Log(q.Receive(ctx, Any()))
	_, err = Open(99999)
	t.Log(err)
}

func BenchmarkSendReceive(b *testing.B) {
	q, _ := Private(0o600, WithRemoveOnClose())
	defer q.Close()
	ctx := context.Background()
	v := make([]byte, 64)
	var m Message[[]byte]
	b.ReportAllocs()
	for b.Loop() {
		q.Send(ctx, 1, v)
		q.ReceiveInto(ctx, Any(), &m)
	}
}
func BenchmarkSendReceiveAlloc(b *testing.B) {
	q, _ := Private(0o600, WithRemoveOnClose())
	defer q.Close()
	ctx := context.Background()
	v := make([]byte, 64)
	b.ReportAllocs()
	for b.Loop() {
		q.Send(ctx, 1, v)
		q.Receive(ctx, Any())
	}
}
