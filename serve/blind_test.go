//go:build linux

package serve_test

import (
	"context"
	"errors"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/serve"
)

// TestKernelWithoutMSG_COPY: where nobody can look into a queue, calls work, and those that
// end without their replies leave nothing, as their client lives.
func TestKernelWithoutMSG_COPY(t *testing.T) {
	k := simq.New()
	k.SetHooks(simq.Hooks{Fault: func(c simq.Call) error {
		if c.Op == simq.Receive && c.Flags&sysv.Copy != 0 {
			return sysv.ENOSYS
		}
		return nil
	}})
	kernel := inject.Kernel(k.Process(0, 0)).(chanmq.Option)
	var queues []*chanmq.Queue[[]byte]
	for range 2 {
		q, err := chanmq.Private(0o600, kernel)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { q.Close() })
		queues = append(queues, q)
	}
	requests, replies := queues[0], queues[1]
	for _, err := range replies.Browse() {
		if !errors.Is(err, errors.ErrUnsupported) {
			t.Fatalf("it can be looked at: %v", err)
		}
	}
	s := serve.NewServer(requests, replies)
	begun, proceed := make(chan struct{}), make(chan struct{})
	serve.Handle(s, chanmq.OfType(1), number, number, func(_ context.Context, n int32) (int32, error) {
		if n < 0 {
			begun <- struct{}{}
			<-proceed
		}
		return 2 * n, nil
	})
	stop := start(t, s)
	c := serve.NewClient(requests, replies, 1, number, number)
	wantDouble(t, c, 5)
	for range 100 {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error)
		go func() {
			_, err := c.Call(ctx, -1)
			ended <- err
		}()
		<-begun
		cancel()
		wantIs(t, "a call whose ctx has ended", <-ended, context.Canceled)
		proceed <- struct{}{}
	}
	wantDouble(t, c, 6)
	c.Close()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if n := messages(t, requests) + messages(t, replies); n > 0 {
		t.Errorf("%d messages are left", n)
	}
}
