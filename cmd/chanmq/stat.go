package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

func (a *app) statCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "stat QUEUE",
		Short:             "Show everything that is known of a queue",
		Example:           "  chanmq stat 0x2a01\n  chanmq stat --file /srv/app/queue --proj 7 --json",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue")
	cmd.Flags().BoolVar(&asJSON, "json", false, "as a JSON object")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		rest, err := name.take(args)
		if err != nil {
			return err
		}
		if err := noMore(rest); err != nil {
			return err
		}
		stat, err := name.stat()
		if err != nil {
			return err
		}
		q := inspect(stat)
		if asJSON {
			return a.writeJSON(q.json())
		}
		return writeAll(a.out, []byte(statText(&q, time.Now())))
	}
	return cmd
}

// noMore returns an error if arguments are left.
func noMore(args []string) error {
	if len(args) > 0 {
		return usage("unexpected argument %q; the queue is named already", args[0])
	}
	return nil
}

func (a *app) writeJSON(v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return writeAll(a.out, text, []byte("\n"))
}

func statText(q *queueInfo, now time.Time) string {
	when := func(t time.Time) string {
		if t.IsZero() {
			return "never"
		}
		return fmt.Sprintf("%s (%s ago)", t.Format(time.DateTime), format.Age(now, t))
	}
	var b strings.Builder
	line := func(name, text string) { fmt.Fprintf(&b, "%-13s %s\n", name, text) }
	key := q.Key.String()
	if q.Key == 0 {
		key += " (private: named by its id)"
	}
	line("key", key)
	line("id", strconv.Itoa(q.ID))
	line("owner", fmt.Sprintf("%s, group %d", ownerText(q.Owner), q.Group))
	line("creator", fmt.Sprintf("%s, group %d", ownerText(q.Creator), q.CreatorGroup))
	line("permissions", fmt.Sprintf("%s (%v; read receives, write sends)", permText(q.Perm), q.Perm))
	line("messages", strconv.Itoa(q.Messages))
	full := q.full()
	line("bytes", fmt.Sprintf("%d of %d  [%s] %d%%", q.Bytes, q.MaxBytes, format.Bar(full, 20), full))
	line("last send", when(q.LastSend)+by(processText(q.sender)))
	line("last receive", when(q.LastReceive)+by(processText(q.receiver)))
	line("changed", when(q.Changed))
	return b.String()
}

func by(process string) string {
	if process == "-" {
		return ""
	}
	return " by " + process
}

func (a *app) limitsCommand() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "limits",
		Short: "Show the limits of queues, and how much is in use",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := chanmq.ReadLimits()
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(limitsJSON{l.MaxMessage, l.MaxBytes, l.MaxQueues, l.Queues, l.Messages, l.Bytes})
			}
			return writeAll(a.out, []byte(limitsText(l)))
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as a JSON object")
	return cmd
}

type limitsJSON struct {
	MaxMessage int `json:"msgmax"`
	MaxBytes   int `json:"msgmnb"`
	MaxQueues  int `json:"msgmni"`
	Queues     int `json:"queues"`
	Messages   int `json:"messages"`
	Bytes      int `json:"bytes"`
}

func limitsText(l chanmq.Limits) string {
	t := format.Table{Right: []bool{false, true, true}}
	t.Row("LIMIT", "VALUE", "IN USE", "SYSCTL", "WHAT IT IS")
	t.Row("msgmax", strconv.Itoa(l.MaxMessage), "", "kernel.msgmax", "bytes of one message")
	t.Row("msgmnb", strconv.Itoa(l.MaxBytes), "", "kernel.msgmnb", "bytes of a queue when it is created")
	t.Row("msgmni", strconv.Itoa(l.MaxQueues), fmt.Sprintf("%d (%d%%)", l.Queues, format.Percent(l.Queues, l.MaxQueues)), "kernel.msgmni", "queues")
	return t.String() + fmt.Sprintf(`
%s, %s in all queues.

To raise one, as root:  sysctl -w kernel.msgmnb=65536
and to keep it so:      echo kernel.msgmnb=65536 >/etc/sysctl.d/90-msg.conf
Limits are those of an IPC namespace; a container has its own. A queue that exists keeps
its size: chanmq set QUEUE --bytes 65536.
`, format.Count(l.Messages, "message"), format.Count(l.Bytes, "byte"))
}
