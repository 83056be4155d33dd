// Package natsmq gives chanmq's calls on a cluster: queues of NATS JetStream, which any
// number of machines share, in place of those of one machine's kernel.
//
//	nc, err := nats.Connect(url, nats.ReconnectBufSize(-1), nats.MaxReconnects(-1))
//	cluster, err := natsmq.New(nc)
//	q, err := chanmq.Create(0x4d51, 0o600, cluster.Option())
//
// From there on it is chanmq: the same Queue, Receivers, Senders, selectors and contexts. What
// is different is in docs/cluster.md: above all that a call is a trip over a network, that an error
// of Send may leave open whether the message was sent (chanmq.ErrUncertain), and that
// [chanmq.Queue.Take] and Consumer need no journal, since a message stays in the queue
// until it is acknowledged.
package natsmq

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
	"github.com/chanmq/chanmq/natsmq/internal/reach"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Cluster is the queues of a NATS JetStream cluster, or of a single server, reached through one
// connection. It is safe for concurrent use, and for any number of handles.
type Cluster struct {
	engine *engine.Engine

	mu      sync.Mutex
	closed  bool                 // guarded by mu
	handles map[*handle]struct{} // not released; guarded by mu
}

// Option changes how a Cluster is used. All programs that use the same queues should have the same.
type Option func(*options)

type options struct {
	engine.Config
	err error // the first bad argument
}

// Defaults of the options.
const (
	defaultPrefix     = "CHANMQ"
	defaultTimeout    = 4 * time.Second
	defaultLook       = 2 * time.Second
	defaultAckWait    = 30 * time.Second
	defaultMaxMessage = 8192
	defaultMaxBytes   = 1 << 20
	defaultMaxQueues  = 1000
)

func (o *options) refuse(format string, args ...any) {
	if o.err == nil {
		o.err = fmt.Errorf("natsmq: "+format, args...)
	}
}

// WithReplicas has the servers keep each new queue on n of them: 1, the default, 3 or 5. With
// 3, one server may fail, or be away, and nothing is lost.
func WithReplicas(n int) Option {
	return func(o *options) {
		if n < 1 || n > 5 {
			o.refuse("WithReplicas(%d): a stream has 1 to 5 replicas", n)
		}
		o.Replicas = n
	}
}

// WithMemory has the servers keep new queues in memory. The messages of a queue are lost when
// all servers that have it are stopped. By default they are in files.
func WithMemory() Option { return func(o *options) { o.Storage = jetstream.MemoryStorage } }

// WithLimits sets the limits that chanmq.ReadLimits has for the kernel: bytes of a message, bytes
// of a new queue, and how many queues there may be. They are those of this Cluster, checked
// by it, and 8192, 1 MiB and 1000 by default. The servers have limits of their own, such as max_payload.
func WithLimits(l chanmq.Limits) Option {
	return func(o *options) {
		if l.MaxMessage < 1 || l.MaxBytes < 1 || l.MaxQueues < 1 {
			o.refuse("WithLimits: MaxMessage %d, MaxBytes %d, MaxQueues %d: each has to be 1 at least", l.MaxMessage, l.MaxBytes, l.MaxQueues)
		}
		o.Limits = engine.Limits{MaxMessage: l.MaxMessage, MaxBytes: l.MaxBytes, MaxQueues: l.MaxQueues}
	}
}

// WithExactSizes has new queues count as a kernel does: MaxBytes bytes of texts, and as many
// messages. A send then takes two trips in place of one, and of several processes that send at the same time
// some take more. By default a message counts with what the server stores beside its
// text, about 140 bytes.
func WithExactSizes() Option { return func(o *options) { o.Exact = true } }

// WithTimeout sets how long a call without a ctx, such as Open, Stat or TryReceive, tries to
// reach a server before it fails with chanmq.ErrUnavailable, 4 seconds by default. Calls with
// a ctx try until that ends.
func WithTimeout(d time.Duration) Option {
	return func(o *options) {
		if d <= 0 {
			o.refuse("WithTimeout(%v): it has to be positive", d)
		}
		o.Timeout = d
	}
}

// WithLook sets how often those who wait look at the queue, in case that a wake-up was lost,
// 2 seconds by default. A wake-up is lost where a server fails, or a process that was just
// woken. A process looks once for each of its queues in which anybody waits.
func WithLook(d time.Duration) Option {
	return func(o *options) {
		if d <= 0 {
			o.refuse("WithLook(%v): it has to be positive", d)
		}
		o.Look = d
	}
}

