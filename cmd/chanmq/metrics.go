package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"

	"github.com/chanmq/chanmq/metrics"
)

type metricsOptions struct {
	listen    string
	textfile  string
	every     time.Duration
	maxQueues int
}

const (
	// defaultMaxQueues makes some 800 series.
	defaultMaxQueues = 100
	// scrapeTime is how long scrapes may take to end when the exporter does.
	scrapeTime = 5 * time.Second
)

func (a *app) metricsCommand() *cobra.Command {
	var o metricsOptions
	cmd := &cobra.Command{
		Use:   "metrics --listen ADDRESS | --textfile FILE",
		Short: "Export all queues to Prometheus",
		Long: `Export the queues of this IPC namespace to Prometheus: messages, bytes, how full, when the
last message was sent and received, whether those who did still live, the limits, and how
much of them is in use. It takes no permission on the queues.

With --listen it answers HTTP at /metrics until it is interrupted. An ADDRESS without a
host, such as :9746, is that of all networks: nobody is asked for a password there, so that
127.0.0.1:9746 is better if Prometheus runs on this machine. With port 0 the system chooses
one; standard error says which.

With --textfile it writes a FILE for the textfile collector of node_exporter, whose name
must end in .prom: once, for cron, or every DURATION until it is interrupted. The file is
written beside it and renamed, so that nobody reads half of it, and is left at the end.

Times are those of the events, in seconds since 1970: the time since the last receive is
time() - chanmq_queue_last_receive_timestamp_seconds. Labels are key and id, of at most
--max-queues queues: those with a key come first, and the rest is summed in
chanmq_unlabelled_queues, _messages, _bytes and _full_ratio.`,
		Example: `  chanmq metrics --listen 127.0.0.1:9746
  chanmq metrics --textfile /var/lib/node_exporter/chanmq.prom --every 15s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case (o.listen == "") == (o.textfile == ""):
				return usage("want either --listen or --textfile")
			case o.every < 0:
				return usage("--every %v: the time is negative", o.every)
			case o.every > 0 && o.textfile == "":
				return usage("--every is for --textfile; with --listen, Prometheus says how often")
			case o.maxQueues < 0:
				return usage("--max-queues %d: the number is negative", o.maxQueues)
			}
			registry := prometheus.NewRegistry()
			registry.MustRegister(metrics.NewQueues(o.maxQueues))
			if o.listen != "" {
				return a.serveMetrics(o.listen, registry)
			}
			return a.writeMetrics(&o, registry)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.listen, "listen", "", "answer HTTP at the `ADDRESS`, such as 127.0.0.1:9746")
	f.StringVar(&o.textfile, "textfile", "", "write a `FILE` for node_exporter")
	f.DurationVar(&o.every, "every", 0, "write the file again and again, with pauses of a `DURATION`")
	f.IntVar(&o.maxQueues, "max-queues", defaultMaxQueues, "give labels to `N` queues at most")
	_ = cmd.RegisterFlagCompletionFunc("listen", cobra.NoFileCompletions) // the flag exists
	_ = cmd.MarkFlagFilename("textfile", "prom")                          // the flag exists
	return cmd
}

// serveMetrics answers scrapes until the command is interrupted.
func (a *app) serveMetrics(address string, from prometheus.Gatherer) error {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(from, promhttp.HandlerOpts{ErrorLog: scrapeLog{a}}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	a.progressf("metrics at http://%v/metrics", listener.Addr())

	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	select {
	case err := <-ended:
		return err
	case <-a.ctx.Done():
	}
	ctx, cancel := context.WithTimeout(a.hurry, scrapeTime)
	defer cancel()
	if server.Shutdown(ctx) != nil {
		_ = server.Close() // whoever still reads has had its time
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// scrapeLog says on standard error why a scrape has failed.
type scrapeLog struct{ *app }

func (l scrapeLog) Println(v ...any) { l.progressf("a scrape has failed: %v", v) }

// writeMetrics writes the file for node_exporter.
func (a *app) writeMetrics(o *metricsOptions, from prometheus.Gatherer) error {
	for {
		if err := prometheus.WriteToTextfile(o.textfile, from); err != nil {
			return err
		}
		if o.every == 0 || !a.sleep(o.every) {
			return nil
		}
	}
}
