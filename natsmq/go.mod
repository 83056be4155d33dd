module github.com/chanmq/chanmq/natsmq

go 1.25.0

replace github.com/chanmq/chanmq => ../

require (
	github.com/chanmq/chanmq v0.0.0-00010101000000-000000000000
	github.com/nats-io/nats-server/v2 v2.14.5
	github.com/nats-io/nats.go v1.53.1
)
