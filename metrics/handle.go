// Package metrics has collectors for Prometheus: [NewHandle] of what a handle of this
// program does, and [NewQueues] of all queues of the machine, or of its container, which is
// what `chanmq metrics` exports.
//
//	q, err := chanmq.Open(key, chanmq.WithCounters())
//	...
//	prometheus.MustRegister(metrics.NewHandle("orders", q))
//
// No label depends on messages or their types, so the number of series is that of the
// handles and queues.
package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/chanmq/chanmq"
)

// Counted is a [chanmq.Queue] of values of any type. It must have been opened with
// [chanmq.WithCounters], or everything is zero.
type Counted interface {
	Counters() chanmq.Counters
}

// Handle is a collector of what one handle does. It is safe for concurrent use.
type Handle struct {
	q Counted

	sent, sentBytes, taken, takenBytes, adopted, handedBack, takenAgain, returned *prometheus.Desc
	decodeErrors, settled, waits, canceled, inFlight, unacknowledged              *prometheus.Desc
}

// NewHandle returns the collector of a handle, whose series have the label handle with
// the name. Names must differ within a registry: registering the second one fails. Views of
// one handle ([chanmq.As]) have the same counters: register one of them. After Close of the
// handle the values stay as they are, until the program unregisters the collector.
func NewHandle(name string, q Counted) *Handle {
	desc := func(metric, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("chanmq_handle_"+metric, help, labels, prometheus.Labels{"handle": name})
	}
	return &Handle{
		q:              q,
		sent:           desc("sent_messages_total", "Messages sent."),
		sentBytes:      desc("sent_bytes_total", "Bytes of the messages sent."),
		taken:          desc("taken_messages_total", "Messages taken off the kernel queue."),
		takenBytes:     desc("taken_bytes_total", "Bytes of the messages taken off the kernel queue."),
		adopted:        desc("adopted_messages_total", "Messages taken over from journals of dead processes."),
		handedBack:     desc("handed_back_messages_total", "Messages that Receivers and the program have handed back to the handle."),
		takenAgain:     desc("taken_again_messages_total", "Messages that were handed back or adopted, and received then."),
		returned:       desc("returned_messages_total", "Messages put back into the kernel queue."),
		decodeErrors:   desc("decode_errors_total", "Messages taken that did not decode."),
		settled:        desc("settled_deliveries_total", "Deliveries that the program has acknowledged (ack) or given back (nack).", "result"),
		waits:          desc("waits_total", "Sends and receives, by the stage of waiting in which they ended.", "operation", "stage"),
		canceled:       desc("canceled_waits_total", "Sends and receives that ended because their ctx did.", "operation"),
		inFlight:       desc("in_flight_deliveries", "Deliveries that are neither acknowledged nor given back."),
		unacknowledged: desc("journal_messages", "Messages in journals that are not acknowledged."),
	}
}

// Describe implements prometheus.Collector.
func (h *Handle) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		h.sent, h.sentBytes, h.taken, h.takenBytes, h.adopted, h.handedBack, h.takenAgain, h.returned,
		h.decodeErrors, h.settled, h.waits, h.canceled, h.inFlight, h.unacknowledged,
	} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (h *Handle) Collect(metrics chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v int64) {
		metrics <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v))
	}
	c := h.q.Counters()
	counter(h.sent, c.Sent)
	counter(h.sentBytes, c.SentBytes)
	counter(h.taken, c.Taken)
	counter(h.takenBytes, c.TakenBytes)
	counter(h.adopted, c.Adopted)
	counter(h.handedBack, c.HandedBack)
	counter(h.takenAgain, c.TakenAgain)
	counter(h.returned, c.Returned)
	counter(h.decodeErrors, c.DecodeErrors)
	counter(h.settled, c.Acks, "ack")
	counter(h.settled, c.Nacks, "nack")
	for _, of := range []struct {
		operation string
		waits     chanmq.Waits
	}{{"receive", c.ReceiveWaits}, {"send", c.SendWaits}} {
		counter(h.waits, of.waits.AtOnce, of.operation, "at_once")
		counter(h.waits, of.waits.Spun, of.operation, "spun")
		counter(h.waits, of.waits.InLine, of.operation, "in_line")
		counter(h.waits, of.waits.Parked, of.operation, "parked")
		counter(h.waits, of.waits.Polled, of.operation, "polled")
		counter(h.canceled, of.waits.Canceled, of.operation)
	}
	gauge(h.inFlight, c.InFlight)
	gauge(h.unacknowledged, c.Unacknowledged)
}
