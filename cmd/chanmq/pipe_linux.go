package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// isPipe reports whether the file is a pipe or a socket, whose reader may go away.
func isPipe(f *os.File) bool {
	info, err := f.Stat()
	return err == nil && info.Mode()&(os.ModeNamedPipe|os.ModeSocket) != 0
}

// readerGone reports whether nobody can read any more what is written to the pipe. It
// waits for that for a number of milliseconds; -1: for ever.
func readerGone(f *os.File, wait int) bool {
	for {
		fds := []unix.PollFd{{Fd: int32(f.Fd())}} // errors are always reported
		n, err := unix.Poll(fds, wait)
		if err == unix.EINTR {
			continue
		}
		return err == nil && n > 0 && fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
	}
}
