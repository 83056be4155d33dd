package main

import (
	"bufio"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/bench/internal/peer"
)

// endpointKinds are those of this program as a peer. What is named "-channel"
// hands received messages over on a Go channel, as a program that selects needs
// it.
var endpointKinds = peer.Kinds{
	"chanmq":          openChannels,
	"chanmq-receive":  openReceiver,
	"chanmq-direct":   openDirect,
	"chanmq-into":     openInto,
	"chanmq-struct":   openStruct,
	"chanmq-consumer": func(a peer.Arguments) (peer.Endpoint, error) { return openConsumer(a) },
	"chanmq-borrowed": func(a peer.Arguments) (peer.Endpoint, error) {
		return openConsumer(a, chanmq.WithBorrowedValues())
	},
	"msgrcv":         openMsgrcv,
	"msgrcv-channel": func(a peer.Arguments) (peer.Endpoint, error) { return pumped(openMsgrcv(a)) },
	"unix":           openUnix,
	"unix-channel":   func(a peer.Arguments) (peer.Endpoint, error) { return pumped(openUnix(a)) },
	"pipe":           openPipe,
	"unix-bufio":     openUnixStream,
	"pipe-bufio":     func(a peer.Arguments) (peer.Endpoint, error) { return streamed(openPipe(a)) },
	"unix-framed":    openUnixFramed,
	"pipe-framed":    openPipeFramed,
	"shared":         openShared,
}

// msgrcv is what a wrapper of the system calls does: they block, and the Go
// scheduler is told. It stands in for the packages of that form.
type msgrcv struct {
	in, out          int
	received, toSend []byte // type and text
}

const typeSize = int(unsafe.Sizeof(int(0))) // C's long is Go's int on Linux

func openMsgrcv(a peer.Arguments) (peer.Endpoint, error) {
	return &msgrcv{
		in:       a.Int("in", -1),
		out:      a.Int("out", -1),
		received: alignedBuffer(typeSize + peer.MaxText),
		toSend:   alignedBuffer(typeSize + peer.MaxText),
	}, nil
}

func alignedBuffer(n int) []byte {
	words := make([]int, (n+typeSize-1)/typeSize)
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), n)
}

func (m *msgrcv) Reuse() int { return 0 }

func (m *msgrcv) Send(p []byte) error {
	*(*int)(unsafe.Pointer(&m.toSend[0])) = 1
	copy(m.toSend[typeSize:], p)
	return msgsnd(m.out, m.toSend[:typeSize+len(p)], 0)
}

func (m *msgrcv) Receive() ([]byte, error) {
	n, err := msgrcvBlocking(m.in, m.received, 0)
	return m.received[typeSize : typeSize+n], err
}

// msgsnd sends a type and a text. It blocks unless flags hold IPC_NOWAIT.
func msgsnd(id int, msg []byte, flags int) error {
	for {
		_, _, errno := unix.Syscall6(unix.SYS_MSGSND, uintptr(id), uintptr(unsafe.Pointer(&msg[0])),
			uintptr(len(msg)-typeSize), uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		default:
			return os.NewSyscallError("msgsnd", errno)
		}
	}
}

// msgrcvBlocking waits for a message of the type, and returns its text's size.
func msgrcvBlocking(id int, buf []byte, msgtyp int) (int, error) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_MSGRCV, uintptr(id), uintptr(unsafe.Pointer(&buf[0])),
			uintptr(len(buf)-typeSize), uintptr(msgtyp), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, os.NewSyscallError("msgrcv", errno)
		}
	}
}

// channel is an endpoint whose messages a goroutine puts into a Go channel.
type channel struct {
	peer.Endpoint
	c   chan []byte
	err error // set before c is closed
}

func pumped(ep peer.Endpoint, err error) (peer.Endpoint, error) {
	if err != nil {
		return nil, err
	}
	c := &channel{Endpoint: ep, c: make(chan []byte)}
	go func() {
		defer close(c.c)
		for {
			p, err := ep.Receive()
			if err != nil {
				c.err = err
				return
			}
			c.c <- append([]byte(nil), p...)
		}
	}()
	return c, nil
}

func (c *channel) Receive() ([]byte, error) {
	p, ok := <-c.c
	if !ok {
		return nil, c.err
	}
	return p, nil
}

// unixSocket is one end of a SOCK_SEQPACKET pair, which keeps the bounds of
// messages as a queue does.
type unixSocket struct {
	conn     net.Conn
	received []byte
}

