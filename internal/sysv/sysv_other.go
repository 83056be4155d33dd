//go:build !linux

package sysv

import (
	"errors"
	"fmt"
	"os"
	"runtime"
)

// errUnsupported is the error of every call on systems other than Linux.
var errUnsupported = fmt.Errorf("System V message queues on %s: %w", runtime.GOOS, errors.ErrUnsupported)

// Host returns a kernel without message queues: each call returns an error
// matching errors.ErrUnsupported.
func Host() Kernel { return unsupported{} }

// FTok returns an error matching errors.ErrUnsupported.
func FTok(string, byte) (int32, error) { return -1, errUnsupported }

// Switches returns 0: no call waits in the kernel here.
func Switches() int64 { return 0 }

type unsupported struct{}

func (unsupported) Get(int32, int) (int, error)                { return -1, errUnsupported }
func (unsupported) Send(int, []byte) error                     { return errUnsupported }
func (unsupported) Receive(int, []byte, int, int) (int, error) { return 0, errUnsupported }
func (unsupported) Stat(int) (Stat, error)                     { return Stat{}, errUnsupported }
func (unsupported) Set(int, Attr) error                        { return errUnsupported }
func (unsupported) Remove(int) error                           { return errUnsupported }
func (unsupported) List() ([]Stat, error)                      { return nil, errUnsupported }
func (unsupported) Limits() (Limits, error)                    { return Limits{}, errUnsupported }
func (unsupported) NewThread() Thread                          { return unsupportedThread{} }
func (unsupported) NewAlarm() Alarm                            { return NewTimerAlarm() }
func (unsupported) UID() int                                   { return os.Geteuid() }
func (unsupported) Traits() Traits                             { return Traits{} }
func (k unsupported) Handle() Kernel                           { return k }
func (unsupported) Release()                                   {}

type unsupportedThread struct{}

func (unsupportedThread) Enter() bool                                { return false }
func (unsupportedThread) Send(int, []byte) error                     { return errUnsupported }
func (unsupportedThread) Receive(int, []byte, int, int) (int, error) { return 0, errUnsupported }
func (unsupportedThread) Interrupt()                                 {}
func (unsupportedThread) Leave()                                     {}
