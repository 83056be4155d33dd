//go:build !linux

package sysv_test

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/internal/sysv"
)

func TestEveryCallIsUnsupported(t *testing.T) {
	k := sysv.Host()
	th := k.NewThread()
	msg := sysv.Buffer(1)
	calls := map[string]func() error{
		"FTok":    func() error { _, err := sysv.FTok(".", 1); return err },
		"Get":     func() error { _, err := k.Get(sysv.KeyPrivate, sysv.Create); return err },
		"Send":    func() error { return k.Send(0, msg) },
		"Receive": func() error { _, err := k.Receive(0, msg, 0, 0); return err },
		"Stat":    func() error { _, err := k.Stat(0); return err },
		"Set":     func() error { return k.Set(0, sysv.Attr{}) },
		"Remove":  func() error { return k.Remove(0) },
		"List":    func() error { _, err := k.List(); return err },
		"Limits":  func() error { _, err := k.Limits(); return err },

		"OpenDir":      func() error { _, err := sysv.OpenDir("."); return err },
		"CreateFile":   func() error { _, err := sysv.CreateFile(0, "file"); return err },
		"OpenFile":     func() error { _, err := sysv.OpenFile(0, "file", true); return err },
		"CloseFile":    func() error { return sysv.CloseFile(0) },
		"StatFile":     func() error { _, err := sysv.StatFile(0); return err },
		"StatName":     func() error { _, err := sysv.StatName(0, "file"); return err },
		"RenameFile":   func() error { return sysv.RenameFile(0, "file", "other") },
		"RemoveFile":   func() error { return sysv.RemoveFile(0, "file") },
		"TryLock":      func() error { _, err := sysv.TryLock(0); return err },
		"Allocate":     func() error { return sysv.Allocate(0, 0, 1) },
		"Space":        func() error { _, _, err := sysv.Space(0); return err },
		"Map":          func() error { _, err := sysv.Map(0, 0, 1); return err },
		"Unmap":        func() error { return sysv.Unmap(nil) },
		"ReadAt":       func() error { return sysv.ReadAt(0, nil, 0) },
		"WriteAt":      func() error { return sysv.WriteAt(0, nil, 0) },
		"IPCNamespace": func() error { _, _, _, _, err := sysv.IPCNamespace(); return err },
		"WatchDir":     func() error { _, err := sysv.WatchDir("."); return err },

		"Thread.Send":    func() error { return th.Send(0, msg) },
		"Thread.Receive": func() error { _, err := th.Receive(0, msg, 0, 0); return err },
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			err := call()
			if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), runtime.GOOS) {
				t.Errorf("got %v, want an error matching errors.ErrUnsupported that names the system", err)
			}
		})
	}
	if th.Enter() {
		t.Error("Enter reports that a call could be interrupted")
	}
	th.Interrupt() // has no effect, like Leave
	th.Leave()
	if key, _ := sysv.FTok(".", 1); key != -1 {
		t.Errorf("FTok = %d, want -1", key)
	}
	if id, _ := k.Get(sysv.KeyPrivate, sysv.Create); id != -1 {
		t.Errorf("Get = %d, want -1", id)
	}
}
