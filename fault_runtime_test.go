//go:build linux

package chanmq_test

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strconv"
	"testing"

	"github.com/chanmq/chanmq/internal/testkit"
)

func init() { roles["fault-profiled"] = faultProfiled }

// TestFaultCollectorAndProfiler runs the garbage collector, the profiler and dumps
// of all stacks as often as possible while messages arrive.
func TestFaultCollectorAndProfiler(t *testing.T) {
	q := newQueue(t)
	count := longForm(3000)
	cmd := testkit.Start(t, "fault-profiled", fmt.Sprint(q.ID()), fmt.Sprint(count))
	for n := range count {
		if err := q.Send(ctxLong(t), 1, number(n)); err != nil {
			t.Fatal(err)
		}
	}
	testkit.Wait(t, cmd)
	wantNone(t, q)
}

// faultProfiled demands the numbers from 0 in order, from calls and Receivers
// that end all the time: msqid, count.
func faultProfiled(args []string) error {
	q, err := attachArg(args[0])
	if err != nil {
		return err
	}
	count, _ := strconv.Atoi(args[1])
	debug.SetGCPercent(1)
	runtime.SetCPUProfileRate(2000)
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				runtime.GC()
				_ = pprof.Lookup("goroutine").WriteTo(io.Discard, 2)
				_ = pprof.Lookup("threadcreate").WriteTo(io.Discard, 1)
			}
		}
	}()
	c := consumer{q: q, typ: 1, random: rand.New(rand.NewPCG(1, 2))}
	err = c.consume(count)
	close(stop)
	<-stopped
	runtime.SetCPUProfileRate(0)
	return errors.Join(err, q.Close())
}
