// Package inject lets packages of this module open queues on a kernel other than
// the host's, although the root package does not export a way to do so.
package inject

import "github.com/chanmq/chanmq/internal/sysv"

// Kernel returns a chanmq.Option, as an any, with which Open and the other calls
// that open a queue use the kernel. The root package sets it when it is initialized.
var Kernel func(sysv.Kernel) any
