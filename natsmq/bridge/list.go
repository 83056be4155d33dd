package bridge

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Found is the directory of a bridge, for those who look after a machine.
type Found struct {
	Path    string
	Lock    string // the file that the process which has the bridge has locked
	Journal string // the directory of journals, which have what was taken out of the kernel queue
	PID     int    // of the last process; 0: not known
	Spooled int    // messages that come in and were not noted as sent, at most one of each type
}

// List returns the bridges that there are files of in a directory, as of [WithDir]. It locks nothing. A
// directory that does not exist has none.
func List(dir string) ([]Found, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var list []Found
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		f := Found{Path: path, Lock: filepath.Join(path, lockFile), Journal: filepath.Join(path, journalDir)}
		pid, err := os.ReadFile(f.Lock)
		if err != nil {
			continue // it is none, or not finished
		}
		f.PID, _ = strconv.Atoi(strings.TrimSpace(string(pid))) // empty while it starts
		spools, err := filepath.Glob(filepath.Join(path, inPrefix+"*"))
		if err != nil {
			return nil, err
		}
		for _, spool := range spools {
			file, err := os.Open(spool)
			if err != nil {
				return nil, err
			}
			var phase [4]byte
			if _, err := file.ReadAt(phase[:], 0); err == nil && binary.NativeEndian.Uint32(phase[:]) != inEmpty {
				f.Spooled++
			}
			_ = file.Close() // it is only read
		}
		list = append(list, f)
	}
	return list, err
}
