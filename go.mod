module github.com/chanmq/chanmq

go 1.25.0

require golang.org/x/sys v0.47.0

require (
	github.com/anishathalye/porcupine v1.3.1 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	golang.org/x/sync v0.22.0 // indirect
	pgregory.net/rapid v1.3.0 // indirect
)
