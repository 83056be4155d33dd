package peer

import (
	"bufio"
	"errors"
	"io"
	"strings"
	"testing"
)

// memory is a Store. If it is to lose a message, that is the first.
type memory struct {
	kept  chan []byte
	lose  bool
	asked int
}

func (m *memory) Reuse() int { return 0 }

func (m *memory) Send(p []byte) error {
	m.kept <- append([]byte(nil), p...)
	return nil
}

var errNothing = errors.New("nothing is left")

func (m *memory) Receive() ([]byte, error) {
	if m.lose {
		m.lose = false
		<-m.kept
	}
	select {
	case p := <-m.kept:
		return p, nil
	default:
		return nil, errNothing
	}
}

// Empty is a moment late, as acknowledgements are.
func (m *memory) Empty() (bool, error) {
	m.asked++
	return m.asked > 3 && len(m.kept) == 0, nil
}

func TestDrainCountsEveryMessage(t *testing.T) {
	for _, c := range []struct {
		name    string
		senders string
		lose    bool
		want    string // in the error; "": none
	}{
		{"one sender", "1", false, ""},
		{"senders that the count is no multiple of", "7", false, ""},
		{"more senders than messages", "200", false, ""},
		{"one message lost", "1", true, "out of order"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &memory{kept: make(chan []byte, 1000), lose: c.lose}
			p := &Peer{Args: Arguments{"count": "100", "senders": c.senders}, out: bufio.NewWriter(io.Discard), ep: m}
			err := p.drain()
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("err = %v, want %q", err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if len(m.kept) != 0 || m.asked < 4 {
				t.Errorf("%d messages are left, and it was asked %d times whether it is empty", len(m.kept), m.asked)
			}
		})
	}
}

// Whoever cannot store is told so, rather than to hang.
func TestOnlyAStoreDrains(t *testing.T) {
	p := &Peer{Args: Arguments{}, Kind: "a pipe", ep: struct{ Endpoint }{}}
	for name, role := range map[string]func() error{"drain": p.drain, "sources": p.sources} {
		if err := role(); err == nil || !strings.Contains(err.Error(), "a pipe") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
