//go:build linux

// Package php_test tests Go over real queues with PHP programs that send and receive
// with serialize(), the default of msg_send and msg_receive. The tests without
// serialize() are in the parent directory.
package php_test

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chanmq/chanmq"
	"github.com/chanmq/chanmq/codec/php"
)

// deadline ends what would otherwise hang.
const deadline = 30 * time.Second

type order struct {
	ID    int     `php:"id"`
	Name  string  `php:"name"`
	Price float64 `php:"price"`
}

type orders struct {
	Orders []order `php:"orders"`
	Paid   bool    `php:"paid"`
}

var tea = order{7, "tea", 4.5}

// The values are those of testdata/values.php.
func TestSerialize(t *testing.T) {
	both(t, "int", -42)
	both(t, "float", 0.1)
	both(t, "string", "Zürich\x00;\"")
	both(t, "true", true)
	both(t, "false", false)
	both[*int](t, "null", nil)
	both(t, "list", []int{3, 1, 2})
	both(t, "map", map[string]int{"a": 1, "b": 2})
	both(t, "struct", tea)
	both(t, "nested", orders{[]order{tea}, false})
	both[any](t, "any", map[string]any{"a": []any{int64(1), 2.5, "x", nil, true}})
	both(t, "largest", strings.Repeat("x", 8182))
	sends(t, "object", tea)

	run(t, "send/not-serialized", func(t *testing.T) {
		q := newQueue(t)
		runPHP(t, "send.php", q, "not-serialized")
		_, err := chanmq.As(q, php.Serialize[string]()).Receive(deadlineContext(t), chanmq.Any())
		var decode *chanmq.DecodeError
		if !errors.As(err, &decode) {
			t.Fatalf("got %v, want a *DecodeError", err)
		}
		if string(decode.Message.Value) != "plain text" || decode.Message.Type != 7 {
			t.Errorf("the error holds %+v", decode.Message)
		}
	})

	t.Run("guide", func(t *testing.T) {
		q := newQueue(t)
		ctx, cancel := context.WithCancel(deadlineContext(t))
		var answered error
		done := make(chan struct{})
		go func() {
			defer close(done)
			answered = answerOrders(ctx, q.Key())
		}()
		// Before q is removed: otherwise Create could create it again.
		t.Cleanup(func() { cancel(); <-done })
		if got, want := runPHP(t, "guide.php", q), "order 7: 5.40"; got != want {
			t.Errorf("PHP printed %q, want %q", got, want)
		}
		if <-done; answered != nil {
			t.Error(answered)
		}
	})
}

// answerOrders is the Go side of the program in the guide.
func answerOrders(ctx context.Context, key chanmq.Key) error {
	type Order struct {
		ID    int     `php:"id"`
		Name  string  `php:"name"`
		Price float64 `php:"price"`
	}
	type Answer struct {
		ID    int     `php:"id"`
		Total float64 `php:"total"`
	}

	queue, err := chanmq.Create(key, 0o660)
	if err != nil {
		return err
	}
	defer queue.Close()
	orders := chanmq.As(queue, php.Serialize[Order]())
	answers := chanmq.As(queue, php.Serialize[Answer]())

	m, err := orders.Receive(ctx, chanmq.OfType(1))
	if err != nil {
		return err
	}
	return answers.Send(ctx, 2, Answer{m.Value.ID, m.Value.Price * 1.2})
}

// run is t.Run of a test that docs/interop-matrix.md lists.
func run(t *testing.T, name string, test func(*testing.T)) {
	t.Helper()
	matrix, err := os.ReadFile("../../docs/interop-matrix.md")
	if err != nil {
		t.Fatal(err)
	}
	if full := "`" + t.Name() + "/" + name + "`"; !strings.Contains(string(matrix), full) {
		t.Errorf("docs/interop-matrix.md does not have %s", full)
	}
	t.Run(name, test)
}

func both[T any](t *testing.T, name string, value T) {
	t.Helper()
	sends(t, name, value)
	run(t, "receive/"+name, func(t *testing.T) {
		q := newQueue(t)
		if err := chanmq.As(q, php.Serialize[T]()).Send(deadlineContext(t), 7, value); err != nil {
			t.Fatal(err)
		}
		if got := runPHP(t, "receive.php", q, name); got != "the same" {
			t.Errorf("PHP got %s", got)
		}
	})
}

// sends is the test of a value that PHP sends.
func sends[T any](t *testing.T, name string, want T) {
	t.Helper()
	run(t, "send/"+name, func(t *testing.T) {
		q := newQueue(t)
		runPHP(t, "send.php", q, name)
		m, err := chanmq.As(q, php.Serialize[T]()).Receive(deadlineContext(t), chanmq.Any())
		if err != nil {
			t.Fatal(err)
		}
		if m.Type != 7 || !reflect.DeepEqual(m.Value, want) {
			t.Errorf("got type %d: %#v, want %#v", m.Type, m.Value, want)
		}
	})
}

func deadlineContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	t.Cleanup(cancel)
	return ctx
}

// newQueue creates a queue with an unused key: PHP opens queues by key.
func newQueue(t *testing.T) *chanmq.Queue[[]byte] {
	t.Helper()
	for {
		key := chanmq.Key(rand.Int32() | 1) // never 0
		q, err := chanmq.Create(key, 0o600, chanmq.WithExclusive(), chanmq.WithRemoveOnClose())
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := q.Close(); err != nil {
				t.Error(err)
			}
		})
		return q
	}
}

// runPHP runs a program of testdata and returns its output.
func runPHP(t *testing.T, program string, q *chanmq.Queue[[]byte], args ...string) string {
	t.Helper()
	path, err := exec.LookPath("php")
	if err == nil {
		err = exec.Command(path, "-r", `exit(extension_loaded("sysvmsg") ? 0 : 1);`).Run()
	}
	if err != nil {
		text := "php: not installed, or without sysvmsg (Debian: php-cli): " + err.Error()
		if os.Getenv("CHANMQ_INTEROP") == "require" {
			t.Fatal(text)
		}
		t.Skip(text)
	}
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, append([]string{"-d", "display_errors=stderr",
		filepath.Join("testdata", program), strconv.Itoa(int(q.Key()))}, args...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s: %v\n%s%s", program, err, out, &stderr)
	}
	return strings.TrimSuffix(string(out), "\n")
}
