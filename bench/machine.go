package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine is where a run was made.
type machine struct {
	CPU     string `json:"cpu"`
	Cores   int    `json:"cores"`
	Virtual bool   `json:"virtual"`
	Kernel  string `json:"kernel"`
	Arch    string `json:"arch"`
	Go      string `json:"go"`
	CC      string `json:"cc"`
	MsgMax  string `json:"msgmax"`
	MsgMnb  string `json:"msgmnb"`
}

func thisMachine() machine {
	m := machine{
		CPU:    "unknown CPU",
		Cores:  runtime.NumCPU(),
		Arch:   runtime.GOARCH,
		Go:     runtime.Version(),
		CC:     "cc",
		MsgMax: firstLine("/proc/sys/kernel/msgmax"),
		MsgMnb: firstLine("/proc/sys/kernel/msgmnb"),
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			name, value, _ := strings.Cut(line, ":")
			switch strings.TrimSpace(name) {
			case "model name":
				m.CPU = strings.TrimSpace(value)
			case "flags":
				m.Virtual = strings.Contains(value+" ", " hypervisor ")
			}
		}
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err == nil {
		// What follows the version is the builder's own naming.
		m.Kernel, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	}
	if out, err := exec.Command("cc", "--version").Output(); err == nil {
		line, _, _ := bytes.Cut(out, []byte("\n"))
		m.CC = string(line)
	}
	return m
}

// loadAverage is that of the last minute. A run makes load itself, up to one for
// each core and a little more.
func loadAverage() string {
	load, _, _ := strings.Cut(firstLine("/proc/loadavg"), " ")
	return load
}

func firstLine(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return line
}

func (m machine) String() string {
	virtual := ""
	if m.Virtual {
		virtual = ", virtual machine"
	}
	return fmt.Sprintf("%s, %d cores (%s)%s, Linux %s, %s, %s, msgmax %s, msgmnb %s",
		m.CPU, m.Cores, m.Arch, virtual, m.Kernel, m.Go, m.CC, m.MsgMax, m.MsgMnb)
}
