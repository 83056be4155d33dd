package natstest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// frame is a control line of the protocol of NATS clients, and the payload if it has one:
// https://docs.nats.io/reference/reference-protocols/nats-protocol
type frame struct {
	op   string   // in capital letters
	args []string // those of the line, but for CONNECT and INFO, whose argument is raw
	raw  []byte   // all of it, as it was read

	// MSG, HMSG, PUB and HPUB only
	header  []byte // with its first line, NATS/1.0
	payload []byte
}

// readFrame reads the next one, from a client or from a server.
func readFrame(r *bufio.Reader) (frame, error) {
	line, err := r.ReadBytes('\n')
	if err != nil {
		return frame{}, err
	}
	op, rest, _ := bytes.Cut(bytes.TrimSpace(line), []byte(" "))
	f := frame{op: strings.ToUpper(string(op)), raw: line}
	switch f.op {
	case "INFO", "CONNECT", "-ERR":
		f.args = []string{string(bytes.TrimSpace(rest))}
		return f, nil
	}
	f.args = strings.Fields(string(rest))
	var names, sizes int // at least so many arguments, and the last ones are sizes
	switch f.op {
	case "PUB":
		names, sizes = 1, 1
	case "HPUB":
		names, sizes = 1, 2
	case "MSG":
		names, sizes = 2, 1
	case "HMSG":
		names, sizes = 2, 2
	default:
		return f, nil
	}
	if len(f.args) < names+sizes {
		return f, fmt.Errorf("natstest: %q has too few arguments", line)
	}
	var header int
	total, err := strconv.Atoi(f.args[len(f.args)-1])
	if err == nil && sizes == 2 {
		header, err = strconv.Atoi(f.args[len(f.args)-2])
	}
	if err != nil || header < 0 || header > total {
		return f, fmt.Errorf("natstest: sizes in %q", line)
	}
	f.args = f.args[:len(f.args)-sizes]
	f.raw = append(line, make([]byte, total+len("\r\n"))...)
	if _, err := io.ReadFull(r, f.raw[len(line):]); err != nil {
		return f, err
	}
	body := f.raw[len(line) : len(line)+total]
	f.header, f.payload = body[:header:header], body[header:total:total]
	return f, nil
}

// withBody returns the frame with another header, which may be empty, and payload.
func (f frame) withBody(header, payload []byte) []byte {
	op := strings.TrimPrefix(f.op, "H")
	sizes := strconv.Itoa(len(payload))
	if len(header) > 0 {
		op = "H" + op
		sizes = fmt.Sprintf("%d %d", len(header), len(header)+len(payload))
	}
	b := fmt.Appendf(nil, "%s %s %s\r\n", op, strings.Join(f.args, " "), sizes)
	b = append(append(b, header...), payload...)
	return append(b, "\r\n"...)
}

// withoutURLs returns an INFO without the addresses of servers, so that clients do not connect
// to them instead. Without any it is as it was.
func (f frame) withoutURLs() []byte {
	var info map[string]json.RawMessage
	if json.Unmarshal([]byte(f.args[0]), &info) != nil || info["connect_urls"] == nil {
		return f.raw
	}
	delete(info, "connect_urls")
	text, err := json.Marshal(info)
	if err != nil {
		return f.raw
	}
	return fmt.Appendf(nil, "INFO %s\r\n", text)
}
