package main

import (
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/journalfile"
	"github.com/chanmq/chanmq/internal/procinfo"
)

var now = time.Unix(1_700_000_000, 0)

func sample() []queueInfo {
	return []queueInfo{
		{Stat: chanmq.Stat{ID: 5, Key: 0x2a01, Owner: 4_000_000, Creator: 4_000_000, Perm: 0o600, Messages: 3, Bytes: 96, MaxBytes: 16384,
			LastSend: now, LastSendPID: 10, LastReceive: now.Add(-time.Hour), LastReceivePID: 11},
			sender: procinfo.Process{PID: 10, Name: "till", State: procinfo.Alive}, receiver: procinfo.Process{PID: 11, Name: "wor\x1bker", State: procinfo.Alive}},
		{Stat: chanmq.Stat{ID: 6, Owner: 4_000_000, Creator: 4_000_000, Perm: 0o666, Messages: 50, Bytes: 900, MaxBytes: 1000, LastSend: now.Add(-time.Hour), LastSendPID: 12},
			sender: procinfo.Process{PID: 12, State: procinfo.Dead}},
		{Stat: chanmq.Stat{ID: 7, Key: 0x2a02, Owner: 4_000_000, Creator: 4_000_001, Perm: 0o600, MaxBytes: 16384}},
	}
}

// TestLsTable: what ls prints of queues that need not exist.
func TestLsTable(t *testing.T) {
	want := `KEY         ID  OWNER    PERM  MESSAGES  BYTES  FULL               SENDER      RECEIVER        RECEIVED
0x00002a01   5  4000000  0600         3     96  [..........]   0%  till[10]    wor\x1bker[11]     1h00m
0x00000000   6  4000000  0666        50    900  [#########.]  90%  (dead)[12]  -                  never
0x00002a02   7  4000000  0600         0      0  [..........]   0%  -           -                  never
`
	if got := lsTable(sample(), now, 0, true, false); got != want {
		t.Errorf("\n%s want\n%s", got, want)
	}
	if got := lsTable(sample(), now, 0, false, true); strings.Contains(got, "KEY") || strings.Count(got, "\x1b[31m") != 1 {
		t.Errorf("without a header, with a color for the full queue:\n%s", got)
	}
}

// TestSorts: each order of ls, and the other way round.
func TestSorts(t *testing.T) {
	for by, want := range map[string][3]int{
		"key": {6, 5, 7}, "id": {5, 6, 7}, "owner": {5, 6, 7}, "messages": {6, 5, 7},
		"bytes": {6, 5, 7}, "full": {6, 5, 7}, "sent": {5, 6, 7}, "received": {5, 6, 7},
	} {
		queues := sample()
		sortQueues(queues, by, false)
		if got := [3]int{queues[0].ID, queues[1].ID, queues[2].ID}; got != want {
			t.Errorf("%s: %v, want %v", by, got, want)
		}
		sortQueues(queues, by, true)
		if got := [3]int{queues[2].ID, queues[1].ID, queues[0].ID}; got != want {
			t.Errorf("%s, reversed: %v", by, got)
		}
	}
	if len(lsSortNames) != len(lsSorts) {
		t.Error("lsSortNames and lsSorts differ")
	}
}

