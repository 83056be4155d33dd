package main

import (
	"bufio"
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed c/peer.c
var cSource string

// programs are what peers run: this program, the C one, and those that are programs of
// their own for what they link.
type programs struct {
	self, c string
	others  map[string]built // by the name of their package
}

// built is a program that was compiled.
type built struct {
	path string
	err  error // why there is none
}

// peerPackage names the package of the peers of a link, "" where that is this program.
func (l linkKind) peerPackage() string {
	switch l {
	case natsLink:
		return "natspeer"
	case redisLink, redisFileLink:
		return "redispeer"
	case rpcLink:
		return "rpcpeer"
	}
	return ""
}

// compile builds the C peer in dir, and those others that one of the cases needs. Without
// C there is nothing to compare with; without another only its cases fail.
func compile(ctx context.Context, dir string, cases []benchmark) (programs, error) {
	self, err := os.Executable()
	if err != nil {
		return programs{}, err
	}
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	p := programs{self: self, c: filepath.Join(dir, "peer"), others: make(map[string]built)}
	cmd := exec.CommandContext(ctx, cc, "-O2", "-Wall", "-x", "c", "-o", p.c, "-")
	cmd.Stdin = strings.NewReader(cSource)
	if out, err := cmd.CombinedOutput(); err != nil {
		return programs{}, fmt.Errorf("compiling the C baseline with %s (set CC to use another): %w\n%s", cc, err, out)
	}
	for _, b := range cases {
		name := b.link.peerPackage()
		if _, ok := p.others[name]; ok || name == "" {
			continue
		}
		other := built{path: filepath.Join(dir, name)}
		// As go run does, it builds where git does not trust the folder's owner.
		cmd = exec.CommandContext(ctx, "go", "build", "-buildvcs=false", "-o", other.path, "github.com/chanmq/chanmq/bench/"+name)
		if out, err := cmd.CombinedOutput(); err != nil {
			other.err = fmt.Errorf("compiling %s: %w: %s", name, err, excerpt(out))
		}
		p.others[name] = other
	}
	return p, nil
}

// session is one run of one case: its queues, processes and files, none of which
// outlives it.
type session struct {
	ctx      context.Context
	abort    context.CancelCauseFunc // ends ctx: a process failed
	programs programs
	queues   []int
	files    []*os.File
	running  []*process
	servers  []*server
	dirs     []string
}

// close kills every process, waits for it, and removes every queue and directory.
func (s *session) close() error {
	var errs []error
	for _, p := range s.running {
		errs = append(errs, p.end())
	}
	for _, srv := range s.servers {
		errs = append(errs, srv.end())
	}
	for _, dir := range s.dirs {
		errs = append(errs, os.RemoveAll(dir))
	}
	for _, id := range s.queues {
		if _, err := msgctl(id, unix.IPC_RMID); err != nil {
			errs = append(errs, fmt.Errorf("removing queue %d: %w", id, err))
		}
	}
	for _, f := range s.files {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// queue makes a private queue.
func (s *session) queue() (int, error) {
	id, _, errno := unix.Syscall(unix.SYS_MSGGET, unix.IPC_PRIVATE, 0o600, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("msgget", errno)
	}
	s.queues = append(s.queues, int(id))
	return int(id), nil
}

func msgctl(id, cmd int) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_MSGCTL, uintptr(id), uintptr(cmd), 0)
	if errno != 0 {
		return 0, os.NewSyscallError("msgctl", errno)
	}
	return int(n), nil
}

// link is what joins two peers: the arguments and files of each.
type link struct {
	args  [2][]string
	files [2][]*os.File
}

// connect makes a link of the kind that a system needs: both ways, the first
// side's way out being the second's way in.
func (s *session) connect(kind linkKind) (l link, err error) {
	switch kind {
	case queueLink, sharedLink:
		there, err := s.queue()
		if err != nil {
			return l, err
		}
		back, err := s.queue()
		if err != nil {
			return l, err
		}
		l.args[0] = []string{pair("out", there), pair("in", back)}
		l.args[1] = []string{pair("out", back), pair("in", there)}
		if kind == queueLink {
			break
		}
		// Without a name it is gone with the processes that have it, however those end.
		fd, err := unix.Open(shmDir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
		if err != nil {
			return l, &os.PathError{Op: "open", Path: shmDir, Err: err}
		}
		memory := s.file(fd)
		for i := range l.args {
			l.args[i] = append(l.args[i], pair("fd", 3))
			l.files[i] = []*os.File{memory}
		}
	case socketLink, streamLink:
		typ := unix.SOCK_SEQPACKET
		if kind == streamLink {
			typ = unix.SOCK_STREAM
		}
		fds, err := unix.Socketpair(unix.AF_UNIX, typ|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return l, os.NewSyscallError("socketpair", err)
		}
		for i, fd := range fds {
			l.args[i] = []string{pair("fd", 3)}
			l.files[i] = []*os.File{s.file(fd)}
		}
	case pipeLink:
		var there, back [2]int
		if err := errors.Join(unix.Pipe2(there[:], unix.O_CLOEXEC), unix.Pipe2(back[:], unix.O_CLOEXEC)); err != nil {
			return l, os.NewSyscallError("pipe2", err)
		}
		for i := range l.args {
			l.args[i] = []string{pair("rfd", 3), pair("wfd", 4)}
		}
		l.files[0] = []*os.File{s.file(back[0]), s.file(there[1])}
		l.files[1] = []*os.File{s.file(there[0]), s.file(back[1])}
	case rpcLink:
		dir, err := s.scratch(onTmpfs)
		if err != nil {
			return l, err
		}
		for i := range l.args {
			l.args[i] = []string{"socket=" + filepath.Join(dir, "socket")}
		}
	case redisLink, redisFileLink:
		socket, err := s.redis(kind == redisFileLink)
		if err != nil {
			return l, err
		}
		for i := range l.args {
			l.args[i] = []string{"socket=" + socket}
		}
	}
	return l, nil
}

func (s *session) file(fd int) *os.File {
	f := os.NewFile(uintptr(fd), "link")
	s.files = append(s.files, f)
	return f
}

func pair(name string, value int) string { return name + "=" + strconv.Itoa(value) }

// figures are what a case found out in one round.
type figures struct {
	values  map[string]float64
	samples map[string][]int64
}

// process is a running peer.
type process struct {
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	lines   chan string   // closed at the end of its output
	eof     chan struct{} // closed before that, when it did not say that it is done
	stop    chan struct{} // closed by end
	end     func() error  // kills it and waits for it; again: the same outcome
	stderr  bytes.Buffer  // to be read behind end
	address string
}

// start runs a peer and waits until it is ready. procs is GOMAXPROCS, 0 for
// what Go chooses.
func (s *session) start(sys system, role string, procs int, files []*os.File, args ...string) (*process, error) {
	var program string
	var argv []string
	switch {
	case sys.c:
		program = s.programs.c
	case sys.link.peerPackage() != "":
		other := s.programs.others[sys.link.peerPackage()]
		if other.err != nil {
			return nil, other.err
		}
		program, argv = other.path, []string{sys.kind}
	default:
		program, argv = s.programs.self, []string{"peer", sys.kind}
	}
	argv = append(append(append(argv, role), sys.args...), args...)
	cmd := exec.Command(program, argv...)
	cmd.ExtraFiles = files
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "GOMAXPROCS=") })
	if procs > 0 {
		cmd.Env = append(cmd.Env, pair("GOMAXPROCS", procs))
	}
	// Not even a harness that is killed leaves them behind.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	p := &process{
		name:  sys.label + ", " + role,
		cmd:   cmd,
		lines: make(chan string),
		eof:   make(chan struct{}),
		stop:  make(chan struct{}),
	}
	p.end = sync.OnceValue(p.kill)
	cmd.Stderr = &p.stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.in = in
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := startOn(cmd, sys.placement, len(s.running)); err != nil {
		return nil, err
	}
	s.running = append(s.running, p)
	go p.read(out)
	go func() {
		// The others would wait for this one in vain.
		select {
		case <-p.eof:
			s.abort(p.failed(errEarly))
		case <-p.stop:
		}
	}()
	address, err := p.line(s.ctx, "ready")
	p.address = address
	return p, err
}

