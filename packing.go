package chanmq

import (
	"iter"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/sysv"
)

// This file is several values in one message of the kernel, under WithPacking: how they get
// into one, and out of it. The message is docs/envelope.md's pack.

// maxPack bounds a pack, in bytes of text. A larger one saves nothing, and the handle that
// takes it holds all of it.
const maxPack = 64 << 10

// open takes a message of n bytes out of its envelope, for a handle with packing, and returns
// how many values it has.
func (m *raw) open(n int) int {
	m.n, m.off, m.values, m.damaged = n, 0, 0, false
	text := m.text()
	if !envelope.Begins(text) {
		return 1
	}
	h, payload, err := envelope.Parse(text)
	switch {
	case err != nil:
		m.damaged = true
	case h.Kind == envelope.Plain:
		m.off, m.n = n-len(payload), len(payload)
	case h.Kind == envelope.Pack:
		values, off, err := envelope.ParsePack(text)
		if err != nil {
			m.damaged = true
			break
		}
		m.off, m.n, m.values = off, n-off, values
		return values
	}
	return 1
}

// tookPacked is took for a handle with packing, of which s is the slot.
func (m *raw) tookPacked(n int, s *slot) {
	m.seq, m.attempts = s.number(m.open(n)), 0
	if m.saved != nil {
		m.saved.TookPack(n, m.seq, m.values)
	}
}

// adoptedRaw is the message of a slot that another process took, whatever this handle does
// with others.
func adoptedRaw(s *journal.Slot) raw {
	m := raw{buf: s.Buffer(), n: len(s.Text()), saved: s}
	if s.Enveloped() {
		m.open(m.n)
	}
	return m
}

// damage returns what is wrong with an envelope that open could not read.
func (m *raw) damage() error {
	_, _, err := envelope.ParsePack(m.text())
	return err
}

// next moves the first value of a pack into v, whose buffer it uses if it is of the journal.
// If there is an error, nothing has changed. The caller says to the pack's slot in the journal
// that the value was moved.
func (m *raw) next(j *journal.Journal, v *raw) error {
	value, after := envelope.NextValue(m.buf[sysv.HeaderSize:], m.off)
	if v.buf == nil || v.room() < len(value) || !v.in(j) {
		if err := v.grow(j, max(len(value), smallMessage)); err != nil {
			return err
		}
	}
	v.put(m.typ(), value, m.seq)
	if m.unacked != nil {
		v.countIn(m.unacked)
	}
	m.skip(after)
	return nil
}

// skip drops the first value of a pack, which ends at the offset.
func (m *raw) skip(after int) {
	m.n -= after - m.off
	m.off = after
	m.values--
	m.seq++
	if m.unacked != nil {
		m.unacked.Add(-1)
		m.counted--
	}
}

// put makes m, whose buffer has room for it, a message that was taken.
func (m *raw) put(typ int64, text []byte, seq uint64) {
	m.seq, m.n, m.off, m.values, m.damaged, m.file, m.attempts = seq, len(text), 0, 0, false, nil, 0
	if m.saved != nil {
		m.saved.Put(int(typ), text, seq)
		return
	}
	sysv.PutType(m.buf, int(typ))
	copy(m.buf[sysv.HeaderSize:], text)
}

// texts returns the text, or those of a pack's values. They are valid until the buffer is
// used again.
func (m *raw) texts() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		if m.values == 0 {
			yield(m.text())
			return
		}
		at := m.off
		for range m.values {
			var value []byte
			if value, at = envelope.NextValue(m.buf[sysv.HeaderSize:], at); !yield(value) {
				return
			}
		}
	}
}

// messages copies the message, or the values of a pack, out of the buffer.
func (m *raw) messages() (all []Message[[]byte]) {
	if m.file != nil {
		return []Message[[]byte]{m.whole()}
	}
	for text := range m.texts() {
		all = append(all, Message[[]byte]{m.typ(), append([]byte{}, text...)})
	}
	return all
}

