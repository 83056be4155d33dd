package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

// bar returns a progress bar on standard error, which is shown on a terminal only. max is
// -1 if it is not known.
func (a *app) bar(max int64, what string, inBytes bool) *progressbar.ProgressBar {
	return progressbar.NewOptions64(max,
		progressbar.OptionSetWriter(a.err),
		progressbar.OptionSetVisibility(term.IsTerminal(int(a.err.Fd()))),
		progressbar.OptionSetDescription(what),
		progressbar.OptionShowBytes(inBytes),
		progressbar.OptionShowCount(),
		progressbar.OptionSetItsString("msg"),
		progressbar.OptionShowIts(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionFullWidth())
}

type exportOptions struct {
	file          string
	force, append bool
	keep          bool
	orphans       bool
	dir           string
}

// exportBatch is how many messages are taken before the file is synced and they are
// acknowledged.
const exportBatch = 64

func (a *app) exportCommand() *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use:   "export QUEUE",
		Short: "Move all messages of a queue into a file",
		Long: `Move all messages of a queue into a file, as lines of JSON with their types, in order, until
the queue is empty; chanmq import sends them again. With --keep they stay in the queue, and
the file has a copy.

A message leaves the queue for good when the file is on disk. If the file cannot be written,
or chanmq is interrupted, what is written is finished, and the rest is in the queue: what
was taken and not written is at its tail. With a journal (on where it works, see --journal)
nothing is lost when chanmq is killed either, but then the file may have messages that are
still to come again.

With --orphans it saves what dead processes had taken and no living one will get, because
their queue was removed, or the machine was restarted: see chanmq doctor. --dir is the
directory of their journals. What was taken of a pack is saved as values in any case.
` + longPacks,
		Example: `  chanmq export 0x2a01 -o orders.jsonl
  chanmq export 0x2a01 --keep | wc -l
  chanmq export --orphans -o saved.jsonl`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue")
	selected := addSelectorFlags(cmd)
	f := cmd.Flags()
	f.StringVarP(&o.file, "output", "o", "-", "the `FILE`, which must not exist; - is standard output")
	f.BoolVar(&o.force, "force", false, "overwrite the file")
	f.BoolVar(&o.append, "append", false, "append to the file")
	f.BoolVarP(&o.keep, "keep", "k", false, "leave the messages in the queue")
	f.BoolVar(&o.orphans, "orphans", false, "save messages of dead processes whose queue is gone, instead of a queue's")
	f.StringVar(&o.dir, "dir", "", "the `DIRECTORY` of the journals for --orphans, if not the user's")
	journal := addJournalFlag(cmd, "auto")
	large := addLargeFlag(cmd)
	packing := addPackingFlag(cmd, receivesPacks)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if o.force && o.append {
			return usage("--force and --append exclude each other")
		}
		selector, err := selected.selector()
		if err != nil {
			return err
		}
		if o.orphans {
			if len(args) > 0 || name.byFlags() || o.keep {
				return usage("--orphans saves messages whose queue is gone; it goes with no queue, nor with --keep")
			}
			return a.exportTo(&o, func(w *exportFile) error { return a.exportOrphans(w, o.dir) })
		}
		if o.dir != "" {
			return usage("--dir belongs to --orphans")
		}
		rest, err := name.take(args)
		if err != nil {
			return err
		}
		if err := noMore(rest); err != nil {
			return err
		}
		if o.keep {
			q, err := name.open(append(large.options(), packing.options()...)...)
			if err != nil {
				return err
			}
			defer q.Close() // it holds nothing
			return a.exportTo(&o, func(w *exportFile) error {
				w.packs = packing.notice(a)
				return a.exportCopy(w, q, selected)
			})
		}
		q, _, err := a.openWith(name, journal, append(large.options(), packing.options()...)...)
		if err != nil {
			return err
		}
		err = a.exportTo(&o, func(w *exportFile) error {
			w.packs = packing.notice(a)
			return a.export(w, q, selector)
		})
		if closeErr := a.closeQueue(q); err == nil || isExit(closeErr) {
			err = closeErr
		}
		return err
	}
	return cmd
}

// exportFile is where messages are exported to.
type exportFile struct {
	file    *os.File
	regular bool  // can be synced and truncated
	size    int64 // of what is synced
	buf     []byte
	lines   int // in buf
	total   int // synced
	packs   *packNotice
}

