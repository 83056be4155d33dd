package natstest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
)

// Direction is one of a connection, or both.
type Direction int

// The directions.
const (
	ToServer Direction = 1 << iota
	ToClient
	BothWays = ToServer | ToClient
)

// Verdict is what becomes of a message.
type Verdict int

const (
	Pass    Verdict = iota // as it is
	Drop                   // it is lost, and the connection goes on
	Replace                // with the Header and Data that the filter has set
	Cut                    // it is lost, and so is the connection, when all before it was sent
)

// Message is one on its way through a Proxy.
type Message struct {
	// Direction is ToClient for a message that the server delivers, and ToServer for one that
	// the client publishes: a request, if it has a Reply.
	Direction Direction

	Subject string
	Reply   string

	// Header is as in the protocol, with its first line, NATS/1.0; ParseHeader reads it.
	Header []byte
	Data   []byte

	// Subscription is the subject of the client's subscription that the message is for. With
	// a consumer it differs from Subject.
	Subscription string

	// Request is what a client published, through this proxy, with Subject as its reply
	// subject: the message is an answer. It is nil for other messages. Its Data are the first
	// 4,096 bytes.
	Request *Message
}

// Answers reports whether the message is an answer to a request whose subject begins so, such
// as "$JS.API.STREAM.MSG.DELETE.".
func (m *Message) Answers(prefix string) bool {
	return m.Request != nil && strings.HasPrefix(m.Request.Subject, prefix)
}

// ParseHeader returns the header, which is nil if there is none.
func (m *Message) ParseHeader() (nats.Header, error) {
	if len(m.Header) == 0 {
		return nil, nil
	}
	return nats.DecodeHeadersMsg(m.Header)
}

// Filter decides what becomes of a message, which it must not keep. It runs for one message at
// a time. Those behind it on the connection wait.
type Filter func(*Message) Verdict

// Proxy is between clients and a server. Its methods are safe for concurrent use, and may be
// called by its filter, but for Close.
type Proxy struct {
	target   string
	listener net.Listener
	wg       sync.WaitGroup

	filtering sync.Mutex // held while the filter runs

	mu       sync.Mutex
	closed   bool
	refuses  bool
	links    map[*link]bool
	accepted int
	filter   Filter
	blocked  Direction
	changed  chan struct{} // closed, and made anew, when blocked changes
	delay    time.Duration
	delayed  Direction
	requests map[string]*Message // by reply subject
	replies  []string            // the keys of requests, a ring
	next     int                 // the place of the oldest in replies, when the ring is full
}

// maxRequests are kept at a time, the newest ones, with maxRequestData bytes of Data each.
const (
	maxRequests    = 16384
	maxRequestData = 4096
)

// NewProxy starts a proxy before the server with the address, as from Servers.Addr. It is
// closed when the test ends.
func NewProxy(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", address(0))
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{
		target:   target,
		listener: l,
		links:    make(map[*link]bool),
		changed:  make(chan struct{}),
		requests: make(map[string]*Message),
	}
	p.wg.Go(p.accept)
	t.Cleanup(p.Close)
	return p
}

// URL returns the address for clients.
func (p *Proxy) URL() string { return "nats://" + p.listener.Addr().String() }

// Close cuts all connections, and waits until nothing of the proxy is left.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.listener.Close()
	p.Cut()
	p.wg.Wait()
}

// SetFilter has messages in both directions passed to f, or to none if it is nil. It does not
// wait for a filter that runs.
func (p *Proxy) SetFilter(f Filter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.filter = f
}

// Block is a black hole: nothing goes in the direction any more, on old connections and on new
// ones, which are accepted. What is sent is kept, as TCP sends it again: it arrives after
// Unblock, or is lost with the connection after Cut.
func (p *Proxy) Block(d Direction) { p.setBlocked(func(old Direction) Direction { return old | d }) }

