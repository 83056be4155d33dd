package natsmq

import (
	"os"
	"slices"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/internal/sysvtest"
	"github.com/chanmq/chanmq/natsmq/internal/natstest"
)

// lacks are the rules of the kernel that queues of a cluster do not keep, and why.
var lacks = map[string]string{
	"Stat has the counts, and the process and time of the last send and receive": "a stream does not know who has sent, nor when something was taken; the counts are in TestCounts",
	"for a receiver that waited, Stat has the id of its thread":                  "a stream does not know who has received",

	"a call that fails does not change Stat": "its message is larger than the queue: that is refused at once, in place of waiting for Set",
	"space that Set adds wakes a sender":     "its message is larger than the queue: that is refused at once; smaller ones are in TestSetMakesRoom",

	"receivers get messages in the order in which they began to wait":   "that holds for those with the same selector; others compete",
	"a message handed to a receiver is returned in preference to EINTR": "the wake-up may come behind the interrupt; the message stays in the queue",
	"Set wakes calls that lost their permission with EACCES":            usersOfServers,
	"a queue belongs to the user and group that created it":             usersOfServers,
	"owner, group and others have the rights of their own three bits":   usersOfServers,
	"Get of a key checks the permissions in its flags":                  usersOfServers,
	"Copy needs read permission":                                        usersOfServers,
	"List shows queues that may not be read":                            usersOfServers,
	"only owner and creator may change or remove a queue":               usersOfServers,
	"the group that created a queue keeps the rights of the group":      usersOfServers,
	"more than msgmnb takes CAP_SYS_RESOURCE":                           usersOfServers,
}

const usersOfServers = "the users of a cluster are those of its servers' accounts; owners and modes are kept, and not checked"

// TestKernel: queues of a cluster keep the rules of the kernel's.
func TestKernel(t *testing.T) {
	t.Parallel()
	onClusters(t, func(t *testing.T, s *natstest.Servers, opts []Option) {
		cluster := newCluster(t, s.Connect(t), slices.Concat(opts, []Option{
			WithExactSizes(),
			WithTimeout(time.Minute), // the servers may have to share two cores with other tests
			WithLimits(chanmq.Limits{MaxMessage: 8192, MaxBytes: 16384, MaxQueues: 1000}),
		})...)
		sysvtest.Run(t, func(t sysvtest.TB) sysvtest.Machine {
			h := cluster.kernel().Handle()
			t.Cleanup(h.Release)
			return sysvtest.Machine{
				Kernel: h,
				PID:    int32(os.Getpid()),
				Asleep: func(sysvtest.TB) int { return cluster.engine.Waiting() },
				As: func(t sysvtest.TB, _, _ uint32) sysvtest.User {
					t.Skip(usersOfServers)
					return nil
				},
				Lacks: lacks,
			}
		})
	})
}
