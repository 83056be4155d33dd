module github.com/chanmq/chanmq/interop/php

go 1.25.0

require (
	github.com/chanmq/chanmq v0.0.0
	github.com/chanmq/chanmq/codec/php v0.0.0
)

require (
	golang.org/x/sync v0.22.0 // indirect
	golang.org/x/sys v0.47.0 // indirect
)

replace (
	github.com/chanmq/chanmq => ../..
	github.com/chanmq/chanmq/codec/php => ../../codec/php
)