// drop drops the first n values of a pack that has more: they are the kernel's.
func (m *raw) drop(n int) {
	for range n {
		_, after := envelope.NextValue(m.buf[sysv.HeaderSize:], m.off)
		m.skip(after)
	}
	if m.saved != nil {
		_ = m.saved.Moved(n) // at worst they come again
	}
}

// batch is what a receive has taken: a message, and, of a pack, as many of the values behind
// it as the caller has room for. The rest of a pack is in the slot. Their buffers are used
// again, those that hold nothing too.
type batch struct {
	msg       *raw   // the message
	more      int    // how many values may be taken with it
	ahead     []*raw // has those, from next to end
	next, end int
	in        *raw // with packing: what msgrcv writes to
	storage   slab // of the values
}

// give exchanges the message for *m, which has none, or is nil.
func (b *batch) give(m **raw) {
	*m, b.msg = b.msg, *m
	if b.msg == nil {
		b.msg = new(raw)
	}
}

// slab gives storage to small values that came in one message: an allocation for each would
// cost as much as all the rest.
type slab struct{ free []byte }

// A value that the program keeps, keeps slabSize bytes at most, the values beside it.
const (
	slabSize  = 1 << 10
	slabValue = slabSize / 8
)

// provide gives v room for n bytes if it has none.
func (s *slab) provide(v *[]byte, n int) {
	if n <= cap(*v) || n > slabValue {
		return
	}
	if n > len(s.free) {
		s.free = make([]byte, slabSize)
	}
	*v, s.free = s.free[:0:n], s.free[n:]
}

// packed reports whether the message came with others.
func (b *batch) packed() bool { return b.end > 0 }

// advance makes the next of the values the message. It reports false if there is none.
func (b *batch) advance() bool {
	if b.next == b.end {
		return false
	}
	b.msg, b.ahead[b.next] = b.ahead[b.next], b.msg
	b.next++
	return true
}

// unpack moves the first values of a pack into b, as many as there is room for. If there is an
// error, nothing has changed.
func (b *batch) unpack(pack *raw, j *journal.Journal) error {
	if err := pack.next(j, b.msg); err != nil {
		return err
	}
	b.next, b.end = 0, 0
	for b.end < b.more && pack.values > 0 {
		if b.end == len(b.ahead) {
			b.ahead = append(b.ahead, new(raw))
		}
		if pack.next(j, b.ahead[b.end]) != nil {
			break // the next receive has that error
		}
		b.end++
	}
	if pack.saved != nil {
		_ = pack.saved.Moved(1 + b.end) // at worst they come again
	}
	return nil
}

// keepIn makes the message in the buffer of packs the message. A small one is copied, or each
// buffer of a Receiver would become one for packs in time.
func (b *batch) keepIn() {
	b.next, b.end = 0, 0
	if b.in.saved != nil || b.in.room() <= smallMessage || b.in.off+b.in.n > smallMessage {
		b.msg, b.in = b.in, b.msg
		return
	}
	b.msg.release()
	buf := b.msg.buf
	if buf == nil {
		buf = sysv.Buffer(smallMessage)
	}
	copy(buf, b.in.wire())
	*b.msg = *b.in
	b.msg.buf = buf
}

// reuse takes the buffer of a pack that has no value any more.
func (b *batch) reuse(pack raw) {
	b.in.release()
	*b.in = pack
}

// release gives the buffers back to the journal. Messages that are in them stay there.
func (b *batch) release() {
	b.msg.release()
	b.in.release()
	for i := range b.ahead {
		b.ahead[i].release()
	}
}

// packer has values of one type, encoded, to be sent in one message or several.
type packer struct {
	typ  int64
	buf  []byte // the values from firstLength on, and room before them for what a message begins with
	ends []int  // where each of them ends in buf
	most int    // how many go into one message; 0: no limit
}