func openUnix(a peer.Arguments) (peer.Endpoint, error) {
	conn, err := unixConn(a)
	if err != nil {
		return nil, err
	}
	return &unixSocket{conn: conn, received: make([]byte, peer.MaxText)}, nil
}

// unixConn is this side's end of a pair.
func unixConn(a peer.Arguments) (net.Conn, error) {
	f := os.NewFile(uintptr(a.Int("fd", -1)), "socket")
	conn, err := net.FileConn(f) // a duplicate, without blocking
	if err != nil {
		return nil, err
	}
	return conn, f.Close()
}

func (u *unixSocket) Reuse() int { return 0 }

func (u *unixSocket) Send(p []byte) error {
	_, err := u.conn.Write(p)
	return err
}

func (u *unixSocket) Receive() ([]byte, error) {
	n, err := u.conn.Read(u.received)
	return u.received[:n], err
}

// openUnixStream is one end of a SOCK_STREAM pair.
func openUnixStream(a peer.Arguments) (peer.Endpoint, error) {
	conn, err := unixConn(a)
	if err != nil {
		return nil, err
	}
	return newStream(conn, conn, a.Int("size", 64)), nil
}

func streamed(ep peer.Endpoint, err error) (peer.Endpoint, error) {
	if err != nil {
		return nil, err
	}
	p := ep.(*pipe)
	return newStream(p.in, p.out, len(p.received)), nil
}

// stream is a stream with bufio on both ends, each of which a goroutine connects to a Go
// channel. Its messages are all of one size. What is written waits for no more: the writer
// is flushed when the channel is empty.
type stream struct {
	received chan []byte
	toSend   chan []byte
	failed   chan struct{} // closed when one of the goroutines has ended
	fail     func(error)
	err      error // set before failed is closed
}

// streamBuffer is the room of the channels, as of "channels of 256", and of the writers and
// readers, as of a message of the default msgmax.
const (
	streamBuffer = 256
	streamBytes  = 8192
)

func newStream(in io.Reader, out io.Writer, size int) *stream {
	s := &stream{received: make(chan []byte, streamBuffer), toSend: make(chan []byte, streamBuffer), failed: make(chan struct{})}
	var once sync.Once
	s.fail = func(err error) {
		once.Do(func() {
			s.err = err
			close(s.failed)
		})
	}
	go s.read(bufio.NewReaderSize(in, streamBytes), size)
	go s.write(bufio.NewWriterSize(out, streamBytes))
	return s
}

func (s *stream) read(in *bufio.Reader, size int) {
	for {
		p := make([]byte, size)
		if _, err := io.ReadFull(in, p); err != nil {
			s.fail(err)
			return
		}
		s.received <- p
	}
}

func (s *stream) write(out *bufio.Writer) {
	for p := range s.toSend {
		_, err := out.Write(p)
		if err == nil && len(s.toSend) == 0 {
			err = out.Flush()
		}
		if err != nil {
			s.fail(err)
			return
		}
	}
}

func (s *stream) Reuse() int { return streamBuffer + 2 }

func (s *stream) Send(p []byte) error {
	select {
	case s.toSend <- p:
		return nil
	case <-s.failed:
		return s.err
	}
}

func (s *stream) Receive() ([]byte, error) {
	select {
	case p := <-s.received:
		return p, nil
	case <-s.failed:
		return nil, s.err
	}
}

// pipe is a pipe to each side. Its messages are all of one size, since a pipe
// keeps no bounds.
type pipe struct {
	in, out  *os.File
	received []byte
}

func openPipe(a peer.Arguments) (peer.Endpoint, error) {
	p := &pipe{received: make([]byte, a.Int("size", 64))}
	for name, f := range map[string]**os.File{"rfd": &p.in, "wfd": &p.out} {
		fd := a.Int(name, -1)
		if fd < 0 {
			continue
		}
		// Files that do not block wait in the runtime's poller.
		if err := syscall.SetNonblock(fd, true); err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		*f = os.NewFile(uintptr(fd), name)
	}
	return p, nil
}

func (p *pipe) Reuse() int { return 0 }

func (p *pipe) Send(b []byte) error {
	_, err := p.out.Write(b)
	return err
}

func (p *pipe) Receive() ([]byte, error) {
	_, err := io.ReadFull(p.in, p.received)
	return p.received, err
}
