//go:build linux

package chanmq_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

// This file is the processes of TestFaultJournal: those that receive with a journal until
// they are killed, or end otherwise, and those that send. What becomes of each message is
// written to a file that all of them append to.

func init() {
	roles["journal-receive"] = func(args []string) error { return new(mortal).live(args[0]) }
	roles["journal-send"] = journalSend
}

// A way is how messages are received.
type way struct {
	How     string // a case of start
	Values  string // a case of text
	Wait    string // a key of waysToWait
	End     string // how the process ends; "": it is killed
	Readers int    // goroutines that the program receives with
	Hold    int    // deliveries that each goroutine, or the Consumer, may have in flight
	Hoards  bool   // it has many in flight
	Buffer  int    // of a Receiver
	Lanes   int    // types, one receiver each; 0: every message has a type of its own
	Ordered bool   // nobody else receives, and nothing is given back
	Growing bool   // texts get longer and longer
	Packed  bool   // with packing; all messages are of one type
	Size    int    // of the longest text
}

// A mortal is a process that receives until it dies.
type mortal struct {
	way
	Number int // of the process; 0 is the test
	Queue  int // msqid
	To     int // of the queue that is forwarded to
	Dir    string
	Log    string
	Group  string // the memory cgroup to join

	texts   *texts
	log     *os.File
	left    atomic.Int64 // deliveries until it ends; below 0: it does not
	readers atomic.Int32 // how many there were
	end     chan error
}

// What a record says.
const (
	recDecoded      = iota + 1 // the codec has seen the message
	recDelivered               // it was delivered, and has to be acknowledged
	recRead                    // it was received, and is acknowledged without the program
	recAcknowledged            // Ack has returned
	recGivenBack               // Nack follows
	recTorn
	recShort // a length that was inferred is too small
	recExact // a length that was inferred is right
	recDying // the process will end, or be killed
	recError
)

// recordSize divides the size of a page, so that no record is written in two pieces.
const recordSize = 16

func (m *mortal) record(what, reader, id, attempt int) {
	var b [recordSize]byte
	binary.NativeEndian.PutUint32(b[0:], uint32(what|reader<<8))
	binary.NativeEndian.PutUint32(b[4:], uint32(id))
	binary.NativeEndian.PutUint32(b[8:], uint32(attempt))
	binary.NativeEndian.PutUint32(b[12:], uint32(m.Number))
	if _, err := m.log.Write(b[:]); err != nil {
		panic(err)
	}
}

// texts is what all texts are pieces of: each follows from the message's number.
type texts struct {
	bytes []byte
	size  int // of the longest text
}

func newTexts(size int) *texts {
	x := &texts{bytes: make([]byte, 1<<16+size), size: size}
	random := rand.NewChaCha8([32]byte{})
	_, _ = random.Read(x.bytes) // it does not fail
	return x
}

// piece is what a text is made of. testdata/journal/peer.c has the same.
func (x *texts) piece(id int) []byte {
	h := uint32(id) * 2654435761
	limit := []int{16, 64, 1024, x.size}[id%4]
	size := min(int(h>>3)%(limit+1), x.size)
	if id%97 == 0 {
		size = x.size
	}
	return x.bytes[h>>16:][:size]
}

// Values of views.
type (
	fixedValue struct {
		ID    int64
		Parts [5]uint64
	}
	jsonValue struct {
		ID   int
		Text string
	}
)

func (x *texts) ofString(id int) string {
	text := bytes.Clone(x.piece(id))
	for i := range text {
		text[i] &= 0x7F
	}
	return string(text)
}

func (x *texts) ofFixed(id int) fixedValue {
	v := fixedValue{ID: int64(id)}
	for i := range v.Parts {
		v.Parts[i] = binary.NativeEndian.Uint64(x.bytes[(id*40+i*8)%(1<<16):])
	}
	return v
}

func (x *texts) ofJSON(id int) jsonValue {
	text := bytes.Clone(x.piece(id))
	for i := range text {
		text[i] = 'a' + text[i]%26
	}
	return jsonValue{id, string(text[:min(len(text), x.size/2)])}
}

// numbered reports whether texts begin with the number of the message, since the type
// does not say it, or the codec has to know it.
func (w way) numbered() bool { return w.Lanes > 0 || w.Packed || w.Values == "recorded" }

