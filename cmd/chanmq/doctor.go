package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/journalfile"
	"github.com/chanmq/chanmq/internal/procinfo"
)

// finding is what doctor says of something.
type finding struct {
	Level string   `json:"level"` // note, warning, error
	Text  string   `json:"text"`
	Type  []string `json:"type,omitempty"` // what to type
}

const (
	note    = "note"
	warning = "warning"
	failure = "error"
)

// facts are what doctor looks at, so that what it makes of them can be tested.
type facts struct {
	now      time.Time
	uid      int
	limits   chanmq.Limits
	queues   []queueInfo
	readable map[int]bool // by msqid: this process may receive

	ownNamespace, initNamespace uint64 // 0: not known

	dir        string // of the journals
	dirErr     string // why it cannot be used
	journals   []journalfile.File
	journalErr error

	bridges   []bridgeInfo
	bridgeErr error

	removesIPC bool // systemd removes the queues of this user at logout
}

func (a *app) doctorCommand() *cobra.Command {
	var dir string
	var asJSON, quiet bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is wrong with queues here, and what to type",
		Long: `Look at the limits, the IPC namespace, permissions, queues that are full or that nobody
reads, queues whose users are all dead, and what dead processes have left in journals and
bridges. It changes nothing and takes no locks. The exit code is 7 if there is a warning or an error.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			f, err := gather(dir)
			if err != nil {
				return err
			}
			findings := diagnose(f)
			var text []byte
			if asJSON {
				if findings == nil {
					findings = []finding{}
				}
				err = a.writeJSON(findings)
			} else {
				text = []byte(doctorText(f, findings, quiet))
				err = writeAll(a.out, text)
			}
			if err != nil {
				return err
			}
			for _, f := range findings {
				if f.Level != note {
					return &exitError{code: exitFound}
				}
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "dir", journalfile.DefaultDir(), "the `DIRECTORY` of the journals")
	f.BoolVar(&asJSON, "json", false, "as a JSON array")
	f.BoolVarP(&quiet, "quiet", "q", false, "warnings and errors only")
	return cmd
}

// gather looks at the machine.
func gather(dir string) (*facts, error) {
	f := &facts{now: time.Now(), uid: os.Geteuid(), dir: dir, readable: make(map[int]bool)}
	var err error
	if f.limits, err = chanmq.ReadLimits(); err != nil {
		return nil, err
	}
	stats, err := chanmq.List()
	if err != nil {
		return nil, err
	}
	for _, s := range stats {
		f.queues = append(f.queues, inspect(s))
		if q, err := chanmq.Attach(s.ID); err == nil {
			_, err := q.Stat()
			f.readable[s.ID] = err == nil
			_ = q.Close() // it holds nothing
		}
	}
	sortQueues(f.queues, "key", false)
	f.ownNamespace, f.initNamespace = journalfile.OwnNamespace(), journalfile.NamespaceOf("1")
	f.dirErr = checkDir(dir)
	f.journals, f.journalErr = journalfile.List(dir)
	f.bridges, f.bridgeErr = findBridges(bridgesIn(dir))
	if _, err := os.Stat("/run/systemd/system"); err == nil && f.uid >= 1000 {
		config, _ := os.ReadFile("/etc/systemd/logind.conf") // without it, the default holds
		f.removesIPC = !regexp.MustCompile(`(?mi)^\s*RemoveIPC\s*=\s*(no|false|0|off)`).Match(config)
	}
	return f, nil
}

// checkDir returns why the library would not keep journals in a directory, "" if it would.
func checkDir(dir string) string {
	info, err := os.Lstat(dir)
	switch {
	case os.IsNotExist(err):
		return ""
	case err != nil:
		return err.Error()
	case !info.IsDir():
		return "it is no directory"
	case info.Mode().Perm() != 0o700:
		return fmt.Sprintf("its mode is %04o, and it has to be the user's alone, 0700", info.Mode().Perm())
	case journalfile.OwnerOf(info) >= 0 && journalfile.OwnerOf(info) != os.Geteuid():
		return "it belongs to another user"
	case !journalfile.OnTmpfs(dir):
		return "it is not on a tmpfs, such as /dev/shm"
	}
	return ""
}

// diagnose says what is wrong.
func diagnose(f *facts) []finding {
	var found []finding
	add := func(level, text string, commands ...string) {
		found = append(found, finding{level, text, commands})
	}
	if f.ownNamespace != 0 && f.initNamespace != 0 && f.ownNamespace != f.initNamespace {
		add(note, "this process is in an IPC namespace of its own: process 1, and what it started, sees other queues",
			"lsns --type ipc")
	}
	if used := format.Percent(f.limits.Queues, f.limits.MaxQueues); used >= warnFull {
		level := warning
		if used == 100 {
			level = failure
		}
		add(level, fmt.Sprintf("%d of %d queues exist (msgmni): programs will fail to create theirs", f.limits.Queues, f.limits.MaxQueues),
			"chanmq ls --dead", fmt.Sprintf("sysctl -w kernel.msgmni=%d", 2*max(f.limits.MaxQueues, 1)))
	}
	if f.limits.MaxMessage > f.limits.MaxBytes {
		add(warning, fmt.Sprintf("msgmax, %d, is more than msgmnb, %d: messages that the one allows fit no new queue", f.limits.MaxMessage, f.limits.MaxBytes),
			fmt.Sprintf("sysctl -w kernel.msgmnb=%d", 4*f.limits.MaxMessage))
	}
	for i := range f.queues {
		found = append(found, diagnoseQueue(f, &f.queues[i])...)
	}
	found = append(found, diagnoseJournals(f)...)
	found = append(found, diagnoseBridges(f)...)
	if f.removesIPC {
		add(note, "systemd removes this user's queues when the last session ends (RemoveIPC=yes)",
			"echo RemoveIPC=no >>/etc/systemd/logind.conf && systemctl restart systemd-logind", "loginctl enable-linger")
	}
	return found
}

const (
	// recent is how long messages may wait for the next receiver: programs such as recv
	// take one and end.
	recent = time.Minute
	// stale is how long a living receiver may let messages wait.
	stale = 10 * time.Minute
)

// diagnoseQueue says what is wrong with a queue.
func diagnoseQueue(f *facts, q *queueInfo) []finding {
	var found []finding
	arg := q.Key.String()
	if q.Key == 0 {
		arg = fmt.Sprintf("--id %d", q.ID)
	}
	add := func(level, text string, commands ...string) {
		found = append(found, finding{level, fmt.Sprintf("queue %s: %s", arg, text), commands})
	}
	waiting := plural(q.Messages, "message waits", "messages wait")
	if full := q.full(); full >= warnFull {
		level := warning
		text := fmt.Sprintf("%d%% full (%d of %d bytes)", full, q.Bytes, q.MaxBytes)
		if full == 100 {
			level, text = failure, text+", so that senders have to wait"
		}
		commands := []string{fmt.Sprintf("chanmq set %s --bytes %d", arg, 2*q.MaxBytes)}
		if q.receiver.State == procinfo.Alive {
			commands = append([]string{fmt.Sprintf("ps -fp %d", q.LastReceivePID)}, commands...)
			text += "; its receiver is " + processText(q.receiver)
		}
		add(level, text, commands...)
	}
	sentFor := f.now.Sub(q.LastSend)
	switch {
	case q.Messages == 0:
	case q.LastReceivePID == 0 && sentFor >= recent:
		add(warning, fmt.Sprintf("%s, and nobody has ever received from it; the last one was sent %s ago", waiting, format.Duration(sentFor)),
			"chanmq peek "+arg, fmt.Sprintf("chanmq export %s -o messages.jsonl", arg))
	case q.LastReceivePID != 0 && q.receiver.State == procinfo.Dead && f.now.Sub(q.LastReceive) >= recent:
		add(warning, fmt.Sprintf("%s, and the last receiver (pid %d, %s ago) is dead", waiting, q.LastReceivePID, format.Age(f.now, q.LastReceive)),
			"chanmq peek "+arg, fmt.Sprintf("chanmq export %s -o messages.jsonl", arg))
	case q.LastReceivePID != 0 && f.now.Sub(q.LastReceive) >= stale:
		add(warning, fmt.Sprintf("%s, and %s has not received for %s; it may not take their types", waiting, processText(q.receiver), format.Age(f.now, q.LastReceive)),
			"chanmq peek "+arg)
	}
	if q.Messages == 0 && q.abandoned() {
		text := "all its users are dead, and it is empty"
		level := note
		if q.Key == 0 {
			text, level = text+"; it is private, so that nobody will find it again", warning
		}
		add(level, text, "chanmq rm "+arg)
	}
	if userName(q.Owner) == "" {
		add(note, fmt.Sprintf("it belongs to uid %d, which no user has", q.Owner), fmt.Sprintf("chanmq set %s --owner USER", arg))
	}
	if q.Creator != q.Owner {
		add(note, fmt.Sprintf("it belongs to %s, and %s created it, who may still remove it", ownerText(q.Owner), ownerText(q.Creator)))
	}
	if open := q.Perm & 0o006; open != 0 {
		may := map[uint32]string{2: "send to it", 4: "receive from it", 6: "send to and receive from it"}[uint32(open)]
		add(warning, fmt.Sprintf("permissions %s: every user of the machine may %s", permText(q.Perm), may),
			fmt.Sprintf("chanmq set %s --perm %04o", arg, uint32(q.Perm&^0o007)))
	}
	if readable, ok := f.readable[q.ID]; ok && !readable && q.Owner == f.uid {
		add(warning, fmt.Sprintf("permissions %s: its own owner may not receive from it", permText(q.Perm)),
			fmt.Sprintf("chanmq set %s --perm %04o", arg, uint32(q.Perm|0o600)))
	}
	return found
}

// diagnoseJournals says what dead processes have left.
func diagnoseJournals(f *facts) []finding {
	var found []finding
	add := func(level, text string, commands ...string) {
		found = append(found, finding{level, text, commands})
	}
	if f.dirErr != "" {
		add(failure, fmt.Sprintf("journals cannot be kept in %s: %s", f.dir, f.dirErr), "ls -ld "+f.dir)
		return found
	}
	if f.journalErr != nil {
		add(failure, fmt.Sprintf("journals: %v", f.journalErr), "ls -ld "+f.dir)
	}
	dirFlag := ""
	if f.dir != journalfile.DefaultDir() {
		dirFlag = f.dir
	}
	for _, j := range f.journals {
		if j.Err != nil {
			add(warning, fmt.Sprintf("%s cannot be read as a journal: %v", j.Path, j.Err), "ls -l "+j.Path)
			continue
		}
		if j.Locked == journalfile.Yes || j.Messages == 0 {
			continue
		}
		owner := procinfo.Look(j.PID, time.Time{})
		if j.Locked == journalfile.Unknown && owner.State != procinfo.Dead {
			continue // it may live
		}
		holds := plural(j.Messages, "message", "messages")
		name := chanmq.Key(j.Key).String()
		if j.Key == 0 {
			name = fmt.Sprintf("--id %d", j.ID)
		}
		exists := false
		for i := range f.queues {
			exists = exists || f.queues[i].ID == j.ID && int32(f.queues[i].Key) == j.Key
		}
		switch {
		case f.ownNamespace != 0 && j.Namespace != f.ownNamespace:
			add(note, fmt.Sprintf("process %d has died with %s of queue %s of another IPC namespace, whose programs may get them", j.PID, holds, name))
		case exists:
			journal := "--journal"
			if dirFlag != "" {
				journal += "=" + dirFlag
			}
			add(warning, fmt.Sprintf("process %d has died with %s of queue %s: the next receiver with a journal gets them", j.PID, holds, name),
				fmt.Sprintf("chanmq exec %s %s -- COMMAND", name, journal),
				fmt.Sprintf("chanmq export %s %s -o messages.jsonl", name, journal))
		default:
			command := "chanmq export --orphans -o saved.jsonl"
			if dirFlag != "" {
				command += " --dir " + dirFlag
			}
			add(warning, fmt.Sprintf("process %d has died with %s of queue %s, which does not exist any more", j.PID, holds, name), command)
		}
	}
	return found
}

// doctorText lays the findings out for people.
func doctorText(f *facts, findings []finding, quiet bool) string {
	var b bytes.Buffer
	if !quiet {
		fmt.Fprintf(&b, "looked at %s of %d, %s in %s\n",
			format.Count(f.limits.Queues, "queue"), f.limits.MaxQueues, format.Count(len(f.journals), "journal"), f.dir)
	}
	said := 0
	for _, one := range findings {
		if quiet && one.Level == note {
			continue
		}
		said++
		fmt.Fprintf(&b, "\n%s: %s\n", strings.ToUpper(one.Level), one.Text)
		for _, command := range one.Type {
			fmt.Fprintf(&b, "    %s\n", command)
		}
	}
	if said == 0 && !quiet {
		fmt.Fprintf(&b, "nothing is wrong\n")
	}
	return b.String()
}
