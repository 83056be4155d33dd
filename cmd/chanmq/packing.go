package main

import (
	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/envelope"
)

// packingFlag is whether messages may be packs of several values.
type packingFlag struct{ on bool }

func addPackingFlag(cmd *cobra.Command, what string) *packingFlag {
	p := &packingFlag{}
	cmd.Flags().BoolVar(&p.on, "packing", false, what+", as of chanmq.WithPacking")
	return p
}

// receivesPacks is what addPackingFlag says of commands that show or take messages.
const receivesPacks = "take packs apart, which are several values in one message"

// sendsPacks is what it says of commands that send messages.
const sendsPacks = "send messages of one type that are read at once in packs, several in one message"

// longSendsPacks explains --packing of such a command.
const longSendsPacks = `
With --packing, messages of one type that were read at once travel in one message, a pack:
for programs that use chanmq.WithPacking, and for recv --packing. It never waits for more.
With --timeout 0 each is sent by itself.
`

// longPacks explains --packing of such a command.
const longPacks = `
Programs that use chanmq.WithPacking send several values in one message, a pack. With
--packing a pack is its values: each is a message with the pack's type. Without it a pack
is a message like others, its bytes as they are in the queue.
`

// longRest is about what --packing leaves of a pack.
const longRest = `A pack is taken as a whole. Values of it that are left over go back to the tail of the
queue, as a pack.
`

// options returns the options of the queue.
func (p *packingFlag) options() []chanmq.Option {
	if !p.on {
		return nil
	}
	return []chanmq.Option{chanmq.WithPacking()}
}

// packNotice says, once, that there are packs which are not taken apart.
type packNotice struct {
	a    *app
	said bool
}

// notice returns nil if packs are taken apart.
func (p *packingFlag) notice(a *app) *packNotice {
	if p.on {
		return nil
	}
	return &packNotice{a: a}
}

// look looks at a message.
func (n *packNotice) look(m message) {
	if n == nil || n.said || !envelope.Begins(m.Value) {
		return
	}
	if values, _, err := envelope.ParsePack(m.Value); err == nil {
		n.said = true
		n.a.progressf("a message of type %d is a pack of %s; --packing takes packs apart", m.Type, plural(values, "value", "values"))
	}
}

// unpacked returns the values of a pack, and nil of other messages.
func unpacked(m message) (values []message) {
	if !envelope.Begins(m.Value) {
		return nil
	}
	n, at, err := envelope.ParsePack(m.Value)
	if err != nil {
		return nil
	}
	for range n {
		var value []byte
		value, at = envelope.NextValue(m.Value, at)
		values = append(values, message{Type: m.Type, Value: value})
	}
	return values
}
