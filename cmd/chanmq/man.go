package main

import (
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

func (a *app) moreCommands() []*cobra.Command {
	return []*cobra.Command{a.benchCommand(), a.benchPeerCommand(), a.demoCommand(), a.manCommand()}
}

func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIRECTORY",
		Short: "Write the man pages into a directory",
		Long: `Write a man page for each command into a directory, which is created if it does not exist.
SOURCE_DATE_EPOCH, if set, is their date, in seconds since 1970.`,
		Example: "  chanmq man /usr/local/share/man/man1 && man chanmq-recv",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return err
			}
			root := cmd.Root()
			root.DisableAutoGenTag = true
			header := &doc.GenManHeader{Section: "1", Source: "chanmq " + root.Version, Manual: "chanmq"}
			if os.Getenv("SOURCE_DATE_EPOCH") == "" {
				now := time.Now()
				header.Date = &now
			}
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fmt.Errorf("man pages: %w", err)
			}
			return nil
		},
	}
}
