package cstruct

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Record is a decoded struct: its members in order.
type Record []Member

// Member is a member of a Record. Its value is an int64, a uint64, a float64, a bool, a
// string (of char and char[n]), a Record, or a []any of these.
type Member struct {
	Name  string
	Value any
}

// SizeError is the error of a message that has not the struct's size.
type SizeError struct {
	Got, Want int
	Flexible  bool // Want is the least
	long      int
}

func (e *SizeError) Error() string {
	text := fmt.Sprintf("the message has %d bytes, and the struct %d", e.Got, e.Want)
	if e.Flexible {
		text += " at least"
	}
	if e.Got == e.Want+e.long {
		text += fmt.Sprintf("; the sender may have passed msgsnd the size of the whole struct, with the %d bytes of mtype", e.long)
	}
	return text
}

// Decode returns the members of a message. The message may have the padding that C's
// sizeof(struct with mtype) - sizeof(long) has at the end, or not.
func (s *Struct) Decode(text []byte) (Record, error) {
	if !s.fits(len(text)) {
		return nil, &SizeError{len(text), s.Size, s.Flexible(), strconv.IntSize / 8}
	}
	return s.decode(text), nil
}

func (s *Struct) fits(n int) bool {
	if s.Flexible() {
		return n >= s.flexibleOffset()
	}
	return n == s.Size || !s.packed && n == roundUp(s.Size, strconv.IntSize/8)
}

func (s *Struct) flexibleOffset() int { return s.members[len(s.members)-1].offset }

func (s *Struct) decode(text []byte) Record {
	var r Record
	for _, m := range s.members {
		if m.hidden() {
			continue
		}
		dims := m.dims
		if m.flexible() {
			one := m.of.size
			for _, n := range dims[1:] {
				one *= n
			}
			dims = slices.Clone(dims)
			dims[0] = (len(text) - m.offset) / one
		}
		r = append(r, Member{m.name, s.value(text[m.offset:], dims, m.of)})
	}
	return r
}

// value decodes an array, or a single value if dims is empty.
func (s *Struct) value(text []byte, dims []int, of typ) any {
	if len(dims) == 0 {
		return s.scalar(text, of)
	}
	if len(dims) == 1 && of.kind == char {
		chars := text[:dims[0]]
		if end := bytes.IndexByte(chars, 0); end >= 0 {
			chars = chars[:end]
		}
		if utf8.Valid(chars) {
			return string(chars)
		}
		of.kind = unsigned // as numbers, so that nothing is hidden
	}
	size := of.size
	for _, n := range dims[1:] {
		size *= n
	}
	values := make([]any, dims[0])
	for i := range values {
		values[i] = s.value(text[i*size:], dims[1:], of)
	}
	return values
}

func (s *Struct) scalar(text []byte, of typ) any {
	switch of.kind {
	case nested:
		return of.nested.decode(text[:of.size])
	case boolean:
		return text[0] != 0
	case char:
		if text[0] == 0 {
			return ""
		}
		if text[0] >= utf8.RuneSelf {
			return uint64(text[0])
		}
		return string(text[:1])
	}
	var bits uint64
	switch of.size {
	case 1:
		bits = uint64(text[0])
	case 2:
		bits = uint64(s.order.Uint16(text))
	case 4:
		bits = uint64(s.order.Uint32(text))
	case 8:
		bits = s.order.Uint64(text)
	}
	switch {
	case of.kind == float && of.size == 4:
		return float64(math.Float32frombits(uint32(bits)))
	case of.kind == float:
		return math.Float64frombits(bits)
	case of.kind == signed:
		unused := 64 - 8*of.size
		return int64(bits<<unused) >> unused
	}
	return bits
}

// String is the record as name=value, with strings quoted.
func (r Record) String() string {
	var b strings.Builder
	r.format(&b)
	return b.String()
}

func (r Record) format(b *strings.Builder) {
	for i, m := range r {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(m.Name + "=")
		formatValue(b, m.Value)
	}
}

func formatValue(b *strings.Builder, v any) {
	switch v := v.(type) {
	case Record:
		b.WriteByte('{')
		v.format(b)
		b.WriteByte('}')
	case []any:
		b.WriteByte('[')
		for i, one := range v {
			if i > 0 {
				b.WriteByte(' ')
			}
			formatValue(b, one)
		}
		b.WriteByte(']')
	case string:
		b.WriteString(strconv.Quote(v))
	case float64:
		b.WriteString(strconv.FormatFloat(v, 'g', -1, 64))
	default:
		fmt.Fprint(b, v)
	}
}

// MarshalJSON writes an object with the members in order.
func (r Record) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range r {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Quote(m.Name)) // a name of C
		b.WriteByte(':')
		value, err := marshal(m.Value)
		if err != nil {
			return nil, err
		}
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func marshal(v any) ([]byte, error) {
	switch v := v.(type) {
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) { // JSON has none
			return json.Marshal(strconv.FormatFloat(v, 'g', -1, 64))
		}
	case []any:
		parts := make([][]byte, len(v))
		for i := range v {
			part, err := marshal(v[i])
			if err != nil {
				return nil, err
			}
			parts[i] = part
		}
		return slices.Concat([]byte("["), bytes.Join(parts, []byte(",")), []byte("]")), nil
	}
	return json.Marshal(v)
}

