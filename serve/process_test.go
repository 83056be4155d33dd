//go:build linux

package serve_test

import (
	"context"

	"github.com/chanmq/chanmq/serve"
)

func init() {
	roles["double"] = doubleRole
}

// doubleRole is a server: requests, replies.
func doubleRole(args []string) error {
	queues, err := attachArgs(args)
	if err != nil {
		return err
	}
	s := serve.NewServer(queues[0], queues[1])
	handleDouble(s)
	return s.Run(context.Background())
}
