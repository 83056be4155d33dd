package natstest_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/chanmq/chanmq/internal/testkit"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

const deleteRequests = "$JS.API.STREAM.MSG.DELETE."

// proxied returns a server with a stream of 10 messages, a proxy before it, and a connection
// through that.
func proxied(t testing.TB) (*natstest.Servers, *natstest.Proxy, *nats.Conn, jetstream.Stream) {
	t.Helper()
	s := natstest.Embedded(t, jetstream.MemoryStorage)
	p := natstest.NewProxy(t, s.Addr(0))
	nc := natstest.Connect(t, p.URL())
	stream := stream(t, s, nc)
	publish(t, nc, 0, 10)
	return s, p, nc, stream
}

// briefly is for calls that are never answered.
func briefly(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	t.Cleanup(cancel)
	return ctx
}

// wantTimeout checks that there was no answer.
func wantTimeout(t testing.TB, what string, err error) {
	t.Helper()
	if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("%s: %v, which is no timeout", what, err)
	}
}

// wantDeleted checks whether the message is there, without the proxy.
func wantDeleted(t testing.TB, s *natstest.Servers, seq uint64, deleted bool) {
	t.Helper()
	js, err := jetstream.New(s.Connect(t))
	if err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctxWithin(t), "stream")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.GetMsg(ctxWithin(t), seq); errors.Is(err, jetstream.ErrMsgNotFound) != deleted {
		t.Errorf("message %d: %v; want it deleted: %t", seq, err, deleted)
	}
}

// TestProxyPass passes messages of all sizes and kinds on as they are, in both directions.
func TestProxyPass(t *testing.T) {
	s := natstest.Embedded(t, jetstream.MemoryStorage)
	p := natstest.NewProxy(t, s.Addr(0))
	there, here := s.Connect(t), natstest.Connect(t, p.URL())
	for _, pair := range [][2]*nats.Conn{{there, here}, {here, there}} {
		sub, err := pair[1].SubscribeSync("a.>")
		if err != nil {
			t.Fatal(err)
		}
		if err := pair[1].Flush(); err != nil {
			t.Fatal(err)
		}
		for _, size := range []int{0, 1, 2, 1000, 1<<16 - 1, 1 << 16, 1 << 19} {
			for _, header := range []nats.Header{nil, {"Key": {"a", "b"}}} {
				for _, reply := range []string{"", "reply"} {
					m := &nats.Msg{Subject: "a.b", Reply: reply, Header: header, Data: bytes.Repeat([]byte("\r\nMSG "), size/6+1)[:size]}
					if err := pair[0].PublishMsg(m); err != nil {
						t.Fatal(err)
					}
					got, err := sub.NextMsg(30 * time.Second)
					if err != nil {
						t.Fatalf("%d bytes: %v", size, err)
					}
					if got.Subject != m.Subject || got.Reply != reply || !bytes.Equal(got.Data, m.Data) ||
						fmt.Sprint(got.Header) != fmt.Sprint(header) {
						t.Errorf("%d bytes: %q %q %v, want %q %q %v", size, got.Subject, got.Reply, got.Header, m.Subject, m.Reply, m.Header)
					}
				}
			}
		}
	}
	if now, ever := p.Connections(); now != 1 || ever != 1 {
		t.Errorf("%d connections of %d", now, ever)
	}
}

// TestProxyLosesAnswer loses one answer: the request has been done.
func TestProxyLosesAnswer(t *testing.T) {
	s, p, _, stream := proxied(t)
	lost := 0
	p.SetFilter(func(m *natstest.Message) natstest.Verdict {
		if m.Answers(deleteRequests) && lost == 0 {
			lost++
			return natstest.Drop
		}
		return natstest.Pass
	})
	wantTimeout(t, "DeleteMsg", stream.DeleteMsg(briefly(t), 1))
	wantDeleted(t, s, 1, true)
	if err := stream.DeleteMsg(ctxWithin(t), 2); err != nil {
		t.Error(err)
	}
	p.SetFilter(nil)
	if lost != 1 {
		t.Errorf("%d answers lost", lost)
	}
}

