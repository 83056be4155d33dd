// Package otel makes OpenTelemetry traces and metrics of what a handle does, after the
// semantic conventions for messaging:
//
//	telemetry, err := chanmqotel.New()
//	...
//	q, err := chanmq.Open(key, chanmq.WithObserver(telemetry.Observe))
//
// # Traces
//
// Each send, each receive that got a message or failed, and each delivery that was
// acknowledged or given back is a span, "send 0x00002a01", "receive 0x00002a01" or
// "process 0x00002a01". The last one is the time in which the program had the message. A
// receive that got none before its ctx ended is no span.
//
// A message of System V has no place for a trace context: other programs, in any language,
// read what is in it as it is. So a trace ends where a message is sent, and nothing links the
// receiver's span to the sender's. The parent of a span is the one in the ctx of the call, or
// of the Receiver, Consumer or Sender, if there is one; a process span has the ctx of
// Take or of the Consumer. A program whose messages carry a trace context in their values
// links its own spans.
//
// # Metrics
//
//   - messaging.client.operation.duration of sends and receives, with the time that they
//     have waited, and messaging.process.duration, from delivery to Ack or Nack, in seconds;
//   - messaging.client.sent.messages and messaging.client.consumed.messages.
//
// Buckets begin at a microsecond, since that is what a send takes, and include those of the
// conventions.
//
// # Attributes
//
// messaging.system is "sysv_mq", messaging.destination.name the queue's key as ipcs(1)
// prints it, or "msqid 5" for a private one, unless [WithDestination] says otherwise.
// messaging.operation.name and .type are send, receive and process. error.type is
// "canceled", "timeout", "closed", "removed", "too_large", "invalid_type", "permission",
// "decode", "nack" for a delivery that was given back, or "_OTHER". Spans have
// messaging.message.body.size, and of this package's own chanmq.message.type, the mtype;
// chanmq.wait, the stage in which a wait ended, as [chanmq.WaitStage] has them; and
// chanmq.delivery.attempt. No attribute of a metric depends on messages.
package otel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/semconv/v1.43.0/messagingconv"
	"go.opentelemetry.io/otel/trace"

	"github.com/chanmq/chanmq"
)

const (
	scope = "github.com/chanmq/chanmq/otel"

	system = messagingconv.SystemAttr("sysv_mq")

	messageTypeKey = attribute.Key("chanmq.message.type")
	waitKey        = attribute.Key("chanmq.wait")
	attemptKey     = attribute.Key("chanmq.delivery.attempt")
)

