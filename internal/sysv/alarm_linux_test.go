package sysv_test

import (
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

// alarms are the implementations. No test says how long a Sleep may take at most, since the
// machine may be busy: one that does not end hangs.
var alarms = map[string]func() sysv.Alarm{
	"futex": sysv.Host().NewAlarm,
	"timer": func() sysv.Alarm { return sysv.NewTimerAlarm() },
}

// forever is longer than any test runs.
const forever = 100 * time.Hour

func forEachAlarm(t *testing.T, test func(*testing.T, sysv.Alarm)) {
	t.Helper()
	for name, newAlarm := range alarms {
		t.Run(name, func(t *testing.T) { test(t, newAlarm()) })
	}
}

// wantSleep demands that a Sleep takes its time.
func wantSleep(t *testing.T, a sysv.Alarm, d time.Duration) {
	t.Helper()
	start := time.Now()
	a.Sleep(d)
	if slept := time.Since(start); slept < d {
		t.Errorf("Sleep(%v) returned after %v, and nobody has rung", d, slept)
	}
}

func TestAlarmSleeps(t *testing.T) {
	forEachAlarm(t, func(t *testing.T, a sysv.Alarm) {
		for _, d := range []time.Duration{-time.Hour, 0, 1, time.Microsecond, time.Millisecond, 20 * time.Millisecond} {
			wantSleep(t, a, d)
		}
	})
}

// TestAlarmRingsBeforeSleep: it ends the next Sleep, and that one alone, however often
// it has rung.
func TestAlarmRingsBeforeSleep(t *testing.T) {
	forEachAlarm(t, func(t *testing.T, a sysv.Alarm) {
		for rings := 1; rings <= 3; rings++ {
			for range rings {
				a.Ring()
			}
			a.Sleep(forever)
			wantSleep(t, a, 5*time.Millisecond)
		}
		// One that rings when the time is over is for the next Sleep.
		wantSleep(t, a, time.Millisecond)
		a.Ring()
		a.Sleep(forever)
	})
}

func TestAlarmRingsDuringSleep(t *testing.T) {
	forEachAlarm(t, func(t *testing.T, a sysv.Alarm) {
		for range 50 {
			returned := make(chan struct{})
			go func() {
				defer close(returned)
				a.Sleep(forever)
			}()
			time.Sleep(100 * time.Microsecond) // so that it sleeps, most times
			select {
			case <-returned:
				t.Fatal("Sleep has returned, and nobody has rung")
			default:
			}
			a.Ring()
			<-returned
		}
	})
}

// TestAlarmIsNotMissed: what is done before Ring is seen behind the Sleep that it
// ends, at whatever moment it comes, from however many goroutines.
func TestAlarmIsNotMissed(t *testing.T) {
	const ringers, rounds = 3, 3000
	forEachAlarm(t, func(t *testing.T, a sysv.Alarm) {
		var done [ringers]atomic.Int64
		var all sync.WaitGroup
		next := make([]chan struct{}, ringers)
		for i := range ringers {
			next[i] = make(chan struct{}, 1)
			all.Go(func() {
				for range next[i] {
					if i == 1 {
						runtime.Gosched()
					}
					done[i].Add(1)
					a.Ring()
				}
			})
		}
		for round := int64(1); round <= rounds; round++ {
			for i := range next {
				next[i] <- struct{}{}
			}
			for i := range done {
				for done[i].Load() < round {
					a.Sleep(forever)
				}
			}
		}
		for i := range next {
			close(next[i])
		}
		all.Wait()
	})
}

// TestAlarmIsInterrupted: signals end no Sleep, and keep no Ring from doing so.
func TestAlarmIsInterrupted(t *testing.T) {
	forEachAlarm(t, func(t *testing.T, a sysv.Alarm) {
		tid := make(chan int)
		var stopped atomic.Bool
		var storm sync.WaitGroup
		defer storm.Wait()
		defer stopped.Store(true)
		storm.Go(func() {
			thread := <-tid
			for !stopped.Load() {
				// ESRCH: the thread has ended, with its goroutine.
				if err := unix.Tgkill(os.Getpid(), thread, syscall.SIGURG); err != nil && err != syscall.ESRCH {
					t.Error(err)
					return
				}
				time.Sleep(20 * time.Microsecond)
			}
		})
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid <- unix.Gettid()
		for range 5 {
			wantSleep(t, a, 10*time.Millisecond)
		}
		for n := range 200 {
			storm.Go(func() {
				time.Sleep(time.Duration(n) * time.Microsecond)
				a.Ring()
			})
			a.Sleep(forever)
		}
	})
}

// TestAlarmsAreIndependent: each wakes the one that sleeps on it.
func TestAlarmsAreIndependent(t *testing.T) {
	for name, newAlarm := range alarms {
		t.Run(name, func(t *testing.T) {
			const count = 8
			var all [count]sysv.Alarm
			woken := make(chan int, count)
			for i := range all {
				all[i] = newAlarm()
				go func() {
					all[i].Sleep(forever)
					woken <- i
				}()
			}
			for i := range all {
				all[i].Ring()
				if got := <-woken; got != i {
					t.Errorf("alarm %d rang, and the sleeper of %d woke", i, got)
				}
			}
		})
	}
}

// TestAlarmSleepsInTheKernel: the futex alarm uses no Go timer, and one thread sleeps.
func TestAlarmSleepsInTheKernel(t *testing.T) {
	a := sysv.Host().NewAlarm()
	tid := make(chan int)
	returned := make(chan struct{})
	go func() {
		defer close(returned)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tid <- unix.Gettid()
		a.Sleep(forever)
	}()
	file := fmt.Sprintf("/proc/self/task/%d/syscall", <-tid)
	if _, err := os.ReadFile(file); err != nil || sysvtest.Emulated() {
		a.Ring()
		<-returned
		t.Skipf("the system call of a thread cannot be seen here: %v", err)
	}
	sysvtest.Eventually(t, "the thread is in futex(2)", func() bool {
		text, err := os.ReadFile(file)
		var number int
		if _, scanErr := fmt.Sscan(string(text), &number); err != nil || scanErr != nil {
			return false // it runs
		}
		return number == unix.SYS_FUTEX
	})
	a.Ring()
	<-returned
}
