//go:build linux

package large

import (
	"fmt"
	"testing"
)

// BenchmarkStore is what a text costs: into a file and out of it, beside two copies in memory.
func BenchmarkStore(b *testing.B) {
	for _, size := range []int{64 << 10, 1 << 20, 64 << 20} {
		text, dst := make([]byte, size), make([]byte, size)
		for i := range text {
			text[i], dst[i] = byte(i), 1
		}
		s := open(b, newDir(b), newQueue(b))
		run := func(name string, do func(f *File) error) {
			b.Run(fmt.Sprintf("%s/%dKiB", name, size>>10), func(b *testing.B) {
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					p, err := s.Put(text)
					if err != nil {
						b.Fatal(err)
					}
					l := s.Begin()
					f := s.Take(p.Ref, l)
					l.End()
					p.Sent()
					if err := do(f); err != nil {
						b.Fatal(err)
					}
					f.Remove()
				}
			})
		}
		run("put", func(*File) error { return nil })
		run("read", func(f *File) error { _, err := f.Read(dst[:0]); return err })
		run("borrow", func(f *File) error { _, err := f.Borrow(); return err })
		b.Run(fmt.Sprintf("two copies/%dKiB", size>>10), func(b *testing.B) {
			b.SetBytes(int64(size))
			other := make([]byte, size)
			for b.Loop() {
				copy(other, text)
				copy(dst, other)
			}
		})
	}
}
