//go:build linux

package serve_test

import (
	"context"
	"fmt"
	"net"
	"net/rpc"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/serve"
)

// The benchmarks call a server in another process. net/rpc over a Unix socket is what
// the standard library has for the same purpose.

func init() {
	roles["double-many"] = func(args []string) error {
		queues, err := attachArgs(args)
		if err != nil {
			return err
		}
		s := serve.NewServer(queues[0], queues[1])
		handleDouble(s, serve.WithConcurrency(4))
		return s.Run(context.Background())
	}
	roles["netrpc"] = func(args []string) error {
		l, err := net.Listen("unix", args[0])
		if err != nil {
			return err
		}
		if err := rpc.Register(new(Doubler)); err != nil {
			return err
		}
		os.Stdout.Write([]byte{'\n'})
		rpc.Accept(l)
		return nil
	}
}

// Doubler is the handler for net/rpc.
type Doubler struct{}

// Double is its method.
func (*Doubler) Double(n int32, reply *int32) error { *reply = 2 * n; return nil }

func BenchmarkCall(b *testing.B) {
	for _, callers := range []int{1, 50} {
		b.Run(fmt.Sprintf("serve-%d", callers), func(b *testing.B) {
			requests, replies := newQueue(b), newQueue(b)
			testkit.Start(b, "double-many", id(requests), id(replies))
			c := newClient(b, requests, replies)
			measure(b, callers, func(n int32) (int32, error) { return c.Call(context.Background(), n) })
		})
		b.Run(fmt.Sprintf("netrpc-%d", callers), func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "socket")
			cmd := testkit.Process(b, "netrpc", path)
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				b.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			if _, err := stdout.Read(make([]byte, 1)); err != nil {
				b.Fatal(err)
			}
			c, err := rpc.Dial("unix", path)
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			measure(b, callers, func(n int32) (reply int32, err error) {
				err = c.Call("Doubler.Double", n, &reply)
				return reply, err
			})
		})
	}
}

// measure makes b.N calls, and reports the latency.
func measure(b *testing.B, callers int, call func(int32) (int32, error)) {
	b.Helper()
	if n, err := call(1); n != 2 || err != nil {
		b.Fatal(n, err)
	}
	b.ReportAllocs()
	before := cpu(b)
	b.ResetTimer()
	var made atomic.Int64
	var wg sync.WaitGroup
	took := make([][]time.Duration, callers)
	for i := range callers {
		wg.Go(func() {
			for n := made.Add(1); n <= int64(b.N); n = made.Add(1) {
				begin := time.Now()
				if _, err := call(int32(n)); err != nil {
					b.Error(err)
					return
				}
				took[i] = append(took[i], time.Since(begin))
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	b.ReportMetric((cpu(b)-before)/float64(b.N), "cpu-us/op")
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1000, "p50-us")
	b.ReportMetric(float64(all[len(all)*99/100].Nanoseconds())/1000, "p99-us")
}

// cpu returns the processor time of this process, the client, in microseconds. On a
// machine with other work it says more than the time that passed.
func cpu(b *testing.B) float64 {
	b.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		b.Fatal(err)
	}
	return float64(used.Utime.Nano()+used.Stime.Nano()) / 1000
}
