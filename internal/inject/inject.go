// Package inject lets the packages of this module open queues on a kernel other
// than the host's, without the root package exporting a way to do so.
package inject

import "github.com/chanmq/chanmq/internal/sysv"

// Kernel returns a chanmq.Option, as any, that makes the opening call use the
// kernel. The root package sets it when it is initialized.
var Kernel func(sysv.Kernel) any
