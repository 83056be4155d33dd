// Package reach lets packages of this module use what package natsmq does not export.
package reach

import "github.com/chanmq/chanmq/natsmq/internal/engine"

// Engine returns the Engine of a *natsmq.Cluster. Package natsmq sets it when it is initialized.
var Engine func(cluster any) *engine.Engine
