package natstest

import (
	"bufio"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestFrames(t *testing.T) {
	for _, test := range []struct {
		in, op, args, header, payload string
	}{
		{"PING\r\n", "PING", "", "", ""},
		{"+OK\r\n", "+OK", "", "", ""},
		{"-ERR 'Slow  Consumer'\r\n", "-ERR", "'Slow  Consumer'", "", ""},
		{"INFO {\"a\": 1}\r\n", "INFO", "{\"a\": 1}", "", ""},
		{"SUB a.* group 7\r\n", "SUB", "a.*|group|7", "", ""},
		{"PUB a 0\r\n\r\n", "PUB", "a", "", ""},
		{"pub a  b\t3\r\n\r\n1\r\n", "PUB", "a|b", "", "\r\n1"},
		{"HPUB a b 12 13\r\nNATS/1.0\r\n\r\nx\r\n", "HPUB", "a|b", "NATS/1.0\r\n\r\n", "x"},
		{"MSG a 1 2\r\nab\r\n", "MSG", "a|1", "", "ab"},
		{"MSG a 1 r 2\r\nab\r\n", "MSG", "a|1|r", "", "ab"},
		{"HMSG a 1 r 12 12\r\nNATS/1.0\r\n\r\n\r\n", "HMSG", "a|1|r", "NATS/1.0\r\n\r\n", ""},
	} {
		r := bufio.NewReader(strings.NewReader(test.in + "PONG\r\n"))
		f, err := readFrame(r)
		if err != nil {
			t.Errorf("%q: %v", test.in, err)
			continue
		}
		if f.op != test.op || !slices.Equal(f.args, split(test.args)) || string(f.raw) != test.in ||
			string(f.header) != test.header || string(f.payload) != test.payload {
			t.Errorf("%q: %+v", test.in, f)
		}
		if next, err := readFrame(r); err != nil || next.op != "PONG" {
			t.Errorf("after %q: %+v, %v", test.in, next, err)
		}
	}
	for _, in := range []string{
		"MSG\r\n", "PUB a\r\n", "PUB a -1\r\n\r\n", "PUB a x\r\n\r\n", "HPUB a 3 2\r\nxx\r\n", "HMSG a 1 2\r\nab\r\n", "PUB a 3\r\na",
	} {
		if f, err := readFrame(bufio.NewReader(strings.NewReader(in))); err == nil {
			t.Errorf("%q: %+v", in, f)
		}
	}
	if _, err := readFrame(bufio.NewReader(strings.NewReader(""))); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}

func split(args string) []string {
	return strings.FieldsFunc(args, func(r rune) bool { return r == '|' })
}

func TestInfoWithoutURLs(t *testing.T) {
	for in, want := range map[string]string{
		"INFO {\"b\": 1, \"a\":2}\r\n":                     "INFO {\"b\": 1, \"a\":2}\r\n",
		"INFO {\"port\":1,\"connect_urls\":[\"a:1\"]}\r\n": "INFO {\"port\":1}\r\n",
	} {
		f, err := readFrame(bufio.NewReader(strings.NewReader(in)))
		if err != nil {
			t.Fatal(err)
		}
		if got := f.withoutURLs(); !bytes.Equal(got, []byte(want)) {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}
