//go:build linux

package chanmq_test

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/testkit"
)

// Tests that grow have a short form, which is part of go test, and a long one: those
// of the files fault_*_test.go and stress_*_test.go, the sweeps over every system
// call, and the histories. The long form of all of them:
//
//	go test -race -run 'Stress|Fault|Every|History' -stress 200000 -timeout 6h
//
// Texts of up to 1 GiB take some 6 GiB of memory, half of it in /dev/shm:
//
//	go test -run LargeOfEverySize -largest 1073741824

var stressCount = flag.Int("stress", 3000, "messages that each sender of TestStress sends")

// stressVariable hands -stress on to the process of a test that runs in a
// namespace of its own.
const stressVariable = "CHANMQ_TEST_STRESS"

// longForm returns how often a test repeats what its short form repeats so often.
func longForm(short int) int {
	count := *stressCount
	if handed, err := strconv.Atoi(os.Getenv(stressVariable)); err == nil {
		count = handed
	}
	return short * max(1, count/3000)
}

func init() {
	short := sweepCalls()
	sweepCalls = func() int { return longForm(short) }
}

// inNamespaceWithFlags is testkit.InNamespace, and hands -stress on.
func inNamespaceWithFlags(t *testing.T) bool {
	t.Helper()
	t.Setenv(stressVariable, fmt.Sprint(longForm(3000)))
	return testkit.InNamespace(t)
}

// ctxLong is ctxWithin for tests with a long form.
func ctxLong(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(longForm(1))*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// aWhile sleeps at random, so that what goes wrong next does so at any moment.
func aWhile() { time.Sleep(rand.N(20 * time.Millisecond)) }
