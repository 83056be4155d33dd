package main

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"strings"
	"sync"
	"time"

	tea "github.com/charmbracelet/bubbletea"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/cstruct"
	_ "github.com/chanmq/chanmq/cmd/chanmq/internal/plainterm" // before bubbletea
)

// topOptions are the flags of top.
type topOptions struct {
	interval time.Duration
	stale    time.Duration // how long messages wait before a queue has no reader
	sort     string
	reverse  bool
	filter   string
	ascii    bool
	colors   bool
	layout   *cstruct.Struct // nil: none was given
	parse    func(declaration string) (*cstruct.Struct, error)
}

// minInterval is the shortest pause: the kernel locks what it lists.
const minInterval = 100 * time.Millisecond

// topLegend is what the help of the command and that of the screen say alike.
const topLegend = `The kernel counts no messages in and out. It tells how many are in a queue, and
when and by which process the last one was sent and received. So top compares
what it sees:

  MSGS     the depth, and its course, scaled to its highest
  BYTES    bytes of the messages, and their course, scaled to the queue's size
  GROW/s   how fast the depth changes, over the last 10 seconds or two looks
  >IN/s    at least so many messages came a second, and
  >OUT/s   at least so many went: what the change of the depth takes, and one
           more where time or process of the last send or receive have changed.
           What came and went between two looks counts as one at most; a shorter
           --interval sees more.
  SENDER, RECEIVER
           the programs of the last msgsnd and msgrcv, (dead) if they have ended

Marks in front of a queue:

  !        it grows, and has no reader
  ?        messages wait, and it has no reader: nobody has ever received from
           it, or who did last is dead, or has let them wait for --stale (1m)
  F        it is full by 80% or more
`

func (a *app) topCommand() *cobra.Command {
	o := &topOptions{}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch all queues live, and look into them",
		Long: `Watch all queues on the whole terminal: depth and bytes with their course, rates, who
sends and receives, and which queues grow without a reader. Keys sort, filter, open a
queue and page through its messages as text, hex or a struct, purge and remove: ? lists
them. Looking takes no message; purging and removing ask first. q and Ctrl-C end it.

` + topLegend + longStruct,
		Example: `  chanmq top --interval 500ms --sort growth
  chanmq top --filter order --struct @order.h`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	f.DurationVarP(&o.interval, "interval", "i", 2*time.Second, "look at the queues every `DURATION`")
	f.DurationVar(&o.stale, "stale", time.Minute, "a queue whose messages wait for `DURATION` has no reader")
	f.StringVarP(&o.sort, "sort", "s", "messages", "order by `COLUMN`: "+strings.Join(topSortNames, ", "))
	f.BoolVarP(&o.reverse, "reverse", "r", false, "the other way round")
	f.StringVar(&o.filter, "filter", "", "only queues with `TEXT` in key, id, owner, sender or receiver")
	f.BoolVar(&o.ascii, "ascii", false, "no characters but those of ASCII; also where the locale has no UTF-8")
	structs := addStructFlags(cmd)
	_ = cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(topSortNames, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	cmd.RunE = func(*cobra.Command, []string) error {
		if o.interval < minInterval {
			return usage("--interval %v: give %v or more", o.interval, minInterval)
		}
		if o.stale < 0 {
			return usage("--stale %v: the time is negative", o.stale)
		}
		if _, ok := topSorts[o.sort]; !ok {
			return usage("--sort %s: there are %s", o.sort, strings.Join(topSortNames, ", "))
		}
		var err error
		if o.layout, err = structs.parse(); err != nil {
			return err
		}
		o.parse = func(declaration string) (*cstruct.Struct, error) {
			one := *structs
			one.declaration = declaration
			return one.parse()
		}
		o.colors = a.colors()
		o.ascii = o.ascii || !utf8Locale(os.Getenv)
		return a.top(o)
	}
	return cmd
}

// utf8Locale reports whether the terminal takes UTF-8, as the C library finds out.
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if value := strings.ToUpper(getenv(name)); value != "" {
			return strings.Contains(value, "UTF-8") || strings.Contains(value, "UTF8")
		}
	}
	return false
}

