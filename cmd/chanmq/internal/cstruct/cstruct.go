// Package cstruct reads declarations of C structs and decodes messages with them: the
// members after mtype, at the offsets where a C compiler of this machine has them.
package cstruct

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"strconv"
	"strings"
)

// Limits of what is read, far beyond any message.
const (
	maxSize  = 1 << 24
	maxDepth = 16
)

// Options are how a struct is laid out.
type Options struct {
	Packed bool             // without padding, as __attribute__((packed))
	Order  binary.ByteOrder // nil: that of this machine
}

// Struct is a struct with its layout.
type Struct struct {
	Size    int // without what is behind a flexible array
	align   int
	members []member
	order   binary.ByteOrder
	packed  bool
}

type member struct {
	name   string // "": unnamed padding
	offset int
	dims   []int // lengths of the arrays, outermost first; flexible: the first is -1
	of     typ
}

// typ is the type of a member, or of an array's elements.
type typ struct {
	kind   kind
	size   int
	align  int
	nested *Struct // of kind nested
}

type kind int

const (
	signed kind = iota
	unsigned
	float
	char
	boolean
	nested
)

// Flexible reports whether the struct ends with an array that takes the rest of a message.
func (s *Struct) Flexible() bool {
	n := len(s.members)
	return n > 0 && s.members[n-1].flexible()
}

func (m *member) flexible() bool { return len(m.dims) > 0 && m.dims[0] < 0 }

// hidden reports whether the member is padding, which is not shown.
func (m *member) hidden() bool { return m.name == "" || m.name[0] == '_' }

// size is that of the whole member.
func (m *member) size() int {
	size := m.of.size
	for _, n := range m.dims {
		size *= max(n, 0)
	}
	return size
}

// Parse reads a declaration such as
//
//	i32 id; f64 price; char[16] name
//
// which may also be that of C, with its names of types, comments, and struct NAME { }
// around it.
func Parse(declaration string, o Options) (*Struct, error) {
	tokens, err := scan(declaration)
	if err != nil {
		return nil, err
	}
	p := &parser{tokens: tokens, o: o}
	if o.Order == nil {
		p.o.Order = binary.NativeEndian
	}
	s, err := p.top()
	if err != nil {
		return nil, err
	}
	return s, nil
}

type parser struct {
	tokens []string
	o      Options
	depth  int
}

func (p *parser) peek() string {
	if len(p.tokens) == 0 {
		return ""
	}
	return p.tokens[0]
}

func (p *parser) next() string {
	t := p.peek()
	if len(p.tokens) > 0 {
		p.tokens = p.tokens[1:]
	}
	return t
}

// accept takes the token if it is next.
func (p *parser) accept(token string) bool {
	if p.peek() != token {
		return false
	}
	p.next()
	return true
}

func (p *parser) expect(token, after string) error {
	if got := p.next(); got != token {
		return fmt.Errorf("want %q %s, not %s", token, after, quote(got))
	}
	return nil
}

func quote(token string) string {
	if token == "" {
		return "the end"
	}
	return strconv.Quote(token)
}

// top reads the members alone, or a whole declaration of a struct.
func (p *parser) top() (*Struct, error) {
	whole := false
	for i, t := range p.tokens {
		if t == "{" {
			// struct NAME { members } with nothing before and nothing behind.
			end := len(p.tokens) - 1
			for end > i && p.tokens[end] == ";" {
				end--
			}
			whole = p.tokens[0] == "struct" && i <= 2 && closing(p.tokens, i) == end
			if whole {
				p.tokens = p.tokens[i+1 : end]
			}
			break
		}
	}
	s, err := p.members("")
	if err != nil {
		return nil, err
	}
	if len(s.members) == 0 {
		return nil, fmt.Errorf("the struct has no members; declare some, such as %q", "i32 id; char[16] name")
	}
	return s, nil
}

