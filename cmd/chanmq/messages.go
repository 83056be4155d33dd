package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/cstruct"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
)

func (a *app) messageCommands() []*cobra.Command {
	return []*cobra.Command{
		a.sendCommand(), a.recvCommand(), a.peekCommand(), a.execCommand(), a.forwardCommand(), a.bridgeCommand(),
		a.exportCommand(), a.importCommand(),
	}
}

type message = chanmq.Message[[]byte]

// structFlags say which C struct messages are.
type structFlags struct {
	declaration, order string
	packed             bool
}

func addStructFlags(cmd *cobra.Command) *structFlags {
	s := &structFlags{}
	f := cmd.Flags()
	f.StringVarP(&s.declaration, "struct", "S", "", "messages are C structs with these `MEMBERS` behind mtype, such as 'i32 id; f64 price; char[16] name'; @FILE reads them from a file")
	f.BoolVar(&s.packed, "packed", false, "the struct has no padding")
	f.StringVar(&s.order, "byte-order", "native", "the struct's numbers have this `ORDER`: native, little or big")
	_ = cmd.RegisterFlagCompletionFunc("byte-order", cobra.FixedCompletions([]string{"native", "little", "big"}, cobra.ShellCompDirectiveNoFileComp)) // the flag exists
	return s
}

// longStruct explains --struct.
const longStruct = `
--struct has the members of a C struct behind mtype, as Go or C names their types: i8 to
i64, u8 to u64, f32, f64, char, bool; int, unsigned long, uint32_t, size_t, double and so
on; char[16] name or char name[16]; struct { ... } within the struct; as the last member
char[] name takes what is left. Members lie where a C compiler puts them, unless --packed
is given. Members without a name, or with _ in front, are not shown. So what is between
the braces in a header will do, with its comments: --struct @FILE.
`

// parse returns the struct, nil if there is none.
func (s *structFlags) parse() (*cstruct.Struct, error) {
	if s.declaration == "" {
		if s.packed || s.order != "native" {
			return nil, usage("--packed and --byte-order belong to --struct")
		}
		return nil, nil
	}
	text := s.declaration
	if file, ok := strings.CutPrefix(text, "@"); ok {
		read, err := os.ReadFile(file)
		if err != nil {
			return nil, usage("--struct: %w", err)
		}
		text = string(read)
	}
	o := cstruct.Options{Packed: s.packed}
	switch s.order {
	case "native":
	case "little":
		o.Order = binary.LittleEndian
	case "big":
		o.Order = binary.BigEndian
	default:
		return nil, usage("--byte-order %s: there are native, little, big", s.order)
	}
	parsed, err := cstruct.Parse(text, o)
	if err != nil {
		return nil, usage("--struct: %w", err)
	}
	return parsed, nil
}

// printer turns messages into what recv and peek write.
type printer struct {
	mode    string
	null    bool
	escape  bool // to a terminal
	layout  *cstruct.Struct
	misfits int // messages that are not the struct
	warn    func(format string, args ...any)
}

// printFlags are the flags that choose a printer.
type printFlags struct {
	raw, hex, json, null bool
	structs              *structFlags
}

func addPrintFlags(cmd *cobra.Command) *printFlags {
	p := &printFlags{}
	f := cmd.Flags()
	f.BoolVar(&p.raw, "raw", false, "the bytes of each message, and nothing else")
	f.BoolVarP(&p.hex, "hex", "x", false, "a hex dump of each message, with its type")
	f.BoolVarP(&p.json, "json", "j", false, `lines of JSON, such as {"type":1,"text":"hello"}; send --json and import take them`)
	f.BoolVarP(&p.null, "null", "0", false, "a NUL behind each message instead of a newline")
	p.structs = addStructFlags(cmd)
	return p
}

const longPrint = `
Each message is written with a newline behind it, and on a terminal with escapes for
characters that could disturb it; --raw, --null, --hex and --json change that. JSON has
"text" for UTF-8, "base64" for other bytes, and "struct" with --struct.
`

func (p *printFlags) printer(a *app) (*printer, error) {
	pr := &printer{mode: "text", null: p.null, warn: a.progressf, escape: term.IsTerminal(int(a.out.Fd()))}
	for _, one := range []struct {
		name string
		set  bool
	}{{"raw", p.raw}, {"hex", p.hex}, {"json", p.json}} {
		if !one.set {
			continue
		}
		if pr.mode != "text" {
			return nil, usage("--%s and --%s exclude each other", pr.mode, one.name)
		}
		pr.mode = one.name
	}
	if p.null && pr.mode != "text" {
		return nil, usage("--null and --%s exclude each other", pr.mode)
	}
	var err error
	if pr.layout, err = p.structs.parse(); err != nil {
		return nil, err
	}
	if pr.layout != nil && pr.mode != "text" && pr.mode != "json" {
		return nil, usage("--struct and --%s exclude each other", pr.mode)
	}
	return pr, nil
}

// append appends what is written for a message.
func (p *printer) append(dst []byte, m message) ([]byte, error) {
	if p.layout != nil {
		record, err := p.layout.Decode(m.Value)
		var misfit *cstruct.SizeError
		switch {
		case errors.As(err, &misfit):
			p.misfits++
			p.warn("a message of type %d is not the struct: %v", m.Type, err)
			if p.mode == "text" {
				return fmt.Appendf(dst, "type=%d (%d bytes) %x%s", m.Type, len(m.Value), m.Value, p.end()), nil
			}
		case err != nil:
			return dst, err
		case p.mode == "json":
			members, err := json.Marshal(record)
			if err != nil {
				return dst, err
			}
			return format.Line{Type: m.Type, Struct: members}.Append(dst)
		default:
			return fmt.Appendf(dst, "type=%d %v%s", m.Type, record, p.end()), nil
		}
	}
	switch p.mode {
	case "raw":
		return append(dst, m.Value...), nil
	case "json":
		return format.NewLine(m.Type, m.Value).Append(dst)
	case "hex":
		var b strings.Builder
		fmt.Fprintf(&b, "type %d, %s\n", m.Type, format.Count(len(m.Value), "byte"))
		err := format.Hex(&b, m.Value)
		return append(dst, b.String()...), err
	}
	if p.escape {
		return append(append(dst, format.Printable(m.Value)...), p.end()...), nil
	}
	return append(append(dst, m.Value...), p.end()...), nil
}

func (p *printer) end() string {
	if p.null {
		return "\x00"
	}
	return "\n"
}

// misfit is the error of messages that were not the struct.
func (p *printer) misfit() error {
	if p.misfits == 0 {
		return nil
	}
	return exitWith(exitFailed, "%s not decoded, since %s not the struct; %s shown as bytes",
		plural(p.misfits, "message was", "messages were"), plural1(p.misfits, "it was", "they were"), plural1(p.misfits, "it was", "they were"))
}

func plural(n int, one, many string) string { return fmt.Sprintf("%d %s", n, plural1(n, one, many)) }

func plural1(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}
