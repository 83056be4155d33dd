package codec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"github.com/chanmq/chanmq/codec"
)

type order struct {
	ID    int            `json:"id"`
	Note  string         `json:"note,omitempty"`
	Items []string       `json:"items,omitempty"`
	Meta  map[string]int `json:"meta,omitempty"`
}

func TestJSONRoundTrip(t *testing.T) {
	earlier := order{1, "earlier", []string{"a", "b"}, map[string]int{"x": 1}}
	roundTrip(t, codec.JSON[order](), order{ID: 7}, earlier, `{"id":7}`)
	roundTrip(t, codec.JSON[order](), order{2, "a\nb", []string{"c"}, map[string]int{"y": 2}}, earlier,
		`{"id":2,"note":"a\nb","items":["c"],"meta":{"y":2}}`)
	roundTrip(t, codec.JSON[*order](), &order{ID: 7}, &earlier, `{"id":7}`)
	roundTrip(t, codec.JSON[*order](), nil, &earlier, `null`)
	roundTrip(t, codec.JSON[map[string]int](), map[string]int{"y": 2}, map[string]int{"x": 1}, `{"y":2}`)
	roundTrip[any](t, codec.JSON[any](), []any{1.5, "x", nil}, "earlier", `[1.5,"x",null]`)
	roundTrip(t, codec.JSON[string](), "x", "earlier", `"x"`)
	roundTrip(t, codec.JSON[json.RawMessage](), json.RawMessage(`{"a":1}`), json.RawMessage(`[1,2,3,4]`), `{"a":1}`)
}

// A consumer may still hold the earlier value, so Decode must not write to what
// that points to.
func TestJSONDecodeDoesNotWriteToTheEarlierValue(t *testing.T) {
	v := order{Items: []string{"a", "b"}, Meta: map[string]int{"x": 1}}
	held := v
	if err := codec.JSON[order]().Decode([]byte(`{"items":["c"],"meta":{"x":2}}`), &v); err != nil {
		t.Fatal(err)
	}
	if held.Items[0] != "a" || held.Meta["x"] != 1 {
		t.Errorf("the earlier value became %+v", held)
	}
}

func TestJSONDecodeErrors(t *testing.T) {
	for _, text := range []string{"", "{", `{"id":7}}`, `{"id":7} {"id":8}`, `{"id":"x"}`, "\x00"} {
		if err := codec.JSON[order]().Decode([]byte(text), new(order)); err == nil {
			t.Errorf("Decode(%q): no error", text)
		}
	}
	if err := codec.JSON[order]().Decode([]byte("{\"id\":7}\n"), new(order)); err != nil {
		t.Errorf("Decode of a value with a trailing newline: %v", err)
	}
}

func TestJSONAppendErrors(t *testing.T) {
	got, err := codec.JSON[float64]().Append([]byte("before"), math.NaN())
	if unsupported := new(json.UnsupportedValueError); !errors.As(err, &unsupported) || string(got) != "before" {
		t.Errorf("Append(NaN) = %q, %v", got, err)
	}
	// The error does not affect the next call.
	roundTrip(t, codec.JSON[float64](), 1.5, 2, "1.5")
}

// shout has its JSON methods on the pointer.
type shout string

func (s *shout) MarshalJSON() ([]byte, error) {
	// The codec is used while a call of it is in progress.
	return codec.JSON[string]().Append(nil, strings.ToUpper(string(*s)))
}

func TestJSONUsesMethodsOfThePointer(t *testing.T) {
	got, err := codec.JSON[shout]().Append(nil, "hey")
	if err != nil || string(got) != `"HEY"` {
		t.Errorf("Append = %q, %v", got, err)
	}
}

func TestJSONFromSeveralGoroutines(t *testing.T) {
	c := codec.JSON[order]()
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			var text []byte
			var v order
			for i := range 200 {
				want := order{ID: g*1000 + i, Note: fmt.Sprint(g)}
				var err error
				if text, err = c.Append(text[:0], want); err != nil {
					t.Error(err)
				}
				if err = c.Decode(text, &v); err != nil || v.ID != want.ID || v.Note != want.Note {
					t.Errorf("Decode = %+v, %v; want %+v", v, err, want)
				}
			}
		})
	}
	wg.Wait()
}