// TestProxyLosesRequest loses one request: it has not been done.
func TestProxyLosesRequest(t *testing.T) {
	s, p, _, stream := proxied(t)
	p.SetFilter(func(m *natstest.Message) natstest.Verdict {
		if m.Direction == natstest.ToServer && strings.HasPrefix(m.Subject, deleteRequests) {
			return natstest.Drop
		}
		return natstest.Pass
	})
	wantTimeout(t, "DeleteMsg", stream.DeleteMsg(briefly(t), 1))
	wantDeleted(t, s, 1, false)
}

// TestProxyUnavailable has the server say that it could not do what it has done.
func TestProxyUnavailable(t *testing.T) {
	s, p, nc, stream := proxied(t)
	var request, answer string
	p.SetFilter(func(m *natstest.Message) natstest.Verdict {
		if !m.Answers(deleteRequests) {
			return natstest.Pass
		}
		if request == "" {
			request, answer = string(m.Request.Data), string(m.Data)
		}
		m.Data = natstest.Unavailable()
		return natstest.Replace
	})
	// jetstream.Stream.DeleteMsg has only the text of the error.
	m, err := nc.Request(deleteRequests+"stream", []byte(`{"seq":1}`), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	var got struct{ Error jetstream.APIError }
	if err := json.Unmarshal(m.Data, &got); err != nil || got.Error.ErrorCode != 10008 || got.Error.Code != 503 {
		t.Errorf("%s, %v", m.Data, err)
	}
	if err := stream.DeleteMsg(ctxWithin(t), 2); !errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) {
		t.Errorf("DeleteMsg: %v", err)
	}
	wantDeleted(t, s, 1, true)
	p.SetFilter(nil)
	if !strings.Contains(request, `"seq":1`) || !strings.Contains(answer, `"success":true`) {
		t.Errorf("request %s, answer %s", request, answer)
	}
}

