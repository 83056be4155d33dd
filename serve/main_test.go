//go:build linux

package serve_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/serve"
)

// calls makes TestLongRun longer: go test ./serve -run LongRun -calls 10000000 -timeout 2h
var calls = flag.Int("calls", 10_000, "calls of TestLongRun")

// roles are what the test binary does as another process: testkit.Start.
var roles = map[string]testkit.Role{}

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, roles)) }

// Variables that give all handles of the tests, and of the processes that they start, an
// option: TestOverHandlesWithPacking, and TestOverHandlesWithLarge, which says in which
// directory.
const (
	packing = "CHANMQ_SERVE_PACKING"
	large   = "CHANMQ_SERVE_LARGE"
)

func handleOptions(opts []chanmq.Option) []chanmq.Option {
	opts = opts[:len(opts):len(opts)]
	if os.Getenv(packing) != "" {
		opts = append(opts, chanmq.WithPacking())
	}
	if dir := os.Getenv(large); dir != "" {
		opts = append(opts, chanmq.WithLarge(dir, chanmq.WithLargeThreshold(50))) // no request or reply is that short
	}
	return opts
}

// newQueue creates a queue, which is closed and removed when the test ends.
func newQueue(t testing.TB, opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	q, err := chanmq.Private(0o600, handleOptions(opts)...)
	if err != nil {
		t.Fatal(err)
	}
	testkit.Reap(t, q.ID())
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Errorf("Close at the end of the test: %v", err)
		}
	})
	return q
}

// attach opens another handle, as another process would.
func attach(t testing.TB, q *chanmq.Queue[[]byte], opts ...chanmq.Option) *chanmq.Queue[[]byte] {
	t.Helper()
	other, err := chanmq.Attach(q.ID(), handleOptions(opts)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := other.Close(); err != nil {
			t.Errorf("Close at the end of the test: %v", err)
		}
	})
	return other
}

// attachArgs opens the queues whose msqids a role is given.
func attachArgs(args []string, opts ...chanmq.Option) (queues []*chanmq.Queue[[]byte], err error) {
	for _, arg := range args {
		id, err := strconv.Atoi(arg)
		if err != nil {
			return nil, err
		}
		q, err := chanmq.Attach(id, handleOptions(opts)...)
		if err != nil {
			return nil, err
		}
		queues = append(queues, q)
	}
	return queues, nil
}

func id(q *chanmq.Queue[[]byte]) string { return fmt.Sprint(q.ID()) }

// ctxWithin returns a ctx for what has to happen: it ends only when the test would hang.
func ctxWithin(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// start runs a server until the end of the test, or until stop, which returns Run's error.
func start(t testing.TB, s *serve.Server) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return stop
}

// wantEmpty checks that nothing is left in the queues, once everything has ended.
func wantEmpty(t testing.TB, queues ...*chanmq.Queue[[]byte]) {
	t.Helper()
	for _, q := range queues {
		stat, err := q.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if stat.Messages == 0 {
			continue
		}
		t.Errorf("%d messages are left in msqid %d", stat.Messages, q.ID())
		n := 0
		for m, err := range q.Browse() {
			t.Logf("type %d: %x, %v", m.Type, m.Value, err)
			if n++; n == 3 {
				break
			}
		}
	}
}

func messages(t testing.TB, q *chanmq.Queue[[]byte]) int {
	t.Helper()
	stat, err := q.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return stat.Messages
}

// untilEmpty waits until somebody has taken everything.
func untilEmpty(t testing.TB, q *chanmq.Queue[[]byte]) {
	t.Helper()
	testkit.Eventually(t, fmt.Sprintf("msqid %d is empty", q.ID()), func() bool { return messages(t, q) == 0 })
}

// double is the handler of most tests.
func double(_ context.Context, n int32) (int32, error) { return 2 * n, nil }

var number = codec.Struct[int32]()

// handleDouble adds it for type 1.
func handleDouble(s *serve.Server, opts ...serve.HandlerOption) {
	serve.Handle(s, chanmq.OfType(1), number, number, double, opts...)
}

// newClient returns a client of handleDouble, which is closed at the end of the test.
func newClient(t testing.TB, requests, replies *chanmq.Queue[[]byte], opts ...serve.ClientOption) *serve.Client[int32, int32] {
	t.Helper()
	c := serve.NewClient(requests, replies, 1, number, number, opts...)
	t.Cleanup(func() { c.Close() })
	return c
}

// wantDouble makes a call that has to succeed.
func wantDouble(t testing.TB, c *serve.Client[int32, int32], n int32) {
	t.Helper()
	got, err := c.Call(ctxWithin(t), n)
	if err != nil || got != 2*n {
		t.Fatalf("the reply to %d is %d, %v", n, got, err)
	}
}

// reports collects what a server reports.
type reports struct {
	mu   sync.Mutex
	errs []error
}

func (r *reports) option() serve.ServerOption {
	return serve.WithErrorReport(func(err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.errs = append(r.errs, err)
	})
}

func (r *reports) take() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := r.errs
	r.errs = nil
	return errs
}

// journalDir returns a directory for journals.
func journalDir(t testing.TB) string {
	t.Helper()
	if sysvtest.Emulated() {
		t.Skip("qemu-user receives into memory of its own, so that journals are refused")
	}
	dir, err := os.MkdirTemp("/dev/shm", "chanmq-test-")
	if err != nil {
		t.Skipf("no tmpfs for journals: %v", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func wantIs(t testing.TB, what string, err, is error) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Errorf("%s: %v, want one that is %v", what, err, is)
	}
}
