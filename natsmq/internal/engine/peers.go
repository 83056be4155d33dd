package engine

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
)

// This file is what the Engines of a cluster, the peers, can be asked: what they have taken. It
// is needed where a server died with the answer to a claim, or to a message that was sent, which
// is rare. So nothing is said in advance but hello and goodbye.
//
// A peer that is known and does not answer may have lost its server too; it is asked again until it has
// had time to find another one. Only then does it count as dead: what it may have taken died with it.

// peers are the other Engines, and what this one can say of itself.
type peers struct {
	e    *Engine
	self string
	sub  *nats.Subscription

	mu     sync.Mutex
	others map[string]struct{} // who has said hello, and not goodbye; guarded by mu
	claims map[string]*claim   // under way, by token; guarded by mu
	took   takings             // what this Engine has taken; guarded by mu
}

// claim is a claim under way.
type claim struct {
	taken
	token string // the least of several that know no more wins
	id    string

	// Guarded by peers.mu.
	gone    bool // the message is gone, and it is not known who has it
	yielded bool // a peer with a lesser token has been told so: it is the peer's
}

// Times of asking the peers.
const (
	askPause   = 250 * time.Millisecond // between one question and the same again
	askLeast   = 500 * time.Millisecond // before nobody means nobody: there may be peers who are not known
	askAtMost  = 10 * time.Second       // for a peer that does not answer to find another server
	helloAgain = time.Second            // until the servers have told each other who listens
)

// said is what a peer says, or asks. The answer to a question goes to its reply subject.
type said struct {
	From   string `json:"from"`
	What   what   `json:"what"`
	Queue  int    `json:"queue,omitempty"`
	Seq    uint64 `json:"seq,omitempty"`
	ID     string `json:"id,omitempty"`
	Token  string `json:"token,omitempty"`
	Answer answer `json:"answer,omitempty"`
}

type what string

const (
	hello   what = "hello"   // answered by the same
	goodbye what = "goodbye" // to all
	whoTook what = "who took"
)

// answer is what a peer knows of a message.
type answer string

const (
	notMe answer = "not me"
	me    answer = "me"
	busy  answer = "busy" // it does not know yet
	gone  answer = "gone" // it cannot know, with its token
)

func (p *peers) init(e *Engine) error {
	p.e, p.self = e, nuid.Next()
	p.others, p.claims = make(map[string]struct{}), make(map[string]*claim)
	p.took.init()
	sub, err := e.Conn.Subscribe(p.subject(), p.hear)
	if err != nil {
		return err
	}
	p.sub = sub
	e.running.Go(func() {
		for range 2 {
			p.say(said{What: hello}, p.subject())
			select {
			case <-time.After(helloAgain):
			case <-e.done:
				return
			}
		}
	})
	return nil
}

func (p *peers) subject() string { return p.e.Prefix + ".peers" }

// end says goodbye.
func (p *peers) end() {
	p.say(said{What: goodbye}, "")
	_ = p.sub.Unsubscribe() // the connection may be closed
	_ = p.e.Conn.FlushTimeout(p.e.patience())
}

// say tells all peers.
func (p *peers) say(s said, reply string) {
	p.tell(p.subject(), reply, s)
}

func (p *peers) tell(subject, reply string, s said) {
	s.From = p.self
	data, err := json.Marshal(s)
	if err != nil {
		panic(err) // said can be encoded
	}
	_ = p.e.Conn.PublishMsg(&nats.Msg{Subject: subject, Reply: reply, Data: data}) // who needs an answer asks again
}

// hear is called with what a peer says.
func (p *peers) hear(m *nats.Msg) {
	var s said
	if json.Unmarshal(m.Data, &s) != nil || s.From == p.self {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch s.What {
	case hello:
		p.others[s.From] = struct{}{}
		if m.Reply != "" {
			p.tell(m.Reply, "", said{What: hello})
		}
	case goodbye:
		delete(p.others, s.From)
	case whoTook:
		p.others[s.From] = struct{}{}
		a := p.answer(s, "")
		a.What = whoTook
		p.tell(m.Reply, "", a)
	}
}

// answer is what this Engine knows, other than by the claim with the token not. It needs mu.
func (p *peers) answer(s said, not string) said {
	a := said{Answer: notMe}
	if p.took.has(taken{s.Queue, s.Seq}) || s.ID != "" && p.took.hasID(s.Queue, s.ID) {
		return said{Answer: me}
	}
	for token, c := range p.claims {
		if c.queue != s.Queue || c.seq != s.Seq && (s.ID == "" || c.id != s.ID) || token == not {
			continue
		}
		if !c.gone {
			return said{Answer: busy}
		}
		if not == "" && s.Token != "" && s.Token < token {
			c.yielded = true
		}
		if a.Answer != gone || token < a.Token {
			a = said{Answer: gone, Token: token}
		}
	}
	return a
}

// begin registers a claim.
func (p *peers) begin(queue int, m *Message) *claim {
	c := &claim{taken: taken{queue, m.Seq}, token: nuid.Next(), id: m.id}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.claims[c.token] = c
	return c
}

// lost says that the message of a claim is gone.
func (p *peers) lost(c *claim) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c.gone = true
}

