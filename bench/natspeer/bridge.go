package main

import (
	"context"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/bench/internal/peer"
	"github.com/chanmq/chanmq/natsmq/bridge"
)

// runBridge is the role of a bridge between a kernel queue of the case's and the cluster's queue. The one without the address of a
// server has the server in its process.
func runBridge(p *peer.Peer) error {
	e, err := connect(p.Args)
	if err != nil {
		return err
	}
	cluster, err := joinCluster(e.conn, p.Args)
	if err != nil {
		return err
	}
	there, err := chanmq.Create(thereKey, 0o600, cluster.Option())
	if err != nil {
		return err
	}
	if err := there.Close(); err != nil {
		return err
	}
	q, err := chanmq.Attach(p.Args.Int("queue", -1))
	if err != nil {
		return err
	}
	b, err := bridge.New(q, cluster, thereKey, bridge.WithDir(p.Args["bridges"]),
		bridge.WithOut(int64(p.Args.Int("out", 0))), bridge.WithIn(int64(p.Args.Int("in", 0))))
	if err != nil {
		return err
	}
	if err := p.Ready(e.url); err != nil {
		return err
	}
	return b.Run(context.Background())
}
