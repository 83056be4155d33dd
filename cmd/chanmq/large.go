package main

import (
	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
)

// largeFlag is where texts are that are too large for a message.
type largeFlag struct{ dir string }

func addLargeFlag(cmd *cobra.Command) *largeFlag {
	l := &largeFlag{}
	cmd.Flags().StringVar(&l.dir, "large", "",
		"texts too large for a message are in files in `DIR`, as of chanmq.WithLarge; default is the user's own")
	return l
}

// defaultDir is the directory that WithLarge means by "".
const defaultDir = "default"

// options returns the options of the queue.
func (l *largeFlag) options() []chanmq.Option {
	switch l.dir {
	case "":
		return nil
	case defaultDir:
		return []chanmq.Option{chanmq.WithLarge("")}
	}
	return []chanmq.Option{chanmq.WithLarge(l.dir)}
}
