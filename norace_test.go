//go:build !race

package chanmq_test

const raceEnabled = false
