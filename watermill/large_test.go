//go:build linux

package watermill_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/chanmq/chanmq"
	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

// TestLarge: a message of 1 MiB, and one whose file is gone, which goes to the function of
// WithUndecoded and does not end the subscription.
func TestLarge(t *testing.T) {
	dir := journalDir(t)
	q := reaped(t, chanmq.WithLarge(dir), chanmq.WithJournal(dir))
	p := chanmqwatermill.NewPublisher(topicOf(q))
	undecoded := make(chan error, 1)
	s := chanmqwatermill.NewSubscriber(topicOf(q), quiet, quick, chanmqwatermill.WithUndecoded(func(_ string, _ chanmq.Message[[]byte], err error) {
		undecoded <- err
	}))
	large := message.NewMessage("large", bytes.Repeat([]byte("large"), 1<<20/5))
	large.Metadata.Set("k", "v")
	if err := p.Publish("", large); err != nil {
		t.Fatal(err)
	}
	removed := 0
	_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error { // what it finds is enough
		if info, infoErr := d.Info(); infoErr == nil && info.Mode().IsRegular() && info.Size() > 1<<20 {
			removed++
			return os.Remove(path)
		}
		return err
	})
	if removed != 1 {
		t.Fatalf("%d files", removed)
	}
	if err := p.Publish("", large); err != nil {
		t.Fatal(err)
	}
	msgs, err := s.Subscribe(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	msg := receive(t, msgs)
	if !msg.Equals(large) {
		t.Errorf("%d bytes, %v", len(msg.Payload), msg.Metadata)
	}
	msg.Nack()
	msg = receive(t, msgs)
	if !msg.Equals(large) {
		t.Errorf("the second time %d bytes, %v", len(msg.Payload), msg.Metadata)
	}
	msg.Ack()
	if err := <-undecoded; err == nil {
		t.Error("no error")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestEnvelopeLogged: without that function, the text is in the log.
func TestEnvelopeLogged(t *testing.T) {
	q := reaped(t, chanmq.WithPacking())
	plain := attach(t, q.ID())
	damaged := []byte("\xFEcmq damaged")
	if err := plain.Send(t.Context(), 1, damaged); err != nil {
		t.Fatal(err)
	}
	logger := watermill.NewCaptureLogger()
	s := chanmqwatermill.NewSubscriber(topicOf(q), chanmqwatermill.WithLogger(logger))
	msgs, err := s.Subscribe(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	if err := chanmqwatermill.NewPublisher(topicOf(q)).Publish("", numbered(0, 1)...); err != nil {
		t.Fatal(err)
	}
	receive(t, msgs).Ack()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	logged := logger.Captured()[watermill.ErrorLogLevel]
	if len(logged) != 1 || logged[0].Fields["text"] != fmt.Sprintf("%q", damaged) {
		t.Errorf("%+v", logged)
	}
}
