package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/chanmq/chanmq/bench/internal/peer"
)

// This file is the ways beside chanmq to move large texts.

// framed is a stream of texts, each of them behind its length in 4 bytes. Nothing is copied but
// into the kernel and out of it.
type framed struct {
	in       io.Reader
	out      io.Writer
	received []byte

	length [4]byte // of what is sent, or received
	parts  [2][]byte
	toSend net.Buffers
}

func newFramed(in io.Reader, out io.Writer, a peer.Arguments) *framed {
	return &framed{in: in, out: out, received: peer.Text(a.Int("size", 64))}
}

func openUnixFramed(a peer.Arguments) (peer.Endpoint, error) {
	conn, err := unixConn(a)
	if err != nil {
		return nil, err
	}
	return newFramed(conn, conn, a), nil
}

// pipeSize is what a pipe holds, instead of 64 KiB: the default of fs.pipe-max-size.
const pipeSize = 1 << 20

func openPipeFramed(a peer.Arguments) (peer.Endpoint, error) {
	for _, name := range []string{"rfd", "wfd"} {
		// It is as it was where the system allows less.
		_, err := unix.FcntlInt(uintptr(a.Int(name, -1)), unix.F_SETPIPE_SZ, pipeSize)
		if err != nil && !errors.Is(err, unix.EPERM) {
			return nil, os.NewSyscallError("fcntl", err)
		}
	}
	ep, err := openPipe(a)
	if err != nil {
		return nil, err
	}
	p := ep.(*pipe)
	return newFramed(p.in, p.out, a), nil
}

func (f *framed) Reuse() int { return 0 }

// Send writes both parts with one call, if that is to a socket: writev(2).
func (f *framed) Send(p []byte) error {
	binary.NativeEndian.PutUint32(f.length[:], uint32(len(p)))
	f.parts = [2][]byte{f.length[:], p}
	f.toSend = f.parts[:]
	_, err := f.toSend.WriteTo(f.out)
	return err
}

func (f *framed) Receive() ([]byte, error) {
	if _, err := io.ReadFull(f.in, f.length[:]); err != nil {
		return nil, err
	}
	n := int(binary.NativeEndian.Uint32(f.length[:]))
	if n > len(f.received) {
		return nil, fmt.Errorf("%d bytes, not %d", n, len(f.received))
	}
	_, err := io.ReadFull(f.in, f.received[:n])
	return f.received[:n], err
}

// shared is texts in memory that both processes have mapped, and notices in queues: which slot
// has a text, and which one is free again.
type shared struct {
	in, out  int
	memory   []byte
	slot     int   // bytes of one
	free     []int // of the sender
	received []byte
}

// notice is a message as msgsnd(2) and msgrcv(2) have it.
type notice struct {
	typ          int
	slot, length int
}

// Types of notices.
const (
	isFull = 1 + iota
	isFree
)

// sharedSlots is enough for either side not to wait for the other at each text.
const sharedSlots = 4

func openShared(a peer.Arguments) (peer.Endpoint, error) {
	s := &shared{in: a.Int("in", -1), out: a.Int("out", -1), slot: a.Int("size", 64)}
	fd, size := a.Int("fd", -1), sharedSlots*s.slot
	// Where there is no space this is an error, and not a SIGBUS later on.
	if err := unix.Fallocate(fd, 0, 0, int64(size)); err != nil {
		return nil, os.NewSyscallError("fallocate", err)
	}
	var err error
	s.memory, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return nil, os.NewSyscallError("mmap", err)
	}
	for i := range sharedSlots {
		s.free = append(s.free, i)
	}
	s.received = peer.Text(s.slot)
	return s, nil
}

func (n *notice) bytes() []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(n)), unsafe.Sizeof(*n))
}

func (s *shared) Reuse() int { return 0 }

func (s *shared) Send(p []byte) error {
	if len(s.free) == 0 {
		var n notice
		if _, err := msgrcvBlocking(s.in, n.bytes(), isFree); err != nil {
			return err
		}
		s.free = append(s.free, n.slot)
	}
	last := len(s.free) - 1
	n := notice{typ: isFull, slot: s.free[last], length: len(p)}
	s.free = s.free[:last]
	copy(s.text(&n), p)
	return msgsnd(s.out, n.bytes(), 0)
}

func (s *shared) Receive() ([]byte, error) {
	var n notice
	if _, err := msgrcvBlocking(s.in, n.bytes(), isFull); err != nil {
		return nil, err
	}
	p := s.received[:copy(s.received, s.text(&n))]
	n.typ = isFree
	return p, msgsnd(s.out, n.bytes(), 0)
}

// text is the memory that the notice is about.
func (s *shared) text(n *notice) []byte {
	return s.memory[n.slot*s.slot:][:n.length]
}

// playCopy is what every text of all systems costs that is copied twice, without any message:
// from a buffer that is warm into a second one, and from there into a third one.
func playCopy(p *peer.Peer) error {
	size, window := p.Args.Int("size", 64), int64(p.Args.Duration("window"))
	from, over, to := peer.Text(size), peer.Text(size), peer.Text(size)
	if err := p.Ready(""); err != nil {
		return err
	}
	start, startCPU, n := peer.Now(), peer.CPUTime(), int64(0)
	for t := start; t < start+window; t = peer.Now() {
		n++
		binary.NativeEndian.PutUint64(from, uint64(n))
		copy(over, from)
		copy(to, over)
		if peer.Stamp(to) != n {
			return fmt.Errorf("text %d is text %d", n, peer.Stamp(to))
		}
	}
	p.Figure("ns_per_message", float64(peer.Now()-start)/float64(n))
	p.Figure("cpu_ns_per_message", float64(peer.CPUTime()-startCPU)/float64(n))
	return nil
}
