package inject

import "github.com/chanmq/chanmq/internal/sysv"

// Host returns the kernel of queues that are opened without one of their own: that of this
// machine, unless a package sets another one when it is initialized.
var Host = sysv.Host
