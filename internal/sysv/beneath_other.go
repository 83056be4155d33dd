//go:build !linux

package sysv

// The calls on files of larger texts return an error matching errors.ErrUnsupported.

// OpenDirAt is not supported here.
func OpenDirAt(int, string) (int, error) { return -1, errUnsupported }

// MakeDir is not supported here.
func MakeDir(int, string) error { return errUnsupported }

// RemoveDir is not supported here.
func RemoveDir(int, string) error { return errUnsupported }

// Names is not supported here.
func Names(int) ([]string, error) { return nil, errUnsupported }

// CreateUnnamed is not supported here.
func CreateUnnamed(int) (int, error) { return -1, errUnsupported }

// NameFile is not supported here.
func NameFile(int, int, string) error { return errUnsupported }

// LinkName is not supported here.
func LinkName(int, string, int, string) error { return errUnsupported }

// OpenBeneath is not supported here.
func OpenBeneath(int, string) (int, error) { return -1, errUnsupported }

// SetPerm is not supported here.
func SetPerm(int, uint32) error { return errUnsupported }

// SetOwner is not supported here.
func SetOwner(int, int, int) error { return errUnsupported }

// Lock is one of the two locks of a file, of which there are none here.
type Lock int

const (
	TextLock Lock = iota
	KeptLock
)

// Share is not supported here.
func Share(int) error { return errUnsupported }

// Unlock is not supported here.
func Unlock(int) error { return errUnsupported }

// Locked is not supported here.
func (Lock) Locked(int) (bool, error) { return false, errUnsupported }

// Truncate is not supported here.
func Truncate(int, int64) error { return errUnsupported }

// MaxFiles returns 0.
func MaxFiles() int { return 0 }

// WriteAllAt is not supported here.
func WriteAllAt(int, []byte, int64) error { return errUnsupported }

// MapRead is not supported here.
func MapRead(int, int) ([]byte, error) { return nil, errUnsupported }

// MapWrite is not supported here.
func MapWrite(int, int) ([]byte, error) { return nil, errUnsupported }

// NoUnnamedFiles is false here.
func NoUnnamedFiles(error) bool { return false }
