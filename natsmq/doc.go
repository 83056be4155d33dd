// Package natsmq gives chanmq's calls on a cluster: queues of NATS JetStream in place of those
// of one machine's kernel.
package natsmq
