// Package auto has a program's queues on a cluster, if its environment says so, without a
// change of the program:
//
//	import _ "github.com/chanmq/chanmq/natsmq/auto"
//
// If $CHANMQ_NATS has the URLs of NATS servers, separated by commas, all queues that the program opens
// without an Option of another [natsmq.Cluster] are there, and chanmq.List and
// chanmq.ReadLimits say what is there. If it is empty or not set, the package does nothing.
//
//   - $CHANMQ_NATS_REPLICAS is the number for [natsmq.WithReplicas], 1 by default.
//   - $CHANMQ_NATS_CREDS is a file with credentials, nats.UserCredentials.
//
// What it says that cannot be understood ends the program when it starts. If no server can be
// reached, calls fail with chanmq.ErrUnavailable until one can.
package auto

import (
	"log"
	"os"
	"strconv"
	"sync"

	"github.com/nats-io/nats.go"

	"github.com/chanmq/chanmq/internal/inject"
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq"
	"github.com/chanmq/chanmq/natsmq/internal/reach"
)

func init() {
	urls := os.Getenv("CHANMQ_NATS")
	if urls == "" {
		return
	}
	replicas := 1
	if text := os.Getenv("CHANMQ_NATS_REPLICAS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			log.Fatalf("natsmq/auto: CHANMQ_NATS_REPLICAS: %v", err)
		}
		replicas = n
	}
	opts := []nats.Option{
		nats.ReconnectBufSize(-1),
		nats.MaxReconnects(-1),
		nats.RetryOnFailedConnect(true),
		nats.Name("chanmq " + os.Args[0]),
	}
	if creds := os.Getenv("CHANMQ_NATS_CREDS"); creds != "" {
		opts = append(opts, nats.UserCredentials(creds))
	}
	// At the first use: a program that opens no queue connects to nobody.
	inject.Host = sync.OnceValue(func() sysv.Kernel {
		nc, err := nats.Connect(urls, opts...)
		if err != nil {
			log.Fatalf("natsmq/auto: CHANMQ_NATS: %v", err)
		}
		cluster, err := natsmq.New(nc, natsmq.WithReplicas(replicas))
		if err != nil {
			log.Fatalf("natsmq/auto: CHANMQ_NATS: %v", err)
		}
		return reach.Kernel(cluster) // until the end of the program
	})
}
