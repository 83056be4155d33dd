package chanmq_test

import (
	"github.com/chanmq/chanmq/internal/envelope"
)

// packOf returns the text of a pack of the values.
func packOf(values ...[]byte) []byte {
	b := make([]byte, envelope.PackHeader)
	for _, value := range values {
		at := len(b)
		b = append(b, make([]byte, envelope.ValueHeader)...)
		envelope.PutValue(b[at:], len(value))
		b = append(b, value...)
	}
	envelope.PutPack(b, len(values), len(b)-envelope.PackHeader)
	return b
}

// valuesOf returns the values of a pack, or the text, if it is none.
func valuesOf(text []byte) (values [][]byte) {
	n, at, err := envelope.ParsePack(text)
	if err != nil {
		return [][]byte{text}
	}
	for range n {
		var value []byte
		value, at = envelope.NextValue(text, at)
		values = append(values, value)
	}
	return values
}
