//go:build linux

package interop_test

import (
	"encoding/hex"
	"fmt"
	"math"
	"os/exec"
	"strings"
	"testing"

	"github.com/chanmq/chanmq/internal/envelope"
	"github.com/chanmq/chanmq/internal/testkit"
)

// TestEnvelope: the readers and writers of docs/envelope.md, in C and in Python, agree with
// Go's in both directions, and refuse what it refuses.
func TestEnvelope(t *testing.T) {
	life := envelope.Life{PID: 4242, PIDNamespace: 4026531836, TimeNamespace: 4026531834, Start: 1 << 40}
	var texts []string
	for _, h := range []envelope.Header{
		{Kind: envelope.Plain},
		{Kind: envelope.Request, CallID: math.MaxUint64, ReplyType: math.MaxInt64, Expiry: 1_800_000_000_000_000_000, WaitsUntil: -7, Life: life},
		{Kind: envelope.Request},
		{Kind: envelope.Reply, CallID: 1 << 40, Expiry: math.MinInt64, Life: life},
		{Kind: envelope.Error, CallID: 4, Expiry: 5, Life: life, Code: math.MaxUint32},
		{Kind: envelope.DeadLetter, Type: math.MaxInt64, Attempts: math.MaxUint32, Reason: "Grüße"},
		{Kind: envelope.DeadLetter, Type: 1},
	} {
		header := string(envelope.Append(nil, &h))
		for _, text := range []string{"", "text", header} {
			texts = append(texts, header+text)
		}
		for n := range len(header) {
			texts = append(texts, header[:n])
		}
		longer := []byte(header + "later")
		longer[6] += 5
		texts = append(texts, string(longer))
	}
	for _, values := range [][]string{{""}, {"one"}, {"one", "", "\xFEcmq", strings.Repeat("x", 300)}} {
		pack := packOf(values...)
		texts = append(texts, pack, pack+"x", pack[:6]+"\x13\x00"+pack[8:14]+"later"+pack[14:])
		for n := range min(len(pack), 30) {
			texts = append(texts, pack[:n])
		}
	}
	texts = append(texts,
		"plain",
		"\xFEcmq\x01\x06\x0e\x00"+"\x00\x00"+"\x00\x00\x00\x00",                // no values
		"\xFEcmq\x01\x06\x0e\x00"+"\x01\x00"+"\x03\x00\x00\x00"+"\x02\x00x",    // less than it says
		"\xFEcmq\x01\x06\x0e\x00"+"\x01\x00"+"\x04\x00\x00\x00"+"\x01\x00xx",   // more
		"\xFEcmq\x01\x06\x0e\x00"+"\x02\x00"+"\x03\x00\x00\x00"+"\x00\x00\x00", // half a length
		"\xFEcmq\x01\x06\x0e\x00"+"\x03\x00"+"\x04\x00\x00\x00"+"\x00\x00\x00\x00",
		"\xFEcmq\x02\x01\x08\x00", "\xFEcmq\x01\x00\x08\x00", "\xFEcmq\x01\x07\x08\x00", "\xFEcmq\x01\x01\xFF\xFF",
		string(envelope.Append(nil, &envelope.Header{Kind: envelope.Request, ReplyType: -1})),
		string(envelope.Append(nil, &envelope.Header{Kind: envelope.DeadLetter, Type: -1})),
		"\xFEcmq\x01\x05\x18\x00"+"\x01\x00\x00\x00\x00\x00\x00\x00"+"\x02\x00\x00\x00"+"\xFF\xFF\xFF\xFF"+"text",
	)
	var input strings.Builder
	var want []string
	for _, text := range texts {
		fmt.Fprintln(&input, hex.EncodeToString([]byte(text)))
		want = append(want, describe([]byte(text)))
	}
	for _, l := range []struct {
		name    string
		command func(t *testing.T) []string
	}{
		{"C", func(t *testing.T) []string { return compile(t, "envelope") }},
		{"Python", func(t *testing.T) []string {
			return []string{tool(t, "python3", "python3"), "testdata/python/envelope.py"}
		}},
	} {
		t.Run(l.name, func(t *testing.T) {
			command := l.command(t)
			cmd := exec.CommandContext(deadlineContext(t), command[0], command[1:]...)
			cmd.Stdin = strings.NewReader(input.String())
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %v", command, err)
			}
			got := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
			if len(got) != len(want) {
				t.Fatalf("%d lines, want %d", len(got), len(want))
			}
			for i := range want {
				if got[i] != want[i] {
					t.Errorf("%x:\ngot  %s\nwant %s", texts[i], got[i], want[i])
				}
			}
		})
	}
	t.Run("guide", func(t *testing.T) { testkit.Quotes(t, "..", "docs/envelope.md", "c", "go", "python") })
}

// describe is what the programs print.
func describe(text []byte) string {
	h, payload, err := envelope.Parse(text)
	switch {
	case !envelope.Begins(text):
		return "none"
	case err != nil:
		return "damaged"
	}
	if h.Kind == envelope.Pack {
		if _, _, err := envelope.ParsePack(text); err != nil {
			return "damaged"
		}
	}
	again := append(envelope.Append(nil, &h), payload...)
	l := h.Life
	return fmt.Sprintf("%d %d %d %d %d %d %d %d %d %d %d %d %d %d %x %x %x", h.Kind, h.CallID, h.ReplyType, h.Expiry, h.WaitsUntil,
		l.PID, l.PIDNamespace, l.TimeNamespace, l.Start, h.Code, h.Type, h.Attempts, h.Values, h.Size, h.Reason, payload, again)
}

// packOf returns a pack of the values.
func packOf(values ...string) string {
	b := make([]byte, envelope.PackHeader)
	for _, value := range values {
		at := len(b)
		b = append(b, make([]byte, envelope.ValueHeader)...)
		envelope.PutValue(b[at:], len(value))
		b = append(b, value...)
	}
	envelope.PutPack(b, len(values), len(b)-envelope.PackHeader)
	return string(b)
}
