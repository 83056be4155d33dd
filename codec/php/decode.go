package php

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strconv"
)

// decoder reads src from pos on. Errors in the format are at pos.
type decoder struct {
	src []byte
	pos int
}

var errSyntax = errors.New("not in the format of serialize()")

// kind returns the letter with which the next value begins, or 0 at the end.
func (d *decoder) kind() byte {
	if d.pos < len(d.src) {
		return d.src[d.pos]
	}
	return 0
}

// skip skips text, which must be next.
func (d *decoder) skip(text string) error {
	if len(d.src)-d.pos < len(text) || string(d.src[d.pos:d.pos+len(text)]) != text {
		return errSyntax
	}
	d.pos += len(text)
	return nil
}

// until returns the text before the byte end, and skips both.
func (d *decoder) until(end byte) (string, error) {
	// No number is longer, so this bounds the search.
	const longest = 512
	rest := d.src[d.pos:min(len(d.src), d.pos+longest)]
	i := bytes.IndexByte(rest, end)
	if i < 0 {
		return "", errSyntax
	}
	d.pos += i + 1
	return string(rest[:i]), nil
}

// count reads a number of items and the colon after it. The rest of the message
// must have at least size bytes for each item.
func (d *decoder) count(size int) (int, error) {
	text, err := d.until(':')
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return 0, errSyntax
	}
	if int64(n)*int64(size) > int64(len(d.src)-d.pos) {
		return 0, fmt.Errorf("%d is more than the message holds", n)
	}
	return int(n), nil
}

// null reads N;
func (d *decoder) null() error { return d.skip("N;") }

// bool reads b:1;
func (d *decoder) bool() (bool, error) {
	if d.skip("b:0;") == nil {
		return false, nil
	}
	return true, d.skip("b:1;")
}

// int reads i:-5;
func (d *decoder) int() (int64, error) {
	if err := d.skip("i:"); err != nil {
		return 0, err
	}
	text, err := d.until(';')
	if err != nil {
		return 0, err
	}
	i, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0, errSyntax
	}
	return i, nil
}

// float reads d:1.5;
func (d *decoder) float() (float64, error) {
	if err := d.skip("d:"); err != nil {
		return 0, err
	}
	text, err := d.until(';')
	if err != nil {
		return 0, err
	}
	switch text {
	case "NAN":
		return math.NaN(), nil
	case "INF":
		return math.Inf(1), nil
	case "-INF":
		return math.Inf(-1), nil
	}
	for _, c := range text {
		// Go accepts more forms of numbers than PHP.
		if (c < '0' || c > '9') && c != '+' && c != '-' && c != '.' && c != 'e' && c != 'E' {
			return 0, errSyntax
		}
	}
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, errSyntax
	}
	return f, nil
}

// text reads 5:"hello", the part that strings and the names of classes share.
func (d *decoder) text() ([]byte, error) {
	n, err := d.count(1)
	if err != nil {
		return nil, err
	}
	if err := d.skip(`"`); err != nil {
		return nil, err
	}
	if n > len(d.src)-d.pos {
		return nil, errSyntax
	}
	text := d.src[d.pos : d.pos+n]
	d.pos += n
	return text, d.skip(`"`)
}

// string reads s:5:"hello"; and returns a part of src.
func (d *decoder) string() ([]byte, error) {
	if err := d.skip("s:"); err != nil {
		return nil, err
	}
	text, err := d.text()
	if err != nil {
		return nil, err
	}
	return text, d.skip(";")
}

// key is a key of an array, or the name of a property.
type key struct {
	isInt bool
	int   int64
	text  []byte // a part of src
}

// name returns the key as the name of a field, or as a key of a map with string keys.
func (k key) name() string {
	if k.isInt {
		return strconv.FormatInt(k.int, 10)
	}
	return string(k.text)
}

// smallest is the size of the shortest entry: i:0;N;
const smallest = 6

// entries reads a:1:{key value}, or an object. It calls each for every entry, with
// d positioned at the value; each must read the value.
func (d *decoder) entries(each func(i int, k key) error) error {
	object := d.kind() == 'O'
	if object {
		if err := d.skip("O:"); err != nil {
			return err
		}
		if _, err := d.text(); err != nil {
			return err
		}
		if err := d.skip(":"); err != nil {
			return err
		}
	} else if err := d.skip("a:"); err != nil {
		return err
	}
	n, err := d.count(smallest)
	if err != nil {
		return err
	}
	if err := d.skip("{"); err != nil {
		return err
	}
	for i := range n {
		k, err := d.key(object)
		if err != nil {
			return err
		}
		if err := each(i, k); err != nil {
			return err
		}
	}
	return d.skip("}")
}

