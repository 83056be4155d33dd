package codec_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/codec"
)

// roundTrip checks that Append appends text for v, and that Decode returns v again,
// whatever its storage held before.
func roundTrip[T any](t *testing.T, c codec.Codec[T], v, earlier T, text string) {
	t.Helper()
	const before = "before"
	got, err := c.Append([]byte(before), v)
	if err != nil {
		t.Fatalf("Append(%#v): %v", v, err)
	}
	if string(got) != before+text {
		t.Errorf("Append(%#v) = %q, want %q", v, got, before+text)
	}
	src := got[len(before):]
	for name, back := range map[string]T{"a zero value": *new(T), "an earlier value": earlier} {
		if err := c.Decode(src, &back); err != nil {
			t.Fatalf("Decode(%q) into %s: %v", src, name, err)
		}
		clear(src) // Decode must not retain it
		if !reflect.DeepEqual(back, v) {
			t.Errorf("Decode(%q) into %s = %#v, want %#v", text, name, back, v)
		}
		copy(src, text)
	}
}

// wantError checks that err is not nil and contains all parts.
func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", parts)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
}

// wantPanic checks that f panics with a text that contains all parts.
func wantPanic(t *testing.T, f func(), parts ...string) {
	t.Helper()
	defer func() {
		t.Helper()
		text, _ := recover().(string)
		if text == "" {
			t.Fatalf("no panic with a text, want one that says %q", parts)
		}
		wantError(t, errors.New(text), parts...)
	}()
	f()
}

func TestFuncCallsItsFunctions(t *testing.T) {
	errOdd := errors.New("odd")
	c := codec.Func(
		func(dst []byte, v int) ([]byte, error) {
			if v%2 != 0 {
				return dst, errOdd
			}
			return append(dst, byte(v)), nil
		},
		func(src []byte, v *int) error {
			if *v = int(src[0]); *v%2 != 0 {
				return errOdd
			}
			return nil
		})
	roundTrip(t, c, 42, 7, "*")
	if _, err := c.Append(nil, 41); err != errOdd {
		t.Errorf("Append(41): %v, want the error of the function", err)
	}
	if err := c.Decode([]byte{41}, new(int)); err != errOdd {
		t.Errorf("Decode(41): %v, want the error of the function", err)
	}
}

func TestFuncRefusesNil(t *testing.T) {
	ok := codec.Bytes()
	wantPanic(t, func() { codec.Func(nil, ok.Decode) }, "nil")
	wantPanic(t, func() { codec.Func(ok.Append, nil) }, "nil")
}
