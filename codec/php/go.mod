module github.com/chanmq/chanmq/codec/php

go 1.25.0

require github.com/elliotchance/phpserialize v1.4.0
