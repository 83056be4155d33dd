//go:build linux

package chanmq_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/simq"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/internal/testkit"
)

// pass checks that what one handle sends the other receives.
func pass(t testing.TB, from, to *chanmq.Queue[[]byte]) {
	t.Helper()
	ctx := ctxWithin(t)
	const text = "passed on"
	if err := from.Send(ctx, 7, []byte(text)); err != nil {
		t.Error(err)
		return
	}
	m, err := to.Receive(ctx, chanmq.OfType(7))
	if err != nil || m.Type != 7 || string(m.Value) != text {
		t.Errorf("Receive = %d %q, %v; want 7 %q", m.Type, m.Value, err, text)
	}
}

func TestOpeningFindsTheSameQueue(t *testing.T) {
	made := newKeyed(t)
	for name, open := range map[string]func() (*chanmq.Queue[[]byte], error){
		"Open":   func() (*chanmq.Queue[[]byte], error) { return chanmq.Open(made.Key()) },
		"Create": func() (*chanmq.Queue[[]byte], error) { return chanmq.Create(made.Key(), 0o600) },
		"Attach": func() (*chanmq.Queue[[]byte], error) { return chanmq.Attach(made.ID()) },
	} {
		t.Run(name, func(t *testing.T) {
			q, err := open()
			if err != nil {
				t.Fatal(err)
			}
			if q.ID() != made.ID() || q.Key() != made.Key() {
				t.Errorf("msqid %d, key %v; want msqid %d, key %v", q.ID(), q.Key(), made.ID(), made.Key())
			}
			pass(t, made, q)
			pass(t, q, made)
			if err := q.Close(); err != nil {
				t.Error(err)
			}
			pass(t, made, made) // the other handle and the queue live on
		})
	}
}

func TestPrivateQueuesAreEachNew(t *testing.T) {
	a, b := newQueue(t), newQueue(t)
	if a.ID() == b.ID() {
		t.Errorf("both have msqid %d", a.ID())
	}
	if a.Key() != 0 || b.Key() != 0 {
		t.Errorf("keys %v and %v, want 0", a.Key(), b.Key())
	}
	attached := attach(t, a.ID())
	if attached.Key() != 0 {
		t.Errorf("Attach: key %v, want 0", attached.Key())
	}
	pass(t, attached, a)
}

