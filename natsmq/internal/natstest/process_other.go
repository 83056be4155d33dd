//go:build !linux

package natstest

import (
	"errors"
	"net"
	"testing"
)

// reservePort returns a port that is free now.
func reservePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", address(0))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// process is not there: a server that a killed test leaves would stay for ever.
type process struct{ config config }

func newProcess(c config) *process { return &process{config: c} }

func (p *process) start(t testing.TB) {
	t.Helper()
	t.Skip("servers in other processes are for Linux, which ends them with this one")
}

func (p *process) signal(testing.TB, signal) {}
func (p *process) running() bool             { return false }
func (p *process) ended() error              { return nil }
func (p *process) log() string               { return "" }

func (p *process) status() (status, error) { return status{}, errors.ErrUnsupported }
