package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

// queueName is how a command line names a queue: by key, by msqid, or by a file.
type queueName struct {
	prefix string // of the flags, "" or such as "to-"
	flags  func(string) bool

	key  chanmq.Key
	id   int
	file string
	proj int
}

// nameFlags adds the flags that name a queue in place of its key.
func nameFlags(cmd *cobra.Command, prefix, what string) *queueName {
	n := &queueName{prefix: prefix}
	f := cmd.Flags()
	f.IntVar(&n.id, prefix+"id", 0, what+", by its msqid `N`")
	f.StringVar(&n.file, prefix+"file", "", what+", by the `PATH` that ftok(3) makes its key of")
	f.IntVar(&n.proj, prefix+"proj", 0, "the project id `N` of --"+prefix+"file, 1 to 255")
	n.flags = func(name string) bool { return f.Changed(prefix + name) }
	return n
}

// byFlags reports whether the flags name the queue, so that no argument does.
func (n *queueName) byFlags() bool { return n.flags("id") || n.flags("file") || n.flags("proj") }

// take takes the key off the arguments, unless flags name the queue, and returns the rest.
func (n *queueName) take(args []string) ([]string, error) {
	switch {
	case n.flags("id") && (n.flags("file") || n.flags("proj")):
		return nil, usage("--%sid and --%sfile name two queues; one will do", n.prefix, n.prefix)
	case n.flags("id"):
		if n.id < 0 {
			return nil, usage("--%sid %d: a msqid is not negative", n.prefix, n.id)
		}
		return args, nil
	case n.flags("file") != n.flags("proj"):
		return nil, usage("--%sfile and --%sproj go together, as the arguments of ftok(3)", n.prefix, n.prefix)
	case n.flags("file"):
		if n.proj < 1 || n.proj > 255 {
			return nil, usage("--%sproj %d: the low 8 bits count, so give 1 to 255", n.prefix, n.proj)
		}
		key, err := chanmq.FTok(n.file, byte(n.proj))
		if err != nil {
			return nil, err
		}
		n.key = key
		return args, nil
	case len(args) == 0:
		return nil, usage("which queue? Give its key, or --%sid N, or --%sfile PATH --%sproj N", n.prefix, n.prefix, n.prefix)
	}
	key, err := parseKey(args[0])
	if err != nil {
		return nil, err
	}
	n.key = key
	return args[1:], nil
}

// open opens the queue.
func (n *queueName) open(opts ...chanmq.Option) (*chanmq.Queue[[]byte], error) {
	if n.flags("id") {
		return chanmq.Attach(n.id, opts...)
	}
	return chanmq.Open(n.key, opts...)
}

// String is what to type for the queue.
func (n *queueName) String() string {
	if n.flags("id") {
		return fmt.Sprintf("--%sid %d", n.prefix, n.id)
	}
	return n.key.String()
}

// parseKey reads a key as ipcs prints it, or in decimal.
func parseKey(text string) (chanmq.Key, error) {
	digits, base := text, 10
	if hex, ok := strings.CutPrefix(strings.ToLower(text), "0x"); ok {
		digits, base = hex, 16
	} else if len(text) > 1 && text[0] == '0' {
		return 0, usage("key %q: octal or decimal? Write it without the leading 0, or with 0x", text)
	}
	n, err := strconv.ParseUint(digits, base, 32)
	if err != nil {
		// Keys over 2^31 are negative numbers to some programs.
		signed, signedErr := strconv.ParseInt(text, 10, 32)
		if signedErr != nil {
			return 0, usage("%q is no key: give a number of 32 bits, decimal or with 0x, or --id or --file", text)
		}
		n = uint64(uint32(signed))
	}
	if n == 0 {
		return 0, usage("key 0 is IPC_PRIVATE and names no queue; name it by --id")
	}
	return chanmq.Key(uint32(n)), nil
}

// completeKeys completes the first argument to the keys there are.
func completeKeys(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	stats, err := chanmq.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var keys []string
	for _, s := range stats {
		if s.Key != 0 {
			keys = append(keys, fmt.Sprintf("%v\tid %d, %s", s.Key, s.ID, format.Count(s.Messages, "message")))
		}
	}
	slices.Sort(keys)
	return keys, cobra.ShellCompDirectiveNoFileComp
}

// statOf returns the state of a queue to those, too, who may not read it.
func statOf(q *chanmq.Queue[[]byte]) (chanmq.Stat, error) {
	stat, err := q.Stat()
	if err == nil || !isPermission(err) {
		return stat, err
	}
	stats, listErr := chanmq.List()
	if listErr != nil {
		return stat, err
	}
	for _, s := range stats {
		if s.ID == q.ID() {
			return s, nil
		}
	}
	return stat, err
}

// stat returns the state of the queue that is named, whoever may read it.
func (n *queueName) stat() (chanmq.Stat, error) {
	q, err := n.open()
	if err != nil {
		return chanmq.Stat{}, err
	}
	stat, err := statOf(q)
	if closeErr := q.Close(); err == nil {
		err = closeErr
	}
	return stat, err
}

// selectorFlags are the flags that say which messages to take.
type selectorFlags struct {
	cmd               *cobra.Command
	typ, upTo, except int64
}

func addSelectorFlags(cmd *cobra.Command) *selectorFlags {
	s := &selectorFlags{cmd: cmd}
	f := cmd.Flags()
	f.Int64VarP(&s.typ, "type", "t", 0, "messages of type `N` only")
	f.Int64Var(&s.upTo, "up-to", 0, "messages of types up to `N`, the lowest type first")
	f.Int64Var(&s.except, "except", 0, "messages of any type but `N`")
	return s
}

// selector returns what was selected: any message if nothing was.
func (s *selectorFlags) selector() (chanmq.Selector, error) {
	given := 0
	selected := chanmq.Any()
	for _, one := range []struct {
		name  string
		value int64
		of    func(int64) chanmq.Selector
	}{{"type", s.typ, chanmq.OfType}, {"up-to", s.upTo, chanmq.UpTo}, {"except", s.except, chanmq.Except}} {
		if !s.cmd.Flags().Changed(one.name) {
			continue
		}
		given++
		if one.value < 1 {
			return selected, usage("--%s %d: types are greater than 0", one.name, one.value)
		}
		selected = one.of(one.value)
	}
	if given > 1 {
		return selected, usage("--type, --up-to and --except exclude each other")
	}
	return selected, nil
}

// matches reports whether a message of the type would be selected.
func (s *selectorFlags) matches(typ int64) bool {
	switch {
	case s.typ > 0:
		return typ == s.typ
	case s.upTo > 0:
		return typ <= s.upTo
	case s.except > 0:
		return typ != s.except
	}
	return true
}