func (d *decoder) key(property bool) (k key, err error) {
	switch d.kind() {
	case 'i':
		k.isInt = true
		k.int, err = d.int()
	case 's':
		if k.text, err = d.string(); property {
			k.text = plainName(k.text)
		}
	default:
		err = errSyntax
	}
	return k, err
}

// plainName returns the name of a property without the prefix of protected and
// private properties: NUL, * or the class, NUL.
func plainName(name []byte) []byte {
	if len(name) > 0 && name[0] == 0 {
		if i := bytes.IndexByte(name[1:], 0); i >= 0 {
			return name[i+2:]
		}
	}
	return name
}

// value reads the next value into v. Nothing of the earlier value remains.
func (d *decoder) value(v reflect.Value, depth int) error {
	if depth > maxDepth {
		return depthError()
	}
	v.SetZero()
	letter := d.kind()
	switch letter {
	case 'N':
		return d.null()
	case 'b', 'i', 'd', 's', 'a', 'O':
	case 'r', 'R':
		return errors.New("a reference (&$x, or the same object twice) has no form in Go")
	case 'E', 'C':
		return errors.New("an enum or an object that serializes itself has no form in Go")
	default:
		return errSyntax
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return d.value(v.Elem(), depth+1)
	case reflect.Interface:
		if v.NumMethod() > 0 {
			return mismatch(letter, v)
		}
		x, err := d.any(depth)
		if err == nil {
			v.Set(reflect.ValueOf(x)) // not nil: that is the letter N
		}
		return err
	}
	if letter == 'a' || letter == 'O' {
		return d.array(v, depth)
	}
	start := d.pos
	err := d.scalar(letter, v)
	if err != nil {
		d.pos = start // where the value that the error is about begins
	}
	return err
}

func (d *decoder) scalar(letter byte, v reflect.Value) error {
	if v.Addr().Type().Implements(textUnmarshaler) {
		return d.unmarshalText(v)
	}
	switch letter {
	case 'b':
		b, err := d.bool()
		if err != nil {
			return err
		}
		if v.Kind() != reflect.Bool {
			return mismatch(letter, v)
		}
		v.SetBool(b)
		return nil
	case 'i':
		i, err := d.int()
		if err != nil {
			return err
		}
		return setInt(v, i)
	case 'd':
		f, err := d.float()
		if err != nil {
			return err
		}
		return setFloat(v, f)
	default:
		s, err := d.string()
		if err != nil {
			return err
		}
		return setString(v, s)
	}
}

func (d *decoder) unmarshalText(v reflect.Value) error {
	if letter := d.kind(); letter != 's' {
		return mismatch(letter, v)
	}
	s, err := d.string()
	if err != nil {
		return err
	}
	return v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(s)
}

func (d *decoder) array(v reflect.Value, depth int) error {
	switch kind := v.Kind(); {
	case v.Addr().Type().Implements(textUnmarshaler):
		return mismatch(d.kind(), v)
	case kind == reflect.Slice && d.kind() == 'a':
		return d.slice(v, depth)
	case kind == reflect.Array && d.kind() == 'a':
		return d.fixed(v, depth)
	case kind == reflect.Map:
		return d.mapping(v, depth)
	case kind == reflect.Struct:
		return d.structure(v, depth)
	}
	return mismatch(d.kind(), v)
}

func (d *decoder) slice(v reflect.Value, depth int) error {
	v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	return d.entries(func(i int, k key) error {
		if err := k.inOrder(i); err != nil {
			return err
		}
		v.Grow(1) // by what was read, not by the announced count
		v.SetLen(i + 1)
		return d.value(v.Index(i), depth+1)
	})
}

func (d *decoder) fixed(v reflect.Value, depth int) error {
	return d.entries(func(i int, k key) error {
		if err := k.inOrder(i); err != nil {
			return err
		}
		if i >= v.Len() {
			return fmt.Errorf("an array of more elements than %v has", v.Type())
		}
		return d.value(v.Index(i), depth+1)
	})
}

// inOrder checks that k is the key of element i of a list.
func (k key) inOrder(i int) error {
	if !k.isInt || k.int != int64(i) {
		return fmt.Errorf("the key %q where a list has %d", k.name(), i)
	}
	return nil
}

