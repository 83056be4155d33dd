package watermill_test

import (
	"bytes"
	"maps"
	"strings"
	"testing"

	"github.com/ThreeDotsLabs/watermill/message"

	chanmqwatermill "github.com/chanmq/chanmq/watermill"
)

func TestFrame(t *testing.T) {
	msg := message.NewMessage("id", []byte("text"))
	msg.Metadata["b"] = ""
	msg.Metadata["a"] = "xy"
	text, err := chanmqwatermill.Frame{}.Marshal("", msg)
	if err != nil {
		t.Fatal(err)
	}
	const want = "\xFDwm\x01\x02\x00\x02\x00id" + "\x01\x00\x02\x00\x00\x00axy" + "\x01\x00\x00\x00\x00\x00b" + "text\x00"
	if string(text) != want {
		t.Errorf("text %q, want %q", text, want)
	}
	for _, msg := range []*message.Message{
		msg,
		message.NewMessage("", nil),
		{UUID: strings.Repeat("u", 65535), Payload: bytes.Repeat([]byte{0xFF}, 9000)},
	} {
		text, err := chanmqwatermill.Frame{}.Marshal("", msg)
		if err != nil {
			t.Fatal(err)
		}
		got, err := chanmqwatermill.Frame{}.Unmarshal("", text)
		if err != nil || !got.Equals(msg) {
			t.Errorf("%v of %q, %v", got, text, err)
		}
		for n := range min(len(text), 100) { // none that is cut off is taken for another one
			if got, err := (chanmqwatermill.Frame{}).Unmarshal("", text[:n]); err == nil && !strings.HasSuffix(string(text[:n]), "\x00") {
				t.Errorf("%v of %q", got, text[:n])
			}
		}
	}
	for what, msg := range map[string]*message.Message{
		"UUID": message.NewMessage(strings.Repeat("u", 65536), nil),
		"key":  {Metadata: message.Metadata{strings.Repeat("k", 65536): ""}},
	} {
		if _, err := (chanmqwatermill.Frame{}).Marshal("", msg); err == nil {
			t.Errorf("a %s that is too long has no error", what)
		}
	}
}

// FuzzFrame: what Unmarshal accepts, Marshal makes the same message of; nothing panics.
func FuzzFrame(f *testing.F) {
	f.Add([]byte("\xFDwm\x01\x02\x00\x01\x00id\x01\x00\x02\x00\x00\x00axytext\x00"))
	f.Add([]byte("\xFDwm\x01\x00\x00\xFF\xFF\x00"))
	f.Add([]byte("\xFDwm\x01\x00\x00\x01\x00\xFF\xFF\xFF\xFF\xFF\xFF\x00"))
	f.Fuzz(func(t *testing.T, text []byte) {
		before := bytes.Clone(text)
		msg, err := chanmqwatermill.Frame{}.Unmarshal("", text)
		if !bytes.Equal(text, before) {
			t.Fatal("the text has changed")
		}
		if err != nil {
			return
		}
		again, err := chanmqwatermill.Frame{}.Marshal("", msg)
		if err != nil || len(again) != len(text) {
			t.Fatalf("%q becomes %q, %v", text, again, err)
		}
		back, err := chanmqwatermill.Frame{}.Unmarshal("", again)
		if err != nil || !back.Equals(msg) || !maps.Equal(back.Metadata, msg.Metadata) {
			t.Fatalf("%v becomes %v, %v", msg, back, err)
		}
	})
}
