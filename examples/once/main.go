// Command once keeps the balance of an account in a file. It may be killed at any moment,
// and each transfer counts exactly once: a message that was not acknowledged comes again,
// and the file says which transfers it contains, so that such a one is recognized. The two
// are written together; a program with a database does it in one transaction.
//
//	go run ./examples/once account.json
//
// The sender numbers the transfers 1, 2, 3, and so on, and may send one again, too:
//
//	perl -e 'msgsnd(msgget(0x2a04, 0), pack("l! a*", 1, q({"id":1,"amount":250})), 0) or die $!'
//
// Two of these programs at a time would overwrite each other's file.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec"
)

type transfer struct {
	ID     int64 `json:"id"`
	Amount int64 `json:"amount"`
}

// account is what is in the file.
type account struct {
	Balance int64   `json:"balance"`
	Last    int64   `json:"last"`  // it contains all transfers up to this one,
	Ahead   []int64 `json:"ahead"` // and these, which came before their turn
}

// add adds a transfer. It reports false if the account contains it.
func (a *account) add(t transfer) bool {
	if t.ID <= a.Last || slices.Contains(a.Ahead, t.ID) {
		return false
	}
	a.Balance += t.Amount
	a.Ahead = append(a.Ahead, t.ID)
	slices.Sort(a.Ahead)
	for len(a.Ahead) > 0 && a.Ahead[0] == a.Last+1 {
		a.Last, a.Ahead = a.Ahead[0], a.Ahead[1:]
	}
	return true
}

func main() {
	log.SetFlags(0)
	log.SetPrefix("once: ")
	key := flag.Int("key", 0x2a04, "the `key` of the queue")
	journal := flag.String("journal", "", "the `directory` of the journals, on a tmpfs (default /dev/shm/chanmq-UID)")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: once [flags] file")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second interrupt ends the program at once
	err := run(ctx, chanmq.Key(*key), *journal, flag.Arg(0))
	if err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func run(ctx context.Context, key chanmq.Key, journal, file string) (err error) {
	a, err := load(file)
	if err != nil {
		return err
	}
	q, err := chanmq.Create(key, 0o600, chanmq.WithJournal(journal))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, q.Close()) }()
	transfers := chanmq.As(q, codec.JSON[transfer]())
	for {
		d, err := transfers.Take(ctx, chanmq.Any())
		if err != nil {
			return err
		}
		if !a.add(d.Value) {
			log.Printf("transfer %d came again (attempt %d)", d.Value.ID, d.Attempt)
		} else if err := save(file, a); err != nil {
			return err
		}
		if err := d.Ack(); err != nil { // if the process ends before, it comes again
			return err
		}
	}
}

func load(file string) (a account, err error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return account{}, nil // a new account
	}
	if err == nil {
		err = json.Unmarshal(text, &a)
	}
	return a, err
}

// save replaces the file: there is the old one, or the new one, and never half of it.
func save(file string, a account) error {
	text, err := json.Marshal(a)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(file+".new", file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close()) // the name, too, is on the disk now
}