// buckets are those that the conventions recommend, and smaller ones.
var buckets = metric.WithExplicitBucketBoundaries(
	1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 0.001, 0.0025,
	0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

// An Option changes what New returns.
type Option func(*config)

type config struct {
	tracers     trace.TracerProvider
	meters      metric.MeterProvider
	destination string
}

// WithTracerProvider sets where spans go. The default is the global provider.
func WithTracerProvider(p trace.TracerProvider) Option { return func(c *config) { c.tracers = p } }

// WithMeterProvider sets where metrics go. The default is the global provider.
func WithMeterProvider(p metric.MeterProvider) Option { return func(c *config) { c.meters = p } }

// WithDestination sets the name that queues have in spans and metrics. It is a program's
// own name for its queue, and makes series of private queues, whose msqid differs each time,
// the same ones.
func WithDestination(name string) Option { return func(c *config) { c.destination = name } }

// Telemetry makes spans and metrics of events. It is safe for concurrent use, and any number
// of handles may use one.
type Telemetry struct {
	destination string // "": the queue's
	tracer      trace.Tracer

	duration messagingconv.ClientOperationDuration
	process  messagingconv.ProcessDuration
	sent     messagingconv.ClientSentMessages
	consumed messagingconv.ClientConsumedMessages
}

// New returns a Telemetry. Its errors are those of the meter provider.
func New(opts ...Option) (*Telemetry, error) {
	c := config{tracers: otel.GetTracerProvider(), meters: otel.GetMeterProvider()}
	for _, opt := range opts {
		opt(&c)
	}
	t := &Telemetry{
		destination: c.destination,
		tracer:      c.tracers.Tracer(scope, trace.WithSchemaURL(semconv.SchemaURL)),
	}
	meter := c.meters.Meter(scope, metric.WithSchemaURL(semconv.SchemaURL))
	var errs [4]error
	t.duration, errs[0] = messagingconv.NewClientOperationDuration(meter, buckets)
	t.process, errs[1] = messagingconv.NewProcessDuration(meter, buckets)
	t.sent, errs[2] = messagingconv.NewClientSentMessages(meter)
	t.consumed, errs[3] = messagingconv.NewClientConsumedMessages(meter)
	if err := errors.Join(errs[:]...); err != nil {
		return nil, err
	}
	return t, nil
}

// Observe is for [chanmq.WithObserver], whose rules it keeps as long as the tracer's span
// processors do not block: use the SDK's batch processor.
func (t *Telemetry) Observe(ctx context.Context, e chanmq.Event) {
	destination := t.destinationOf(e)
	attributes := []attribute.KeyValue{semconv.MessagingDestinationName(destination)}
	errorType := errorTypeOf(e)
	if errorType != "" {
		attributes = append(attributes, semconv.ErrorTypeKey.String(errorType))
	}
	seconds := e.Duration.Seconds()
	switch e.Op {
	case chanmq.OpSend:
		t.duration.Record(ctx, seconds, send.name, system, append(attributes, send.typ)...)
		t.sent.Add(ctx, 1, send.name, system, attributes...)
		t.span(ctx, e, send, destination, attributes)
	case chanmq.OpReceive:
		t.duration.Record(ctx, seconds, receive.name, system, append(attributes, receive.typ)...)
		if e.Type != 0 {
			t.consumed.Add(ctx, 1, receive.name, system, attributes...)
		}
		if e.Type != 0 || errorType != canceled && errorType != timeout {
			t.span(ctx, e, receive, destination, attributes)
		}
	case chanmq.OpAck, chanmq.OpNack:
		t.process.Record(ctx, seconds, process.name, system, attributes...)
		t.span(ctx, e, process, destination, attributes)
	case chanmq.OpDeliver:
		// The wait for C's reader is no operation of the conventions.
	}
}

// operation is one of the conventions.
type operation struct {
	name string
	typ  attribute.KeyValue
	kind trace.SpanKind
}

// A send has the kind client, and not producer, since its context does not travel.
var (
	send    = operation{"send", semconv.MessagingOperationTypeSend, trace.SpanKindClient}
	receive = operation{"receive", semconv.MessagingOperationTypeReceive, trace.SpanKindClient}
	process = operation{"process", semconv.MessagingOperationTypeProcess, trace.SpanKindConsumer}
)

// span makes the span of what has just ended.
func (t *Telemetry) span(ctx context.Context, e chanmq.Event, o operation, destination string, attributes []attribute.KeyValue) {
	end := time.Now()
	_, span := t.tracer.Start(ctx, o.name+" "+destination, trace.WithSpanKind(o.kind),
		trace.WithTimestamp(end.Add(-e.Duration)), trace.WithAttributes(attributes...))
	defer span.End(trace.WithTimestamp(end))
	if !span.IsRecording() {
		return
	}
	span.SetAttributes(semconv.MessagingSystemKey.String(string(system)), semconv.MessagingOperationName(o.name), o.typ)
	if e.Type != 0 {
		span.SetAttributes(semconv.MessagingMessageBodySize(e.Size), messageTypeKey.Int64(e.Type))
	}
	if e.Op == chanmq.OpSend || e.Op == chanmq.OpReceive {
		span.SetAttributes(waitKey.String(e.Wait.String()))
	}
	if e.Attempt > 0 {
		span.SetAttributes(attemptKey.Int(e.Attempt))
	}
	switch {
	case e.Err != nil:
		span.SetStatus(codes.Error, e.Err.Error())
	case e.Op == chanmq.OpNack:
		span.SetStatus(codes.Error, "given back")
	}
}

func (t *Telemetry) destinationOf(e chanmq.Event) string {
	switch {
	case t.destination != "":
		return t.destination
	case e.Key == 0:
		return fmt.Sprintf("msqid %d", e.ID)
	}
	return e.Key.String()
}

const (
	canceled = "canceled"
	timeout  = "timeout"
)

// errorTypeOf returns one of a few words, "" if there is no error.
func errorTypeOf(e chanmq.Event) string {
	var undecoded *chanmq.DecodeError
	switch {
	case e.Err == nil && e.Op == chanmq.OpNack:
		return "nack"
	case e.Err == nil:
		return ""
	case errors.As(e.Err, &undecoded): // whatever its codec's error is
		return "decode"
	case errors.Is(e.Err, context.Canceled):
		return canceled
	case errors.Is(e.Err, context.DeadlineExceeded):
		return timeout
	case errors.Is(e.Err, chanmq.ErrClosed):
		return "closed"
	case errors.Is(e.Err, chanmq.ErrRemoved):
		return "removed"
	case errors.Is(e.Err, chanmq.ErrTooLarge):
		return "too_large"
	case errors.Is(e.Err, chanmq.ErrInvalidType):
		return "invalid_type"
	case errors.Is(e.Err, fs.ErrPermission):
		return "permission"
	}
	return semconv.ErrorTypeOther.Value.AsString()
}