// Where the first value is in the buffer of a packer: as in a pack. What is before it has room
// for the type and the envelope of a value that is sent by itself.
const (
	firstLength = sysv.HeaderSize + envelope.PackHeader
	firstText   = firstLength + envelope.ValueHeader
)

// begin makes it an empty one for values of the type.
func (p *packer) begin(typ int64) {
	p.typ, p.ends = typ, p.ends[:0]
	if p.buf == nil {
		p.buf = sysv.Buffer(smallMessage)
	}
}

// size returns the bytes of text of a pack of all values.
func (p *packer) size() int { return p.end(len(p.ends)) - sysv.HeaderSize }

// end returns where the first n values end.
func (p *packer) end(n int) int {
	if n == 0 {
		return firstLength
	}
	return p.ends[n-1]
}

// add appends a value. If there is an error, nothing has changed.
func (p *packer) add(encode func(dst []byte) ([]byte, error)) error {
	end := p.end(len(p.ends))
	buf := append(p.buf[:end], 0, 0)
	buf, err := encoded(buf, encode)
	if err != nil {
		return err
	}
	p.buf = buf
	p.ends = append(p.ends, len(buf))
	envelope.PutValue(buf[end:], len(buf)-end-envelope.ValueHeader)
	return nil
}

// encoded calls a codec, and checks what it returns.
func encoded(dst []byte, encode func(dst []byte) ([]byte, error)) ([]byte, error) {
	buf, err := encode(dst)
	if err != nil {
		return nil, cause([]error{err}, "encode: %v", err)
	}
	if len(buf) < len(dst) {
		return nil, cause(nil, "encode: the codec returned less than it was given to append to")
	}
	return buf, nil
}

// fits returns how many of the first values go into a pack of so many bytes of text, 0 if
// the first does not, by itself.
func (p *packer) fits(size int) int {
	if size < p.ends[0]-firstText {
		return 0
	}
	n := 1
	for n < len(p.ends) && (p.most == 0 || n < p.most) && p.ends[n]-sysv.HeaderSize <= min(size, maxPack) {
		n++
	}
	return n
}

// message returns the first n values as msgsnd takes them: a pack, or, of one, as Send sends
// it. It is valid until the next call of a method.
func (p *packer) message(n int) []byte {
	if n > 1 {
		msg := p.buf[:p.ends[n-1]]
		sysv.PutType(msg, int(p.typ))
		envelope.PutPack(msg[sysv.HeaderSize:], n, len(msg)-firstLength)
		envelope.PutValue(msg[firstLength:], p.ends[0]-firstText) // one by itself has overwritten it
		return msg
	}
	begin := firstText
	if envelope.Ambiguous(p.buf[firstText:p.ends[0]]) {
		begin -= envelope.PlainHeader
		envelope.Append(p.buf[begin:begin:firstText], &envelope.Header{Kind: envelope.Plain})
	}
	msg := p.buf[begin-sysv.HeaderSize : p.ends[0]]
	sysv.PutType(msg, int(p.typ))
	return msg
}

// small returns how many of the first n values may be in one message: none that is larger,
// but the first by itself.
func (p *packer) small(n, threshold int) int {
	for i := range n {
		if p.ends[i]-p.end(i)-envelope.ValueHeader > threshold {
			return max(i, 1)
		}
	}
	return n
}

// first returns the text of the first value.
func (p *packer) first() []byte { return p.buf[firstText:p.ends[0]] }

// drop removes the first n values, which were sent.
func (p *packer) drop(n int) {
	from := p.end(n)
	p.buf = append(p.buf[:firstLength], p.buf[from:p.end(len(p.ends))]...)
	for i, end := range p.ends[n:] {
		p.ends[i] = end - from + firstLength
	}
	p.ends = p.ends[:len(p.ends)-n]
}

// more lets the next message have twice as many values as the last one.
func (p *packer) more() {
	if p.most *= 2; p.most > maxPack {
		p.most = 0
	}
}
