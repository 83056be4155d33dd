// Command chanmq looks after System V message queues: it lists, creates, fills, reads,
// moves and removes them. See README.md, or chanmq --help.
package main

import "os"

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
