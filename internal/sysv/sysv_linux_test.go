package sysv_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/internal/sysvtest"
)

func TestKernel(t *testing.T) { sysvtest.Run(t, sysvtest.Host) }

// ftokC prints the result of ftok(3) for its arguments.
const ftokC = `
#include <stdio.h>
#include <stdlib.h>
#include <sys/ipc.h>
int main(int argc, char **argv) { printf("%d", (int)ftok(argv[1], atoi(argv[2]))); return 0; }
`

// ftokPerl does the same. Perl takes the project id as a number, or as a string of one character.
const ftokPerl = `use IPC::SysV qw(ftok); printf "%d", unpack "l", pack "l", ftok($ARGV[0], int $ARGV[1]);`

func TestFTokAgreesWithOthers(t *testing.T) {
	for _, other := range []struct {
		name    string
		command func(*testing.T) []string
	}{
		{"C", func(t *testing.T) []string {
			dir := t.TempDir()
			source, program := filepath.Join(dir, "ftok.c"), filepath.Join(dir, "ftok")
			if err := os.WriteFile(source, []byte(ftokC), 0o600); err != nil {
				t.Fatal(err)
			}
			cc := need(t, "cc")
			if out, err := exec.Command(cc, "-o", program, source).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			return []string{program}
		}},
		{"Perl", func(t *testing.T) []string {
			perl := need(t, "perl")
			if out, err := exec.Command(perl, "-MIPC::SysV", "-e", "").CombinedOutput(); err != nil {
				t.Skipf("this Perl has no IPC::SysV: %s", out)
			}
			return []string{perl, "-e", ftokPerl}
		}},
	} {
		t.Run(other.name, func(t *testing.T) {
			command := other.command(t)
			dir := t.TempDir()
			link := filepath.Join(dir, "link")
			if err := os.Symlink("/", link); err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{dir, link, "/", ".", "/dev/null", "/proc", "/proc/version", "sysv_linux_test.go"} {
				for _, proj := range []byte{0, 1, 'a', 127, 128, 255} {
					out, err := exec.Command(command[0], append(command[1:], path, strconv.Itoa(int(proj)))...).Output()
					if err != nil {
						t.Fatal(err)
					}
					key, err := sysv.FTok(path, proj)
					if err != nil {
						t.Fatalf("FTok(%q, %d) = %v", path, proj, err)
					}
					if got, want := strconv.Itoa(int(key)), string(out); got != want {
						t.Errorf("FTok(%q, %d) = %s, %s says %s", path, proj, got, other.name, want)
					}
				}
			}
		})
	}
}

// need returns the path of a program, or skips the test.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("needs %s: %v", program, err)
	}
	return path
}

func TestFTokErrors(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	loop := filepath.Join(dir, "loop")
	if err := os.Symlink(loop, loop); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path string
		want       error
	}{
		{"a missing file", filepath.Join(dir, "none"), fs.ErrNotExist},
		{"an empty name", "", fs.ErrNotExist},
		{"a file below a file", filepath.Join(file, "x"), syscall.ENOTDIR},
		{"a link to itself", loop, syscall.ELOOP},
		{"a name that is too long", strings.Repeat("x", 1000), syscall.ENAMETOOLONG},
		{"a name with a zero byte", "a\x00b", sysv.EINVAL},
	} {
		t.Run(c.name, func(t *testing.T) {
			if key, err := sysv.FTok(c.path, 1); key != -1 || !errors.Is(err, c.want) {
				t.Errorf("FTok = %d, %v; want -1, %v", key, err, c.want)
			}
		})
	}
	t.Run("a directory without search permission", func(t *testing.T) {
		nobody := sysvtest.Host(t).As(t, 65534, 65534)
		if err := os.Chmod(dir, 0); err != nil {
			t.Fatal(err)
		}
		err := nobody(func(sysv.Kernel) error { _, err := sysv.FTok(file, 1); return err })
		if !errors.Is(err, fs.ErrPermission) {
			t.Errorf("FTok = %v, want %v", err, fs.ErrPermission)
		}
	})
}