func (a *app) top(o *topOptions) error {
	if !term.IsTerminal(int(a.in.Fd())) || !term.IsTerminal(int(a.out.Fd())) || os.Getenv("TERM") == "dumb" {
		return exitWith(exitFailed, "top needs a terminal that can place text; chanmq ls --watch does without")
	}
	program := tea.NewProgram(newTop(o, kernelSource{a.ctx}),
		tea.WithContext(a.ctx), tea.WithoutSignalHandler(), // a signal ends a.ctx, and that restores the terminal
		tea.WithInput(a.in), tea.WithOutput(a.out), tea.WithAltScreen(),
		tea.WithFPS(30)) // it is how often a second it looks for something to draw
	_, err := program.Run()
	if a.ctx.Err() != nil {
		return nil // a signal is a regular end
	}
	return err
}

// topSource is what top needs of the kernel, so that it can be tested without.
type topSource interface {
	// snapshot returns all queues.
	snapshot() ([]queueInfo, error)
	// browse returns what reads the messages of a queue without taking them.
	browse(id int) (topBrowser, error)
	remove(id int) error
	// purge deletes at most n messages, and returns how many it has deleted.
	purge(id, n int) (int, error)
}

// topBrowser reads the messages of a queue one after the other. It is safe for concurrent
// use.
type topBrowser interface {
	// read returns the next messages, at most n and about size bytes of them, and whether
	// the queue ends with them.
	read(n, size int) (messages []message, end bool, err error)
	close()
}

// kernelSource is the IPC namespace of this process.
type kernelSource struct{ ctx context.Context }

func (kernelSource) snapshot() ([]queueInfo, error) {
	stats, err := chanmq.List()
	if err != nil {
		return nil, err
	}
	queues := make([]queueInfo, len(stats))
	for i, s := range stats {
		queues[i] = inspect(s)
	}
	return queues, nil
}

func (kernelSource) browse(id int) (topBrowser, error) {
	q, err := chanmq.Attach(id)
	if err != nil {
		return nil, err
	}
	b := &kernelBrowser{q: q}
	b.next, b.stop = iter.Pull2(q.Browse())
	return b, nil
}

func (kernelSource) remove(id int) error {
	q, err := chanmq.Attach(id)
	if err != nil {
		return err
	}
	return errors.Join(q.Remove(), q.Close())
}

func (s kernelSource) purge(id, n int) (int, error) {
	q, err := chanmq.Attach(id)
	if err != nil {
		return 0, err
	}
	defer q.Close() // it holds nothing
	return purge(s.ctx, q, chanmq.Any(), n)
}

// kernelBrowser keeps its place in the queue, since the kernel counts from the head each
// time: reading the messages before again would cost the square of them.
type kernelBrowser struct {
	mu   sync.Mutex // next and stop must not be called at a time
	q    *chanmq.Queue[[]byte]
	next func() (message, error, bool)
	stop func()
}

func (b *kernelBrowser) read(n, size int) (messages []message, end bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(messages) < n && size > 0 {
		m, err, ok := b.next()
		if !ok || err != nil {
			return messages, true, err
		}
		size -= len(m.Value)
		if values := unpacked(m); values != nil {
			messages = append(messages, values...)
			continue
		}
		messages = append(messages, m)
	}
	return messages, false, nil
}

func (b *kernelBrowser) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stop()
	_ = b.q.Close() // it holds nothing
}

// peekError is the text of an error of looking into a queue. The library says what to do
// about permissions.
func peekError(err error) string {
	text := strings.TrimPrefix(err.Error(), "chanmq: ")
	if errors.Is(err, errors.ErrUnsupported) {
		text += ": this kernel is built without CONFIG_CHECKPOINT_RESTORE, and shows messages only to who takes them"
	}
	return text
}

// queueText is how a queue is named to people, and on the command line.
func queueText(q *queueInfo) string {
	if q.Key == 0 {
		return fmt.Sprintf("--id %d", q.ID)
	}
	return q.Key.String()
}
