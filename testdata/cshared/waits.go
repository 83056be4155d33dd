// Package main is chanmq as a C library (go build -buildmode=c-shared), for the
// tests of waits in a program that is not Go's own: host/host.c.
package main

import "C"

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/chanmq/chanmq"
)

func main() {} // never called in a library

var (
	queue  *chanmq.Queue[[]byte]
	cancel context.CancelFunc
	result chan string // of the receive that waits_start started
)

// receive returns the text of a message of type 1, or of the error.
func receive(ctx context.Context) string {
	m, err := queue.Receive(ctx, chanmq.OfType(1))
	if err != nil {
		if errors.Is(err, context.Canceled) {
			return context.Canceled.Error() // without the queue's id
		}
		return err.Error()
	}
	return string(m.Value)
}

// waits_open makes a queue, which waits_close removes, and returns its msqid.
//
//export waits_open
func waits_open() C.int {
	q, err := chanmq.Private(0o600, chanmq.WithRemoveOnClose())
	if err != nil {
		return -1
	}
	queue = q
	return C.int(q.ID())
}

// waits_start starts a receive. It returns when that waits: asleep in the kernel,
// if it has to be.
//
//export waits_start
func waits_start(asleep C.int) {
	var ctx context.Context
	ctx, cancel = context.WithCancel(context.Background())
	result = make(chan string, 1)
	go func() { result <- receive(ctx) }()
	if asleep == 0 {
		time.Sleep(5 * time.Millisecond)
		return
	}
	for !someThreadIsAsleep() {
		time.Sleep(100 * time.Microsecond)
	}
}

func someThreadIsAsleep() bool {
	threads, _ := filepath.Glob("/proc/self/task/*/wchan")
	for _, thread := range threads {
		call, err := os.ReadFile(thread)
		if err == nil && strings.HasPrefix(string(call), "do_msg") {
			return true
		}
	}
	return false
}

// waits_sleeps reports whether a thread sleeps in a call of the queue's.
//
//export waits_sleeps
func waits_sleeps() C.int {
	if someThreadIsAsleep() {
		return 1
	}
	return 0
}

// waits_result waits for the receive's end. The caller frees the text.
//
//export waits_result
func waits_result() *C.char {
	defer cancel()
	return C.CString(<-result)
}

// waits_cancel ends the ctx of the receive.
//
//export waits_cancel
func waits_cancel() { cancel() }

// waits_receive receives on the caller's thread. The caller frees the text.
//
//export waits_receive
func waits_receive() *C.char { return C.CString(receive(context.Background())) }

//export waits_close
func waits_close() C.int {
	if err := queue.Close(); err != nil {
		return -1
	}
	return 0
}
