package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/cmd/chanmq/internal/format"
	"github.com/chanmq/chanmq/natsmq"
	"github.com/chanmq/chanmq/natsmq/bridge"
)

type bridgeOptions struct {
	servers, creds, prefix string
	clusterKey             string
	out, in                string
	dir, listen            string
	dead                   string
	create                 bool
	replicas               int
}

// retryServers is the pause before servers that do not answer are asked again.
const retryServers = time.Second

func (a *app) bridgeCommand() *cobra.Command {
	var o bridgeOptions
	cmd := &cobra.Command{
		Use:   "bridge KEY --nats URL --out TYPES --in TYPES",
		Short: "Connect a queue with one of a NATS cluster, and so with other machines",
		Long: `Move messages of some types from a queue of this machine's kernel into a queue of a NATS
JetStream cluster, and messages of other types from there into the kernel's, until it is
interrupted. With a bridge on each machine, programs that know only msgsnd and msgrcv talk
to each other. Each type goes one way. Where a queue is full, the senders wait, up to those
on the other machine. It waits for servers that are away.

Nothing is lost, and nothing comes twice, if it is killed, or a server or a connection
fails, but for one message of each type that comes in: that may come twice if it is killed
in the moment after msgsnd. What it holds is in --dir; the next bridge with the same keys
goes on with that. A message that the other side can never take, since it is too large,
ends it, and stays where it is; or goes to --dead.

The servers need JetStream, version 2.14 or newer.`,
		Example: `  chanmq bridge 0x4d51 --nats nats://10.0.0.1,nats://10.0.0.2 --out 1 --in 2,3 --create
  chanmq bridge 0x4d51 --nats tls://nats.example.org --creds bridge.creds --out 1,7 --listen 127.0.0.1:9747`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: completeKeys,
	}
	name := nameFlags(cmd, "", "the queue of the kernel")
	f := cmd.Flags()
	f.StringVar(&o.servers, "nats", nats.DefaultURL, "the `URLS` of the servers, with commas between them")
	f.StringVar(&o.creds, "creds", "", "the `FILE` with the user's credentials")
	f.StringVar(&o.prefix, "prefix", "", "what the names of the cluster's streams begin with, CHANMQ by default")
	f.StringVar(&o.clusterKey, "cluster-key", "", "the `KEY` of the cluster's queue, if it is not the same")
	f.StringVar(&o.out, "out", "", "the `TYPES` that leave this machine, such as 1,2,7")
	f.StringVar(&o.in, "in", "", "the `TYPES` that come to this machine")
	f.StringVar(&o.dir, "dir", bridge.DefaultDir(), "the `DIRECTORY` of bridges, on a tmpfs")
	f.StringVar(&o.listen, "listen", "", "answer Prometheus at the `ADDRESS`, such as 127.0.0.1:9747")
	f.StringVar(&o.dead, "dead", "", "move what the other side can never take to the kernel's queue with the `KEY`")
	f.BoolVar(&o.create, "create", false, "create the queues that do not exist")
	f.IntVar(&o.replicas, "replicas", 1, "with --create: on how many servers the cluster's queue is, 1, 3 or 5")
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		rest, err := name.take(args)
		if err != nil {
			return err
		}
		if err := noMore(rest); err != nil {
			return err
		}
		return a.bridge(name, &o)
	}
	return cmd
}

// parseTypes reads a list of types.
func parseTypes(flag, list string) (types []int64, err error) {
	if list == "" {
		return nil, nil
	}
	for text := range strings.SplitSeq(list, ",") {
		typ, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
		if err != nil || typ < 1 {
			return nil, usage("--%s %s: give types, which are 1 and more, with commas between them", flag, list)
		}
		types = append(types, typ)
	}
	return types, nil
}

func (a *app) bridge(name *queueName, o *bridgeOptions) error {
	out, err := parseTypes("out", o.out)
	if err != nil {
		return err
	}
	in, err := parseTypes("in", o.in)
	if err != nil {
		return err
	}
	key := name.key
	switch {
	case o.clusterKey != "":
		if key, err = parseKey(o.clusterKey); err != nil {
			return err
		}
	case name.flags("id"):
		return usage("--id: then the cluster's queue needs a key: --cluster-key")
	}
	opts := []bridge.Option{bridge.WithOut(out...), bridge.WithIn(in...), bridge.WithDir(o.dir)}
	if o.dead != "" {
		deadKey, err := parseKey(o.dead)
		if err != nil {
			return err
		}
		dead, err := chanmq.Open(deadKey)
		if err != nil {
			return err
		}
		defer dead.Close() // it holds nothing
		opts = append(opts, bridge.WithDeadLetters(dead))
	}
	q, err := name.open()
	if o.create && errors.Is(err, fs.ErrNotExist) && !name.flags("id") {
		q, err = chanmq.Create(name.key, 0o600)
	}
	if err != nil {
		return err
	}
	defer q.Close() // it holds nothing
	cluster, err := a.connect(o)
	if err != nil {
		return err
	}
	defer cluster.close()
	b, err := a.newBridge(q, cluster.Cluster, key, o.create, opts)
	if err != nil || b == nil {
		return err
	}
	err = a.runBridge(b, o.listen)
	c := b.Counters()
	a.progressf("%s went out, %s came in", format.Count(int(c.Out.Messages), "message"), format.Count(int(c.In.Messages), "message"))
	return errors.Join(err, b.Close())
}

// cluster is a Cluster with its connection.
type cluster struct {
	*natsmq.Cluster
	nc *nats.Conn
}

