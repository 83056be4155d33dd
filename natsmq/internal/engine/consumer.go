package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// This file is who leases messages to whom. A queue has a pull consumer for each selector that anybody
// has leased with, which all processes share: of those that pull from it, each message is
// leased to one. It goes with the queue, or when nobody has used it for a while.

// consumerKey is a consumer of a queue.
type consumerKey struct {
	queue int
	s     Selector
}

const (
	// inactive is when the servers delete a consumer that nobody pulls from.
	inactive = time.Hour
	// mostWaiting is how many pull requests may wait at one: a few for each handle.
	mostWaiting = 1 << 16
)

// name is the consumer's, the same in all processes.
func (k consumerKey) name() string {
	switch k.s.Mode {
	case OfType:
		return fmt.Sprintf("type_%d", k.s.Type)
	case Except:
		return fmt.Sprintf("except_%d", k.s.Type)
	}
	return "any"
}

// nextOf is where messages are pulled from the consumer.
func (e *Engine) nextOf(k consumerKey) string {
	return "$JS.API.CONSUMER.MSG.NEXT." + e.layout.stream(k.queue) + "." + k.name()
}

// ensureConsumer creates a consumer, unless it exists.
func (e *Engine) ensureConsumer(ctx context.Context, k consumerKey) error {
	c := jetstream.ConsumerConfig{
		Name:              k.name(),
		Durable:           k.name(),
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		AckPolicy:         jetstream.AckExplicitPolicy,
		AckWait:           e.AckWait,
		MaxDeliver:        -1,
		MaxAckPending:     -1,
		MaxWaiting:        mostWaiting,
		InactiveThreshold: inactive,
		FilterSubjects:    e.layout.subjectsOf("q", k.queue, k.s),
	}
	stream := e.layout.stream(k.queue)
	err := e.insist(ctx, "CONSUMER.CREATE."+stream+"."+c.Name, map[string]any{"stream_name": stream, "config": c}, nil)
	if hasCode(err, codeNoStream) {
		return ErrRemoved
	}
	return err
}
