// Package plainterm keeps the terminal-UI libraries from asking the terminal for its
// background.
//
// Bubble Tea does that when it is initialized, so that each command of a program that
// links it would write an escape sequence to the terminal, wait for the answer, and
// swallow what was typed ahead. An answer that is there already prevents it; nothing here
// depends on it, since top has only colors that are readable on either background.
//
// Go initializes packages in the order of their import paths once what they import is
// initialized (Go specification, Program initialization). This one needs Lip Gloss alone,
// as Bubble Tea does, and comes before it: github.com/chanmq, github.com/charmbracelet.
package plainterm

import "github.com/charmbracelet/lipgloss"

func init() { lipgloss.SetHasDarkBackground(true) }
