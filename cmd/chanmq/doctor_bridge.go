package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/journalfile"
	"github.com/chanmq/chanmq/internal/procinfo"
	"github.com/chanmq/chanmq/natsmq/bridge"
)

// bridgeInfo is what doctor sees of a bridge.
type bridgeInfo struct {
	bridge.Found
	locked   journalfile.Locked
	dead     bool // the process, where it is not known whether it has locked anything
	taken    int  // messages in journals
	journals error
}

// bridgesIn returns the directory of bridges beside that of journals.
func bridgesIn(journals string) string { return filepath.Join(journals, "bridges") }

// findBridges looks at the bridges of this user.
func findBridges(dir string) ([]bridgeInfo, error) {
	list, err := bridge.List(dir)
	var found []bridgeInfo
	for _, b := range list {
		info := bridgeInfo{Found: b, locked: journalfile.LockOf(b.Lock)}
		info.dead = procinfo.Look(b.PID, time.Time{}).State == procinfo.Dead
		var journals []journalfile.File
		journals, info.journals = journalfile.List(b.Journal)
		for _, j := range journals {
			info.taken += j.Messages
			if j.Err != nil && info.journals == nil {
				info.journals = fmt.Errorf("%s: %w", j.Path, j.Err)
			}
		}
		found = append(found, info)
	}
	return found, err
}

// diagnoseBridges says which bridges are dead, and what they have left.
func diagnoseBridges(f *facts) []finding {
	var found []finding
	if f.bridgeErr != nil {
		found = append(found, finding{failure, fmt.Sprintf("bridges: %v", f.bridgeErr), []string{"ls -l " + bridgesIn(f.dir)}})
	}
	for _, b := range f.bridges {
		keys := strings.SplitN(filepath.Base(b.Path), "-", 2)
		name := "bridge " + filepath.Base(b.Path)
		if b.journals != nil {
			found = append(found, finding{failure, fmt.Sprintf("%s: %v", name, b.journals), []string{"ls -l " + b.Journal}})
		}
		if b.locked == journalfile.Yes || b.locked == journalfile.Unknown && !b.dead {
			continue // it may live
		}
		level, text := note, fmt.Sprintf("%s does not run (last process %d), and holds nothing", name, b.PID)
		if b.taken+b.Spooled > 0 {
			level = warning
			text = fmt.Sprintf("%s does not run: process %d has died, and it holds %s on the way out and %s on the way in, which the next one moves",
				name, b.PID, format.Count(b.taken, "message"), format.Count(b.Spooled, "message"))
		}
		command := "chanmq bridge 0x" + keys[0]
		if id, ok := strings.CutPrefix(keys[0], "id"); ok {
			command = "chanmq bridge --id " + id
		}
		if len(keys) == 2 && keys[0] != keys[1] {
			command += " --cluster-key 0x" + keys[1]
		}
		if dir := filepath.Dir(b.Path); dir != bridge.DefaultDir() {
			command += " --dir " + dir
		}
		found = append(found, finding{level, text, []string{command + " --nats URL --out TYPES --in TYPES"}})
	}
	return found
}