// exportTo opens the file, calls f, and says how many messages were written.
func (a *app) exportTo(o *exportOptions, f func(*exportFile) error) (err error) {
	w := &exportFile{file: a.out}
	if o.file != "-" {
		flags := os.O_WRONLY | os.O_CREATE | os.O_EXCL
		switch {
		case o.force:
			flags = os.O_WRONLY | os.O_CREATE | os.O_TRUNC
		case o.append:
			flags = os.O_RDWR | os.O_CREATE
		}
		w.file, err = os.OpenFile(o.file, flags, 0o600)
		switch {
		case errors.Is(err, os.ErrExist):
			return exitWith(exitFailed, "%s exists; --append adds to it, --force overwrites it. Nothing was taken", o.file)
		case err != nil:
			return fmt.Errorf("nothing was taken: %w", err)
		}
		defer func() {
			if closeErr := w.file.Close(); err == nil && closeErr != nil {
				err = outputError(closeErr)
			}
		}()
	}
	if info, statErr := w.file.Stat(); statErr == nil && info.Mode().IsRegular() && o.file != "-" {
		w.regular = true
		if w.size, err = w.end(info.Size()); err != nil {
			return fmt.Errorf("nothing was taken: %w", err)
		}
	}
	err = f(w)
	a.progressf("exported %s", format.Count(w.total, "message"))
	return err
}

// end moves to the end of a file that is appended to. A last line that was not finished,
// of an export that was killed, is no message: it is cut off.
func (w *exportFile) end(size int64) (int64, error) {
	if size == 0 {
		return 0, nil
	}
	const step = 1 << 16
	end := size
	for end > 0 {
		start := max(end-step, 0)
		part := make([]byte, end-start)
		if _, err := w.file.ReadAt(part, start); err != nil {
			return 0, err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			end = start + int64(i) + 1
			break
		}
		end = start
	}
	if err := w.file.Truncate(end); err != nil {
		return 0, err
	}
	return w.file.Seek(end, io.SeekStart)
}

func (w *exportFile) add(m message) error {
	w.packs.look(m)
	var err error
	if w.buf, err = format.NewLine(m.Type, m.Value).Append(w.buf); err != nil {
		return err
	}
	w.lines++
	return nil
}

// flush writes what was added, so that it is on disk when flush returns. After an error
// the file is as it was before.
func (w *exportFile) flush() error {
	if w.lines == 0 {
		return nil
	}
	_, err := w.file.Write(w.buf)
	if err == nil && w.regular {
		err = w.file.Sync()
	}
	if err != nil {
		if w.regular {
			if _, seekErr := w.file.Seek(w.size, io.SeekStart); seekErr != nil || w.file.Truncate(w.size) != nil {
				return fmt.Errorf("%w; the end of the file may have messages that are in the queue, too", outputError(err))
			}
		}
		return outputError(err)
	}
	w.size += int64(len(w.buf))
	w.total += w.lines
	w.buf, w.lines = w.buf[:0], 0
	return nil
}

// export takes messages, writes them, and acknowledges them when they are on disk.
func (a *app) export(w *exportFile, q *chanmq.Queue[[]byte], s chanmq.Selector) error {
	expected := int64(-1)
	if stat, err := q.Stat(); err == nil {
		expected = int64(stat.Messages)
	}
	bar := a.bar(expected, "exporting", false)
	defer bar.Exit()
	var held []taken
	flush := func() error {
		if err := a.untilHurry(w.flush); err != nil {
			for _, m := range held {
				err = errors.Join(err, m.back())
			}
			held = nil
			return err
		}
		var errs []error
		for _, m := range held {
			errs = append(errs, m.done())
		}
		_ = bar.Add(len(held)) // it is only a bar
		held = held[:0]
		return errors.Join(errs...)
	}
	for {
		m, err := a.take(a.ctx, q, s, 0)
		if err != nil {
			if flushErr := flush(); flushErr != nil {
				return flushErr
			}
			switch {
			case err == errNothing:
				_ = bar.Finish()
				return nil
			case a.ctx.Err() != nil:
				return a.interrupted("interrupted; the rest is in the queue")
			}
			return err
		}
		held = append(held, m)
		if err := w.add(m.message); err != nil {
			w.buf, w.lines = w.buf[:0], 0
			return errors.Join(err, flush())
		}
		if len(held) == exportBatch {
			if err := flush(); err != nil {
				return err
			}
		}
	}
}

// exportCopy writes the messages without taking them.
func (a *app) exportCopy(w *exportFile, q *chanmq.Queue[[]byte], s *selectorFlags) error {
	for m, err := range q.Browse() {
		var undecoded *chanmq.DecodeError
		if errors.As(err, &undecoded) {
			a.warnUndecoded(undecoded)
			m, err = undecoded.Message, nil
		}
		if err != nil {
			return errors.Join(err, w.flush())
		}
		if a.ctx.Err() != nil {
			return errors.Join(a.interrupted("interrupted"), w.flush())
		}
		if !s.matches(m.Type) {
			continue
		}
		if err := w.add(m); err != nil {
			return err
		}
	}
	return w.flush()
}

// exportOrphans writes what dead processes have left, and acknowledges it.
func (a *app) exportOrphans(w *exportFile, dir string) error {
	orphans, err := chanmq.Orphans(dir)
	for _, o := range orphans {
		err = errors.Join(err, a.exportOrphan(w, o), o.Close())
	}
	return err
}

