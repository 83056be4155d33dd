package natsmq

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq/internal/sysv"
)

// A receive behind Release gets nothing of what was leased in advance, nor anything else.
func TestLateReceive(t *testing.T) {
	s := newLeaseServer(t)
	a, b := s.cluster().leaser(t), s.cluster().leaser(t)
	id := b.create()
	const total = 200
	for i := range total {
		b.send(id, 1, strconv.Itoa(i))
	}
	for i := range total / 2 { // fast, so that it has some in advance
		a.ack(a.want(id, 0, 0, strconv.Itoa(i), 1))
	}
	thread := a.NewThread().(sysv.LeasingThread)
	a.Release()
	for _, msgtyp := range []int{0, 1, -1} {
		if n, l, err := a.ReceiveLeased(id, sysv.Buffer(9), msgtyp, 0); l != nil || err == nil || errors.Is(err, sysv.ENOMSG) {
			t.Errorf("type %d: a late receive returns %d, %v, %v", msgtyp, n, l, err)
		}
		if n, l, err := thread.ReceiveLeased(id, sysv.Buffer(9), msgtyp, 0); l != nil || err == nil {
			t.Errorf("type %d: a late receive that waits returns %d, %v, %v", msgtyp, n, l, err)
		}
	}
	// All that it had comes to others, though not always before what is newer.
	left := make(map[string]bool)
	for i := total / 2; i < total; i++ {
		left[strconv.Itoa(i)] = true
	}
	for len(left) > 0 {
		text, l := b.take(id, 0, 0, 10*time.Second)
		if l == nil || !left[text] {
			t.Fatalf("%q came, with %d to come", text, len(left))
		}
		delete(left, text)
		b.ack(l)
	}
	b.Release()
}

// Calls behind Cluster.Close fail at once, and say why.
func TestLateCalls(t *testing.T) {
	s := newLeaseServer(t)
	c := s.cluster()
	a := c.leaser(t)
	id := a.create()
	a.send(id, 1, "x")
	a.send(id, 2, "y")
	l := a.want(id, 1, 0, "x", 1)
	released := a.want(id, 2, 0, "y", 1)
	kernel, thread := a.handle, a.NewThread().(sysv.LeasingThread)
	msg := sysv.Buffer(1)
	sysv.PutType(msg, 1)
	closed := func(what string, err error) {
		t.Helper()
		if err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s returns %v, and not that the cluster is closed", what, err)
		}
	}
	if err := c.Close(); err == nil {
		t.Error("Close does not say that a handle is open")
	}
	began := time.Now()
	for _, call := range []struct {
		what string
		do   func() error
	}{
		{"Ack", l.Ack},
		{"Get", func() error { _, err := kernel.Get(7, sysv.Create|0o600); return err }},
		{"Get private", func() error { _, err := kernel.Get(sysv.KeyPrivate, 0o600); return err }},
		{"Send", func() error { return kernel.Send(id, msg) }},
		{"Receive", func() error { _, err := kernel.Receive(id, sysv.Buffer(9), 0, 0); return err }},
		{"Receive with Copy", func() error { _, err := kernel.Receive(id, sysv.Buffer(9), 0, sysv.Copy); return err }},
		{"ReceiveLeased", func() error { _, _, err := kernel.ReceiveLeased(id, sysv.Buffer(9), 0, 0); return err }},
		{"Stat", func() error { _, err := kernel.Stat(id); return err }},
		{"Set", func() error { return kernel.Set(id, sysv.Attr{Mode: 0o600, MaxBytes: 1}) }},
		{"Remove", func() error { return kernel.Remove(id) }},
		{"List", func() error { _, err := kernel.List(); return err }},
		{"Limits", func() error { _, err := kernel.Limits(); return err }},
		{"Thread.Send", func() error { return thread.Send(id, msg) }},
		{"Thread.Receive", func() error { _, err := thread.Receive(id, sysv.Buffer(9), 0, 0); return err }},
		{"Thread.ReceiveLeased", func() error { _, _, err := thread.ReceiveLeased(id, sysv.Buffer(9), 0, 0); return err }},
		{"Thread.ReceiveLeased up to", func() error { _, _, err := thread.ReceiveLeased(id, sysv.Buffer(9), -3, 0); return err }},
	} {
		closed(call.what, call.do())
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the late calls took %v", took)
	}
	released.Release()
	kernel.Release()
	late := c.leaser(t)
	_, _, err := late.ReceiveLeased(id, sysv.Buffer(9), 0, 0)
	closed("ReceiveLeased of a late handle", err)
	late.Release()
}