func TestOpeningErrors(t *testing.T) {
	keyed, private := newKeyed(t), newQueue(t)
	free := freeKey(t)
	open := func(key chanmq.Key, opts ...chanmq.Option) func() (*chanmq.Queue[[]byte], error) {
		return func() (*chanmq.Queue[[]byte], error) { return chanmq.Open(key, opts...) }
	}
	create := func(key chanmq.Key, perm fs.FileMode, opts ...chanmq.Option) func() (*chanmq.Queue[[]byte], error) {
		return func() (*chanmq.Queue[[]byte], error) { return chanmq.Create(key, perm, opts...) }
	}
	makePrivate := func(perm fs.FileMode, opts ...chanmq.Option) func() (*chanmq.Queue[[]byte], error) {
		return func() (*chanmq.Queue[[]byte], error) { return chanmq.Private(perm, opts...) }
	}
	attach := func(id int, opts ...chanmq.Option) func() (*chanmq.Queue[[]byte], error) {
		return func() (*chanmq.Queue[[]byte], error) { return chanmq.Attach(id, opts...) }
	}
	for _, tt := range []struct {
		name  string
		open  func() (*chanmq.Queue[[]byte], error)
		op    string
		is    error
		words []string
	}{
		{"Open without a key", open(0), "open", nil, []string{"IPC_PRIVATE", "use Private or Attach"}},
		{"Open of a missing key", open(free), "open", fs.ErrNotExist, []string{free.String(), "no queue has this key", "Create creates one", "IPC namespace"}},
		{"Open of a missing key, the errno", open(free), "open", syscall.ENOENT, nil},
		{"Open WithExclusive", open(keyed.Key(), chanmq.WithExclusive()), "open", nil, []string{"WithExclusive", "only Create"}},
		{"Create without a key", create(0, 0o600), "create", nil, []string{"IPC_PRIVATE", "use Private"}},
		{"Create with the sticky bit", create(free, 0o1600), "create", nil, []string{"01600", "0777"}},
		{"Create with a file's mode", create(free, fs.ModeDir|0o700), "create", nil, []string{"0777"}},
		{"Create WithExclusive of a queue that exists", create(keyed.Key(), 0o600, chanmq.WithExclusive()), "create", fs.ErrExist, []string{keyed.Key().String(), "exists already", "WithExclusive"}},
		{"Private with more than permissions", makePrivate(0o4600), "create", nil, []string{"04600", "0777"}},
		{"Private WithExclusive", makePrivate(0o600, chanmq.WithExclusive()), "create", nil, []string{"WithExclusive", "always new"}},
		{"Private WithReopen", makePrivate(0o600, chanmq.WithReopen()), "create", nil, []string{"WithReopen", "cannot be found again"}},
		{"Attach to -1", attach(-1), "attach", fs.ErrNotExist, []string{"no queue has this msqid"}},
		{"Attach to no queue", attach(math.MaxInt32), "attach", fs.ErrNotExist, []string{"msqid 2147483647", "no queue has this msqid"}},
		{"Attach WithExclusive", attach(keyed.ID(), chanmq.WithExclusive()), "attach", nil, []string{"WithExclusive", "only Create"}},
		{"Attach WithReopen to a private queue", attach(private.ID(), chanmq.WithReopen()), "attach", nil, []string{"WithReopen", "cannot be found again"}},
		{"WithOwner of nobody", create(free, 0o600, chanmq.WithOwner()), "create", nil, []string{"WithOwner", "no user id"}},
		{"WithSpin of a negative time", create(free, 0o600, chanmq.WithSpin(-time.Nanosecond)), "create", nil, []string{"WithSpin(-1ns)", "negative"}},
		{"WithPolling without a pause", create(free, 0o600, chanmq.WithPolling(0, time.Second)), "create", nil, []string{"WithPolling(0s, 1s)", "0 < min <= max"}},
		{"WithPolling from long to short", create(free, 0o600, chanmq.WithPolling(time.Second, time.Millisecond)), "create", nil, []string{"WithPolling(1s, 1ms)", "0 < min <= max"}},
		{"WithMaxParked of a negative number", create(free, 0o600, chanmq.WithMaxParked(-1)), "create", nil, []string{"WithMaxParked(-1)", "negative"}},
		{"Create WithWait", create(free, 0o600, chanmq.WithWait(context.Background())), "create", nil, []string{"WithWait", "only Open"}},
		{"Private WithWait", makePrivate(0o600, chanmq.WithWait(context.Background())), "create", nil, []string{"WithWait", "only Open"}},
		{"Attach WithWait", attach(keyed.ID(), chanmq.WithWait(context.Background())), "attach", nil, []string{"WithWait", "only Open"}},
		{"Open WithWait of nothing", open(free, chanmq.WithWait(noContext)), "open", nil, []string{"WithWait", "nil"}},
		{"Open WithWait without a key", open(0, chanmq.WithWait(context.Background())), "open", nil, []string{"IPC_PRIVATE"}},
		{"Open WithWait of a ctx that has ended", open(free, chanmq.WithWait(canceled())), "open", context.Canceled, []string{free.String(), "no queue has this key"}},
		{"Open WithWait of a ctx that has ended, what is missing", open(free, chanmq.WithWait(canceled())), "open", fs.ErrNotExist, nil},
		{"the first of two bad options", create(free, 0o600, chanmq.WithMaxParked(-1), chanmq.WithSpin(-1)), "create", nil, []string{"WithMaxParked(-1)"}},
		{"a bad option of Open", open(keyed.Key(), chanmq.WithMaxParked(-1)), "open", nil, []string{"WithMaxParked(-1)"}},
		{"a bad option of Attach", attach(keyed.ID(), chanmq.WithMaxParked(-1)), "attach", nil, []string{"WithMaxParked(-1)"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q, err := tt.open()
			if q != nil {
				t.Error("it returned a handle")
				adopt(t, q)
			}
			wantError(t, tt.name, err, tt.is, append(tt.words, "chanmq: "+tt.op)...)
			var op *chanmq.OpError
			if !errors.As(err, &op) || op.Op != tt.op {
				t.Errorf("%#v is not an *OpError of %q", err, tt.op)
			}
			if q, err := chanmq.Open(free); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a queue has the key now: %v", err)
				adopt(t, q)
			}
		})
	}
}