func (a *app) exportOrphan(w *exportFile, o *chanmq.Orphan) error {
	if a.ctx.Err() != nil {
		return a.interrupted("interrupted; the rest stays where it is")
	}
	if o.Elsewhere {
		a.progressf("left %s where it is: its queue is in another IPC namespace, whose programs may get it", o.Path)
		return nil
	}
	for _, d := range o.Deliveries {
		if d.LengthInferred {
			a.progressf("a message of type %d in %s: its length is a guess", d.Type, o.Path)
		}
		if err := w.add(d.Message); err != nil {
			return err
		}
	}
	if err := w.flush(); err != nil {
		return err
	}
	var errs []error
	for _, d := range o.Deliveries {
		errs = append(errs, d.Ack())
	}
	return errors.Join(errs...)
}

func (a *app) importCommand() *cobra.Command {
	o := sendOptions{json: true, typ: 1}
	var skip int
	cmd := &cobra.Command{
		Use:   "import QUEUE [FILE]",
		Short: "Send the messages of a file that export wrote",
		Long: `Send the messages of a file that export, or recv --json, wrote, in order, with their types.
Without a file, or with -, they are read from standard input.

A file is read through before the first message is sent, so that one with a mistake sends
nothing. It waits while the queue is full. If it ends early, it says how many were sent;
--skip goes on from there.
` + longSendsPacks,
		Example:           "  chanmq import 0x2a01 orders.jsonl\n  chanmq import 0x2a01 orders.jsonl --skip 120",
		Args:              cobra.MaximumNArgs(2),
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue")
	large := addLargeFlag(cmd)
	packing := addPackingFlag(cmd, sendsPacks)
	cmd.Flags().IntVar(&skip, "skip", 0, "leave out the first `N` messages")
	addTimeoutFlag(cmd, &o.timeout, "wait at most this long for room in the queue, for each message; 0 does not wait")
	structs := addStructFlags(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		rest, err := name.take(args)
		if err != nil {
			return err
		}
		if len(rest) > 1 {
			return noMore(rest[1:])
		}
		if skip < 0 {
			return usage("--skip %d: give 0 or more", skip)
		}
		layout, err := structs.parse()
		if err != nil {
			return err
		}
		if layout != nil {
			o.encode = func(object json.RawMessage) ([]byte, error) { return layout.Encode(object) }
		}
		in := a.in
		if len(rest) == 1 && rest[0] != "-" {
			if in, err = os.Open(rest[0]); err != nil {
				return err
			}
			defer in.Close() // it was only read
		}
		o.packing = packing.on
		q, err := name.open(append(large.options(), packing.options()...)...)
		if err != nil {
			return err
		}
		defer q.Close() // it holds nothing
		return a.importFrom(q, in, &o, skip)
	}
	return cmd
}

func (a *app) importFrom(q *chanmq.Queue[[]byte], in *os.File, o *sendOptions, skip int) error {
	info, err := in.Stat()
	if err != nil || !info.Mode().IsRegular() {
		// It can be read only once, and may never end.
		o.skip = skip
		sent, err := a.sendInput(q, o, in)
		if err == nil {
			a.progressf("imported %s", format.Count(sent, "message"))
		}
		return err
	}
	begin, err := in.Seek(0, io.SeekCurrent)
	if err == nil {
		err = eachLine(in, func(n int, line []byte) error {
			if a.ctx.Err() != nil {
				return a.interrupted("interrupted; nothing was sent")
			}
			if _, err := o.parse(line); err != nil {
				return exitWith(exitFailed, "%s: line %d: %v. Nothing was sent", in.Name(), n, err)
			}
			return nil
		})
	}
	if err == nil {
		_, err = in.Seek(begin, io.SeekStart)
	}
	if err != nil {
		return err
	}
	bar := a.bar(info.Size()-begin, "importing", true)
	defer bar.Exit()
	out := a.outgoing(q, o)
	err = eachLine(in, func(n int, line []byte) error {
		_ = bar.Add(len(line) + 1) // it is only a bar
		if n <= skip {
			return nil
		}
		m, err := o.parse(line)
		if err != nil {
			return exitWith(exitFailed, "line %d: %v", n, err)
		}
		return out.add(m)
	})
	if flushErr := out.flush(); err == nil {
		err = flushErr
	}
	_ = bar.Finish()
	sent := out.sent
	if err != nil {
		hint := fmt.Sprintf("; the first %s sent: go on with --skip %d", plural(skip+sent, "message is", "messages are"), skip+sent)
		var exit *exitError
		if errors.As(err, &exit) {
			if sent > 0 {
				return &exitError{exit.code, exit.text + hint}
			}
			return err
		}
		if sent > 0 {
			return fmt.Errorf("%w%s", err, hint)
		}
		return err
	}
	a.progressf("imported %s", format.Count(sent, "message"))
	return nil
}

// eachLine calls f with each line that is not empty, and its number among those.
func eachLine(r io.Reader, f func(n int, line []byte) error) error {
	in := bufio.NewReaderSize(r, 1<<16)
	for n := 1; ; {
		line, err := in.ReadBytes('\n')
		if text := bytes.TrimSpace(line); len(text) > 0 {
			if err := f(n, text); err != nil {
				return err
			}
			n++
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