// Encode makes a message of a JSON object with the struct's members. Those that are
// missing are zero; one that the struct has not is an error.
func (s *Struct) Encode(object json.RawMessage) ([]byte, error) {
	text := make([]byte, s.Size)
	if s.Flexible() {
		text = text[:s.flexibleOffset()]
	}
	return s.encode(text, object)
}

// encode writes the object into text, and returns it, longer by a flexible array.
func (s *Struct) encode(text []byte, object json.RawMessage) ([]byte, error) {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%.40s: want an object with the members of the struct", object)
	}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name := t.(string)
		i := slices.IndexFunc(s.members, func(m member) bool { return !m.hidden() && m.name == name })
		if i < 0 {
			return nil, fmt.Errorf("the struct has no member %q", name)
		}
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return nil, err
		}
		m := &s.members[i]
		dims, size := m.dims, m.size()
		if m.flexible() {
			n, err := m.length(value)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			one := m.of.size
			for _, n := range dims[1:] {
				one *= n
			}
			dims = slices.Clone(dims)
			dims[0], size = n, n*one
			text = append(text[:m.offset], make([]byte, size)...)
		}
		if err := s.put(text[m.offset:m.offset+size], dims, m.of, value); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return text, nil
}

// length is how many elements a flexible array has in JSON.
func (m *member) length(value json.RawMessage) (int, error) {
	var chars string
	if m.of.kind == char && len(m.dims) == 1 && json.Unmarshal(value, &chars) == nil {
		return len(chars), nil
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(value, &elements); err != nil {
		return 0, fmt.Errorf("want an array: %w", err)
	}
	return len(elements), nil
}

// put writes a value, or an array of them.
func (s *Struct) put(text []byte, dims []int, of typ, value json.RawMessage) error {
	if len(dims) == 0 {
		return s.putScalar(text, of, value)
	}
	var chars string
	if len(dims) == 1 && of.kind == char && json.Unmarshal(value, &chars) == nil {
		if len(chars) > len(text) {
			return fmt.Errorf("%q has %d bytes, and there is room for %d", chars, len(chars), len(text))
		}
		clear(text[copy(text, chars):])
		return nil
	}
	var elements []json.RawMessage
	if err := json.Unmarshal(value, &elements); err != nil {
		return fmt.Errorf("want an array: %w", err)
	}
	if len(elements) > dims[0] {
		return fmt.Errorf("the array has %d elements, and there is room for %d", len(elements), dims[0])
	}
	if len(dims) == 1 && of.kind == char {
		of.kind = unsigned
	}
	size := of.size
	for _, n := range dims[1:] {
		size *= n
	}
	for i, element := range elements {
		if err := s.put(text[i*size:(i+1)*size], dims[1:], of, element); err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return nil
}

func (s *Struct) putScalar(text []byte, of typ, value json.RawMessage) error {
	if of.kind == nested {
		_, err := of.nested.encode(text[:of.size], value)
		return err
	}
	d := json.NewDecoder(bytes.NewReader(value))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	var bits uint64
	switch v := v.(type) {
	case bool:
		if of.kind != boolean {
			return fmt.Errorf("%v: want %s", v, of.wants())
		}
		if v {
			bits = 1
		}
	case string:
		switch {
		case of.kind == char && len(v) <= 1:
			if v != "" {
				bits = uint64(v[0])
			}
		case of.kind == float: // NaN and the infinities
			f, err := strconv.ParseFloat(v, 8*of.size)
			if err != nil {
				return fmt.Errorf("%q: want %s", v, of.wants())
			}
			bits = floatBits(f, of.size)
		default:
			return fmt.Errorf("%q: want %s", v, of.wants())
		}
	case json.Number:
		var err error
		if bits, err = of.number(v.String()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s: want %s", value, of.wants())
	}
	switch of.size {
	case 1:
		text[0] = byte(bits)
	case 2:
		s.order.PutUint16(text, uint16(bits))
	case 4:
		s.order.PutUint32(text, uint32(bits))
	case 8:
		s.order.PutUint64(text, bits)
	}
	return nil
}

func (of typ) number(text string) (uint64, error) {
	switch of.kind {
	case float:
		f, err := strconv.ParseFloat(text, 8*of.size)
		if err != nil {
			return 0, fmt.Errorf("%s: want %s", text, of.wants())
		}
		return floatBits(f, of.size), nil
	case signed:
		n, err := strconv.ParseInt(text, 10, 8*of.size)
		if err != nil {
			return 0, fmt.Errorf("%s: want %s", text, of.wants())
		}
		return uint64(n), nil
	case unsigned, char:
		n, err := strconv.ParseUint(text, 10, 8*of.size)
		if err != nil {
			return 0, fmt.Errorf("%s: want %s", text, of.wants())
		}
		return n, nil
	}
	return 0, fmt.Errorf("%s: want %s", text, of.wants())
}

func floatBits(f float64, size int) uint64 {
	if size == 4 {
		return uint64(math.Float32bits(float32(f)))
	}
	return math.Float64bits(f)
}

// wants describes the values of the type.
func (of typ) wants() string {
	switch of.kind {
	case signed:
		return fmt.Sprintf("a whole number of %d bits", 8*of.size)
	case unsigned:
		return fmt.Sprintf("a whole number of %d bits that is not negative", 8*of.size)
	case float:
		return "a number"
	case char:
		return "a string of one byte"
	case boolean:
		return "true or false"
	}
	return "an object"
}