// Unblock ends Block.
func (p *Proxy) Unblock(d Direction) { p.setBlocked(func(old Direction) Direction { return old &^ d }) }

func (p *Proxy) setBlocked(change func(Direction) Direction) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blocked = change(p.blocked)
	close(p.changed)
	p.changed = make(chan struct{})
}

// Delay has all that is read from now on arrive that much later. The order stays. A delay of 0
// ends it, for both directions.
func (p *Proxy) Delay(d Direction, by time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delayed, p.delay = d, by
}

// Refuse has new connections cut at once, as if no server was there, or ends that.
func (p *Proxy) Refuse(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = on
}

// Cut cuts all connections. What has not arrived is lost. Clients may connect again.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		l.cut()
	}
}

// Connections returns how many there are, and how many there have been, with those that were
// refused.
func (p *Proxy) Connections() (now, ever int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links), p.accepted
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return // it is closed
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

// serve serves a connection until it is cut.
func (p *Proxy) serve(client net.Conn) {
	defer client.Close()
	p.mu.Lock()
	p.accepted++
	refused := p.refuses || p.closed
	p.mu.Unlock()
	if refused {
		return
	}
	server, err := net.DialTimeout("tcp", p.target, 5*time.Second)
	if err != nil {
		return
	}
	l := &link{
		Proxy:         p,
		client:        client,
		server:        server,
		done:          make(chan struct{}),
		subscriptions: make(map[string]string),
	}
	p.mu.Lock()
	if p.closed {
		l.cut()
	}
	p.links[l] = true
	p.mu.Unlock()
	var wg sync.WaitGroup
	for _, way := range []struct {
		Direction
		from, to net.Conn
	}{{ToServer, client, server}, {ToClient, server, client}} {
		queue := make(chan chunk, 1024)
		wg.Go(func() {
			defer close(queue) // what is in it is still written
			l.read(way.Direction, way.from, queue)
		})
		wg.Go(func() {
			defer l.cut()
			l.write(way.Direction, way.to, queue)
		})
	}
	wg.Wait()
	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

// link is a connection of a client and the one to the server.
type link struct {
	*Proxy
	client, server net.Conn
	done           chan struct{}
	once           sync.Once

	mu            sync.Mutex
	subscriptions map[string]string // guarded by mu; subjects by sid
}

// chunk is something to be written at a time.
type chunk struct {
	data []byte
	due  time.Time
}

func (l *link) cut() {
	l.once.Do(func() {
		close(l.done)
		l.client.Close()
		l.server.Close()
	})
}

// read reads frames until there are no more.
func (l *link) read(d Direction, from net.Conn, queue chan<- chunk) {
	r := bufio.NewReaderSize(from, 1<<16)
	for {
		f, err := readFrame(r)
		if err != nil {
			return
		}
		data, ok := l.pass(d, f)
		if !ok {
			return
		}
		if len(data) == 0 {
			continue
		}
		select {
		case queue <- chunk{data, l.due(d)}:
		case <-l.done:
			return
		}
	}
}

// due returns when what was read now is to arrive.
func (p *Proxy) due(d Direction) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.delay == 0 || p.delayed&d == 0 {
		return time.Time{}
	}
	return time.Now().Add(p.delay)
}

// write writes what was read, when it is due.
func (l *link) write(d Direction, to net.Conn, queue <-chan chunk) {
	w := bufio.NewWriterSize(to, 1<<16)
	for c := range queue {
		if wait := time.Until(c.due); wait > 0 {
			if w.Flush() != nil || !l.sleep(wait) {
				return
			}
		}
		if !l.open(d, w) {
			return
		}
		if _, err := w.Write(c.data); err != nil {
			return
		}
		if len(queue) == 0 && w.Flush() != nil {
			return
		}
	}
}

// sleep reports whether the connection is still there after the wait.
func (l *link) sleep(wait time.Duration) bool {
	select {
	case <-time.After(wait):
		return true
	case <-l.done:
		return false
	}
}

