//go:build linux

package chanmq_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"sync"
	"testing"

	"github.com/chanmq/chanmq"
)

// TestHandleSharedByManyGoroutines looks for payloads paired with the wrong type, as
// they are where the calls of a handle share a buffer.
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

// TestManyHandles: many handles of one queue in one process do not interfere.
func TestManyHandles(t *testing.T) {
	q := newQueue(t)
	const handles, each = 20, 50
	var wg sync.WaitGroup
	var mu sync.Mutex
	seen := make(map[int]bool)
	for range handles {
		handle := attach(t, q.ID())
		wg.Go(func() {
			for range each {
				m, err := handle.Receive(ctxWithin(t), chanmq.Any())
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				seen[numberOf(m.Value)] = true
				mu.Unlock()
			}
		})
	}
	sendNumbers(t, q, 1, 0, handles*each)
	wg.Wait()
	if len(seen) != handles*each {
		t.Errorf("%d messages, want %d", len(seen), handles*each)
	}
}