// finish ends a claim.
func (p *peers) finish(c *claim, mine bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.claims, c.token)
	if mine {
		p.took.add(c.taken, c.id, time.Now())
	}
}

// remember notes that this process has taken a message.
func (p *peers) remember(queue int, m *Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took.add(taken{queue, m.Seq}, m.id, time.Now())
}

// HasTaken reports whether this process has taken the message of late, or is about to.
func (e *Engine) HasTaken(queue int, m *Message) bool {
	p, t := &e.peers, taken{queue, m.Seq}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.took.has(t) {
		return true
	}
	for _, c := range p.claims {
		if c.taken == t {
			return true
		}
	}
	return false
}

// hasTaken reports whether this process has taken the message of late.
func (p *peers) hasTaken(t taken) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.took.has(t)
}

// isMine finds out whether the claim, whose message is gone, has taken it.
func (p *peers) isMine(ctx context.Context, c *claim) (bool, error) {
	a, err := p.ask(ctx, said{Queue: c.queue, Seq: c.seq, Token: c.token})
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil || a != notMe || c.yielded {
		return false, err
	}
	p.took.add(c.taken, c.id, time.Now()) // at once, for those who ask now
	return true, nil
}

// wasTaken reports whether any of the peers, this one too, has taken the message with the id.
func (p *peers) wasTaken(ctx context.Context, queue int, id string) (bool, error) {
	a, err := p.ask(ctx, said{Queue: queue, ID: id})
	return a == me, err
}

// ask asks all peers, and this one, who has taken a message, until they know: me means that one
// of them has. Its token is that of the claim that asks; where others do not know either, the least one has it.
func (p *peers) ask(ctx context.Context, question said) (answer, error) {
	question.What = whoTook
	inbox := p.e.Conn.NewInbox()
	sub, err := p.e.Conn.SubscribeSync(inbox)
	if err != nil {
		return "", err
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be closed
	for {
		a, err := p.askOnce(ctx, question, sub, inbox)
		if err != nil || a != busy {
			return a, err
		}
		if !sleep(ctx, askPause) {
			return "", ctx.Err()
		}
	}
}

// askOnce asks until all have answered. busy means that some do not know yet.
func (p *peers) askOnce(ctx context.Context, question said, sub *nats.Subscription, inbox string) (answer, error) {
	began := time.Now()
	p.mu.Lock()
	own := p.answer(question, question.Token)
	waiting := make(map[string]struct{}, len(p.others))
	for name := range p.others {
		waiting[name] = struct{}{}
	}
	p.mu.Unlock()
	result := decide(own, question.Token)
	if result == me {
		return me, nil
	}
	for {
		p.say(question, inbox)
		for pause := time.Now().Add(askPause); ; {
			within, cancel := context.WithDeadline(ctx, pause)
			m, err := sub.NextMsgWithContext(within)
			cancel()
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			if err != nil {
				if !sleep(ctx, time.Until(pause)) { // where the connection is closed it comes at once
					return "", ctx.Err()
				}
				break
			}
			var s said
			if json.Unmarshal(m.Data, &s) != nil || s.From == p.self {
				continue
			}
			delete(waiting, s.From)
			switch decide(s, question.Token) {
			case me:
				return me, nil
			case busy:
				result = busy
			}
		}
		switch waited := time.Since(began); {
		case p.e.Conn.IsClosed():
			return "", nats.ErrConnectionClosed
		case !p.e.Conn.IsConnected():
			began = time.Now() // nobody was asked
		case len(waiting) == 0 && waited >= askLeast:
			return result, nil
		case waited >= askAtMost:
			p.forget(waiting)
			return result, nil
		}
	}
}

// decide says what an answer means for a claim with the token: me, busy or notMe.
func decide(s said, token string) answer {
	if s.Answer != gone {
		return s.Answer
	}
	if token == "" {
		return busy // it will be somebody's
	}
	if s.Token < token {
		return me // the other's
	}
	return notMe
}

// forget takes peers for dead.
func (p *peers) forget(dead map[string]struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range dead {
		delete(p.others, name)
	}
}