// WithAckWait sets after how long the servers give a message to another process that was
// delivered (Take, Consumer) to one that has died since: 30 seconds by default. While the process lives it
// tells the servers that it has the message still, however long the program takes.
func WithAckWait(d time.Duration) Option {
	return func(o *options) {
		if d < 100*time.Millisecond {
			o.refuse("WithAckWait(%v): it has to be 100 ms at least", d)
		}
		o.AckWait = d
	}
}

// WithPrefix sets what the names of streams and subjects begin with, CHANMQ by default: letters,
// digits, _ and -. Clusters with different prefixes have different queues.
func WithPrefix(prefix string) Option {
	return func(o *options) {
		if prefix == "" || strings.Trim(prefix, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			o.refuse("WithPrefix(%q): it has to be of letters, digits, _ and -", prefix)
		}
		o.Prefix = prefix
	}
}

// New returns the queues of the cluster that nc is connected to, or will be. The connection
// stays the program's, which closes it after the Cluster. It must not buffer while it is
// not connected, which is nats.ReconnectBufSize(-1), and should reconnect for ever,
// nats.MaxReconnects(-1).
func New(nc *nats.Conn, opts ...Option) (*Cluster, error) {
	o := options{
		Config: engine.Config{
			Conn:     nc,
			Prefix:   defaultPrefix,
			Replicas: 1,
			Storage:  jetstream.FileStorage,
			Limits:   engine.Limits{MaxMessage: defaultMaxMessage, MaxBytes: defaultMaxBytes, MaxQueues: defaultMaxQueues},
			Timeout:  defaultTimeout,
			Look:     defaultLook,
			AckWait:  defaultAckWait,
		},
	}
	for _, opt := range opts {
		opt(&o)
	}
	switch {
	case o.err != nil:
		return nil, o.err
	case nc == nil:
		return nil, errors.New("natsmq: New: the connection is nil")
	case nc.Opts.ReconnectBufSize >= 0:
		return nil, errors.New("natsmq: New: the connection keeps what is sent while it is not connected, and nobody would know whether it was done; connect with nats.ReconnectBufSize(-1)")
	}
	e, err := engine.New(o.Config)
	if err != nil {
		return nil, fmt.Errorf("natsmq: New: %w", err)
	}
	return &Cluster{engine: e, handles: make(map[*handle]struct{})}, nil
}

// Option makes chanmq.Open, Create, Private and Attach open a queue of the cluster. It may be
// used any number of times.
func (c *Cluster) Option() chanmq.Option { return inject.Kernel(c.kernel()).(chanmq.Option) }

// Close ends what runs in the background. Handles have to be closed before; the calls of those that are
// not fail. The connection stays open. Of several calls the first one counts.
func (c *Cluster) Close() error {
	c.mu.Lock()
	c.closed = true
	open := len(c.handles)
	c.mu.Unlock()
	c.engine.Close()
	if open > 0 {
		return fmt.Errorf("natsmq: Close: %d handles were not closed", open)
	}
	return nil
}

// List returns the state of every queue of the cluster, as chanmq.List does for the kernel's.
func (c *Cluster) List(ctx context.Context) ([]chanmq.Stat, error) {
	infos, err := c.engine.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("natsmq: List: %w", public(err))
	}
	list := make([]chanmq.Stat, len(infos))
	for i, info := range infos {
		list[i] = chanmq.Stat{
			ID: info.ID, Key: chanmq.Key(info.Key),
			Owner: int(info.UID), Group: int(info.GID), Creator: int(info.CreatorUID), CreatorGroup: int(info.CreatorGID),
			Perm: fs.FileMode(info.Mode), Messages: int(info.Messages), Bytes: int(info.Bytes), MaxBytes: int(info.MaxBytes),
			LastSend: info.LastSend, Changed: info.Changed,
		}
	}
	return list, nil
}

// For the other packages of the module.
func init() {
	reach.Kernel = func(c any) sysv.Kernel { return c.(*Cluster).kernel() }
	reach.Engine = func(c any) *engine.Engine { return c.(*Cluster).engine }
}

// kernel is the Cluster as the root package sees it, before there is a handle.
func (c *Cluster) kernel() sysv.Kernel { return &handle{c: c, e: c.engine} }
