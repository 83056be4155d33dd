//go:build linux

package metrics_test

import (
	"context"
	"fmt"
	"log"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/metrics"
)

func ExampleNewHandle() {
	q, err := chanmq.Private(0o600, chanmq.WithCounters(), chanmq.WithRemoveOnClose())
	if err != nil {
		log.Fatal(err)
	}
	defer q.Close()
	registry := prometheus.NewRegistry() // or prometheus.DefaultRegisterer
	registry.MustRegister(metrics.NewHandle("orders", q))

	if err := q.Send(context.Background(), 1, []byte("two lamps")); err != nil {
		log.Print(err)
	}
	families, err := registry.Gather()
	if err != nil {
		log.Print(err)
	}
	for _, family := range families {
		if family.GetName() == "chanmq_handle_sent_bytes_total" {
			fmt.Println(family.GetMetric()[0].GetCounter().GetValue(), "bytes")
		}
	}
	// Output: 9 bytes
}
