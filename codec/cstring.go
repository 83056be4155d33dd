package codec

import (
	"bytes"
	"fmt"
	"strings"
)

// CString returns the codec for text in a C array of n bytes, the char name[n]
// of struct { long mtype; char name[n]; }. It panics when n is not positive.
//
// Append fills the rest of the n bytes with NULs. Text of exactly n bytes is
// accepted too and then has no terminating NUL, as with strncpy(3). If the other
// program needs the NUL, send at most n-1 bytes. Text that is longer, or that
// contains a NUL, is an error: it is never truncated.
//
// Decode returns the bytes before the first NUL, or all n bytes if there is none;
// it ignores the bytes after the NUL. It also accepts a shorter message whose
// only NUL is its last byte, as sent by a program that passes strlen()+1 to
// msgsnd(2). Any other length is an error.
func CString(n int) Codec[string] {
	if n <= 0 {
		panic(fmt.Sprintf("codec: CString(%d): the size is not positive", n))
	}
	return cstringCodec(n)
}

type cstringCodec int

func (n cstringCodec) Append(dst []byte, v string) ([]byte, error) {
	if len(v) > int(n) {
		return dst, fmt.Errorf("codec: CString(%d): text of %d bytes", n, len(v))
	}
	if i := strings.IndexByte(v, 0); i >= 0 {
		return dst, fmt.Errorf("codec: CString(%d): text with a NUL at byte %d", n, i)
	}
	dst, field := extend(dst, int(n))
	clear(field[copy(field, v):])
	return dst, nil
}

func (n cstringCodec) Decode(src []byte, v *string) error {
	end := bytes.IndexByte(src, 0)
	switch {
	case len(src) > int(n):
		return fmt.Errorf("codec: CString(%d): message of %d bytes", n, len(src))
	case len(src) < int(n) && (end < 0 || end != len(src)-1):
		return fmt.Errorf("codec: CString(%d): message of %d bytes that does not end with its first NUL", n, len(src))
	case end < 0:
		end = int(n)
	}
	*v = string(src[:end])
	return nil
}
