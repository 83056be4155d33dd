package metrics

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/procinfo"
)

// gather returns what a collector exports, a line for each series, with the name cut off
// that all of them begin with.
func gather(t *testing.T, c prometheus.Collector, prefix string) string {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	var b strings.Builder
	for _, family := range families {
		name, ok := strings.CutPrefix(family.GetName(), prefix)
		if !ok {
			t.Errorf("%s does not begin with %s", family.GetName(), prefix)
		}
		for _, metric := range family.Metric {
			b.WriteString(name)
			for _, label := range metric.Label {
				b.WriteString(" " + label.GetName() + "=" + label.GetValue())
			}
			value := metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			b.WriteString(" " + strconv.FormatFloat(value, 'g', 10, 64) + "\n")
		}
	}
	return b.String()
}

// lines cuts the indentation off.
func lines(text string) string {
	return strings.ReplaceAll(strings.TrimPrefix(text, "\n"), "\t", "")
}

type fixed chanmq.Counters

func (f fixed) Counters() chanmq.Counters { return chanmq.Counters(f) }

// TestHandle: each counter is exported as what it is.
func TestHandle(t *testing.T) {
	c := NewHandle("orders", fixed{
		Sent: 1, SentBytes: 2, Taken: 3, TakenBytes: 4, Adopted: 5, HandedBack: 6, TakenAgain: 7,
		Returned: 8, DecodeErrors: 9, Acks: 10, Nacks: 11, InFlight: 12, Unacknowledged: 13,
		ReceiveWaits: chanmq.Waits{AtOnce: 21, Spun: 22, InLine: 23, Parked: 24, Polled: 25, Canceled: 26},
		SendWaits:    chanmq.Waits{AtOnce: 31, Spun: 32, InLine: 33, Parked: 34, Polled: 35, Canceled: 36},
	})
	want := lines(`
		adopted_messages_total handle=orders 5
		canceled_waits_total handle=orders operation=receive 26
		canceled_waits_total handle=orders operation=send 36
		decode_errors_total handle=orders 9
		handed_back_messages_total handle=orders 6
		in_flight_deliveries handle=orders 12
		journal_messages handle=orders 13
		returned_messages_total handle=orders 8
		sent_bytes_total handle=orders 2
		sent_messages_total handle=orders 1
		settled_deliveries_total handle=orders result=ack 10
		settled_deliveries_total handle=orders result=nack 11
		taken_again_messages_total handle=orders 7
		taken_bytes_total handle=orders 4
		taken_messages_total handle=orders 3
		waits_total handle=orders operation=receive stage=at_once 21
		waits_total handle=orders operation=receive stage=in_line 23
		waits_total handle=orders operation=receive stage=parked 24
		waits_total handle=orders operation=receive stage=polled 25
		waits_total handle=orders operation=receive stage=spun 22
		waits_total handle=orders operation=send stage=at_once 31
		waits_total handle=orders operation=send stage=in_line 33
		waits_total handle=orders operation=send stage=parked 34
		waits_total handle=orders operation=send stage=polled 35
		waits_total handle=orders operation=send stage=spun 32
	`)
	if got := gather(t, c, "chanmq_handle_"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestHandlesOfOneRegistry: several handles go together, two of one name do not.
func TestHandlesOfOneRegistry(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for _, test := range []struct {
		c  prometheus.Collector
		ok bool
	}{
		{NewHandle("orders", fixed{}), true},
		{NewHandle("alarms", fixed{}), true},
		{NewQueues(1), true},
		{NewHandle("orders", fixed{}), false},
		{NewQueues(2), false},
	} {
		if err := registry.Register(test.c); (err == nil) != test.ok {
			t.Errorf("%T: %v", test.c, err)
		}
	}
}

// fake returns a collector of queues on a machine that has these.
func fake(limit int, stats ...chanmq.Stat) *Queues {
	c := NewQueues(limit)
	c.list = func() ([]chanmq.Stat, error) { return stats, nil }
	c.limits = func() (chanmq.Limits, error) {
		return chanmq.Limits{MaxMessage: 8192, MaxBytes: 16384, MaxQueues: 32000}, nil
	}
	c.look = func(pid int, _ time.Time) procinfo.Process {
		return procinfo.Process{State: map[int]procinfo.State{1: procinfo.Alive, 2: procinfo.Dead}[pid]}
	}
	return c
}

// TestQueues: what is known of each queue is exported, and what is not known is left out.
func TestQueues(t *testing.T) {
	at := time.Unix(1000, 0)
	c := fake(10,
		chanmq.Stat{Key: 0x2a01, ID: 5, Messages: 3, Bytes: 80, MaxBytes: 100,
			LastSend: at, LastSendPID: 1, LastReceive: at.Add(-time.Second), LastReceivePID: 2},
		chanmq.Stat{Key: -1, ID: 4, Messages: 8, MaxBytes: 8},
		chanmq.Stat{Key: 0, ID: 3, MaxBytes: 10, LastSend: at, LastSendPID: 3}, // a pid that is not known
	)
	want := lines(`
		bytes 80
		message_max_bytes 8192
		messages 11
		new_queue_max_bytes 16384
		queue_bytes id=3 key=0x00000000 0
		queue_bytes id=4 key=0xffffffff 0
		queue_bytes id=5 key=0x00002a01 80
		queue_full_ratio id=3 key=0x00000000 0
		queue_full_ratio id=4 key=0xffffffff 1
		queue_full_ratio id=5 key=0x00002a01 0.8
		queue_last_receive_timestamp_seconds id=5 key=0x00002a01 999
		queue_last_receiver_alive id=3 key=0x00000000 0
		queue_last_receiver_alive id=4 key=0xffffffff 0
		queue_last_receiver_alive id=5 key=0x00002a01 0
		queue_last_send_timestamp_seconds id=3 key=0x00000000 1000
		queue_last_send_timestamp_seconds id=5 key=0x00002a01 1000
		queue_last_sender_alive id=4 key=0xffffffff 0
		queue_last_sender_alive id=5 key=0x00002a01 1
		queue_max_bytes id=3 key=0x00000000 10
		queue_max_bytes id=4 key=0xffffffff 8
		queue_max_bytes id=5 key=0x00002a01 100
		queue_messages id=3 key=0x00000000 0
		queue_messages id=4 key=0xffffffff 8
		queue_messages id=5 key=0x00002a01 3
		queues 3
		queues_limit 32000
		unlabelled_bytes 0
		unlabelled_full_ratio 0
		unlabelled_messages 0
		unlabelled_queues 0
	`)
	if got := gather(t, c, "chanmq_"); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// TestQueuesBeyondTheLimit: they have no labels, and are summed.
func TestQueuesBeyondTheLimit(t *testing.T) {
	stats := []chanmq.Stat{
		{Key: 0, ID: 1, Messages: 1, Bytes: 10, MaxBytes: 100},
		{Key: 9, ID: 4, Messages: 2, Bytes: 90, MaxBytes: 100},
		{Key: 8, ID: 3, Messages: 4, Bytes: 50, MaxBytes: 100},
		{Key: 7, ID: 2, Messages: 8, Bytes: 20, MaxBytes: 100},
	}
	for _, test := range []struct {
		limit    int
		labelled []string // ids
		rest     string   // queues, messages, bytes, full
	}{
		{4, []string{"1", "2", "3", "4"}, "0 0 0 0"},
		{3, []string{"2", "3", "4"}, "1 1 10 0.1"},
		{2, []string{"2", "3"}, "2 3 100 0.9"},
		{0, nil, "4 15 170 0.9"},
		{-1, nil, "4 15 170 0.9"},
	} {
		got := gather(t, fake(test.limit, stats...), "chanmq_")
		var labelled []string
		values := make(map[string]string)
		for line := range strings.Lines(got) {
			fields := strings.Fields(line)
			if fields[0] == "queue_messages" {
				labelled = append(labelled, strings.TrimPrefix(fields[1], "id="))
			}
			values[fields[0]] = fields[len(fields)-1]
		}
		rest := values["unlabelled_queues"] + " " + values["unlabelled_messages"] + " " + values["unlabelled_bytes"] + " " + values["unlabelled_full_ratio"]
		if strings.Join(labelled, " ") != strings.Join(test.labelled, " ") || rest != test.rest {
			t.Errorf("limit %d: labels %v, rest %s; want %v, %s", test.limit, labelled, rest, test.labelled, test.rest)
		}
		if values["queues"] != "4" || values["messages"] != "15" || values["bytes"] != "170" {
			t.Errorf("limit %d: %s queues, %s messages, %s bytes in all", test.limit, values["queues"], values["messages"], values["bytes"])
		}
	}
}

// TestQueuesThatCannotBeListed: the collection fails, instead of saying that there are none.
func TestQueuesThatCannotBeListed(t *testing.T) {
	failed := errors.New("as the test wants it")
	for name, fail := range map[string]func(*Queues){
		"list":   func(c *Queues) { c.list = func() ([]chanmq.Stat, error) { return nil, failed } },
		"limits": func(c *Queues) { c.limits = func() (chanmq.Limits, error) { return chanmq.Limits{}, failed } },
	} {
		c := fake(1)
		fail(c)
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(c)
		if _, err := registry.Gather(); err == nil || !strings.Contains(err.Error(), failed.Error()) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