// closing returns the index of the brace that closes the one at open, or -1.
func closing(tokens []string, open int) int {
	depth := 0
	for i := open; i < len(tokens); i++ {
		switch tokens[i] {
		case "{":
			depth++
		case "}":
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// members reads members up to the token, which it takes, or to the end for "".
func (p *parser) members(end string) (*Struct, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, fmt.Errorf("structs are nested more than %d deep", maxDepth)
	}
	defer func() { p.depth-- }()
	s := &Struct{align: 1, order: p.o.Order, packed: p.o.Packed}
	for {
		for p.accept(";") {
		}
		if p.peek() == end {
			p.next()
			break
		}
		if err := p.member(s); err != nil {
			return nil, err
		}
		if p.peek() != end {
			if err := p.expect(";", "behind a member"); err != nil {
				return nil, err
			}
		}
	}
	for i, m := range s.members {
		if m.flexible() && i < len(s.members)-1 {
			return nil, fmt.Errorf("%s[] takes the rest of the message, so it must be the last member", m.name)
		}
	}
	s.Size = roundUp(s.Size, s.align)
	return s, nil
}

// member reads a type and its declarators.
func (p *parser) member(s *Struct) error {
	of, words, err := p.typeName()
	if err != nil {
		return err
	}
	var dims []int
	name := ""
	if len(words) == 1 { // the declarator's name, which was read with the type
		name = words[0]
	} else if dims, err = p.dims(); err != nil { // char[16] name
		return err
	} else if isName(p.peek()) {
		name = p.next()
	}
	for {
		own, err := p.dims() // name[16]
		if err != nil {
			return err
		}
		if err := p.add(s, member{name: name, dims: append(append([]int(nil), own...), dims...), of: of}); err != nil {
			return err
		}
		if !p.accept(",") {
			return nil
		}
		if name = p.next(); !isName(name) {
			return fmt.Errorf("want a name behind \",\", not %s", quote(name))
		}
	}
}

// typeName reads a type. The name of the first declarator may have been read with it: it
// is returned.
func (p *parser) typeName() (of typ, name []string, err error) {
	if p.accept("struct") {
		if isName(p.peek()) {
			p.next()
		}
		if err := p.expect("{", "behind struct"); err != nil {
			return typ{}, nil, err
		}
		s, err := p.members("}")
		if err != nil {
			return typ{}, nil, err
		}
		if len(s.members) == 0 {
			return typ{}, nil, fmt.Errorf("a struct within the struct has no members")
		}
		if s.Flexible() {
			return typ{}, nil, fmt.Errorf("an array of any length cannot be in a struct within the struct")
		}
		return typ{kind: nested, size: s.Size, align: s.align, nested: s}, nil, nil
	}
	var words []string
	for isName(p.peek()) {
		words = append(words, p.next())
	}
	switch {
	case p.peek() == "*":
		return typ{}, nil, fmt.Errorf("a pointer means nothing in another process; to see its value declare it as u%d", strconv.IntSize)
	case len(words) == 0:
		return typ{}, nil, fmt.Errorf("want a type, not %s", quote(p.peek()))
	}
	if len(words) > 1 && words[0] == "enum" {
		of, _ := lookUp("int")
		return of, words[2:], nil
	}
	// All words are the type, or the last one is the name. "unsigned x" is both a type
	// and a name.
	if of, ok := lookUp(strings.Join(words, " ")); ok {
		return of, nil, nil
	}
	last := len(words) - 1
	if of, ok := lookUp(strings.Join(words[:last], " ")); ok {
		return of, words[last:], nil
	}
	return typ{}, nil, fmt.Errorf("unknown type %q: there are %s, and the types of C", strings.Join(words[:max(last, 1)], " "), knownTypes)
}

// dims reads [16][2].
func (p *parser) dims() ([]int, error) {
	var dims []int
	for p.accept("[") {
		if p.accept("]") {
			dims = append(dims, -1)
			continue
		}
		n, err := strconv.ParseUint(p.peek(), 0, 31)
		if err != nil || n == 0 || n > maxSize {
			return nil, fmt.Errorf("want the length of an array behind \"[\", a number from 1 to %d, not %s", maxSize, quote(p.peek()))
		}
		p.next()
		dims = append(dims, int(n))
		if err := p.expect("]", "behind the length of an array"); err != nil {
			return nil, err
		}
	}
	return dims, nil
}

// add lays the member out behind those that are there.
func (p *parser) add(s *Struct, m member) error {
	for i, n := range m.dims {
		if n < 0 && i > 0 {
			return fmt.Errorf("only the first length of an array can be left out")
		}
	}
	total := m.of.size
	for _, n := range m.dims {
		if total *= max(n, 1); total > maxSize {
			return fmt.Errorf("%s is larger than %d bytes", m.name, maxSize)
		}
	}
	if !m.hidden() {
		for _, other := range s.members {
			if other.name == m.name {
				return fmt.Errorf("two members have the name %q", m.name)
			}
		}
	} else if m.flexible() {
		return fmt.Errorf("an array of any length needs a name")
	}
	align := m.of.align
	if p.o.Packed {
		align = 1
	}
	m.offset = roundUp(s.Size, align)
	s.align = max(s.align, align)
	if s.Size = m.offset + m.size(); s.Size > maxSize {
		return fmt.Errorf("the struct is larger than %d bytes", maxSize)
	}
	s.members = append(s.members, m)
	return nil
}

func roundUp(n, align int) int { return (n + align - 1) / align * align }

const knownTypes = "i8 to i64, u8 to u64, f32, f64, char, bool"

// lookUp returns the type with a name of ours or of C.
func lookUp(name string) (typ, bool) {
	// Doubles and 64-bit integers in structs have 4 bytes of alignment on 386 alone.
	align8 := 8
	if runtime.GOARCH == "386" {
		align8 = 4
	}
	long := strconv.IntSize / 8 // C's long is Go's int
	of := func(k kind, size int) (typ, bool) {
		return typ{kind: k, size: size, align: min(size, align8)}, true
	}
	switch strings.TrimPrefix(strings.TrimPrefix(name, "const "), "volatile ") {
	case "i8", "int8_t", "signed char":
		return of(signed, 1)
	case "i16", "int16_t", "short", "short int", "signed short":
		return of(signed, 2)
	case "i32", "int32_t", "int", "signed", "signed int", "pid_t":
		return of(signed, 4)
	case "i64", "int64_t", "long long", "long long int":
		return of(signed, 8)
	case "long", "long int", "signed long", "ssize_t", "intptr_t", "time_t":
		return of(signed, long)
	case "u8", "uint8_t", "unsigned char", "byte":
		return of(unsigned, 1)
	case "u16", "uint16_t", "unsigned short", "unsigned short int":
		return of(unsigned, 2)
	case "u32", "uint32_t", "unsigned", "unsigned int", "uid_t", "gid_t", "mode_t":
		return of(unsigned, 4)
	case "u64", "uint64_t", "unsigned long long", "unsigned long long int":
		return of(unsigned, 8)
	case "unsigned long", "unsigned long int", "size_t", "uintptr_t":
		return of(unsigned, long)
	case "f32", "float":
		return of(float, 4)
	case "f64", "double":
		return of(float, 8)
	case "char":
		return of(char, 1)
	case "bool", "_Bool":
		return of(boolean, 1)
	}
	return typ{}, false
}

// scan splits a declaration into words and signs, without comments.
func scan(text string) ([]string, error) {
	var tokens []string
	for i := 0; i < len(text); {
		switch c := text[i]; {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case strings.HasPrefix(text[i:], "//"):
			if end := strings.IndexByte(text[i:], '\n'); end >= 0 {
				i += end
			} else {
				i = len(text)
			}
		case strings.HasPrefix(text[i:], "/*"):
			end := strings.Index(text[i+2:], "*/")
			if end < 0 {
				return nil, fmt.Errorf("the comment %.20q does not end", text[i:])
			}
			i += 2 + end + 2
		case strings.IndexByte(";,[]{}*", c) >= 0:
			tokens = append(tokens, text[i:i+1])
			i++
		case isWord(c):
			start := i
			for i < len(text) && isWord(text[i]) {
				i++
			}
			tokens = append(tokens, text[start:i])
		default:
			return nil, fmt.Errorf("unexpected %.10q", text[i:])
		}
	}
	return tokens, nil
}

func isWord(c byte) bool {
	return c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isName(token string) bool {
	return token != "" && isWord(token[0]) && (token[0] < '0' || token[0] > '9') && token != "struct"
}
