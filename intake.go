package chanmq

import (
	"context"

	"github.com/chanmq/chanmq/internal/journal"
	"github.com/chanmq/chanmq/internal/wait"
)

// intake is what Receivers and Consumers share: a pump that takes messages from the queue
// for an outlet.
type intake struct {
	pump
	drains bool // WithDrain

	// taking ends with running, and when no more is to be taken.
	taking     context.Context
	stopTaking context.CancelFunc

	// Of the goroutine, until done is closed.
	from   receive
	holder holder
	stream stream
}

// outlet is the side of an intake that the program sees. Its methods are called by the
// goroutine.
type outlet interface {
	// await waits until a message may be taken.
	await() error
	// room returns how many may be taken now, besides what is held. It need not be more than
	// least if there is room for so many.
	room(least int) int
	// hold keeps the message in from.msg, decoded.
	hold() *aside
	// deliver sends what is held to C. It returns why it had to stop.
	deliver() error
	// handBackHeld hands back what is held.
	handBackHeld()
}

// aside is a message that does not go to C.
type aside struct {
	err error  // why the intake ends; nil: it does not
	do  func() // gives the message to a function of the program's
}

// init prepares an intake of the program's ctx.
func (in *intake) init(core *queue, ctx context.Context, s Selector, drains bool) {
	in.drains = drains
	running := ctx
	if drains {
		running = context.WithoutCancel(ctx)
	}
	in.pump.init(core, "receive", ctx, running)
	in.holder = holder{sel: s, ctx: running}
	if drains {
		in.taking, in.stopTaking = context.WithCancel(ctx)
	} else {
		in.taking, in.stopTaking = context.WithCancel(in.running)
	}
}

// start makes in.from ready. hint is what the codec knows of the length of messages.
func (in *intake) start(hint journal.LengthHint) {
	in.from.init(in.core, new(wait.Spinner), hint)
	in.from.selects(in.holder.sel)
	in.from.holder = &in.holder
}

func (in *intake) receives() bool { return true }

func (in *intake) drain() { in.stopTaking() }

func (in *intake) stop(reason stopReason) {
	in.pump.stop(reason)
	in.stopTaking()
}

// awaitDrained is Drain of Receivers and Consumers.
func (in *intake) awaitDrained(ctx context.Context) error {
	in.drain()
	if in.hasEnded() {
		return nil
	}
	select {
	case <-in.done:
		return nil
	case <-ctx.Done():
		return in.core.opError("drain", ctxError(ctx), 0)
	}
}

// run is the way of a message from the kernel to the channel. It returns when there is
// a reason to end.
func (in *intake) run(out outlet) error {
	defer in.core.holders.unregister(&in.holder)
	defer in.from.release()
	defer in.from.handBackAhead()
	defer out.handBackHeld()
	if err := in.begin(); err != nil {
		return err
	}
	in.from.waiter.Order()
	defer in.from.waiter.Release()
	for {
		special, err := in.take(out)
		in.from.handBackAhead()
		if isCanceled(err) && in.running.Err() == nil && in.ctx.Err() == nil {
			return nil // drained
		}
		if err != nil {
			in.reportFailed(err)
		}
		if stopped := out.deliver(); stopped != nil {
			out.handBackHeld()
			err = stopped
		}
		switch {
		case special == nil:
		case special.do == nil:
			return special.err
		default:
			// The message is the function's, which may receive from this
			// handle: nothing is held meanwhile.
			in.core.holders.unregister(&in.holder)
			special.do()
			if beginErr := in.begin(); err == nil {
				err = beginErr
			}
		}
		if err != nil {
			return err
		}
	}
}

// reportFailed reports why no more is received, unless the program wanted that.
func (in *intake) reportFailed(err error) {
	if in.core.options.observer == nil {
		return
	}
	if why := in.whyEnds(err, 0); why != nil {
		in.from.reportFailed(in.ctx, why)
	}
}

// begin lets what older Receivers still hold come first, and registers this one.
func (in *intake) begin() error {
	if !in.core.holders.await(in.taking, in.core.closing, in.holder.sel) {
		return &canceled{}
	}
	in.core.holders.register(&in.holder)
	return nil
}

// maxBatch is how many messages a pump takes before it delivers the first, if
// that many come at once and C has room for them. Each delivery to a program that
// waits wakes a thread, which costs more than taking a message.
const maxBatch = 64

// take waits for a message and holds it, and with it those that follow at once.
// It ends early at a message that does not go to C.
func (in *intake) take(out outlet) (special *aside, err error) {
	if err := out.await(); err != nil {
		return nil, err
	}
	in.from.begin()
	in.expect(out)
	if err := in.from.run(in.taking); err != nil {
		return nil, err
	}
	for held := 1; ; held++ {
		special := out.hold()
		if special == nil && in.from.advance() {
			continue // there is room for it
		}
		in.holder.leaveCodec()
		if special != nil {
			return special, nil
		}
		if held >= maxBatch || out.room(1) < 1 || in.taking.Err() != nil {
			return nil, nil // run will find the reason again
		}
		if in.expect(out); !in.another(held) {
			return nil, nil
		}
	}
}

// packBatch is how many values of a pack a pump takes at once: all that fit 8 KiB, if they
// have 64 bytes.
const packBatch = 128

// expect says how much of a pack may be taken.
func (in *intake) expect(out outlet) {
	if in.core.options.packing {
		in.from.more = min(out.room(packBatch), packBatch) - 1
	}
}

// another takes one more message if there is one. If messages have lately come
// one behind the other, it tries for about the time that a program needs to send
// one: a pump is faster than that, and would deliver each by itself.
func (in *intake) another(held int) bool {
	tries := 0
	if !in.from.waiter.Waited || held > 1 || in.core.remote {
		tries = 1 // there were some, or it costs next to nothing
	}
	if !in.core.remote && !in.from.packed() && in.stream.expected(held) {
		tries = triesPerFollower
	}
	defer in.from.wake()
	for range tries {
		if in.from.waiter.TryMore() == nil {
			in.stream.came()
			return true
		}
	}
	return false
}
