package otel_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/chanmqtest"
	chanmqotel "github.com/chanmq/chanmq/otel"
)

// recorder has what a Telemetry has made.
type recorder struct {
	*testing.T
	*chanmqotel.Telemetry
	spans   *tracetest.InMemoryExporter
	tracers *sdktrace.TracerProvider
	reader  *sdkmetric.ManualReader
}

func record(t *testing.T, opts ...chanmqotel.Option) *recorder {
	t.Helper()
	r := &recorder{T: t, spans: tracetest.NewInMemoryExporter(), reader: sdkmetric.NewManualReader()}
	r.tracers = sdktrace.NewTracerProvider(sdktrace.WithSyncer(r.spans))
	meters := sdkmetric.NewMeterProvider(sdkmetric.WithReader(r.reader))
	var err error
	r.Telemetry, err = chanmqotel.New(append(opts, chanmqotel.WithTracerProvider(r.tracers), chanmqotel.WithMeterProvider(meters))...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// attributesText writes attributes without those that are always the same.
func attributesText(set attribute.Set) string {
	var words []string
	for _, kv := range set.ToSlice() {
		name := strings.TrimPrefix(strings.TrimPrefix(string(kv.Key), "messaging."), "chanmq.")
		if name == "system" && kv.Value.AsString() == "sysv_mq" {
			continue
		}
		words = append(words, name+"="+kv.Value.String())
	}
	return strings.Join(words, " ")
}

// spanTexts writes the spans that have ended, and forgets them.
func (r *recorder) spanTexts() []string {
	var texts []string
	for _, s := range r.spans.GetSpans() {
		text := fmt.Sprintf("%s (%v, %v): %s", s.Name, s.SpanKind, s.EndTime.Sub(s.StartTime), attributesText(attribute.NewSet(s.Attributes...)))
		if s.Status.Description != "" {
			text += "; " + s.Status.Code.String() + ": " + s.Status.Description
		}
		texts = append(texts, text)
	}
	r.spans.Reset()
	return texts
}

// metricTexts writes the metrics.
func (r *recorder) metricTexts() []string {
	r.Helper()
	var data metricdata.ResourceMetrics
	if err := r.reader.Collect(context.Background(), &data); err != nil {
		r.Fatal(err)
	}
	var texts []string
	for _, scope := range data.ScopeMetrics {
		for _, m := range scope.Metrics {
			name := strings.TrimPrefix(m.Name, "messaging.")
			switch d := m.Data.(type) {
			case metricdata.Histogram[float64]:
				for _, p := range d.DataPoints {
					texts = append(texts, fmt.Sprintf("%s %d of %gs: %s", name, p.Count, p.Sum, attributesText(p.Attributes)))
				}
			case metricdata.Sum[int64]:
				for _, p := range d.DataPoints {
					texts = append(texts, fmt.Sprintf("%s %d: %s", name, p.Value, attributesText(p.Attributes)))
				}
			default:
				r.Errorf("%s is a %T", m.Name, d)
			}
		}
	}
	slices.Sort(texts)
	return texts
}

func wantTexts(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s\n\t%s\nwant\n\t%s", what, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

// TestEvents: what each event makes.
func TestEvents(t *testing.T) {
	for _, test := range []struct {
		name    string
		event   chanmq.Event
		span    string // "": none
		metrics []string
	}{
		{
			"a send",
			chanmq.Event{Op: chanmq.OpSend, Key: 0x2a01, Type: 3, Size: 9, Duration: time.Second, Wait: chanmq.WaitParked},
			"send 0x00002a01 (client, 1s): message.type=3 wait=parked destination.name=0x00002a01 message.body.size=9 operation.name=send operation.type=send",
			[]string{
				"client.operation.duration 1 of 1s: destination.name=0x00002a01 operation.name=send operation.type=send",
				"client.sent.messages 1: destination.name=0x00002a01 operation.name=send",
			},
		},
		{
			"a send that failed",
			chanmq.Event{Op: chanmq.OpSend, Key: 0x2a01, Type: 3, Size: 9000, Err: &chanmq.OpError{Op: "send", Err: chanmq.ErrTooLarge}},
			"send 0x00002a01 (client, 0s): message.type=3 wait=at once error.type=too_large destination.name=0x00002a01 message.body.size=9000 operation.name=send operation.type=send; Error: ",
			[]string{
				"client.operation.duration 1 of 0s: error.type=too_large destination.name=0x00002a01 operation.name=send operation.type=send",
				"client.sent.messages 1: error.type=too_large destination.name=0x00002a01 operation.name=send",
			},
		},
		{
			"a receive",
			chanmq.Event{Op: chanmq.OpReceive, ID: 5, Type: 3, Duration: time.Millisecond, Wait: chanmq.WaitInLine},
			"receive msqid 5 (client, 1ms): message.type=3 wait=in line destination.name=msqid 5 message.body.size=0 operation.name=receive operation.type=receive",
			[]string{
				"client.consumed.messages 1: destination.name=msqid 5 operation.name=receive",
				"client.operation.duration 1 of 0.001s: destination.name=msqid 5 operation.name=receive operation.type=receive",
			},
		},
		{
			"a message that does not decode", // whose codec's error looks like another one
			chanmq.Event{Op: chanmq.OpReceive, Key: 1, Type: 3, Size: 2, Err: &chanmq.DecodeError{Err: context.Canceled}},
			"receive 0x00000001 (client, 0s): message.type=3 wait=at once error.type=decode destination.name=0x00000001 message.body.size=2 operation.name=receive operation.type=receive; Error: ",
			[]string{
				"client.consumed.messages 1: error.type=decode destination.name=0x00000001 operation.name=receive",
				"client.operation.duration 1 of 0s: error.type=decode destination.name=0x00000001 operation.name=receive operation.type=receive",
			},
		},
		{
			"a receive that was cancelled",
			chanmq.Event{Op: chanmq.OpReceive, Key: 1, Duration: time.Hour, Err: context.Canceled},
			"",
			[]string{"client.operation.duration 1 of 3600s: error.type=canceled destination.name=0x00000001 operation.name=receive operation.type=receive"},
		},
		{
			"a receive from a queue that is gone",
			chanmq.Event{Op: chanmq.OpReceive, Key: 1, Err: chanmq.ErrRemoved},
			"receive 0x00000001 (client, 0s): wait=at once error.type=removed destination.name=0x00000001 operation.name=receive operation.type=receive; Error: ",
			[]string{"client.operation.duration 1 of 0s: error.type=removed destination.name=0x00000001 operation.name=receive operation.type=receive"},
		},
		{
			"a delivery", chanmq.Event{Op: chanmq.OpDeliver, Key: 1, Type: 3, Duration: time.Second, Attempt: 1}, "", nil,
		},
		{
			"an ack",
			chanmq.Event{Op: chanmq.OpAck, Key: 1, Type: 3, Size: 2, Duration: time.Second, Attempt: 2},
			"process 0x00000001 (consumer, 1s): delivery.attempt=2 message.type=3 destination.name=0x00000001 message.body.size=2 operation.name=process operation.type=process",
			[]string{"process.duration 1 of 1s: destination.name=0x00000001 operation.name=process"},
		},
		{
			"a nack",
			chanmq.Event{Op: chanmq.OpNack, Key: 1, Type: 3, Size: 2, Duration: time.Second, Attempt: 2},
			"process 0x00000001 (consumer, 1s): delivery.attempt=2 message.type=3 error.type=nack destination.name=0x00000001 message.body.size=2 operation.name=process operation.type=process; Error: given back",
			[]string{"process.duration 1 of 1s: error.type=nack destination.name=0x00000001 operation.name=process"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := record(t)
			r.Observe(t.Context(), test.event)
			var want []string
			if test.span != "" {
				want = []string{test.span}
			}
			if strings.HasSuffix(test.span, "; Error: ") {
				want[0] += test.event.Err.Error()
			}
			wantTexts(t, "spans", r.spanTexts(), want)
			wantTexts(t, "metrics", r.metricTexts(), test.metrics)
		})
	}
}

// TestErrorTypes: there are few of them.
func TestErrorTypes(t *testing.T) {
	for want, err := range map[string]error{
		"canceled":     context.Canceled,
		"timeout":      context.DeadlineExceeded,
		"closed":       chanmq.ErrClosed,
		"removed":      chanmq.ErrRemoved,
		"too_large":    chanmq.ErrTooLarge,
		"invalid_type": chanmq.ErrInvalidType,
		"permission":   fs.ErrPermission,
		"_OTHER":       errors.New("something else"),
	} {
		r := record(t)
		r.Observe(t.Context(), chanmq.Event{Op: chanmq.OpSend, Err: &chanmq.OpError{Op: "send", Err: err}})
		texts := r.spanTexts()
		if len(texts) != 1 || !strings.Contains(texts[0], " error.type="+want+" ") {
			t.Errorf("%v: %q, want error.type %s", err, texts, want)
		}
	}
}

// TestHandle: a handle's spans belong to those of its calls, and to nothing else.
func TestHandle(t *testing.T) {
	r := record(t, chanmqotel.WithDestination("orders"))
	q := chanmqtest.Simulated(t).New(t, chanmq.WithObserver(r.Observe))
	ctx, program := r.tracers.Tracer("test").Start(t.Context(), "program")
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(q.Send(ctx, 1, []byte("two lamps")))
	sent, err := q.TrySend(1, nil) // without a ctx
	if !sent {
		t.Error("TrySend: no room")
	}
	check(err)
	_, err = q.Receive(ctx, chanmq.Any())
	check(err)
	c := q.Consumer(ctx, chanmq.Any())
	check((<-c.C()).Ack())
	check(c.Close())
	check(q.Close())
	program.End()

	var got []string
	for _, span := range r.spans.GetSpans() {
		parent := "a root"
		switch {
		case span.Parent.SpanID() == program.SpanContext().SpanID():
			parent = "of the program"
		case span.Parent.IsValid():
			parent = "of another"
		}
		got = append(got, span.Name+" "+parent)
	}
	slices.Sort(got)
	wantTexts(t, "spans", got, []string{
		"process orders of the program", "program a root", "receive orders of the program",
		"receive orders of the program", "send orders a root", "send orders of the program",
	})
	metrics := strings.Join(r.metricTexts(), "\n")
	for _, want := range []string{
		"client.sent.messages 2: destination.name=orders operation.name=send",
		"client.consumed.messages 2: destination.name=orders operation.name=receive",
		"process.duration 1 of ",
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("metrics\n%s\nwithout %q", metrics, want)
		}
	}
}