func (w way) typeOf(id int) int64 {
	switch {
	case w.Packed:
		return 1
	case w.Lanes > 0:
		return int64(1 + id%w.Lanes)
	}
	return int64(id + 1)
}

// text returns the text of a message.
func (w way) text(x *texts, id int) []byte {
	var text []byte
	switch {
	case w.Values == "string":
		return []byte(x.ofString(id))
	case w.Values == "json":
		return must(codec.JSON[jsonValue]().Append(nil, x.ofJSON(id)))
	case w.Values == "fixed":
		return must(codec.Struct[fixedValue]().Append(nil, x.ofFixed(id)))
	case w.Growing:
		text = x.bytes[id%(1<<16):][:min(x.size, 40*(id%250))]
	default:
		text = x.piece(id)
	}
	if w.numbered() {
		text = append(number(id), text...)
	}
	return text[:min(len(text), x.size)]
}

// idOf returns the number of a message.
func (w way) idOf(typ int64, text []byte) int {
	switch {
	case !w.numbered():
		return int(typ) - 1
	case len(text) < 4:
		return -1
	default:
		return numberOf(text)
	}
}

// infers reports whether nothing but the text says how long it is.
func (w way) infers() bool { return w.Values == "bytes" || w.Values == "recorded" }

// recorder is codec.Bytes that records what it decodes.
type recorder struct {
	codec.Codec[[]byte]
	m      *mortal
	reader int
}

func (recorder) ReadOnlyDecoder() {}

func (r recorder) Decode(src []byte, v *[]byte) error {
	r.m.record(recDecoded, r.reader, r.m.idOf(0, src), 0)
	return r.Codec.Decode(src, v)
}

// waysToWait are options of a handle.
var waysToWait = map[string][]chanmq.Option{
	"block":      {chanmq.WithSpin(0)},
	"spin":       {chanmq.WithSpin(5 * time.Millisecond)},
	"poll":       {chanmq.WithPolling(100*time.Microsecond, time.Millisecond)},
	"max parked": {chanmq.WithMaxParked(0)},
	"":           nil,
}

// open opens the queue, with a journal.
func (m *mortal) open() (*chanmq.Queue[[]byte], error) {
	report := func(err error) {
		m.record(recError, 0, 0, 0)
		fmt.Fprintln(os.Stderr, err)
	}
	options := append([]chanmq.Option{chanmq.WithJournal(m.Dir), chanmq.WithJournalError(report)}, waysToWait[m.Wait]...)
	return chanmq.Attach(m.Queue, append(options, m.packing()...)...)
}

func (w way) packing() []chanmq.Option {
	if w.Packed {
		return []chanmq.Option{chanmq.WithPacking()}
	}
	return nil
}

// live is the process.
func (m *mortal) live(config string) (err error) {
	if err := json.Unmarshal([]byte(config), m); err != nil {
		return err
	}
	if m.Group != "" {
		if err := os.WriteFile(m.Group+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0); err != nil {
			return err
		}
	}
	m.texts = newTexts(m.Size)
	m.end = make(chan error)
	m.left.Store(-1)
	if m.End != "" {
		m.left.Store(1 + rand.Int64N(300))
	}
	if m.log, err = os.OpenFile(m.Log, os.O_WRONLY|os.O_APPEND, 0); err != nil {
		return err
	}
	if m.How == "close" {
		fmt.Println("begins")
		for range m.Readers {
			go m.closes()
		}
		return <-m.end
	}
	q, err := m.open()
	if err != nil {
		return err
	}
	fmt.Println("begins")
	switch m.Values {
	case "bytes":
		start(m, q, codec.Bytes())
	case "recorded":
		start[[]byte](m, q, nil)
	case "string":
		start(m, q, codec.String())
	case "json":
		start(m, q, codec.JSON[jsonValue]())
	case "fixed":
		start(m, q, codec.Struct[fixedValue]())
	default:
		return fmt.Errorf("no values %q", m.Values)
	}
	return <-m.end
}

// selector is what the reader receives.
func (m *mortal) selector(reader int) chanmq.Selector {
	if m.Lanes > 0 {
		return chanmq.OfType(int64(1 + reader%m.Lanes))
	}
	return chanmq.Any()
}

