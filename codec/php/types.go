package php

import (
	"encoding"
	"fmt"
	"reflect"
	"sync"
)

// maxDepth is how deep values may nest, including pointers. It bounds the stack
// when a hostile message is decoded, and ends Append for cyclic values.
const maxDepth = 512

func depthError() error { return fmt.Errorf("values nest deeper than %d", maxDepth) }

var (
	textMarshaler   = reflect.TypeFor[encoding.TextMarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// structType describes a struct type to the codec.
type structType struct {
	fields []field
	byName map[string]int // the index into a struct's fields
	err    error          // two fields have the same name
}

type field struct {
	name  string
	index int
}

var structTypes sync.Map // reflect.Type to *structType

func structTypeOf(t reflect.Type) (*structType, error) {
	if s, ok := structTypes.Load(t); ok {
		return s.(*structType), s.(*structType).err
	}
	s := &structType{byName: make(map[string]int)}
	for i := range t.NumField() {
		f := t.Field(i)
		name, tagged := f.Tag.Lookup("php")
		if !f.IsExported() || name == "-" {
			continue
		}
		if !tagged || name == "" {
			name = f.Name
		}
		if other, taken := s.byName[name]; taken {
			s.err = fmt.Errorf("%v has two fields for the key %q: %s and %s", t, name, t.Field(other).Name, f.Name)
		}
		s.byName[name] = i
		s.fields = append(s.fields, field{name, i})
	}
	structTypes.Store(t, s)
	return s, s.err
}
