//go:build linux

package serve_test

import (
	"context"
	"errors"
	"runtime"
	"testing"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/serve"
)

var errCodec = errors.New("the codec fails")

// breaking is a codec of numbers that does not return for some of them.
func breaking() codec.Codec[int32] {
	does := func(n int32) error {
		switch n {
		case -1, -2:
			return errCodec
		case -3, -6:
			panic(errCodec)
		case -4, -8:
			runtime.Goexit()
		}
		return nil
	}
	return codec.Func(
		func(dst []byte, n int32) ([]byte, error) {
			if err := does(n); err != nil {
				return nil, err
			}
			return number.Append(dst, n)
		},
		func(src []byte, n *int32) error {
			if err := number.Decode(src, n); err != nil {
				return err
			}
			return does(*n)
		})
}

// TestClientCodecs: a codec of the client's that fails, panics or ends its goroutine, for
// the request or for the reply, ends its call, and nothing else.
func TestClientCodecs(t *testing.T) {
	type client interface {
		Call(ctx context.Context, n int32) (int32, error)
		Close() error
	}
	for _, side := range []string{"request", "reply"} {
		req, rep := breaking(), number
		if side == "reply" {
			req, rep = rep, req
		}
		for name, connect := range map[string]func(s *serve.Server, requests, replies *chanmq.Queue[[]byte]) client{
			"Client": func(s *serve.Server, requests, replies *chanmq.Queue[[]byte]) client {
				handleDouble(s)
				return withoutOptions{serve.NewClient(requests, replies, 1, req, rep)}
			},
			"BareClient": func(s *serve.Server, requests, replies *chanmq.Queue[[]byte]) client {
				serve.HandleBare(s, chanmq.OfType(1), number, number, func(_ int32, typ int64) int64 { return typ + 3 }, double)
				return serve.NewBareClient(requests, replies, 1, req, rep, func(*int32, int64) int64 { return 1 + 3 })
			},
		} {
			t.Run(side+" of "+name, func(t *testing.T) {
				requests, replies := newQueue(t), newQueue(t)
				s := serve.NewServer(requests, replies)
				c := connect(s, requests, replies)
				start(t, s)
				call := func(n int32) (reply int32, err error, returned bool) {
					done := make(chan struct{})
					go func() {
						defer close(done)
						defer func() { _ = recover() }()
						reply, err = c.Call(ctxWithin(t), n)
						returned = true
					}()
					<-done
					return reply, err, returned
				}
				for range 3 {
					for _, n := range []int32{-1, 5, -3, 6, -4, 7} {
						reply, err, returned := call(n)
						switch {
						case n == -1 && (!returned || !errors.Is(err, errCodec)):
							t.Errorf("a codec that fails: %v, returned: %t", err, returned)
						case n < -1 && returned:
							t.Errorf("a codec that does not return for %d: %v", n, err)
						case n > 0 && (err != nil || reply != 2*n):
							t.Errorf("the reply to %d is %d, %v", n, reply, err)
						}
					}
				}
				c.Close()
				wantEmpty(t, requests, replies)
			})
		}
	}
}

// withoutOptions is a Client as a BareClient is used.
type withoutOptions struct{ *serve.Client[int32, int32] }

func (c withoutOptions) Call(ctx context.Context, n int32) (int32, error) {
	return c.Client.Call(ctx, n)
}