// TestProxyReplace replaces headers as well, which may be none.
func TestProxyReplace(t *testing.T) {
	s := natstest.Embedded(t, jetstream.MemoryStorage)
	p := natstest.NewProxy(t, s.Addr(0))
	nc := natstest.Connect(t, p.URL())
	sub, err := nc.SubscribeSync("a")
	if err != nil {
		t.Fatal(err)
	}
	for _, headers := range [][2]nats.Header{
		{nil, {"New": {"1"}}}, {{"Old": {"1"}}, nil}, {{"Old": {"1"}}, {"New": {"1"}}}, {nil, nil},
	} {
		p.SetFilter(func(m *natstest.Message) natstest.Verdict {
			if m.Direction == natstest.ToServer {
				return natstest.Pass
			}
			if old, err := m.ParseHeader(); err != nil || fmt.Sprint(old) != fmt.Sprint(headers[0]) {
				t.Errorf("the header is %v, %v; want %v", old, err, headers[0])
			}
			m.Header, m.Data = nil, []byte("new")
			if headers[1] != nil {
				m.Header = []byte("NATS/1.0\r\nNew: 1\r\n\r\n")
			}
			return natstest.Replace
		})
		if err := nc.PublishMsg(&nats.Msg{Subject: "a", Reply: "b", Header: headers[0], Data: []byte("old")}); err != nil {
			t.Fatal(err)
		}
		m, err := sub.NextMsg(30 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if string(m.Data) != "new" || m.Reply != "b" || fmt.Sprint(m.Header) != fmt.Sprint(headers[1]) {
			t.Errorf("%s %s %v, want the header %v", m.Data, m.Reply, m.Header, headers[1])
		}
	}
}

// TestProxyCutsAtAnswer cuts the connection instead of one answer. The client connects again.
func TestProxyCutsAtAnswer(t *testing.T) {
	s, p, nc, stream := proxied(t)
	cut := false
	p.SetFilter(func(m *natstest.Message) natstest.Verdict {
		if m.Answers(deleteRequests) && !cut {
			cut = true
			return natstest.Cut
		}
		return natstest.Pass
	})
	if err := stream.DeleteMsg(briefly(t), 1); err == nil {
		t.Error("DeleteMsg has an answer")
	}
	wantDeleted(t, s, 1, true)
	natstest.UntilConnected(t, nc)
	if nc.Stats().Reconnects == 0 {
		t.Error("it was not cut")
	}
	if err := stream.DeleteMsg(ctxWithin(t), 2); err != nil {
		t.Error(err)
	}
}

// TestProxyConsumer sees what a consumer is sent, and loses an acknowledgement.
func TestProxyConsumer(t *testing.T) {
	_, p, _, stream := proxied(t)
	consumer, err := stream.CreateConsumer(ctxWithin(t), jetstream.ConsumerConfig{AckWait: 200 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	var subscription string
	lost := false
	p.SetFilter(func(m *natstest.Message) natstest.Verdict {
		if m.Direction == natstest.ToClient && m.Subject == "stream.a" {
			subscription = m.Subscription
		}
		if m.Direction == natstest.ToServer && strings.HasPrefix(m.Subject, "$JS.ACK.") && !lost {
			lost = true
			return natstest.Drop
		}
		return natstest.Pass
	})
	for _, want := range []uint64{1, 2} { // how often it has been delivered
		m, err := consumer.Next(jetstream.FetchMaxWait(30 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		meta, err := m.Metadata()
		if err != nil || meta.Sequence.Stream != 1 || meta.NumDelivered != want {
			t.Fatalf("%+v, %v; want message 1, for time %d", meta, err, want)
		}
		err = m.DoubleAck(briefly(t))
		if want == 1 {
			wantTimeout(t, "DoubleAck", err)
			time.Sleep(300 * time.Millisecond) // AckWait
		} else if err != nil {
			t.Error(err)
		}
	}
	p.SetFilter(nil)
	if !strings.HasPrefix(subscription, "_INBOX.") {
		t.Errorf("the subscription is %q", subscription)
	}
}

// TestProxyBlock blocks one direction after the other. What was sent arrives later.
func TestProxyBlock(t *testing.T) {
	s, p, nc, stream := proxied(t)
	p.Block(natstest.ToClient)
	wantTimeout(t, "DeleteMsg", stream.DeleteMsg(briefly(t), 1))
	wantDeleted(t, s, 1, true)
	p.Unblock(natstest.BothWays)
	p.Block(natstest.ToServer)
	wantTimeout(t, "DeleteMsg", stream.DeleteMsg(briefly(t), 2))
	wantDeleted(t, s, 2, false)
	p.Unblock(natstest.ToServer)
	if err := stream.DeleteMsg(ctxWithin(t), 3); err != nil {
		t.Error(err)
	}
	wantDeleted(t, s, 2, true)
	if n := nc.Stats().Reconnects; n != 0 {
		t.Errorf("connected again %d times", n)
	}

	// With the connection it is lost.
	p.Block(natstest.ToServer)
	wantTimeout(t, "DeleteMsg", stream.DeleteMsg(briefly(t), 4))
	p.Cut()
	p.Unblock(natstest.ToServer)
	natstest.UntilConnected(t, nc)
	if nc.Stats().Reconnects == 0 {
		t.Error("it was not cut")
	}
	if err := stream.DeleteMsg(ctxWithin(t), 5); err != nil {
		t.Error(err)
	}
	wantDeleted(t, s, 4, false)
}

// TestProxyRefuse refuses connections. Later there is one again.
func TestProxyRefuse(t *testing.T) {
	_, p, nc, _ := proxied(t)
	p.Refuse(true)
	p.Cut()
	testkit.Eventually(t, "3 connections refused", func() bool {
		_, ever := p.Connections()
		return ever > 3
	})
	if nc.IsConnected() {
		t.Error("it is connected")
	}
	p.Refuse(false)
	natstest.UntilConnected(t, nc)
	publish(t, nc, 10, 11)
	wantStored(t, nc, 11)
}

// TestProxyDelay delays messages, and keeps their order.
func TestProxyDelay(t *testing.T) {
	_, p, nc, _ := proxied(t)
	const delay = 50 * time.Millisecond
	p.Delay(natstest.BothWays, delay)
	start := time.Now()
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 2*delay {
		t.Errorf("there and back took %v", took)
	}
	sub, err := nc.SubscribeSync("n")
	if err != nil {
		t.Fatal(err)
	}
	for n := range 1000 {
		if n == 500 {
			p.Delay(natstest.BothWays, 0)
		}
		if err := nc.Publish("n", fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
	}
	for n := range 1000 {
		m, err := sub.NextMsg(30 * time.Second)
		if err != nil || string(m.Data) != fmt.Sprint(n) {
			t.Fatalf("%v, %v; want %d", m, err, n)
		}
	}
}
