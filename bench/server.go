package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// errNotInstalled is the failure of a case whose server this machine does not have.
var errNotInstalled = errors.New("not installed")

// server is one that peers connect to, and that a session starts.
type server struct {
	cmd    *exec.Cmd
	output bytes.Buffer // to be read behind done
	done   chan struct{}
}

// redis starts a Redis server for the session alone, and returns the name of its socket.
// It stores nothing, or with appendOnly each change, and calls fsync once a second.
func (s *session) redis(appendOnly bool) (socket string, err error) {
	program, err := exec.LookPath("redis-server")
	if err != nil {
		return "", fmt.Errorf("redis-server: %w", errNotInstalled)
	}
	dir, err := s.scratch(onDisk)
	if err != nil {
		return "", err
	}
	socket = filepath.Join(dir, "socket")
	stores := "no"
	if appendOnly {
		stores = "yes"
	}
	srv := &server{
		cmd: exec.Command(program, "--port", "0", "--unixsocket", socket, "--dir", dir,
			"--save", "", "--appendonly", stores, "--appendfsync", "everysec"),
		done: make(chan struct{}),
	}
	srv.cmd.Stdout, srv.cmd.Stderr = &srv.output, &srv.output
	srv.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := srv.cmd.Start(); err != nil {
		return "", err
	}
	s.servers = append(s.servers, srv)
	go func() {
		defer close(srv.done)
		_ = srv.cmd.Wait() // it is killed, or await says what its output is
	}()
	return socket, srv.await(s.ctx, socket)
}

// await waits until the server listens on the socket.
func (srv *server) await(ctx context.Context, socket string) error {
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(time.Millisecond):
		case <-srv.done:
			return fmt.Errorf("%s: %w: %s", filepath.Base(srv.cmd.Path), errEarly, excerpt(srv.output.Bytes()))
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), err)
		}
	}
}

func (srv *server) end() error {
	err := srv.cmd.Process.Kill()
	<-srv.done
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

const (
	shmDir        = "/dev/shm"
	scratchPrefix = "chanmq-bench-files-"
)

// scratch makes a directory that the session removes, and returns "" if none is needed.
func (s *session) scratch(where scratch) (string, error) {
	parent := ""
	switch where {
	case noFiles:
		return "", nil
	case onTmpfs:
		parent = shmDir
	}
	dir, err := os.MkdirTemp(parent, scratchPrefix+"*") // with mode 0700
	if err != nil {
		return "", err
	}
	s.dirs = append(s.dirs, dir)
	lock, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	s.files = append(s.files, lock)
	// See removeAbandoned. It may have had the directory just now, and removed it.
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH); err != nil {
		return "", os.NewSyscallError("flock", err)
	}
	_, err = os.Stat(dir)
	return dir, err
}

// removeAbandoned removes from parent what runs have left that were killed: their directories
// are in memory and may be large. Those that somebody uses are locked.
func removeAbandoned(parent string) error {
	dirs, err := filepath.Glob(filepath.Join(parent, scratchPrefix+"*"))
	for _, dir := range dirs {
		lock, openErr := os.Open(dir)
		if openErr != nil {
			continue // another user's, or gone
		}
		if unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
		err = errors.Join(err, lock.Close())
	}
	return err
}