func TestNoRoomForAnotherQueue(t *testing.T) {
	if !testkit.InNamespace(t) {
		return
	}
	testkit.SetLimit(t, "msgmni", "2")
	newQueue(t)
	newQueue(t)
	_, err := chanmq.Private(0o600)
	wantError(t, "Private", err, syscall.ENOSPC, "chanmq: create", "2 exist", "msgmni is 2", "sysctl kernel.msgmni", "ipcs -q")
	_, err = chanmq.Create(randomKey(), 0o600)
	wantError(t, "Create", err, syscall.ENOSPC, "msgmni is 2")
}

// noContext is what a program has that forgot to set its ctx.
var noContext context.Context

// canceled returns a ctx that has ended.
func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// freeKey returns a key that names no queue.
func freeKey(t testing.TB) chanmq.Key {
	t.Helper()
	for {
		key := randomKey()
		q, err := chanmq.Open(key)
		if errors.Is(err, fs.ErrNotExist) {
			return key
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEveryOptionOpensAQueueThatWorks(t *testing.T) {
	self := os.Geteuid()
	for name, opt := range map[string]chanmq.Option{
		"WithExclusive":            chanmq.WithExclusive(),
		"WithRemoveOnClose":        chanmq.WithRemoveOnClose(),
		"WithOwner":                chanmq.WithOwner(self),
		"WithOwner, one of two":    chanmq.WithOwner(self+1, self),
		"WithReopen":               chanmq.WithReopen(),
		"WithSpin(0)":              chanmq.WithSpin(0),
		"WithSpin(1ms)":            chanmq.WithSpin(time.Millisecond),
		"WithPolling(1ms, 1ms)":    chanmq.WithPolling(time.Millisecond, time.Millisecond),
		"WithPolling(1ns, 20ms)":   chanmq.WithPolling(1, 20*time.Millisecond),
		"WithMaxParked(0)":         chanmq.WithMaxParked(0),
		"WithMaxParked(1,000,000)": chanmq.WithMaxParked(1_000_000),
	} {
		t.Run(name, func(t *testing.T) {
			q := newKeyed(t, opt)
			pass(t, q, q)
		})
	}
}

func TestWithWaitFindsTheQueueThatIsCreated(t *testing.T) {
	key := freeKey(t)
	opened := make(chan *chanmq.Queue[[]byte], 1)
	go func() {
		q, err := chanmq.Open(key, chanmq.WithWait(ctxWithin(t)))
		if err != nil {
			t.Error(err)
		}
		opened <- q
	}()
	time.Sleep(30 * time.Millisecond)
	made := createElsewhere(t, key)
	q := <-opened
	if q == nil {
		t.FailNow()
	}
	adopt(t, q)
	pass(t, made, q)

	again, err := chanmq.Open(key, chanmq.WithWait(canceled())) // it is there
	if err != nil {
		t.Fatal(err)
	}
	adopt(t, again)
	pass(t, again, made)
}

// TestWithWaitPauses: they are those of WithReopen, and WithReopen begins anew.
func TestWithWaitPauses(t *testing.T) {
	onMachine(t, func(t *testing.T, m *machine) {
		const key = 42
		var looks []time.Time
		m.faults(func(_ int, c simq.Call) error {
			if c.Op == simq.Get {
				looks = append(looks, time.Now())
			}
			return nil
		})
		errWhy := errors.New("because")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Hour, errWhy)
		defer cancel()
		start := time.Now()
		_, err := chanmq.Open(key, m.option(), chanmq.WithWait(ctx))
		wantError(t, "Open", err, context.DeadlineExceeded, "because", "0x0000002a", "no queue has this key")
		wantError(t, "Open", err, fs.ErrNotExist)
		wantError(t, "Open", err, errWhy)
		if took := time.Since(start); took != time.Hour {
			t.Errorf("it took %v, want an hour", took)
		}
		pause := 10 * time.Millisecond
		for i := 1; i < len(looks); i++ {
			if gap := looks[i].Sub(looks[i-1]); gap < pause/2 || gap > pause {
				t.Errorf("pause %d was %v, want %v to %v", i, gap, pause/2, pause)
			}
			pause = min(2*pause, time.Second)
		}
		if len(looks) < 3600 {
			t.Errorf("%d looks in an hour", len(looks))
		}

		// Created after ten minutes, it is found after a second at the most.
		time.AfterFunc(10*time.Minute, func() {
			if _, err := m.peer.Get(key, sysv.Create|0o666); err != nil {
				t.Error(err)
			}
		})
		start = time.Now()
		q, err := chanmq.Open(key, m.option(), chanmq.WithWait(t.Context()), chanmq.WithReopen())
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		if took := time.Since(start); took < 10*time.Minute || took > 10*time.Minute+time.Second {
			t.Errorf("it took %v", took)
		}
		ended := receiving(t.Context(), q, chanmq.Any())
		looks = nil
		if err := m.peer.Remove(q.ID()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(looks) < 2 || looks[1].Sub(looks[0]) > 10*time.Millisecond {
			t.Errorf("after a removal it looked %d times, at %v", len(looks), looks)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
}

// TestWithWaitEndsAtOtherErrors at once.
func TestWithWaitEndsAtOtherErrors(t *testing.T) {
	const key = 42
	for name, c := range map[string]struct {
		op    simq.Op
		errno error // of the second such call
		is    error // nil: it goes on
	}{
		"no permission":                 {simq.Get, sysv.EACCES, fs.ErrPermission},
		"no such call":                  {simq.Get, sysv.ENOSYS, errors.ErrUnsupported},
		"of another owner":              {"", nil, fs.ErrPermission},
		"removed before it is seen":     {simq.Stat, sysv.EINVAL, nil},
		"removed while it is looked at": {simq.Stat, sysv.EIDRM, nil},
	} {
		t.Run(name, func(t *testing.T) {
			onMachine(t, func(t *testing.T, m *machine) {
				calls := 0
				m.faults(func(_ int, call simq.Call) error {
					if call.Op == c.op {
						if calls++; calls == 2 || call.Op == simq.Stat && calls == 1 {
							return c.errno
						}
					}
					return nil
				})
				owner := 0
				if name == "of another owner" {
					owner = 1
				}
				time.AfterFunc(time.Minute, func() {
					if _, err := m.peer.Get(key, sysv.Create|0o666); err != nil {
						t.Error(err)
					}
				})
				start := time.Now()
				q, err := chanmq.Open(key, m.option(), chanmq.WithWait(t.Context()), chanmq.WithOwner(owner))
				if c.is == nil {
					if err != nil {
						t.Fatal(err)
					}
					if err := q.Close(); err != nil {
						t.Error(err)
					}
					return
				}
				wantError(t, "Open", err, c.is)
				if errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%v is an fs.ErrNotExist", err)
				}
				if took := time.Since(start); c.op == simq.Get && took > 20*time.Millisecond {
					t.Errorf("it took %v", took)
				}
				time.Sleep(time.Hour)
			})
		})
	}
}

func TestPermissionsAreExactlyThoseAskedFor(t *testing.T) {
	if sysvtest.Emulated() {
		t.Skip("qemu-user shows a wrong mode")
	}
	for _, umask := range []int{0o000, 0o022, 0o777} {
		for _, perm := range []fs.FileMode{0o000, 0o600, 0o622, 0o640, 0o666, 0o777} {
			t.Run(fmt.Sprintf("%#o with umask %#o", perm, umask), func(t *testing.T) {
				before := syscall.Umask(umask)
				private, privateErr := chanmq.Private(perm)
				keyed, keyedErr := chanmq.Create(freeKey(t), perm, chanmq.WithExclusive())
				syscall.Umask(before)
				for _, q := range []*chanmq.Queue[[]byte]{must(private, privateErr), must(keyed, keyedErr)} {
					adopt(t, q)
					if got := statOf(t, q.ID()).Perm; got != perm {
						t.Errorf("permissions %#o", got)
					}
				}
			})
		}
	}
}

func TestCreateLeavesAnExistingQueueAsItIs(t *testing.T) {
	q := newKeyed(t)
	before := statOf(t, q.ID())
	// The owner's own bits are the ones that are compared.
	other, err := chanmq.Create(q.Key(), 0o666)
	if err != nil {
		t.Fatal(err)
	}
	adopt(t, other)
	if after := statOf(t, q.ID()); after != before {
		t.Errorf("the queue was %+v and is %+v", before, after)
	}
}

func TestAQueueOfSomebodyElse(t *testing.T) {
	q := newKeyed(t)
	asNobody(t, func() {
		_, err := chanmq.Create(q.Key(), 0o600)
		wantError(t, "Create", err, fs.ErrPermission, q.Key().String(), "grants this process less")
		if !sysvtest.Emulated() { // which does not tell of queues that it may not read
			wantError(t, "Create", err, syscall.EACCES, fmt.Sprintf("belongs to uid %d, permissions 0600", os.Getuid()))
		}
		if other, err := chanmq.Create(q.Key(), 0o600, chanmq.WithExclusive()); !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create WithExclusive: %v, %v", other, err)
		}
		// Opening asks for no permission; the calls do.
		other, err := chanmq.Open(q.Key())
		if err != nil {
			t.Errorf("Open: %v", err)
			return
		}
		_, _, err = other.TryReceive(chanmq.Any())
		wantError(t, "TryReceive", err, fs.ErrPermission)
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
}

// TestAttachToMsqidZero: the first queue of an IPC namespace has msqid 0.
func TestAttachToMsqidZero(t *testing.T) {
	if !testkit.InNamespace(t) {
		return
	}
	_, err := chanmq.Attach(0)
	wantError(t, "Attach(0) before there is a queue", err, fs.ErrNotExist, "msqid 0")

	q := newQueue(t)
	if q.ID() != 0 {
		t.Fatalf("the first queue has msqid %d", q.ID())
	}
	zero, err := chanmq.Attach(0)
	if err != nil {
		t.Fatal(err)
	}
	adopt(t, zero)
	pass(t, q, zero)
	if err := q.Remove(); err != nil {
		t.Fatal(err)
	}
	_, _, err = zero.TryReceive(chanmq.Any())
	wantError(t, "TryReceive", err, chanmq.ErrRemoved, "msqid 0")
}

func TestWithOwnerRefusesPlantedQueues(t *testing.T) {
	self := os.Geteuid()
	if self == nobody {
		t.Skipf("this process is user %d itself", nobody)
	}
	planted := func(t *testing.T) *chanmq.Queue[[]byte] {
		var q *chanmq.Queue[[]byte]
		asNobody(t, func() { q = must(chanmq.Create(freeKey(t), 0o666, chanmq.WithExclusive())) })
		return adopt(t, q)
	}
	// Not Set, which cannot give a queue to user 0.
	given := func(q *chanmq.Queue[[]byte], owner int) {
		attr := must(sysv.Host().Stat(q.ID())).Attr
		attr.UID = uint32(owner)
		if err := sysv.Host().Set(q.ID(), attr); err != nil {
			panic(err)
		}
	}
	for _, tt := range []struct {
		name    string
		queue   func(*testing.T) *chanmq.Queue[[]byte]
		allowed []int
		words   []string // nil: the queue is taken
	}{
		{"made by another user", planted, []int{self}, []string{fmt.Sprintf("created by uid %d", nobody), "planted"}},
		{"made by another user, who is allowed", planted, []int{self, nobody}, nil},
		{"made by another user, who gave it to the one allowed", func(t *testing.T) *chanmq.Queue[[]byte] {
			q := planted(t)
			asNobody(t, func() { given(q, self) })
			return q
		}, []int{self}, []string{fmt.Sprintf("created by uid %d and belongs to uid %d", nobody, self)}},
		{"given away to another user", func(t *testing.T) *chanmq.Queue[[]byte] {
			q := newKeyed(t)
			given(q, nobody)
			return q
		}, []int{self}, []string{fmt.Sprintf("created by uid %d and belongs to uid %d", self, nobody)}},
		{"one's own", func(t *testing.T) *chanmq.Queue[[]byte] { return newKeyed(t) }, []int{self}, nil},
		{"one's own, for others", func(t *testing.T) *chanmq.Queue[[]byte] { return newKeyed(t) }, []int{self + 1, self + 2},
			[]string{fmt.Sprintf("allows only %d, %d", self+1, self+2)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			q := tt.queue(t)
			owner := chanmq.WithOwner(tt.allowed...)
			for name, open := range map[string]func() (*chanmq.Queue[[]byte], error){
				"Open":   func() (*chanmq.Queue[[]byte], error) { return chanmq.Open(q.Key(), owner) },
				"Create": func() (*chanmq.Queue[[]byte], error) { return chanmq.Create(q.Key(), 0o600, owner) },
				"Attach": func() (*chanmq.Queue[[]byte], error) { return chanmq.Attach(q.ID(), owner) },
			} {
				opened, err := open()
				if err == nil {
					adopt(t, opened)
				}
				if tt.words != nil {
					wantError(t, name, err, fs.ErrPermission, append(tt.words, "WithOwner")...)
				} else if err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			statOf(t, q.ID()) // a queue that is refused is left alone
		})
	}
}

// TestWithOwnerLeavesNoNewQueueBehind: a process whose user is not allowed must not
// create a queue either.
func TestWithOwnerLeavesNoNewQueueBehind(t *testing.T) {
	if !testkit.InNamespace(t) {
		return
	}
	other := chanmq.WithOwner(os.Geteuid() + 1)
	_, err := chanmq.Private(0o600, other)
	wantError(t, "Private", err, fs.ErrPermission)
	_, err = chanmq.Create(randomKey(), 0o600, chanmq.WithExclusive(), other)
	wantError(t, "Create WithExclusive", err, fs.ErrPermission)
	_, err = chanmq.Create(randomKey(), 0o600, other)
	wantError(t, "Create", err, fs.ErrPermission, "no queue has this key", fmt.Sprintf("one that uid %d creates", os.Geteuid()))
	stats, err := chanmq.List()
	if err != nil || len(stats) > 0 {
		t.Errorf("List = %+v, %v; want no queue", stats, err)
	}
}

func TestWithRemoveOnClose(t *testing.T) {
	t.Run("removes the queue for everyone", func(t *testing.T) {
		q := newQueue(t, chanmq.WithRemoveOnClose())
		other := attach(t, q.ID())
		if err := other.Send(ctxWithin(t), 1, []byte("lost with the queue")); err != nil {
			t.Fatal(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		_, _, err := other.TryReceive(chanmq.Any())
		wantError(t, "TryReceive of another handle", err, chanmq.ErrRemoved)
		_, err = chanmq.Attach(q.ID())
		wantError(t, "Attach", err, fs.ErrNotExist)
	})
	t.Run("of a queue that is gone already", func(t *testing.T) {
		q := newQueue(t, chanmq.WithRemoveOnClose())
		if err := q.Remove(); err != nil {
			t.Fatal(err)
		}
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Run("by a user who may not", func(t *testing.T) {
		q := newQueue(t)
		asNobody(t, func() {
			other := must(chanmq.Attach(q.ID(), chanmq.WithRemoveOnClose()))
			err := other.Close()
			wantError(t, "Close", err, fs.ErrPermission, "remove", "only the queue's owner")
			if err := other.Close(); err != nil {
				t.Errorf("the second Close: %v", err)
			}
		})
		statOf(t, q.ID())
	})
	t.Run("not given", func(t *testing.T) {
		q := newQueue(t)
		if err := q.Close(); err != nil {
			t.Error(err)
		}
		statOf(t, q.ID())
	})
}

func TestKeyString(t *testing.T) {
	for key, want := range map[chanmq.Key]string{
		0:          "0x00000000",
		0x2a0100ff: "0x2a0100ff",
		-2:         "0xfffffffe",
	} {
		if got := key.String(); got != want {
			t.Errorf("Key(%d).String() = %s, want %s", int32(key), got, want)
		}
	}
}

func TestFTokIsThatOfTheCLibrary(t *testing.T) {
	perl, err := exec.LookPath("perl")
	if err != nil {
		t.Skipf("ftok(3) is called through perl: %v", err)
	}
	if out, err := exec.Command(perl, "-MIPC::SysV", "-e1").CombinedOutput(); err != nil {
		t.Skipf("ftok(3) is called through perl's IPC::SysV: %v: %s", err, out)
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir, "/", "/proc/version", "/dev/null"} {
		for _, proj := range []byte{1, 'A', 127, 128, 254} {
			out, err := exec.Command(perl, "-MIPC::SysV=ftok", "-e", "print ftok($ARGV[0], int $ARGV[1])", path, strconv.Itoa(int(proj))).Output()
			if err != nil {
				t.Fatal(err)
			}
			// perl prints the key_t as it is, or as 32 bits without a sign.
			want, err := strconv.ParseInt(string(out), 10, 64)
			if err != nil {
				t.Fatalf("perl printed %q: %v", out, err)
			}
			got, err := chanmq.FTok(path, proj)
			if err != nil || got != chanmq.Key(uint32(want)) {
				t.Errorf("FTok(%s, %d) = %v, %v; want %v", path, proj, got, err, chanmq.Key(uint32(want)))
			}
		}
	}
}

func TestFTokErrors(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	key, err := chanmq.FTok(missing, 1)
	if key != 0 {
		t.Errorf("key %v beside the error, which might be used unchecked", key)
	}
	wantError(t, "a missing file", err, fs.ErrNotExist, "ftok", missing)
	var path *fs.PathError
	if !errors.As(err, &path) || path.Path != missing {
		t.Errorf("%#v has no *fs.PathError of the file", err)
	}
	_, err = chanmq.FTok("", 1)
	wantError(t, "no file", err, fs.ErrNotExist)
}
