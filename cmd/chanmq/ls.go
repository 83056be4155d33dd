package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
	"github.com/chanmq/chanmq/internal/procinfo"
)

func (a *app) lookCommands() []*cobra.Command {
	return []*cobra.Command{a.lsCommand(), a.topCommand(), a.statCommand(), a.limitsCommand(), a.doctorCommand(), a.metricsCommand()}
}

// queueInfo is a queue as ls, stat and doctor show it.
type queueInfo struct {
	chanmq.Stat
	sender, receiver procinfo.Process
}

// inspect adds to the state of a queue what /proc knows of its last users.
func inspect(s chanmq.Stat) queueInfo {
	return queueInfo{s, procinfo.Look(s.LastSendPID, s.LastSend), procinfo.Look(s.LastReceivePID, s.LastReceive)}
}

// full is how full the queue is, in percent: of bytes, or of messages, whichever ends
// first.
func (q *queueInfo) full() int {
	return max(format.Percent(q.Bytes, q.MaxBytes), format.Percent(q.Messages, q.MaxBytes))
}

// unread reports whether messages wait that nobody living has received from.
func (q *queueInfo) unread() bool {
	return q.Messages > 0 && (q.LastReceivePID == 0 || q.receiver.State == procinfo.Dead)
}

// abandoned reports whether the queue had users, and all of them are dead.
func (q *queueInfo) abandoned() bool {
	dead := func(p procinfo.Process) bool { return p.PID == 0 || p.State == procinfo.Dead }
	return (q.LastSendPID != 0 || q.LastReceivePID != 0) && dead(q.sender) && dead(q.receiver)
}

// queueJSON is a queue in JSON. Names of fields are an interface: do not change them.
type queueJSON struct {
	Key          string       `json:"key"`
	ID           int          `json:"id"`
	Owner        int          `json:"owner"`
	OwnerName    string       `json:"owner_name,omitempty"`
	Group        int          `json:"group"`
	Creator      int          `json:"creator"`
	CreatorGroup int          `json:"creator_group"`
	Perm         string       `json:"perm"`
	Messages     int          `json:"messages"`
	Bytes        int          `json:"bytes"`
	MaxBytes     int          `json:"max_bytes"`
	Full         int          `json:"full_percent"`
	LastSend     *time.Time   `json:"last_send"`
	LastReceive  *time.Time   `json:"last_receive"`
	Changed      *time.Time   `json:"changed"`
	Sender       *processJSON `json:"sender"`
	Receiver     *processJSON `json:"receiver"`
}

type processJSON struct {
	PID   int    `json:"pid"`
	Name  string `json:"name,omitempty"`
	Alive *bool  `json:"alive"` // null: not known
}

func (q *queueInfo) json() queueJSON {
	at := func(t time.Time) *time.Time {
		if t.IsZero() {
			return nil
		}
		t = t.UTC()
		return &t
	}
	process := func(p procinfo.Process) *processJSON {
		if p.PID == 0 {
			return nil
		}
		j := &processJSON{PID: p.PID, Name: p.Name}
		if p.State != procinfo.Unknown {
			alive := p.State == procinfo.Alive
			j.Alive = &alive
		}
		return j
	}
	return queueJSON{
		Key: q.Key.String(), ID: q.ID,
		Owner: q.Owner, OwnerName: userName(q.Owner), Group: q.Group,
		Creator: q.Creator, CreatorGroup: q.CreatorGroup, Perm: permText(q.Perm),
		Messages: q.Messages, Bytes: q.Bytes, MaxBytes: q.MaxBytes, Full: q.full(),
		LastSend: at(q.LastSend), LastReceive: at(q.LastReceive), Changed: at(q.Changed),
		Sender: process(q.sender), Receiver: process(q.receiver),
	}
}

func permText(perm fs.FileMode) string { return fmt.Sprintf("%04o", uint32(perm.Perm())) }

var userNames = make(map[int]string)

// userName is the name of a user, "" if there is none.
func userName(uid int) string {
	name, ok := userNames[uid]
	if !ok {
		if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
			name = u.Username
		}
		userNames[uid] = name
	}
	return name
}

func ownerText(uid int) string { return cmp.Or(userName(uid), strconv.Itoa(uid)) }

