//go:build linux

package watermill_test

import (
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/chanmq/chanmq"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

// BenchmarkPubSub publishes messages of 64 bytes and acknowledges them, in one process.
func BenchmarkPubSub(b *testing.B) {
	for name, test := range map[string]struct {
		opts     []chanmq.Option
		inFlight int
	}{
		"one in flight":          {nil, 1},
		"64 in flight":           {nil, 64},
		"64 in flight, packed":   {[]chanmq.Option{chanmq.WithPacking()}, 64},
		"64 in flight, journal":  {[]chanmq.Option{chanmq.WithJournal(journalDir(b))}, 64},
		"one in flight, journal": {[]chanmq.Option{chanmq.WithJournal(journalDir(b))}, 1},
	} {
		b.Run(name, func(b *testing.B) {
			q := reaped(b, test.opts...)
			p := chanmqwatermill.NewPublisher(topicOf(q))
			s := chanmqwatermill.NewSubscriber(topicOf(q), chanmqwatermill.WithConsumer(chanmq.WithInFlight(test.inFlight)))
			msgs, err := s.Subscribe(b.Context(), "")
			if err != nil {
				b.Fatal(err)
			}
			batch := make([]*message.Message, 100)
			for i := range batch {
				batch[i] = message.NewMessage("7ba5a3a0-6b1d-4c5e-9b27-7d1c3b1f9a10", make([]byte, 64))
			}
			b.ReportAllocs()
			b.ResetTimer()
			go func() {
				for n := 0; n < b.N; n += len(batch) {
					if err := p.Publish("", batch[:min(len(batch), b.N-n)]...); err != nil {
						b.Error(err)
					}
				}
			}()
			for range b.N {
				msg := <-msgs
				msg.Ack()
			}
			b.StopTimer()
			if err := s.Close(); err != nil {
				b.Error(err)
			}
		})
	}
}