// start starts the goroutines that receive. cd is nil if a reader has a codec of its own.
func start[T any](m *mortal, q *chanmq.Queue[[]byte], cd chanmq.Codec[T]) {
	view := func(reader int) reception[T] {
		own := cd
		if own == nil {
			own = any(recorder{codec.Bytes(), m, reader}).(chanmq.Codec[T])
		}
		return reception[T]{m, chanmq.As(q, own), own, reader}
	}
	ctx := context.Background()
	switch m.How {
	case "consumer", "borrowed":
		options := []chanmq.ConsumerOption{chanmq.WithInFlight(m.Hold)}
		if m.How == "borrowed" {
			options = append(options, chanmq.WithBorrowedValues())
		}
		c := view(0).q.Consumer(ctx, chanmq.Any(), options...)
		for n := range m.Readers {
			go view(n).consume(c)
		}
	case "merge":
		var receivers []*chanmq.Receiver[T]
		for n := range m.Lanes {
			receivers = append(receivers, view(n).q.Receiver(ctx, m.selector(n), chanmq.WithBuffer(m.Buffer)))
		}
		merged := chanmq.Merge(receivers...)
		go view(0).reads(merged.C(), merged.Err)
	case "forward":
		to, err := chanmq.Attach(m.To, m.packing()...)
		if err != nil {
			m.end <- err
			return
		}
		go func() { m.end <- chanmq.Forward(ctx, to, q, chanmq.Any()) }()
	default:
		for n := range m.Readers {
			r := view(n)
			switch m.How {
			case "take":
				go r.take()
			case "receiver":
				receiver := r.q.Receiver(ctx, m.selector(n), chanmq.WithBuffer(m.Buffer))
				go r.reads(receiver.C(), receiver.Err)
			case "direct":
				go []func(){r.receive, r.messages, r.try}[n%3]()
			case "into":
				go r.into()
			case "batch":
				go r.batch()
			default:
				panic("no way " + m.How)
			}
		}
	}
}

// reception is a goroutine that receives.
type reception[T any] struct {
	*mortal
	q      *chanmq.Queue[T]
	codec  chanmq.Codec[T]
	reader int
}

// got notes a message, and what is wrong with it. attempt is 0 if nobody has to
// acknowledge it.
func (r reception[T]) got(typ int64, v T, attempt int, inferred bool) (id int) {
	text, err := r.codec.Append(nil, v)
	if err != nil {
		panic(err)
	}
	id = r.idOf(typ, text)
	reader := r.reader
	if r.How == "merge" {
		reader = int(typ - 1)
	}
	r.mortal.got(reader, id, typ, text, attempt, inferred)
	return id
}

func (m *mortal) got(reader, id int, typ int64, text []byte, attempt int, inferred bool) {
	if attempt > 0 {
		m.record(recDelivered, reader, id, attempt)
	} else {
		m.record(recRead, reader, id, 0)
	}
	m.check(reader, id, typ, text, attempt > 0, inferred)
	if m.left.Add(-1) == 0 {
		m.die()
	}
}

// check compares a text with what it should be. Only deliveries say whether the length was
// inferred.
func (m *mortal) check(reader, id int, typ int64, text []byte, says, inferred bool) {
	want := m.text(m.texts, max(id, 0))
	cut := m.infers() && bytes.HasPrefix(want, text) && len(text) < len(want) &&
		len(bytes.Trim(want[len(text):], string(want[len(text):][:1]))) == 0
	switch {
	case id < 0 || typ != m.typeOf(id), !bytes.Equal(text, want) && !cut, inferred && !m.infers():
		m.record(recTorn, reader, id, 0)
		fmt.Fprintf(os.Stderr, "message %d of type %d: %d bytes, want %d, equal up to %d, inferred %v\n",
			id, typ, len(text), len(want), common(text, want), inferred)
	case cut && says && !inferred && !m.sentAgain():
		m.record(recTorn, reader, id, 0)
		fmt.Fprintf(os.Stderr, "message %d: %d bytes, want %d, and it does not say that this is inferred\n", id, len(text), len(want))
	case cut:
		m.record(recShort, reader, id, 0)
	case inferred:
		m.record(recExact, reader, id, 0)
	}
}

// sentAgain reports whether the library sends what it has received, with a length that it
// may have inferred.
func (w way) sentAgain() bool { return w.How == "forward" || w.How == "close" }

