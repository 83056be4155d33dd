package metrics

import (
	"cmp"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/procinfo"
)

// Queues is a collector of all queues of the process's IPC namespace, whoever uses them.
// Each collection asks the kernel once, and /proc for the last sender and receiver of each
// queue that has labels. It takes no permission on the queues, and changes nothing. It is
// safe for concurrent use.
//
// Queues have the labels key, in hexadecimal as ipcs(1) prints it, and id, the msqid.
// There are never more of them than the limit; what the others hold is in sums.
type Queues struct {
	limit int

	// The machine, but for tests.
	list   func() ([]chanmq.Stat, error)
	limits func() (chanmq.Limits, error)
	look   func(pid int, at time.Time) procinfo.Process
}

// NewQueues returns a collector that gives labels to at most limit queues: to those with a
// key before private ones, and among them to those with the lowest msqid, so that a queue
// keeps its labels. A limit of 0 or less gives labels to none.
func NewQueues(limit int) *Queues {
	return &Queues{
		limit:  max(limit, 0),
		list:   chanmq.List,
		limits: chanmq.ReadLimits,
		look:   procinfo.Look,
	}
}

// Of a queue.
var (
	queueMessages = ofQueue("messages", "Messages in the queue.")
	queueBytes    = ofQueue("bytes", "Bytes of the messages in the queue.")
	queueMaxBytes = ofQueue("max_bytes", "How many bytes the queue takes, and how many messages (msg_qbytes).")
	queueFull     = ofQueue("full_ratio", "How full the queue is, from 0 to 1: of bytes, or of messages, whichever is more.")
	lastSend      = ofQueue("last_send_timestamp_seconds", "When the last message was sent. Missing if none was.")
	lastReceive   = ofQueue("last_receive_timestamp_seconds", "When the last message was received. Missing if none was.")
	senderAlive   = ofQueue("last_sender_alive", "1 if the process that sent last lives, 0 if it has ended, or nobody ever sent. Missing if that is not known.")
	receiverAlive = ofQueue("last_receiver_alive", "1 if the process that received last lives, 0 if it has ended, or nobody ever received. Missing if that is not known.")
)

// Of the namespace.
var (
	queues          = ofNamespace("queues", "Queues that exist.")
	queuesLimit     = ofNamespace("queues_limit", "Queues that may exist (msgmni).")
	messages        = ofNamespace("messages", "Messages in all queues.")
	bytes           = ofNamespace("bytes", "Bytes of the messages in all queues.")
	messageMaxBytes = ofNamespace("message_max_bytes", "Bytes that one message may have (msgmax).")
	newMaxBytes     = ofNamespace("new_queue_max_bytes", "How many bytes a queue takes when it is created (msgmnb).")

	restQueues   = ofNamespace("unlabelled_queues", "Queues beyond the limit, which have no series of their own.")
	restMessages = ofNamespace("unlabelled_messages", "Messages in those queues.")
	restBytes    = ofNamespace("unlabelled_bytes", "Bytes of the messages in those queues.")
	restFull     = ofNamespace("unlabelled_full_ratio", "How full the fullest of those queues is, from 0 to 1.")
)

func ofQueue(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("chanmq_queue_"+name, help, []string{"key", "id"}, nil)
}

func ofNamespace(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("chanmq_"+name, help, nil, nil)
}

// Describe implements prometheus.Collector.
func (*Queues) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		queueMessages, queueBytes, queueMaxBytes, queueFull, lastSend, lastReceive, senderAlive, receiverAlive,
		queues, queuesLimit, messages, bytes, messageMaxBytes, newMaxBytes,
		restQueues, restMessages, restBytes, restFull,
	} {
		descs <- d
	}
}

// Collect implements prometheus.Collector. If the kernel refuses to say something, the
// collection fails with its error.
func (c *Queues) Collect(metrics chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	limits, err := c.limits()
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(queuesLimit, err)
		return
	}
	all, err := c.list()
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(queues, err)
		return
	}
	slices.SortFunc(all, before)
	labelled := all[:min(c.limit, len(all))]
	for i := range labelled {
		c.collectQueue(&labelled[i], gauge)
	}

	var rest, total struct {
		messages, bytes int
		full            float64
	}
	for i := range all {
		q := &all[i]
		total.messages += q.Messages
		total.bytes += q.Bytes
		if i >= len(labelled) {
			rest.messages += q.Messages
			rest.bytes += q.Bytes
			rest.full = max(rest.full, full(q))
		}
	}
	gauge(queues, float64(len(all)))
	gauge(queuesLimit, float64(limits.MaxQueues))
	gauge(messages, float64(total.messages))
	gauge(bytes, float64(total.bytes))
	gauge(messageMaxBytes, float64(limits.MaxMessage))
	gauge(newMaxBytes, float64(limits.MaxBytes))
	gauge(restQueues, float64(len(all)-len(labelled)))
	gauge(restMessages, float64(rest.messages))
	gauge(restBytes, float64(rest.bytes))
	gauge(restFull, rest.full)
}

func (c *Queues) collectQueue(q *chanmq.Stat, gauge func(*prometheus.Desc, float64, ...string)) {
	key, id := q.Key.String(), strconv.Itoa(q.ID)
	gauge(queueMessages, float64(q.Messages), key, id)
	gauge(queueBytes, float64(q.Bytes), key, id)
	gauge(queueMaxBytes, float64(q.MaxBytes), key, id)
	gauge(queueFull, full(q), key, id)
	for _, last := range []struct {
		when, alive *prometheus.Desc
		at          time.Time
		pid         int
	}{
		{lastSend, senderAlive, q.LastSend, q.LastSendPID},
		{lastReceive, receiverAlive, q.LastReceive, q.LastReceivePID},
	} {
		if !last.at.IsZero() {
			gauge(last.when, float64(last.at.Unix()), key, id)
		}
		if alive, known := c.alive(last.pid, last.at); known {
			gauge(last.alive, alive, key, id)
		}
	}
}

// alive returns 1 if the process lives which used a queue at the time.
func (c *Queues) alive(pid int, at time.Time) (alive float64, known bool) {
	if at.IsZero() {
		return 0, true
	}
	switch c.look(pid, at).State {
	case procinfo.Alive:
		return 1, true
	case procinfo.Dead:
		return 0, true
	}
	return 0, false
}

// before is the order in which queues get labels.
func before(x, y chanmq.Stat) int {
	private := func(s chanmq.Stat) int {
		if s.Key == 0 {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(private(x), private(y)), cmp.Compare(x.ID, y.ID))
}

// full returns how full a queue is. The kernel bounds bytes and messages by the same
// number (ipc/msg.c, msg_fits_inqueue).
func full(q *chanmq.Stat) float64 {
	if q.MaxBytes <= 0 {
		return 1
	}
	return float64(max(q.Bytes, q.Messages)) / float64(q.MaxBytes)
}
