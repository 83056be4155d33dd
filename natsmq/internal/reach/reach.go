// Package reach lets packages of this module use what package natsmq does not export.
package reach

import (
	"github.com/chanmq/chanmq/internal/sysv"
	"github.com/chanmq/chanmq/natsmq/internal/engine"
)

// Of a *natsmq.Cluster. Package natsmq sets them when it is initialized.
var (
	// Engine returns its Engine.
	Engine func(cluster any) *engine.Engine
	// Kernel returns the kernel whose queues are the cluster's.
	Kernel func(cluster any) sysv.Kernel
)