// common returns how many bytes are equal.
func common(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// wanted is what a process panics with.
const wanted = "as the test wants it"

// die ends the process, in a goroutine that has just got a message.
func (m *mortal) die() {
	m.record(recDying, 0, 0, 0)
	switch m.End {
	case "panic":
		panic(wanted)
	case "exit":
		os.Exit(0)
	case "return":
		m.end <- nil
	case "memory":
		debug.SetGCPercent(-1)
		go func() {
			var all [][]byte
			for {
				some := make([]byte, 1<<18)
				for i := 0; i < len(some); i += 1024 {
					some[i] = 1
				}
				all = append(all, some)
				runtime.KeepAlive(all)
			}
		}()
	}
}

// An unsettled is a Delivery of any type.
type unsettled struct {
	id        int
	ack, nack func() error
}

// settle acknowledges deliveries in any order, or gives them back.
func (r reception[T]) settle(held []unsettled) {
	rand.Shuffle(len(held), func(i, k int) { held[i], held[k] = held[k], held[i] })
	for _, d := range held {
		var err error
		if !r.Ordered && rand.IntN(8) == 0 {
			r.record(recGivenBack, r.reader, d.id, 0)
			err = d.nack()
		} else {
			err = d.ack()
			r.record(recAcknowledged, r.reader, d.id, 0)
		}
		if err != nil {
			r.record(recError, r.reader, d.id, 0)
			fmt.Fprintln(os.Stderr, err)
		}
	}
}

// settles reports whether it is time to do that.
func (m *mortal) settles(held, most int) bool {
	often := 2
	if m.Hoards {
		often = 50
	}
	return held >= most || rand.IntN(often) == 0
}

func (r reception[T]) take() {
	var held []unsettled
	for {
		d, err := r.q.Take(context.Background(), r.selector(r.reader))
		if err != nil {
			r.end <- err
			return
		}
		held = append(held, unsettled{r.got(d.Type, d.Value, d.Attempt, d.LengthInferred), d.Ack, d.Nack})
		if r.settles(len(held), r.Hold) {
			r.settle(held)
			held = held[:0]
		}
	}
}

func (r reception[T]) consume(c *chanmq.Consumer[T]) {
	var held []unsettled
	for d := range c.C() {
		held = append(held, unsettled{r.got(d.Type, d.Value, d.Attempt, d.LengthInferred), d.Ack, d.Nack})
		// All of them together hold less than the Consumer may have in flight.
		if r.settles(len(held), max(1, r.Hold/r.Readers)) {
			r.settle(held)
			held = held[:0]
		}
	}
	r.end <- fmt.Errorf("C is closed: %w", c.Err())
}

func (r reception[T]) reads(c <-chan chanmq.Message[T], why func() error) {
	for m := range c {
		r.got(m.Type, m.Value, 0, false)
	}
	r.end <- fmt.Errorf("C is closed: %w", why())
}

func (r reception[T]) receive() {
	for {
		m, err := r.q.Receive(context.Background(), r.selector(r.reader))
		if err != nil {
			r.end <- err
			return
		}
		r.got(m.Type, m.Value, 0, false)
	}
}

func (r reception[T]) messages() {
	for m, err := range r.q.Messages(context.Background(), r.selector(r.reader)) {
		if err != nil {
			r.end <- err
			return
		}
		r.got(m.Type, m.Value, 0, false)
	}
}

func (r reception[T]) try() {
	for {
		m, ok, err := r.q.TryReceive(r.selector(r.reader))
		switch {
		case err != nil:
			r.end <- err
			return
		case ok:
			r.got(m.Type, m.Value, 0, false)
		default:
			runtime.Gosched()
		}
	}
}

func (r reception[T]) into() {
	var m chanmq.Message[T]
	for {
		if err := r.q.ReceiveInto(context.Background(), r.selector(r.reader), &m); err != nil {
			r.end <- err
			return
		}
		r.got(m.Type, m.Value, 0, false)
	}
}

// batchOf is how many messages ReceiveBatch has room for.
const batchOf = 10

func (r reception[T]) batch() {
	into := make([]chanmq.Message[T], batchOf)
	for {
		n, err := r.q.ReceiveBatch(context.Background(), r.selector(r.reader), into)
		for _, m := range into[:n] {
			r.got(m.Type, m.Value, 0, false)
		}
		if err != nil {
			r.end <- err
			return
		}
	}
}

// closes opens handles and ends them in every way, with what they hold.
func (m *mortal) closes() {
	for {
		if err := m.closeOnce(); err != nil {
			m.end <- err
			return
		}
	}
}

func (m *mortal) closeOnce() error {
	q, err := m.open()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	view := func() reception[[]byte] {
		reader := int(m.readers.Add(1))
		own := recorder{codec.Bytes(), m, reader}
		return reception[[]byte]{m, chanmq.As(q, own), own, reader}
	}
	reading, consuming := view(), view()
	r := reading.q.Receiver(ctx, chanmq.Any(), chanmq.WithBuffer(rand.IntN(m.Buffer+1)))
	c := consuming.q.Consumer(ctx, chanmq.Any(), chanmq.WithInFlight(1+rand.IntN(m.Hold)))
	var held []unsettled
	read := func(msg chanmq.Message[[]byte], ok bool) {
		if ok {
			reading.got(msg.Type, msg.Value, 0, false)
		}
	}
	consume := func(d chanmq.Delivery[[]byte], ok bool) {
		if !ok {
			return
		}
		held = append(held, unsettled{consuming.got(d.Type, d.Value, d.Attempt, d.LengthInferred), d.Ack, d.Nack})
		if rand.IntN(2) == 0 {
			consuming.settle(held)
			held = held[:0]
		}
	}
	for range rand.IntN(2 * m.Hold) {
		// Not one that waits: all that it may have in flight may be in held.
		select {
		case msg, ok := <-r.C():
			read(msg, ok)
		case d, ok := <-c.C():
			consume(d, ok)
		default:
			runtime.Gosched()
		}
	}
	ended := make(chan error, 1)
	end := func(f func() error) {
		go func() { ended <- f() }()
		for open, closed := r.C(), c.C(); open != nil || closed != nil; {
			select {
			case msg, ok := <-open:
				if read(msg, ok); !ok {
					open = nil
				}
			case d, ok := <-closed:
				if consume(d, ok); !ok {
					closed = nil
				}
			}
			consuming.settle(held)
			held = held[:0]
		}
	}
	shutdown := func() error {
		ctx, cancel := context.WithTimeout(context.Background(), rand.N(5*time.Millisecond))
		defer cancel()
		err := q.Shutdown(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			var left *chanmq.UndeliveredError
			if !errors.As(err, &left) {
				return nil
			}
		}
		return err
	}
	switch rand.IntN(6) {
	case 0:
		ended <- q.Close()
	case 1:
		end(q.Close)
	case 2:
		ended <- shutdown()
	case 3:
		end(shutdown)
	case 4:
		ended <- errors.Join(r.Close(), c.Close(), q.Close())
	case 5:
		cancel()
		ended <- q.Close()
	}
	err = <-ended
	consuming.settle(held) // behind Close
	return err
}

// journalSend sends messages until its standard input ends, and prints how many: the way
// as JSON, msqid, the first number, and the difference of two.
func journalSend(args []string) error {
	var w way
	if err := json.Unmarshal([]byte(args[0]), &w); err != nil {
		return err
	}
	msqid, _ := strconv.Atoi(args[1])
	q, err := chanmq.Attach(msqid, w.packing()...)
	if err != nil {
		return err
	}
	first, _ := strconv.Atoi(args[2])
	step, _ := strconv.Atoi(args[3])
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin) // its end is what counts
		cancel()
	}()
	var sent atomic.Int64
	err = sendUntil(ctx, q, w, first, step, &sent)
	fmt.Println(sent.Load())
	return err
}

// sendUntil sends messages until ctx ends.
func sendUntil(ctx context.Context, q *chanmq.Queue[[]byte], w way, first, step int, sent *atomic.Int64) error {
	x := newTexts(w.Size)
	for id := first; ; {
		typ, texts := w.typeOf(id), [][]byte{w.text(x, id)}
		id += step
		for w.Packed && rand.IntN(20) > 0 {
			texts = append(texts, w.text(x, id))
			id += step
		}
		n, err := q.SendAll(ctx, typ, texts)
		sent.Add(int64(n))
		if err != nil {
			if ctx.Err() != nil {
				return nil // the rest was not sent
			}
			return err
		}
		if rand.IntN(200) == 0 {
			time.Sleep(rand.N(3 * time.Millisecond)) // so that receivers wait
		}
	}
}
