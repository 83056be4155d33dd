package journal

import (
	"os"

	"github.com/chanmq/chanmq/internal/sysv"
)

// Texts calls f with the text of each message in a journal, whoever has it now. It locks
// nothing, so what it reads may change meanwhile; it fails if that does not fit together. The
// error matches fs.ErrNotExist if there is no such file.
func Texts(path string, f func(text []byte)) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	h, err := readHeader(file, info.Size())
	if err != nil {
		return &UnreadableError{Path: path, Reason: err.Error()}
	}
	slots, _, err := readSlots(file, h)
	if err != nil {
		return &UnreadableError{Path: path, Reason: err.Error()}
	}
	for _, s := range slots {
		f(s.Text())
	}
	return nil
}

// IdentityOf is Identify for a queue whose state is known, to those who may not read it.
func IdentityOf(k sysv.Kernel, stat sysv.Stat) (Identity, error) {
	id, err := here(k)
	if err != nil {
		return Identity{}, err
	}
	id.ID = stat.ID
	id.Key = stat.Key
	id.CreatorUID, id.CreatorGID = stat.CreatorUID, stat.CreatorGID
	id.Changed = stat.ChangeTime
	return id, nil
}