// processText is such as "worker[123]", or "(dead)[123]": who is dead has no name any more.
func processText(p procinfo.Process) string {
	switch {
	case p.PID == 0:
		return "-"
	case p.State == procinfo.Dead:
		return fmt.Sprintf("(dead)[%d]", p.PID)
	}
	return fmt.Sprintf("%s[%d]", format.Printable([]byte(cmp.Or(p.Name, "?"))), p.PID)
}

// lsOptions are the flags of ls.
type lsOptions struct {
	sort     string
	reverse  bool
	owner    string
	nonempty bool
	full     int
	unread   bool
	dead     bool
	json     bool
	watch    time.Duration
	noHeader bool
}

// lsSorts are the orders of ls. Those of amounts begin with the largest.
var lsSorts = map[string]func(x, y *queueInfo) int{
	"key":      func(x, y *queueInfo) int { return cmp.Compare(uint32(x.Key), uint32(y.Key)) },
	"id":       func(x, y *queueInfo) int { return cmp.Compare(x.ID, y.ID) },
	"owner":    func(x, y *queueInfo) int { return cmp.Compare(ownerText(x.Owner), ownerText(y.Owner)) },
	"messages": func(x, y *queueInfo) int { return cmp.Compare(y.Messages, x.Messages) },
	"bytes":    func(x, y *queueInfo) int { return cmp.Compare(y.Bytes, x.Bytes) },
	"full":     func(x, y *queueInfo) int { return cmp.Compare(y.full(), x.full()) },
	"sent":     func(x, y *queueInfo) int { return y.LastSend.Compare(x.LastSend) },
	"received": func(x, y *queueInfo) int { return y.LastReceive.Compare(x.LastReceive) },
}

var lsSortNames = []string{"key", "id", "owner", "messages", "bytes", "full", "sent", "received"}