// open waits until the direction is not blocked. It reports whether the connection is still
// there.
func (l *link) open(d Direction, w *bufio.Writer) bool {
	for {
		l.Proxy.mu.Lock()
		blocked, changed := l.blocked&d != 0, l.changed
		l.Proxy.mu.Unlock()
		if !blocked {
			return true
		}
		// What was written before it was blocked.
		if w.Flush() != nil {
			return false
		}
		select {
		case <-changed:
		case <-l.done:
			return false
		}
	}
}

// pass returns what is passed on of a frame, and whether the connection stays.
func (l *link) pass(d Direction, f frame) ([]byte, bool) {
	m := &Message{Direction: d}
	switch {
	case d == ToClient && f.op == "INFO":
		return f.withoutURLs(), true
	case d == ToServer && (f.op == "SUB" || f.op == "UNSUB"):
		l.subscribe(f)
		return f.raw, true
	case d == ToServer && (f.op == "PUB" || f.op == "HPUB"): // subject, reply or none
		m.Subject, m.Header, m.Data = f.args[0], f.header, f.payload
		if len(f.args) > 1 {
			m.Reply = f.args[1]
			l.remember(m)
		}
	case d == ToClient && (f.op == "MSG" || f.op == "HMSG"): // subject, sid, reply or none
		m.Subject, m.Header, m.Data = f.args[0], f.header, f.payload
		if len(f.args) > 2 {
			m.Reply = f.args[2]
		}
		l.mu.Lock()
		m.Subscription = l.subscriptions[f.args[1]]
		l.mu.Unlock()
	default:
		return f.raw, true
	}
	switch l.decide(m) {
	case Drop:
		return nil, true
	case Replace:
		return f.withBody(m.Header, m.Data), true
	case Cut:
		return nil, false
	}
	return f.raw, true
}

// subscribe takes note of a subscription. It is never forgotten: after an UNSUB messages may
// still be on their way, and no sid is used again.
func (l *link) subscribe(f frame) {
	if f.op == "SUB" && len(f.args) >= 2 { // subject, queue group or none, sid
		l.mu.Lock()
		l.subscriptions[f.args[len(f.args)-1]] = f.args[0]
		l.mu.Unlock()
	}
}

// remember takes note of a request.
func (p *Proxy) remember(m *Message) {
	kept := *m
	kept.Header = bytes.Clone(m.Header)
	kept.Data = bytes.Clone(m.Data[:min(len(m.Data), maxRequestData)])
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.requests[m.Reply] == nil {
		if len(p.replies) < maxRequests {
			p.replies = append(p.replies, m.Reply)
		} else {
			delete(p.requests, p.replies[p.next])
			p.replies[p.next] = m.Reply
			p.next = (p.next + 1) % maxRequests
		}
	}
	p.requests[m.Reply] = &kept
}

// decide asks the filter.
func (p *Proxy) decide(m *Message) Verdict {
	p.mu.Lock()
	m.Request = nil
	if m.Direction == ToClient {
		m.Request = p.requests[m.Subject]
	}
	p.mu.Unlock()
	p.filtering.Lock()
	defer p.filtering.Unlock()
	p.mu.Lock()
	filter := p.filter
	p.mu.Unlock()
	if filter == nil {
		return Pass
	}
	return filter(m)
}

// APIError returns an answer of the API of JetStream that is this error, as the Data of a
// Message.
func APIError(code, errorCode int, description string) []byte {
	type apiError struct {
		Code        int    `json:"code"`
		ErrorCode   int    `json:"err_code"`
		Description string `json:"description"`
	}
	text, err := json.Marshal(map[string]apiError{"error": {code, errorCode, description}})
	if err != nil {
		panic(err)
	}
	return text
}

// Unavailable returns the APIError of a server that cannot say whether it has done what was
// asked, for want of a leader.
func Unavailable() []byte {
	return APIError(503, 10008, "JetStream system temporarily unavailable")
}
