package format

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// Line is a message as a line of JSON: its text, or, where that is no UTF-8, base64; or
// its members, if it is shown as a C struct.
type Line struct {
	Type   int64           `json:"type"`
	Text   *string         `json:"text,omitempty"`
	Base64 *string         `json:"base64,omitempty"`
	Struct json.RawMessage `json:"struct,omitempty"`
}

// NewLine returns the line of a message.
func NewLine(typ int64, text []byte) Line {
	l := Line{Type: typ}
	if utf8.Valid(text) {
		s := string(text)
		l.Text = &s
	} else {
		s := base64.StdEncoding.EncodeToString(text)
		l.Base64 = &s
	}
	return l
}

// Append appends the line with its end.
func (l Line) Append(dst []byte) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(l); err != nil {
		return dst, err
	}
	return append(dst, b.Bytes()...), nil
}

// ParseLine reads a line that Append wrote. One without a type has the type unless. encode
// makes the text of a struct; nil: there is none to encode.
func ParseLine(line []byte, unless int64, encode func(json.RawMessage) ([]byte, error)) (typ int64, text []byte, err error) {
	l := Line{Type: unless}
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&l); err != nil {
		return 0, nil, fmt.Errorf("not a message in JSON, such as {\"type\":1,\"text\":\"hello\"}: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return 0, nil, errors.New("more than one JSON value in a line")
	}
	given := 0
	if l.Text != nil {
		given++
		text = []byte(*l.Text)
	}
	if l.Base64 != nil {
		given++
		if text, err = base64.StdEncoding.DecodeString(*l.Base64); err != nil {
			return 0, nil, fmt.Errorf("base64: %w", err)
		}
	}
	if l.Struct != nil {
		given++
		if encode == nil {
			return 0, nil, errors.New("the message is a struct: say which, with --struct")
		}
		if text, err = encode(l.Struct); err != nil {
			return 0, nil, err
		}
	}
	if given != 1 {
		return 0, nil, errors.New(`a message has one of "text", "base64" and "struct"`)
	}
	if l.Type < 1 {
		return 0, nil, fmt.Errorf("type %d: types are greater than 0", l.Type)
	}
	return l.Type, text, nil
}