func (a *app) lsCommand() *cobra.Command {
	var o lsOptions
	cmd := &cobra.Command{
		Use:     "ls [KEY...]",
		Aliases: []string{"list"},
		Short:   "List queues: how full they are, who uses them",
		Long: `List the queues of this IPC namespace, or those with the keys.

FULL is the part of msg_qbytes that is used, of bytes or of messages, whichever is more.
SENDER and RECEIVER are the programs of the last msgsnd and msgrcv with their pids; a
process that has ended is (dead), also if another one has its pid by now. RECEIVED is how
long ago the last message was received.`,
		Example: `  chanmq ls --sort full --watch
  chanmq ls --unread
  chanmq ls --json | jq 'select(.messages > 100)'`,
		Args:              cobra.ArbitraryArgs,
		ValidArgsFunction: completeKeys,
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.watch < 0 {
				return usage("--watch %v: the time is negative", o.watch)
			}
			if _, ok := lsSorts[o.sort]; !ok {
				return usage("--sort %s: there are %s", o.sort, strings.Join(lsSortNames, ", "))
			}
			var keys []chanmq.Key
			for _, arg := range args {
				key, err := parseKey(arg)
				if err != nil {
					return err
				}
				keys = append(keys, key)
			}
			return a.ls(&o, keys)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&o.sort, "sort", "s", "key", "order by `COLUMN`: "+strings.Join(lsSortNames, ", "))
	f.BoolVarP(&o.reverse, "reverse", "r", false, "the other way round")
	f.StringVar(&o.owner, "owner", "", "only queues of the `USER`, a name or a number")
	f.BoolVar(&o.nonempty, "nonempty", false, "only queues with messages")
	f.IntVar(&o.full, "full", 0, "only queues that are full by `PERCENT` or more")
	f.BoolVar(&o.unread, "unread", false, "only queues with messages whose last receiver is dead, or that never had one")
	f.BoolVar(&o.dead, "dead", false, "only queues whose last users are all dead")
	f.BoolVar(&o.json, "json", false, "one JSON object a line")
	f.BoolVar(&o.noHeader, "no-header", false, "without the line of column names")
	f.DurationVarP(&o.watch, "watch", "w", 0, "again and again, with pauses of a `DURATION` (2s if none is given)")
	f.Lookup("watch").NoOptDefVal = "2s"
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(lsSortNames, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return cmd
}

func (a *app) ls(o *lsOptions, keys []chanmq.Key) error {
	terminal := term.IsTerminal(int(a.out.Fd()))
	for first := true; ; first = false {
		queues, missing, err := selectQueues(o, keys)
		if err != nil {
			return err
		}
		var text []byte
		if o.json {
			for i := range queues {
				line, err := json.Marshal(queues[i].json())
				if err != nil {
					return err
				}
				text = append(append(text, line...), '\n')
			}
		} else {
			width := 0
			if o.watch > 0 && terminal {
				var height int
				if width, height, err = term.GetSize(int(a.out.Fd())); err == nil {
					queues = queues[:min(len(queues), max(height-2, 1))] // the rest would scroll
				}
			}
			text = []byte(lsTable(queues, time.Now(), width, !o.noHeader, a.colors()))
			switch {
			case o.watch > 0 && terminal:
				// Home, and clear what is below only when it was overwritten, so that
				// nothing flickers.
				text = []byte("\x1b[H" + strings.ReplaceAll(string(text), "\n", "\x1b[K\n") + "\x1b[J")
				if first {
					text = append([]byte("\x1b[2J"), text...)
				}
			case o.watch > 0 && !first:
				text = append([]byte("\n"), text...)
			}
		}
		if err := writeAll(a.out, text); err != nil {
			return err
		}
		if o.watch == 0 {
			if len(missing) > 0 {
				return exitWith(exitNoQueue, "no queue has the key %v; chanmq ls without keys lists all", missing[0])
			}
			return nil
		}
		if !a.sleep(o.watch) {
			return nil
		}
	}
}

// selectQueues returns the queues that the options select, in their order, and the keys
// that no queue has.
func selectQueues(o *lsOptions, keys []chanmq.Key) (queues []queueInfo, missing []chanmq.Key, err error) {
	stats, err := chanmq.List()
	if err != nil {
		return nil, nil, err
	}
	owner := -1
	if o.owner != "" {
		if owner, err = userID(o.owner); err != nil {
			return nil, nil, err
		}
	}
	for _, key := range keys {
		if !slices.ContainsFunc(stats, func(s chanmq.Stat) bool { return s.Key == key }) {
			missing = append(missing, key)
		}
	}
	for _, s := range stats {
		if keys != nil && !slices.Contains(keys, s.Key) || owner >= 0 && s.Owner != owner || o.nonempty && s.Messages == 0 {
			continue
		}
		q := inspect(s)
		if q.full() < o.full || o.unread && !q.unread() || o.dead && !q.abandoned() {
			continue
		}
		queues = append(queues, q)
	}
	sortQueues(queues, o.sort, o.reverse)
	return queues, missing, nil
}

func sortQueues(queues []queueInfo, by string, reverse bool) {
	slices.SortFunc(queues, func(x, y queueInfo) int {
		order := cmp.Or(lsSorts[by](&x, &y), cmp.Compare(x.ID, y.ID))
		if reverse {
			return -order
		}
		return order
	})
}

// lsTable lays the queues out for people. Lines are cut at a width, if it is not 0.
func lsTable(queues []queueInfo, now time.Time, width int, header, colors bool) string {
	t := format.Table{Width: width, Right: []bool{false, true, false, false, true, true, false, false, false, true}}
	t.Row("KEY", "ID", "OWNER", "PERM", "MESSAGES", "BYTES", "FULL", "SENDER", "RECEIVER", "RECEIVED")
	for i := range queues {
		q := &queues[i]
		full := q.full()
		t.Row(q.Key.String(), strconv.Itoa(q.ID), ownerText(q.Owner), permText(q.Perm),
			strconv.Itoa(q.Messages), strconv.Itoa(q.Bytes),
			fmt.Sprintf("[%s] %3d%%", format.Bar(full, 10), full),
			processText(q.sender), processText(q.receiver), format.Age(now, q.LastReceive))
		style := ""
		if colors && full >= warnFull {
			style = "\x1b[31m" // red
		} else if colors && q.unread() {
			style = "\x1b[33m" // yellow
		}
		t.Style = append(t.Style, style)
	}
	text := t.String()
	if !header {
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}

// warnFull is how full a queue is when it is worth a warning, in percent.
const warnFull = 80

// colors reports whether standard output is for colors: https://no-color.org.
func (a *app) colors() bool {
	return os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(a.out.Fd()))
}

// userID returns the id of a user by name or number.
func userID(name string) (int, error) {
	if uid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(uid), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0, usage("there is no user %q", name)
	}
	return strconv.Atoi(u.Uid)
}

// groupID returns the id of a group by name or number.
func groupID(name string) (int, error) {
	if gid, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(gid), nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, usage("there is no group %q", name)
	}
	return strconv.Atoi(g.Gid)
}