func (c *cluster) close() {
	_ = c.Cluster.Close() // its handles are closed
	c.nc.Close()
}

// connect connects to the cluster, or goes on trying in the background.
func (a *app) connect(o *bridgeOptions) (*cluster, error) {
	opts := []nats.Option{
		nats.Name("chanmq bridge"), nats.RetryOnFailedConnect(true), nats.MaxReconnects(-1), nats.ReconnectBufSize(-1),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				a.progressf("the connection is lost: %v", err)
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { a.progressf("connected to %s", nc.ConnectedUrlRedacted()) }),
		nats.ConnectHandler(func(nc *nats.Conn) { a.progressf("connected to %s", nc.ConnectedUrlRedacted()) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { a.progressf("%v", err) }),
	}
	if o.creds != "" {
		opts = append(opts, nats.UserCredentials(o.creds))
	}
	nc, err := nats.Connect(o.servers, opts...)
	if err != nil {
		return nil, fmt.Errorf("--nats %s: %w", o.servers, err)
	}
	clusterOpts := []natsmq.Option{natsmq.WithReplicas(o.replicas)}
	if o.prefix != "" {
		clusterOpts = append(clusterOpts, natsmq.WithPrefix(o.prefix))
	}
	c, err := natsmq.New(nc, clusterOpts...)
	if err != nil {
		nc.Close()
		return nil, err
	}
	return &cluster{c, nc}, nil
}

// newBridge waits for servers. Without an error the bridge is nil if the command is to end.
func (a *app) newBridge(q *chanmq.Queue[[]byte], c *natsmq.Cluster, key chanmq.Key, create bool, opts []bridge.Option) (*bridge.Bridge, error) {
	said := false
	for {
		b, err := bridge.New(q, c, key, opts...)
		if create && errors.Is(err, fs.ErrNotExist) {
			var there *chanmq.Queue[[]byte]
			if there, err = chanmq.Create(key, 0o600, c.Option()); err == nil {
				if err = there.Close(); err == nil {
					continue
				}
			}
		}
		switch {
		case a.ctx.Err() != nil:
			if b != nil {
				err = b.Close()
			}
			return nil, err
		case !errors.Is(err, chanmq.ErrUnavailable):
			return b, err
		}
		if !said {
			a.progressf("waiting for a server: %v", err)
			said = true
		}
		if !a.sleep(retryServers) {
			return nil, nil
		}
	}
}

// runBridge runs it until the command is interrupted, and answers scrapes meanwhile.
func (a *app) runBridge(b *bridge.Bridge, listen string) error {
	a.progressf("the bridge runs")
	if listen == "" {
		return b.Run(a.ctx)
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newBridgeMetrics(b))
	ctx, cancel := context.WithCancel(a.ctx)
	defer cancel()
	var serving sync.WaitGroup
	var serveErr error
	scrapes := &app{in: a.in, out: a.out, err: a.err}
	scrapes.ctx, scrapes.hurry = ctx, a.hurry
	serving.Go(func() {
		defer cancel() // where it cannot listen
		serveErr = scrapes.serveMetrics(listen, registry)
	})
	err := b.Run(ctx)
	cancel()
	serving.Wait()
	return errors.Join(err, serveErr)
}

// bridgeMetrics is a collector of what a bridge does.
type bridgeMetrics struct {
	b *bridge.Bridge

	messages, bytes, again, inferred, dead, full, unavailable, held *prometheus.Desc
}

func newBridgeMetrics(b *bridge.Bridge) *bridgeMetrics {
	desc := func(metric, help string) *prometheus.Desc {
		return prometheus.NewDesc("chanmq_bridge_"+metric, help, []string{"direction"}, nil)
	}
	return &bridgeMetrics{
		b:           b,
		messages:    desc("messages_total", "Messages moved."),
		bytes:       desc("bytes_total", "Bytes of the messages moved."),
		again:       desc("again_messages_total", "Messages that an earlier process had taken which was killed."),
		inferred:    desc("inferred_messages_total", "Messages that may lack bytes at their end, since a process was killed in msgrcv."),
		dead:        desc("dead_letters_total", "Messages moved to the queue for dead letters."),
		full:        desc("full_total", "How often the other queue had no room."),
		unavailable: desc("unavailable_total", "How often no server answered."),
		held:        desc("held_messages", "Messages that the bridge has at the moment."),
	}
}

// Describe implements prometheus.Collector.
func (m *bridgeMetrics) Describe(descs chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.messages, m.bytes, m.again, m.inferred, m.dead, m.full, m.unavailable, m.held} {
		descs <- d
	}
}

// Collect implements prometheus.Collector.
func (m *bridgeMetrics) Collect(metrics chan<- prometheus.Metric) {
	c := m.b.Counters()
	for direction, d := range map[string]bridge.Direction{"out": c.Out, "in": c.In} {
		for _, x := range []struct {
			desc  *prometheus.Desc
			value uint64
		}{
			{m.messages, d.Messages}, {m.bytes, d.Bytes}, {m.again, d.Again}, {m.inferred, d.Inferred},
			{m.dead, d.Dead}, {m.full, d.Full}, {m.unavailable, d.Unavailable},
		} {
			metrics <- prometheus.MustNewConstMetric(x.desc, prometheus.CounterValue, float64(x.value), direction)
		}
		metrics <- prometheus.MustNewConstMetric(m.held, prometheus.GaugeValue, float64(d.Held), direction)
	}
}