// startOn starts a process, the i-th of its session, on the cores where it is
// to be. It inherits them from the thread that starts it.
func startOn(cmd *exec.Cmd, where placement, i int) error {
	if where == anywhere {
		return cmd.Start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return os.NewSyscallError("sched_getaffinity", err)
	}
	nth := 0
	if where == apart {
		nth = i % all.Count()
	}
	for cpu, seen := 0, 0; one.Count() == 0; cpu++ {
		if all.IsSet(cpu) {
			if seen == nth {
				one.Set(cpu)
			}
			seen++
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return os.NewSyscallError("sched_setaffinity", err)
	}
	err := cmd.Start()
	return errors.Join(err, os.NewSyscallError("sched_setaffinity", unix.SchedSetaffinity(0, &all)))
}

// errEarly is the failure of a process whose output ends before it is done.
var errEarly = errors.New("ended too early")

func (p *process) read(out io.Reader) {
	defer close(p.lines)
	r := bufio.NewReaderSize(out, 1<<16)
	done := false
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			if !done {
				close(p.eof)
			}
			return
		}
		done = line == "done\n"
		select {
		case p.lines <- strings.TrimSuffix(line, "\n"):
		case <-p.stop:
			return
		}
	}
}

func (p *process) kill() error {
	err := p.cmd.Process.Kill()
	close(p.stop)
	for range p.lines { // until its reader has ended: Wait closes the pipe
	}
	_ = p.cmd.Wait() // it was killed
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

// failed ends the process and adds what it said last to err.
func (p *process) failed(err error) error {
	err = errors.Join(err, p.end())
	said := excerpt(p.stderr.Bytes())
	if said == "" {
		return fmt.Errorf("%s: %w", p.name, err)
	}
	return fmt.Errorf("%s: %w: %s", p.name, err, said)
}

// excerpt is as much of a program's output as an error holds.
func excerpt(output []byte) string {
	const most = 500
	output = bytes.TrimSpace(output)
	if len(output) > most {
		return string(output[:most]) + "..."
	}
	return string(output)
}

// next returns the next line, or why there is none.
func (p *process) next(ctx context.Context) (string, error) {
	select {
	case line, ok := <-p.lines:
		if !ok {
			return "", p.failed(errEarly)
		}
		return line, nil
	case <-ctx.Done():
		return "", p.failed(context.Cause(ctx))
	}
}

// line waits for a line that begins with word, and returns the rest of it.
func (p *process) line(ctx context.Context, word string) (string, error) {
	line, err := p.next(ctx)
	if err != nil {
		return "", err
	}
	first, rest, _ := strings.Cut(line, " ")
	if first != word {
		return "", fmt.Errorf("%s: %q instead of %q", p.name, line, word)
	}
	return rest, nil
}

// begin tells the peer to start.
func (p *process) begin() error {
	_, err := io.WriteString(p.in, "go\n")
	return err
}

// result reads figures until the peer is done, or ready for the next part.
func (p *process) result(ctx context.Context, into *figures) error {
	for {
		line, err := p.next(ctx)
		if err != nil {
			return err
		}
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case fields[0] == "done" || fields[0] == "ready":
			return nil
		case fields[0] == "figure" && len(fields) == 3:
			v, err := strconv.ParseFloat(fields[2], 64)
			if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
				return fmt.Errorf("%s: not a figure: %q", p.name, line)
			}
			into.values[fields[1]] = v
			continue
		case fields[0] == "sample" && len(fields) > 2:
			samples := make([]int64, 0, len(fields)-2)
			for _, field := range fields[2:] {
				v, err := strconv.ParseInt(field, 10, 64)
				if err != nil {
					return fmt.Errorf("%s: not a sample: %w", p.name, err)
				}
				samples = append(samples, v)
			}
			into.samples[fields[1]] = samples
			continue
		}
		return fmt.Errorf("%s: not understood: %.100q", p.name, line)
	}
}

// timeout bounds a session, so that a peer that hangs fails its case alone.
func timeout(ctx context.Context, expected time.Duration) (context.Context, context.CancelFunc) {
	d := 4*expected + 20*time.Second
	return context.WithTimeoutCause(ctx, d, fmt.Errorf("not done after %v", d))
}