func (d *decoder) mapping(v reflect.Value, depth int) error {
	t := v.Type()
	v.Set(reflect.MakeMap(t))
	return d.entries(func(_ int, k key) error {
		mapKey := reflect.New(t.Key()).Elem()
		if err := setKey(mapKey, k); err != nil {
			return err
		}
		elem := reflect.New(t.Elem()).Elem()
		if err := d.value(elem, depth+1); err != nil {
			return err
		}
		v.SetMapIndex(mapKey, elem)
		return nil
	})
}

func setKey(v reflect.Value, k key) error {
	switch kind := v.Kind(); {
	case kind == reflect.String:
		v.SetString(k.name())
		return nil
	case kind == reflect.Interface && v.NumMethod() == 0:
		if k.isInt {
			v.Set(reflect.ValueOf(k.int))
		} else {
			v.Set(reflect.ValueOf(string(k.text)))
		}
		return nil
	case k.isInt && (v.CanInt() || v.CanUint()):
		return setInt(v, k.int)
	}
	return fmt.Errorf("the key %q does not fit %v", k.name(), v.Type())
}

func (d *decoder) structure(v reflect.Value, depth int) error {
	s, err := structTypeOf(v.Type())
	if err != nil {
		return err
	}
	return d.entries(func(_ int, k key) error {
		i, ok := s.byName[k.name()]
		if !ok {
			_, err := d.any(depth + 1)
			return err
		}
		return d.value(v.Field(i), depth+1)
	})
}

// any reads the next value as an interface holds it.
func (d *decoder) any(depth int) (any, error) {
	if depth > maxDepth {
		return nil, depthError()
	}
	switch d.kind() {
	case 'b':
		return d.bool()
	case 'i':
		return d.int()
	case 'd':
		return d.float()
	case 's':
		s, err := d.string()
		return string(s), err
	case 'a', 'O':
		return d.anyArray(depth)
	default: // null, or an error
		var x any
		return nil, d.value(reflect.ValueOf(&x).Elem(), depth)
	}
}

// anyArray reads a list, or a map once a key is not that of a list.
func (d *decoder) anyArray(depth int) (any, error) {
	list := []any{}
	var named map[string]any
	if d.kind() == 'O' {
		named = map[string]any{}
	}
	err := d.entries(func(i int, k key) error {
		if named == nil && k.inOrder(i) != nil {
			named = make(map[string]any)
			for i, x := range list {
				named[strconv.Itoa(i)] = x
			}
		}
		x, err := d.any(depth + 1)
		if named != nil {
			named[k.name()] = x
		} else {
			list = append(list, x)
		}
		return err
	})
	if named != nil {
		return named, err
	}
	return list, err
}

func setInt(v reflect.Value, i int64) error {
	switch {
	case v.CanInt():
		if v.OverflowInt(i) {
			return fmt.Errorf("%d overflows %v", i, v.Type())
		}
		v.SetInt(i)
	case v.CanUint():
		if i < 0 || v.OverflowUint(uint64(i)) {
			return fmt.Errorf("%d overflows %v", i, v.Type())
		}
		v.SetUint(uint64(i))
	case v.CanFloat():
		v.SetFloat(float64(i))
	default:
		return mismatch('i', v)
	}
	return nil
}

func setFloat(v reflect.Value, f float64) error {
	switch {
	case v.CanFloat():
		if v.OverflowFloat(f) {
			return fmt.Errorf("%v overflows %v", f, v.Type())
		}
		v.SetFloat(f)
		return nil
	case v.CanInt(), v.CanUint():
		// The bounds are powers of two, so they are exact. NaN is outside.
		if f != math.Trunc(f) || !(f >= -1<<63 && f < 1<<63) {
			return fmt.Errorf("%v does not fit %v", f, v.Type())
		}
		return setInt(v, int64(f))
	}
	return mismatch('d', v)
}

func setString(v reflect.Value, s []byte) error {
	switch kind := v.Kind(); {
	case kind == reflect.String:
		v.SetString(string(s))
		return nil
	case kind == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8:
		v.SetBytes(append([]byte{}, s...))
		return nil
	case kind == reflect.Array && v.Type().Elem().Kind() == reflect.Uint8:
		if len(s) != v.Len() {
			return fmt.Errorf("a string of %d bytes does not fit %v", len(s), v.Type())
		}
		copy(v.Bytes(), s)
		return nil
	}
	return mismatch('s', v)
}

func mismatch(letter byte, v reflect.Value) error {
	name := map[byte]string{'b': "a bool", 'i': "an int", 'd': "a float", 's': "a string", 'a': "an array", 'O': "an object"}[letter]
	return fmt.Errorf("%s does not fit %v", name, v.Type())
}