// TestDiagnose: what doctor says of machines that need not be so.
func TestDiagnose(t *testing.T) {
	limits := chanmq.Limits{MaxMessage: 8192, MaxBytes: 16384, MaxQueues: 100, Queues: 3}
	for _, test := range []struct {
		name  string
		facts facts
		want  []string // parts of the findings, in order
	}{
		{"nothing", facts{limits: limits}, nil},
		{"nearly all queues", facts{limits: chanmq.Limits{MaxMessage: 1, MaxBytes: 1, MaxQueues: 100, Queues: 85}}, []string{"warning: 85 of 100 queues"}},
		{"all queues", facts{limits: chanmq.Limits{MaxMessage: 1, MaxBytes: 1, MaxQueues: 2, Queues: 2}}, []string{"error: 2 of 2 queues"}},
		{"messages that fit nowhere", facts{limits: chanmq.Limits{MaxMessage: 2, MaxBytes: 1, MaxQueues: 9}}, []string{"warning: msgmax, 2, is more than msgmnb, 1"}},
		{"a namespace", facts{limits: limits, ownNamespace: 1, initNamespace: 2}, []string{"note: this process is in an IPC namespace"}},
		{"queues", facts{limits: limits, queues: sample(), readable: map[int]bool{}}, []string{
			"warning: queue 0x00002a01: 3 messages wait, and wor\\x1bker[11] has not received for 1h00m",
			"note: queue 0x00002a01: it belongs to uid 4000000, which no user has",
			"warning: queue --id 6: 90% full",
			"warning: queue --id 6: 50 messages wait, and nobody has ever received",
			"note: queue --id 6: it belongs to uid",
			"warning: queue --id 6: permissions 0666: every user of the machine may send to and receive from it",
			"note: queue 0x00002a02: it belongs to uid",
			"note: queue 0x00002a02: it belongs to 4000000, and 4000001 created it",
		}},
		{"journals", facts{limits: limits, dir: "/j", queues: sample()[2:], readable: map[int]bool{7: true}, ownNamespace: 1, journals: []journalfile.File{
			{Path: "/j/1.journal", Key: 0x2a02, ID: 7, PID: 1 << 30, Namespace: 1, Messages: 2, Locked: journalfile.No},
			{Path: "/j/2.journal", Key: 0x2a02, ID: 8, PID: 1 << 30, Namespace: 1, Messages: 1, Locked: journalfile.No},
			{Path: "/j/3.journal", Key: 0x2a02, ID: 7, PID: 1 << 30, Namespace: 2, Messages: 1, Locked: journalfile.No},
			{Path: "/j/4.journal", Key: 0x2a02, ID: 7, PID: 1 << 30, Namespace: 1, Messages: 1, Locked: journalfile.Yes},
			{Path: "/j/5.journal", Key: 0x2a02, ID: 7, PID: 1 << 30, Namespace: 1, Locked: journalfile.No},
		}}, []string{
			"note: queue 0x00002a02", "note: queue 0x00002a02",
			"warning: process 1073741824 has died with 2 messages of queue 0x00002a02: the next receiver",
			"warning: process 1073741824 has died with 1 message of queue 0x00002a02, which does not exist any more",
			"note: process 1073741824 has died with 1 message of queue 0x00002a02 of another IPC namespace",
		}},
		{"no directory for journals", facts{limits: limits, dir: "/j", dirErr: "it is no directory"}, []string{"error: journals cannot be kept in /j: it is no directory"}},
		{"systemd", facts{limits: limits, removesIPC: true}, []string{"note: systemd removes"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.facts.now = now
			found := diagnose(&test.facts)
			if len(found) != len(test.want) {
				t.Errorf("%d findings, want %d", len(found), len(test.want))
			}
			for i, f := range found {
				got := f.Level + ": " + f.Text
				if i >= len(test.want) || !strings.HasPrefix(got, test.want[i]) {
					t.Errorf("finding %d: %s", i, got)
				}
			}
		})
	}
}

// TestPause: the pause before a message comes again doubles, up to the longest.
func TestPause(t *testing.T) {
	r := &runner{o: &execOptions{pause: 100 * time.Millisecond, maxPause: time.Second}}
	for attempt, want := range map[int]time.Duration{1: 100, 2: 200, 3: 400, 4: 800, 5: 1000, 1 << 30: 1000} {
		if got := r.pauseAfter(attempt); got != want*time.Millisecond {
			t.Errorf("attempt %d: %v", attempt, got)
		}
	}
}

func TestParseKey(t *testing.T) {
	for text, want := range map[string]chanmq.Key{"1": 1, "0x2a01": 0x2a01, "0X2A01": 0x2a01, "4294967295": -1, "-1": -1, "0xffffffff": -1} {
		if got, err := parseKey(text); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "0x", "0x0", "007", "1_0", "4294967296", "-2147483649", "--1", "0x-1", "lamp"} {
		if got, err := parseKey(text); err == nil {
			t.Errorf("%q: %v", text, got)
		}
	}
}
