//go:build !linux

package sysv

import "time"

// The calls on files that are kept across the death of a process return an error
// matching errors.ErrUnsupported.

// OpenDir is not supported here.
func OpenDir(string) (int, error) { return -1, errUnsupported }

// CreateFile is not supported here.
func CreateFile(int, string) (int, error) { return -1, errUnsupported }

// OpenFile is not supported here.
func OpenFile(int, string, bool) (int, error) { return -1, errUnsupported }

// CloseFile is not supported here.
func CloseFile(int) error { return errUnsupported }

// StatFile is not supported here.
func StatFile(int) (FileInfo, error) { return FileInfo{}, errUnsupported }

// StatName is not supported here.
func StatName(int, string) (FileInfo, error) { return FileInfo{}, errUnsupported }

// RenameFile is not supported here.
func RenameFile(int, string, string) error { return errUnsupported }

// RemoveFile is not supported here.
func RemoveFile(int, string) error { return errUnsupported }

// TryLock is not supported here.
func TryLock(int) (bool, error) { return false, errUnsupported }

// Allocate is not supported here.
func Allocate(int, int64, int64) error { return errUnsupported }

// Space is not supported here.
func Space(int) (tmpfs bool, free uint64, err error) { return false, 0, errUnsupported }

// Map is not supported here.
func Map(int, int64, int) ([]byte, error) { return nil, errUnsupported }

// Unmap is not supported here.
func Unmap([]byte) error { return errUnsupported }

// ReadAt is not supported here.
func ReadAt(int, []byte, int64) error { return errUnsupported }

// WriteAt is not supported here.
func WriteAt(int, []byte, int64) error { return errUnsupported }

// IPCNamespace is not supported here.
func IPCNamespace() (dev, ino, id uint64, initial bool, err error) {
	return 0, 0, 0, false, errUnsupported
}

// BootTime returns 0: it orders journals, of which there are none here.
func BootTime() int64 { return 0 }

// Watch is not supported here.
type Watch struct{}

// WatchDir is not supported here.
func WatchDir(string) (*Watch, error) { return nil, errUnsupported }

// Events is not supported here.
func (*Watch) Events(time.Time) ([]Event, error) { return nil, errUnsupported }

// Close is not supported here.
func (*Watch) Close() error { return errUnsupported }
